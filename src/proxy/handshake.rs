//! From the first byte of a client to a connected server: start-up packet, branch, server connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::login::{self, Proof, Stop};
use super::stream::Stream;
use super::transport::Transport;
use super::upstream::{self, Address, NoServer};
use super::{Relay, foreign, gate, on_demand, refuse};
use crate::branch::{Carriers, GUARDED, Route, RouteError, take_branch_option};
use crate::change::{Reroute, SessionFacts};
use crate::config::{ListenTls, TlsMode};
use crate::policy::{CANNOT_REROUTE, Who};
use crate::session::Session;
use crate::state::{Client, ClientState, Full, Most, Shared};
use crate::telemetry::{Connection, Side};
use crate::wire::error::Text;
use crate::wire::startup::{self, Bad, First, Startup};

/// A client and its server, ready to be relayed.
pub(super) struct Link {
    pub client: Stream,
    pub server: Stream,
    pub session: Session,
    pub facts: Arc<SessionFacts>,
    pub place: Arc<Client>,
    pub address: Address,
    /// What the client gets in place of the server's cancel secret.
    pub secret: [u8; 32],
    /// The start-up packet for the server, as yet unsent; empty where it was sent.
    pub packet: Vec<u8>,
    /// What the server has answered to it so far.
    pub greeting: Vec<u8>,
    /// What it takes to log in as the same user again.
    pub identity: Arc<Identity>,
    /// The client is one of ours, with one statement that a rule sent here.
    pub is_errand: bool,
}

/// Who a client is, for other connections to the server.
pub(super) struct Identity {
    /// The start-up packet, as it went to the server.
    pub packet: Box<[u8]>,
    /// Where the proxy asked for a proof itself.
    pub proof: Option<Proof>,
}

/// Why a client gets no session.
pub(super) struct Farewell {
    pub sqlstate: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub result: Connection,
    pub side: Side,
}

/// A request for encryption, where a version would stand.
fn is_request(version: u32) -> bool {
    matches!(version, startup::SSL_REQUEST | startup::GSSENC_REQUEST)
}

/// Whoever says nothing must cost little: what is awaited for those who have said who they are is behind pointers.
///
/// Answers requests for encryption, carries a cancel request, or starts a session: `None` when there is none.
pub(super) async fn run(
    relay: &Relay,
    place: Option<Arc<Client>>,
    client: Transport,
    peer: Option<SocketAddr>,
    deadline: Instant,
) -> io::Result<Option<Box<Link>>> {
    // As it was when the client came: its certificate is the one that a login is bound to.
    let tls = relay.shared.config.load().listen.tls.clone();
    let (mut client, first) = tokio::select! {
        biased;
        first = tokio::time::timeout_at(deadline.into(), read_first(client, &tls)) => match first {
            Ok(Ok(first)) => first,
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    relay.shared.metrics.connection(Connection::Protocol);
                    relay.shared.metrics.error(Side::Client);
                }
                return Err(error);
            }
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "no start-up packet in time")),
        },
        () = super::too_late(&relay.shared) => return Ok(None),
    };
    let metrics = &relay.shared.metrics;
    let farewell = match first {
        None => {
            refuse::leave(&mut client).await;
            return Ok(None);
        }
        Some(Ok(First::Cancel { pid, secret })) => {
            metrics.connection(Connection::Cancel);
            // A key that is nobody's gets the same answer: none.
            // Nor has a session that is held anything to cancel: what it is asked then is asked by us.
            if let Some(target) = relay.cancels.find(pid, &secret)
                && !target.place.cancel_waiting()
                && target.place.client_state() != ClientState::Held
            {
                // A server that hangs must not keep us waiting with it.
                tokio::time::timeout(target.timeout(), Box::pin(target.cancel())).await??;
            }
            refuse::leave(&mut client).await;
            return Ok(None);
        }
        Some(Ok(First::Startup(startup))) => {
            match Box::pin(log_in(relay, place, &mut client, &tls, startup, peer, deadline)).await? {
                Ok((place, start)) => return Ok(Some(Box::new(start.link(client, place)))),
                Err(farewell) => farewell,
            }
        }
        Some(Ok(First::Ssl | First::Gssenc)) => return Ok(None),
        // As the server does: what has not even a start-up packet's length gets no answer.
        Some(Err(Bad::Length)) => {
            metrics.connection(Connection::Protocol);
            refuse::leave(&mut client).await;
            return Ok(None);
        }
        Some(Err(bad @ Bad::Unencrypted(_))) => Farewell {
            detail: Some(
                "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."
                    .into(),
            ),
            ..Farewell::protocol("08P01", &bad)
        },
        Some(Err(bad @ Bad::Layout)) => Farewell::protocol("08P01", &bad),
        Some(Err(Bad::Version(version))) if !is_request(version) => {
            metrics.connection(Connection::Protocol);
            metrics.error(Side::Client);
            let answered = Box::pin(foreign::answer(&relay.shared, &mut client, version));
            tokio::time::timeout_at(deadline.into(), answered).await??;
            return Ok(None);
        }
        Some(Err(bad @ Bad::Version(_))) => Farewell::protocol("0A000", &bad),
    };
    metrics.connection(farewell.result);
    if farewell.result == Connection::AuthFailed {
        metrics.auth_failure(farewell.sqlstate);
    }
    metrics.error(farewell.side);
    Box::pin(refuse::say(&mut client, farewell.text())).await;
    Ok(None)
}

