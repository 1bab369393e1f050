//! What clients say. Each conversation is held direct and through the proxy; it leaves the database as it found it.

use super::Talk;
use crate::support::{self, wire};

pub(super) struct Conversation {
    pub(super) name: &'static str,
    pub(super) talk: fn(&mut Talk, &str),
}

/// Run in each database once.
pub(super) const SCHEMA: &str =
    "create table t (a int primary key, b text); create table d (a int unique deferrable initially deferred);";

macro_rules! conversations {
    ($($name:ident),* $(,)?) => { &[$(Conversation { name: stringify!($name), talk: $name }),*] };
}

pub(super) const GROUPS: &[(&str, &[Conversation])] = &[
    ("startup", STARTUP),
    ("simple", SIMPLE),
    ("extended", EXTENDED),
    ("copy", COPY),
    ("big", BIG),
    ("rest", OTHER),
    ("replication", REPLICATION),
    ("encodings", ENCODINGS),
];

const STARTUP: &[Conversation] = conversations![
    plain_3_0,
    plain_3_2,
    grease,
    protocol_options,
    odd_parameters,
    unknown_parameter,
    wrong_value,
    wrong_database,
    wrong_user,
    no_user,
    no_database,
    options_of_the_server,
    encryption_then_startup,
    encryption_twice,
    other_major,
    no_terminator,
    no_parameters,
    too_short,
    longest_startup,
    statement_behind_startup,
    half_a_startup,
    nothing_at_all,
];
const SIMPLE: &[Conversation] = conversations![
    several_statements,
    nothing_to_do,
    syntax_errors,
    errors_midway,
    transactions,
    notices,
    ddl_in_all_ways,
    settings,
    discard_all,
    cursors,
    prepared_in_sql,
    do_blocks,
    comments_and_quotes,
    other_strings,
    broken_messages,
    text_without_end,
    text_with_tail,
    long_names,
];
const EXTENDED: &[Conversation] = conversations![
    unnamed,
    named,
    described,
    portals_in_parts,
    parameters_of_all_sorts,
    errors_at_each_step,
    deferred_constraint,
    query_in_a_batch,
    failing_query_in_a_batch,
    ddl_in_a_batch,
    query_skipped_in_a_batch,
    pipeline_of_hundreds,
    transactions_in_a_pipeline,
    closed_twice,
    several_in_parse,
    ddl_extended,
    flushes,
    skipped_until_sync,
    portal_named,
    empty_statement,
    begin_fails_later,
    unknown_names,
    bad_binds,
];
const COPY: &[Conversation] = conversations![
    copy_out,
    copy_in,
    copy_in_one_byte_frames,
    copy_fails_by_client,
    copy_fails_by_row,
    copy_extended,
    copy_early_sync,
    copy_extended_row_fails,
    copy_extended_client_fails,
    copy_between_statements,
    copy_query_inside,
    stray_copy_messages,
    copy_flush_inside,
    copy_abandoned,
];
const BIG: &[Conversation] = conversations![copy_in_big_frames];
const OTHER: &[Conversation] = conversations![
    notify_self,
    function_calls,
    large_objects,
    prepared_transactions,
    unknown_message,
    absurd_length,
    negative_length,
    terminate_midway,
    half_close_midway,
    statement_timeout,
    savepoints,
    sql_level_errors,
    password_in_the_open,
    cancel_of_own,
    explain_all,
    ddl_that_cannot_be_in_a_transaction,
];
const REPLICATION: &[Conversation] = conversations![physical, logical, slots];
const ENCODINGS: &[Conversation] = conversations![latin1, sjis, bytes_that_are_no_utf8, big5_and_gbk];

fn login(talk: &mut Talk, database: &str) {
    start(talk, wire::V3_0, &[("user", "postgres"), ("database", database), ("application_name", "test")]);
}

fn start(talk: &mut Talk, version: u32, parameters: &[(&str, &str)]) {
    talk.ask(&wire::startup(version, parameters));
}

// Start-up

fn plain_3_0(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("select 1");
    talk.send(&wire::terminate());
    talk.end();
}

fn plain_3_2(talk: &mut Talk, database: &str) {
    start(talk, wire::V3_2, &[("user", "postgres"), ("database", database)]);
    talk.query("select 1");
}

fn grease(talk: &mut Talk, database: &str) {
    start(
        talk,
        (3 << 16) | 9999,
        &[("user", "postgres"), ("database", database), ("_pq_.test_protocol_negotiation", "")],
    );
    talk.query("select 1");
}

fn protocol_options(talk: &mut Talk, database: &str) {
    start(
        talk,
        wire::V3_2,
        &[("_pq_.x", "1"), ("user", "postgres"), ("_pq_.y", ""), ("database", database), ("_pq_.z", "z")],
    );
    talk.query("select 1");
}

fn odd_parameters(talk: &mut Talk, database: &str) {
    start(
        talk,
        wire::V3_0,
        &[
            ("application_name", "one\ttwo 'three' \u{e9}"),
            ("database", "nowhere"),
            ("database", database),
            ("user", "postgres"),
            ("DateStyle", "German"),
            ("app.setting", "kept"),
            ("extra_float_digits", "2"),
            ("TimeZone", "Asia/Tokyo"),
            ("search_path", "\"$user\", pg_catalog"),
        ],
    );
    talk.query("show app.setting; show datestyle; show search_path; show application_name; show timezone");
    talk.query("reset all; show app.setting; show datestyle");
}

fn unknown_parameter(talk: &mut Talk, database: &str) {
    start(talk, wire::V3_0, &[("user", "postgres"), ("database", database), ("no_such_thing", "1")]);
    talk.end();
}

fn wrong_value(talk: &mut Talk, database: &str) {
    start(talk, wire::V3_0, &[("user", "postgres"), ("database", database), ("work_mem", "much")]);
    talk.end();
}

fn wrong_database(talk: &mut Talk, _: &str) {
    start(talk, wire::V3_0, &[("user", "postgres"), ("database", "no such \u{fc}")]);
    talk.end();
}

fn wrong_user(talk: &mut Talk, database: &str) {
    start(talk, wire::V3_0, &[("user", "nobody at all"), ("database", database)]);
    talk.end();
}

