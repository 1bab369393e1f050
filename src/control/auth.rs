//! Login: SCRAM-SHA-256 with the passwords of the configuration in force, or nothing at all on a loopback address
//! while no user is configured.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::Sink;
use pgwire::api::auth::mechanism::AuthMechanismFactory;
use pgwire::api::auth::sasl::SaslMechanisms;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramAuth, gen_salted_password};
use pgwire::api::auth::{
    AuthDriver, AuthOutcome, AuthSource, LoginInfo, Password, ServerParameterProvider, StartupHandler,
    protocol_negotiation, save_startup_parameters_to_metadata,
};
use pgwire::api::{ClientInfo, METADATA_APPLICATION_NAME, METADATA_DATABASE, METADATA_USER};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::startup::PasswordMessageFamily;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};

use super::frame::is_sasl_initial;
use super::session::{Operator, Session};
use super::{CommandError, nearest};
use crate::config::{Config, ControlRole};
use crate::state::Shared;

/// The one database of the control port.
const DATABASE: &str = "pggit";

/// `server_version`: drivers want a number they know; the commands they would choose by it do not exist here.
const SERVER_VERSION: &str = concat!("15.0 (pggit-proxy ", env!("CARGO_PKG_VERSION"), ")");

#[async_trait]
impl StartupHandler for Session {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let driver = AuthDriver::<_, ()>::new(Parameters);
        let outcome = match message {
            PgWireFrontendMessage::Startup(startup) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                let config = self.shared().config.load_full();
                check_database(client)?;
                if config.control.users.is_empty() {
                    check_loopback(client.socket_addr().ip(), user_of(client))?;
                    AuthOutcome::Authenticated { identity: None, final_message: None }
                } else {
                    let mut scram = ScramAuth::new(Arc::new(Passwords(self.shared().clone())));
                    scram.set_iterations(SCRAM_ITERATIONS);
                    let mechanism = SaslMechanisms::new(vec![Arc::new(scram)]).create();
                    driver.begin_authentication(client, mechanism).await?
                }
            }
            PgWireFrontendMessage::PasswordMessageFamily(message) => {
                let wrong = || wrong_password(user_of(client));
                if let PasswordMessageFamily::Raw(body) = &message
                    && self.is_first_answer()
                    && !is_sasl_initial(&body.clone().freeze())
                {
                    return Err(CommandError::new("08P01", "malformed SASL message").fatal());
                }
                let refused = wrong();
                driver.advance_authentication(client, message).await.map_err(|error| match error {
                    PgWireError::IoError(error) => PgWireError::IoError(error),
                    _ => refused,
                })?
            }
            _ => return Err(CommandError::new("08P01", "expected a password message").fatal()),
        };
        let AuthOutcome::Authenticated { final_message, .. } = outcome else { return Ok(()) };
        let user = user_of(client).to_owned();
        let Some(role) = role_of(&self.shared().config.load(), &user) else { return Err(wrong_password(&user)) };
        if !self.admit(Operator { name: user, role }) {
            return Err(CommandError::new("53300", "sorry, too many sessions on the control port already").fatal());
        }
        driver.complete_authentication(client, final_message).await
    }
}

/// PostgreSQL's words, the same for a user that is not there.
fn wrong_password(user: &str) -> PgWireError {
    tracing::warn!(user, "control: login refused");
    CommandError::new("28P01", format!("password authentication failed for user \"{user}\"")).fatal()
}

fn user_of(client: &impl ClientInfo) -> &str {
    client.metadata().get(METADATA_USER).map_or("", String::as_str)
}

fn check_database(client: &impl ClientInfo) -> PgWireResult<()> {
    let user = user_of(client);
    if user.is_empty() {
        return Err(CommandError::new("28000", "no PostgreSQL user name specified in startup packet").fatal());
    }
    match client.metadata().get(METADATA_DATABASE).map_or(user, String::as_str) {
        DATABASE => Ok(()),
        other => {
            let error = CommandError::new("3D000", format!("database \"{other}\" does not exist"));
            let near = nearest(other, [DATABASE]).map_or("The control port has one database", |_| "Perhaps you meant");
            Err(error.hint(format!("{near}: \"{DATABASE}\".")).fatal())
        }
    }
}

fn check_loopback(peer: IpAddr, user: &str) -> PgWireResult<()> {
    if peer.to_canonical().is_loopback() {
        return Ok(());
    }
    tracing::warn!(user, %peer, "control: login refused, no users are configured");
    Err(CommandError::new("28000", "the control port has no users, so it is open on loopback addresses only")
        .hint("Add [[control.users]] to the configuration.")
        .fatal())
}

fn role_of(config: &Config, user: &str) -> Option<ControlRole> {
    if config.control.users.is_empty() {
        return Some(ControlRole::Admin);
    }
    config.control.users.iter().find(|known| known.name == user).map(|known| known.role)
}

/// Looks passwords up in the configuration in force. Every login gets its own salt, so a user that is not there
/// looks and takes just like one that is.
struct Passwords(Arc<Shared>);

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

#[async_trait]
impl AuthSource for Passwords {
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        let mut random = [0; 48];
        getrandom::fill(&mut random)
            .map_err(|error| CommandError::new("XX000", format!("no random numbers: {error}")).fatal())?;
        let (salt, nobody) = random.split_at(16);
        let config = self.0.config.load();
        let known = config.control.users.iter().find(|user| Some(user.name.as_str()) == login.user());
        let salted = match known {
            Some(user) => gen_salted_password(&user.password.0, salt, SCRAM_ITERATIONS),
            None => {
                let text: String = nobody.iter().map(|byte| format!("{byte:02x}")).collect();
                gen_salted_password(&text, salt, SCRAM_ITERATIONS)
            }
        };
        Ok(Password::new(Some(salt.to_vec()), salted))
    }
}

/// What drivers expect to be told after login.
struct Parameters;

impl ServerParameterProvider for Parameters {
    fn server_parameters<C: ClientInfo>(&self, client: &C) -> Option<HashMap<String, String>> {
        let application = client.metadata().get(METADATA_APPLICATION_NAME).map_or("", String::as_str);
        let all = [
            ("server_version", SERVER_VERSION),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("application_name", application),
            ("session_authorization", user_of(client)),
            ("is_superuser", "off"),
            ("in_hot_standby", "off"),
            ("default_transaction_read_only", "off"),
            ("DateStyle", "ISO, YMD"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ];
        Some(all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
