//! `pggit-proxy export`: the history of a branch as JSON, as a script for psql, or as a git repository.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sqlx::Connection as _;

use super::connect;
use crate::branch::{Branch, Branches};
use crate::history::Server;
use crate::history::branching;
use crate::history::export::{self, ExportError, Progress, Selection, Source};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// What to write, and where to.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The branch, without it the default one; with git several may be named, without any it is all
    #[arg(long, value_name = "BRANCH")]
    branch: Vec<String>,
    /// Only commits of this time or later, in UTC where it does not say
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only commits before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// What to write
    #[arg(long, value_enum, required_unless_present = "git")]
    format: Option<Format>,
    /// Write into this file instead of standard output; it is there when all of it is written
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Add what is new to the git repository in this directory, which is made if it is not there; "-" is --format git-fast-import
    #[arg(long, value_name = "DIR", conflicts_with_all = ["format", "output", "since", "until"])]
    git: Option<PathBuf>,
    /// The proxy's configuration file, which says where the repository's main database is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The repository's main database, as a libpq URL
    #[arg(
        long,
        value_name = "URL",
        env = "PGGIT_DATABASE_URL",
        hide_env_values = true,
        required_unless_present = "config"
    )]
    database_url: Option<String>,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The statements, for psql
    Sql,
    /// An object a line for each changed object
    Json,
    /// A stream for `git fast-import`
    GitFastImport,
}

/// Writes it.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let (server, known) = repository(&options).await?;
    let mut teller = Teller { begun: Instant::now(), next: TELL_EVERY };
    let mut told = |progress: Progress| teller.tell(&progress);
    let format = match &options.git {
        Some(directory) if directory != Path::new("-") => {
            return into_repository(&server, &known, &options, directory, &mut told).await;
        }
        Some(_) => Format::GitFastImport,
        None => options.format.context("--format is missing")?,
    };
    let mut out = Output::open(options.output.as_deref())?;
    let counted = match format {
        Format::GitFastImport => {
            if options.since.is_some() || options.until.is_some() {
                bail!("a git repository has the whole history: no --since and --until");
            }
            let branches = branches(&options, &known);
            let written = export::write_git(&server, &known, &branches, &mut out.writer, &mut told).await;
            let written = written.map_err(explained)?;
            left_out(&written);
            format!("{} commits", written.commits)
        }
        Format::Sql | Format::Json => {
            let branch = match options.branch.as_slice() {
                [] => known.default.as_str(),
                [one] => one,
                _ => bail!("one --branch at a time"),
            };
            let selection = Selection { since: options.since, until: options.until, sealed_only: false };
            let mut source = Source::open(&server, &known, branch, &selection).await.map_err(explained)?;
            let counted = if format == Format::Json {
                export::write_json(&mut source, &mut out.writer, &mut told).await.map(|rows| format!("{rows} rows"))
            } else {
                export::write_script(&mut source, &mut out.writer, &mut told).await.map(|all| format!("{all} commits"))
            };
            source.close().await;
            counted.map_err(explained)?
        }
    };
    out.finish()?;
    eprintln!("wrote {counted}");
    Ok(())
}

/// The server and its branches, by the file or by the URL.
async fn repository(options: &Options) -> anyhow::Result<(Server, Branches)> {
    let (server, config) = match (&options.config, &options.database_url) {
        (Some(file), _) => {
            let (server, config) = super::serve::server_of(file).await?;
            (server, Some(config))
        }
        (None, Some(url)) => (connect::server(url, None).await?, None),
        (None, None) => bail!("--database-url is missing"),
    };
    let mut main = server.connect(&server.main).await?;
    let mut known = branching::branches(&mut main).await?;
    main.close().await.context("cannot close the connection")?;
    if let Some(config) = config {
        let rows: Vec<Branch> = known.all.iter().map(|branch| Branch::clone(branch)).collect();
        known = config.branches(&rows);
    }
    Ok((server, known))
}

fn branches(options: &Options, known: &Branches) -> Vec<String> {
    match options.branch.as_slice() {
        [] => known.all.iter().map(|branch| branch.name.clone()).collect(),
        named => named.to_vec(),
    }
}

fn explained(error: ExportError) -> anyhow::Error {
    match error {
        ExportError::Branch(error) => super::branch::explained(error),
        error => error.into(),
    }
}

