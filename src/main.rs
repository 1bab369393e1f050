//! The `pggit-proxy` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    pggit_proxy::cli::main()
}
