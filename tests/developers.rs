//! Twenty developers at once, each on a branch of their own: nobody sees anybody else's work, each history has its own changes and
//! its parent's up to the fork, and DIFF agrees with pg_dump.
//!
//! `PGGIT_DEVELOPERS_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use support::oracle::Facts;
use support::proxy::run;
use support::workload::{Unit, Workload};
use support::{PATIENCE, PgServer, Proxy, Wire, eventually, migrate, versions, wire};

/// Branches of main, and branches of the first of those.
const FIRST: usize = 14;
const SECOND: usize = 6;

/// What each developer does, at least: more until enough of it has changed something.
const UNITS: usize = 6;
const COMMITS: usize = 3;

struct Repository {
    server: &'static PgServer,
    app: String,
    proxy: Proxy,
}

/// What a developer did.
struct Work {
    branch: String,
    parent: String,
    sent: Vec<String>,
}

impl Repository {
    fn main(&self, sql: &str) -> String {
        self.server.psql(&self.app, sql)
    }

    fn database(&self, branch: &str) -> String {
        if branch == "main" {
            return self.app.clone();
        }
        self.main(&format!("select database from pggit.branches where name = '{branch}'"))
    }

    fn client(&self, branch: &str) -> Wire {
        Wire::connect(self.proxy.clients, &[("user", "postgres"), ("database", &format!("{}/{branch}", self.app))])
    }

    /// Rows of the history, oldest first: id, branch, whether through the proxy, statement.
    fn history(&self, branch: &str) -> Vec<[String; 4]> {
        let rows = self.server.psql(
            &self.database(branch),
            "select concat_ws(chr(31), id, branch, session_id IS NOT NULL, replace(coalesce(sql_executed, ''), E'\\n', ' ')) \
             from pggit.changes order by created_at, ordinal, id",
        );
        rows.lines()
            .map(|line| line.splitn(4, '\u{1f}').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap())
            .collect()
    }

    /// A generated workload on a branch, through the proxy; the texts that were sent.
    fn develop(&self, branch: &str, seed: u64, prefix: &str) -> Vec<String> {
        let url = self.server.url(&self.database(branch));
        let mut client = self.client(branch);
        let mut workload = Workload::new(seed, prefix);
        let (mut sent, mut changed) = (Vec::new(), 0);
        let mut facts = Facts::of(&url);
        for n in 0.. {
            if n >= UNITS && changed >= COMMITS {
                break;
            }
            // Now and then about what is not there any more: that fails, as it does for people.
            if n % 2 == 1 {
                facts = Facts::of(&url);
            }
            let texts = match workload.unit(&facts) {
                Unit::Single(sql) => vec![sql],
                Unit::Together(all) => vec![all.join(";\n")],
                Unit::Block(all) => all,
            };
            let mut failed = false;
            for sql in texts {
                let replies = client.ask(&wire::query(&sql));
                assert_eq!(
                    replies.last().map(|last| last.tag),
                    Some(b'Z'),
                    "{branch}: the connection ended after {sql}"
                );
                failed |= replies.iter().any(|reply| reply.tag == b'E');
                sent.push(sql);
            }
            changed += usize::from(!failed);
        }
        client.ask(&wire::query("rollback"));
        sent
    }

    /// A new branch, and work on it.
    fn branch_off(&self, n: usize, parent: &str, seed: u64) -> Work {
        let branch = format!("dev/{n}");
        self.proxy.control(&format!("create branch {branch} from {parent}"));
        let sent = self.develop(&branch, seed + n as u64, &format!("d{n}_"));
        Work { branch, parent: parent.to_owned(), sent }
    }

    fn dump(&self, branch: &str) -> String {
        self.server.schema_dump(&self.database(branch), &["-N", "pggit"])
    }
}

