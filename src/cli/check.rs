//! `pggit-proxy check`: is this file a configuration, and what does it come to.

use std::fmt::Write;
use std::path::Path;

use crate::branch::Branches;
use crate::config::{AuthMode, Config, show_duration};
use crate::policy::{Action, Rule};

/// Prints a summary and returns 0, or prints every problem and returns 1. `run` reads the environment too, as `serve` does.
pub fn run(path: &Path) -> u8 {
    match Config::load(path) {
        Ok(config) => {
            print!("{}", summary(&path.display().to_string(), &config));
            0
        }
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            1
        }
    }
}

/// What an operator wants to see at a glance.
fn summary(file: &str, config: &Config) -> String {
    let address = |address: Option<std::net::SocketAddr>| address.map_or("off".to_owned(), |a| a.to_string());
    let upstream = &config.upstream;
    let password = if upstream.password.is_some() { "with a password" } else { "without a password" };
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<9} {value}");
    };
    line("ok", file.to_owned());
    line("clients", format!("{}, at most {}", config.listen.address, config.listen.max_clients));
    let tls = match &config.listen.tls.client_ca {
        Some(_) => ", with clients' certificates",
        None => "",
    };
    line(
        "tls",
        format!("{} to clients{tls}, {} to the server", config.listen.tls.mode.as_str(), upstream.ssl.mode().as_str()),
    );
    line("login", config.auth.mode.as_str().to_owned());
    line("control", format!("{}, {} users", address(config.control.address), config.control.users.len()));
    line("http", address(config.http.address));
    let hosts: Vec<String> = upstream.each().iter().map(|one| format!("{}:{}", one.host, one.port)).collect();
    line("server", format!("{}@{}/{}, {password}", upstream.user, hosts.join(","), upstream.dbname));
    let history = &config.history;
    line("history", format!("capture {}, on failure {}", history.capture.as_str(), history.on_failure.as_str()));
    for branch in branches(&config.branches(&[])) {
        line("branch", branch);
    }
    if !config.branches.auto_create.patterns.is_empty() {
        line("on demand", on_demand(config));
    }
    line("rules", config.rules.len().to_string());
    for reroute in reroutes(config) {
        line("reroute", reroute);
    }
    text
}

/// What each rule that reroutes needs and this file cannot promise.
fn reroutes(config: &Config) -> Vec<String> {
    let branches = config.branches(&[]);
    let show = |rule: &Rule| {
        let Action::Reroute(to) = &rule.action else { return None };
        let mut text = format!("{} to {to}", rule.name);
        if branches.find(to).is_none() {
            text += ", which is not declared here: it has to be made with CREATE BRANCH";
        }
        if config.auth.mode == AuthMode::Passthrough {
            text += "; statements only of users whom the server asks for no password (auth.mode = \"passthrough\")";
        }
        Some(text)
    };
    config.rules.iter().filter_map(show).collect()
}

/// The branches that a connection makes.
fn on_demand(config: &Config) -> String {
    let auto = &config.branches.auto_create;
    let stay = match auto.ttl {
        Some(ttl) => format!("for {}", show_duration(ttl)),
        None => "until they are dropped".to_owned(),
    };
    let mut text = format!("{} from {}, at most {}, {stay}", auto.written(), config.branches.default, auto.max);
    if config.auth.mode == AuthMode::Passthrough {
        text += "; who is asked for a password has to connect again (auth.mode = \"passthrough\")";
    }
    text
}

fn branches(branches: &Branches) -> Vec<String> {
    let show = |branch: &crate::branch::Branch| {
        let default = if branch.name == branches.default { ", default" } else { "" };
        let protected = if branch.protected { ", protected" } else { "" };
        format!("{} in database {}{default}{protected}", branch.name, branch.database)
    };
    branches.all.iter().map(|branch| show(branch)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn summary_shows_branches_and_no_password() {
        let text = "[upstream]\nurl = \"postgres://rec:hunter2@h/app\"\n[branches.main]\nprotected = true\n";
        let text = summary("f.toml", &Config::parse(text, "f.toml").unwrap());
        assert!(text.contains("rec@h:5432/app, with a password"), "{text}");
        assert!(text.contains("main in database app, default, protected"), "{text}");
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn what_a_reroute_needs_is_said() {
        let rule = "[[rule]]\nname = \"r\"\nbranch = \"main\"\naction = \"reroute\"\nto = \"staging\"\n";
        let shown = |text: &str| summary("f.toml", &Config::parse(text, "f.toml").unwrap());
        let text = shown(rule);
        assert!(text.contains("reroute   r to staging, which is not declared here"), "{text}");
        assert!(text.contains("asks for no password"), "{text}");
        let text = shown(&format!("[auth]\nmode = \"scram\"\n[branches.staging]\ndatabase = \"s\"\n{rule}"));
        assert!(text.contains("reroute   r to staging\n"), "{text}");
    }

    #[test]
    fn branches_on_demand_are_shown() {
        let shown = |text: &str| summary("f.toml", &Config::parse(text, "f.toml").unwrap());
        assert!(!shown("").contains("on demand"));
        let text = shown("[branches]\nauto_create = [\"pr-*\", \"agent/*\"]\n");
        let wanted = "on demand pr-*, agent/* from main, at most 100, for 168h; who is asked for a password has to connect again";
        assert!(text.contains(wanted), "{text}");
        let never = shown("[auth]\nmode = \"scram\"\n[branches]\nauto_create = \"*\"\nauto_create_ttl = \"0s\"\n");
        assert!(never.contains("on demand * from main, at most 100, until they are dropped\n"), "{never}");
    }

    #[test]
    fn broken_file_fails() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f.toml");
        std::fs::write(&file, "[listen]\naddress = 1\n").unwrap();
        assert_eq!(run(&file), 1);
        std::fs::write(&file, "").unwrap();
        assert_eq!(run(&file), 0);
    }
}
