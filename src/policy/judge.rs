//! From who, what and the rules to a verdict.

use super::{Action, Interest, Policy, Queued, Queueing, Refusal, Rerouted, Rule, Verdict, Who};
use crate::sql::{Class, Statement};

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// The hint of a refusal that brings none of its own.
const HINT: &str = "Make the change on another branch, or ask an administrator to allow it.";

/// What is known of a statement: all of it, or its class only.
#[derive(Clone, Copy)]
enum Known<'a> {
    Statement(&'a Statement),
    Class(Class),
}

impl Policy {
    /// How much the rules want to know of statements of this class. Only a rule that holds back changes what
    /// happens, so rules behind the last such one ask for nothing.
    pub fn interest(&self, class: Class) -> Interest {
        let guarded = !self.protected.is_empty() || !self.freezes.is_empty();
        if guarded && matches!(class, Class::Ddl | Class::Role | Class::Other) {
            return Interest::Parse;
        }
        let concerned = |rule: &&Rule| {
            // `other` may turn out to be a text that does not parse, which counts as DDL.
            let unread = class == Class::Other && rule.class.contains(&Class::Ddl);
            let can = match rule.action {
                Action::Allow | Action::Refuse => true,
                Action::Queue(_) => can_wait(class) || class == Class::Other,
                Action::Reroute(_) => can_move(class) || class == Class::Other,
            };
            can && (rule.class.is_empty() || rule.class.contains(&class) || unread)
        };
        let Some(last) = self.rules.iter().rposition(|rule| rule.action.holds_back() && concerned(&rule)) else {
            return Interest::None;
        };
        let looks_inside = |rule: &Rule| rule.tag.is_some() || rule.object.is_some();
        let parse = class == Class::Other || self.rules[..=last].iter().filter(concerned).any(looks_inside);
        if parse { Interest::Parse } else { Interest::Class }
    }

    /// The verdict on a statement.
    pub fn judge(&self, who: &Who<'_>, statement: &Statement) -> Verdict {
        self.decide(who, Known::Statement(statement))
    }

    /// The verdict on a statement of which only the class is known: plain ones for which [`Policy::interest`] said
    /// that it is enough, texts too long to be read (as `ddl`), fast-path calls (as `opaque`).
    pub fn judge_class(&self, who: &Who<'_>, class: Class) -> Verdict {
        self.decide(who, Known::Class(class))
    }

    fn decide(&self, who: &Who<'_>, what: Known<'_>) -> Verdict {
        let guarded_branch = who.branch.filter(|_| what.changes_branch());
        if let Some(branch) = guarded_branch
            && let Some(freeze) = self.freezes.iter().find(|freeze| freeze.branch == branch)
        {
            return Verdict::Refuse(Refusal {
                sqlstate: INSUFFICIENT_PRIVILEGE,
                rule: None,
                message: format!("{} refused: branch \"{branch}\" is frozen", what.name()),
                detail: Some(format!("Frozen by {}; branch: {branch}.", freeze.by)),
                hint: Some("Wait until DDL on the branch is allowed again, or work on another branch.".to_owned()),
            });
        }
        if let Some(rule) = self.rules.iter().find(|rule| rule.matches(who, what)) {
            return match &rule.action {
                Action::Allow => Verdict::Allow(Some(rule.name.clone())),
                Action::Refuse => Verdict::Refuse(rule.refusal(who, what)),
                Action::Queue(queueing) => Verdict::Queue(rule.queued(who, what, *queueing)),
                Action::Reroute(to) => Verdict::Reroute(rule.rerouted(who, what, to)),
            };
        }
        match guarded_branch {
            Some(branch) if self.protected.iter().any(|name| name == branch) => Verdict::Refuse(Refusal {
                sqlstate: INSUFFICIENT_PRIVILEGE,
                rule: None,
                message: format!("{} on protected branch \"{branch}\" refused", what.name()),
                detail: Some(format!("Protected branch: {branch}.")),
                hint: Some(HINT.to_owned()),
            }),
            _ => Verdict::Allow(None),
        }
    }
}

impl Rule {
    fn matches(&self, who: &Who<'_>, what: Known<'_>) -> bool {
        self.is_about(who)
            && (self.class.is_empty() || self.class_matches(what))
            && self.tag_matches(what)
            && self.object_matches(what)
            && self.may_do(what)
    }

    /// Whether it holds for this session. A rule that reroutes does not for those who are where it leads to, nor for a
    /// database that is no branch.
    pub(super) fn is_about(&self, who: &Who<'_>) -> bool {
        let branch = match (&self.branch, who.branch) {
            (Some(glob), Some(branch)) => glob.is_match(branch),
            (Some(_), None) => false,
            (None, _) => true,
        };
        branch
            && self.user.as_ref().is_none_or(|glob| glob.is_match(who.user))
            && self.application.as_ref().is_none_or(|glob| glob.is_match(who.application))
            && (self.client.is_empty() || self.client_matches(who))
            && match &self.action {
                Action::Allow | Action::Refuse | Action::Queue(_) => true,
                Action::Reroute(to) => who.branch.is_some_and(|branch| branch != &**to),
            }
    }

    /// Only what changes something can be done later, by somebody else; and what is temporary is nobody else's.
    fn may_do(&self, what: Known<'_>) -> bool {
        match self.action {
            Action::Allow | Action::Refuse => true,
            Action::Queue(_) => what.can_wait(),
            Action::Reroute(_) => what.changes_branch(),
        }
    }

    /// An IPv4 client of a listener on `[::]` comes as `::ffff:10.0.0.1`; networks mean the plain address.
    fn client_matches(&self, who: &Who<'_>) -> bool {
        who.client.is_some_and(|client| {
            let client = client.to_canonical();
            self.client.iter().any(|network| network.contains(&client))
        })
    }

