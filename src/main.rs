//! The `pggit-proxy` command.

fn main() {}
