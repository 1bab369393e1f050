//! Start-up `options`, read by the server's own rules: `pg_split_opts` makes words, getopt reads them.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNECT-OPTIONS>

use std::ops::Range;

/// The server's short options that take an argument (`process_postgres_switches`); `-` stands for `--name=value`.
const WITH_ARGUMENT: &[u8] = b"BCcDdfhkNprStvW-";

/// Settings that only the proxy sets, and the one that would stop the recording.
pub const GUARDED: [&str; 4] = ["pggit.session", "pggit.client", "pggit.rerouted_from", "event_triggers"];

/// What `options` say about the proxy's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BranchOption {
    /// The last value of `pggit.branch`, as in the server; bytes that are not UTF-8 appear as U+FFFD.
    pub branch: Option<String>,
    /// The options without the words that set `pggit.branch`; all other bytes as they came.
    pub rest: Vec<u8>,
    /// One of [`GUARDED`], where the options try to set it.
    pub guarded: Option<&'static str>,
}

/// Takes every setting of `pggit.branch` out of start-up `options`.
pub fn take_branch_option(options: &[u8]) -> BranchOption {
    let words = split(options);
    let mut found = BranchOption::default();
    let mut kept = 0;
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        match argument(word) {
            Argument::None => {}
            Argument::EndOfOptions => break,
            Argument::Next { letter, start } => {
                let Some(next) = words.get(at) else { break };
                at += 1;
                if letter == b'c' {
                    found.look(&next.text, options, &mut kept, start..next.range.end);
                }
            }
            Argument::Here { letter, start, text } => {
                if letter == b'c' || letter == b'-' {
                    found.look(text, options, &mut kept, start..word.range.end);
                }
            }
        }
    }
    found.rest.extend_from_slice(options.get(kept..).unwrap_or_default());
    found
}

impl BranchOption {
    /// Looks at one `name=value`, which stands in `options` at `place`; `kept` is where the uncopied rest begins.
    fn look(&mut self, assignment: &[u8], options: &[u8], kept: &mut usize, place: Range<usize>) {
        let Some(equals) = memchr::memchr(b'=', assignment) else { return };
        let (name, value) = (&assignment[..equals], &assignment[equals + 1..]);
        if name.eq_ignore_ascii_case(b"pggit.branch") {
            self.branch = Some(String::from_utf8_lossy(value).into_owned());
            self.rest.extend_from_slice(options.get(*kept..place.start).unwrap_or_default());
            *kept = place.end;
        } else if let Some(guarded) = GUARDED.iter().find(|guarded| name.eq_ignore_ascii_case(guarded.as_bytes())) {
            self.guarded = Some(guarded);
        }
    }
}

/// One word: its text without escapes, and where it and each of its bytes stood.
struct Word {
    text: Vec<u8>,
    starts: Vec<usize>,
    range: Range<usize>,
}

/// White space as C's `isspace` sees it.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// As the server's `pg_split_opts`: white space separates, a backslash takes the next byte as it is.
fn split(options: &[u8]) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while options.get(at).copied().is_some_and(is_space) {
            at += 1;
        }
        if at >= options.len() {
            return words;
        }
        let mut word = Word { text: Vec::new(), starts: Vec::new(), range: at..at };
        let mut escape = None;
        while let Some(&byte) = options.get(at) {
            if escape.is_none() && is_space(byte) {
                break;
            }
            if escape.is_none() && byte == b'\\' {
                escape = Some(at);
            } else {
                word.text.push(byte);
                word.starts.push(escape.take().unwrap_or(at));
            }
            at += 1;
        }
        word.range.end = at;
        words.push(word);
    }
}

/// What getopt finds in one word.
enum Argument<'a> {
    /// No option, or only options without argument.
    None,
    /// `--`: getopt looks no further.
    EndOfOptions,
    /// An option whose argument is the next word; cutting it out starts at `start`.
    Next { letter: u8, start: usize },
    /// An option whose argument is the rest of this word.
    Here { letter: u8, start: usize, text: &'a [u8] },
}

