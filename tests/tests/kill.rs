//! The kill matrix: every command is killed, or stopped for a while, at a random moment, with others running beside it.
//! After each round verify reads all data and finds nothing wrong, and every point that was acknowledged and not
//! forgotten is there; some restore exactly, and all of them at the end. Every key that was acknowledged opens, and none
//! that was removed.
//!
//! `MOVER_KILL_SEED=n` begins with another seed; a failure prints the seed and the round. Moments are those of this
//! machine: a seed repeats the choices, not the microsecond.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mover_tests::mover::{finish, landed, wait};
use mover_tests::random::Random;
use mover_tests::summary::json_lines;
use mover_tests::tree::{KIB, MIB, files_below, small_files, write_random};
use mover_tests::{Repo, Run, exit};
use rustix::process::Signal;

/// Points that are restored after a round, about.
const POINTS_RESTORED: u64 = 8;

/// How long an act is left in peace the first time, at most.
const PATIENCE_FIRST: Duration = Duration::from_millis(30);

fn is_nightly() -> bool {
    std::env::var_os("MOVER_TEST_NIGHTLY").is_some()
}

fn seed() -> u64 {
    std::env::var("MOVER_KILL_SEED").map_or(1, |seed| seed.parse().expect("MOVER_KILL_SEED is a number"))
}

fn signal(child: &Child, signal: Signal) {
    // The child may have ended by itself: that is no error here.
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(child), signal);
}

fn is_running(child: &mut Child) -> bool {
    child.try_wait().expect("look").is_none()
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start")
}

type Content = BTreeMap<PathBuf, Vec<u8>>;

fn content(place: &Path) -> Content {
    files_below(place)
        .into_iter()
        .map(|(name, _)| (name.clone(), std::fs::read(place.join(name)).expect("read")))
        .collect()
}

/// What runs, or is disturbed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Backup,
    Forget(String),
    Prune,
    KeyAdd(PathBuf),
    KeyRemove(PathBuf, String),
    Verify,
    RepairIndex,
    RepairPacks,
    Restore(String),
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Kill,
    /// Stopped for so many milliseconds, then it goes on.
    Stop(u64),
}

struct Matrix {
    repo: Repo,
    key: PathBuf,
    source: PathBuf,
    random: Random,
    round: u64,
    /// What each point holds that was ever seen.
    held: BTreeMap<String, Content>,
    /// Points that were acknowledged, and that nobody tried to forget.
    promised: Vec<String>,
    /// Key files that were acknowledged, with their ids.
    keys: BTreeMap<PathBuf, String>,
    removed: Vec<PathBuf>,
    /// How long an act may be left in peace, by its name: longer after a blow that it felt, shorter after one that came
    /// too late. So half of them hit on any machine.
    patience: BTreeMap<String, Duration>,
}

impl Matrix {
    fn new(seed: u64) -> Matrix {
        let repo = Repo::new();
        let (key, source) = (repo.scratch().join("key"), repo.directory("source"));
        repo.run("key", &["add".as_ref(), "--new-key-file".as_ref(), key.as_os_str()]).expect(exit::DONE);
        small_files(&source, 60, 0, 20_000, 1);
        let (random, held, keys) = (Random::new(seed), BTreeMap::new(), BTreeMap::new());
        let (promised, removed, patience) = (vec![], vec![], BTreeMap::new());
        let mut matrix = Matrix { repo, key, source, random, round: 0, held, promised, keys, removed, patience };
        for _ in 0..2 {
            matrix.change_source();
            let run = matrix.run(&Act::Backup).expect(exit::DONE);
            matrix.note(&Act::Backup, &run);
        }
        matrix
    }

    /// With a key file, so that no time goes into a password.
    fn command_with(&self, key: &Path, subcommand: &str, arguments: &[&OsStr]) -> Command {
        let mut command = self.repo.command(subcommand, arguments);
        command.env_remove("MOVER_PASSWORD_FILE").env("MOVER_KEY_FILE", key);
        command
    }

    fn command(&self, act: &Act) -> Command {
        let with = |subcommand: &str, arguments: &[&OsStr]| self.command_with(&self.key, subcommand, arguments);
        let target = self.repo.scratch().join("disturbed-target");
        match act {
            Act::Backup => with("backup", &["--json".as_ref(), self.source.as_os_str()]),
            Act::Forget(point) => with("forget", &[point.as_ref()]),
            Act::Prune => with("prune", &["--max-unused".as_ref(), "0".as_ref()]),
            Act::KeyAdd(file) => with("key", &["add".as_ref(), "--new-key-file".as_ref(), file.as_os_str()]),
            Act::KeyRemove(_, id) => with("key", &["remove".as_ref(), id.as_ref()]),
            Act::Verify => with("verify", &["--data".as_ref(), "all".as_ref()]),
            Act::RepairIndex => with("repair", &["index".as_ref()]),
            Act::RepairPacks => with("repair", &["packs".as_ref()]),
            Act::Restore(point) => with("restore", &[point.as_ref(), "--target".as_ref(), target.as_os_str()]),
        }
    }

