#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use crate::policy::{Freeze, ObjectPattern, QUEUED, any_case_glob, glob};
use crate::sql::ObjectName;

fn rule(name: &str, action: Action) -> Rule {
    Rule {
        name: name.into(),
        branch: None,
        user: None,
        application: None,
        client: Vec::new(),
        class: Vec::new(),
        tag: None,
        object: None,
        action,
        message: None,
        hint: None,
    }
}

fn rules(rules: impl IntoIterator<Item = Rule>) -> Policy {
    Policy { rules: rules.into_iter().collect(), ..Policy::default() }
}

fn protected() -> Policy {
    Policy { protected: vec!["main".into()], ..Policy::default() }
}

const ANN: Who<'static> = Who { branch: Some("main"), user: "ann", application: "psql", client: None };

fn statement(class: Class, tag: &'static str, objects: &[&str]) -> Statement {
    let object = |text: &&str| match text.split_once('.') {
        Some((schema, name)) => ObjectName { schema: Some(schema.into()), name: name.into() },
        None => ObjectName { schema: None, name: (*text).into() },
    };
    Statement {
        range: 0..0,
        tag,
        class,
        action: None,
        object_type: None,
        objects: objects.iter().map(object).collect(),
        renamed_to: None,
        transactional: true,
        temporary: false,
        only_adds: false,
        parsed: true,
        control: None,
        setting: None,
        checkout: None,
    }
}

fn create(objects: &[&str]) -> Statement {
    statement(Class::Ddl, "CREATE TABLE", objects)
}

fn unread() -> Statement {
    Statement { parsed: false, ..statement(Class::Other, "", &[]) }
}

fn refusal(verdict: Verdict) -> Refusal {
    match verdict {
        Verdict::Refuse(refusal) => refusal,
        Verdict::Allow(rule) => panic!("allowed by {rule:?}"),
        Verdict::Queue(queued) => panic!("queued by {}", queued.rule),
        Verdict::Reroute(rerouted) => panic!("rerouted by {}", rerouted.rule),
    }
}

fn refuses(policy: &Policy, statement: &Statement) -> bool {
    matches!(policy.judge(&ANN, statement), Verdict::Refuse(_))
}

#[test]
fn no_match_allows() {
    assert_eq!(rules([]).judge(&ANN, &create(&["t"])), Verdict::Allow(None));
}

#[test]
fn first_match_decides() {
    let policy = rules([
        Rule { user: Some(glob("a*").unwrap()), ..rule("ann-may", Action::Allow) },
        rule("nobody", Action::Refuse),
    ]);
    assert_eq!(policy.judge(&ANN, &create(&["t"])), Verdict::Allow(Some("ann-may".into())));
    let bob = Who { user: "bob", ..ANN };
    assert_eq!(refusal(policy.judge(&bob, &create(&["t"]))).rule.as_deref(), Some("nobody"));
}

#[test]
fn refusal_names_rule_branch_and_way_out() {
    let refused = refusal(rules([rule("no-ddl", Action::Refuse)]).judge(&ANN, &create(&["t"])));
    assert_eq!(refused.sqlstate, "42501");
    assert_eq!(refused.message, "CREATE TABLE refused by rule \"no-ddl\"");
    assert_eq!(refused.detail.as_deref(), Some("Rule: no-ddl; branch: main."));
    assert_eq!(refused.hint.as_deref(), Some(HINT));
}

#[test]
fn rule_may_bring_its_own_words() {
    let own = Rule { message: Some("not here".into()), hint: Some("there".into()), ..rule("r", Action::Refuse) };
    let refused = refusal(rules([own]).judge(&ANN, &create(&["t"])));
    assert_eq!((refused.message.as_str(), refused.hint.as_deref()), ("not here", Some("there")));
}

#[test]
fn protected_branch_refuses_ddl_roles_and_unread_texts_only() {
    let refused = refusal(protected().judge(&ANN, &create(&["t"])));
    assert_eq!(refused.message, "CREATE TABLE on protected branch \"main\" refused");
    assert_eq!(refused.rule, None);
    assert!(refuses(&protected(), &statement(Class::Role, "CREATE ROLE", &[])));
    assert!(refuses(&protected(), &unread()));
    for class in Class::ALL.into_iter().filter(|class| !matches!(class, Class::Ddl | Class::Role)) {
        assert!(!refuses(&protected(), &statement(class, "X", &[])), "{class:?}");
    }
    let elsewhere = Who { branch: Some("feature/x"), ..ANN };
    assert_eq!(protected().judge(&elsewhere, &create(&["t"])), Verdict::Allow(None));
    let unmanaged = Who { branch: None, ..ANN };
    assert_eq!(protected().judge(&unmanaged, &create(&["t"])), Verdict::Allow(None));
}

