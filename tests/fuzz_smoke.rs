//! The checks of `fuzz/`, with a bounded number of cases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/src/checks.rs"]
mod checks;

use std::fs;
use std::path::Path;

use pggit_proxy::wire::frame;
use proptest::prelude::*;
use proptest::sample::select;

const TEXTS: [&str; 20] = [
    "",
    "select 1",
    "create table t (a int)",
    "drop table t; create view v as select 1; nonsense",
    "begin",
    "commit",
    "rollback to a",
    "savepoint a",
    "/* a ' */ select ';' -- x",
    "do $$ begin end $$",
    "copy t from stdin",
    "discard all",
    "deallocate all",
    "prepare transaction 'x'",
    "grant a to b",
    "select E'\\'; drop table t --'",
    "set search_path to \u{e9}",
    "s1",
    "set pggit.branch = 'x'",
    "select pggit.checkout('x')",
];

/// A message with one of the protocol's tags and a body that is likely to mean something.
fn message() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let client = select(b"QPBEDCSFcfdHXp?".to_vec()).prop_map(|tag| (true, tag));
    let server = select(b"CISZEKRN12n3TtDGHWcdsAVv?".to_vec()).prop_map(|tag| (false, tag));
    let text = select(TEXTS.to_vec()).prop_map(|text| [text.as_bytes(), b"\0"].concat());
    let part = prop_oneof![
        4 => text,
        1 => Just(b"S".to_vec()),
        1 => Just(b"I".to_vec()),
        1 => Just(b"E".to_vec()),
        1 => Just(b"VFATAL\0C57P01\0".to_vec()),
        1 => Just(vec![0, 0, 0, 0]),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (4000usize..9000).prop_map(|n| vec![b' '; n]),
    ];
    (prop_oneof![client, server], prop::collection::vec(part, 0..4)).prop_map(|((from_client, tag), parts)| {
        let mut out = Vec::new();
        frame::put(&mut out, tag, |body| body.extend(parts.concat()));
        (from_client, out)
    })
}

fn cases(cases: u32) -> ProptestConfig {
    // A failure prints its input; no files are written.
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn frames_pass_a_pipe_in_any_pieces(mut choices in prop::collection::vec(any::<u8>(), 0..80),
                                        messages in prop::collection::vec(message(), 0..20)) {
        let stream: Vec<u8> = messages.into_iter().flat_map(|(_, message)| message).collect();
        // A quarter of the input is choices.
        choices.resize(stream.len() / 3, 0x47);
        checks::scanner(&[choices, stream].concat());
    }

    #[test]
    fn any_bytes_pass_the_scanner(data in prop::collection::vec(any::<u8>(), 0..400)) {
        checks::scanner(&data);
    }

    #[test]
    fn any_startup_packet_is_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
        checks::startup(&data);
    }

    #[test]
    fn startup_packets_of_likely_words_go_on_as_they_came(
        words in prop::collection::vec(select(vec![
            "user", "ann", "options", "-c pggit.branch=x", "-cpggit.branch=a\\ b --x=1", "--pggit.branch=y -c", "-c",
            "pggit.branch", "PGGIT.Branch=z -- -c pggit.branch=q", "\\-c pggit.branch=x", "_pq_.a", "database", "", "-e -fs -cpggit.branch=1",
        ]), 0..12),
        end in select(vec!["", "\0", "\0\0"]),
    ) {
        let body: String = words.iter().map(|word| format!("{word}\0")).collect();
        checks::startup(format!("{body}{end}").as_bytes());
        checks::startup(words.join(" ").as_bytes());
    }

    #[test]
    fn any_first_bytes_pass_the_handshake(data in prop::collection::vec(any::<u8>(), 0..200), rest in 0u16..60, family in 0u8..4) {
        checks::handshake(&data);
        // Behind a load balancer's header.
        let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21"[..], &[family << 4 | 1], &rest.to_be_bytes(), &data].concat();
        checks::handshake(&header);
    }

    #[test]
    fn any_text_is_read_or_left_alone(data in prop::collection::vec(any::<u8>(), 0..200),
                                      words in prop::collection::vec(select(TEXTS.to_vec()), 0..4)) {
        checks::text(&data);
        checks::text(words.join(";").as_bytes());
    }

    #[test]
    fn any_bytes_pass_the_control_port(data in prop::collection::vec(any::<u8>(), 0..200),
                                       messages in prop::collection::vec(message(), 0..5)) {
        checks::control(&data);
        checks::control(&messages.into_iter().flat_map(|(_, message)| message).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_pass_a_session(data in prop::collection::vec(any::<u8>(), 0..600)) {
        checks::session(&data);
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_messages_pass_a_session_in_any_pieces(messages in prop::collection::vec(message(), 0..40)) {
        for cut in [usize::MAX, 7, 1] {
            checks::conversation(&messages, cut);
        }
    }
}

type Check = fn(&[u8]);

/// Inputs that cargo-fuzz found worth keeping, `make fuzz` grows them; and those that once broke something.
#[test]
fn what_fuzzing_kept_still_holds() {
    let targets: [(&str, Check); 6] = [
        ("scanner", checks::scanner),
        ("startup", checks::startup),
        ("session", checks::session),
        ("handshake", checks::handshake),
        ("text", checks::text),
        ("control", checks::control),
    ];
    for (target, check) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 5, "{} is there", folder.display());
        for file in files {
            let input = fs::read(&file).unwrap();
            if let Err(panic) = std::panic::catch_unwind(|| check(&input)) {
                eprintln!("the input was {}", file.display());
                std::panic::resume_unwind(panic);
            }
        }
    }
}