    fn run(&self, act: &Act) -> Run {
        finish(self.command(act), None)
    }

    fn change_source(&mut self) {
        self.round += 1;
        write_random(&self.source.join("large"), MIB + self.random.below(MIB), self.random.next_u64());
        let number = self.random.below(8);
        write_random(&self.source.join(format!("more-{number}")), self.random.below(200 * KIB), self.random.next_u64());
    }

    fn draw(&mut self) -> Act {
        let point = self.promised[self.random.below(self.promised.len() as u64) as usize].clone();
        match self.random.below(12) {
            0..=2 => Act::Backup,
            3 if self.promised.len() > 2 => Act::Forget(self.promised[0].clone()),
            3..=5 => Act::Prune,
            6 => Act::KeyAdd(self.repo.scratch().join(format!("key-{}-{}", self.round, self.random.next_u64()))),
            7 => match self.keys.iter().next() {
                Some((file, id)) => Act::KeyRemove(file.clone(), id.clone()),
                None => Act::KeyAdd(self.repo.scratch().join(format!("key-{}", self.round))),
            },
            8 => Act::Verify,
            9 => Act::RepairIndex,
            10 => Act::RepairPacks,
            _ => Act::Restore(point),
        }
    }

    /// Notes what a run has promised; one without an exit code of 0 has promised nothing, and may have done it.
    fn note(&mut self, act: &Act, run: &Run) {
        let is_done = run.code == exit::DONE;
        match act {
            Act::Backup if is_done => {
                let point = run.summary().point();
                self.held.insert(point.clone(), content(&self.source));
                self.promised.push(point);
            }
            Act::Forget(point) => self.promised.retain(|other| other != point),
            Act::KeyAdd(file) if is_done => _ = self.keys.insert(file.clone(), self.id_of(file)),
            Act::KeyRemove(file, _) => {
                self.keys.remove(file);
                if is_done {
                    self.removed.push(file.clone());
                }
            }
            _ => {}
        }
    }

    fn id_of(&self, key: &Path) -> String {
        let listed = finish(self.command_with(key, "key", &["list".as_ref(), "--json".as_ref()]), None);
        let own = json_lines(&listed.expect(exit::DONE).stdout).into_iter().find(|line| line["own"] == true);
        own.expect("its own key")["id"].as_str().expect("an id").to_owned()
    }

    /// Disturbs one act, others beside it. Gives whether it was still running when the blow came.
    fn round(&mut self) -> bool {
        self.change_source();
        let act = self.draw();
        let beside = self.beside(&act);
        let blow = if self.random.below(3) == 0 { Blow::Stop(self.random.below(400)) } else { Blow::Kill };
        let patience = self.patience.get(&name(&act)).copied().unwrap_or(PATIENCE_FIRST);
        let delay = Duration::from_micros(self.random.below(patience.as_micros() as u64));
        println!("round {}: {blow:?} {act:?} after {delay:?}, beside {beside:?}", self.round);
        let mut child = start(self.command(&act));
        let others: Vec<(Act, Child)> =
            beside.iter().map(|other| (other.clone(), start(self.command(other)))).collect();
        std::thread::sleep(delay);
        let is_hit = is_running(&mut child);
        self.patience.insert(name(&act), if is_hit { patience * 3 / 2 } else { patience / 2 });
        match blow {
            Blow::Kill => signal(&child, Signal::KILL),
            Blow::Stop(milliseconds) => {
                signal(&child, Signal::STOP);
                std::thread::sleep(Duration::from_millis(milliseconds));
            }
        }
        // Half of those that are stopped sleep until the others have ended.
        if self.random.below(2) == 0 {
            signal(&child, Signal::CONT);
        }
        let mut ended: Vec<(Act, Run)> = vec![];
        for (other, running) in others {
            let line = format!("{other:?}");
            ended.push((other, wait(running, line)));
        }
        signal(&child, Signal::CONT);
        let run = wait(child, format!("{act:?}"));
        if blow != Blow::Kill || !is_hit {
            ended.push((act.clone(), run));
        } else {
            self.note(&act, &run);
        }
        for (other, run) in ended {
            assert_undisturbed(&other, &run);
            self.note(&other, &run);
        }
        let _ = std::fs::remove_dir_all(self.repo.scratch().join("disturbed-target"));
        is_hit
    }

    fn beside(&mut self, act: &Act) -> Vec<Act> {
        let mut beside = vec![];
        if self.random.below(2) == 0 {
            beside.push(if *act == Act::Prune { Act::Backup } else { Act::Prune });
        }
        if self.random.below(4) == 0 && !matches!(act, Act::Forget(_)) {
            beside.push(if *act == Act::Backup { Act::RepairIndex } else { Act::Backup });
        }
        beside.dedup();
        beside
    }

