//! The demo's steps: each runs real statements and is held against what should come of them.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Addresses;

/// How long the statement log and the metrics may lag behind.
const LAG: Duration = Duration::from_secs(10);

/// One psql run.
struct Step {
    title: &'static str,
    to: To,
    sql: &'static str,
    /// Whether psql must end with an error.
    fails: bool,
    /// Must be in its output.
    expect: &'static [&'static str],
    /// Must not be.
    reject: &'static [&'static str],
    /// The answer may come late: ask again for a while.
    late: bool,
}

/// Where a step connects.
enum To {
    /// The proxy, with this database name.
    Branch(&'static str),
    /// The control port.
    Control,
}

const PLAIN: Step =
    Step { title: "", to: To::Branch("app"), sql: "", fails: false, expect: &[], reject: &[], late: false };

const STEPS: &[Step] = &[
    Step {
        title: "A table is made on branch main, and altered",
        sql: "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);\n\
              ALTER TABLE customers ADD COLUMN email text;\n\
              INSERT INTO customers VALUES (1, 'Ada', 'ada@example.com');",
        expect: &["CREATE TABLE", "ALTER TABLE", "INSERT 0 1"],
        ..PLAIN
    },
    Step {
        title: "A change that is rolled back leaves no trace in the history",
        sql: "BEGIN;\nALTER TABLE customers DROP COLUMN email;\nROLLBACK;\n\
              SELECT count(*) AS major_changes FROM pggit.history WHERE change_severity = 'MAJOR';",
        expect: &["ROLLBACK", " 0\n"],
        ..PLAIN
    },
    Step {
        title: "A rule refuses to drop tables on main",
        sql: "DROP TABLE customers;",
        fails: true,
        expect: &["ERROR:  tables are not dropped on main", "DETAIL:", "keep-tables", "HINT:"],
        ..PLAIN
    },
    Step {
        title: "Branch release is protected: no schema change at all, data as ever",
        to: To::Branch("app/release"),
        sql: "SELECT 1 AS reading_works;\nCREATE TABLE shortcuts (id int);",
        fails: true,
        expect: &["reading_works", "ERROR:", "release"],
        ..PLAIN
    },
    Step {
        title: "Branch feature-x is a database of its own: app/feature-x in the connection string",
        to: To::Branch("app/feature-x"),
        sql: "CREATE TABLE invoices (id uuid PRIMARY KEY, total numeric);\n\
              DO $$ BEGIN EXECUTE 'CREATE INDEX by_total ON invoices (total)'; END $$;\n\
              SELECT to_regclass('customers') IS NULL AS main_is_elsewhere;",
        expect: &["CREATE TABLE", "DO", " t\n"],
        ..PLAIN
    },
    Step {
        title: "The history of main",
        sql: "SELECT branch, change_type, change_severity AS severity, object_identity, created_by, via_proxy\n\
              FROM pggit.history WHERE via_proxy ORDER BY created_at, object_type;",
        expect: &["main", "CREATE", "ALTER", "public.customers"],
        reject: &["invoices", "shortcuts", "DROP"],
        ..PLAIN
    },
    Step {
        title: "The history of feature-x, with what the DO block did",
        to: To::Branch("app/feature-x"),
        sql: "SELECT branch, change_type, change_severity AS severity, object_identity, created_by, via_proxy\n\
              FROM pggit.history WHERE via_proxy ORDER BY created_at, object_type;",
        expect: &["feature-x", "public.invoices", "public.by_total"],
        reject: &["customers"],
        ..PLAIN
    },
    Step {
        title: "The statement log on the control port: attempts count too",
        to: To::Control,
        sql: "SHOW STATEMENTS command_tag, verdict, rule, outcome LIMIT 8;",
        expect: &["refuse", "keep-tables", "rolled_back", "applied"],
        late: true,
        ..PLAIN
    },
    Step {
        title: "The branches, on the control port",
        to: To::Control,
        sql: "SHOW BRANCHES;",
        expect: &["main", "feature-x", "release"],
        ..PLAIN
    },
];

/// Takes every step and the metrics; an error names the first that came to something else than it should.
pub(super) async fn run(at: &Addresses) -> anyhow::Result<()> {
    for (number, step) in (1..).zip(STEPS) {
        println!("\n--- {number}. {}", step.title);
        let dsn = step.to.dsn(at)?;
        println!("$ psql \"{dsn}\"");
        let started = Instant::now();
        loop {
            let (output, failed) = psql(&dsn, step.sql).await?;
            let wrong = step.wrong(&output, failed);
            if wrong.is_some() && step.late && started.elapsed() < LAG {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            print!("{output}");
            if let Some(wrong) = wrong {
                bail!("step {number} ({}): {wrong}", step.title);
            }
            break;
        }
    }
    metrics(at).await
}

impl To {
    fn dsn(&self, at: &Addresses) -> anyhow::Result<String> {
        let (address, user, database) = match self {
            Self::Branch(database) => (&at.clients, "postgres", *database),
            Self::Control => (&at.control, "admin", "pggit"),
        };
        let (host, port) = address.rsplit_once(':').context("an address has a port")?;
        Ok(format!("host={host} port={port} user={user} dbname={database}"))
    }
}

impl Step {
    /// What is not as it should be.
    fn wrong(&self, output: &str, failed: bool) -> Option<String> {
        if failed != self.fails {
            return Some(format!("it should have {}", if self.fails { "failed" } else { "succeeded" }));
        }
        if let Some(missing) = self.expect.iter().find(|text| !output.contains(**text)) {
            return Some(format!("its output lacks {missing:?}"));
        }
        let present = self.reject.iter().find(|text| self.answer(output).contains(**text))?;
        Some(format!("its output contains {present:?}"))
    }

    /// The output without the statements that psql echoes.
    fn answer<'a>(&self, output: &'a str) -> &'a str {
        output.split_once(self.sql).map_or(output, |(_, answer)| answer)
    }
}

