//! `APPROVE CHANGE`, `REJECT CHANGE`, `APPLY CHANGE`

use sqlparser::tokenizer::Token;

use super::{Command, Words};
use crate::control::CommandError;

impl Words<'_> {
    /// `CHANGE n`
    pub(super) fn change(&mut self) -> Result<i64, CommandError> {
        let hint = "APPROVE CHANGE 7, REJECT CHANGE 7 BECAUSE 'reason', APPLY CHANGE 7; SHOW CHANGES shows the numbers";
        if self.word().as_deref() != Some("CHANGE") {
            return Err(self.unexpected(self.at.saturating_sub(1)).hint(hint));
        }
        let number = match self.tokens.get(self.at).map(|token| &token.token) {
            Some(Token::Number(text, _)) => text.parse().ok(),
            _ => None,
        };
        self.at += 1;
        number.ok_or_else(|| self.unexpected(self.at - 1).hint(hint))
    }

    /// `CHANGE n BECAUSE 'text'`
    pub(super) fn reject(&mut self) -> Result<Command, CommandError> {
        let number = self.change()?;
        let because = self.word();
        let reason = match self.tokens.get(self.at).map(|token| &token.token) {
            Some(Token::SingleQuotedString(text)) if because.as_deref() == Some("BECAUSE") => text.trim().to_owned(),
            _ => String::new(),
        };
        if reason.is_empty() {
            return Err(CommandError::new("42601", "REJECT needs a reason")
                .hint("REJECT CHANGE 7 BECAUSE 'reason'")
                .at(self.position(self.at.saturating_sub(1))));
        }
        self.at += 1;
        self.end(Command::RejectChange(number, reason))
    }
}
