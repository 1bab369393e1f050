//! What belongs to the whole server, or is reached through it, and is seldom met: tablespaces' rights, labels of shared
//! objects, DROP OWNED. In both captures: event triggers report none of it, or none where there are none.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::wire::extended;
use support::{Pg, PgServer, Proxy, Wire, migrate, migrate_without_triggers, versions};

/// A server of its own, with the proxy in front.
struct Place {
    server: PgServer,
    _proxy: Proxy,
    capture: &'static str,
    seen: usize,
}

fn each(versions: Vec<Pg>, prepare: impl Fn(&PgServer), mut test: impl FnMut(&mut Place, &mut Wire)) {
    for version in versions {
        for capture in ["trigger", "inject"] {
            let server = PgServer::start(version);
            let database = server.create_database("app");
            prepare(&server);
            match capture {
                "trigger" => migrate(&server, &database),
                _ => migrate_without_triggers(&server, &database),
            }
            let config = format!("[upstream]\ndbname = \"app\"\n[history]\ncapture = \"{capture}\"\n");
            let proxy = Proxy::start(&server, &config);
            let mut client = proxy.connect("app");
            let mut place = Place { server, _proxy: proxy, capture, seen: 0 };
            place.news();
            test(&mut place, &mut client);
        }
    }
}

impl Place {
    fn sql(&self, sql: &str) -> String {
        self.server.psql("app", sql)
    }

    /// `CHANGE type identity` of the rows since the last call, sorted.
    fn news(&mut self) -> Vec<String> {
        let all = self.sql(
            "select concat_ws(' ', change_type, object_type, object_identity) from pggit.history \
             where change_type <> 'BASELINE' order by created_at, ordinal",
        );
        let mut new: Vec<String> = all.lines().skip(self.seen).map(str::to_owned).collect();
        self.seen += new.len();
        new.sort();
        new
    }
}

#[test]
fn rights_on_a_tablespace_are_recorded() {
    each(
        versions(),
        |_| {},
        |it, client| {
            let folder = it.server.owned_directory("space");
            // Its making cannot run inside a transaction and is recorded by an intent; not what is looked at here.
            it.sql(&format!("create role friend; create tablespace space location '{}'", folder.display()));
            it.news();
            client.rows("grant create on tablespace space to friend");
            assert_eq!(it.news(), ["GRANT tablespace space"], "{}", it.capture);
            let access = "select new_definition from pggit.history where object_type = 'tablespace' order by created_at desc limit 1";
            assert!(it.sql(access).contains("friend=C/postgres"), "{}", it.sql(access));
            client.rows("begin; revoke create on tablespace space from friend; rollback");
            assert_eq!(it.news(), [""; 0], "{}", it.capture);
            client.rows("revoke create on tablespace space from friend");
            assert_eq!(it.news(), ["REVOKE tablespace space"], "{}", it.capture);
            assert!(!it.sql(access).contains("friend="), "{}", it.sql(access));
        },
    );
}

#[test]
fn what_drop_owned_takes_is_recorded() {
    each(
        versions(),
        |_| {},
        |it, client| {
            client.rows("create role leaver; create table kept (a int); grant select on kept to leaver; grant create on database app to leaver");
            client.rows("create schema private; alter schema private owner to leaver; create table private.t (a int primary key)");
            client.rows("alter table private.t owner to leaver; create view over as select a from private.t");
            client.rows("alter default privileges for role leaver grant select on tables to public");
            it.news();
            client.error("drop owned by leaver");
            assert_eq!(it.news(), [""; 0], "{}", it.capture);
            client.rows("drop owned by leaver cascade");
            let news = it.news();
            for wanted in
                ["DROP schema private", "DROP table private.t", "DROP index private.t_pkey", "DROP view public.over"]
            {
                assert!(news.contains(&wanted.to_owned()), "{wanted}, {}: {news:?}", it.capture);
            }
            assert!(
                !news.iter().any(|row| row.contains("kept") && row.starts_with("DROP")),
                "{}: {news:?}",
                it.capture
            );
            // Nothing is left for the probe to find.
            for _ in 0..2 {
                let look = "begin isolation level repeatable read; select suspected from pggit.probe(); commit";
                assert_eq!(
                    it.sql(look),
                    "0",
                    "{}: {:?}",
                    it.capture,
                    it.sql("select action, definition from pggit.probe_suspects")
                );
            }
        },
    );
}