/// Has git add it to a repository.
async fn into_repository(
    server: &Server,
    known: &Branches,
    options: &Options,
    directory: &Path,
    told: &mut (dyn FnMut(Progress) + Send),
) -> anyhow::Result<()> {
    let repository = repository_in(directory, &export::git_reference(&known.default, known))?;
    let mut git = git();
    git.arg("--git-dir").arg(&repository).args(["fast-import", "--quiet", "--done", "--date-format=raw"]);
    let mut child = git.stdin(Stdio::piped()).spawn().context("cannot run git")?;
    let stdin = child.stdin.take().context("git takes nothing")?;
    let mut out = BufWriter::new(stdin);
    let written = export::write_git(server, known, &branches(options, known), &mut out, told).await;
    if let Err(error @ (ExportError::Branch(_) | ExportError::Sql(_))) = written {
        // Before it takes our end for a broken stream.
        child.kill().and_then(|()| child.wait()).context("cannot end git")?;
        return Err(explained(error));
    }
    let flushed = out.flush();
    // Only now git sees the end.
    drop(out);
    let ended = child.wait().context("git was lost")?;
    // Where git ended first it has said why, and we only met a closed pipe.
    if !ended.success() {
        bail!("git fast-import failed ({ended}): a branch there may have commits that are not of this history");
    }
    let written = written.map_err(explained)?;
    flushed.context("cannot write to git")?;
    left_out(&written);
    println!("{} commits on {} branches are in {}", written.commits, written.branches, repository.display());
    Ok(())
}

/// Nobody should take for all of it what is not.
fn left_out(written: &export::WrittenGit) {
    if written.unsealed > 0 {
        eprintln!(
            "{} commits are left out, as they are not sealed yet: a proxy does that, or SELECT pggit.seal()",
            written.unsealed
        );
    }
}

/// git, with nothing from a repository around us.
fn git() -> Command {
    let mut git = Command::new("git");
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_NAMESPACE",
    ] {
        git.env_remove(name);
    }
    git
}

/// The repository of a directory. One that is not there, or is empty, becomes a bare one.
fn repository_in(directory: &Path, head: &str) -> anyhow::Result<PathBuf> {
    let is_one = |path: &Path| path.join("HEAD").is_file() && path.join("objects").is_dir();
    let inside = directory.join(".git");
    if is_one(directory) {
        return Ok(directory.to_owned());
    } else if is_one(&inside) {
        return Ok(inside);
    }
    match fs::read_dir(directory).map(|mut all| all.next().is_none()) {
        Ok(true) => {}
        Ok(false) => bail!("{} is neither empty nor a git repository", directory.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| directory.display().to_string()),
    }
    let made = [vec!["init", "--quiet", "--bare"], vec!["symbolic-ref", "HEAD", head]];
    for (at, arguments) in made.iter().enumerate() {
        let mut git = git();
        if at > 0 {
            git.arg("--git-dir").arg(directory);
        }
        git.args(arguments);
        if at == 0 {
            git.arg("--").arg(directory);
        }
        let ended = git.stdin(Stdio::null()).status().context("cannot run git: is it installed?")?;
        if !ended.success() {
            bail!("git {} failed ({ended})", arguments.join(" "));
        }
    }
    Ok(directory.to_owned())
}

/// Standard output, or a file that is there only when all is written.
struct Output {
    writer: BufWriter<Box<dyn Write + Send>>,
    file: Option<(File, PathBuf, PathBuf)>,
}

impl Output {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self { writer: BufWriter::new(Box::new(std::io::stdout())), file: None });
        };
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).with_context(|| part.display().to_string())?;
        let writer = file.try_clone().with_context(|| part.display().to_string())?;
        Ok(Self { writer: BufWriter::new(Box::new(writer)), file: Some((file, part, path.to_owned())) })
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.writer.flush().context("cannot write")?;
        let Some((file, part, path)) = self.file else { return Ok(()) };
        file.sync_all().with_context(|| part.display().to_string())?;
        fs::rename(&part, &path).with_context(|| path.display().to_string())
    }
}

/// Says how far it is, now and then.
struct Teller {
    begun: Instant,
    next: Duration,
}

impl Teller {
    fn tell(&mut self, progress: &Progress) {
        let took = self.begun.elapsed();
        if took < self.next {
            return;
        }
        self.next = took + TELL_EVERY;
        let Progress { branch, commits, of } = progress;
        eprintln!("{branch}: {commits} of {of} commits in {:.0} s", took.as_secs_f64());
    }
}