    /// Everything that was promised holds; restores all points, or some of many.
    fn check(&mut self, all: bool) {
        let verified = finish(self.command(&Act::Verify), None);
        assert_eq!(verified.code, exit::DONE, "round {}: {verified}", self.round);
        let listed = finish(self.command_with(&self.key, "points", &["--json".as_ref()]), None).expect(exit::DONE);
        let listed: Vec<String> =
            json_lines(&listed.stdout).iter().filter_map(|line| Some(line["id"].as_str()?.to_owned())).collect();
        for point in &self.promised {
            assert!(listed.contains(point), "round {}: point {point} was acknowledged and is gone", self.round);
        }
        for point in &listed {
            // A backup that was killed after its commit: it holds what the source holds now.
            let is_new = !self.held.contains_key(point);
            self.held.entry(point.clone()).or_insert_with(|| content(&self.source));
            // Verify has read the data of all.
            if all || is_new || self.random.below(listed.len() as u64) < POINTS_RESTORED {
                self.check_point(point);
            }
        }
        for file in self.keys.keys() {
            finish(self.command_with(file, "points", &[]), None).expect(exit::DONE);
        }
        for file in self.removed.drain(..).collect::<Vec<_>>() {
            finish(self.command_with(&file, "points", &[]), None).expect(exit::WRONG_KEY);
        }
    }

    fn check_point(&self, point: &str) {
        let target = self.repo.directory("target");
        let arguments = [OsStr::new(point), "--target".as_ref(), target.as_os_str()];
        let restored = finish(self.command_with(&self.key, "restore", &arguments), None);
        assert_eq!(restored.code, exit::DONE, "round {}: {restored}", self.round);
        let found = content(&landed(&target, &self.source));
        let held = &self.held[point];
        assert!(found.keys().eq(held.keys()), "round {}: point {point} has other files", self.round);
        for (path, bytes) in held {
            assert!(found[path] == *bytes, "round {}: {} of point {point} has other bytes", self.round, path.display());
        }
        std::fs::remove_dir_all(&target).expect("remove");
    }
}

fn name(act: &Act) -> String {
    format!("{act:?}").split('(').next().unwrap_or_default().to_owned()
}

/// Whoever was not killed completes. But an admin whom a killed one may contradict says so, and changes nothing.
fn assert_undisturbed(act: &Act, run: &Run) {
    assert!(!run.panicked(), "{act:?}: {run}");
    let waits = matches!(act, Act::KeyRemove(..)) && run.stderr.contains("no outcome");
    assert!(run.code == exit::DONE || waits, "{act:?}: {run}");
}

#[test]
fn kill_matrix_of_all_commands_loses_nothing_that_was_acknowledged() {
    let (seed, rounds) = (seed(), if is_nightly() { 400 } else { 24 });
    println!("MOVER_KILL_SEED={seed}");
    let mut matrix = Matrix::new(seed);
    let mut hits = 0;
    for _ in 0..rounds {
        hits += u64::from(matrix.round());
        matrix.check(false);
    }
    println!("{hits} of {rounds} were running when the blow came");
    assert!(hits * 4 > rounds, "only {hits} of {rounds} were running when the blow came");
    // The dead are fenced, what they left goes, and all is as it was promised.
    matrix.run(&Act::Prune).expect(exit::DONE);
    matrix.check(true);
}

/// FAILURES F01: a writer was thought dead, its data was deleted, and it committed. Here one that sleeps through a whole
/// prune commits a point that is whole; or it was fenced, and says so.
#[test]
fn f01_kill_a_backup_that_sleeps_through_a_prune_commits_a_whole_point_or_is_fenced() {
    let mut matrix = Matrix::new(seed());
    let rounds = if is_nightly() { 60 } else { 8 };
    let (mut committed, mut fenced) = (0, 0);
    for round in 0..rounds {
        matrix.change_source();
        let doomed = matrix.promised.remove(0);
        let may_fence = round % 2 == 1;
        let registered = log_numbers(&matrix.repo);
        let mut child = start(matrix.command(&Act::Backup));
        let patience = Instant::now() + Duration::from_secs(60);
        while log_numbers(&matrix.repo) == registered && is_running(&mut child) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(matrix.random.below(40)));
        signal(&child, Signal::STOP);
        finish(matrix.command(&Act::Forget(doomed)), None).expect(exit::DONE);
        let mut prune = matrix.command(&Act::Prune);
        if may_fence {
            prune.args(["--fence-after", "0s"]);
        }
        finish(prune, None).expect(exit::DONE);
        signal(&child, Signal::CONT);
        let run = wait(child, "backup".to_owned());
        if run.code == exit::DONE {
            committed += 1;
        } else {
            assert!(may_fence && run.stderr.contains("fenced"), "round {round}: {run}");
            fenced += 1;
        }
        matrix.note(&Act::Backup, &run);
        matrix.run(&Act::Prune).expect(exit::DONE);
        matrix.check(true);
        // There is always one to be forgotten.
        let next = matrix.run(&Act::Backup).expect(exit::DONE);
        matrix.note(&Act::Backup, &next);
    }
    assert!(committed > 0 && fenced > 0, "{committed} committed, {fenced} were fenced");
}

/// How many runs are registered.
fn log_numbers(repo: &Repo) -> usize {
    repo.objects().iter().filter(|(path, _)| path.starts_with("log") && path.ends_with("open")).count()
}
