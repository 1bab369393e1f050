//! Rebuilds when a migration changes: `sqlx::migrate!` embeds the directory, and Cargo does not see new files in it.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