    fn class_matches(&self, what: Known<'_>) -> bool {
        if what.is_unread() {
            // Its class is `other`, but nobody knows: allowing `other` must not let DDL through.
            let other = self.action.holds_back() && self.class.contains(&Class::Other);
            return other || self.class.contains(&Class::Ddl);
        }
        self.class.contains(&what.class())
    }

    fn tag_matches(&self, what: Known<'_>) -> bool {
        match (&self.tag, what) {
            (None, _) => true,
            (Some(glob), Known::Statement(statement)) if statement.parsed => glob.is_match(statement.tag),
            (Some(_), Known::Statement(_) | Known::Class(_)) => self.action.holds_back(),
        }
    }

    /// One forbidden object is enough to refuse; to allow, every object has to be an allowed one.
    fn object_matches(&self, what: Known<'_>) -> bool {
        match (&self.object, what) {
            (None, _) => true,
            (Some(pattern), Known::Statement(statement)) if statement.parsed => match self.action {
                Action::Refuse | Action::Queue(_) | Action::Reroute(_) => {
                    statement.objects.iter().any(|object| pattern.may_match(object))
                }
                Action::Allow => {
                    !statement.objects.is_empty() && statement.objects.iter().all(|object| pattern.must_match(object))
                }
            },
            (Some(_), Known::Statement(_) | Known::Class(_)) => self.action.holds_back(),
        }
    }

    fn detail(&self, who: &Who<'_>) -> String {
        match who.branch {
            Some(branch) => format!("Rule: {}; branch: {branch}.", self.name),
            None => format!("Rule: {}.", self.name),
        }
    }

    fn queued(&self, who: &Who<'_>, what: Known<'_>, queueing: Queueing) -> Queued {
        Queued {
            rule: self.name.clone(),
            what: what.name(),
            detail: self.detail(who),
            message: self.message.clone(),
            hint: self.hint.clone(),
            queueing,
            findings: None,
        }
    }

    fn rerouted(&self, who: &Who<'_>, what: Known<'_>, to: &std::sync::Arc<str>) -> Rerouted {
        Rerouted {
            rule: self.name.clone(),
            to: to.clone(),
            what: what.name(),
            detail: self.detail(who),
            message: self.message.clone(),
            hint: self.hint.clone(),
        }
    }

    fn refusal(&self, who: &Who<'_>, what: Known<'_>) -> Refusal {
        let standard = || format!("{} refused by rule \"{}\"", what.name(), self.name);
        let hint = || match self.unqualified(what) {
            Some(name) => format!("Name the schema of \"{name}\": without it, the rule on {} applies.", self.pattern()),
            None => HINT.to_owned(),
        };
        Refusal {
            sqlstate: INSUFFICIENT_PRIVILEGE,
            rule: Some(self.name.clone()),
            message: self.message.clone().unwrap_or_else(standard),
            detail: Some(self.detail(who)),
            hint: Some(self.hint.clone().unwrap_or_else(hint)),
        }
    }

    /// The object that matched only because its schema is not in the text, where no other matched for certain.
    fn unqualified<'a>(&self, what: Known<'a>) -> Option<&'a str> {
        let (Some(pattern), Known::Statement(statement)) = (&self.object, what) else { return None };
        if statement.objects.iter().any(|object| pattern.must_match(object)) {
            return None;
        }
        statement.objects.iter().find(|object| pattern.may_match(object)).map(|object| object.name.as_str())
    }

    fn pattern(&self) -> String {
        self.object.as_ref().map(|pattern| format!("\"{pattern}\"")).unwrap_or_default()
    }
}

impl Known<'_> {
    fn class(self) -> Class {
        match self {
            Self::Statement(statement) => statement.class,
            Self::Class(class) => class,
        }
    }

    /// A text that the parser could not read.
    fn is_unread(self) -> bool {
        match self {
            Self::Statement(statement) => !statement.parsed,
            Self::Class(_) => false,
        }
    }

    /// What freezes and protection refuse, and what can be rerouted. Temporary objects end with the session and are not recorded.
    fn changes_branch(self) -> bool {
        match self {
            Self::Statement(statement) if !statement.parsed => true,
            Self::Statement(statement) => !statement.temporary && matches!(statement.class, Class::Ddl | Class::Role),
            Self::Class(class) => matches!(class, Class::Ddl | Class::Role),
        }
    }

    /// What a rule can queue.
    fn can_wait(self) -> bool {
        match self {
            Self::Statement(statement) if !statement.parsed => return true,
            Self::Statement(statement) if statement.temporary => return false,
            Self::Statement(_) | Self::Class(_) => {}
        }
        can_wait(self.class())
    }

    /// The statement in an error's message.
    fn name(self) -> String {
        match self {
            Self::Statement(statement) if !statement.parsed => "statement that cannot be parsed".to_owned(),
            Self::Statement(statement) => statement.tag.to_owned(),
            Self::Class(class) => format!("{} statement", class.as_str()),
        }
    }
}

/// Classes of changes of a branch itself, which another branch can have instead.
fn can_move(class: Class) -> bool {
    match class {
        Class::Ddl | Class::Role => true,
        Class::Read
        | Class::Write
        | Class::Maintenance
        | Class::Transaction
        | Class::Session
        | Class::Opaque
        | Class::Other => false,
    }
}

/// Classes that change something, which can be done later.
fn can_wait(class: Class) -> bool {
    match class {
        Class::Ddl | Class::Role | Class::Write | Class::Maintenance | Class::Opaque => true,
        Class::Read | Class::Transaction | Class::Session | Class::Other => false,
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
