//! A client that speaks the protocol byte by byte: what a driver hides, a test wants to see.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use super::PATIENCE;

/// Protocol 3.0.
pub const V3_0: u32 = 3 << 16;
/// Protocol 3.2.
pub const V3_2: u32 = (3 << 16) | 2;

/// One message from the server, without its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", char::from(self.tag), self.body.escape_ascii())
    }
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse: `S` severity, `C` code, `M` message, `D` detail, `H` hint …
    pub fn field(&self, code: u8) -> Option<String> {
        let fields = self.body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
        let mut found = fields.filter(|field| field[0] == code);
        found.next().map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
    }

    /// The values of a DataRow.
    pub fn values(&self) -> Vec<Option<Vec<u8>>> {
        assert_eq!(self.tag, b'D', "{self:?} is no DataRow");
        let mut rest = &self.body[2..];
        let mut values = Vec::new();
        while !rest.is_empty() {
            let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
            rest = &rest[4..];
            values.push(usize::try_from(length).ok().map(|length| {
                let (value, after) = rest.split_at(length);
                rest = after;
                value.to_vec()
            }));
        }
        values
    }

    /// The text of a CommandComplete.
    pub fn command_tag(&self) -> String {
        assert_eq!(self.tag, b'C', "{self:?} is no CommandComplete");
        String::from_utf8_lossy(&self.body[..self.body.len() - 1]).into_owned()
    }
}

/// One connection.
pub struct Wire {
    pub stream: TcpStream,
    /// What the server sent at login, for [`Self::parameter`].
    pub greeting: Vec<Message>,
    unread: Vec<u8>,
    tls: Option<Box<rustls::ClientConnection>>,
}

