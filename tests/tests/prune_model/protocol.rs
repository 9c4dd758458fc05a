//! The protocol of deleting, as a model that is explored in every order of events.
//!
//! One chunk, which every recovery point needs. Writers, a reader, an admin who forgets and pruners take their steps
//! one at a time, in any order; nobody has to take the next one, so each order in which somebody crashes, pauses for
//! any time, or never learns of an answer is among them. Any run without an outcome may be fenced at any moment. A delete that was asked for may
//! take effect at any later moment, however often. What a listing shows is free: a writer may or may not find a pack
//! that is not condemned, a pruner may or may not see one that is not needed. Creating a name and asking for one object
//! are atomic; a store on which they are not is refused.
//!
//! `mover/repository/src/prune/` is the protocol: its tests replay traces of this model. Each mutant here leaves one of the
//! rules out and must be caught.

use std::collections::BTreeSet;

use stateright::{Model, Property};

/// A number in the log, from 1; the pack that a run writes has its number.
pub type Number = u8;
pub type Packs = BTreeSet<Number>;
pub type Condemnations = BTreeSet<(Number, Number)>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Point,
    Forget,
    Condemned(Packs),
    Swept { deleted: Packs, rescued: Packs },
    Ended,
    Fenced,
}

/// One registration. `seen` are the numbers with an outcome that the one who decided had seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub done: Option<(Outcome, Packs)>,
}

/// The log as somebody read it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Log(pub Vec<Entry>);

impl Log {
    pub fn register(&mut self) -> Number {
        self.0.push(Entry { done: None });
        self.0.len() as Number
    }

    pub fn decided(&self) -> Packs {
        (1..).zip(&self.0).filter(|(_, entry)| entry.done.is_some()).map(|(number, _)| number).collect()
    }

    pub fn is_open(&self, number: Number) -> bool {
        self.0[number as usize - 1].done.is_none()
    }

    /// Creates the outcome if there is none; `seen` is what the writer of it had read.
    pub fn decide(&mut self, number: Number, outcome: Outcome, seen: Packs) -> bool {
        let is_open = self.is_open(number);
        // What the others had seen decides nothing.
        let matters = matches!(outcome, Outcome::Forget | Outcome::Swept { .. });
        let seen = if matters { seen } else { Packs::new() };
        if is_open {
            self.0[number as usize - 1].done = Some((outcome, seen));
        }
        is_open
    }

    pub fn before(&self, number: Number) -> Log {
        Log(self.0[..number as usize - 1].to_vec())
    }

    pub fn outcomes(&self) -> impl Iterator<Item = (Number, &Outcome, &Packs)> {
        (1..)
            .zip(&self.0)
            .filter_map(|(number, entry)| entry.done.as_ref().map(|(outcome, seen)| (number, outcome, seen)))
    }

    pub fn live(&self) -> Packs {
        let forgets = || self.outcomes().filter(|(_, outcome, _)| **outcome == Outcome::Forget);
        let points = self.outcomes().filter(|(_, outcome, _)| **outcome == Outcome::Point);
        let is_live = |number: &Number| !forgets().any(|(_, _, seen)| seen.contains(number));
        points.map(|(number, ..)| number).filter(is_live).collect()
    }

    pub fn deleted(&self) -> Packs {
        let deleted = self.outcomes().filter_map(|(_, outcome, _)| match outcome {
            Outcome::Swept { deleted, .. } => Some(deleted),
            _ => None,
        });
        deleted.flatten().copied().collect()
    }

    /// Each condemnation that stands, as a pack and the number of the record.
    pub fn condemnations(&self) -> Condemnations {
        let mut standing = Condemnations::new();
        for (number, outcome, _) in self.outcomes() {
            let Outcome::Condemned(packs) = outcome else { continue };
            let is_rescued = |pack: &Number| {
                self.outcomes().any(|(_, outcome, seen)| {
                    matches!(outcome, Outcome::Swept { rescued, .. } if rescued.contains(pack))
                        && seen.contains(&number)
                })
            };
            standing.extend(packs.iter().filter(|pack| !is_rescued(pack)).map(|pack| (*pack, number)));
        }
        standing
    }

