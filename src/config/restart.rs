//! What a reload can change, and what waits for a restart.

use super::{Config, HistoryConfig, Limits, Listen};

impl Config {
    /// Keeps the values of the running process where only a start can change them. Returns the keys whose new value
    /// waits for a restart.
    pub fn keep_what_needs_a_restart(&mut self, running: &Self) -> Vec<String> {
        let wanted = self.summary();
        let mut waiting = Vec::new();
        if self.upstream.password != running.upstream.password {
            waiting.push("upstream.password".to_owned());
        }
        self.listen = Listen {
            max_clients: self.listen.max_clients,
            proxy_protocol: std::mem::take(&mut self.listen.proxy_protocol),
            tls: std::mem::take(&mut self.listen.tls),
            ..running.listen.clone()
        };
        self.upstream = running.upstream.clone();
        self.history =
            HistoryConfig { capture: running.history.capture, queue: running.history.queue, ..self.history.clone() };
        self.control.address = running.control.address;
        self.http = running.http.clone();
        self.log.json = running.log.json;
        self.limits = Limits { cache_bytes: running.limits.cache_bytes, ..self.limits.clone() };
        self.branches.pg_dump.clone_from(&running.branches.pg_dump);
        if self.branches.default_in_main {
            let default = &self.branches.default;
            for branch in self.branches.declared.iter_mut().filter(|branch| branch.name == *default) {
                branch.database.clone_from(&running.upstream.dbname);
            }
        }
        for ((key, wanted, _), (_, kept, _)) in wanted.into_iter().zip(self.summary()) {
            if wanted != kept && (!key.starts_with("branches.") || key == "branches.pg_dump") {
                waiting.push(key);
            }
        }
        waiting
    }
}
