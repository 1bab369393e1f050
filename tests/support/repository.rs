//! A database with the `pggit` schema on the shared server, and a proxy of its own in front.

use super::{Pg, PgServer, Proxy, Wire, migrate};

/// A new database on this server, migrated, and a proxy in front with this configuration besides the addresses.
pub fn repository(server: &PgServer, config: &str) -> (String, Proxy) {
    let database = server.unique_database("app");
    migrate(server, &database);
    let proxy = Proxy::start(server, &format!("[upstream]\ndbname = \"{database}\"\n{config}"));
    (database, proxy)
}

/// What most tests of recording start with. Tests add their own ways of asking in an `impl` of theirs.
pub struct Repository {
    pub server: &'static PgServer,
    pub database: String,
    pub proxy: Proxy,
}

impl Repository {
    /// With this configuration besides the addresses.
    pub fn new(version: Pg, config: &str) -> Self {
        let server = PgServer::shared(version);
        let (database, proxy) = repository(server, config);
        Self { server, database, proxy }
    }

    /// Directly on the server.
    pub fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql)
    }

    /// Through the proxy.
    pub fn client(&self) -> Wire {
        self.proxy.connect(&self.database)
    }
}

/// Two branches, `main` and `other`, each a database of its own that the configuration declares.
pub struct TwoBranches {
    pub server: &'static PgServer,
    pub app: String,
    pub other: String,
    pub proxy: Proxy,
}

impl TwoBranches {
    pub fn new(version: Pg) -> Self {
        let server = PgServer::shared(version);
        let (app, other) = (server.unique_database("app"), server.unique_database("other"));
        for database in [&app, &other] {
            migrate(server, database);
        }
        let config = format!("[upstream]\ndbname = \"{app}\"\n[branches.other]\ndatabase = \"{other}\"\n");
        Self { server, proxy: Proxy::start(server, &config), app, other }
    }
}