    pub fn condemned(&self) -> Packs {
        self.condemnations().into_iter().map(|(pack, _)| pack).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Writer {
    Idle,
    Registered(Number),
    /// Relies on a pack, its own or another's.
    Stored(Number),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reader {
    Idle,
    Registered(Number),
    /// Restores a point that it found.
    Reading(Number),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pruner {
    Idle,
    Registered(Number),
    Marked {
        c: Number,
        condemns: Packs,
    },
    Condemned {
        known: Condemnations,
    },
    Sweeping {
        d: Number,
        known: Condemnations,
    },
    /// Knows what goes; deletes are asked for once that is its outcome.
    Decided {
        d: Number,
        doomed: Packs,
        rescued: Packs,
        seen: Packs,
    },
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub log: Log,
    /// Packs that were written and named in the index, gone or not.
    pub indexed: Packs,
    /// Packs that are there.
    pub present: Packs,
    /// Deletes that were asked for and may take effect at any time.
    pub asked: Packs,
    pub writers: Vec<Writer>,
    pub readers: Vec<Reader>,
    pub pruners: Vec<Pruner>,
    /// Registered to forget; none once it is done.
    pub forgetters: Vec<Option<Number>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    WriterRegisters(usize),
    /// Relies on that pack; on its own, if it is the number of the registration.
    WriterStores(usize, Number),
    WriterCommits(usize),
    ReaderRegisters(usize),
    ReaderFindsAPoint(usize),
    ReaderEnds(usize),
    ForgetterRegisters(usize),
    ForgetterCommits(usize),
    PrunerRegisters(usize),
    /// Condemns these; copies what is live first if the second says so.
    PrunerMarks(usize, Packs, bool),
    PrunerCondemns(usize),
    PrunerRegistersAgain(usize),
    PrunerLooksAgain(usize),
    PrunerEnds(usize),
    DeleteTakesEffect(Number),
    Fence(Number),
}

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    DeletesWithoutWaiting,
    DoesNotLookAgain,
    WriterIgnoresCondemned,
    LearnsWhatIsCondemnedAfterRegistering,
    DeletesBeforeThatIsItsOutcome,
}

pub struct Protocol {
    pub writers: usize,
    pub readers: usize,
    pub pruners: usize,
    pub forgetters: usize,
    /// Forgetting is one step: it registers and decides at once.
    pub forgets_at_once: bool,
    pub mutant: Option<Mutant>,
}

impl Protocol {
    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// What a pruner that reads this log may condemn, and what it may keep instead.
    pub fn may_condemn(&self, state: &State, c: Number) -> Vec<(Packs, bool)> {
        let condemned = state.log.condemned();
        let is_judged = |pack: &Number| !condemned.contains(pack) && *pack != c && !state.log.is_open(*pack);
        let good: Vec<Number> = state.indexed.iter().copied().filter(is_judged).collect();
        let is_needed = !state.log.live().is_empty();
        let mut choices = Vec::new();
        let single = good.iter().map(|pack| Packs::from([*pack])).filter(|_| good.len() > 1);
        for condemns in single.chain([good.iter().copied().collect()]) {
            // What is needed is elsewhere, and was read there; or it is copied.
            let kept_elsewhere = state
                .indexed
                .iter()
                .any(|pack| !condemned.contains(pack) && !condemns.contains(pack) && state.present.contains(pack));
            if !is_needed || kept_elsewhere {
                choices.push((condemns.clone(), false));
            }
            if is_needed && condemns.iter().any(|pack| state.present.contains(pack)) {
                choices.push((condemns, true));
            }
        }
        choices
    }

    /// What pruner `d` deletes and rescues, once all numbers below have outcomes.
    pub fn look_again(&self, state: &State, d: Number, known: &Condemnations) -> (Packs, Packs) {
        let log = state.log.before(d);
        let condemned = log.condemned();
        let known = match self.is(Mutant::LearnsWhatIsCondemnedAfterRegistering) {
            true => log.condemnations(),
            false => known.clone(),
        };
        let deleted = log.deleted();
        let standing = log.condemnations().into_iter().filter(|condemnation| known.contains(condemnation));
        let mut doomed: Packs = standing.map(|(pack, _)| pack).filter(|pack| !deleted.contains(pack)).collect();
        let has_good_copy = state.present.iter().any(|pack| !condemned.contains(pack));
        let is_needed = !log.live().is_empty() && !has_good_copy && !self.is(Mutant::DoesNotLookAgain);
        let last = doomed.iter().copied().find(|pack| state.present.contains(pack)).filter(|_| is_needed);
        last.iter().for_each(|pack| _ = doomed.remove(pack));
        (doomed, last.into_iter().collect())
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut log = Log::default();
        let first = log.register();
        log.decide(first, Outcome::Point, Packs::new());
        vec![State {
            log,
            indexed: Packs::from([first]),
            present: Packs::from([first]),
            asked: Packs::new(),
            writers: vec![Writer::Idle; self.writers],
            readers: vec![Reader::Idle; self.readers],
            pruners: vec![Pruner::Idle; self.pruners],
            forgetters: vec![Some(0); self.forgetters],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, writer) in state.writers.iter().enumerate() {
            match writer {
                Writer::Idle => actions.push(Action::WriterRegisters(at)),
                Writer::Registered(number) => {
                    let condemned = match self.is(Mutant::WriterIgnoresCondemned) {
                        true => Packs::new(),
                        false => state.log.condemned(),
                    };
                    let usable = state.indexed.iter().filter(|pack| !condemned.contains(pack));
                    actions.extend(usable.map(|pack| Action::WriterStores(at, *pack)));
                    actions.push(Action::WriterStores(at, *number));
                }
                Writer::Stored(_) => actions.push(Action::WriterCommits(at)),
                Writer::Gone => {}
            }
        }
        for (at, reader) in state.readers.iter().enumerate() {
            match reader {
                Reader::Idle => actions.push(Action::ReaderRegisters(at)),
                Reader::Registered(_) if !state.log.live().is_empty() => actions.push(Action::ReaderFindsAPoint(at)),
                Reader::Registered(_) | Reader::Reading(_) => actions.push(Action::ReaderEnds(at)),
                Reader::Gone => {}
            }
        }
        for (at, forgetter) in state.forgetters.iter().enumerate() {
            match forgetter {
                Some(0) => actions.push(Action::ForgetterRegisters(at)),
                Some(_) => actions.push(Action::ForgetterCommits(at)),
                None => {}
            }
        }
        for (at, pruner) in state.pruners.iter().enumerate() {
            self.pruner_actions(state, at, pruner, actions);
        }
        actions.extend(state.asked.iter().map(|pack| Action::DeleteTakesEffect(*pack)));
        let open = (1..=state.log.0.len() as Number).filter(|number| state.log.is_open(*number));
        actions
            .extend(open.filter(|number| state.pruners.iter().any(|pruner| pruner.fences(*number))).map(Action::Fence));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        let seen = state.log.decided();
        match action {
            Action::WriterRegisters(at) => state.writers[at] = Writer::Registered(state.log.register()),
            Action::WriterStores(at, pack) => {
                let Writer::Registered(number) = state.writers[at] else { return None };
                if pack == number {
                    state.indexed.insert(number);
                    state.present.insert(number);
                }
                state.writers[at] = Writer::Stored(number);
            }
            Action::WriterCommits(at) => {
                let Writer::Stored(number) = state.writers[at] else { return None };
                state.log.decide(number, Outcome::Point, seen);
                state.writers[at] = Writer::Gone;
            }
            Action::ReaderRegisters(at) => state.readers[at] = Reader::Registered(state.log.register()),
            Action::ReaderFindsAPoint(at) => {
                let Reader::Registered(number) = state.readers[at] else { return None };
                state.readers[at] = Reader::Reading(number);
            }
            Action::ReaderEnds(at) => {
                let (Reader::Registered(number) | Reader::Reading(number)) = state.readers[at] else { return None };
                state.log.decide(number, Outcome::Ended, seen);
                state.readers[at] = Reader::Gone;
            }
            Action::ForgetterRegisters(at) => {
                let number = state.log.register();
                state.forgetters[at] = Some(number).filter(|_| !self.forgets_at_once);
                if self.forgets_at_once {
                    state.log.decide(number, Outcome::Forget, seen);
                }
            }
            Action::ForgetterCommits(at) => {
                let number = state.forgetters[at].take()?;
                state.log.decide(number, Outcome::Forget, seen);
            }
            Action::DeleteTakesEffect(pack) => {
                state.asked.remove(&pack);
                state.present.remove(&pack);
            }
            Action::Fence(number) => _ = state.log.decide(number, Outcome::Fenced, seen),
            other => self.prune(&mut state, other)?,
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what a live point needs is there", |_, state: &State| {
                state.log.live().is_empty() || !state.present.is_empty()
            }),
            Property::always("a reader is waited for by who sweeps after it", |_, state: &State| {
                state.readers.iter().all(|reader| match reader {
                    Reader::Reading(number) if state.log.is_open(*number) => {
                        !state.present.is_empty() || state.pruners.iter().any(|pruner| pruner.swept_before(*number))
                    }
                    _ => true,
                })
            }),
            Property::sometimes("something is deleted beside a live point", |_, state: &State| {
                state.present.len() < state.indexed.len() && !state.log.live().is_empty()
            }),
            Property::sometimes("something is rescued", |_, state: &State| {
                state
                    .log
                    .outcomes()
                    .any(|(_, outcome, _)| matches!(outcome, Outcome::Swept { rescued, .. } if !rescued.is_empty()))
            }),
        ]
    }
}

impl Pruner {
    /// It is at work, and that number is below its own: what it may fence.
    pub fn fences(&self, number: Number) -> bool {
        match self {
            Pruner::Registered(own) | Pruner::Sweeping { d: own, .. } => number < *own,
            _ => false,
        }
    }

    /// It swept, or may have, under a number below that of a reader.
    pub fn swept_before(&self, reader: Number) -> bool {
        match self {
            Pruner::Sweeping { d, .. } | Pruner::Decided { d, .. } => *d < reader,
            Pruner::Gone => true,
            _ => false,
        }
    }
}

impl Protocol {
    pub fn pruner_actions(&self, state: &State, at: usize, pruner: &Pruner, actions: &mut Vec<Action>) {
        match pruner {
            Pruner::Idle => actions.push(Action::PrunerRegisters(at)),
            Pruner::Registered(c) => {
                let choices = self.may_condemn(state, *c);
                actions.extend(choices.into_iter().map(|(packs, copies)| Action::PrunerMarks(at, packs, copies)));
            }
            Pruner::Marked { .. } => actions.push(Action::PrunerCondemns(at)),
            Pruner::Condemned { .. } => actions.push(Action::PrunerRegistersAgain(at)),
            Pruner::Sweeping { d, .. } => {
                if self.is(Mutant::DeletesWithoutWaiting) || (1..*d).all(|number| !state.log.is_open(number)) {
                    actions.push(Action::PrunerLooksAgain(at));
                }
            }
            Pruner::Decided { .. } => actions.push(Action::PrunerEnds(at)),
            Pruner::Gone => {}
        }
    }

    pub fn prune(&self, state: &mut State, action: Action) -> Option<()> {
        let seen = state.log.decided();
        match action {
            Action::PrunerRegisters(at) => state.pruners[at] = Pruner::Registered(state.log.register()),
            Action::PrunerMarks(at, condemns, copies) => {
                let Pruner::Registered(c) = state.pruners[at] else { return None };
                if copies {
                    state.indexed.insert(c);
                    state.present.insert(c);
                }
                state.pruners[at] = Pruner::Marked { c, condemns };
            }
            Action::PrunerCondemns(at) => {
                let Pruner::Marked { c, condemns } = state.pruners[at].clone() else { return None };
                let mut known = state.log.condemnations();
                known.extend(condemns.iter().map(|pack| (*pack, c)));
                let decided = state.log.decide(c, Outcome::Condemned(condemns), seen);
                state.pruners[at] = if decided { Pruner::Condemned { known } } else { Pruner::Gone };
            }
            Action::PrunerRegistersAgain(at) => {
                let Pruner::Condemned { known } = state.pruners[at].clone() else { return None };
                state.pruners[at] = Pruner::Sweeping { d: state.log.register(), known };
            }
            Action::PrunerLooksAgain(at) => {
                let Pruner::Sweeping { d, known } = state.pruners[at].clone() else { return None };
                let (doomed, rescued) = self.look_again(state, d, &known);
                if self.is(Mutant::DeletesBeforeThatIsItsOutcome) {
                    state.asked.extend(&doomed);
                }
                state.pruners[at] = Pruner::Decided { d, doomed, rescued, seen };
            }
            Action::PrunerEnds(at) => {
                let Pruner::Decided { d, doomed, rescued, seen } = state.pruners[at].clone() else { return None };
                if state.log.decide(d, Outcome::Swept { deleted: doomed.clone(), rescued }, seen) {
                    state.asked.extend(&doomed);
                }
                state.pruners[at] = Pruner::Gone;
            }
            _ => return None,
        }
        Some(())
    }
}
