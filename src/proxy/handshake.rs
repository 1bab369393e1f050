//! From the first byte of a client to a connected server: start-up packet, branch, server connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::transport::Transport;
use super::upstream::Address;
use super::{Relay, refuse};
use crate::branch::{Carriers, GUARDED, Route, take_branch_option};
use crate::change::SessionFacts;
use crate::session::Session;
use crate::state::{Client, Full, Life, Most, Shared};
use crate::telemetry::{Connection, Side};
use crate::wire::error::Text;
use crate::wire::startup::{self, Bad, First, Startup};

const SHUTTING_DOWN: &str = "terminating connection due to administrator command";

/// A client and its server, ready to be relayed.
pub(super) struct Link {
    pub client: Transport,
    pub server: Transport,
    pub session: Session,
    pub facts: Arc<SessionFacts>,
    pub place: Arc<Client>,
    pub address: Address,
    /// What the client gets in place of the server's cancel secret.
    pub secret: [u8; 32],
    /// The start-up packet for the server, as yet unsent.
    pub packet: Vec<u8>,
}

/// Why a client gets no session.
struct Farewell {
    sqlstate: &'static str,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    result: Connection,
    side: Side,
}

/// Answers requests for encryption, carries a cancel request, or starts a session: `None` when there is none.
pub(super) async fn run(
    relay: &Relay,
    place: Option<Arc<Client>>,
    mut client: Transport,
    peer: Option<SocketAddr>,
    deadline: Instant,
) -> io::Result<Option<Link>> {
    let first = tokio::select! {
        biased;
        first = tokio::time::timeout_at(deadline.into(), read_first(&mut client)) => match first {
            Ok(first) => first?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no start-up packet in time")),
        },
        () = super::too_late(&relay.shared) => return Ok(None),
    };
    let metrics = &relay.shared.metrics;
    let farewell = match first {
        None => return Ok(None),
        Some(Ok(First::Cancel { pid, secret })) => {
            metrics.connection(Connection::Cancel);
            // A key that is nobody's gets the same answer: none.
            if let Some(target) = relay.cancels.find(pid, &secret) {
                // A server that hangs must not keep us waiting with it.
                tokio::time::timeout(target.address.timeout(), target.cancel()).await??;
            }
            return Ok(None);
        }
        Some(Ok(First::Startup(startup))) => match start(relay, place, startup, peer, deadline).await {
            Ok((place, start)) => return Ok(Some(start.link(client, place))),
            Err(farewell) => farewell,
        },
        Some(Ok(First::Ssl | First::Gssenc)) => return Ok(None),
        // As the server does: what has not even a start-up packet's length gets no answer.
        Some(Err(Bad::Length)) => {
            metrics.connection(Connection::Protocol);
            return Ok(None);
        }
        Some(Err(bad @ Bad::Layout)) => Farewell::protocol("08P01", &bad),
        Some(Err(bad @ Bad::Version(_))) => Farewell::protocol("0A000", &bad),
    };
    metrics.connection(farewell.result);
    metrics.error(farewell.side);
    refuse::say(&mut client, farewell.text()).await;
    Ok(None)
}

/// The first packet that is no request for encryption. Those are answered `N`, each once; asked for again they are
/// protocol versions that nobody speaks, as for the server.
async fn read_first(client: &mut Transport) -> io::Result<Option<Result<First, Bad>>> {
    let (mut asked_tls, mut asked_gss) = (false, false);
    loop {
        let mut word = [0; 4];
        if let Err(error) = client.read_exact(&mut word).await {
            let nothing = error.kind() == io::ErrorKind::UnexpectedEof;
            return if nothing { Ok(None) } else { Err(error) };
        }
        let length = match startup::length(word) {
            Ok(length) => length,
            Err(bad) => return Ok(Some(Err(bad))),
        };
        let mut packet = vec![0; length - 4];
        client.read_exact(&mut packet).await?;
        let (asked, code) = match startup::read(&packet) {
            Ok(First::Ssl) => (&mut asked_tls, startup::SSL_REQUEST),
            Ok(First::Gssenc) => (&mut asked_gss, startup::GSSENC_REQUEST),
            first => return Ok(Some(first)),
        };
        if std::mem::replace(asked, true) {
            return Ok(Some(Err(Bad::Version(code))));
        }
        client.write_all(b"N").await?;
    }
}

