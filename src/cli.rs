//! The command line: what each command takes, and its exit code (0 done, 1 failed, 2 bad usage or configuration).

pub mod branch;
pub mod check;
pub mod classify;
mod connect;
pub mod demo;
pub mod diff;
pub mod export;
pub mod health;
mod manager;
pub mod migrate;
pub mod schema;
pub mod serve;
mod sockets;
mod unix_socket;
pub mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::Overrides;

/// Version control for PostgreSQL schemas, in the connection string.
#[derive(Debug, Parser)]
#[command(name = "pggit-proxy", version, about, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay clients to the server, record schema changes, serve the control port and metrics
    Serve {
        /// The configuration file; without one the defaults hold
        #[arg(long, value_name = "FILE", env = "PGGIT_CONFIG")]
        config: Option<PathBuf>,
        /// Where clients connect, instead of listen.address
        #[arg(long, value_name = "ADDR")]
        listen: Option<String>,
        /// The control port, instead of control.address; "off" for none
        #[arg(long, value_name = "ADDR")]
        control: Option<String>,
        /// Metrics and health, instead of http.address; "off" for none
        #[arg(long, value_name = "ADDR")]
        http: Option<String>,
        /// The server and its main database, instead of the `upstream` section; its user is the recorder's role
        #[arg(long, value_name = "URL", hide_env_values = true)]
        upstream: Option<String>,
    },
    /// Check a configuration: exit 0 and a summary, or 1 with every problem and its place
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE", env = "PGGIT_CONFIG", default_value = "pggit-proxy.toml")]
        config: PathBuf,
    },
    /// Ask the proxy of this configuration whether it lives: exit 0, or 1 and why not
    Health {
        /// The configuration file; without one the default address is asked
        #[arg(long, value_name = "FILE", env = "PGGIT_CONFIG")]
        config: Option<PathBuf>,
        /// Where it serves metrics and health, if the file does not say
        #[arg(long, value_name = "ADDR")]
        http: Option<std::net::SocketAddr>,
        /// Ask whether it is ready: the server is reachable, changes are recorded, it does not end
        #[arg(long)]
        ready: bool,
    },
    /// Install, remove or look at the pggit schema of a database
    Migrate {
        /// What to do
        #[arg(value_enum)]
        action: migrate::Action,
        /// Stop at this version; 0 with `down` reverts everything
        #[arg(long, value_name = "N")]
        to: Option<i64>,
        /// What changes are recorded by, with `up`
        #[arg(long, value_enum, default_value = "auto")]
        capture: migrate::Wanted,
        /// With `up`: take over a database in which pgGit's own SQL is installed; `down --to 0` gives it back
        #[arg(long)]
        adopt: bool,
        /// With `prune`: also drop what is nowhere else, and at version 0 the log
        #[arg(long)]
        all: bool,
        /// The database, as a libpq URL
        #[arg(long, value_name = "URL", env = "PGGIT_DATABASE_URL", hide_env_values = true)]
        database_url: String,
    },
    /// Check that the history of a database was not changed since it was sealed: exit 0, or 1 and what was changed
    Verify {
        /// The database, as a libpq URL
        #[arg(long, value_name = "URL", env = "PGGIT_DATABASE_URL", hide_env_values = true)]
        database_url: String,
        /// A head hash that was printed earlier: the history must still go through it
        #[arg(long, value_name = "HASH", value_parser = verify::hash)]
        expect: Option<String>,
    },
    /// Make, list, change and drop branches
    Branch {
        #[command(subcommand)]
        action: branch::Action,
        /// The repository's main database, as a libpq URL
        #[arg(long, value_name = "URL", env = "PGGIT_DATABASE_URL", hide_env_values = true, global = true)]
        database_url: Option<String>,
        /// The pg_dump to use; without it the newest that is found
        #[arg(long, value_name = "PROGRAM", env = "PGGIT_PG_DUMP", global = true)]
        pg_dump: Option<PathBuf>,
    },
    /// Show in what a branch differs from another one
    Diff {
        /// A branch
        from: String,
        /// The branch that it is compared with
        to: String,
        /// The repository's main database, as a libpq URL
        #[arg(long, value_name = "URL", env = "PGGIT_DATABASE_URL", hide_env_values = true)]
        database_url: String,
        /// Whether to use colours
        #[arg(long, value_enum, default_value = "auto")]
        color: diff::Color,
        /// Exit with 1 if they differ
        #[arg(long)]
        exit_code: bool,
    },
    /// Print the schema of a branch as it is or was, as a script
    Schema {
        /// The branch
        branch: String,
        /// As it was after this commit
        #[arg(long, value_name = "COMMIT", conflicts_with = "at_time")]
        at_commit: Option<uuid::Uuid>,
        /// As it was at this time, in UTC where it does not say
        #[arg(long, value_name = "TIME")]
        at_time: Option<String>,
        /// The repository's main database, as a libpq URL
        #[arg(long, value_name = "URL", env = "PGGIT_DATABASE_URL", hide_env_values = true)]
        database_url: String,
    },
    /// Write out the history of a branch: as a script, as JSON, as a git repository
    Export(Box<export::Options>),
    /// Start a private PostgreSQL and the proxy, and show what it does
    Demo {
        /// Exit after the tour
        #[arg(long)]
        once: bool,
    },
    /// Print what the proxy sees in SQL: one JSON object a line and statement
    Classify {
        /// A file of SQL; standard input without one
        file: Option<PathBuf>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the migrations of the released versions as SQL for psql into a directory, for packages
    #[command(hide = true)]
    ReleasedSql {
        /// The directory
        directory: PathBuf,
    },
    /// Write the manual pages into a directory, for packages
    #[command(hide = true)]
    Man {
        /// The directory
        directory: PathBuf,
    },
}

/// Runs the command.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve { config, listen, control, http, upstream } => {
            serve::run(config, Overrides { listen, control, http, upstream })
        }
        Command::Check { config } => return ExitCode::from(check::run(&config)),
        Command::Health { config, http, ready } => block_on(health::run(config.as_deref(), http, ready)),
        Command::Migrate { action, to, capture, adopt, all, database_url } => {
            block_on(migrate::run(migrate::Request { action, to, capture, adopt, all }, &database_url))
        }
        Command::Verify { database_url, expect } => block_on(verify::run(&database_url, expect.as_deref())),
        Command::Branch { action, database_url, pg_dump } => {
            block_on(branch::run(action, database_url.as_deref(), pg_dump))
        }
        Command::Diff { from, to, database_url, color, exit_code } => {
            match block_on(diff::run(&from, &to, &database_url, color)) {
                Ok(true) if exit_code => return ExitCode::from(1),
                ended => ended.map(drop),
            }
        }
        Command::Schema { branch, at_commit, at_time, database_url } => {
            block_on(schema::run(&branch, at_commit, at_time, &database_url))
        }
        Command::Export(options) => block_on(export::run(*options)),
        Command::Demo { once } => block_on(demo::run(once)),
        Command::Classify { file } => classify::run(file.as_deref()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "pggit-proxy", &mut std::io::stdout());
            Ok(())
        }
        Command::ReleasedSql { directory } => migrate::write_scripts(&directory),
        Command::Man { directory } => {
            clap_mangen::generate_to(Arguments::command(), &directory).with_context(|| directory.display().to_string())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pggit-proxy: {error:#}");
            ExitCode::from(if error.is::<serve::BadConfig>() { 2 } else { 1 })
        }
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Arguments::command().debug_assert();
    }
}
