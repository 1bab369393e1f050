//! Branches that expire: dropped when their time is over and nobody is on them; not before, and not those that are to stay.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::proxy::run;
use support::{PATIENCE, Proxy, Repository, Wire, eventually, psql, versions};

const QUEUE: &str = "[[rule]]\nname = \"q\"\nbranch = \"z\"\nclass = \"ddl\"\naction = \"queue\"\n";

fn each(test: impl Fn(&Repository, &str)) {
    for version in versions() {
        let dump = support::PgServer::shared(version).client_program("pg_dump");
        let config = format!("[branches]\npg_dump = \"{}\"\n", dump.display());
        test(&Repository::new(version, &format!("{config}{QUEUE}")), &config);
    }
}

/// Another proxy of the repository: a proxy sweeps when it starts.
fn sweep(it: &Repository, config: &str) -> Proxy {
    Proxy::start(it.server, &format!("[upstream]\ndbname = \"{}\"\n{config}", it.database))
}

fn on(it: &Repository, branch: &str) -> Wire {
    let parameters = [("user", "postgres"), ("database", it.database.as_str()), ("pggit.branch", branch)];
    Wire::connect(it.proxy.clients, &parameters)
}

fn branches(it: &Repository) -> String {
    it.sql("select string_agg(name, ' ' order by name) from pggit.branches where status = 'active'")
}

/// Waits until nobody but the recorder is on the branch.
fn wait_until_free(it: &Repository, branch: &str) {
    let there = format!("show branches sessions where name = '{branch}'");
    assert!(eventually(PATIENCE, || it.proxy.control(&there) == "0"));
}

#[test]
fn a_branch_is_dropped_when_its_time_is_over_and_nobody_is_there() {
    each(|it, config| {
        for name in ["guarded", "later", "used", "z"] {
            it.proxy.control(&format!("create branch {name} from main"));
        }
        let mut asked = on(it, "z");
        assert!(asked.error("create table queued ()").field(b'M').unwrap().contains("change request"));
        drop(asked);
        wait_until_free(it, "z");
        let used = on(it, "used");
        it.proxy.control("alter branch guarded protect");
        it.proxy.control("alter branch later expires after '2h'");
        it.sql(
            "update pggit.branches set expires_at = now() - interval '1 min' where name in ('guarded', 'used', 'z')",
        );
        let sweeper = sweep(it, config);
        // They are looked at in the order of their names: when the last one is gone the others had their turn.
        assert!(eventually(PATIENCE, || branches(it) == "guarded later main used"), "{}", branches(it));
        // The first proxy sweeps now and then, too.
        assert!(eventually(PATIENCE, || (sweeper.log() + &it.proxy.log()).contains("branch z, expired")));
        let like = "select count(*) from pg_database where datname like current_database() || '\\_\\_z\\_%'";
        assert_eq!(it.sql(like), "0");
        assert_eq!(it.sql("select status from pggit.change_requests where branch = 'z'"), "expired");
        // It has its time until nobody is there any more.
        drop(used);
        wait_until_free(it, "used");
        let _again = sweep(it, config);
        assert!(eventually(PATIENCE, || branches(it) == "guarded later main"), "{}", branches(it));
    });
}

#[test]
fn branches_are_given_a_time_and_kept() {
    each(|it, config| {
        it.proxy.control("create branch b from main");
        let expires = || it.proxy.control("show branches expires_at where name = 'b'");
        let left = || {
            it.sql("select round(extract(epoch from expires_at - now()) / 3600) from pggit.branches where name = 'b'")
        };
        assert_eq!(expires(), "", "a branch stays where nothing is said");
        it.proxy.control("alter branch b expires after '48h'");
        assert_eq!(left(), "48");
        assert_ne!(expires(), "");
        it.proxy.control("alter branch b expires never");
        assert_eq!(expires(), "");
        let url = it.server.url(&it.database);
        let command = |words: &[&str]| run(&[&["branch", "--database-url", &url], words].concat());
        assert!(command(&["expire", "b", "--after", "3h"]).status.success());
        assert_eq!(left(), "3");
        let listed = String::from_utf8(command(&["list"]).stdout).unwrap();
        let line = listed.lines().find(|line| line.starts_with("b ")).unwrap();
        let written = "select to_char(expires_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') from pggit.branches \
                       where name = 'b'";
        assert!(line.ends_with(&it.sql(written)), "{line}");
        assert!(command(&["expire", "b", "--never"]).status.success());
        assert_eq!(expires(), "");
        for words in
            [&["expire", "b"][..], &["expire", "b", "--after", "3h", "--never"], &["expire", "b", "--after", "x"]]
        {
            assert!(!command(words).status.success(), "{words:?}");
        }
        for (command, wanted) in [
            ("alter branch main expires after '1h'", "is the default branch"),
            ("alter branch nope expires after '1h'", "3D000"),
            ("alter branch b expires after 'soon'", "22007"),
        ] {
            let refused = psql(&it.proxy.control_dsn(), command);
            assert!(String::from_utf8_lossy(&refused.stderr).contains(wanted), "{command}");
        }
        // What a configuration declares stays.
        it.proxy.control("alter branch b expires after '1h'");
        let database = it.sql("select database from pggit.branches where name = 'b'");
        let _declares = sweep(it, &format!("{config}[branches.other]\ndatabase = \"{database}\"\n"));
        assert!(eventually(PATIENCE, || expires().is_empty()));
    });
}
