//! `pggit-proxy export --git`: the history as a real git repository, held against the history itself by git's own means.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::proxy::{PROGRAM, run};
use support::workload::{Workload, live_through};
use support::{PATIENCE, PgServer, Repository, eventually, migrate, versions};
use tempfile::TempDir;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn git(repository: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").arg("--git-dir").arg(repository).args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

fn try_export(it: &Repository, arguments: &[&str]) -> Output {
    run(&[&["export", "--database-url", &it.server.url(&it.database)], arguments].concat())
}

/// Waits until everything is sealed: only that is exported.
fn sealed(it: &Repository, database: &str) {
    let all = "select not exists (select from pggit.commits where seq is null)";
    assert!(eventually(PATIENCE, || it.server.psql(database, all) == "t"), "{}", it.proxy.log());
}

fn export(it: &Repository, repository: &Path) -> String {
    let output = try_export(it, &["--git", &repository.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = git(repository, &["fsck", "--strict", "--full"]);
    assert!(!said.contains("error") && !said.contains("warning"), "{said}");
    text(&output.stdout)
}

/// Every branch and its commit.
fn tips(repository: &Path) -> String {
    git(repository, &["for-each-ref", "--format=%(refname) %(objectname)"])
}

/// Commits of a branch, the oldest first: git's id and the history's.
fn commits(repository: &Path, reference: &str) -> Vec<(String, String)> {
    let told = git(
        repository,
        &["log", "--reverse", "--format=%H %(trailers:key=Pggit-Commit,valueonly,separator=%x2C)", reference],
    );
    told.lines().filter_map(|line| line.split_once(' ')).map(|(id, commit)| (id.into(), commit.into())).collect()
}

/// Every file of a commit and what is in it.
fn files(repository: &Path, commit: &str) -> BTreeMap<String, String> {
    let names = git(repository, &["ls-tree", "-r", "-z", "--name-only", commit]);
    let all = names.split('\0').filter(|name| !name.is_empty());
    all.map(|name| (name.to_owned(), git(repository, &["cat-file", "blob", &format!("{commit}:{name}")]))).collect()
}

/// Definitions that the history tells at a commit, sorted; those that it knows to be outdated are left out.
fn definitions(it: &Repository, database: &str, commit: &str) -> Vec<String> {
    let told = it.server.psql(
        database,
        &format!("select coalesce(jsonb_agg(value), '[]') from pggit.schema('{commit}'::uuid) where fact = 'definition' and not stale"),
    );
    let mut all: Vec<String> = serde_json::from_str(&told).unwrap();
    all.iter_mut().for_each(|one| *one = one.trim_end().to_owned());
    all.sort();
    all
}

fn branch(it: &Repository, arguments: &[&str]) {
    let dump = it.server.client_program("pg_dump").display().to_string();
    let url = it.server.url(&it.database);
    let output = run(&[&["branch", "--database-url", &url, "--pg-dump", &dump], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
}

fn database_of(it: &Repository, branch: &str) -> String {
    it.sql(&format!("select database from pggit.branches where name = '{branch}'"))
}

/// A place for a repository that is not there yet.
fn new_repository() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("schema.git");
    (home, repository)
}

#[test]
fn commits_files_authors_and_times_are_those_of_the_history() {
    for version in versions() {
        let it = Repository::new(version, "");
        let role = format!("\"ann_{} <x>\"", it.database);
        it.sql(&format!("create role {role} superuser login"));
        let mut client = support::Wire::connect(
            it.proxy.clients,
            &[("user", role.trim_matches('"')), ("database", &it.database), ("application_name", "alembic")],
        );
        for sql in [
            "/* pggit: first\n\nwith more of it */ create table t (a int primary key, b text)",
            "begin; create index on t (b); alter table t add c int; comment on column t.b is 'it''s'; commit",
            "create schema s; create view s.v as select a from t; create function s.f(int, text[]) returns int language sql as 'select 1'",
            "comment on table t is 'x'",
            "alter table t rename b to d",
            "alter table t drop column c",
            "create table s.moved (a int); alter table s.moved rename to gone",
            "alter schema s rename to r",
            "alter table r.gone set schema public",
            "grant select on t to public",
            "drop view r.v",
        ] {
            client.rows(sql);
        }
        sealed(&it, &it.database);
        let (_home, repository) = new_repository();
        let said = export(&it, &repository);
        let count = it.sql("select count(*) from pggit.commits");
        assert!(said.starts_with(&format!("{count} commits on 1 branches are in ")), "{said}");
        assert_eq!(git(&repository, &["symbolic-ref", "HEAD"]), "refs/heads/main");

        let log = git(
            &repository,
            &["log", "--reverse", "--format=%an|%at|%ct|%(trailers:key=Pggit-Commit,valueonly,separator=%x2C)", "main"],
        );
        let told = it.sql(
            "select concat_ws('|', replace(replace(author, '<', ''), '>', ''), floor(extract(epoch from created_at))::bigint, \
             floor(extract(epoch from created_at))::bigint, id) from pggit.commits order by seq",
        );
        assert_eq!(log, told);
        let messages = git(&repository, &["log", "--reverse", "--format=%B%x01", "main"]);
        let messages: Vec<&str> = messages.split('\u{1}').map(str::trim).collect();
        assert!(
            messages[1].starts_with("first\n\nwith more of it\n\n/* pggit: first")
                && messages[1].contains("create table t (a int primary key, b text)\n\nPggit-Commit: "),
            "{}",
            messages[1]
        );
        assert!(
            messages[2].starts_with("CREATE INDEX public.t_b_idx and 2 more\n\nbegin; create index"),
            "{}",
            messages[2]
        );
        assert!(messages[2].contains("\nPggit-Branch: main\nPggit-Application: alembic"), "{}", messages[2]);

        // Where nothing has been renamed that others name, a commit's files are what the history says.
        let all = commits(&repository, "main");
        for (id, commit) in &all[..4] {
            let mut there: Vec<String> = files(&repository, id)
                .into_values()
                .map(|file| file.split("\n\nCOMMENT ON").next().unwrap().to_owned())
                .collect();
            there.sort();
            assert_eq!(there, definitions(&it, &it.database, commit), "{commit}");
        }
        let newest = files(&repository, "main");
        let names: Vec<&str> = newest.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "extension/plpgsql.sql",
                "public/index/t_b_idx.sql",
                "public/index/t_pkey.sql",
                "public/table/gone.sql",
                "public/table/t.sql",
                "r/function/f(integer,pg_catalog.text[]).sql",
                "schema/public.sql",
                "schema/r.sql",
            ]
        );
        let table = &newest["public/table/t.sql"];
        assert!(
            table.contains("d text")
                && table.ends_with("\nCOMMENT ON TABLE public.t IS E'x';\n\nCOMMENT ON COLUMN public.t.d IS E'it''s';"),
            "{table}"
        );
        // Renames and moves are those of files.
        let moved = git(&repository, &["log", "--format=%s", "--follow", "main", "--", "public/table/gone.sql"]);
        assert!(moved.lines().count() >= 3, "{moved}");
    }
}

#[test]
fn running_it_again_adds_only_what_is_new() {
    let it = Repository::new(versions()[0], "");
    it.client().rows("create table t (a int); create table u (a int)");
    sealed(&it, &it.database);
    let (_home, repository) = new_repository();
    export(&it, &repository);
    let first = tips(&repository);
    let objects = || git(&repository, &["count-objects", "-v"]);
    let before = objects();
    export(&it, &repository);
    assert_eq!((tips(&repository), objects()), (first.clone(), before), "nothing new is nothing at all");

    it.client().rows("alter table t rename to v");
    it.client().rows("drop table u");
    sealed(&it, &it.database);
    export(&it, &repository);
    let old = first.split(' ').next_back().unwrap();
    assert_eq!(git(&repository, &["rev-list", "--count", &format!("{old}..main")]), "2");
    // The same from nothing, and as a stream.
    let (_home_of_other, other) = new_repository();
    export(&it, &other);
    assert_eq!(tips(&other), tips(&repository));
    let stream = try_export(&it, &["--git", "-"]).stdout;
    assert_eq!(stream, try_export(&it, &["--format", "git-fast-import"]).stdout);
    let (_home_of_third, third) = new_repository();
    assert!(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&third).status().unwrap().success());
    let mut import = Command::new("git")
        .arg("--git-dir")
        .arg(&third)
        .args(["fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(import.stdin.as_mut().unwrap(), &stream).unwrap();
    assert!(import.wait().unwrap().success());
    assert_eq!(tips(&third), tips(&repository));
}

/// Where no proxy is nobody seals, and that is said.
#[test]
fn what_is_not_sealed_is_left_out_and_counted() {
    let server = PgServer::shared(versions()[0]);
    let database = server.unique_database("unsealed");
    migrate(server, &database);
    server.psql(&database, "create table t (a int)");
    let (_home, repository) = new_repository();
    let directory = repository.display().to_string();
    let export = || run(&["export", "--git", &directory, "--database-url", &server.url(&database)]);
    let output = export();
    assert!(
        output.status.success() && text(&output.stderr).starts_with("2 commits are left out"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(tips(&repository), "");
    server.psql(&database, "select pggit.seal()");
    let output = export();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    assert_eq!(commits(&repository, "main").len(), 2);
}

#[test]
fn branches_share_what_they_have_in_common() {
    let it = Repository::new(versions()[0], "");
    let mut main = it.client();
    main.rows("create table t (a int, gone int, b text); alter table t drop gone; comment on column t.b is 'b'; create table other (a int)");
    sealed(&it, &it.database);
    branch(&it, &["create", "feature/x"]);
    branch(&it, &["create", "feature/y", "--from", "feature/x"]);
    let x = database_of(&it, "feature/x");
    it.server.psql(&x, "alter table t add on_x int; create table made_on_x (a int)");
    main.rows("create table made_on_main (a int)");
    sealed(&it, &x);
    branch(&it, &["create", "feature", "--from", "feature/x"]);
    sealed(&it, &it.database);
    let y = database_of(&it, "feature/y");
    it.server.psql(&y, "drop table other; comment on table t is 'y'");
    sealed(&it, &y);
    let (_home, repository) = new_repository();
    export(&it, &repository);
    let references = git(&repository, &["for-each-ref", "--format=%(refname)"]);
    assert_eq!(references, "refs/heads/feature\nrefs/heads/feature%2Fx\nrefs/heads/feature%2Fy\nrefs/heads/main");
    let base = |one: &str, other: &str| git(&repository, &["merge-base", one, other]);
    let fork = base("main", "feature%2Fx");
    assert_eq!(base("main", "feature%2Fy"), fork);
    let forked_at = it.server.psql(&x, "select commit_id from pggit.fork");
    assert_eq!(commits(&repository, &fork).last().unwrap().1, forked_at);
    assert_eq!(git(&repository, &["rev-parse", "feature"]), git(&repository, &["rev-parse", "feature%2Fx"]));
    for (name, database) in [("main", &it.database), ("feature%2Fx", &x), ("feature%2Fy", &y)] {
        let history = it.server.psql(database, "select string_agg(id::text, ' ' order by seq) from pggit.commits");
        let told: Vec<String> = commits(&repository, name).into_iter().map(|(_, commit)| commit).collect();
        assert_eq!(told.join(" "), history, "{name}");
        let tip = it.server.psql(database, "select commit_id from pggit.tip()");
        let mut there: Vec<String> = files(&repository, name)
            .into_values()
            .map(|file| file.split("\n\nCOMMENT ON").next().unwrap().to_owned())
            .collect();
        there.sort();
        assert_eq!(there, definitions(&it, database, &tip), "{name}");
    }
    // Columns have other numbers on the branches, and their comments stay with them.
    assert!(files(&repository, "feature%2Fx")["public/table/t.sql"].ends_with("COMMENT ON COLUMN public.t.b IS E'b';"));
    // One of them alone is the same.
    let (_home_of_alone, alone) = new_repository();
    let output = try_export(&it, &["--git", &alone.display().to_string(), "--branch", "feature/y"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(git(&alone, &["rev-parse", "feature%2Fy"]), git(&repository, &["rev-parse", "feature%2Fy"]));
    // A new branch, and new commits on old ones.
    branch(&it, &["create", "later"]);
    main.rows("drop table made_on_main");
    sealed(&it, &it.database);
    let before = tips(&repository);
    export(&it, &repository);
    assert_eq!(git(&repository, &["rev-parse", "main~1"]), git(&repository, &["rev-parse", "later"]));
    let stayed = |line: &&str| line.contains("feature");
    assert!(before.lines().filter(stayed).all(|line| tips(&repository).contains(line)));
}

/// Each is one file of its own, and none that git or a file system takes for something else.
#[test]
fn hostile_names_are_files_like_others() {
    let it = Repository::new(versions()[0], "");
    let names = [
        ".git",
        ".GIT",
        "..",
        ".",
        "a/../../../tmp/evil",
        "/etc/passwd",
        "-rf",
        "a\nb",
        "a\rM 100644 inline x",
        "\"quoted\"",
        "T",
        "t",
        "é",
        "e\u{301}",
        "表",
        "a b ",
        "a.",
        "~",
        "git~1",
        "%2E",
        "a\tb",
        "a:b",
        "\\",
        "*",
        "con",
        ".g\u{200c}it",
        "'",
        "$(id)",
        "a.sql",
        "sql",
    ];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut client = it.client();
    for name in names {
        client.rows(&format!("create schema {}", quoted(&format!("{name}s"))));
        client.rows(&format!("create schema {0}; create table {0}.{0} (a int)", quoted(name)));
        client.rows(&format!("create table {} (a int)", quoted(name)));
    }
    let long = "é".repeat(30);
    let types = (0..20).map(|n| quoted(&format!("{long}{n}")));
    for name in types.clone() {
        client.rows(&format!("create type {name} as enum ('a')"));
    }
    let arguments = types.collect::<Vec<_>>().join(", ");
    client.rows(&format!("create function f({arguments}) returns int language sql as 'select 1'"));
    client.rows(&format!("create function f({arguments}, int) returns int language sql as 'select 2'"));
    let role = format!("\"<r_{}\n> 1 +0000\"", it.database);
    it.sql(&format!("create role {role} login superuser; set session authorization {role}; /* pggit: <m>\nauthor x <y> 1 +0000\n\ndata 5 */ create table by_odd (a int)"));
    sealed(&it, &it.database);
    let (_home, repository) = new_repository();
    export(&it, &repository);
    let all = files(&repository, "main");
    let tip = it.sql("select commit_id from pggit.tip()");
    let mut there: Vec<String> = all.values().cloned().collect();
    there.sort();
    assert_eq!(there, definitions(&it, &it.database, &tip), "each object has a file with its definition");
    let parts: BTreeSet<&str> = all.keys().flat_map(|name| name.split('/')).collect();
    for part in parts {
        assert!(part.len() <= 200 && !part.starts_with(['.', '-', ' ']) && !part.ends_with(['.', ' ']), "{part}");
        assert!(!part.contains(['\\', ':', '*', '"', '\u{200c}']) && !part.chars().any(char::is_control), "{part}");
    }
    // A checkout, with what git itself does to be safe.
    let (_home_of_work, work) = new_repository();
    let source = repository.display().to_string();
    let output = Command::new("git")
        .args([
            "-c",
            "core.protectHFS=true",
            "-c",
            "core.protectNTFS=true",
            "clone",
            "--quiet",
            &source,
            &work.display().to_string(),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let clean =
        Command::new("git").args(["-C", &work.display().to_string(), "status", "--porcelain"]).output().unwrap();
    assert_eq!(text(&clean.stdout), "");
}

/// Generated changes, with drops, renames and failures: in the end, what is there is what the catalogs have.
#[test]
fn a_generated_history_ends_in_the_catalogs() {
    let it = Repository::new(versions()[0], "");
    let seed = std::env::var("PGGIT_EXPORT_SEED").map_or(5, |seed| seed.parse().unwrap());
    let mut workload = Workload::new(seed, "w").read_committed();
    live_through(&mut workload, 120, &mut it.client(), &it.server.url(&it.database));
    sealed(&it, &it.database);
    let (_home, repository) = new_repository();
    export(&it, &repository);
    let there = files(&repository, "main");
    let tip = it.sql("select commit_id from pggit.tip()");
    let count = it.sql(&format!("select count(*) from pggit.schema('{tip}'::uuid) where fact = 'definition'"));
    assert_eq!(there.len().to_string(), count, "{:?}", there.keys());
    let values: BTreeSet<&str> = there.values().map(|file| file.split("\n\nCOMMENT ON").next().unwrap()).collect();
    let missing: Vec<String> =
        definitions(&it, &it.database, &tip).into_iter().filter(|one| !values.contains(one.as_str())).collect();
    // What the server prints since something else was renamed is not what was recorded.
    assert!(missing.len() * 10 < there.len(), "{} of {}: {missing:#?}", missing.len(), there.len());
}

#[test]
fn what_is_no_repository_of_this_history_is_left_alone() {
    let it = Repository::new(versions()[0], "");
    it.client().rows("create table t (a int)");
    sealed(&it, &it.database);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path();
    std::fs::write(directory.join("file"), "x").unwrap();
    let output = try_export(&it, &["--git", &directory.display().to_string()]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("neither empty nor a git repository"));
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1);

    // Somebody's own commits on a branch of that name: nothing is overwritten. His working tree's repository is found inside.
    let home_of_own = tempfile::tempdir().unwrap();
    let own = home_of_own.path();
    let inside = own.join(".git");
    for arguments in [
        &["init", "--quiet", "-b", "main"][..],
        &["-c", "user.name=x", "-c", "user.email=x", "commit", "--quiet", "--allow-empty", "-m", "mine"],
    ] {
        let done = Command::new("git").arg("-C").arg(own).args(arguments).status().unwrap();
        assert!(done.success());
    }
    let before = tips(&inside);
    let output = try_export(&it, &["--git", &own.display().to_string()]);
    assert!(
        output.status.code() == Some(1) && text(&output.stderr).contains("not of this history"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(tips(&inside), before);

    // Without git it says so; of a repository around us nothing is used.
    let (_home_of_nowhere, nowhere) = new_repository();
    let url = it.server.url(&it.database);
    let output = Command::new(PROGRAM)
        .args(["export", "--git", &nowhere.display().to_string(), "--database-url", &url])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    assert!(
        output.status.code() == Some(1) && text(&output.stderr).contains("cannot run git"),
        "{}",
        text(&output.stderr)
    );
    let output = Command::new(PROGRAM)
        .args(["export", "--git", &nowhere.display().to_string(), "--database-url", &url])
        .env("GIT_DIR", &inside)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(tips(&inside), before);
    assert!(!tips(&nowhere).is_empty());
}
