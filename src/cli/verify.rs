//! `pggit-proxy verify`: was the history changed after it was sealed?

use std::io::Write as _;

use sqlx::Connection as _;

use super::connect::connect;
use crate::history::verify::{self, Chain, Problem, Progress, Told};

/// Prints every problem as it is found, and a summary; an error where there was a problem.
pub async fn run(url: &str, expect: Option<&str>) -> anyhow::Result<()> {
    let mut connection = connect(url).await?;
    let mut problems: u64 = 0;
    let mut out = std::io::stdout();
    let mut told = |told: Told| match told {
        Told::Problem(problem) => {
            problems += 1;
            // Who closed the pipe has read enough; the exit code still tells.
            let _ = writeln!(out, "{}", line(&problem));
        }
        Told::Progress(progress) => eprintln!("{}", so_far(&progress)),
    };
    let chain = verify::verify(&mut connection, expect, &mut told).await?;
    let _ = write!(out, "{}", summary(&chain));
    connection.close().await?;
    match problems {
        0 => Ok(()),
        1 => anyhow::bail!("the history is not as it was sealed: 1 problem"),
        _ => anyhow::bail!("the history is not as it was sealed: {problems} problems"),
    }
}

/// For clap: a whole hash, as the summary prints it.
pub fn hash(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a hash has 64 hexadecimal digits".to_owned())
    }
}

fn line(problem: &Problem) -> String {
    let mut line = problem.problem.clone();
    if let Some(seq) = problem.seq {
        line += &format!(", seal {seq}");
    }
    if let Some(commit) = problem.commit_id {
        line += &format!(", commit {commit}");
    }
    if let Some(row) = problem.row_id {
        line += &format!(", row {row}");
    }
    format!("{line}: {}", problem.detail)
}

fn so_far(progress: &Progress) -> String {
    let Progress { commits, of, rows, took } = progress;
    let seconds = took.as_secs_f64();
    let (percent, speed) = (*commits as f64 / (*of).max(1) as f64 * 100.0, *rows as f64 / seconds.max(0.001));
    format!("{commits} of {of} commits ({percent:.0} %), {rows} rows in {seconds:.0} s, {speed:.0} rows/s")
}

fn summary(chain: &Chain) -> String {
    let head = chain.head.as_ref().map_or("none".to_owned(), |head| {
        format!("{} (commit {}, sealed {})", head.hash, head.commit_id, head.sealed_at.format("%FT%TZ"))
    });
    let (commits, rows) = chain.unsealed;
    format!(
        "commits   {}\nrows      {}\nhead      {head}\nunsealed  {rows} rows in {commits} commits\n",
        chain.commits, chain.rows
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_problem_names_what_is_known() {
        let mut problem =
            Problem { problem: "deleted".into(), seq: Some(3), commit_id: None, row_id: None, detail: "gone".into() };
        assert_eq!(line(&problem), "deleted, seal 3: gone");
        (problem.commit_id, problem.row_id) = (Some(uuid::Uuid::nil()), Some(uuid::Uuid::nil()));
        let nil = uuid::Uuid::nil();
        assert_eq!(line(&problem), format!("deleted, seal 3, commit {nil}, row {nil}: gone"));
    }

    #[test]
    fn progress_has_units() {
        let progress = Progress { commits: 500, of: 2000, rows: 1000, took: Duration::from_secs(2) };
        assert_eq!(so_far(&progress), "500 of 2000 commits (25 %), 1000 rows in 2 s, 500 rows/s");
    }

    #[test]
    fn a_hash_is_whole() {
        assert_eq!(hash(&"aB".repeat(32)), Ok("ab".repeat(32)));
        assert!(hash("ab").is_err() && hash(&"xy".repeat(32)).is_err());
    }
}
