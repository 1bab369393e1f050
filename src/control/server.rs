//! Sockets of the control port: accept, read whole messages, hand them to pgwire, end in good order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::SinkExt;
use pgwire::api::{ClientInfo, DefaultClient, NoopHandler, PgWireConnectionState};
use pgwire::error::PgWireError;
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage};
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::codec::Framed;

use super::CommandError;
use super::command::Command;
use super::frame::{FrameError, MAX_LOGIN_MESSAGE, MAX_MESSAGE, read_message};
use super::open::{is_welcome, open};
use super::seats::Seats;
use super::session::Session;
use crate::state::{Life, Shared};
use crate::tls::Stream;

/// From accept to the end of login at most; less where `limits.login_timeout` is less.
const LOGIN_TIME: Duration = Duration::from_secs(10);

/// For one command, its answer's way to the client included: a client that does not read is let go.
const COMMAND_TIME: Duration = Duration::from_secs(60);

/// For the last words to a client.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// After a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Socket = Framed<Stream<TcpStream>, PgWireMessageServerCodec<Command>>;

/// Serves the control port until the process ends.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let seats = Seats::new();
    let mut life = shared.life.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let session = Arc::new(Session::new(shared.clone(), seats.take()));
                    connections.spawn(async move {
                        if let Err(error) = converse(stream, peer, session).await {
                            tracing::debug!(%peer, %error, "control: connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control: accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = ending(&mut life) => break,
        }
    }
    let _ = timeout(FAREWELL_TIME, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn converse(stream: TcpStream, peer: SocketAddr, session: Arc<Session>) -> Result<(), FrameError> {
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_keepalive(true);
    let config = session.shared().config.load_full();
    let deadline = Instant::now() + config.limits.login_timeout.min(LOGIN_TIME);
    let tls = &config.control.tls;
    let (stream, startup) = tokio::select! {
        opened = timeout_at(deadline, open(stream, tls)) => match opened {
            Ok(opened) => opened?,
            Err(_) => return Ok(()),
        },
        () = session.seat().evicted() => return Ok(()),
    };
    let mut client = DefaultClient::new(peer, stream.is_tls());
    client.set_state(PgWireConnectionState::AwaitingStartup);
    let mut socket = Framed::new(stream, PgWireMessageServerCodec::new(client));
    let mut startup = match startup {
        Ok(Some(startup)) => startup,
        Ok(None) => return Ok(()),
        Err(error) => return farewell(&mut socket, error).await,
    };
    let mut context = DecodeContext::default();
    context.awaiting_frontend_ssl = false;
    let decoded = PgWireFrontendMessage::decode(&mut startup, &context);
    context.awaiting_frontend_startup = false;
    if let Ok(Some(PgWireFrontendMessage::Startup(startup))) = &decoded
        && let Err(refused) = is_welcome(socket.get_ref(), tls, startup)
    {
        return say(&mut socket, refused.fatal()).await;
    }
    drop(config);
    if !answer(&mut socket, &session, decoded).await? {
        return Ok(());
    }
    let mut inbox = BytesMut::new();
    let mut life = session.shared().life.subscribe();
    loop {
        let logged_in = session.seat().is_session();
        let limit = if logged_in { MAX_MESSAGE } else { MAX_LOGIN_MESSAGE };
        let message = tokio::select! {
            message = read_message(socket.get_mut(), &mut inbox, limit) => message,
            () = tokio::time::sleep_until(deadline), if !logged_in => return Ok(()),
            () = session.seat().evicted(), if !logged_in => return Ok(()),
            () = ending(&mut life) => {
                let ending = CommandError::new("57P01", "terminating connection: the proxy is shutting down");
                return say(&mut socket, ending.fatal()).await;
            }
        };
        let mut message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            Err(error) => return farewell(&mut socket, error).await,
        };
        let decoded = PgWireFrontendMessage::decode(&mut message, &context);
        if !answer(&mut socket, &session, decoded).await? {
            return Ok(());
        }
    }
}

/// Returns when the process ends.
async fn ending(life: &mut watch::Receiver<Life>) {
    let _ = life.wait_for(|life| *life == Life::Ending).await;
}

/// Lets pgwire and the session answer one message; false when the connection is over.
async fn answer(
    socket: &mut Socket,
    session: &Arc<Session>,
    message: Result<Option<PgWireFrontendMessage>, PgWireError>,
) -> Result<bool, FrameError> {
    let message = match message {
        Ok(Some(PgWireFrontendMessage::Terminate(_))) => return Ok(false),
        Ok(Some(message)) => message,
        Ok(None) => return Err(FrameError::Malformed("invalid message format")),
        Err(error) => {
            let error = CommandError::new("08P01", error.to_string()).fatal();
            return say(socket, error).await.map(|()| false);
        }
    };
    let answered = timeout(COMMAND_TIME, async {
        let extended = message.is_extended_query();
        let noop = Arc::new(NoopHandler);
        let done =
            process_message(message, socket, session.clone(), session.clone(), session.clone(), noop.clone(), noop);
        match done.await {
            Ok(()) => Ok(true),
            Err(error) => {
                let fatal = error.is_fatal();
                // Whoever cannot log in is not told ReadyForQuery.
                if fatal {
                    say(socket, error).await?
                } else {
                    process_error(socket, error, extended).await?
                }
                Ok(!fatal)
            }
        }
    });
    answered.await.unwrap_or(Ok(false))
}

async fn farewell(socket: &mut Socket, error: FrameError) -> Result<(), FrameError> {
    match error {
        FrameError::Malformed(text) => say(socket, CommandError::new("08P01", text).fatal()).await,
        FrameError::Io(error) => Err(error.into()),
    }
}

/// The last message of a connection.
async fn say(socket: &mut Socket, error: PgWireError) -> Result<(), FrameError> {
    let info: pgwire::error::ErrorInfo = error.into();
    let sent = async {
        socket.send(PgWireBackendMessage::ErrorResponse(info.into())).await?;
        socket.get_mut().shutdown().await
    };
    timeout(FAREWELL_TIME, sent).await.unwrap_or(Ok(()))?;
    Ok(())
}