impl Wire {
    /// Connected, nothing sent.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::on(stream)
    }

    /// On a connection that is there already.
    pub fn on(stream: TcpStream) -> Self {
        Self { stream, greeting: Vec::new(), unread: Vec::new(), tls: None }
    }

    /// As [`Self::ask`], for a connection that may break: what came before ReadyForQuery, or why that did not come.
    pub fn try_ask(&mut self, bytes: &[u8]) -> Result<Vec<Message>, String> {
        self.stream.write_all(bytes).map_err(|error| format!("write: {error}"))?;
        let mut messages = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            while let Some(message) = self.whole_message() {
                match message.tag {
                    b'Z' => return Ok(messages),
                    b'E' => return Err(format!("answered {message:?} after {messages:?}")),
                    _ => messages.push(message),
                }
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(format!("closed after {messages:?}")),
                Ok(n) => self.unread.extend_from_slice(&chunk[..n]),
                Err(error) => return Err(format!("read: {error}")),
            }
        }
    }

    /// The next message, if it has come whole.
    fn whole_message(&mut self) -> Option<Message> {
        let length = u32::from_be_bytes(self.unread.get(1..5)?.try_into().unwrap()) as usize;
        let frame = self.unread.get(..=length)?;
        let message = Message { tag: frame[0], body: frame[5..].to_vec() };
        self.unread.drain(..=length);
        Some(message)
    }

    /// Logged in with protocol 3.0, where the server trusts the user.
    pub fn connect(address: SocketAddr, parameters: &[(&str, &str)]) -> Self {
        Self::try_connect(address, V3_0, parameters).unwrap_or_else(|messages| panic!("login failed: {messages:?}"))
    }

    /// As [`Self::connect`] with a protocol version; what came where the login failed.
    pub fn try_connect(address: SocketAddr, version: u32, parameters: &[(&str, &str)]) -> Result<Self, Vec<Message>> {
        let mut wire = Self::open(address);
        wire.send(&startup(version, parameters));
        let messages = wire.read_until_ready();
        if messages.last().is_some_and(|message| message.tag == b'Z') {
            wire.greeting = messages;
            Ok(wire)
        } else {
            Err(messages)
        }
    }

    /// Connected over TLS, by an SSLRequest, nothing else sent.
    pub fn open_tls(address: SocketAddr, config: &Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let mut wire = Self::open(address);
        wire.send(&ssl_request());
        assert_eq!(wire.read_bytes(1).as_deref(), Some(&b"S"[..]));
        wire.start_tls(config)?;
        Ok(wire)
    }

    /// Shakes hands now, whatever was sent before. With TLS 1.3 a server that refuses the client's certificate says so
    /// only afterwards.
    pub fn start_tls(&mut self, config: &Arc<rustls::ClientConfig>) -> io::Result<()> {
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut tls = rustls::ClientConnection::new(config.clone(), name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// The TLS connection.
    pub fn tls(&mut self) -> &mut rustls::ClientConnection {
        self.tls.as_mut().expect("TLS")
    }

    /// The TLS connection and its socket, for a test that moves the bytes itself.
    pub fn parts(&mut self) -> (&mut rustls::ClientConnection, &mut TcpStream) {
        (self.tls.as_mut().expect("TLS"), &mut self.stream)
    }

    /// Sends what TLS has to send.
    pub fn flush_tls(&mut self) {
        let (tls, stream) = self.parts();
        while tls.wants_write() {
            tls.write_tls(stream).unwrap();
        }
    }

    /// Whether the other side closes, whatever it says before, encrypted or not.
    pub fn read_plainly_to_end(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Logs in where nothing is asked.
    pub fn log_in(&mut self, version: u32, parameters: &[(&str, &str)]) {
        self.send(&startup(version, parameters));
        self.greeting = self.read_until_ready();
        assert!(self.greeting.last().is_some_and(|message| message.tag == b'Z'), "{:?}", self.greeting);
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// As [`Self::send`], to another side that may have hung up.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).write_all(bytes),
        }
    }

    /// Sends bytes and reads up to the next ReadyForQuery.
    pub fn ask(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.send(bytes);
        self.read_until_ready()
    }

    /// The next message; `None` when the other side has closed.
    pub fn read_message(&mut self) -> Option<Message> {
        let tag = *self.fill(5)?.first()?;
        let length = u32::from_be_bytes(self.unread[1..5].try_into().unwrap()) as usize;
        assert!(length >= 4, "length {length} of message {:?}", char::from(tag));
        let body = self.fill(1 + length)?[5..].to_vec();
        self.unread.drain(..=length);
        Some(Message { tag, body })
    }

    /// Everything up to and with ReadyForQuery, or up to where the other side closed.
    pub fn read_until_ready(&mut self) -> Vec<Message> {
        self.read_until(b'Z')
    }

    /// Everything up to and with a message of this tag, or up to where the other side closed.
    pub fn read_until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.read_message() {
            let last = message.tag == tag;
            messages.push(message);
            if last {
                break;
            }
        }
        messages
    }

    /// Everything up to where the other side closes.
    pub fn read_to_end(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.read_message()).collect()
    }

    /// Asks for a cancel and waits until the other side has hung up, as libpq does. The server signals the process and
    /// then its group: whoever does not wait may find the second signal in his next statement.
    pub fn cancel(mut self, pid: u32, secret: &[u8]) {
        self.send(&cancel(pid, secret));
        assert_eq!(self.read_to_end(), [], "a cancel request has no answer");
    }

    /// `n` bytes as they come, for the one-byte answers to SSLRequest and GSSENCRequest.
    pub fn read_bytes(&mut self, n: usize) -> Option<Vec<u8>> {
        self.fill(n)?;
        Some(self.unread.drain(..n).collect())
    }

    /// Says that nothing more will be sent; answers can still be read.
    pub fn shut_writing(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.flush_tls();
        }
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Runs one simple query that must succeed; its rows as text.
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = self.ask(&query(sql));
        assert!(messages.iter().all(|message| message.tag != b'E'), "{sql}: {messages:?}");
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        let rows = messages.iter().filter(|message| message.tag == b'D');
        rows.map(|row| row.values().into_iter().map(|value| value.map(text)).collect()).collect()
    }

    /// The single value of a simple query.
    pub fn value(&mut self, sql: &str) -> String {
        self.rows(sql).remove(0).remove(0).expect("no NULL")
    }

    /// The error of a simple query that must fail.
    pub fn error(&mut self, sql: &str) -> Message {
        let messages = self.ask(&query(sql));
        let error = messages.iter().find(|message| message.tag == b'E');
        error.unwrap_or_else(|| panic!("{sql} did not fail: {messages:?}")).clone()
    }

    /// A parameter that the server reported at login.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let reported = self.greeting.iter().filter(|message| message.tag == b'S');
        let mut pairs = reported.map(|message| {
            let mut parts =
                message.body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
        });
        pairs.find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Process id and secret, for a cancel request.
    pub fn key(&self) -> (u32, Vec<u8>) {
        let message = self.greeting.iter().find(|message| message.tag == b'K').expect("BackendKeyData");
        (u32::from_be_bytes(message.body[..4].try_into().unwrap()), message.body[4..].to_vec())
    }

    fn fill(&mut self, wanted: usize) -> Option<&[u8]> {
        let mut chunk = vec![0; 64 << 10];
        while self.unread.len() < wanted {
            let read = match &mut self.tls {
                None => self.stream.read(&mut chunk),
                Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut chunk),
            };
            match read {
                Ok(0) => return None,
                Ok(n) => self.unread.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It closed with something of ours unread; with TLS, reading may find that there is still to write.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                    return None;
                }
                Err(error) => panic!("waited for {wanted} bytes, have {:?}: {error}", self.unread.escape_ascii()),
            }
        }
        Some(&self.unread[..wanted])
    }
}

