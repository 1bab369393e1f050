//! `pggit-proxy migrate up|down|status|prune`.

use std::path::Path;

use anyhow::Context as _;
use chrono::SecondsFormat;
use sqlx::Connection as _;

use super::connect::connect;
use crate::change::Capture;
use crate::config;
use crate::history::migrate::{self, Backup, Reached, State, Status, Step, Up, Way};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Apply what is pending.
    Up,
    /// Revert the newest, or what is above `--to`.
    Down,
    /// Show what is there.
    Status,
    /// Drop the backups of which everything is in the schema, too; with `--all` every one.
    Prune,
}

/// What `migrate` is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// What to do.
    pub action: Action,
    /// Where to stop.
    pub to: Option<i64>,
    /// What changes are recorded by, with `up`.
    pub capture: Wanted,
    /// With `up`: take over pgGit's own SQL.
    pub adopt: bool,
    /// With `prune`: also what is nowhere else.
    pub all: bool,
}

/// What changes are recorded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wanted {
    /// Event triggers if this role may install them, else `inject`.
    Auto,
    /// Event triggers, or nothing is done.
    Trigger,
    /// Calls that the proxy adds to its clients' statements.
    Inject,
}

impl From<Wanted> for config::Capture {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Auto => Self::Auto,
            Wanted::Trigger => Self::Trigger,
            Wanted::Inject => Self::Inject,
        }
    }
}

/// Said in plain words, because it is less than event triggers would give.
const WITHOUT_TRIGGERS: &str = "\
capture is inject: there are no event triggers in this database, which only a superuser can install. Changes are recorded
by calls that the proxy adds to its clients' statements. What is changed round the proxy, or by DO blocks and functions,
is noticed afterwards, by comparing the catalogs with the history.";

/// What is left of it.
const REVERTED: &str = "\
schema pggit is at version 0: only its log (pggit.upgrade_log) and backups are left, for `migrate up` to go on from.
`migrate prune --all` removes them, too.";

const HANDED_BACK: &str = "\
schema pggit is pgGit's own again, with its event triggers. The log and the backups of ours are left aside, for `migrate up --adopt`
to go on from.";

/// Does it in the database of a libpq URL, telling what happens on standard output.
pub async fn run(request: Request, url: &str) -> anyhow::Result<()> {
    let mut connection = connect(url).await?;
    let mut told = |step: &Step| println!("{}", line(step));
    match request.action {
        Action::Up => {
            let how = Up { to: request.to, capture: request.capture.into(), adopt: request.adopt };
            let version = migrate::up(&mut connection, how, &mut told).await?;
            println!("schema pggit is at version {version}{}", behind(version));
            if migrate::mode(&mut connection).await? == Some(Capture::Inject) {
                println!("{WITHOUT_TRIGGERS}");
            }
        }
        Action::Down => match migrate::down(&mut connection, request.to, &mut told).await? {
            Reached::HandedBack => println!("{HANDED_BACK}"),
            Reached::Version(0) => println!("{REVERTED}"),
            Reached::Version(version) => println!("schema pggit is at version {version}{}", behind(version)),
        },
        Action::Status => {
            print!("{}", table(&migrate::status(&mut connection).await?));
            print!("{}", kept(&migrate::backups(&mut connection).await?));
        }
        Action::Prune => {
            for backup in migrate::prune(&mut connection, request.all).await? {
                println!("dropped {} ({} rows)", backup.schema, backup.rows);
            }
            print!("{}", kept(&migrate::backups(&mut connection).await?));
        }
    }
    connection.close().await.context("cannot close the connection")
}

/// Writes the ways between released versions, one file each.
pub fn write_scripts(directory: &Path) -> anyhow::Result<()> {
    for script in migrate::scripts() {
        let path = directory.join(script.file);
        std::fs::write(&path, script.sql).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn line(step: &Step) -> String {
    let done = match step.way {
        Way::Up => "applied",
        Way::Down => "reverted",
    };
    let mut line = format!("{done} {:04} {} ({:.1} ms)", step.version, step.name, step.took.as_secs_f64() * 1000.0);
    if let Some(schema) = &step.backup {
        line.push_str(&format!(", backup in {schema}"));
    }
    if let Some(schema) = &step.returned {
        line.push_str(&format!(", rows back from {schema}"));
    }
    line
}

fn kept(backups: &[Backup]) -> String {
    let line = |backup: &Backup| {
        let what = match (backup.adopted, backup.only) {
            (true, _) => ", pgGit's own: `migrate down --to 0` gives them back",
            (false, true) => ", not in the schema: `migrate up` brings them back",
            (false, false) => "",
        };
        format!(
            "{}: {} rows of before {} -> {}{what}\n",
            backup.schema, backup.rows, backup.from_version, backup.to_version
        )
    };
    backups.iter().map(line).collect()
}

/// What is still missing.
fn behind(version: i64) -> String {
    let latest = migrate::latest();
    if version < latest { format!(" of {latest}") } else { String::new() }
}

fn table(all: &[Status]) -> String {
    let width = all.iter().map(|status| status.name.len()).max().unwrap_or(0).max("name".len());
    let mut table = format!("{:<7}  {:<width$}  state\n", "version", "name");
    for status in all {
        let at = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let state = match status.state {
            State::Pending => "pending".to_owned(),
            State::Applied(when) => format!("applied {}", at(when)),
            State::Differs(when) => format!("applied {}, but its text DIFFERS from this program's", at(when)),
            State::Unknown(when) => format!("applied {}, UNKNOWN to this program, which is older", at(when)),
        };
        table.push_str(&format!("{:<7}  {:<width$}  {state}\n", format!("{:04}", status.version), status.name));
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_step_reads_as_a_line() {
        let took = Duration::from_micros(1540);
        let mut step = Step { way: Way::Up, version: 2, name: "history".into(), took, backup: None, returned: None };
        assert_eq!(line(&step), "applied 0002 history (1.5 ms)");
        step.returned = Some("pggit_backup_7".into());
        assert_eq!(line(&step), "applied 0002 history (1.5 ms), rows back from pggit_backup_7");
    }

    #[test]
    fn the_table_lines_up() {
        let all = [
            Status { version: 1, name: "schema".into(), state: State::Pending },
            Status { version: 12, name: "functions".into(), state: State::Pending },
        ];
        assert_eq!(
            table(&all),
            "version  name       state\n0001     schema     pending\n0012     functions  pending\n"
        );
    }
}
