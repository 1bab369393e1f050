//! What classification costs the statements that a session sends again and again: no allocation.

#[path = "support/counting.rs"]
mod counting;

use counting::allocations;
use pggit_proxy::sql::{Class, Classified, Classifier, Encoding};

#[test]
fn a_plain_statement_allocates_nothing() {
    let mut classifier = Classifier::new(1 << 20);
    for (text, class) in [
        ("select a, ';' from t where b = $1 -- c", Class::Read),
        ("/* a */ insert into t values (1);", Class::Write),
        ("listen x", Class::Session),
    ] {
        let (count, classified) = allocations(|| classifier.classify(text.as_bytes(), Encoding::AsciiSafe));
        assert_eq!((count, classified), (0, Classified::Plain(class)), "{text}");
    }
    assert_eq!(classifier.take_counts(), (0, 0));
}

#[test]
fn a_text_that_is_known_allocates_nothing() {
    let mut classifier = Classifier::new(1 << 20);
    for text in ["begin", "commit", "alter table s.t add a int; select 1", "this does not parse"] {
        let first = classifier.parse(text.as_bytes(), Encoding::AsciiSafe);
        let (count, again) = allocations(|| classifier.classify(text.as_bytes(), Encoding::AsciiSafe));
        assert_eq!((count, again), (0, Classified::Statements(first)), "{text}");
    }
    assert_eq!(classifier.take_counts(), (4, 4));
    assert_eq!(classifier.take_counts(), (0, 0));
}
