//! `[[rule]]`.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::section::{Section, pick};
use crate::policy::{Action, ObjectPattern, Queueing, Rule, any_case_glob, glob};
use crate::sql::Class;

/// A change request may wait for so long.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A client may wait for so long.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Reads the rules in their order; a rule with a problem is left out, the problem stands in the reader.
pub(super) fn read_rules(sections: Vec<Section<'_>>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for mut section in sections {
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
            section.problem(&span, "a rule needs an `action`: \"allow\", \"refuse\" or \"queue\"");
        }
        let action = action.map_or(Action::Refuse, |placed| placed.value);
        let queues = matches!(action, Action::Queue(_));
        let expires = section.duration("expires", Queueing::EXPIRES, Duration::from_secs(1)..=LONGEST);
        let wait = section.duration("wait", Duration::ZERO, Duration::ZERO..=LONGEST_WAIT);
        let wait = (!wait.is_zero()).then_some(wait);
        if (section.has("expires") || section.has("wait")) && !queues {
            section.problem(&span, "`expires` and `wait` are for rules with `action` = \"queue\"");
        }
        let rule = Rule {
            name: name.map(|name| name.value).unwrap_or_default(),
            branch: section.parsed("branch", glob).map(|placed| placed.value),
            user: section.parsed("user", glob).map(|placed| placed.value),
            application: section.parsed("application", glob).map(|placed| placed.value),
            client: read_networks(&mut section),
            class: read_classes(&mut section),
            tag: section.parsed("tag", any_case_glob).map(|placed| placed.value),
            object: section.parsed("object", ObjectPattern::new).map(|placed| placed.value),
            action: if queues { Action::Queue(Queueing { expires, wait }) } else { action },
            message: section.text("message").map(|placed| placed.value),
            hint: section.text("hint").map(|placed| placed.value),
        };
        section.finish();
        rules.push(rule);
    }
    rules
}

fn read_action(text: &str) -> Result<Action, String> {
    match text {
        "reroute" => Err(format!(
            "`action` = \"{text}\" is not available in this version; use \"allow\", \"refuse\" or \"queue\""
        )),
        _ => {
            let queue = Action::Queue(Queueing { expires: Queueing::EXPIRES, wait: None });
            pick("action", text, &[("allow", Action::Allow), ("refuse", Action::Refuse), ("queue", queue)])
        }
    }
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
