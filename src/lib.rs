//! pggit-proxy: version control for PostgreSQL schemas, in the connection string.
//!
//! # How a statement goes
//!
//! ```text
//! listener -> handshake -> route -> session (no IO): scan -> classify -> judge -> ledger -> server
//! client  <- scan <- match replies owed <- server           facts -> recorder, metrics
//! ```
//!
//! # Layers
//!
//! | layer | modules | may know |
//! |---|---|---|
//! | core: no IO, no clock, no lock | [`wire`], [`auth`], [`sql`], [`branch`], [`change`], [`policy`], [`session`] | each other, downwards |
//! | around it | [`tls`], [`config`], [`telemetry`], [`history`], [`state`] | the core, and what stands before them |
//! | outside | [`proxy`], [`control`], [`http`] | everything above, never each other: they meet in [`state`] |
//! | top | [`cli`] | everything |
//!
//! `tests/layers.rs` holds this table against the `use` lines.

pub mod auth;
pub mod branch;
pub mod change;
pub mod cli;
pub mod config;
pub mod control;
pub mod history;
pub mod http;
pub mod policy;
pub mod proxy;
pub mod session;
pub mod sql;
pub mod state;
pub mod telemetry;
pub mod tls;
pub mod wire;
