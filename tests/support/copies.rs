//! Repositories whose main database is copied with its data while clients are on it.

use std::thread::{Scope, ScopedJoinHandle};

use super::wire::query;
use super::{Message, PATIENCE, PgServer, Proxy, Repository, Wire, eventually, psql, versions};

/// Its main branch has a table `t` of 1000 rows.
pub fn each(test: impl Fn(&Repository)) {
    for version in versions() {
        let it = Repository::new(version, "");
        it.proxy.psql(&it.database, "create table t (n int); insert into t select generate_series(1, 1000)");
        test(&it);
    }
}

/// Lets a copy begin and not end: CREATE DATABASE waits for this after it has locked its template.
pub struct Brake(Wire);

impl Brake {
    /// On every copy of this server.
    pub fn on(server: &PgServer) -> Self {
        let mut wire = Wire::connect(server.address, &[("user", "postgres"), ("database", "postgres")]);
        wire.rows("begin; lock table pg_catalog.pg_database in share mode");
        Self(wire)
    }

    /// The server process that has it.
    pub fn pid(&mut self) -> String {
        pid(&mut self.0)
    }

    /// Lets copies end.
    pub fn release(mut self) {
        self.0.rows("commit");
    }
}

/// The client's server process.
pub fn pid(client: &mut Wire) -> String {
    client.value("select pg_backend_pid()")
}

/// The tags of messages.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

/// Whether the session was ended by an administrator.
pub fn is_ended(mut client: Wire) -> bool {
    client.read_to_end().last().and_then(|last| last.field(b'C')).as_deref() == Some("57P01")
}

impl Repository {
    /// Another proxy of it.
    pub fn another_proxy(&self) -> Proxy {
        Proxy::start(self.server, &format!("[upstream]\ndbname = \"{}\"\n", self.database))
    }

    /// What the control port says of a command that must fail.
    pub fn refused(&self, command: &str) -> String {
        let output = psql(&self.proxy.control_dsn(), command);
        assert!(!output.status.success(), "{command} was done");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Copies the main branch in another thread; returns when the server is at it.
    pub fn begin_copy<'s>(&'s self, scope: &'s Scope<'s, '_>, name: &'static str) -> ScopedJoinHandle<'s, String> {
        let copying = scope.spawn(move || self.proxy.control(&format!("create branch {name} from main with data")));
        self.copy_has_begun();
        copying
    }

    /// Waits until the server is at a copy that a [`Brake`] stops.
    pub fn copy_has_begun(&self) {
        self.copy_of_has_begun(&self.database);
    }

    /// The same of another database.
    pub fn copy_of_has_begun(&self, database: &str) {
        let waiting = format!(
            "select count(*) from pg_stat_activity where query like 'CREATE DATABASE%TEMPLATE \"{database}\"%' \
             and wait_event_type = 'Lock'"
        );
        assert!(eventually(PATIENCE, || self.server.psql("postgres", &waiting) == "1"), "{}", self.proxy.log());
    }

    /// What the proxy's clients are doing, in their order.
    pub fn states(&self) -> String {
        self.proxy.control("show clients state order by id").replace('\n', ", ")
    }

    /// Directly, in the database of a copy.
    pub fn copied(&self, name: &str, sql: &str) -> String {
        let database = format!("select database from pggit.branches where name = '{name}'");
        self.server.psql(&self.server.psql(&self.database, &database), sql)
    }
}