/// The messages' types, a letter each.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

/// SQLSTATE and text of the error among them; with the DETAIL of `PG003`, which says why.
pub fn said(messages: &[Message]) -> String {
    let error =
        messages.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("no error in {messages:?}"));
    let said = format!("{} {}", error.field(b'C').unwrap(), error.field(b'M').unwrap());
    if said.starts_with("PG003") { format!("{said} ({})", error.field(b'D').unwrap_or_default()) } else { said }
}

/// A message with its length.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag], &length[..], body].concat()
}

/// A start-up packet.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(&[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    untagged(&body)
}

/// A cancel request; [`Wire::cancel`] sends it.
pub fn cancel(pid: u32, secret: &[u8]) -> Vec<u8> {
    untagged(&[&80_877_102u32.to_be_bytes()[..], &pid.to_be_bytes(), secret].concat())
}

/// A request for TLS, answered by one byte.
pub fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103u32.to_be_bytes())
}

/// A request for GSSAPI encryption, answered by one byte.
pub fn gss_request() -> Vec<u8> {
    untagged(&80_877_104u32.to_be_bytes())
}

/// A packet that has a length and no tag.
pub fn untagged(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &cstr(sql))
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [cstr(name), cstr(sql), count(types.len())].concat();
    types.iter().for_each(|oid| body.extend_from_slice(&oid.to_be_bytes()));
    frame(b'P', &body)
}

/// Text parameters, text results.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(statement), count(0), count(values.len())].concat();
    for value in values {
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(value.unwrap_or_default().as_bytes());
    }
    body.extend_from_slice(&count(0));
    frame(b'B', &body)
}

/// `kind` is `S` for a statement, `P` for a portal.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    frame(b'D', &[&[kind], &cstr(name)[..]].concat())
}

/// `kind` is `S` for a statement, `P` for a portal.
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    frame(b'C', &[&[kind], &cstr(name)[..]].concat())
}

/// `rows` 0 is all of them.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    frame(b'E', &[&cstr(portal)[..], &rows.to_be_bytes()].concat())
}

pub fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    frame(b'H', b"")
}

pub fn copy_data(bytes: &[u8]) -> Vec<u8> {
    frame(b'd', bytes)
}

pub fn copy_done() -> Vec<u8> {
    frame(b'c', b"")
}

pub fn copy_fail(why: &str) -> Vec<u8> {
    frame(b'f', &cstr(why))
}

pub fn terminate() -> Vec<u8> {
    frame(b'X', b"")
}

/// Parse, Bind, Describe, Execute and Sync of one statement without a name.
pub fn extended(sql: &str, values: &[Option<&str>]) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", values), describe(b'P', ""), execute("", 0), sync()].concat()
}

/// The messages with what differs from one connection to the next blanked out: process ids, secret keys (their length
/// stays), and texts in rows that are a time.
pub fn normalised(messages: &[Message]) -> Vec<Message> {
    messages.iter().cloned().map(blanked).collect()
}

fn blanked(mut message: Message) -> Message {
    match message.tag {
        b'K' => message.body.fill(0),
        b'A' => message.body[..4].fill(0),
        b'D' if message.values().iter().flatten().any(|value| is_time(value)) => {
            let values = message.values();
            let text = |value: &Option<Vec<u8>>| match value {
                Some(value) if is_time(value) => "<time>".to_owned(),
                Some(value) => value.escape_ascii().to_string(),
                None => "<null>".to_owned(),
            };
            message.body = values.iter().map(text).collect::<Vec<_>>().join("|").into_bytes();
        }
        _ => {}
    }
    message
}

fn is_time(value: &[u8]) -> bool {
    let digits = |range: std::ops::Range<usize>| value.get(range).is_some_and(|v| v.iter().all(u8::is_ascii_digit));
    let is = |at: usize, what: u8| value.get(at) == Some(&what);
    digits(0..4) && is(4, b'-') && digits(5..7) && is(7, b'-') && digits(8..10) && is(13, b':') && digits(14..16)
}

fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn count(n: usize) -> Vec<u8> {
    u16::try_from(n).unwrap().to_be_bytes().to_vec()
}
