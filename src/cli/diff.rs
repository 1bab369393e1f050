//! `pggit-proxy diff`: in what two branches differ, as a unified text.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use similar::TextDiff;
use sqlx::Connection as _;

use super::connect;
use crate::history::branching::{self, Difference};

/// When the text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Lines around a difference.
const CONTEXT: usize = 3;

/// Prints it; says whether there is any.
pub async fn run(from: &str, to: &str, url: &str, color: Color) -> anyhow::Result<bool> {
    let server = connect::server(url, None).await?;
    let mut main = server.connect(&server.main).await?;
    let known = branching::branches(&mut main).await?;
    main.close().await.context("cannot close the connection")?;
    let differences = branching::diff(&server, &known, from, to).await.map_err(super::branch::explained)?;
    let mut text = text(&differences, from, to);
    let colored = match color {
        Color::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        Color::Always => true,
        Color::Never => false,
    };
    if colored {
        text = text.lines().map(paint).collect();
    }
    std::io::stdout().write_all(text.as_bytes()).context("cannot write")?;
    Ok(!differences.is_empty())
}

/// A header for each fact, as `git diff` has one for each file, and its lines.
fn text(differences: &[Difference], from: &str, to: &str) -> String {
    let mut out = String::new();
    for difference in differences {
        let name = format!("{} {} ({})", difference.object_type, difference.object_identity, difference.fact);
        let (old, new) = (lines(difference.from.as_deref()), lines(difference.to.as_deref()));
        let side = |branch: &str, value: &Option<String>| {
            if value.is_some() { format!("{branch}: {name}") } else { "/dev/null".to_owned() }
        };
        let (before, after) = (side(from, &difference.from), side(to, &difference.to));
        let compared = TextDiff::from_lines(old.as_str(), new.as_str());
        out.push_str(&format!("diff {name}\n"));
        out.push_str(&compared.unified_diff().context_radius(CONTEXT).header(&before, &after).to_string());
    }
    out
}

fn lines(value: Option<&str>) -> String {
    value.map(|value| format!("{value}\n")).unwrap_or_default()
}

/// git's colours.
fn paint(line: &str) -> String {
    let color = match line.as_bytes() {
        [b'd', b'i', b'f', b'f', b' ', ..] | [b'+', b'+', b'+', b' ', ..] | [b'-', b'-', b'-', b' ', ..] => "1",
        [b'@', b'@', ..] => "36",
        [b'+', ..] => "32",
        [b'-', ..] => "31",
        _ => return format!("{line}\n"),
    };
    format!("\x1b[{color}m{line}\x1b[m\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_compared_as_git_does() {
        let table = |from: Option<&str>, to: Option<&str>| Difference {
            object_type: "table".into(),
            object_identity: "public.t".into(),
            fact: "definition".into(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let changed = table(Some("CREATE TABLE t (\n    a integer\n)"), Some("CREATE TABLE t (\n    a bigint\n)"));
        assert_eq!(
            text(&[changed], "main", "feature/x"),
            "diff table public.t (definition)\n--- main: table public.t (definition)\n+++ feature/x: table public.t (definition)\n\
             @@ -1,3 +1,3 @@\n CREATE TABLE t (\n-    a integer\n+    a bigint\n )\n"
        );
        let added = text(&[table(None, Some("a"))], "main", "b");
        assert_eq!(
            added,
            "diff table public.t (definition)\n--- /dev/null\n+++ b: table public.t (definition)\n@@ -0,0 +1 @@\n+a\n"
        );
        assert_eq!(paint("+a"), "\x1b[32m+a\x1b[m\n");
        assert_eq!(paint(" a"), " a\n");
    }
}