fn no_user(talk: &mut Talk, database: &str) {
    start(talk, wire::V3_0, &[("database", database)]);
    talk.end();
    without_source(talk);
}

fn no_database(talk: &mut Talk, _: &str) {
    start(talk, wire::V3_0, &[("user", "postgres")]);
    talk.query("select current_database()");
}

fn options_of_the_server(talk: &mut Talk, database: &str) {
    let options = r"-c app.a=one\ two --app.b=3 -capp.c=\\x -e";
    start(talk, wire::V3_0, &[("user", "postgres"), ("options", options), ("database", database)]);
    talk.query("show app.a; show app.b; show app.c; show datestyle");
}

fn encryption_then_startup(talk: &mut Talk, database: &str) {
    talk.send(&wire::ssl_request());
    talk.byte();
    login(talk, database);
    talk.query("select 1");
}

fn encryption_twice(talk: &mut Talk, _: &str) {
    talk.send(&wire::ssl_request());
    talk.byte();
    talk.send(&wire::ssl_request());
    talk.end();
    without_source(talk);
    without_versions(talk);
}

fn other_major(talk: &mut Talk, database: &str) {
    start(talk, 4 << 16, &[("user", "postgres"), ("database", database)]);
    talk.end();
    without_source(talk);
    without_versions(talk);
}

fn no_terminator(talk: &mut Talk, _: &str) {
    talk.send(&wire::untagged(b"\0\x03\0\0user\0postgres\0"));
    talk.end();
    without_source(talk);
}

fn no_parameters(talk: &mut Talk, _: &str) {
    talk.send(&wire::untagged(b"\0\x03\0\0"));
    talk.end();
    without_source(talk);
}

fn too_short(talk: &mut Talk, _: &str) {
    talk.send(b"\0\0\0\x07abc");
    talk.end();
}

/// As long as one can be, less what the proxy adds to it.
fn longest_startup(talk: &mut Talk, database: &str) {
    let value = "x".repeat(9500);
    start(talk, wire::V3_0, &[("user", "postgres"), ("database", database), ("app.long", &value)]);
    talk.query("select length(current_setting('app.long'))");
}

fn statement_behind_startup(talk: &mut Talk, database: &str) {
    let login = wire::startup(wire::V3_0, &[("user", "postgres"), ("database", database)]);
    talk.send(&[login, wire::query("select 1"), wire::extended("select 2", &[]), wire::terminate()].concat());
    talk.end();
}

fn half_a_startup(talk: &mut Talk, database: &str) {
    let login = wire::startup(wire::V3_0, &[("user", "postgres"), ("database", database)]);
    talk.send(&login[..login.len() / 2]);
    talk.shut_writing();
    talk.end();
}

fn nothing_at_all(talk: &mut Talk, _: &str) {
    talk.shut_writing();
    talk.end();
}

/// The server names its source file, which the proxy's own words cannot.
fn without_source(talk: &mut Talk) {
    for message in talk.heard.iter_mut().filter(|message| message.tag == b'E') {
        let kept: Vec<&[u8]> = message
            .body
            .split(|byte| *byte == 0)
            .filter(|field| !matches!(field.first(), None | Some(b'F' | b'L' | b'R')))
            .collect();
        message.body = kept.join(&0);
    }
}

/// Which versions it supports is for the server to say; the proxy says it before it asks one.
fn without_versions(talk: &mut Talk) {
    for message in talk.heard.iter_mut().filter(|message| message.tag == b'E') {
        let text = String::from_utf8_lossy(&message.body).replace("3.0 to 3.0", "3.0 to 3.2");
        message.body = text.into_bytes();
    }
}

// Simple queries

fn several_statements(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query(
        "select 1; select 'a', null, ''; values (1), (2), (3); insert into t values (1, 'x'); table t; delete from t",
    );
    talk.query("select 1;; ; select 2;");
    talk.query("select from t; select");
}

fn nothing_to_do(talk: &mut Talk, database: &str) {
    login(talk, database);
    for text in ["", ";", "  ", "-- nothing", "/* nothing */;", ";;;"] {
        talk.query(text);
    }
}

fn syntax_errors(talk: &mut Talk, database: &str) {
    login(talk, database);
    for text in [
        "selct 1",
        "select 1; selct 2; select 3",
        "select '\u{e4}\u{f6}', nothing from t",
        "create table (",
        "select 'open",
        "select $1",
        "select 1 /* open",
        "drop table no_such_table",
        "alter table t add column a int",
    ] {
        talk.query(text);
    }
}

fn errors_midway(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("insert into t values (1, 'x'); select 1/0; insert into t values (2, 'y')");
    talk.query("table t");
    talk.query("select 1/a from (values (1), (2), (0)) v(a)");
    talk.query("create table x_midway (a int); select 1/0");
    talk.query("select * from x_midway");
}

fn transactions(talk: &mut Talk, database: &str) {
    login(talk, database);
    for text in [
        "begin",
        "begin",
        "select 1",
        "selct",
        "select 1",
        "savepoint a",
        "commit",
        "commit",
        "rollback",
        "begin; insert into t values (1, 'x'); rollback; select count(*) from t",
        "start transaction read only",
        "insert into t values (1, 'x')",
        "rollback and chain",
        "abort",
        "begin isolation level serializable; select 1; end",
    ] {
        talk.query(text);
    }
}

fn notices(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("drop table if exists no_such_table; drop view if exists no_such_view");
    talk.query(
        "do $$ begin raise notice 'n'; raise warning 'w' using detail = 'd', hint = 'h'; raise info 'i'; end $$",
    );
    talk.query(
        "do $$ begin raise exception 'e' using errcode = 'XX123', detail = 'd', hint = 'h', column = 'c'; end $$",
    );
    talk.query("set client_min_messages = debug1; select 1; reset client_min_messages");
}