/// From the start-up packet to a connected server, where the client is let in.
async fn log_in(
    relay: &Relay,
    place: Option<Arc<Client>>,
    client: &mut Stream,
    tls: &ListenTls,
    startup: Startup,
    peer: Option<SocketAddr>,
    deadline: Instant,
) -> io::Result<Result<(Arc<Client>, Start), Farewell>> {
    if let (Some(place), Some(version)) = (&place, client.tls_version()) {
        let _ = place.tls.set(version);
    }
    if let Err(farewell) = is_welcome(client, tls, &startup) {
        return Ok(Err(farewell));
    }
    let (place, mut start) = match start(relay, place, startup, peer, deadline).await {
        Ok(started) => started,
        Err(farewell) => return Ok(Err(farewell)),
    };
    let binding = tls.ready.as_ref().and_then(|ready| ready.binding.as_deref());
    let login = login::run(relay, client, binding, &mut start);
    let mut ended = match tokio::time::timeout_at(deadline.into(), login).await {
        Ok(ended) => ended,
        Err(_) => Err(Stop::Farewell(Farewell::login_timeout())),
    };
    if ended.is_ok()
        && let Some(branch) = start.makes.take()
    {
        ended = Box::pin(on_demand::run(relay, &place, client, &mut start, branch, deadline)).await;
    }
    match ended {
        Ok(()) => Ok(Ok((place, start))),
        Err(Stop::Gone(error)) => Err(error),
        Err(Stop::Farewell(farewell)) => Ok(Err(farewell)),
    }
}

/// The connection, encrypted where the client asked for it and may have it, and the first packet that is no request for
/// encryption. Other requests are answered `N`, each once; asked for again they are protocol versions that nobody speaks,
/// as for the server.
async fn read_first(client: Transport, tls: &ListenTls) -> io::Result<(Stream, Option<Result<First, Bad>>)> {
    // As with the server, there is none over a unix socket.
    let ready = tls.ready.as_ref().filter(|_| matches!(client, Transport::Tcp(_)));
    let mut client = Stream::Plain(client);
    let (mut asked_tls, mut asked_gss) = (false, false);
    loop {
        let mut word = [0; 4];
        if let Err(error) = client.read_exact(&mut word).await {
            let nothing = error.kind() == io::ErrorKind::UnexpectedEof;
            return if nothing { Ok((client, None)) } else { Err(error) };
        }
        client = match (client, ready) {
            (Stream::Plain(plain), Some(ready)) if word[0] == crate::tls::HANDSHAKE && !asked_tls && !asked_gss => {
                // Within it there is no other TLS, which may be asked for all the same.
                client = Box::pin(crate::tls::accept(plain, ready, &word)).await?;
                continue;
            }
            (client, _) => client,
        };
        let length = match startup::length(word) {
            Ok(length) => length,
            Err(bad) => return Ok((client, Some(Err(bad)))),
        };
        let mut packet = vec![0; length - 4];
        if let Err(error) = client.read_exact(&mut packet).await {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                refuse::leave(&mut client).await;
            }
            return Err(error);
        }
        let (asked, code) = match startup::read(&packet) {
            Ok(First::Ssl) => (&mut asked_tls, startup::SSL_REQUEST),
            Ok(First::Gssenc) => (&mut asked_gss, startup::GSSENC_REQUEST),
            first => return Ok((client, Some(first))),
        };
        if std::mem::replace(asked, true) {
            return Ok((client, Some(Err(Bad::Version(code)))));
        }
        client = match (client, ready) {
            (Stream::Plain(mut plain), Some(ready)) if code == startup::SSL_REQUEST => {
                // What came before the answer was not encrypted, whoever sent it.
                if plain.has_unread() {
                    return Ok((Stream::Plain(plain), Some(Err(Bad::Unencrypted(code)))));
                }
                asked_gss = true;
                plain.write_all(b"S").await?;
                Box::pin(crate::tls::accept(plain, ready, &[])).await?
            }
            (mut client, _) => {
                // As the server does: whoever asks waits for the answer.
                let hasty = matches!(&client, Stream::Plain(plain) if plain.has_unread());
                client.write_all(b"N").await?;
                if hasty {
                    return Ok((client, Some(Err(Bad::Unencrypted(code)))));
                }
                client
            }
        };
    }
}

