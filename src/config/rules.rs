//! `[[rule]]`.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::circles::circles;
use super::section::{Section, pick};
use crate::branch::check_branch_name;
use crate::policy::{Action, ObjectPattern, Queueing, Rule, any_case_glob, glob};
use crate::sql::Class;

/// A change request may wait for so long.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A client may wait for so long.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Reads the rules in their order; a rule with a problem is left out, the problem stands in the reader.
pub(super) fn read_rules(sections: Vec<Section<'_>>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut places = Vec::new();
    let mut sections = sections;
    for section in &mut sections {
        let span = section.span().clone();
        let name = section.text("name");
        match &name {
            None if !section.has("name") => section.problem(&span, "a rule needs a `name`; clients read it in errors"),
            None => {}
            Some(name) if name.value.trim().is_empty() => section.problem(&name.span, "a rule's name cannot be empty"),
            Some(name) if rules.iter().any(|rule| rule.name == name.value) => {
                section.problem(&name.span, format!("there is another rule \"{}\"", name.value));
            }
            Some(_) => {}
        }
        let action = section.parsed("action", read_action);
        if !section.has("action") {
            section.problem(&span, "a rule needs an `action`: \"allow\", \"refuse\", \"queue\" or \"reroute\"");
        }
        let word = action.map_or(Word::Refuse, |placed| placed.value);
        let queues = word == Word::Queue;
        let expires = section.duration("expires", Queueing::EXPIRES, Duration::from_secs(1)..=LONGEST);
        let wait = section.duration("wait", Duration::ZERO, Duration::ZERO..=LONGEST_WAIT);
        let wait = (!wait.is_zero()).then_some(wait);
        if (section.has("expires") || section.has("wait")) && !queues {
            section.problem(&span, "`expires` and `wait` are for rules with `action` = \"queue\"");
        }
        let to = read_to(section, word == Word::Reroute, &span);
        let action = match word {
            Word::Allow => Action::Allow,
            Word::Refuse => Action::Refuse,
            Word::Queue => Action::Queue(Queueing { expires, wait }),
            // What it would lead to is a problem that stands in the reader.
            Word::Reroute => to.map_or(Action::Refuse, |to| Action::Reroute(to.into())),
        };
        let rule = Rule {
            name: name.map(|name| name.value).unwrap_or_default(),
            branch: section.parsed("branch", glob).map(|placed| placed.value),
            user: section.parsed("user", glob).map(|placed| placed.value),
            application: section.parsed("application", glob).map(|placed| placed.value),
            client: read_networks(section),
            class: read_classes(section),
            tag: section.parsed("tag", any_case_glob).map(|placed| placed.value),
            object: section.parsed("object", ObjectPattern::new).map(|placed| placed.value),
            action,
            message: section.text("message").map(|placed| placed.value),
            hint: section.text("hint").map(|placed| placed.value),
        };
        if matches!(rule.action, Action::Reroute(_))
            && let Some(class) = rule.class.iter().find(|class| !matches!(class, Class::Ddl | Class::Role))
        {
            let message =
                format!("only statements of the classes `ddl` and `role` can be rerouted, not `{}`", class.as_str());
            section.problem(&span, message);
        }
        rules.push(rule);
        places.push(span);
    }
    for (place, message) in circles(&rules) {
        if let (Some(section), Some(span)) = (sections.get(place), places.get(place)) {
            section.problem(span, message);
        }
    }
    sections.into_iter().for_each(Section::finish);
    rules
}

/// The words of `action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Allow,
    Refuse,
    Queue,
    Reroute,
}

/// Where a rule reroutes to. Whether the branch is there only the server knows: it may be a row of `pggit.branches`.
fn read_to(section: &mut Section<'_>, reroutes: bool, span: &std::ops::Range<usize>) -> Option<String> {
    let to = section.parsed("to", |name| check_branch_name(name).map(|()| name.to_owned()).map_err(str::to_owned));
    match (section.has("to"), reroutes) {
        (false, true) => {
            section.problem(span, "a rule with `action` = \"reroute\" needs `to`, the branch that it leads to")
        }
        (true, false) => section.problem(span, "`to` is for rules with `action` = \"reroute\""),
        (false, false) | (true, true) => {}
    }
    to.map(|placed| placed.value).filter(|_| reroutes)
}

fn read_action(text: &str) -> Result<Word, String> {
    let words = [("allow", Word::Allow), ("refuse", Word::Refuse), ("queue", Word::Queue), ("reroute", Word::Reroute)];
    pick("action", text, &words)
}

fn read_classes(section: &mut Section<'_>) -> Vec<Class> {
    let words = Class::ALL.map(|class| (class.as_str(), class));
    let mut classes = Vec::new();
    for text in section.texts("class") {
        match pick("class", &text.value, &words) {
            Ok(class) => classes.push(class),
            Err(message) => section.problem(&text.span, message),
        }
    }
    classes
}

/// `10.0.0.0/8`, or one address.
fn read_networks(section: &mut Section<'_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in section.texts("client") {
        match network(&text.value) {
            Ok(network) => networks.push(network),
            Err(message) => section.problem(&text.span, message),
        }
    }
    networks
}

/// `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| format!("\"{text}\" is no network, such as \"10.0.0.0/8\", and no address"))
}
