//! Replays traces of the model of the protocol against the real code, and compares the two after every step.
//!
//! Traces are random walks from fixed seeds, and the shortest way to each kind of action. Each actor of the model is real:
//! registrations, commits, the index, marking, copying, condemning and looking again are the calls that a run makes. What
//! the model does in one step and a run in several, and what is set in place of it:
//!
//! * The chunk is the root page of an empty manifest, which every point has; a pack holds it and bytes that nobody needs.
//! * Where the model leaves a choice, to condemn what and to rescue which of several copies, it follows the real code, if
//!   that is a choice it allows. A pruner that finds nothing ends; in the model it condemns nothing.
//! * A run reads the log right after it registers; here again at the step that relies on it, for that may be much later.
//! * A fence is written as a pruner at work would; a delete takes effect in the store when the trace says so.

use std::collections::{BTreeMap, HashMap, VecDeque};

use stateright::Model;

use super::*;
use crate::log::{DoneRecord, SealedFileset, Seen, done_name, seal_record};
use crate::manifest::{ManifestBuilder, ManifestRoot};
use crate::pack::parse_pack_name;
use crate::testing::point;

#[path = "../../../../../tests/tests/prune_model/protocol.rs"]
mod protocol;

use protocol::{Action, Mutant, Protocol, State};

/// Steps after which a random walk ends.
const STEPS_MAX: usize = 40;

type Numbers = protocol::Packs;

/// What a real run holds between two steps.
#[derive(Default)]
struct Real {
    runs: HashMap<u64, Registration>,
    /// What pruners know and have decided, by their number.
    known: HashMap<usize, Condemnations>,
    outcomes: HashMap<u64, Outcome>,
    /// Deletes that were asked for.
    asked: Numbers,
}

struct Replay {
    bench: Bench,
    root: ManifestRoot,
    page: Vec<u8>,
    real: Real,
    /// Half-dead packs are copied, else left alone.
    copies: bool,
}

type Agreed = std::result::Result<(), String>;

fn agree<T: PartialEq + std::fmt::Debug>(what: &str, real: T, model: T) -> Agreed {
    if real == model { Ok(()) } else { Err(format!("{what}: {real:?}, in the model {model:?}")) }
}

impl Replay {
    fn new(copies: bool) -> Self {
        let bench = Bench::new();
        let mut pages = Vec::new();
        let root = ManifestBuilder::new(&bench.repository).finish(&mut pages).unwrap();
        assert_eq!(pages.len(), 1, "an empty manifest is one page");
        let page = pages.remove(0).bytes;
        let mut replay = Self { bench, root, page, real: Real::default(), copies };
        let first = replay.register(Role::Writer);
        replay.store(first);
        replay.commit(first, replay.point()).unwrap();
        replay
    }

    fn register(&mut self, role: Role) -> u64 {
        let who = if role == Role::Admin { who() } else { Bench::open_record(role) };
        let registration = block_on(self.bench.repository.register(who)).unwrap();
        let number = registration.number().0;
        self.real.runs.insert(number, registration);
        number
    }

