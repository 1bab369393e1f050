//! Repositories whose main branch queues changes.

use super::{Proxy, Repository, psql, versions};

/// DDL and roles wait for approval there.
pub const RULE: &str = "[[rule]]\nname = \"ask\"\nbranch = \"main\"\nclass = [\"ddl\", \"role\"]\naction = \"queue\"\n";

impl Repository {
    /// Whether there is such a relation.
    pub fn has(&self, relation: &str) -> bool {
        self.sql(&format!("select to_regclass('{relation}') is not null")) == "t"
    }

    /// What the control port answers where it says no: SQLSTATE and text.
    pub fn control_error(&self, command: &str) -> String {
        control_error(&self.proxy, command)
    }
}

/// The same of another proxy.
pub fn control_error(proxy: &Proxy, command: &str) -> String {
    let output = psql(&proxy.control_dsn(), command);
    assert!(!output.status.success(), "{command} did not fail");
    String::from_utf8_lossy(&output.stderr).lines().next().unwrap().replace("ERROR:  ", "")
}

/// With that configuration.
pub fn each(config: &str, test: impl Fn(&Repository)) {
    for version in versions() {
        test(&Repository::new(version, config));
    }
}

/// With the rule.
pub fn each_version(test: impl Fn(&Repository)) {
    each(RULE, test);
}