#[test]
fn twenty_developers_work_on_twenty_branches() {
    let seed: u64 = std::env::var("PGGIT_DEVELOPERS_SEED").map_or(1, |seed| seed.parse().unwrap());
    for version in versions() {
        let server = PgServer::shared(version);
        let app = server.unique_database("app");
        migrate(server, &app);
        let dump = server.client_program("pg_dump");
        let config = format!("[upstream]\ndbname = \"{app}\"\n[branches]\npg_dump = \"{}\"\n", dump.display());
        let it = Repository { server, proxy: Proxy::start(server, &config), app };

        let began = Instant::now();
        it.develop("main", seed * 1000, "m");
        let (before, dumped) = (it.history("main"), it.dump("main"));
        let at_once = |wave: Vec<(usize, String)>| -> Vec<Work> {
            let it = &it;
            std::thread::scope(|scope| {
                let all: Vec<_> = wave
                    .into_iter()
                    .map(|(n, parent)| scope.spawn(move || it.branch_off(n, &parent, seed * 1000)))
                    .collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            })
        };
        let mut all = at_once((1..=FIRST).map(|n| (n, "main".to_owned())).collect());
        all.extend(at_once((1..=SECOND).map(|n| (FIRST + n, format!("dev/{n}"))).collect()));

        println!("{version:?}: the work took {:?}", began.elapsed());
        // Main is as it was.
        assert_eq!(it.history("main"), before, "seed {seed}");
        assert_eq!(it.dump("main"), dumped, "seed {seed}");
        let mut histories: BTreeMap<String, Vec<[String; 4]>> = BTreeMap::from([("main".to_owned(), before)]);
        let mut own_rows: BTreeSet<String> = BTreeSet::new();
        let mut dumps: BTreeMap<&str, String> = BTreeMap::new();
        for work in &all {
            let rows = it.history(&work.branch);
            let parents = &histories[&work.parent];
            let place = format!("{} of {}, seed {seed}, {version:?}", work.branch, work.parent);
            // The parent's as it was at the fork: whoever is a parent here had done its work before.
            assert!(rows.len() > parents.len() && rows[..parents.len()] == parents[..], "{place}");
            for [id, branch, via_proxy, sql] in &rows[parents.len()..] {
                assert_eq!((branch, via_proxy.as_str()), (&work.branch, "t"), "{place}: {sql}");
                assert!(own_rows.insert(id.clone()), "{place}: another branch has {id}, too");
                let said = work.sent.iter().any(|text| text.replace('\n', " ").contains(sql.as_str()));
                assert!(said, "{place}: nobody said {sql}");
            }
            histories.insert(work.branch.clone(), rows);
            assert_eq!(untold(&it, &work.branch), "", "{place}");
            dumps.insert(&work.branch, it.dump(&work.branch));
        }
        for work in &all {
            let parent = if work.parent == "main" { &dumped } else { &dumps[work.parent.as_str()] };
            let place = format!("{} of {}, seed {seed}, {version:?}", work.branch, work.parent);
            compare(&it, work, (parent, &dumps[work.branch.as_str()]), &place);
        }
        // The chains hold: of a branch, and of a branch of a branch.
        for work in [&all[0], &all[FIRST + SECOND - 1]] {
            let database = it.database(&work.branch);
            assert!(eventually(PATIENCE, || server.psql(&database, "select count(*) from pggit.unsealed()") == "0"));
            let verified = run(&["verify", "--database-url", &server.url(&database)]);
            assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        }
        let rows = own_rows.len();
        println!("{version:?}: {} branches, {rows} changes of their own, {:?}", all.len(), began.elapsed());
        assert!(rows > all.len() * 3, "{rows} changes");
    }
}

/// Objects that the branch's history knows of and its catalogs do not, or the other way round. But for triggers: DETACH
/// PARTITION drops the partition's, and nobody is told.
fn untold(it: &Repository, branch: &str) -> String {
    it.server.psql(
        &it.database(branch),
        "select object_type, object_identity, h.stale, f.value is null as gone \
         from (select * from pggit.schema(clock_timestamp()) where fact = 'definition') h \
         full join (select * from pggit.facts() where fact = 'definition') f using (object_type, object_identity) \
         where (h.value is null or f.value is null) and object_type not in ('trigger', 'default acl') and not coalesce(h.stale, false)",
    )
}

