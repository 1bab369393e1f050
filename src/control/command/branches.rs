//! `CREATE BRANCH`, `DROP BRANCH`, `ALTER BRANCH`

use std::time::Duration;

use super::{Command, Words};
use crate::config::parse_duration;
use crate::control::CommandError;
use crate::history::branching::{Alteration, Data, Force};

impl Words<'_> {
    /// `name FROM parent [AT COMMIT id | WITH DATA [FORCE]]`
    pub(super) fn create_branch(&mut self) -> Result<Command, CommandError> {
        const HINT: &str = "CREATE BRANCH name FROM parent [AT COMMIT id | WITH DATA [FORCE]]";
        let name = self.name()?;
        if !self.takes("FROM") {
            return Err(self.unexpected(self.at).hint(HINT));
        }
        let parent = self.name()?;
        let at = match self.takes("AT") {
            true if self.takes("COMMIT") => Some(self.commit(HINT)?),
            true => return Err(self.unexpected(self.at).hint(HINT)),
            false => None,
        };
        let data = match at.is_none() && self.takes("WITH") {
            true if !self.takes("DATA") => return Err(self.unexpected(self.at).hint(HINT)),
            true => Data::With(self.force()),
            false => Data::Without,
        };
        self.end(Command::CreateBranch { name, parent, at, data })
    }

    /// `name [FORCE]`
    pub(super) fn drop_branch(&mut self) -> Result<Command, CommandError> {
        let name = self.name()?;
        let force = self.force();
        self.end(Command::DropBranch(name, force))
    }

    /// `name PROTECT | UNPROTECT | RENAME TO other | EXPIRES AFTER 'duration' | EXPIRES NEVER`
    pub(super) fn alter_branch(&mut self) -> Result<Command, CommandError> {
        let name = self.name()?;
        let what = match self.word().as_deref() {
            Some("PROTECT") => Alteration::Protect,
            Some("UNPROTECT") => Alteration::Unprotect,
            Some("RENAME") if self.takes("TO") => Alteration::Rename(self.name()?),
            Some("EXPIRES") if self.takes("AFTER") => Alteration::Expire(Some(self.duration()?)),
            Some("EXPIRES") if self.takes("NEVER") => Alteration::Expire(None),
            _ => {
                const HINT: &str =
                    "ALTER BRANCH name PROTECT | UNPROTECT | RENAME TO other | EXPIRES AFTER '48h' | EXPIRES NEVER";
                let at = self.at.saturating_sub(1);
                return Err(self.unexpected(at).hint(HINT));
            }
        };
        self.end(Command::AlterBranch(name, what))
    }

    /// As in the configuration.
    fn duration(&mut self) -> Result<Duration, CommandError> {
        let at = self.position(self.at);
        parse_duration(&self.name()?).map_err(|message| CommandError::new("22007", message).at(at))
    }

    fn force(&mut self) -> Force {
        if self.takes("FORCE") { Force::Yes } else { Force::No }
    }
}