/// A session whose server is connected.
struct Start {
    server: Transport,
    facts: Arc<SessionFacts>,
    application: String,
    address: Address,
    replication: bool,
    packet: Vec<u8>,
}

impl Start {
    fn link(self, client: Transport, place: Arc<Client>) -> Link {
        let mut secret = [0; 32];
        // Without random numbers no key is ours to give: the client's cancel requests then find nothing.
        let _ = getrandom::fill(&mut secret);
        Link {
            session: Session::new(self.facts.clone(), self.application, secret, self.replication, Instant::now()),
            client,
            server: self.server,
            facts: self.facts,
            place,
            address: self.address,
            secret,
            packet: self.packet,
        }
    }
}

async fn start(
    relay: &Relay,
    place: Option<Arc<Client>>,
    mut startup: Startup,
    peer: Option<SocketAddr>,
    deadline: Instant,
) -> Result<(Arc<Client>, Start), Farewell> {
    let shared = &relay.shared;
    let Some(place) = place else { return Err(Farewell::too_many()) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let Some(user) = startup.parameter("user").filter(|user| !user.is_empty()).map(text) else {
        return Err(Farewell::client("28000", "no PostgreSQL user name specified in startup packet".into()));
    };

    let carriers = take_carriers(&mut startup, &user)?;
    let route = shared.branches.load().resolve(&carriers).map_err(|error| Farewell {
        detail: None,
        hint: Some(error.hint()),
        result: Connection::NoBranch,
        ..Farewell::client(error.sqlstate(), error.to_string())
    })?;
    if let Route::Branch(branch) = &route {
        startup.set("database", branch.database.as_bytes());
    }
    let facts = Arc::new(SessionFacts {
        id: Uuid::now_v7(),
        user,
        database: route.database().to_owned(),
        branch: route.branch().map(str::to_owned),
        client_addr: peer.map(|peer| peer.ip()),
        client_port: peer.map_or(0, |peer| peer.port()),
    });
    startup.set("pggit.session", facts.id.to_string());
    startup.set("pggit.client", peer.map_or_else(|| "[local]".to_owned(), |peer| peer.to_string()));
    startup.set("pggit.timeout", format!("{}ms", shared.config.load().history.timeout.as_millis()));
    if let Some(branch) = &facts.branch {
        startup.set("pggit.branch", branch.as_bytes());
    }
    let packet = startup.to_packet().map_err(|bad| Farewell::protocol("08P01", &bad))?;
    shared.clients.quota.has_room(&facts.user, facts.branch.as_deref(), most(shared)).map_err(|full| Farewell {
        result: Connection::TooMany,
        ..Farewell::client("53300", too_many(full, &facts))
    })?;
    let _ = place.facts.set(facts.clone());
    wait_for_resume(shared, deadline).await?;

    let config = shared.config.load();
    let address = Address::of(&config.upstream, config.limits.tcp);
    drop(config);
    let began = Instant::now();
    let connected = address.connect().await;
    let branch = facts.branch.as_deref();
    shared.metrics.server_connected(branch, connected.is_ok().then(|| began.elapsed()));
    let server = connected.map_err(|error| {
        tracing::warn!(%error, session = %facts.id, "cannot connect to the server");
        Farewell::unreachable(error.kind())
    })?;
    let _ = place.server.set(address.to_string().into());
    Ok((
        place,
        Start {
            server,
            application: startup.parameter("application_name").map(text).unwrap_or_default(),
            replication: startup.parameter("replication").is_some_and(asks_for_replication),
            facts,
            address,
            packet,
        },
    ))
}

/// How many clients may be there of one user and of one branch.
pub(super) fn most(shared: &Shared) -> Most {
    let limits = &shared.config.load().limits;
    Most { per_user: limits.max_clients_per_user, per_branch: limits.max_clients_per_branch }
}

/// In the words that the server has for its own limits on roles and databases.
pub(super) fn too_many(full: Full, facts: &SessionFacts) -> String {
    match full {
        Full::User => format!("too many connections for role \"{}\"", facts.user),
        Full::Branch => {
            format!("too many connections for branch \"{}\"", facts.branch.as_deref().unwrap_or_default())
        }
    }
}

/// While clients are held (`PAUSE`), newcomers wait here: the server is not even connected to.
async fn wait_for_resume(shared: &Shared, deadline: Instant) -> Result<(), Farewell> {
    if !shared.clients.pause.is_on() {
        return Ok(());
    }
    let mut life = shared.life.subscribe();
    tokio::select! {
        biased;
        () = shared.clients.pause.over() => Ok(()),
        _ = life.wait_for(|life| *life > Life::Serving) => {
            Err(Farewell { side: Side::Proxy, ..Farewell::client("57P01", SHUTTING_DOWN.into()) })
        }
        () = tokio::time::sleep_until(deadline.into()) => Err(Farewell {
            detail: Some("PAUSE was said on its control port.".into()),
            side: Side::Proxy,
            ..Farewell::client("57P03", "the proxy is paused".into())
        }),
    }
}

/// Takes what names the branch out of the start-up packet. The settings that only the proxy may set are refused.
fn take_carriers(startup: &mut Startup, user: &str) -> Result<Carriers, Farewell> {
    let forbidden = |name: &str| Farewell::client("42501", format!("permission denied to set parameter \"{name}\""));
    for name in GUARDED {
        if startup.take(name).is_some() {
            return Err(forbidden(name));
        }
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let mut carriers = Carriers {
        parameter: startup.take("pggit.branch").map(text),
        database: startup
            .parameter("database")
            .filter(|name| !name.is_empty())
            .map_or_else(|| user.to_owned(), |name| text(name.to_vec())),
        options: None,
    };
    if let Some(options) = startup.parameter("options") {
        let found = take_branch_option(options);
        if let Some(name) = found.guarded {
            return Err(forbidden(name));
        }
        if found.branch.is_some() {
            carriers.options = found.branch;
            startup.set("options", found.rest);
        }
    }
    Ok(carriers)
}

fn asks_for_replication(value: &[u8]) -> bool {
    !matches!(value.to_ascii_lowercase().as_slice(), b"" | b"0" | b"f" | b"false" | b"n" | b"no" | b"off")
}

impl Farewell {
    fn client(sqlstate: &'static str, message: String) -> Self {
        Self { sqlstate, message, detail: None, hint: None, result: Connection::Protocol, side: Side::Client }
    }

    fn protocol(sqlstate: &'static str, bad: &Bad) -> Self {
        Self::client(sqlstate, bad.to_string())
    }

    fn too_many() -> Self {
        Self {
            detail: Some("The proxy's listen.max_clients is reached.".into()),
            result: Connection::TooMany,
            ..Self::client("53300", "sorry, too many clients already".into())
        }
    }

    fn unreachable(kind: io::ErrorKind) -> Self {
        Self {
            detail: Some(format!("The proxy could not connect to it: {kind}.")),
            result: Connection::ServerUnreachable,
            side: Side::Server,
            ..Self::client("08006", "could not connect to the PostgreSQL server".into())
        }
    }

    fn text(&self) -> Text<'_> {
        Text {
            sqlstate: self.sqlstate,
            message: &self.message,
            detail: self.detail.as_deref(),
            hint: self.hint.as_deref().filter(|hint| !hint.is_empty()),
        }
    }
}