    /// True if that is the outcome now, false if the run was fenced.
    fn commit(&mut self, number: u64, outcome: Outcome) -> Result<bool> {
        match block_on(self.real.runs.remove(&number).unwrap().commit(outcome)) {
            Ok(()) => Ok(true),
            Err(RepositoryError::Fenced { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn store(&self, number: u64) {
        let frames = [vec![self.page.clone()], vec![noise(number, 500)]];
        let pack = self.bench.pack(number, PackClass::Structure, &frames);
        self.bench.segment(&[pack]);
    }

    fn point(&self) -> Outcome {
        let fileset = SealedFileset { root: self.root, ..crate::testing::fileset() };
        Outcome::RecoveryPoint(RecoveryPoint { filesets: vec![fileset], depends_on: None, ..point("set") })
    }

    fn options(&self) -> PruneOptions {
        PruneOptions { unused_percent_max: if self.copies { 0 } else { 100 }, ..options() }
    }

    fn history(&self) -> History {
        block_on(self.bench.repository.history()).unwrap()
    }

    /// The number of the run that wrote each pack.
    fn numbers(&self, packs: impl IntoIterator<Item = PackId>, history: &History) -> Numbers {
        let listed = self.bench.names("packs");
        let there = listed.iter().filter_map(|name| parse_pack_name(name)).map(|(writer, pack)| (pack, writer));
        let condemned = condemned_by(history).into_iter().map(|(pack, (writer, _))| (pack, writer));
        let writers: HashMap<PackId, LogNumber> = there.chain(condemned).collect();
        packs.into_iter().map(|pack| writers[&pack].0 as u8).collect()
    }

    /// Takes a step in both. Gives the next state of the model, none if the step is none.
    fn step(&mut self, model: &Protocol, state: &State, action: &Action) -> std::result::Result<Option<State>, String> {
        let mut action = action.clone();
        let mut chosen = None;
        match &action {
            Action::WriterRegisters(_) => _ = self.register(Role::Writer),
            Action::WriterStores(at, pack) => self.stores(state, *at, *pack)?,
            Action::WriterCommits(at) => self.ends(state, number_of(&state.writers[*at]), self.point())?,
            Action::ReaderRegisters(_) => _ = self.register(Role::Reader),
            Action::ReaderFindsAPoint(_) => {
                agree("a point is found", self.history().points().next().is_some(), true)?;
            }
            Action::ReaderEnds(at) => {
                let number = number_of(&state.readers[*at]);
                self.ends(state, number, Outcome::Ended { reason: "read".into() })?;
            }
            Action::ForgetterRegisters(_) => {
                let number = self.register(Role::Admin);
                let points = self.real.runs[&number].history().points().map(|(_, point)| point.id).collect();
                self.ends(state, number, Outcome::Forget { points, reason: "test".into() })?;
            }
            Action::PrunerRegisters(_) | Action::PrunerRegistersAgain(_) => _ = self.register(Role::Admin),
            Action::PrunerMarks(at, ..) => action = self.marks(model, state, *at)?,
            Action::PrunerCondemns(at) | Action::PrunerEnds(at) => self.pruner_ends(state, *at)?,
            Action::PrunerLooksAgain(at) => chosen = Some((*at, self.looks_again(state, *at))),
            Action::DeleteTakesEffect(pack) => self.delete(*pack)?,
            Action::Fence(number) => self.fence(state, *number),
            Action::ForgetterCommits(_) => return Err("forgetting is one step here".into()),
        }
        let next = model.next_state(state, action);
        match (next, chosen) {
            (Some(mut next), Some((at, (deleted, rescued)))) => {
                follow(state, &mut next, at, deleted, rescued)?;
                Ok(Some(next))
            }
            (next, _) => Ok(next),
        }
    }

    /// The model lets a writer rely on any pack that counts; the real one relies on whichever the index gives.
    fn stores(&mut self, state: &State, at: usize, pack: u8) -> Agreed {
        let number = number_of(&state.writers[at]);
        let index = block_on(Index::load_for_backup(&self.bench.repository, &self.history(), 1 << 20)).unwrap();
        let is_there = index.contains_now(&self.bench.repository.secrets().chunk_id(&self.page)) == Some(true);
        if u64::from(pack) == number {
            self.store(number);
            return Ok(());
        }
        agree("a writer finds the chunk", is_there, true)
    }

    fn ends(&mut self, state: &State, number: u64, outcome: Outcome) -> Agreed {
        let is_open = state.log.0.get(number as usize - 1).is_none_or(|entry| entry.done.is_none());
        let decided = self.commit(number, outcome).map_err(|error| error.to_string())?;
        agree("an outcome is decided by who creates it", decided, is_open)
    }

    fn marks(&mut self, model: &Protocol, state: &State, at: usize) -> std::result::Result<Action, String> {
        let protocol::Pruner::Registered(c) = state.pruners[at] else { return Err("not registered".into()) };
        let options = self.options();
        let mut pruner =
            Pruner { repository: &self.bench.repository, options: &options, report: PruneReport::default() };
        let (known, outcome) = pruner.choose(LogNumber(c.into())).map_err(|error| error.to_string())?;
        let copies = pruner.report.written.packs > 0;
        let condemns = match &outcome {
            Outcome::Condemned { packs, .. } => packs.iter().map(|pack| pack.writer.0 as u8).collect(),
            _ => Numbers::new(),
        };
        self.real.known.insert(at, known);
        self.real.outcomes.insert(c.into(), outcome);
        let condemned = state.log.condemned();
        let good = |pack: &u8| state.indexed.contains(pack) && !condemned.contains(pack) && !state.log.is_open(*pack);
        agree("only what is judged is condemned", condemns.iter().all(good), true)?;
        let stays = |pack: &&u8| !condemned.contains(pack) && !condemns.contains(pack) && state.present.contains(pack);
        let is_kept = copies || state.indexed.iter().any(|pack| stays(&pack));
        let is_safe = state.log.live().is_empty() || condemns.is_empty() || is_kept;
        agree("what is needed is kept elsewhere or copied", is_safe, true)?;
        let all = model.may_condemn(state, c).iter().any(|(packs, _)| condemns.is_subset(packs));
        agree("the model may condemn it", all || condemns.is_empty(), true)?;
        Ok(Action::PrunerMarks(at, condemns, copies))
    }

    fn pruner_ends(&mut self, state: &State, at: usize) -> Agreed {
        let number = match &state.pruners[at] {
            protocol::Pruner::Marked { c, .. } => *c,
            protocol::Pruner::Decided { d, .. } => *d,
            _ => return Err("nothing is decided".into()),
        };
        let outcome = self.real.outcomes.remove(&number.into()).ok_or("it has marked nothing")?;
        self.ends(state, number.into(), outcome.clone())?;
        if let (Outcome::Swept { deleted, .. }, true) = (outcome, state.log.is_open(number)) {
            let asked = self.numbers(deleted, &self.history());
            self.real.asked.extend(asked);
        }
        Ok(())
    }

    /// What goes and what is rescued.
    fn looks_again(&mut self, state: &State, at: usize) -> (Numbers, Numbers) {
        let protocol::Pruner::Sweeping { d, .. } = state.pruners[at] else { panic!("it does not sweep") };
        let options = self.options();
        let mut pruner =
            Pruner { repository: &self.bench.repository, options: &options, report: PruneReport::default() };
        let (_, outcome) = pruner.decide(LogNumber(d.into()), &self.real.known[&at]).unwrap();
        let (deleted, rescued) = match outcome.clone() {
            Outcome::Swept { deleted, rescued } => (deleted, rescued),
            _ => (Vec::new(), Vec::new()),
        };
        self.real.outcomes.insert(d.into(), outcome);
        let history = self.history();
        (self.numbers(deleted, &history), self.numbers(rescued, &history))
    }

    fn delete(&mut self, pack: u8) -> Agreed {
        agree("a delete was asked for", self.real.asked.remove(&pack), true)?;
        let prefix = format!("packs/{}", LogNumber(pack.into()));
        self.bench.names(&prefix).iter().for_each(|name| self.bench.store.remove(name));
        Ok(())
    }

    fn fence(&self, state: &State, victim: u8) {
        let by = state.pruners.iter().find_map(|pruner| match pruner {
            protocol::Pruner::Registered(own) | protocol::Pruner::Sweeping { d: own, .. } if victim < *own => {
                Some(*own)
            }
            _ => None,
        });
        let by = LogNumber(by.expect("a pruner is at work").into());
        let secrets = self.bench.repository.secrets();
        let outcome = Outcome::Fence { by, reason: "silent".into() };
        let body = DoneRecord { signer: secrets.signing().verifying_key(), seen: Seen::nothing(), outcome }.encode();
        let name = done_name(LogNumber(victim.into()));
        block_on(self.bench.store.create(&name, seal_record(secrets, &name, &body).unwrap())).unwrap();
    }

    /// What the store holds is what the model says, and what a live point needs can be read.
    fn agrees(&self, state: &State) -> Agreed {
        let history = self.history();
        let numbers = 1..=state.log.0.len() as u8;
        let open = |number: &u8| !history.is_decided(LogNumber(u64::from(*number)));
        agree("the highest number", history.highest().0, state.log.0.len() as u64)?;
        agree(
            "runs without outcome",
            numbers.clone().filter(open).collect(),
            numbers.filter(|number| state.log.is_open(*number)).collect::<Vec<_>>(),
        )?;
        agree("live points", history.points().map(|(number, _)| number.0 as u8).collect(), state.log.live())?;
        agree("condemned packs", self.numbers(history.condemned(), &history), state.log.condemned())?;
        let listed = self.bench.names("packs");
        let there = listed.iter().filter_map(|name| parse_pack_name(name)).map(|(writer, _)| writer.0 as u8).collect();
        agree("packs that are there", there, state.present.clone())?;
        if !state.log.live().is_empty() {
            let index = block_on(Index::load_or_rebuild(&self.bench.repository, &history, 1 << 20)).unwrap();
            let id = self.bench.repository.secrets().chunk_id(&self.page);
            let read = block_on(ChunkReader::new(&self.bench.repository, index, 1 << 20).read(&id));
            agree("what a live point needs is read", read.map(|bytes| bytes == self.page).ok(), Some(true))?;
        }
        Ok(())
    }
}

fn number_of(actor: &impl std::fmt::Debug) -> u64 {
    let text = format!("{actor:?}");
    text.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("an actor at work has a number")
}

/// The model rescues one of several last copies; the real code may rescue another one.
fn follow(state: &State, next: &mut State, at: usize, real_deleted: Numbers, real_rescued: Numbers) -> Agreed {
    let protocol::Pruner::Decided { doomed, rescued, .. } = &mut next.pruners[at] else { return Ok(()) };
    let all = |a: &Numbers, b: &Numbers| a.union(b).copied().collect::<Numbers>();
    agree("what goes or is rescued", all(&real_deleted, &real_rescued), all(doomed, rescued))?;
    agree("how many are rescued", real_rescued.len(), rescued.len())?;
    agree("what is rescued is there", real_rescued.is_subset(&state.present), true)?;
    (*doomed, *rescued) = (real_deleted, real_rescued);
    Ok(())
}

fn is_same_kind(a: &Action, b: &Action) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// Walks at random. Gives the actions that were taken, or on what step the two disagree.
fn walk(model: &Protocol, seed: u64) -> std::result::Result<Vec<Action>, String> {
    let mut replay = Replay::new(seed.is_multiple_of(2));
    let mut state = model.init_states().remove(0);
    let mut random = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut taken = Vec::new();
    replay.agrees(&state)?;
    while taken.len() < STEPS_MAX {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        // One of each kind for what the real code chooses; the others would only make it more likely.
        actions.dedup_by(|a, b| matches!(a, Action::PrunerMarks(..)) && is_same_kind(a, b));
        if actions.is_empty() {
            break;
        }
        let mut byte = [0];
        random.fill(&mut byte);
        let action = actions.swap_remove(byte[0] as usize % actions.len());
        state = take(model, &mut replay, &state, &action, &mut taken)?.unwrap_or(state);
    }
    Ok(taken)
}

fn take(
    model: &Protocol,
    replay: &mut Replay,
    state: &State,
    action: &Action,
    taken: &mut Vec<Action>,
) -> std::result::Result<Option<State>, String> {
    taken.push(action.clone());
    let stepped = replay.step(model, state, action).and_then(|next| {
        replay.agrees(next.as_ref().unwrap_or(state))?;
        Ok(next)
    });
    stepped.map_err(|disagreement| format!("{disagreement}, after {taken:?}"))
}

/// The shortest way to each kind of action.
fn shortest_ways(model: &Protocol) -> Vec<Vec<Action>> {
    let first = model.init_states().remove(0);
    let mut seen = HashMap::from([(first.clone(), Vec::new())]);
    let mut queue = VecDeque::from([first]);
    let mut ways: Vec<Vec<Action>> = Vec::new();
    while let Some(state) = queue.pop_front() {
        let way: Vec<Action> = seen[&state].clone();
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        for action in actions {
            let longer: Vec<Action> = way.iter().cloned().chain([action.clone()]).collect();
            if !ways.iter().any(|way| way.last().is_some_and(|last| is_same_kind(last, &action))) {
                ways.push(longer.clone());
            }
            let Some(next) = model.next_state(&state, action) else { continue };
            if longer.len() < 9 && !seen.contains_key(&next) {
                seen.insert(next.clone(), longer);
                queue.push_back(next);
            }
        }
    }
    ways
}

fn protocol(writers: usize, readers: usize, pruners: usize, mutant: Option<Mutant>) -> Protocol {
    Protocol { writers, readers, pruners, forgetters: 1, forgets_at_once: true, mutant }
}

#[test]
fn traces_of_the_model_replayed_on_the_real_code_agree_at_every_step() {
    let mut taken = BTreeMap::new();
    for seed in 0..30 {
        let model = if seed % 3 == 0 { protocol(1, 0, 2, None) } else { protocol(2, 1, 1, None) };
        let actions = walk(&model, seed).unwrap_or_else(|disagreement| panic!("seed {seed}: {disagreement}"));
        for action in actions {
            let name = format!("{action:?}");
            *taken.entry(name.split('(').next().unwrap_or_default().to_owned()).or_insert(0) += 1;
        }
    }
    println!("{taken:?}");
    assert!(taken.len() >= 15, "every kind of action but one is among them: {taken:?}");
}

#[test]
fn shortest_traces_to_each_kind_of_action_agree_with_the_real_code() {
    let model = protocol(1, 1, 1, None);
    let ways = shortest_ways(&model);
    assert!(ways.len() >= 12, "{ways:?}");
    for way in ways {
        let mut replay = Replay::new(true);
        let (mut state, mut taken) = (model.init_states().remove(0), Vec::new());
        for action in &way {
            let mut enabled = Vec::new();
            model.actions(&state, &mut enabled);
            // What the real code chose before may have left nothing for a later step.
            let is_choice = matches!(action, Action::PrunerMarks(..));
            if !enabled.iter().any(|other| other == action || (is_choice && is_same_kind(other, action))) {
                break;
            }
            let next = take(&model, &mut replay, &state, action, &mut taken).unwrap_or_else(|found| panic!("{found}"));
            state = next.unwrap_or(state);
        }
    }
}

#[test]
fn a_replay_notices_a_model_with_other_rules() {
    use Mutant::*;
    for (mutant, pruners) in [
        (DeletesWithoutWaiting, 1),
        (DoesNotLookAgain, 1),
        (WriterIgnoresCondemned, 1),
        (DeletesBeforeThatIsItsOutcome, 1),
        (LearnsWhatIsCondemnedAfterRegistering, 2),
    ] {
        let model = protocol(1, usize::from(pruners == 1), pruners, Some(mutant));
        let found = (0..200).find_map(|seed| walk(&model, seed).err());
        println!("{mutant:?}: {found:?}");
        assert!(found.is_some(), "{mutant:?} is not noticed");
    }
}
