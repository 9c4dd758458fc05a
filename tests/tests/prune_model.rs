//! Explores the protocol of deleting in every order of events; `prune_model/protocol.rs` says what is in it and what is not.

use stateright::{Checker, Expectation, HasDiscoveries, Model};

#[path = "prune_model/protocol.rs"]
mod protocol;

use protocol::{Mutant, Protocol};

/// How many states there are, and which properties some order of events breaks. A mutant ends at the first.
fn explore(protocol: Protocol) -> (usize, Vec<&'static str>) {
    match protocol.mutant {
        None => broken(&protocol.checker().threads(2).spawn_bfs().join()),
        Some(_) => broken(&protocol.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join()),
    }
}

fn broken(checker: &impl Checker<Protocol>) -> (usize, Vec<&'static str>) {
    let mutant = checker.model().mutant;
    let discoveries = checker.discoveries();
    let mut broken = Vec::new();
    for property in checker.model().properties() {
        let found = discoveries.get(property.name).cloned();
        match (property.expectation, found) {
            (Expectation::Always, Some(path)) => {
                println!("{mutant:?} breaks \"{}\" by {:?}", property.name, path.into_actions());
                broken.push(property.name);
            }
            (Expectation::Sometimes, None) if mutant.is_none() => panic!("never: {}", property.name),
            _ => {}
        }
    }
    (checker.unique_state_count(), broken)
}

fn two_pruners(mutant: Option<Mutant>) -> Protocol {
    Protocol { writers: 1, readers: 0, pruners: 2, forgetters: 1, forgets_at_once: true, mutant }
}

fn one_pruner(mutant: Option<Mutant>) -> Protocol {
    Protocol { writers: 1, readers: 1, pruners: 1, forgetters: 1, forgets_at_once: true, mutant }
}

fn is_nightly() -> bool {
    std::env::var_os("MOVER_TEST_NIGHTLY").is_some()
}

fn assert_nothing_breaks(protocol: Protocol) {
    let (states, broken) = explore(protocol);
    println!("{states} states");
    assert!(broken.is_empty(), "{broken:?}");
    assert!(states > 10_000, "only {states} states");
}

#[test]
fn model_of_two_writers_a_reader_and_a_pruner_loses_nothing_in_any_order() {
    assert_nothing_breaks(Protocol { writers: 2, ..one_pruner(None) });
}

/// The first form of the protocol deleted first and recorded that afterwards. Exploring this found how a chunk is lost: a
/// pruner copies it and is fenced while its deletes are under way; a second one condemns the copy, then needs a rescue, and
/// rescues the very pack that the late delete takes.
#[test]
fn model_of_two_pruners_and_a_writer_loses_nothing_in_any_order() {
    assert_nothing_breaks(Protocol { forgets_at_once: !is_nightly(), ..two_pruners(None) });
}

#[test]
fn model_notices_each_rule_that_is_left_out() {
    use Mutant::*;
    let alone =
        [DeletesWithoutWaiting, DoesNotLookAgain, WriterIgnoresCondemned].map(|mutant| one_pruner(Some(mutant)));
    let beside =
        [LearnsWhatIsCondemnedAfterRegistering, DeletesBeforeThatIsItsOutcome].map(|mutant| two_pruners(Some(mutant)));
    for protocol in alone.into_iter().chain(beside) {
        let mutant = protocol.mutant;
        let (_, broken) = explore(protocol);
        assert!(!broken.is_empty(), "{mutant:?} is not noticed");
    }
}