/// Letters without argument may stand before one with argument in the same word, as in `-Ec name=value`.
fn argument(word: &Word) -> Argument<'_> {
    if word.text == b"--" {
        return Argument::EndOfOptions;
    }
    if word.text.first() != Some(&b'-') {
        return Argument::None;
    }
    let Some(index) = word.text.iter().skip(1).position(|letter| WITH_ARGUMENT.contains(letter)) else {
        return Argument::None;
    };
    let index = index + 1;
    let letter = word.text[index];
    // Alone in its word the dash goes too; behind other letters they and the dash stay.
    let start = if index == 1 { word.range.start } else { word.starts[index] };
    match word.text.get(index + 1..) {
        Some(text) if !text.is_empty() => Argument::Here { letter, start, text },
        _ => Argument::Next { letter, start },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn take(options: &str) -> (Option<String>, String, Option<&'static str>) {
        let found = take_branch_option(options.as_bytes());
        (found.branch, String::from_utf8(found.rest).unwrap(), found.guarded)
    }

    fn branch(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn all_three_forms_name_a_branch() {
        for options in ["-c pggit.branch=x", "-cpggit.branch=x", "--pggit.branch=x", "-c PgGit.Branch=x"] {
            assert_eq!(take(options), (branch("x"), String::new(), None), "{options}");
        }
    }

    #[test]
    fn other_options_stay_byte_for_byte() {
        let (name, rest, _) = take("-c geqo=off  -c pggit.branch=x\t--work-mem=4\\ MB -e");
        assert_eq!(name, branch("x"));
        assert_eq!(rest, "-c geqo=off  \t--work-mem=4\\ MB -e");
    }

    #[test]
    fn last_one_wins_and_all_are_taken() {
        assert_eq!(take("-c pggit.branch=x --pggit.branch=y -e"), (branch("y"), "  -e".into(), None));
    }

    #[test]
    fn backslash_escapes_the_next_byte() {
        assert_eq!(take(r"-c pggit.branch=a\ b\\c"), (branch(r"a b\c"), String::new(), None));
        assert_eq!(take(r"\-c p\ggit.branch=x"), (branch("x"), String::new(), None));
        assert_eq!(take("-c pggit.branch=x\\"), (branch("x"), String::new(), None));
    }

    #[test]
    fn letters_before_c_in_one_word_stay() {
        assert_eq!(take("-Ec pggit.branch=x"), (branch("x"), "-E".into(), None));
        assert_eq!(take("-Ecpggit.branch=x"), (branch("x"), "-E".into(), None));
    }

    #[test]
    fn argument_of_another_option_is_no_setting() {
        assert_eq!(take("-d --pggit.branch=x"), (None, "-d --pggit.branch=x".into(), None));
        assert_eq!(take("-c -cpggit.branch=x"), (None, "-c -cpggit.branch=x".into(), None));
        assert_eq!(take("-- -c pggit.branch=x"), (None, "-- -c pggit.branch=x".into(), None));
    }

    #[test]
    fn settings_of_the_proxy_are_noticed() {
        assert_eq!(take("-c pggit.session=1").2, Some("pggit.session"));
        assert_eq!(take("-Ec PGGIT.client=1 -c pggit.branch=x").2, Some("pggit.client"));
    }

    #[test]
    fn setting_without_value_is_left_to_the_server() {
        assert_eq!(take("-c pggit.branch"), (None, "-c pggit.branch".into(), None));
        assert_eq!(take("-c"), (None, "-c".into(), None));
        assert_eq!(take("-c pggit.branch="), (branch(""), String::new(), None));
    }

    /// The words the server would see.
    fn words(options: &[u8]) -> Vec<Vec<u8>> {
        split(options).into_iter().map(|word| word.text).collect()
    }

    proptest! {
        #[test]
        fn never_panics_and_rest_names_no_branch(options: Vec<u8>) {
            let found = take_branch_option(&options);
            let again = take_branch_option(&found.rest);
            prop_assert_eq!(again.branch, None);
            if found.branch.is_none() {
                prop_assert_eq!(found.rest, options);
            }
        }

        #[test]
        fn likely_texts_never_panic(options in r"([-cEd=\\ ]|pggit\.branch|--|x){0,12}") {
            let found = take_branch_option(options.as_bytes());
            prop_assert!(found.rest.len() <= options.len());
            if found.branch.is_none() {
                prop_assert_eq!(found.rest, options.into_bytes());
            }
        }

        #[test]
        fn other_settings_reach_the_server(
            before in prop::collection::vec(r"[a-z_]{1,6}=([a-z0-9]|\\ |\\\\){0,6}", 0..4),
            after in prop::collection::vec(r"[a-z_]{1,6}=([a-z0-9]|\\ |\\\\){0,6}", 0..4),
            name in "[a-z/]{1,8}",
            form in 0..3usize,
        ) {
            let plain = |settings: &[String]| settings.iter().map(|s| format!(" -c {s} ")).collect::<String>();
            let ours = [format!("-c pggit.branch={name}"), format!("-cpggit.branch={name}"), format!("--pggit.branch={name}")];
            let found = take_branch_option(format!("{}{}{}", plain(&before), ours[form], plain(&after)).as_bytes());
            prop_assert_eq!(found.branch, Some(name));
            let others = format!("{}{}", plain(&before), plain(&after));
            prop_assert_eq!(words(&found.rest), words(others.as_bytes()));
        }
    }
}