/// Entries of a dump: type, schema and name -> text.
fn entries(dump: &str) -> BTreeMap<(String, String, String), String> {
    let mut all = BTreeMap::new();
    let mut pieces = dump.split("--\n-- Name: ");
    pieces.next();
    for piece in pieces {
        let (header, text) = piece.split_once('\n').unwrap();
        let (name, rest) = header.split_once("; Type: ").unwrap();
        let (kind, rest) = rest.split_once("; Schema: ").unwrap();
        let schema = rest.split_once("; Owner: ").unwrap().0;
        // What is set for the next entry is not this one's.
        let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("SET default_")).collect();
        all.insert((kind.to_owned(), schema.to_owned(), name.to_owned()), text.join("\n").trim_end().to_owned());
    }
    all
}

/// DIFF names what pg_dump prints differently, and nothing else.
fn compare(it: &Repository, work: &Work, (parent, own): (&str, &str), place: &str) {
    const KINDS: [(&str, &str); 14] = [
        ("TABLE", "table"),
        ("VIEW", "view"),
        ("MATERIALIZED VIEW", "materialized view"),
        ("SEQUENCE", "sequence"),
        ("FUNCTION", "function"),
        ("PROCEDURE", "procedure"),
        ("INDEX", "index"),
        ("TRIGGER", "trigger"),
        ("TYPE", "type"),
        ("DOMAIN", "type"),
        ("SCHEMA", "schema"),
        ("STATISTICS", "statistics object"),
        ("POLICY", "policy"),
        ("RULE", "rule"),
    ];
    let (parent, own) = (entries(parent), entries(own));
    let keys: BTreeSet<_> = parent.keys().chain(own.keys()).collect();
    let changed: Vec<_> = keys.into_iter().filter(|key| parent.get(*key) != own.get(*key)).collect();
    let plain = |identity: &str| identity.replace("\"\"", "\u{1}").replace('"', "").replace('\u{1}', "\"");
    let printed = it.proxy.control(&format!("diff {} {}", work.parent, work.branch));
    let told: BTreeSet<(String, String)> = printed
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.splitn(5, '|').collect();
            // Definitions have lines of their own, which are no rows.
            let is_row = cells.len() == 5 && ["added", "removed", "changed"].contains(&cells[3]);
            is_row.then(|| (cells[0].to_owned(), plain(cells[1])))
        })
        .collect();
    for key in &changed {
        let (kind, schema, name) = key;
        let Some((_, kind)) = KINDS.iter().find(|(dumped, _)| dumped == kind) else { continue };
        let identity = match *kind {
            // pg_dump puts the table first.
            "trigger" | "policy" | "rule" => continue_with(name, schema),
            "schema" => vec![name.clone()],
            _ => vec![format!("{schema}.{name}")],
        };
        let found = told
            .iter()
            .any(|(said, of)| (said == kind || said == "foreign table" && *kind == "table") && identity.contains(of));
        assert!(found, "{place}: DIFF does not tell of {key:?}\n{:?}\n{:?}\n{told:?}", parent.get(*key), own.get(*key));
    }
    // What a child inherits changes with its parent, and pg_dump prints it there only.
    let children =
        "select c.relname from pg_class c join pg_inherits i on i.inhrelid = c.oid where not c.relispartition";
    let children = it.server.psql(&it.database(&work.branch), children);
    for (kind, identity) in &told {
        let bare = identity.split(" on ").next().unwrap_or_default().split('(').next().unwrap_or_default();
        let bare = bare.rsplit_once('.').map_or(bare, |(_, name)| name);
        assert!(
            changed.iter().any(|(_, _, name)| name.contains(bare)) || children.lines().any(|child| child == bare),
            "{place}: DIFF tells of {kind} {identity}, which pg_dump prints alike\n{changed:?}\n{printed}"
        );
    }
}

/// `t g` is `g on schema.t`: wherever the name of the table ends.
fn continue_with(name: &str, schema: &str) -> Vec<String> {
    let spaces = name.match_indices(' ');
    spaces.map(|(at, _)| format!("{} on {schema}.{}", &name[at + 1..], &name[..at])).collect()
}