fn ddl_in_all_ways(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("create table x_ddl (a int primary key, b text)");
    talk.query("alter table x_ddl add c int default 1; create index on x_ddl (b); comment on table x_ddl is 'x'");
    talk.query("begin; create view x_view as table x_ddl; savepoint a; drop view x_view; rollback to a; commit");
    talk.query("create function x_f() returns int language sql as 'select 1'; select x_f(); drop function x_f()");
    talk.query("select 1 as a into x_into; create table x_as as select 2; explain (analyze, costs off, timing off, summary off) create table x_explained as select 3");
    talk.query("create schema x_s create table y (a int); drop schema x_s cascade");
    talk.query("drop table x_ddl, x_into, x_as, x_explained cascade");
    talk.query("create temp table x_temp (a int); drop table x_temp");
    talk.query("create role x_role; grant select on t to x_role; revoke select on t from x_role; drop role x_role");
}

fn settings(talk: &mut Talk, database: &str) {
    login(talk, database);
    for text in [
        "set application_name = 'other'",
        "show application_name",
        "set datestyle = 'SQL, DMY'",
        "reset datestyle",
        "set timezone = 'Europe/Berlin'",
        "set local work_mem = '1MB'",
        "begin; set local search_path = x; rollback",
        "set standard_conforming_strings = off",
        "select 'a\\'b'",
        "reset all",
        "set role postgres",
        "reset role",
        "set session authorization default",
        "select set_config('search_path', 'pg_catalog', false)",
        "show all_the_things",
        "set intervalstyle = iso_8601",
        "set default_transaction_read_only = on",
        "set default_transaction_read_only = off",
    ] {
        talk.query(text);
    }
}

fn discard_all(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&[wire::parse("s1", "select 1", &[]), wire::sync()].concat());
    talk.query("listen x; set application_name = 'y'; create temp table x_d (a int); prepare p as select 2");
    talk.query("discard all");
    talk.query("execute p");
    talk.ask(&[wire::bind("", "s1", &[]), wire::execute("", 0), wire::sync()].concat());
    talk.ask(
        &[wire::parse("s1", "select 2", &[]), wire::bind("", "s1", &[]), wire::execute("", 0), wire::sync()].concat(),
    );
    talk.query("deallocate all; select 1");
    talk.ask(&[wire::bind("", "s1", &[]), wire::sync()].concat());
}

fn cursors(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("begin; declare c scroll cursor for select generate_series(1, 10)");
    talk.query("fetch 3 from c; move 2 in c; fetch backward 1 from c; fetch all in c");
    talk.query("close c; fetch 1 from c");
    talk.query("rollback");
    talk.query("declare h cursor with hold for select 1");
    talk.query("fetch h; close h");
}

fn prepared_in_sql(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("prepare p (int) as select $1 + 1; execute p (2); deallocate p; execute p (3)");
    talk.query("prepare q as insert into t values ($1, $2)");
    talk.ask(&[wire::bind("", "q", &[Some("5"), None]), wire::execute("", 0), wire::sync()].concat());
    talk.query("delete from t; deallocate q");
}

fn do_blocks(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("do $x$ begin create table x_do (a int); drop table x_do; end $x$");
    talk.query("do $x$ begin perform 1; commit; rollback; end $x$");
    talk.query("begin; do $x$ begin commit; end $x$");
    talk.query("rollback");
    talk.query("create procedure x_p() language plpgsql as $$ begin create table x_pt (a int); commit; drop table x_pt; end $$");
    talk.query("call x_p()");
    talk.query("drop procedure x_p()");
    talk.query("call x_p()");
}

fn comments_and_quotes(talk: &mut Talk, database: &str) {
    login(talk, database);
    for text in [
        "/* ; */ select 1 -- ; drop table t",
        "select ';' as \";\", $$;$$, $a$ $$ ; $a$, E'\\';', U&'\\0041'",
        "/* /* nested ; */ */ select 2; -- end\nselect 3",
        "select 'a'\n'b'; select \"a\"\"b\" from (select 1 as \"a\"\"b\") x",
        "-- pggit set_config\nselect 1 as pggit",
        "select current_setting('pggit.nothing', true)",
    ] {
        talk.query(text);
    }
}

fn other_strings(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("set standard_conforming_strings = off; set escape_string_warning = off");
    talk.query("select 'it\\'s; drop table t'; select 2");
    talk.query("select '\\\\'; select 3");
}

fn broken_messages(talk: &mut Talk, database: &str) {
    login(talk, database);
    // Describe of neither a statement nor a portal; then bodies that are too short.
    talk.ask(&[wire::describe(b'X', "a"), wire::sync()].concat());
    talk.ask(&[wire::close(b'X', "a"), wire::sync()].concat());
    talk.ask(&[wire::frame(b'E', b"\0\0"), wire::sync()].concat());
    talk.ask(&[wire::frame(b'B', b"\0"), wire::sync()].concat());
    talk.ask(&[wire::frame(b'P', b"name without end"), wire::sync()].concat());
    talk.ask(&[wire::frame(b'P', b"a\0select 1\0"), wire::sync()].concat());
    talk.ask(&[wire::frame(b'D', b""), wire::sync()].concat());
    talk.ask(&[wire::frame(b'C', b""), wire::sync()].concat());
    talk.ask(&[wire::frame(b'S', b"tail"), wire::sync()].concat());
    talk.query("select 1");
}

fn text_without_end(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::frame(b'Q', b"select 1"));
    talk.ask(&wire::frame(b'Q', b"create table x_open (a int)"));
    talk.query("select 2");
}

fn text_with_tail(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::frame(b'Q', b"select 1\0; select 2\0"));
    talk.ask(&wire::frame(b'Q', b""));
    talk.query("select 2");
}

fn long_names(talk: &mut Talk, database: &str) {
    login(talk, database);
    let name = "n".repeat(200);
    talk.query(&format!("create temp table {name} (a int)"));
    talk.query(&format!("select * from {name}"));
    let parse = [wire::parse(&name, "select 1", &[]), wire::bind(&name, &name, &[]), wire::execute(&name, 0)].concat();
    talk.ask(&[parse, wire::sync()].concat());
}

// Extended queries

fn unnamed(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::extended("select $1::int + $2", &[Some("1"), Some("2")]));
    talk.ask(&wire::extended("insert into t values (1, 'x') returning *", &[]));
    talk.ask(&wire::extended("delete from t", &[]));
    talk.ask(&wire::sync());
    talk.ask(&[wire::bind("", "", &[]), wire::execute("", 0), wire::sync()].concat());
}

