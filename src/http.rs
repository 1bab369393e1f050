//! The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::state::{Life, Shared};

/// Connections at a time; a scraper and a load balancer need one each. More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// From accept to the last byte: one request a connection, so a silent or slow client keeps its place this long.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

/// For the request line and headers.
const HEADER_TIME: Duration = Duration::from_secs(3);

/// Bytes of request line and headers.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// After a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until the process ends.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut life = shared.life.subscribe();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(CONNECTION_TIME, converse(stream, shared)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "http: accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = ending(&mut life) => return Ok(()),
        }
    }
}

/// Returns when the process ends.
async fn ending(life: &mut watch::Receiver<Life>) {
    let _ = life.wait_for(|life| *life == Life::Ending).await;
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &shared);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        // A client that has said all may shut its side down and still wait for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "http: connection ended");
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            shared.metrics.probe_changes(shared.history.probed());
            text(StatusCode::OK, shared.metrics.render(shared.history.pending()))
        }
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => readiness(shared),
        _ => text(StatusCode::NOT_FOUND, "not found; there are /metrics, /healthz and /readyz\n".into()),
    }
}

/// 200, or 503 with a line for every check that fails.
fn readiness(shared: &Shared) -> Response<Full<Bytes>> {
    let mut failing = String::new();
    match *shared.life.borrow() {
        Life::Serving => {}
        Life::Draining | Life::Ending => failing.push_str("the proxy is shutting down\n"),
    }
    for row in shared.history.health().iter().filter(|row| !row.ok && row.is_needed()) {
        let branch = if row.branch.is_empty() { String::new() } else { format!(" on branch {}", row.branch) };
        failing.push_str(&format!("{}{branch}: {}\n", row.check, row.message));
    }
    if failing.is_empty() {
        text(StatusCode::OK, "ready\n".into())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, failing)
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
