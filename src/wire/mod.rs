//! The PostgreSQL protocol as bytes: start-up packets, frames, and the few messages the proxy makes itself.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

pub mod error;
pub mod frame;
pub mod pipe;
pub mod proxy_header;
pub mod startup;