#[test]
fn rule_opens_a_protected_branch_but_not_a_frozen_one() {
    let mut policy = Policy { rules: vec![rule("all", Action::Allow)], ..protected() };
    assert!(!refuses(&policy, &create(&["t"])));
    policy.freezes.push(Freeze { branch: "main".into(), by: "eve".into() });
    let refused = refusal(policy.judge(&ANN, &create(&["t"])));
    assert_eq!(refused.message, "CREATE TABLE refused: branch \"main\" is frozen");
    assert_eq!(refused.detail.as_deref(), Some("Frozen by eve; branch: main."));
}

#[test]
fn temporary_objects_do_not_touch_the_branch_but_rules_see_them() {
    let temporary = Statement { temporary: true, ..create(&["t"]) };
    let mut policy = protected();
    policy.freezes.push(Freeze { branch: "main".into(), by: "eve".into() });
    assert!(!refuses(&policy, &temporary));
    assert!(refuses(&rules([rule("none", Action::Refuse)]), &temporary));
}

#[test]
fn one_forbidden_object_is_refused_and_only_allowed_ones_are_allowed() {
    let on = |action| Rule { object: Some(ObjectPattern::new("audit.*").unwrap()), ..rule("audit", action) };
    let refuse = rules([on(Action::Refuse)]);
    assert!(refuses(&refuse, &create(&["public.t", "audit.log"])));
    assert!(!refuses(&refuse, &create(&["public.t"])));
    assert!(!refuses(&refuse, &create(&[])));
    let allow = Policy { rules: vec![on(Action::Allow)], ..protected() };
    assert!(!refuses(&allow, &create(&["audit.a", "audit.b"])));
    assert!(refuses(&allow, &create(&["audit.a", "public.b"])));
    assert!(refuses(&allow, &create(&[])));
}

#[test]
fn object_without_schema_is_refused_with_a_hint_and_not_allowed() {
    let on = |action| Rule { object: Some(ObjectPattern::new("audit.*").unwrap()), ..rule("audit", action) };
    let refused = refusal(rules([on(Action::Refuse)]).judge(&ANN, &create(&["log"])));
    assert!(refused.hint.unwrap().starts_with("Name the schema of \"log\""));
    assert!(refuses(&Policy { rules: vec![on(Action::Allow)], ..protected() }, &create(&["log"])));
}

#[test]
fn unread_text_is_never_waved_through() {
    let tagged = |action| Rule { tag: Some(any_case_glob("drop *").unwrap()), ..rule("r", action) };
    let named = |action| Rule { object: Some(ObjectPattern::new("*").unwrap()), ..rule("r", action) };
    let ddl = |action| Rule { class: vec![Class::Ddl], ..rule("r", action) };
    for make in [tagged, named, ddl] {
        assert!(refuses(&rules([make(Action::Refuse)]), &unread()));
    }
    for make in [tagged, named] {
        assert!(refuses(&Policy { rules: vec![make(Action::Allow)], ..protected() }, &unread()));
    }
    let others = Rule { class: vec![Class::Other, Class::Read], ..rule("r", Action::Allow) };
    assert!(refuses(&Policy { rules: vec![others], ..protected() }, &unread()));
    assert!(!refuses(&Policy { rules: vec![ddl(Action::Allow)], ..protected() }, &unread()));
}

#[test]
fn client_networks_match_addresses_only() {
    let policy = rules([Rule { client: vec!["10.0.0.0/8".parse().unwrap()], ..rule("net", Action::Refuse) }]);
    let from = |client: Option<&str>| {
        let who = Who { client: client.map(|client| client.parse().unwrap()), ..ANN };
        matches!(policy.judge(&who, &create(&["t"])), Verdict::Refuse(_))
    };
    assert!(from(Some("10.1.2.3")) && from(Some("::ffff:10.1.2.3")));
    assert!(!from(Some("192.168.0.1")) && !from(None));
}

#[test]
fn branch_condition_needs_a_branch() {
    let policy = rules([Rule { branch: Some(glob("*").unwrap()), ..rule("any", Action::Refuse) }]);
    assert_eq!(policy.judge(&Who { branch: None, ..ANN }, &create(&["t"])), Verdict::Allow(None));
    assert!(refuses(&policy, &create(&["t"])));
}

fn queueing() -> Action {
    Action::Queue(Queueing { expires: Queueing::EXPIRES, wait: None })
}