/// Whether a client that came this way may log in as this user.
fn is_welcome(client: &Stream, tls: &ListenTls, startup: &Startup) -> Result<(), Farewell> {
    if tls.mode == TlsMode::Require && matches!(client, Stream::Plain(Transport::Tcp(_))) {
        return Err(Farewell {
            hint: Some("Connect with sslmode=require.".into()),
            result: Connection::AuthFailed,
            ..Farewell::client("28000", "connections without TLS are not accepted".into())
        });
    }
    let user = startup.parameter("user").unwrap_or_default();
    let name = client.peer_certificate().filter(|_| tls.user_from_certificate);
    match name.map(|certificate| crate::tls::clients::common_name(certificate)) {
        Some(name) if name.as_ref().is_none_or(|name| name.as_bytes() != user) => {
            let user = String::from_utf8_lossy(user);
            Err(Farewell {
                result: Connection::AuthFailed,
                ..Farewell::client("28000", format!("certificate authentication failed for user \"{user}\""))
            })
        }
        _ => Ok(()),
    }
}

/// A session whose server is connected.
pub(super) struct Start {
    pub server: Stream,
    pub facts: Arc<SessionFacts>,
    application: String,
    pub address: Address,
    replication: bool,
    pub packet: Vec<u8>,
    pub greeting: Vec<u8>,
    pub proof: Option<Proof>,
    /// `packet`, which is gone once it is sent.
    pub said: Box<[u8]>,
    /// The branch to be made, and moved to, once the client has logged in.
    makes: Option<String>,
}

impl Start {
    fn link(self, client: Stream, place: Arc<Client>) -> Link {
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
            greeting: self.greeting,
            identity: Arc::new(Identity { packet: self.said, proof: self.proof }),
            is_errand: false,
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

    let failures = shared.config.load().auth.max_failures;
    if let Some(address) = peer.map(|peer| peer.ip()).filter(|address| relay.logins.too_many(*address, failures)) {
        return Err(Farewell {
            hint: Some("It may try again in a minute.".into()),
            result: Connection::AuthFailed,
            ..Farewell::client("28000", format!("too many failed logins from {address}"))
        });
    }
    let carriers = take_carriers(&mut startup, &user)?;
    let application = startup.parameter("application_name").map(text).unwrap_or_default();
    let replication = startup.parameter("replication").is_some_and(asks_for_replication);
    let who = Who { branch: None, user: &user, application: &application, client: peer.map(|peer| peer.ip()) };
    let (route, rerouted, makes) = match shared.branches.load().resolve(&carriers) {
        Ok(route) => {
            let (route, rerouted) = detour(shared, route, who)?;
            (route, rerouted, None)
        }
        Err(error) => match on_demand::wanted(shared, &error, who) {
            Some((default, makes)) if !replication => (Route::Branch(default), None, Some(makes)),
            _ => return Err(Farewell::no_route(&error)),
        },
    };
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
        rerouted,
    });
    startup.set("pggit.session", facts.id.to_string());
    startup.set("pggit.client", peer.map_or_else(|| "[local]".to_owned(), |peer| peer.to_string()));
    startup.set("pggit.timeout", format!("{}ms", shared.config.load().history.timeout.as_millis()));
    if let Some(branch) = &facts.branch {
        startup.set("pggit.branch", branch.as_bytes());
    }
    if let Some(rerouted) = &facts.rerouted {
        startup.set("pggit.rerouted_from", rerouted.from.as_bytes());
    }
    let packet = startup.to_packet().map_err(|_| Farewell {
        detail: Some("The proxy adds its settings to the packet, and the server takes 10000 bytes in all.".into()),
        hint: Some("Shorten the options, the application name or other parameters by some 200 bytes.".into()),
        ..Farewell::client("08P01", "the start-up packet leaves no room for the proxy's settings".into())
    })?;
    let goes_to = makes.as_deref().or(facts.branch.as_deref());
    shared.clients.quota.has_room(&facts.user, goes_to, most(shared)).map_err(|full| Farewell {
        result: Connection::TooMany,
        ..Farewell::client("53300", too_many(full, &facts))
    })?;
    place.facts.store(Some(facts.clone()));
    gate::pass(shared, &place, &facts.database, deadline).await?;

    let began = Instant::now();
    let Ok(connected) = tokio::time::timeout_at(deadline.into(), upstream::reach(shared)).await else {
        return Err(Farewell { side: Side::Server, ..Farewell::login_timeout() });
    };
    let branch = facts.branch.as_deref();
    shared.metrics.server_connected(branch, connected.is_ok().then(|| began.elapsed()));
    let (address, server) = connected.map_err(|error| match error {
        NoServer::Io(error) => {
            tracing::warn!(%error, session = %facts.id, "cannot connect to the server");
            Farewell::unreachable(error.kind())
        }
        NoServer::NoneWillDo(why) => {
            tracing::warn!(why, session = %facts.id, "no host of the server will do");
            let wanted = shared.config.load().upstream.target_session_attrs.as_str();
            Farewell {
                detail: Some(format!("None of its hosts is what target_session_attrs = \"{wanted}\" asks for.")),
                ..Farewell::unreachable(io::ErrorKind::NotFound)
            }
        }
    })?;
    place.server.store(Some(Arc::new(address.to_string())));
    Ok((
        place,
        Start {
            server,
            application,
            replication,
            facts,
            address,
            said: packet.clone().into(),
            packet,
            greeting: Vec::new(),
            proof: None,
            makes,
        },
    ))
}

