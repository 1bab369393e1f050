//! What a commit is called in git: who, what for, and the statements.

use super::super::source::Commit;
use super::tree::Row;

/// Collects what a commit's message needs from its rows.
#[derive(Debug, Default)]
pub(super) struct Message {
    first: Option<String>,
    changes: usize,
    statements: Vec<String>,
}

impl Message {
    /// Takes a row.
    pub fn add(&mut self, row: &Row) {
        self.statements.extend(row.sql_executed.clone());
        if !row.affected {
            self.changes += 1;
            self.first.get_or_insert_with(|| {
                format!("{} {}", row.command_tag, row.object_identity.as_deref().unwrap_or(&row.object_type))
            });
        }
    }

    /// The whole text: a line, more of what it is for, the statements, and what leads back to the history.
    pub fn text(self, commit: &Commit) -> String {
        let told = commit.message.as_deref().map(str::trim).filter(|told| !told.is_empty());
        let (line, more) = match told {
            Some(told) => told.split_once('\n').unwrap_or((told, "")),
            None => ("", ""),
        };
        let line = if line.is_empty() { self.summary() } else { one_line(line) };
        let mut parts = vec![line];
        parts.extend(Some(more.trim().to_owned()).filter(|more| !more.is_empty()));
        parts.extend(self.statements.iter().map(|statement| statement.trim().to_owned()));
        let mut trailers = format!("Pggit-Commit: {}\nPggit-Branch: {}", commit.id, one_line(&commit.branch));
        if let Some(application) = commit.application_name.as_deref().filter(|name| !name.is_empty()) {
            trailers += &format!("\nPggit-Application: {}", one_line(application));
        }
        parts.push(trailers);
        parts.join("\n\n") + "\n"
    }

    fn summary(&self) -> String {
        let first = one_line(self.first.as_deref().unwrap_or("Nothing is known of this commit any more"));
        match self.changes {
            0 | 1 => first,
            changes => format!("{first} and {} more", changes - 1),
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// A role as git's `name <email>`; what git cannot have in a name is left out.
pub(super) fn person(role: &str) -> String {
    let name = one_line(&role.replace(['<', '>'], ""));
    // git takes these away from both ends.
    let name = name.trim_matches(|c: char| c == ' ' || ".,:;\"\\'".contains(c));
    let name = if name.is_empty() { "unknown" } else { name };
    format!("{name} <{}>", name.replace(' ', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_what_git_takes() {
        assert_eq!(person("ann"), "ann <ann>");
        assert_eq!(person("Ann\nB <x> 1 +0000"), "Ann B x 1 +0000 <Ann.B.x.1.+0000>");
        assert_eq!(person("<\n>"), "unknown <unknown>");
    }
}
