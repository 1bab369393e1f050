//! Commands other than SHOW, as `SHOW HELP` and the manual list them.

/// A command as `SHOW HELP` and the manual list it.
pub struct Help {
    /// Its syntax.
    pub syntax: &'static str,
    /// Who may use it.
    pub role: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// Commands other than SHOW.
pub const COMMANDS: &[Help] = &[
    Help {
        syntax: "RELOAD",
        role: "admin",
        about: "read the configuration file again; on any problem nothing changes",
    },
    Help { syntax: "KILL <client>", role: "admin", about: "end a client's session with 57P01" },
    Help {
        syntax: "SHUTDOWN [NOW]",
        role: "admin",
        about: "let sessions finish their transactions, then end; NOW: end at once",
    },
    Help {
        syntax: "PAUSE",
        role: "admin",
        about: "hold statements outside of transactions and new clients; returns when nothing runs",
    },
    Help { syntax: "RESUME", role: "admin", about: "let them go on" },
    Help {
        syntax: "REFUSE DDL ON BRANCH <branch>",
        role: "admin",
        about: "freeze the branch: refuse every schema change on it",
    },
    Help { syntax: "ALLOW DDL ON BRANCH <branch>", role: "admin", about: "lift the freeze" },
    Help {
        syntax: "CREATE BRANCH <branch> FROM <parent> [AT COMMIT <commit>]",
        role: "admin",
        about: "make a branch with the parent's schema and history, without its data",
    },
    Help {
        syntax: "CREATE BRANCH <branch> FROM <parent> WITH DATA [FORCE]",
        role: "admin",
        about: "make a copy of the parent, whose clients are held meanwhile; FORCE: end those that cannot be",
    },
    Help {
        syntax: "DROP BRANCH <branch> [FORCE]",
        role: "admin",
        about: "drop a branch and its database; FORCE: end the sessions on it",
    },
    Help {
        syntax: "ALTER BRANCH <branch> PROTECT | UNPROTECT",
        role: "admin",
        about: "refuse schema changes on it, or no longer",
    },
    Help { syntax: "ALTER BRANCH <branch> RENAME TO <name>", role: "admin", about: "rename it; nobody may be on it" },
    Help {
        syntax: "ALTER BRANCH <branch> EXPIRES AFTER '<duration>' | EXPIRES NEVER",
        role: "admin",
        about: "when it is dropped, from now on, as in '48h'; NEVER: it stays",
    },
    Help {
        syntax: "DIFF <branch> <other>",
        role: "monitor",
        about: "in what the other branch differs: definitions, comments, grants, labels, a row each",
    },
    Help {
        syntax: "SHOW SCHEMA OF <branch> [AT COMMIT <commit> | AT TIME '<time>'] [columns] …",
        role: "monitor",
        about: "the schema of a branch as it is or was, a row for each definition, comment, grant or label",
    },
    Help {
        syntax: "BLAME <table> [ON BRANCH <branch>]",
        role: "monitor",
        about: "which commit touched each column of a table or view last",
    },
    Help {
        syntax: "APPROVE CHANGE <number>",
        role: "admin",
        about: "let a change request be applied; not one that the user asked for himself",
    },
    Help {
        syntax: "REJECT CHANGE <number> BECAUSE '<reason>'",
        role: "admin",
        about: "say no to a change request, also to one that was approved and is not applied yet",
    },
    Help {
        syntax: "APPLY CHANGE <number>",
        role: "admin",
        about: "run an approved change request on its branch, as its author",
    },
];