/// Where the rules send a session that begins; from there they may send it on.
fn detour(shared: &Shared, asked: Route, who: Who<'_>) -> Result<(Route, Option<Box<Reroute>>), Farewell> {
    let policy = shared.policy.load();
    let mut way = Vec::new();
    let mut found: Option<(Route, &str)> = None;
    loop {
        let here = found.as_ref().map_or(&asked, |(route, _)| route);
        let Some(detour) = policy.detour(&Who { branch: here.branch(), ..who }) else { break };
        let stuck = |sqlstate, message| Farewell {
            detail: Some(format!("Rule: {}; branch: {}.", detour.rule, here.branch().unwrap_or_default())),
            result: Connection::NoBranch,
            ..Farewell::client(sqlstate, message)
        };
        if way.contains(&detour.to) || asked.branch() == Some(detour.to) {
            return Err(stuck(CANNOT_REROUTE, format!("rules reroute in a circle, by way of \"{}\"", detour.to)));
        }
        way.push(detour.to);
        let branch = shared.branches.load().find(detour.to).cloned();
        let missing = || format!("this session is rerouted to branch \"{}\", which does not exist", detour.to);
        let branch = branch.ok_or_else(|| stuck("3D000", missing()))?;
        found = Some((Route::Branch(branch), detour.rule));
    }
    let Some((route, rule)) = found else { return Ok((asked, None)) };
    let from = asked.branch().unwrap_or_default().to_owned();
    Ok((route, Some(Box::new(Reroute { from, rule: rule.to_owned() }))))
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
    pub(super) fn client(sqlstate: &'static str, message: String) -> Self {
        Self { sqlstate, message, detail: None, hint: None, result: Connection::Protocol, side: Side::Client }
    }

    pub(super) fn no_route(error: &RouteError) -> Self {
        Self {
            hint: Some(error.hint()),
            result: Connection::NoBranch,
            ..Self::client(error.sqlstate(), error.to_string())
        }
    }

    fn protocol(sqlstate: &'static str, bad: &Bad) -> Self {
        Self::client(sqlstate, bad.to_string())
    }

    /// The server's words for its authentication_timeout.
    pub(super) fn login_timeout() -> Self {
        Self::client("57014", "canceling authentication due to timeout".into())
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
            detail: Some(match kind {
                io::ErrorKind::InvalidData => "The proxy could not agree on TLS with it.".to_owned(),
                kind => format!("The proxy could not connect to it: {kind}."),
            }),
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
