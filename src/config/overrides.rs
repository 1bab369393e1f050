//! Flags of the command line, which override the file.

use super::read::open_control;
use super::section::{parse_address, parse_address_or_off};
use super::upstream::parse_whole_url;
use super::{Config, Problem, ValueOrigin};

/// What the command line says instead of the file; texts as they were typed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen ADDR`
    pub listen: Option<String>,
    /// `--control ADDR`, or `off`
    pub control: Option<String>,
    /// `--http ADDR`, or `off`
    pub http: Option<String>,
    /// `--upstream URL`
    pub upstream: Option<String>,
}

/// The URL may hold a password.
impl std::fmt::Debug for Overrides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let upstream = self.upstream.as_ref().map(|_| "…");
        f.debug_struct("Overrides")
            .field("listen", &self.listen)
            .field("control", &self.control)
            .field("http", &self.http)
            .field("upstream", &upstream)
            .finish()
    }
}

impl Config {
    /// Puts the flags over the file. They stay with the configuration, so that a reload can put them over it again.
    pub fn with_overrides(mut self, overrides: Overrides) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut set = |key: &str, flag: &'static str, result: Result<(), String>| match result {
            Ok(()) => {
                self.origins.insert(key.to_owned(), ValueOrigin::Flag);
            }
            Err(message) => problems.push(Problem { place: flag.to_owned(), message }),
        };
        if let Some(text) = &overrides.listen {
            set("listen.address", "--listen", parse_address(text).map(|address| self.listen.address = address));
        }
        if let Some(text) = &overrides.control {
            let users = !self.control.users.is_empty();
            let address = parse_address_or_off(text).and_then(|address| match open_control(address, users) {
                Some(message) => Err(message),
                None => Ok(address),
            });
            set("control.address", "--control", address.map(|address| self.control.address = address));
        }
        if let Some(text) = &overrides.http {
            set("http.address", "--http", parse_address_or_off(text).map(|address| self.http.address = address));
        }
        if let Some(text) = &overrides.upstream {
            let url = parse_whole_url(text).and_then(|url| {
                self.upstream.replace(url);
                let main = &self.upstream.dbname;
                if self.branches.default_in_main {
                    let default = self.branches.default.clone();
                    for branch in self.branches.declared.iter_mut().filter(|branch| branch.name == default) {
                        branch.database.clone_from(main);
                    }
                }
                self.branches.conflicts(main).into_iter().next().map_or(Ok(()), |conflict| Err(conflict.message))
            });
            set("upstream.url", "--upstream", url.and_then(|()| self.upstream.prepare()));
        }
        if let Some(message) = self.shared_address() {
            problems.push(Problem { place: "command line".to_owned(), message });
        }
        if let Some(message) = self.unsound_passthrough() {
            problems.push(Problem { place: "command line".to_owned(), message });
        }
        self.overrides = overrides;
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// Two ports on one address cannot be opened; port 0 means any free one.
    pub(super) fn shared_address(&self) -> Option<String> {
        let ports = [
            ("listen.address", Some(self.listen.address)),
            ("control.address", self.control.address),
            ("http.address", self.http.address),
        ];
        for (index, (name, address)) in ports.iter().enumerate() {
            let Some(address) = address.filter(|address| address.port() != 0) else { continue };
            if let Some((other, _)) = ports[..index].iter().find(|(_, other)| *other == Some(address)) {
                return Some(format!("`{other}` and `{name}` are both {address}"));
            }
        }
        None
    }
}