fn named(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&[wire::parse("s", "select $1::text", &[]), wire::sync()].concat());
    for value in ["a", "", "it's"] {
        talk.ask(
            &[wire::bind("", "s", &[Some(value)]), wire::describe(b'P', ""), wire::execute("", 0), wire::sync()]
                .concat(),
        );
    }
    talk.ask(&[wire::parse("s", "select 1", &[]), wire::sync()].concat());
    talk.ask(&[wire::close(b'S', "s"), wire::parse("s", "select 1", &[]), wire::sync()].concat());
    talk.ask(&[wire::bind("", "s", &[]), wire::execute("", 0), wire::sync()].concat());
}

fn described(talk: &mut Talk, database: &str) {
    login(talk, database);
    for text in [
        "select a, b from t where a = $1",
        "insert into t values ($1, $2)",
        "",
        "create table x_n (a int)",
        "show all",
        "select",
    ] {
        talk.ask(&[wire::parse("", text, &[]), wire::describe(b'S', ""), wire::sync()].concat());
    }
    talk.ask(&[wire::parse("", "select $1", &[25]), wire::describe(b'S', ""), wire::sync()].concat());
    talk.ask(&[wire::parse("", "select $1", &[99_999_999]), wire::sync()].concat());
}

fn portals_in_parts(talk: &mut Talk, database: &str) {
    login(talk, database);
    let begin =
        [wire::parse("", "select generate_series(1, 10)", &[]), wire::bind("p", "", &[]), wire::execute("p", 3)]
            .concat();
    talk.send(&[begin, wire::flush()].concat());
    talk.until(b's');
    talk.send(&[wire::execute("p", 3), wire::flush()].concat());
    talk.until(b's');
    talk.ask(&[wire::execute("p", 0), wire::execute("p", 0), wire::sync()].concat());
    talk.ask(&[wire::execute("p", 0), wire::sync()].concat());
    talk.query("begin");
    talk.ask(
        &[
            wire::parse("", "select generate_series(1, 4)", &[]),
            wire::bind("q", "", &[]),
            wire::execute("q", 1),
            wire::sync(),
        ]
        .concat(),
    );
    talk.query("select 'between'");
    talk.ask(&[wire::execute("q", 2), wire::sync()].concat());
    talk.ask(&[wire::close(b'P', "q"), wire::execute("q", 2), wire::sync()].concat());
    talk.query("rollback");
}

fn parameters_of_all_sorts(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::extended(
        "select $1::int, $2::text, $3::bool, $4::numeric, $5::bytea, $6::int[]",
        &[None, Some("\u{e4}\u{1f600}"), Some("t"), Some("1e100"), Some("\\x00ff"), Some("{1,NULL,3}")],
    ));
    talk.ask(&wire::extended("select $1::int", &[Some("no number")]));
    // Binary parameters and results.
    let mut bind = b"\0\0".to_vec();
    bind.extend_from_slice(&[0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 0, 0, 1, 0, 0, 1, 0, 1]);
    talk.ask(
        &[wire::parse("", "select $1::int4", &[]), wire::frame(b'B', &bind), wire::execute("", 0), wire::sync()]
            .concat(),
    );
    let many: Vec<String> = (1..=1000).map(|n| format!("${n}::int")).collect();
    let values = vec![Some("1"); 1000];
    talk.ask(&wire::extended(&format!("select {}", many.join(" + ")), &values));
}

fn errors_at_each_step(talk: &mut Talk, database: &str) {
    login(talk, database);
    let rest = [wire::describe(b'P', ""), wire::execute("", 0), wire::sync()].concat();
    talk.ask(&[wire::parse("", "selct", &[]), wire::bind("", "", &[]), rest.clone()].concat());
    talk.ask(&[wire::parse("", "select $1::int", &[]), wire::bind("", "", &[]), rest.clone()].concat());
    talk.ask(&[wire::parse("", "select 1/$1::int", &[]), wire::bind("", "", &[Some("0")]), rest.clone()].concat());
    talk.ask(&[wire::parse("", "insert into t values (1), (1)", &[]), wire::bind("", "", &[]), rest.clone()].concat());
    talk.ask(&[wire::bind("", "no such", &[]), rest.clone()].concat());
    talk.ask(&[wire::execute("no such", 0), wire::sync()].concat());
    talk.ask(&[wire::describe(b'S', "no such"), wire::sync()].concat());
    talk.query("begin");
    talk.ask(&[wire::parse("", "selct", &[]), rest.clone()].concat());
    talk.ask(&wire::extended("select 1", &[]));
    talk.ask(&wire::extended("rollback", &[]));
}

fn deferred_constraint(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::extended("insert into d values (1), (1)", &[]));
    talk.query("insert into d values (1), (1)");
    talk.query("begin; insert into d values (1), (1); select 1; commit; select 2");
    let batch = [
        wire::parse("", "insert into d values (2)", &[]),
        wire::bind("", "", &[]),
        wire::execute("", 0),
        wire::execute("", 0),
        wire::bind("", "", &[]),
        wire::execute("", 0),
        wire::sync(),
        wire::query("select count(*) from d"),
    ];
    talk.ask(&batch.concat());
    talk.until(b'Z');
    talk.query("create table x_def (a int); insert into d values (1), (1)");
    talk.query("table x_def");
}

const INSERT: &str = "insert into t values (1, 'x')";

fn insert_without_sync() -> Vec<u8> {
    [wire::parse("s", INSERT, &[]), wire::bind("p", "s", &[]), wire::execute("p", 0)].concat()
}

/// Versions differ in how many answers there are: read them all.
fn all_answers(talk: &mut Talk, messages: &[Vec<u8>]) {
    talk.send(&messages.concat());
    talk.send(&wire::terminate());
    talk.end();
    talk.another(&talk.database.clone()).rows("delete from t");
}

fn query_in_a_batch(talk: &mut Talk, database: &str) {
    login(talk, database);
    all_answers(
        talk,
        &[insert_without_sync(), wire::query("select count(*) from t"), wire::sync(), wire::query("table t")],
    );
}