fn queues(policy: &Policy, statement: &Statement) -> bool {
    matches!(policy.judge(&ANN, statement), Verdict::Queue(_))
}

#[test]
fn a_rule_queues_what_changes_something_for_others() {
    let policy = rules([rule("ask", queueing())]);
    assert!(queues(&policy, &create(&["t"])));
    assert!(queues(&policy, &unread()), "nobody knows what it is");
    for class in [Class::Role, Class::Write, Class::Maintenance, Class::Opaque] {
        assert!(queues(&policy, &statement(class, "X", &[])), "{class:?}");
    }
    for class in [Class::Read, Class::Transaction, Class::Session, Class::Other] {
        assert_eq!(policy.judge(&ANN, &statement(class, "X", &[])), Verdict::Allow(None), "{class:?}");
    }
    let temporary = Statement { temporary: true, ..create(&["t"]) };
    assert_eq!(policy.judge(&ANN, &temporary), Verdict::Allow(None));
    assert!(matches!(policy.judge_class(&ANN, Class::Ddl), Verdict::Queue(_)));
    assert_eq!(policy.judge_class(&ANN, Class::Read), Verdict::Allow(None));
}

#[test]
fn what_cannot_be_known_is_queued() {
    let by_object = Rule { object: Some(ObjectPattern::new("audit.*").unwrap()), ..rule("ask", queueing()) };
    let policy = rules([by_object]);
    assert!(queues(&policy, &create(&["audit.t"])));
    assert!(queues(&policy, &create(&["t"])), "its schema is not in the text");
    assert!(!queues(&policy, &create(&["public.t"])));
    let by_tag = Rule { tag: Some(any_case_glob("drop *").unwrap()), ..rule("ask", queueing()) };
    assert!(queues(&rules([by_tag.clone()]), &unread()));
    assert!(matches!(rules([by_tag]).judge_class(&ANN, Class::Ddl), Verdict::Queue(_)));
    let other = Rule { class: vec![Class::Other], ..rule("ask", queueing()) };
    assert!(queues(&rules([other.clone()]), &unread()));
    assert_eq!(rules([other]).interest(Class::Other), Interest::Parse);
    assert_eq!(rules([rule("ask", queueing())]).interest(Class::Write), Interest::Class);
    assert_eq!(rules([rule("ask", queueing())]).interest(Class::Other), Interest::Parse);
    assert_eq!(rules([rule("ask", queueing())]).interest(Class::Read), Interest::None);
}

#[test]
fn the_first_match_decides_and_freezes_come_before() {
    let allow = Rule { user: Some(glob("ann").unwrap()), ..rule("ann", Action::Allow) };
    assert!(!queues(&rules([allow, rule("ask", queueing())]), &create(&["t"])));
    let mut policy = Policy { rules: vec![rule("ask", queueing())], ..protected() };
    assert!(queues(&policy, &create(&["t"])), "protection is the last word only where no rule spoke");
    policy.freezes.push(Freeze { branch: "main".into(), by: "op".into() });
    assert!(refuses(&policy, &create(&["t"])));
}

#[test]
fn a_queued_statement_is_told_its_numbers() {
    let Verdict::Queue(queued) = rules([rule("ask", queueing())]).judge(&ANN, &create(&["t"])) else {
        panic!("not queued")
    };
    let one = queued.refusal(&[7], true);
    assert_eq!((one.sqlstate, one.message.as_str()), (QUEUED, "change request 7: CREATE TABLE waits for approval"));
    assert_eq!(one.detail.as_deref(), Some("Rule: ask; branch: main."));
    assert_eq!(
        queued.refusal(&[7, 8], true).detail.as_deref(),
        Some("Rule: ask; branch: main. Change requests: 7, 8.")
    );
    let own = Queued { message: Some("ask Ann".into()), hint: Some("hint".into()), ..queued };
    assert_eq!(own.refusal(&[7], true).message, "change request 7: ask Ann");
    assert_eq!(own.refusal(&[7], true).hint.as_deref(), Some("hint"));
}

