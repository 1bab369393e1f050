//! `docs/CONTROL.md` and `docs/METRICS.md` say what the code does, no more and no less.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use pggit_proxy::control::command::COMMANDS;
use pggit_proxy::control::show::Show;
use pggit_proxy::control::{diff, look};
use pggit_proxy::telemetry::{Metrics, names};

const CONTROL: &str = include_str!("../docs/CONTROL.md");
const METRICS: &str = include_str!("../docs/METRICS.md");

/// The section of one SHOW, as it has to stand in the manual.
fn section(show: Show) -> String {
    let mut text =
        format!("### SHOW {}\n\n{}.\n\n| Column | Type | Meaning |\n|---|---|---|\n", show.name(), show.about());
    for column in show.columns() {
        text += &format!("| `{}` | {} | {} |\n", column.name, column.kind.as_str(), column.about);
    }
    text
}

fn command_row(at: usize) -> String {
    let help = &COMMANDS[at];
    format!("| `{}` | {} | {} |\n", help.syntax, help.role, help.about)
}

fn metric_row(metric: &names::Described) -> String {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let unit = metric.unit.as_str();
    format!("| `{}` | {} | {} | {unit} | {} |\n", metric.name, metric.kind.as_str(), labels.join(", "), metric.help)
}

#[test]
fn every_show_and_column_is_in_the_manual() {
    for show in Show::ALL {
        assert!(CONTROL.contains(&section(show)), "docs/CONTROL.md lacks:\n{}", section(show));
    }
    assert_eq!(CONTROL.matches("\n### SHOW ").count(), Show::ALL.len());
    let rows = CONTROL.lines().filter(|line| line.starts_with("| `")).count();
    let others = || [diff::COLUMNS, look::SCHEMA, look::BLAME].into_iter().flatten();
    for column in others() {
        assert!(CONTROL.contains(&format!("\n| `{}` | {} | {} |\n", column.name, column.kind.as_str(), column.about)));
    }
    let columns = Show::ALL.iter().map(|show| show.columns().len()).sum::<usize>() + others().count();
    assert_eq!(rows, columns + COMMANDS.len(), "docs/CONTROL.md has rows for what is not there");
}

#[test]
fn every_command_is_in_the_manual() {
    for at in 0..COMMANDS.len() {
        assert!(CONTROL.contains(&command_row(at)), "docs/CONTROL.md lacks:\n{}", command_row(at));
    }
}

#[test]
fn every_metric_is_in_the_manual() {
    for metric in names::ALL {
        assert!(METRICS.contains(&metric_row(metric)), "docs/METRICS.md lacks:\n{}", metric_row(metric));
    }
    let known: BTreeSet<&str> = names::ALL.iter().map(|metric| metric.name).collect();
    for word in METRICS.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if word.starts_with("pggit_proxy_") && word != "pggit_proxy_" {
            let plain = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
            assert!(known.contains(word) || known.contains(plain), "docs/METRICS.md names {word}, which is not there");
        }
    }
}

#[test]
fn every_metric_shown_is_described() {
    let metrics = Metrics::register();
    metrics.client_joined(Some("main"));
    let text = metrics.render(0);
    let known: BTreeSet<&str> = names::ALL.iter().map(|metric| metric.name).collect();
    let typed = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for name in typed.filter(|name| name.starts_with("pggit_proxy_")) {
        assert!(known.contains(name), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no HELP line");
    }
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE process_")?.split(' ').next()) {
        assert!(METRICS.contains(&format!("`process_{name}`")), "docs/METRICS.md lacks process_{name}");
    }
}