fn failing_query_in_a_batch(talk: &mut Talk, database: &str) {
    login(talk, database);
    all_answers(
        talk,
        &[insert_without_sync(), wire::query("selct"), wire::query("table t"), wire::sync(), wire::query("table t")],
    );
}

fn ddl_in_a_batch(talk: &mut Talk, database: &str) {
    login(talk, database);
    let ddl = [wire::query("create table x_b (a int)"), wire::query("drop table x_b"), wire::sync()].concat();
    all_answers(talk, &[insert_without_sync(), ddl, wire::query("rollback; drop table if exists x_b")]);
}

/// A Query after an error of the batch is skipped with the rest.
fn query_skipped_in_a_batch(talk: &mut Talk, database: &str) {
    login(talk, database);
    let skipped = [wire::parse("", "selct", &[]), wire::query("create table x_skipped (a int)"), wire::sync()].concat();
    all_answers(talk, &[skipped, wire::query("table x_skipped")]);
}

fn pipeline_of_hundreds(talk: &mut Talk, database: &str) {
    login(talk, database);
    let mut batch = Vec::new();
    for n in 0..300 {
        batch.extend(match n % 5 {
            0 => wire::extended("select $1::int", &[Some(&n.to_string())]),
            1 => wire::query("select 1; select 2"),
            2 => wire::extended("selct", &[]),
            3 => wire::query("select 1/0"),
            _ => wire::extended("insert into t values (1, 'x') on conflict do nothing", &[]),
        });
    }
    talk.send(&batch);
    for _ in 0..300 {
        talk.until(b'Z');
    }
    talk.query("delete from t");
}

fn transactions_in_a_pipeline(talk: &mut Talk, database: &str) {
    login(talk, database);
    let one = |sql: &str| [wire::parse("", sql, &[]), wire::bind("", "", &[]), wire::execute("", 0)].concat();
    let all = [
        "begin",
        "create table x_tp (a int)",
        "savepoint a",
        "drop table x_tp",
        "rollback to a",
        "insert into x_tp values (1)",
        "commit",
        "drop table x_tp",
    ];
    let batch: Vec<u8> = all.iter().flat_map(|sql| one(sql)).collect();
    talk.ask(&[batch, wire::sync()].concat());
    talk.ask(&[one("begin"), one("selct"), one("commit"), wire::sync(), one("select 1"), wire::sync()].concat());
    talk.until(b'Z');
    talk.query("commit");
    talk.ask(&[one("create table x_tp (a int)"), one("select 1/0"), wire::sync()].concat());
    talk.query("table x_tp");
}

fn closed_twice(talk: &mut Talk, database: &str) {
    login(talk, database);
    let close =
        [wire::close(b'S', "nothing"), wire::close(b'P', "nothing"), wire::close(b'S', ""), wire::close(b'P', "")]
            .concat();
    talk.ask(&[close, wire::sync()].concat());
}

fn several_in_parse(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::extended("select 1; select 2", &[]));
    talk.ask(&wire::extended("create table x_two (a int); drop table x_two", &[]));
    talk.ask(&wire::extended("select 1;", &[]));
}

fn ddl_extended(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::extended("create table x_e (a int)", &[]));
    let twice = [
        wire::parse("s", "alter table x_e add b int", &[]),
        wire::bind("", "s", &[]),
        wire::execute("", 0),
        wire::sync(),
    ];
    talk.ask(&twice.concat());
    talk.ask(&[wire::bind("", "s", &[]), wire::execute("", 0), wire::sync()].concat());
    talk.ask(&wire::extended("drop table x_e", &[]));
    talk.ask(&[wire::bind("", "s", &[]), wire::execute("", 0), wire::sync()].concat());
}

fn flushes(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&[wire::parse("", "select 1", &[]), wire::flush()].concat());
    talk.until(b'1');
    talk.send(&[wire::flush(), wire::bind("", "", &[]), wire::flush()].concat());
    talk.until(b'2');
    talk.send(&[wire::execute("", 0), wire::flush()].concat());
    talk.until(b'C');
    talk.send(&wire::execute("no such", 0));
    talk.until(b'E');
    talk.ask(&wire::sync());
}

fn skipped_until_sync(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&wire::parse("", "selct", &[]));
    talk.until(b'E');
    talk.send(&[wire::extended("select 1", &[]), wire::query("select 2")].concat());
    talk.until(b'Z');
    talk.until(b'Z');
    talk.send(&wire::parse("", "selct", &[]));
    talk.until(b'E');
    talk.send(
        &[wire::query("select 3"), wire::flush(), wire::copy_done(), wire::copy_fail("x"), wire::parse("", "x", &[])]
            .concat(),
    );
    talk.ask(&wire::sync());
    talk.query("select 4");
}

fn portal_named(talk: &mut Talk, database: &str) {
    login(talk, database);
    let p =
        [wire::parse("", "select 1", &[]), wire::bind("p", "", &[]), wire::bind("p", "", &[]), wire::sync()].concat();
    talk.ask(&p);
    talk.query("begin; declare c cursor for select 7");
    talk.ask(&[wire::execute("c", 0), wire::describe(b'P', "c"), wire::sync()].concat());
    talk.query("rollback");
}

fn empty_statement(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::extended("", &[]));
    talk.ask(&wire::extended("-- nothing", &[]));
    talk.ask(&wire::extended(";", &[]));
}

fn begin_fails_later(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::extended("begin", &[]));
    talk.ask(&wire::extended("insert into d values (1), (1)", &[]));
    talk.ask(&wire::extended("commit", &[]));
    talk.ask(&wire::extended("begin", &[]));
    talk.ask(&wire::extended("select 1/0", &[]));
    talk.ask(&wire::extended("commit", &[]));
}

fn unknown_names(talk: &mut Talk, database: &str) {
    login(talk, database);
    let name = "\u{e4}'\"\\ ".repeat(30);
    talk.ask(&[wire::bind(&name, &name, &[]), wire::sync()].concat());
    talk.ask(
        &[wire::parse(&name, "select 1", &[]), wire::bind(&name, &name, &[]), wire::execute(&name, 0), wire::sync()]
            .concat(),
    );
}