/// A label provider, as `SECURITY LABEL` needs one: it takes any label.
const PROVIDER: &str = r#"
#include "postgres.h"
#include "commands/seclabel.h"
#include "fmgr.h"
PG_MODULE_MAGIC;
void _PG_init(void);
static void any_label(const ObjectAddress *object, const char *label) {}
void _PG_init(void) { register_label_provider("mark", any_label); }
"#;

/// Where Debian keeps the headers of a server's version.
fn headers(version: Pg) -> PathBuf {
    format!("/usr/include/postgresql/{}/server", version.0).into()
}

#[test]
fn labels_of_shared_objects_are_recorded() {
    // `scripts/setup.sh tests` brings the headers of Debian's own version; npm's servers have none.
    let versions: Vec<Pg> = versions().into_iter().filter(|version| headers(*version).exists()).collect();
    assert!(!versions.is_empty(), "no headers of any version: run `scripts/setup.sh tests`");
    let prepare = |server: &PgServer| {
        let folder = server.owned_directory("provider");
        let (source, library) = (folder.join("any.c"), folder.join("any.so"));
        std::fs::write(&source, PROVIDER).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-fPIC", "-shared", "-I"]).arg(headers(server.version)).arg(&source).arg("-o").arg(&library);
        assert!(cc.status().unwrap().success(), "{cc:?}");
        let setting = format!("alter database app set session_preload_libraries = '{}'", library.display());
        server.psql("postgres", &setting);
    };
    each(versions, prepare, |it, client| {
        client.rows("create role labelled; create table t (a int)");
        it.news();
        for (sql, wanted) in [
            ("security label for mark on role labelled is 'secret'", "SECURITY role labelled"),
            ("security label for mark on database app is 'secret'", "SECURITY database app"),
            ("security label for mark on table t is 'secret'", "SECURITY table"),
        ] {
            client.rows(&format!("begin; {sql}; rollback"));
            assert_eq!(it.news(), [""; 0], "{sql}, {}", it.capture);
            client.rows(sql);
            let news = it.news();
            assert!(news.len() == 1 && news[0].starts_with(wanted), "{sql}, {}: {news:?}", it.capture);
        }
    });
}

#[test]
fn dropping_what_is_not_there_leaves_no_row() {
    each(
        versions(),
        |_| {},
        |it, client| {
            client.rows("create function f() returns event_trigger language plpgsql as 'begin end'");
            client.rows("create event trigger watch on ddl_command_end execute function f()");
            client.rows("create role here; create role gone; drop role gone; drop event trigger watch");
            it.news();
            client.rows("drop role if exists gone");
            client.rows("drop event trigger if exists watch");
            assert_eq!(it.news(), [""; 0], "{}", it.capture);
            client.ask(&extended("drop role if exists gone", &[]));
            client.rows("drop role if exists gone, here; drop role if exists here");
            assert_eq!(it.news(), ["DROP role here"], "{}", it.capture);
            client.rows("begin; create role brief; drop role brief; drop role if exists brief, gone; commit");
            assert_eq!(it.news(), ["CREATE role brief", "DROP role brief"], "{}", it.capture);
        },
    );
}

#[test]
fn each_rename_of_one_text_is_told_with_its_own_name() {
    each(
        versions(),
        |_| {},
        |it, client| {
            client.rows("create role a; create role c");
            it.news();
            client.rows("alter role a rename /* to nobody */ to \"b B\"; alter role c rename to d");
            assert_eq!(it.news(), ["RENAME role \"b B\"", "RENAME role d"], "{}", it.capture);
        },
    );
}
