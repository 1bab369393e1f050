//! Each row of `pggit.history` as a JSON object on a line of its own, with what its commit is.

use std::io::Write;

use super::source::{Commit, Source};
use super::{ExportError, Told};

const ROWS: &str = "SELECT k.n, row_to_json(h)::text AS row \
     FROM unnest($1) WITH ORDINALITY k(id, n) \
     CROSS JOIN LATERAL (SELECT * FROM pggit.history v WHERE v.commit_id = k.id OFFSET 0) h \
     ORDER BY k.n, h.created_at, h.ordinal, h.id";

#[derive(sqlx::FromRow)]
struct Line {
    row: String,
}

/// Writes them; says how many.
pub async fn write(source: &mut Source, out: &mut (dyn Write + Send), told: &mut Told<'_>) -> Result<u64, ExportError> {
    let mut rows = 0;
    loop {
        let page = source.page().await?;
        if page.is_empty() {
            return Ok(rows);
        }
        let commits: Vec<String> = page.iter().map(described).collect();
        let written = source.rows(&page, ROWS, |place, Line { row }| {
            rows += 1;
            // Both are objects: the commit's members stand behind the row's.
            let row = row.strip_suffix('}').unwrap_or(&row);
            let commit = commits.get(place).map_or("}", String::as_str);
            Ok(writeln!(out, "{row},{commit}")?)
        });
        written.await?;
        told(source.progress());
    }
}

/// The commit's members, with the brace that ends the object.
fn described(commit: &Commit) -> String {
    let Commit { seq, parent, message, hash, .. } = commit;
    let members = serde_json::json!({
        "commit_seq": seq, "commit_parent": parent.map(|id| id.to_string()), "commit_message": message, "commit_hash": hash,
    });
    members.to_string().split_off(1)
}