fn bad_binds(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&[wire::parse("s", "select $1::int", &[]), wire::sync()].concat());
    for body in [
        &b"\0s\0\0\0\0\x01"[..],
        b"\0s\0\0\0\0\x01\0\0\0\x09abc",
        b"\0s\0\0\x05\0\x01",
        b"\0s",
        b"\0s\0\xff\xff\xff\xff",
    ] {
        talk.ask(&[wire::frame(b'B', body), wire::sync()].concat());
    }
}

// COPY

fn copy_out(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("copy (select n, 'x\ty' from generate_series(1, 1000) n) to stdout");
    talk.query("copy (select 1/a from (values (1), (0)) v(a)) to stdout");
    talk.query("copy (select 1) to stdout (format binary); copy t to stdout; select 1");
    talk.ask(&wire::extended("copy (select 1, 2) to stdout csv header", &[]));
}

fn copy_in(talk: &mut Talk, database: &str) {
    login(talk, database);
    copy_rows(talk, &[wire::copy_data(b"1\tone\n2\ttwo\n"), wire::copy_data(b"3\t\\N\n\\.\n"), wire::copy_done()]);
    talk.query("table t");
    talk.query("delete from t");
    copy_rows(talk, &[wire::copy_done()]);
}

fn copy_rows(talk: &mut Talk, data: &[Vec<u8>]) {
    talk.send(&wire::query("copy t from stdin"));
    talk.until(b'G');
    talk.ask(&data.concat());
}

fn copy_in_one_byte_frames(talk: &mut Talk, database: &str) {
    login(talk, database);
    let rows: String = (1..200).map(|n| format!("{n}\tvalue {n}\n")).collect();
    let mut frames: Vec<Vec<u8>> = rows.as_bytes().chunks(1).map(wire::copy_data).collect();
    frames.push(wire::copy_data(b""));
    frames.push(wire::copy_done());
    copy_rows(talk, &frames);
    talk.query("select count(*), sum(a) from t; delete from t");
}

fn copy_in_big_frames(talk: &mut Talk, database: &str) {
    login(talk, database);
    let rows: String = (1..100_000).map(|n| format!("{n}\tvalue of the row number {n}\n")).collect();
    let mut frames: Vec<Vec<u8>> = rows.as_bytes().chunks(1 << 20).map(wire::copy_data).collect();
    frames.push(wire::copy_done());
    copy_rows(talk, &frames);
    talk.query("select count(*), sum(a) from t; delete from t");
}

fn copy_fails_by_client(talk: &mut Talk, database: &str) {
    login(talk, database);
    copy_rows(talk, &[wire::copy_data(b"1\tone\n"), wire::copy_fail("had enough \u{e4}")]);
    talk.query("select count(*) from t");
}

fn copy_fails_by_row(talk: &mut Talk, database: &str) {
    login(talk, database);
    copy_rows(talk, &[wire::copy_data(b"no number\tone\n"), wire::copy_data(b"2\ttwo\n"), wire::copy_done()]);
    talk.query("select count(*) from t");
    // The whole COPY sent without waiting.
    talk.ask(
        &[wire::query("copy t from stdin"), wire::copy_data(b"x\ty\n"), wire::copy_done(), wire::query("select 1")]
            .concat(),
    );
    talk.until(b'Z');
    talk.ask(
        &[
            wire::query("copy no_such from stdin"),
            wire::copy_data(b"x\ty\n"),
            wire::copy_done(),
            wire::query("select 2"),
        ]
        .concat(),
    );
    talk.until(b'Z');
    talk.query("select 3");
}

fn copy_extended(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(
        &[
            wire::parse("", "copy t from stdin", &[]),
            wire::bind("", "", &[]),
            wire::describe(b'P', ""),
            wire::execute("", 0),
            wire::flush(),
        ]
        .concat(),
    );
    talk.until(b'G');
    talk.ask(&[wire::copy_data(b"1\tone\n"), wire::copy_done(), wire::sync()].concat());
    talk.query("delete from t");
}

/// libpq sends a Sync with the COPY, and another at its end.
fn copy_early_sync(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&wire::extended("copy t from stdin", &[]));
    talk.until(b'G');
    talk.send(&[wire::copy_data(b"1\tone\n"), wire::sync(), wire::flush(), wire::copy_done(), wire::sync()].concat());
    talk.until(b'Z');
    talk.query("select count(*) from t; delete from t");
    talk.send(
        &[
            wire::extended("copy t from stdin", &[]),
            wire::copy_data(b"1\tone\n"),
            wire::copy_done(),
            wire::sync(),
            wire::query("delete from t"),
        ]
        .concat(),
    );
    talk.until(b'Z');
    talk.until(b'Z');
    talk.query("select 1");
}

fn copy_extended_row_fails(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&wire::extended("copy t from stdin", &[]));
    talk.until(b'G');
    talk.send(&[wire::copy_data(b"x\ty\n"), wire::copy_data(b"1\tone\n"), wire::copy_done(), wire::sync()].concat());
    talk.until(b'Z');
    talk.query("create table x_after (a int); drop table x_after");
}

fn copy_extended_client_fails(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&wire::extended("copy t from stdin", &[]));
    talk.until(b'G');
    talk.send(&[wire::copy_fail("no"), wire::sync()].concat());
    talk.until(b'Z');
    talk.query("select 1");
}

fn copy_between_statements(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&wire::query("create table x_c (a int); copy x_c from stdin; copy x_c to stdout; drop table x_c; copy t from stdin; select 1"));
    talk.until(b'G');
    talk.send(&[wire::copy_data(b"1\n"), wire::copy_done()].concat());
    talk.until(b'G');
    talk.ask(&wire::copy_done());
}

/// A Query inside of COPY ends the session.
fn copy_query_inside(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&wire::query("copy t from stdin"));
    talk.until(b'G');
    talk.send(&[wire::copy_data(b"1\tone\n"), wire::query("select 1")].concat());
    talk.end();
}

