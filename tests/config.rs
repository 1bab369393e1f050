//! The configuration: what is right is read, what is wrong is said with its place, the docs say what the code does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use pggit_proxy::branch::{Branch, Origin};
use pggit_proxy::config::{Config, ControlRole, Overrides, Problem};
use pggit_proxy::policy::Action;
use pggit_proxy::sql::Class;
use support::Certs;

const SAMPLE: &str = include_str!("../config/pggit-proxy.toml");
const DOC: &str = include_str!("../docs/CONFIG.md");

fn parse(text: &str) -> Config {
    Config::parse(text, "f.toml").unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn problems(text: &str) -> Vec<String> {
    match Config::parse(text, "f.toml") {
        Ok(_) => panic!("no problem in {text}"),
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}

fn problem(text: &str) -> String {
    let mut all = problems(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn value(config: &Config, key: &str) -> (String, String) {
    let row = config.summary().into_iter().find(|(name, ..)| name == key);
    row.map(|(_, value, origin)| (value, origin)).unwrap_or_else(|| panic!("no {key}"))
}

/// `[section]` or `[[section]]` lines make the path of the `key =` lines behind them.
fn keys_of_sample() -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in SAMPLE.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if line.starts_with('[') && line.ends_with(']') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

fn known() -> BTreeSet<String> {
    Config::known_keys().into_iter().collect()
}

#[test]
fn sample_shows_every_key_and_equals_the_default() {
    assert_eq!(keys_of_sample(), known());
    let sample = parse(SAMPLE);
    let values = |config: &Config| config.summary().into_iter().map(|(key, value, _)| (key, value)).collect::<Vec<_>>();
    assert_eq!(values(&sample), values(&Config::default()));
}

#[test]
fn sample_with_everything_uncommented_knows_all_its_keys() {
    let is_toml = |line: &str| line.starts_with('[') || line.split(" = ").next().is_some_and(|key| !key.contains(' '));
    let all: String = SAMPLE
        .lines()
        .filter(|line| !["# password_file", "# sslcert", "# sslkey", "# to "].iter().any(|key| line.starts_with(key)))
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_toml(rest) && rest.contains(['=', '[']) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = parse(&all);
    assert_eq!((config.rules.len(), config.control.users.len(), config.branches.declared.len()), (1, 1, 1));
}

#[test]
fn document_tells_every_key_and_its_default() {
    let mut documented = BTreeSet::new();
    let defaults = Config::default();
    for line in DOC.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let key = cells[1].trim_matches('`').to_owned();
        if !key.contains('.') {
            continue;
        }
        if let Some((_, default, _)) = defaults.summary().into_iter().find(|(name, ..)| *name == key) {
            let shown = cells[2].trim_matches('`').trim_matches('"');
            assert_eq!(shown, if default.is_empty() { "none" } else { &default }, "{key}");
        }
        documented.insert(key);
    }
    assert_eq!(documented, known());
}

#[test]
fn summary_names_known_keys() {
    let known = known();
    for (key, ..) in Config::default().summary() {
        assert!(known.contains(&key), "{key}");
    }
}

#[test]
fn empty_file_is_the_working_default() {
    let config = parse("");
    let branches = config.branches(&[]);
    assert_eq!(branches.repository, "postgres");
    assert_eq!(branches.all[0].name, "main");
    assert_eq!(branches.all[0].database, "postgres");
    assert_eq!(config.control.address.unwrap().to_string(), "127.0.0.1:6433");
}

#[test]
fn unknown_key_names_place_and_nearest() {
    assert_eq!(
        problem("[listen]\n  adress = \"127.0.0.1:1\"\n"),
        "f.toml:2:3: unknown key `adress` in [listen]; did you mean `address`?"
    );
    assert!(problem("[listn]\nx = 1").starts_with("f.toml:1:2: unknown key `listn`; did you mean `listen`?"));
    let tls = problem("[listen]\ntls = { mode = \"disable\", certificate = \"x\" }\n");
    assert!(tls.contains("unknown key `certificate` in [listen.tls]; known here: cert, client_ca"), "{tls}");
    assert!(problem("[[rule]]\nname = \"a\"\naction = \"allow\"\nbrnach = \"x\"").contains("did you mean `branch`?"));
}

#[test]
fn all_problems_are_told_in_order() {
    let all = problems(
        "[listen]\naddress = \"nowhere\"\nmax_clients = 0\n[log]\nlevel = \"loud\"\n[limits]\nmax_buffer = \"1MB\"\n\
         login_timeout = 5\n[history]\nqueue = true\n",
    );
    let places: Vec<&str> = all.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["f.toml:2:11", "f.toml:3:15", "f.toml:5:9", "f.toml:7:14", "f.toml:8:17", "f.toml:10:9"]);
    assert!(all[1].ends_with("`max_clients` has to be from 1 to 1000000"), "{all:?}");
    assert!(all[2].contains("\"error\", \"warn\", \"info\", \"debug\", \"trace\""), "{all:?}");
    assert!(all[4].ends_with("`login_timeout` has to be a text in quotes, not a number"), "{all:?}");
}

#[test]
fn syntax_error_has_its_place() {
    assert!(problem("[listen]\naddress = \n").starts_with("f.toml:2:11: "));
    assert!(problem("[listen]\n[listen]\n").starts_with("f.toml:2:"));
}

#[test]
fn columns_count_characters() {
    assert!(problems("log = { \"é\" = 1, level = \"x\" }").iter().any(|problem| problem.starts_with("f.toml:1:26: ")));
}

#[test]
fn units_are_read() {
    let config = parse("[limits]\nlogin_timeout = \"250ms\"\nmax_buffer = 65536\ncache_bytes = \"1GiB\"\n");
    assert_eq!(config.limits.login_timeout, Duration::from_millis(250));
    assert_eq!((config.limits.max_buffer, config.limits.cache_bytes), (65536, 1 << 30));
    assert_eq!(value(&config, "limits.max_buffer"), ("64KiB".into(), "file".into()));
    assert_eq!(value(&config, "limits.max_prepared"), ("10000".into(), "default".into()));
}

#[test]
fn url_is_read_and_single_keys_override_it() {
    let config = parse("[upstream]\nurl = \"postgresql://re%40c:p%2Fw@db.example:6000/my%20app?connect_timeout=7\"\n");
    let upstream = &config.upstream;
    assert_eq!((upstream.user.as_str(), upstream.host.as_str(), upstream.port), ("re@c", "db.example", 6000));
    assert_eq!((upstream.dbname.as_str(), upstream.connect_timeout), ("my app", Duration::from_secs(7)));
    assert_eq!(upstream.password.as_ref().unwrap().0, "p/w");
    assert_eq!(value(&config, "upstream.password").0, "***");
    assert!(!format!("{config:?}").contains("p/w"));
    let config = parse("[upstream]\nurl = \"postgres://u@h\"\ndbname = \"app\"\nport = 1\n");
    assert_eq!((config.upstream.dbname.as_str(), config.upstream.port), ("app", 1));
    let socket = parse("[upstream]\nurl = \"postgres://%2Fvar%2Frun/app\"");
    assert_eq!(socket.upstream.host, "/var/run");
    assert_eq!(parse("[upstream]\nurl = \"postgres:///app?host=/tmp\"").upstream.host, "/tmp");
    assert_eq!(parse("[upstream]\nurl = \"postgres://[::1]:1/app\"").upstream.host, "::1");
}

#[test]
fn bad_urls_are_told_without_the_password() {
    for url in [
        "mysql://u:hunter2@h/d",
        "postgres://u:hunter2@h",
        "postgres://u:hunter2@h/d?sslmode=alow",
        "postgres://u:hunter2@h/d?sslmode=verify",
        "postgres://u:hunter2@h/d?sslmod=disable",
        "postgres://u:hunter2@h:99999/d",
        "postgres://u:hunter2@h,,i/d",
        "postgres://u:hunter2@h/d#x",
    ] {
        let problem = problem(&format!("[upstream]\nurl = \"{url}\""));
        assert!(problem.starts_with("f.toml:2:7: the URL") && !problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn password_file_is_found_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pw"), "s3cret\n").unwrap();
    let file = folder.path().join("f.toml");
    std::fs::write(&file, "[upstream]\npassword_file = \"pw\"\n").unwrap();
    assert_eq!(Config::load(&file).unwrap().upstream.password.unwrap().0, "s3cret");
    std::fs::write(&file, "[upstream]\npassword_file = \"gone\"\n").unwrap();
    assert!(Config::load(&file).unwrap_err()[0].to_string().contains("f.toml:2:17: cannot read "));
    assert!(problem("[upstream]\npassword = \"\"").contains("cannot be empty"));
    assert!(Config::load(&folder.path().join("none")).unwrap_err()[0].message.starts_with("cannot be read"));
}

#[test]
fn rules_that_reroute_lead_somewhere_else() {
    let rule = |rest: &str| format!("[[rule]]\nname = \"a{}\"\naction = \"reroute\"\n{rest}\n", rest.len());
    let config = parse(&rule("to = \"staging\"\nuser = \"ann\""));
    assert_eq!(config.rules[0].action, Action::Reroute("staging".into()));
    assert_eq!(value(&config, "rule.a27").0, "reroute user=ann to=staging");
    for (wrong, why) in [
        (rule(""), "needs `to`, the branch that it leads to"),
        (rule("to = \"\""), "a branch name cannot be empty"),
        (rule("to = \"main\"\nbranch = \"main\""), "a rule cannot reroute from \"main\" to itself"),
        (rule("to = \"x\"\nclass = [\"ddl\", \"write\"]"), "only statements of the classes `ddl` and `role`"),
        (
            "[[rule]]\nname = \"a\"\naction = \"refuse\"\nto = \"x\"".to_owned(),
            "`to` is for rules with `action` = \"reroute\"",
        ),
    ] {
        assert!(problem(&wrong).contains(why), "{wrong}: {}", problem(&wrong));
    }
}

#[test]
fn rules_that_reroute_in_a_circle_are_told_once() {
    let rules = |rules: &[(&str, &str, &str)]| {
        let rule = |(at, (branch, to, rest)): (usize, &(&str, &str, &str))| {
            format!("[[rule]]\nname = \"r{at}\"\nbranch = \"{branch}\"\nto = \"{to}\"\n{rest}\naction = \"reroute\"\n")
        };
        rules.iter().enumerate().map(rule).collect::<String>()
    };
    let two = problems(&rules(&[("main", "a", ""), ("a", "main", "")]));
    assert_eq!(two.len(), 1, "{two:?}");
    assert!(two[0].contains("f.toml:7:1: rules \"r0\" and \"r1\" reroute in a circle"), "{two:?}");
    let three = problems(&rules(&[("m*", "a", ""), ("a", "b", ""), ("b", "main", "class = \"ddl\"")]));
    assert_eq!(three.len(), 1, "{three:?}");
    // By way of a branch to a third one, for others, for other statements: no circle.
    for (one, other) in [
        ("user = \"ann\"", "user = \"b*\""),
        ("tag = \"DROP *\"", "tag = \"create *\""),
        ("class = \"ddl\"", "class = \"role\""),
    ] {
        parse(&rules(&[("main", "a", one), ("a", "main", other)]));
    }
    parse(&rules(&[("main", "a", ""), ("a", "b", ""), ("*", "b", "")]));
    let wide = problems(&rules(&[("main", "a", ""), ("*", "main", "client = \"10.0.0.0/8\"")]));
    assert_eq!(wide.len(), 1, "{wide:?}");
}

#[test]
fn rules_are_read_in_order() {
    let config = parse(
        "[[rule]]\nname = \"one\"\nclass = [\"ddl\", \"role\"]\nclient = \"10.0.0.0/8\"\naction = \"refuse\"\n\
         [[rule]]\nname = \"two\"\nclass = \"opaque\"\nclient = [\"::1\", \"192.168.0.0/16\"]\naction = \"allow\"\n",
    );
    assert_eq!(config.rules[0].class, [Class::Ddl, Class::Role]);
    assert_eq!((config.rules[1].action.clone(), config.rules[1].client.len()), (Action::Allow, 2));
    assert_eq!(value(&config, "rule.one").0, "refuse client=10.0.0.0/8 class=ddl, role");
}

#[test]
fn bad_rules_are_told() {
    let all = problems(
        "[[rule]]\nbranch = \"[\"\nclient = \"ten\"\nclass = [\"dll\"]\nobject = \"a.\"\n\
         [[rule]]\nname = \"x\"\naction = \"alow\"\n[[rule]]\nname = \"x\"\naction = \"allow\"\n",
    );
    for wanted in [
        "f.toml:1:1: a rule needs a `name`",
        "f.toml:1:1: a rule needs an `action`",
        "f.toml:2:10: \"[\" is no pattern",
        "f.toml:3:10: \"ten\" is no network",
        "f.toml:4:10: `class` cannot be \"dll\"",
        "f.toml:5:10: ",
        "did you mean \"allow\"?",
        "f.toml:10:8: there is another rule \"x\"",
    ] {
        assert!(all.iter().any(|problem| problem.contains(wanted)), "{wanted} in {all:#?}");
    }
}

#[test]
fn branches_are_declared_and_checked() {
    let config = parse(
        "[upstream]\ndbname = \"app\"\n[branches.main]\nprotected = true\n\
         [branches.\"feature/x\"]\ndatabase = \"app_x\"\nparent = \"main\"\n",
    );
    let branches = config.branches(&[]);
    assert_eq!(branches.find("main").unwrap().database, "app");
    assert_eq!(branches.find("feature/x").unwrap().parent.as_deref(), Some("main"));
    assert_eq!(config.policy(&branches, &[]).protected, ["main"]);
    for (text, wanted) in [
        ("[branches.x]\n", "f.toml:1:11: branch \"x\" needs a `database`"),
        ("[branches.x]\ndatabase = \"postgres\"", "f.toml:2:12: "),
        ("[branches.\"/x\"]\ndatabase = \"x\"", "neither starts nor ends"),
        ("[branches.x]\nurl = \"postgres://h/d\"\ndatabase = \"x\"", "unknown key `url` in [branches.x]"),
        ("[branches.a]\ndatabase = \"x\"\n[branches.b]\ndatabase = \"x\"", "f.toml:4:12: branches \"a\" and \"b\""),
        ("[branches]\ndefault = \"mian\"\n[branches.main]\ndatabase = \"postgres\"", "f.toml:2:11: the main database"),
        ("[branches]\ndefault = \"\"", "f.toml:2:11: a branch name cannot be empty"),
        ("[branches]\nauto_create = [\"pr-*\", \"[\"]", "f.toml:2:24: \"[\" is no pattern"),
        ("[branches]\nauto_create = [\"\"]", "an empty pattern matches nothing"),
        ("[branches]\nauto_create = []", "`auto_create` is an empty list; leave it out"),
        ("[branches]\nauto_create_max = 0", "f.toml:2:19: "),
    ] {
        let problem = problem(text);
        assert!(problem.contains(wanted), "{problem}");
    }
    let long = format!("[branches.x]\ndatabase = \"{}\"", "d".repeat(64));
    assert!(problem(&long).contains("at most 63 bytes"));
}

#[test]
fn rows_are_added_unless_declared() {
    let config = parse("[upstream]\ndbname = \"app\"\n[branches.x]\ndatabase = \"app_x\"\n");
    let row = |name: &str, database: &str, protected| Branch {
        name: name.into(),
        database: database.into(),
        protected,
        parent: None,
        origin: Origin::Table,
    };
    let rows = [row("main", "app", true), row("x", "other", true), row("y", "app_x", false), row("z", "app_z", true)];
    let branches = config.branches(&rows);
    let names: Vec<&str> = branches.all.iter().map(|branch| branch.name.as_str()).collect();
    assert_eq!(names, ["main", "x", "z"]);
    assert_eq!(branches.find("x").unwrap().database, "app_x");
    assert_eq!(branches.find("z").unwrap().origin, Origin::Table);
    assert_eq!(config.policy(&branches, &[]).protected, ["main", "z"]);
}

#[test]
fn open_control_port_is_a_problem() {
    assert!(problem("[control]\naddress = \"0.0.0.0:6433\"").starts_with("f.toml:2:11: the control port"));
    let users =
        "[control]\naddress = \"0.0.0.0:6433\"\nusers = [{ name = \"ops\", password = \"x\", role = \"admin\" }]";
    assert_eq!(parse(users).control.users[0].role, ControlRole::Admin);
    assert!(parse("[control]\naddress = \"off\"").control.address.is_none());
    assert!(problem("[[control.users]]\nname = \"ops\"").contains("needs a `password`"));
    assert!(problem("[control]\naddress = \"127.0.0.1:6432\"").contains("are both 127.0.0.1:6432"));
}

#[test]
fn flags_override_the_file_and_are_checked() {
    let flags = |listen: &str, upstream: Option<&str>| Overrides {
        listen: Some(listen.into()),
        control: Some("off".into()),
        http: Some("127.0.0.1:0".into()),
        upstream: upstream.map(str::to_owned),
    };
    let file = "[upstream]\npassword = \"pw\"\nport = 7\n[branches.main]\nprotected = true\n";
    let config = parse(file).with_overrides(flags("127.0.0.1:0", Some("postgres://rec@h/app"))).unwrap();
    assert_eq!((config.upstream.port, config.upstream.password.as_ref().unwrap().0.as_str()), (5432, "pw"));
    assert_eq!(config.branches(&[]).find("main").unwrap().database, "app");
    assert!(config.control.address.is_none());
    assert_eq!(value(&config, "listen.address"), ("127.0.0.1:0".into(), "flag".into()));
    let problems = parse("").with_overrides(flags("x", Some("y"))).unwrap_err();
    let places: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(places, ["--listen", "--upstream"]);
    let open = Overrides { control: Some("0.0.0.0:1".into()), ..Overrides::default() };
    assert_eq!(parse("").with_overrides(open).unwrap_err()[0].place, "--control");
}

#[test]
fn tls_needs_its_files_and_they_have_to_fit() {
    let certs = Certs::new();
    let path = |file: &str| certs.path(file).display().to_string();
    let ready = parse(&format!("[auth]\nmode = \"scram\"\n[listen.tls]\n{}", certs.listen("require")));
    assert!(ready.listen.tls.ready.is_some());
    assert!(!format!("{ready:?}").contains("PRIVATE"));
    assert!(problem("[listen.tls]\nmode = \"require\"").ends_with("TLS needs `cert` and `key`"));
    let tls = |cert: &str, key: &str, more: &str| {
        problem(&format!(
            "[auth]\nmode = \"scram\"\n[listen.tls]\nmode = \"allow\"\ncert = \"{}\"\nkey = \"{}\"\n{more}",
            path(cert),
            path(key)
        ))
    };
    assert!(tls("gone.crt", "server.key", "").contains("cannot read "));
    assert!(tls("server.crt", "ann.key", "").contains("do not fit"));
    assert!(tls("server.key", "server.key", "").ends_with("server.key holds no certificate"));
    assert!(tls("server.crt", "server.crt", "").contains("holds no private key"));
    assert!(tls("server.crt", "server.key", "client_name = true").contains("needs `client_ca`"));
    let server = |keys: &str| problem(&format!("[upstream]\nhost = \"db\"\n{keys}"));
    assert!(server("sslmode = \"verify-full\"").contains("needs `sslrootcert`"));
    assert!(server("sslmode = \"verify_full\"").contains("did you mean \"verify-full\"?"));
    assert!(server("sslmode = \"require\"\nsslcert = \"x\"").contains("needed together"));
    assert!(server("sslnegotiation = \"direct\"").contains("needs `sslmode` = \"require\""));
    assert!(server("sslnegotiation = \"direct\"\nsslmode = \"allow\"").contains("needs `sslmode` = \"require\""));
    assert!(server("sslmode = \"require\"\nsslrootcert = \"system\"").contains("needs `sslmode` = \"verify-full\""));
    assert!(server("sslmode = \"verify-ca\"\nsslrootcert = \"/gone\"").contains("cannot read /gone"));
    let url =
        parse(&format!("[upstream]\nurl = \"postgres://u@db/d?sslmode=verify-full&sslrootcert={}\"", path("root.crt")));
    assert!(url.upstream.tls.is_some());
    assert_eq!(value(&url, "upstream.sslmode"), ("verify-full".into(), "file".into()));
}

#[test]
fn passwords_cannot_pass_between_two_legs_with_tls() {
    let certs = Certs::new();
    let both = format!("[listen.tls]\n{}[upstream]\nhost = \"db\"\n", certs.listen("allow"));
    let refused = problem(&both);
    assert!(refused.contains("auth.mode = \"scram\"") && refused.contains("channel binding"), "{refused}");
    parse(&format!("{both}sslmode = \"disable\""));
    parse(&format!("{both}[auth]\nmode = \"scram\""));
    parse(&both.replace("\"db\"", "\"/run/postgresql\""));
    // A flag may bring the second leg.
    let config = parse(&format!("{both}sslmode = \"disable\""));
    let url = Overrides { upstream: Some("postgres://u@db/d?sslmode=require".into()), ..Overrides::default() };
    let problems = config.with_overrides(url).unwrap_err();
    assert!(problems[0].to_string().contains("channel binding"), "{problems:?}");
}

#[test]
fn sockets_and_load_balancers_are_checked() {
    for (text, wrong) in [
        ("unix_socket_dir = \"run\"", "is no directory"),
        ("unix_socket_permissions = \"999\"", "no permissions"),
        ("unix_socket_permissions = \"01777\"", "no permissions"),
        ("proxy_protocol = true", "needs `proxy_protocol_from`"),
        ("proxy_protocol_from = [\"10.0.0.0/8\", \"everybody\"]", "is no network"),
    ] {
        let problem = problem(&format!("[listen]\n{text}\n"));
        assert!(problem.contains(wrong), "{problem}");
    }
    let long = format!("[listen]\nunix_socket_dir = \"/{}\"\n", "x".repeat(100));
    assert!(problem(&long).contains("longer than 107 bytes"));
    let config = parse("[listen]\nproxy_protocol = true\nproxy_protocol_from = \"10.0.0.7\"\n");
    assert_eq!(config.listen.proxy_protocol[0].to_string(), "10.0.0.7/32");
    // Named, but not to be believed.
    assert!(parse("[listen]\nproxy_protocol_from = \"10.0.0.7\"\n").listen.proxy_protocol.is_empty());
}

#[test]
fn what_only_a_start_can_change_is_kept_and_named() {
    let running = parse("[branches.main]\n[upstream]\npassword = \"a\"\n");
    let mut wanted = parse(
        "[branches.main]\n[upstream]\npassword = \"b\"\ndbname = \"other\"\n[listen]\naddress = \"127.0.0.1:7\"\n\
         max_clients = 5\n[http]\naddress = \"off\"\n[log]\nlevel = \"debug\"\nformat = \"json\"\n[limits]\nmax_prepared = 7\n",
    );
    let waiting = wanted.keep_what_needs_a_restart(&running);
    assert_eq!(waiting, ["upstream.password", "listen.address", "upstream.dbname", "http.address", "log.format"]);
    assert_eq!((wanted.listen.max_clients, wanted.limits.max_prepared), (5, 7));
    assert_eq!(wanted.branches(&[]).all[0].database, "postgres");
    let again = wanted.clone().keep_what_needs_a_restart(&running);
    assert!(again.is_empty(), "{again:?}");
}