#[test]
fn interest_is_no_more_than_needed() {
    assert_eq!(protected().interest(Class::Read), Interest::None);
    assert_eq!(protected().interest(Class::Ddl), Interest::Parse);
    let by_class = Rule { class: vec![Class::Write], ..rule("w", Action::Refuse) };
    assert_eq!(rules([by_class.clone()]).interest(Class::Write), Interest::Class);
    assert_eq!(rules([by_class.clone()]).interest(Class::Read), Interest::None);
    let by_tag = Rule { tag: Some(glob("INSERT").unwrap()), ..rule("t", Action::Allow) };
    assert_eq!(rules([by_tag.clone(), by_class.clone()]).interest(Class::Write), Interest::Parse);
    assert_eq!(rules([by_class, by_tag.clone()]).interest(Class::Write), Interest::Class);
    assert_eq!(rules([by_tag]).interest(Class::Write), Interest::None);
    assert_eq!(rules([rule("all", Action::Refuse)]).interest(Class::Transaction), Interest::Class);
    let ddl = Rule { class: vec![Class::Ddl], ..rule("d", Action::Refuse) };
    assert_eq!(rules([ddl.clone()]).interest(Class::Other), Interest::Parse);
    assert_eq!(rules([ddl]).interest(Class::Read), Interest::None);
}

#[test]
fn class_alone_can_be_judged() {
    let refused = refusal(protected().judge_class(&ANN, Class::Ddl));
    assert_eq!(refused.message, "ddl statement on protected branch \"main\" refused");
    assert_eq!(protected().judge_class(&ANN, Class::Read), Verdict::Allow(None));
    let tagged = Rule { tag: Some(glob("DROP *").unwrap()), ..rule("r", Action::Refuse) };
    assert!(matches!(rules([tagged]).judge_class(&ANN, Class::Ddl), Verdict::Refuse(_)));
}

fn to(branch: &str) -> Action {
    Action::Reroute(branch.into())
}

fn rerouted(policy: &Policy, who: &Who<'_>, statement: &Statement) -> Option<String> {
    match policy.judge(who, statement) {
        Verdict::Reroute(rerouted) => Some(rerouted.to.to_string()),
        Verdict::Allow(_) => None,
        Verdict::Refuse(_) | Verdict::Queue(_) => panic!("held back"),
    }
}

#[test]
fn only_what_changes_a_branch_is_rerouted_and_only_from_elsewhere() {
    let policy = rules([rule("r", to("staging"))]);
    assert_eq!(rerouted(&policy, &ANN, &create(&["t"])).as_deref(), Some("staging"));
    assert_eq!(rerouted(&policy, &ANN, &unread()).as_deref(), Some("staging"));
    assert_eq!(rerouted(&policy, &ANN, &Statement { temporary: true, ..create(&["t"]) }), None);
    for class in Class::ALL.into_iter().filter(|class| !matches!(class, Class::Ddl | Class::Role)) {
        assert_eq!(rerouted(&policy, &ANN, &statement(class, "X", &[])), None, "{class:?}");
        let interest = if class == Class::Other { Interest::Parse } else { Interest::None };
        assert_eq!(policy.interest(class), interest);
    }
    for branch in [Some("staging"), None] {
        assert_eq!(rerouted(&policy, &Who { branch, ..ANN }, &create(&["t"])), None, "{branch:?}");
    }
    let refused = match policy.judge(&ANN, &create(&["t"])) {
        Verdict::Reroute(rerouted) => rerouted.impossible("it is raining"),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused.sqlstate, "PG004");
    assert_eq!(refused.message, "CREATE TABLE belongs on branch \"staging\", and cannot be rerouted: it is raining");
}

#[test]
fn sessions_are_rerouted_by_the_first_rule_that_is_about_sessions() {
    let detour = |policy: &Policy, who: &Who<'_>| policy.detour(who).map(|detour| detour.to.to_owned());
    let ann = || Some(glob("ann").unwrap());
    let drops = || Rule { tag: Some(any_case_glob("DROP *").unwrap()), ..rule("drops", to("trash")) };
    let policy = rules([
        drops(),
        Rule { branch: Some(glob("main").unwrap()), user: ann(), ..rule("ann", to("staging")) },
        rule("others", to("sandbox")),
    ]);
    assert_eq!(detour(&policy, &ANN).as_deref(), Some("staging"), "a rule about statements says nothing of sessions");
    assert_eq!(detour(&policy, &Who { user: "bob", ..ANN }).as_deref(), Some("sandbox"));
    assert_eq!(detour(&policy, &Who { user: "bob", branch: Some("sandbox"), ..ANN }), None);
    assert_eq!(detour(&policy, &Who { branch: None, ..ANN }), None, "a database that is no branch");
    for action in [Action::Allow, Action::Refuse] {
        let policy = rules([Rule { user: ann(), ..rule("stays", action) }, rule("others", to("sandbox"))]);
        assert_eq!(detour(&policy, &ANN), None);
        assert_eq!(detour(&policy, &Who { user: "bob", ..ANN }).as_deref(), Some("sandbox"));
    }
}