fn stray_copy_messages(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&[wire::copy_data(b"1\tone\n"), wire::copy_done(), wire::copy_fail("x")].concat());
    talk.query("select 1");
    talk.ask(
        &[
            wire::parse("", "select 1", &[]),
            wire::copy_done(),
            wire::bind("", "", &[]),
            wire::copy_fail("x"),
            wire::execute("", 0),
            wire::sync(),
        ]
        .concat(),
    );
}

fn copy_flush_inside(talk: &mut Talk, database: &str) {
    login(talk, database);
    copy_rows(talk, &[wire::flush(), wire::copy_data(b"1\tone\n"), wire::sync(), wire::copy_done()]);
    talk.query("delete from t");
}

fn copy_abandoned(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&wire::query("copy t from stdin"));
    talk.until(b'G');
    talk.send(&wire::copy_data(b"1\tone\n"));
    talk.send(&wire::terminate());
    talk.end();
}

// The rest

fn notify_self(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("listen x");
    talk.query("notify x, 'payload'; select 1");
    talk.query("begin; notify x; notify x; notify y; commit");
    talk.ask(&wire::extended("select pg_notify('x', 'by function')", &[]));
    talk.query("unlisten *; notify x");
}

fn call(oid: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 1, 0, 1]);
    body.extend_from_slice(&u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend_from_slice(&u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend_from_slice(argument);
    }
    body.extend_from_slice(&[0, 1]);
    wire::frame(b'F', &body)
}

fn function_calls(talk: &mut Talk, database: &str) {
    login(talk, database);
    // int4pl, int4div by zero, one that is not there.
    talk.ask(&call(177, &[&1i32.to_be_bytes(), &2i32.to_be_bytes()]));
    talk.ask(&call(154, &[&1i32.to_be_bytes(), &0i32.to_be_bytes()]));
    talk.ask(&call(1, &[]));
    talk.ask(&wire::frame(b'F', b"\0"));
    talk.query("begin");
    talk.ask(
        &[
            call(154, &[&1i32.to_be_bytes(), &0i32.to_be_bytes()]),
            call(177, &[&1i32.to_be_bytes(), &2i32.to_be_bytes()]),
        ]
        .concat(),
    );
    talk.until(b'Z');
    talk.query("rollback");
}

fn large_objects(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("select lo_create(4711)");
    talk.query("begin; select lo_open(4711, 393216)");
    talk.ask(&call(955, &[&0i32.to_be_bytes(), &vec![b'x'; 100_000]]));
    talk.ask(&call(956, &[&0i32.to_be_bytes(), &0i32.to_be_bytes(), &0i32.to_be_bytes()]));
    talk.ask(&call(954, &[&0i32.to_be_bytes(), &200_000i32.to_be_bytes()]));
    talk.query("commit; select lo_unlink(4711)");
}

fn prepared_transactions(talk: &mut Talk, database: &str) {
    login(talk, database);
    let gid = format!("x_{}", talk.label);
    talk.query(&format!(
        "begin; insert into t values (1, 'x'); create table x_2pc (a int); prepare transaction '{gid}'"
    ));
    talk.query(&format!("rollback prepared '{gid}'"));
    talk.query(&format!("begin; insert into t values (1, 'x'); prepare transaction '{gid}'"));
    talk.query(&format!("commit prepared '{gid}'; "));
    talk.query(&format!("rollback prepared '{gid}'"));
    talk.query("delete from t");
    talk.query(&format!("prepare transaction '{gid}'"));
}

fn unknown_message(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&[wire::query("select 1"), wire::frame(b'y', b"what"), wire::query("select 2")].concat());
    talk.end();
}

fn absurd_length(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.ask(&wire::query("insert into t values (77, 'kept')"));
    talk.send(&[wire::query("select a from t"), b"Q\xff\xff\xff\xffselect".to_vec()].concat());
    talk.end();
    only_answers(talk);
    let mut other = talk.another(database);
    other.rows("delete from t");
}

fn negative_length(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&[wire::extended("select 1", &[]), b"S\0\0\0\x03".to_vec()].concat());
    talk.end();
    only_answers(talk);
}

/// The server hangs up on an impossible length without a word; the proxy says why.
fn only_answers(talk: &mut Talk) {
    if talk.heard.last().and_then(|message| message.field(b'C')).as_deref() == Some("08P01") {
        talk.heard.pop();
    }
}

fn terminate_midway(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&[wire::query("select 1"), wire::terminate(), wire::query("select 2")].concat());
    talk.end();
}

fn half_close_midway(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&wire::extended("select generate_series(1, 1000)", &[]));
    talk.send(&wire::query("select pg_sleep(0.05)")[..12]);
    talk.shut_writing();
    talk.end();
}

fn statement_timeout(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("set statement_timeout = 50");
    talk.query("select pg_sleep(10)");
    talk.query("set statement_timeout = 0; begin; create table x_to (a int); set statement_timeout = 50");
    talk.query("select pg_sleep(10)");
    talk.query("rollback; table x_to");
}

fn savepoints(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("begin; savepoint a; create table x_sp (a int); savepoint b; selct");
    talk.query("begin; savepoint a; create table x_sp (a int)");
    talk.query("selct");
    talk.query("rollback to a");
    talk.query("release a; release a");
    talk.query("rollback to savepoint a; commit");
}

fn sql_level_errors(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("insert into t values (1, 'x'), (1, 'y')");
    talk.query("insert into t values (null, 'y')");
    talk.query("select no_such_function(1)");
    talk.query("select 'x'::int");
    talk.query("vacuum; select 1");
    talk.query("begin; vacuum");
    talk.query("rollback");
}

/// A password that nobody asked for: an invalid message for a session that runs.
fn password_in_the_open(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.send(&wire::frame(b'p', b"secret\0"));
    talk.end();
}

fn cancel_of_own(talk: &mut Talk, database: &str) {
    login(talk, database);
    let (pid, secret) = talk.key();
    talk.send(&wire::query("select pg_sleep(30); select 1"));
    let mut look = talk.another(database);
    let sql = format!("select count(*) from pg_stat_activity where pid = {pid} and wait_event = 'PgSleep'");
    assert!(support::eventually(support::PATIENCE, || look.value(&sql) == "1"));
    support::Wire::open(talk.address()).cancel(pid, &secret);
    talk.until(b'Z');
    talk.query("select 2");
}

