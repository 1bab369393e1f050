//! Holds the layer table of `src/lib.rs` against the `use` lines of the code.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Core: no IO, no clock, no lock. They know each other and nothing else.
const CORE: &[&str] = &["wire", "auth", "sql", "branch", "change", "policy", "session"];
/// Around the core. Each may know those before it.
const AROUND: &[&str] = &["tls", "config", "telemetry", "history", "state"];
/// They meet in `state`, never directly.
const OUTSIDE: &[&str] = &["proxy", "control", "http"];
const TOP: &[&str] = &["cli"];
/// What would bring IO, time or locks into the core.
const FOREIGN_TO_CORE: &[&str] = &["tokio", "sqlx", "pgwire", "hyper", "metrics", "tracing", "socket2", "anyhow"];

fn may_know(module: &str) -> BTreeSet<&'static str> {
    let core = CORE.iter().copied();
    if CORE.contains(&module) {
        core.collect()
    } else if let Some(at) = AROUND.iter().position(|name| *name == module) {
        core.chain(AROUND[..at].iter().copied()).collect()
    } else if let Some(own) = OUTSIDE.iter().find(|name| **name == module) {
        core.chain(AROUND.iter().copied()).chain([*own]).collect()
    } else {
        core.chain(AROUND.iter().copied()).chain(OUTSIDE.iter().copied()).chain(TOP.iter().copied()).collect()
    }
}

fn sources() -> Vec<(String, PathBuf)> {
    fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let module = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    files.into_iter().map(|path| (module(&path), path)).collect()
}

/// The code without comments and without the tests at its end, which may reach further.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// `foo` of every `crate::foo`, also inside `crate::{foo, bar::baz}`.
fn modules_named(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for after in code.split("crate::").skip(1) {
        if let Some(group) = after.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(character),
                    _ => {}
                }
            }
            found.push(word);
        } else {
            found.push(after.to_owned());
        }
    }
    let head =
        |text: &String| text.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    found.iter().map(head).filter(|name| !name.is_empty()).collect()
}

#[test]
fn modules_know_only_what_their_layer_may_know() {
    let all: Vec<&str> = [CORE, AROUND, OUTSIDE, TOP].concat();
    let mut wrong = Vec::new();
    for (module, path) in sources() {
        let allowed = may_know(&module);
        for named in modules_named(&code(&path)) {
            if all.contains(&named.as_str()) && named != module && !allowed.contains(named.as_str()) {
                wrong.push(format!("{}: {module} must not know {named}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn core_has_no_io() {
    let mut wrong = Vec::new();
    for (module, path) in sources().into_iter().filter(|(module, _)| CORE.contains(&module.as_str())) {
        let code = code(&path);
        for foreign in FOREIGN_TO_CORE {
            let used = code.contains(&format!("use {foreign}::")) || code.contains(&format!(" {foreign}::"));
            if used {
                wrong.push(format!("{}: {module} must not use {foreign}", path.display()));
            }
        }
        for clock in ["SystemTime::now", "Instant::now", "std::fs", "std::net::Tcp"] {
            if code.contains(clock) {
                wrong.push(format!("{}: {module} must not use {clock}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let all: Vec<&str> = [CORE, AROUND, OUTSIDE, TOP].concat();
    let unknown: BTreeSet<String> = sources()
        .into_iter()
        .map(|(module, _)| module)
        .filter(|module| !["main", "lib"].contains(&module.as_str()) && !all.contains(&module.as_str()))
        .collect();
    assert!(unknown.is_empty(), "no layer in tests/layers.rs: {unknown:?}");
}

#[test]
fn groups_and_paths_are_understood() {
    let code = "use crate::{sql::{Class, Statement}, wire};\nfn f() { crate::state::g() }";
    assert_eq!(modules_named(code), ["sql", "wire", "state"]);
}