/// What psql printed, echoed statements, answers and errors in their order, and whether it ended with an error.
async fn psql(dsn: &str, sql: &str) -> anyhow::Result<(String, bool)> {
    let (mut reader, writer) = std::io::pipe()?;
    let mut command = tokio::process::Command::new("psql");
    command
        .args(["-X", "-a", "-v", "ON_ERROR_STOP=1", "-P", "pager=off", "-P", "footer=off", "-d", dsn])
        .env("PGCONNECT_TIMEOUT", "20")
        .env_remove("PGOPTIONS")
        .stdin(Stdio::piped())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .kill_on_drop(true);
    let mut child = command.spawn().context("running psql: is postgresql-client installed?")?;
    // It holds the pipe's writing ends; reading would never end.
    drop(command);
    let mut stdin = child.stdin.take().context("psql's standard input")?;
    stdin.write_all(format!("{sql}\n").as_bytes()).await?;
    drop(stdin);
    let read = tokio::task::spawn_blocking(move || {
        let mut output = Vec::new();
        reader.read_to_end(&mut output).map(|_| output)
    });
    let status = child.wait().await?;
    let output = read.await??;
    Ok((String::from_utf8_lossy(&output).into_owned(), !status.success()))
}

async fn metrics(at: &Addresses) -> anyhow::Result<()> {
    println!(
        "\n--- {}. What Prometheus would scrape\n$ curl -s http://{}/metrics | grep _total",
        STEPS.len() + 1,
        at.http
    );
    let started = Instant::now();
    loop {
        let text = scrape(&at.http).await?;
        let wanted = ["pggit_proxy_ddl_total", "pggit_proxy_verdicts_total"];
        let lines: Vec<&str> =
            text.lines().filter(|line| wanted.iter().any(|name| line.starts_with(&format!("{name}{{")))).collect();
        let complete = wanted.iter().all(|name| lines.iter().any(|line| line.starts_with(name)))
            && lines.iter().any(|line| line.contains("verdict=\"refuse\""));
        if complete {
            println!("{}", lines.join("\n"));
            return Ok(());
        }
        if started.elapsed() > LAG {
            bail!("the metrics lack {wanted:?} with a refusal:\n{text}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn scrape(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