fn explain_all(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("explain (costs off) select * from t where a = 1");
    talk.query("explain (analyze, costs off, timing off, summary off, buffers off) insert into t values (1, 'x')");
    talk.query("delete from t");
    talk.ask(&wire::extended("explain (costs off) select 1", &[]));
}

fn ddl_that_cannot_be_in_a_transaction(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("create index concurrently x_i on t (b)");
    talk.query("reindex index concurrently x_i");
    talk.query("drop index concurrently x_i");
    talk.query("create index concurrently x_i on t (b); select 1");
    talk.query("begin; create index concurrently x_i on t (b)");
    talk.query("rollback; analyze t");
    talk.query("drop database no_such_database");
}

// Replication

fn physical(talk: &mut Talk, _: &str) {
    start(talk, wire::V3_0, &[("user", "postgres"), ("replication", "true")]);
    talk.query("SHOW port_is_not_a_setting");
    talk.query("SHOW work_mem");
    talk.query("select 1");
    talk.query("TIMELINE_HISTORY 99");
    talk.query("BASE_BACKUP (LABEL");
    talk.query("CREATE_REPLICATION_SLOT x_tmp TEMPORARY PHYSICAL");
    talk.query("DROP_REPLICATION_SLOT x_tmp");
    talk.ask(&[wire::parse("", "select 1", &[]), wire::sync()].concat());
    talk.query("SHOW work_mem");
}

fn logical(talk: &mut Talk, database: &str) {
    start(talk, wire::V3_0, &[("user", "postgres"), ("database", database), ("replication", "database")]);
    let before = talk.heard.len();
    talk.query("IDENTIFY_SYSTEM");
    // The position in the log moves on.
    talk.heard.truncate(before);
    talk.query("select 1; select 2");
    talk.query("create table x_r (a int); drop table x_r");
    talk.query("START_REPLICATION SLOT no_such LOGICAL 0/0");
    talk.query("IDENTIFY_SISTEM");
    talk.query("select 'after'");
}

fn slots(talk: &mut Talk, database: &str) {
    start(talk, wire::V3_2, &[("user", "postgres"), ("database", database), ("replication", "database")]);
    let slot = format!("x_{}", talk.label);
    talk.query(&format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL test_decoding NOEXPORT_SNAPSHOT"));
    let made = talk.heard.iter().rposition(|message| message.tag == b'D');
    // Where it starts in the log is another place each time.
    made.map(|at| talk.heard.remove(at));
    talk.send(&wire::query(&format!("START_REPLICATION SLOT {slot} LOGICAL 0/0")));
    talk.until(b'W');
    talk.send(&wire::copy_done());
    talk.until(b'Z');
    // The server says that it lives when it likes.
    talk.heard.retain(|message| message.tag != b'd');
    talk.query(&format!("DROP_REPLICATION_SLOT {slot}"));
}

// Encodings

fn raw_query(text: &[u8]) -> Vec<u8> {
    wire::frame(b'Q', &[text, b"\0"].concat())
}

fn latin1(talk: &mut Talk, database: &str) {
    start(talk, wire::V3_0, &[("user", "postgres"), ("database", database), ("client_encoding", "LATIN1")]);
    talk.ask(&raw_query(b"select '\xe4\xf6\xfc', length('\xe4')"));
    talk.ask(&raw_query(b"create temp table \"\xe4\" (\xf6 int); drop table \"\xe4\"; drop table \"\xfc\""));
    talk.ask(&raw_query(b"select $\xe4$ ; $\xe4$, 1; select 2"));
    talk.ask(&raw_query(b"set application_name = '\xe4'; show application_name"));
    talk.ask(&raw_query(b"select \xe4 from t"));
    talk.query("set client_encoding = utf8; select '\u{e4}'");
}

/// The second byte of these characters looks like `\`, `'`, `"` or `|`.
fn sjis(talk: &mut Talk, database: &str) {
    login(talk, database);
    talk.query("set client_encoding = sjis");
    talk.ask(&raw_query(b"select '\x95\x5c', length('\x95\x5c')"));
    talk.ask(&raw_query(b"select E'\x83\x5c\x83\x5c'; select 2"));
    talk.ask(&raw_query(b"create temp table \"\x95\x5c\" (a int); table \"\x95\x5c\"; drop table \"\x95\x5c\""));
    talk.ask(&raw_query(b"set standard_conforming_strings = off"));
    talk.ask(&raw_query(b"select '\x95\x5c'; select '\x83\x5c; drop table t'; select 3"));
    talk.ask(&raw_query(b"selct '\x95\x5c'"));
    talk.ask(
        &[wire::frame(b'P', b"\0select '\x95\x5c'\0\0\0"), wire::bind("", "", &[]), wire::execute("", 0), wire::sync()]
            .concat(),
    );
}

fn bytes_that_are_no_utf8(talk: &mut Talk, database: &str) {
    login(talk, database);
    for text in [
        &b"select '\xff\xfe'"[..],
        b"select \xc3",
        b"create table \"\xc3\" (a int)",
        b"-- \xff\nselect 1",
        b"drop table \xed\xa0\x80",
        b"select '\xf0\x9f\x98'; select 2",
    ] {
        talk.ask(&raw_query(text));
    }
    talk.ask(&[wire::frame(b'P', b"\xff\0create table x (a int)\0\0\0"), wire::sync()].concat());
    talk.ask(&[wire::frame(b'B', b"\xff\0\xff\0\0\0\0\0\0\0"), wire::sync()].concat());
    talk.query("drop table if exists x");
}

fn big5_and_gbk(talk: &mut Talk, database: &str) {
    login(talk, database);
    for (encoding, text) in [
        ("big5", &b"select '\xa5\x5c\xb3\x5c'; select 2"[..]),
        ("gbk", b"select '\x81\x5c'; select 2"),
        ("gb18030", b"select '\x81\x30\x81\x30'; select 2"),
        ("uhc", b"select '\xb0\xa1'; select 2"),
    ] {
        talk.query(&format!("set client_encoding = {encoding}"));
        talk.ask(&raw_query(text));
    }
}
