//! What the clients in `src/bin` share.

/// A variable that the runner sets.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: tests/clients/run.py does"))
}

/// The branch by its database name, in a URL.
pub fn url(application: &str) -> String {
    let (host, port, database) = (variable("HOST"), variable("PORT"), variable("DATABASE").replace('/', "%2F"));
    format!("postgres://postgres@{host}:{port}/{database}?application_name={application}")
}

/// A folder of migrations, in the layout that its tool wants.
pub fn write(files: &[(&str, &str)]) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("pggit-proxy-clients-{}", std::process::id()));
    for (name, text) in files {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    folder
}
