//! A repository with a past, the acts that a crash may hit, and everything that must hold after it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::block_on;
use mover_repository::backend::{Backend, FaultyBackend, MemoryBackend};
use mover_repository::ids::{ObjectId, UnixNanos};
use mover_repository::index::compact;
use mover_repository::key_admin::{add_key, remove_key};
use mover_repository::keys::{Credential, Stretching};
use mover_repository::log::{OpenRecord, Outcome, Role};
use mover_repository::pack::parse_pack_name;
use mover_repository::prune::{PruneOptions, prune};
use mover_repository::repair::repair_index;
use mover_repository::repository::{InitOptions, KeyRights, Repository};
use mover_repository::verify::{Data, VerifyOptions, verify};

use crate::world::{Contents, Objects, World, contents_of, job, read_back_from, small_chunks, verify_errors_of};
use mover_actors::simulation::SimTree;

/// What a crash may hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Backup,
    Forget,
    Prune,
    KeyAdd,
    KeyRemove,
    KeyChange,
    RepairIndex,
    RepairPacks,
    Compact,
}

/// Keys: the first two are there from the beginning, the third one is what is added.
pub const FIRST: u8 = 1;
pub const SECOND: u8 = 2;
pub const THIRD: u8 = 3;

/// Backups of the past; enough for a merge of index segments.
const PAST: u64 = 9;
/// Points that were forgotten, so that there is something to prune.
const FORGOTTEN: usize = 3;

pub fn credential(seed: u8) -> Credential {
    Credential::key_file(vec![seed; 32]).expect("a key")
}

pub fn open(store: &Arc<dyn Backend>, key: u8) -> Result<Repository, String> {
    block_on(Repository::open(Arc::clone(store), &credential(key))).map_err(|error| format!("open: {error}"))
}

/// An admin long after everything: whatever has no outcome was silent for too long.
fn admin() -> OpenRecord {
    OpenRecord {
        role: Role::Admin,
        host: "admin".into(),
        process_id: std::process::id(),
        machine: ObjectId([0; 32]),
        set: String::new(),
        job: ObjectId([2; 32]),
        adopts: None,
        depends_on: None,
        started: UnixNanos(1 << 80),
    }
}

/// What the source holds at a backup: most of it as before, some of it new. A simulated file that changes has to have
/// another length, or it looks as if it had not.
fn trees(number: u64) -> Vec<SimTree> {
    let pair = number / 2;
    let tree = SimTree::new("/data").file("steady", 1, 50_000).file("empty", 2, 0);
    let tree = tree.file("d/own", 100 + number, 20_000 + number * 1000).file("d/pair", 200 + pair, 30_000 + pair);
    vec![tree, SimTree::new("/more").file("new", 300 + number, 5_000 + number)]
}

fn world(number: u64) -> World {
    World::new(number, 2, trees(number))
}

fn prune_options() -> PruneOptions {
    PruneOptions {
        dry_run: false,
        unused_percent_max: 0,
        move_bytes_max: u64::MAX,
        fence_after: Duration::from_secs(86_400),
        wait: Duration::ZERO,
        memory_bytes: 16 << 20,
        threads: 2,
        scratch: std::env::temp_dir(),
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// Backs up what the source holds at `number`.
fn back_up(repository: &Repository, number: u64) -> Result<(), String> {
    back_up_by(job(number), repository, number)
}

fn back_up_by(job: ObjectId, repository: &Repository, number: u64) -> Result<(), String> {
    let report = World { job, ..world(number) }.back_up_into(repository.clone()).result.map_err(text)?;
    match report.point {
        Some(point) if point.errors == 0 => Ok(()),
        _ => Err("a backup without a whole point".into()),
    }
}

fn forget(repository: &Repository, points: &[ObjectId]) -> Result<(), String> {
    let registration = block_on(repository.register(admin())).map_err(text)?;
    let outcome = Outcome::Forget { points: points.to_vec(), reason: "test".into() };
    block_on(registration.commit(outcome)).map_err(text)
}

/// A repository with a past.
pub struct Scene {
    pub objects: Objects,
    /// Its objects in the order in which they came to be.
    pub created: Vec<String>,
    /// What its points hold, those that count.
    points: BTreeMap<ObjectId, Contents>,
    /// The point that [`Act::Forget`] forgets.
    victim: ObjectId,
    slot_of_second: ObjectId,
    /// Files that cannot be restored, if a pack is damaged: point and path.
    hurt: Vec<(ObjectId, Vec<u8>)>,
}

impl Scene {
    pub fn new() -> Scene {
        let store = Arc::new(MemoryBackend::new());
        let recorded = Arc::new(FaultyBackend::new(store.clone()));
        let options =
            InitOptions { chunker: small_chunks(), stretching: Stretching::CHEAPEST, ..InitOptions::default() };
        let repository = block_on(Repository::init(recorded.clone(), &credential(FIRST), options)).expect("init");
        let (who, second) = (admin(), credential(SECOND));
        let added = add_key(&repository, &who, &second, KeyRights::Full, "second", Stretching::CHEAPEST);
        let slot_of_second = block_on(added).expect("a key");
        (0..PAST).for_each(|number| back_up(&repository, number).expect("a backup of the past"));
        let read = read_back_from(&repository).expect("readable");
        assert_eq!(read.len() as u64, PAST);
        let gone: Vec<ObjectId> = read[..FORGOTTEN].iter().map(|found| found.point.id).collect();
        forget(&repository, &gone).expect("forgotten");
        let points: BTreeMap<ObjectId, Contents> =
            read.into_iter().skip(FORGOTTEN).map(|found| (found.point.id, found.contents)).collect();
        let victim = block_on(repository.history()).expect("history").recovery_points()[0].1.id;
        let objects = store.snapshot();
        Scene { objects, created: recorded.created(), points, victim, slot_of_second, hurt: vec![] }
    }

    /// The same with one frame of data flipped.
    pub fn damaged() -> Scene {
        let mut scene = Scene::new();
        let data = scene.objects.iter().filter(|(name, _)| name.starts_with("packs/"));
        let (name, body) = data.max_by_key(|(_, body)| body.len()).expect("packs");
        let (damaged, mut bytes) = (name.clone(), body.to_vec());
        bytes[body.len() / 2] ^= 1;
        scene.objects.insert(damaged, bytes.into());
        scene.hurt = scene.hurt_files(&scene.reopened(&scene.objects, FIRST).expect("it opens"));
        assert!(!scene.hurt.is_empty() && scene.hurt.len() < 2 * scene.points.len(), "{:?}", scene.hurt);
        scene
    }

    /// Writes the objects into a directory.
    pub fn lay_out(objects: &Objects, place: &Path) {
        for (name, body) in objects {
            mover_tests::tree::write(&place.join(name), body);
        }
    }

    /// Does it. `Ok` is an acknowledgement.
    pub fn act(&self, act: Act, repository: &Repository) -> Result<(), String> {
        match act {
            Act::Backup => back_up(repository, PAST),
            Act::Forget => forget(repository, &[self.victim]),
            Act::Prune => prune(repository, &admin(), &prune_options()).map(|_| ()).map_err(text),
            Act::KeyAdd => self.add_third(repository),
            Act::KeyRemove => self.remove(repository, self.slot_of_second),
            Act::KeyChange => {
                self.add_third(repository)?;
                self.remove(repository, repository.slot().ok_or("no own slot")?)
            }
            Act::RepairIndex => {
                let report = repair_index(repository, false, &|_, _| {}).map_err(text)?;
                if report.unreadable.is_empty() { Ok(()) } else { Err(format!("{:?}", report.unreadable)) }
            }
            Act::RepairPacks => self.repair_packs(repository),
            Act::Compact => block_on(compact(repository, usize::MAX)).map(|_| ()).map_err(text),
        }
    }

    fn add_third(&self, repository: &Repository) -> Result<(), String> {
        let (who, third) = (admin(), credential(THIRD));
        let added = add_key(repository, &who, &third, KeyRights::Full, "third", Stretching::CHEAPEST);
        block_on(added).map(|_| ()).map_err(text)
    }

    fn remove(&self, repository: &Repository, slot: ObjectId) -> Result<(), String> {
        block_on(remove_key(repository, &admin(), slot, Duration::ZERO)).map_err(text)
    }

    /// As the command does it: reads everything, records where the damage is.
    fn repair_packs(&self, repository: &Repository) -> Result<(), String> {
        let registration = block_on(repository.register(admin())).map_err(text)?;
        let options = VerifyOptions { data: Data::All, ..VerifyOptions::default() };
        let frames = verify(repository, &options, &|_| {}).map_err(text)?.hurt_frames;
        let outcome = match frames.is_empty() {
            true => Outcome::Ended { reason: "no frame is damaged".into() },
            false => Outcome::Damage { frames },
        };
        block_on(registration.commit(outcome)).map_err(text)
    }

    /// Opens what a crash has left, on a store that works.
    pub fn reopened(&self, objects: &Objects, key: u8) -> Result<Repository, String> {
        let store = MemoryBackend::new();
        store.restore(objects.clone());
        open(&(Arc::new(store) as Arc<dyn Backend>), key)
    }

    /// How many packs are gone, each named by an outcome that decided it and by one that gave the reason.
    pub fn journaled(&self, objects: &Objects) -> Result<usize, String> {
        let history = block_on(self.reopened(objects, FIRST)?.history()).map_err(text)?;
        let (deleted, condemned) = (history.deleted(), history.condemned());
        let gone: Vec<&String> =
            self.objects.keys().filter(|name| name.starts_with("packs/") && !objects.contains_key(*name)).collect();
        let is_named = |name: &&&String| {
            let (_, pack) = parse_pack_name(name).expect("the name of a pack");
            deleted.contains(&pack) && condemned.contains(&pack)
        };
        match gone.iter().find(|name| !is_named(name)) {
            Some(name) => Err(format!("{name} is gone, and no record says why")),
            None => Ok(gone.len()),
        }
    }

    fn hurt_files(&self, repository: &Repository) -> Vec<(ObjectId, Vec<u8>)> {
        let options = VerifyOptions { data: Data::All, ..VerifyOptions::default() };
        let report = verify(repository, &options, &|_| {}).expect("verify");
        let mut hurt: Vec<_> = report.hurt_files.into_iter().map(|file| (file.point, file.path)).collect();
        hurt.sort();
        hurt
    }
}

/// What must hold after a crash in `act`, or after its acknowledgement.
impl Scene {
    pub fn check(&self, act: Act, objects: &Objects, is_acknowledged: bool) -> Result<(), String> {
        let key = self.check_keys(act, objects, is_acknowledged)?;
        let repository = self.reopened(objects, key)?;
        if !self.hurt.is_empty() {
            return self.check_damaged(&repository);
        }
        self.check_points(act, &repository, is_acknowledged).map_err(|wrong| format!("right after: {wrong}"))?;
        back_up(&repository, PAST + 1).map_err(|wrong| format!("the next backup: {wrong}"))?;
        self.check_points(act, &repository, is_acknowledged).map_err(|wrong| format!("after a backup: {wrong}"))?;
        prune(&repository, &admin(), &prune_options()).map_err(|wrong| format!("the next prune: {wrong}"))?;
        self.check_points(act, &repository, is_acknowledged).map_err(|wrong| format!("after a prune: {wrong}"))
    }

    /// Some key opens it, always; gives one that must.
    fn check_keys(&self, act: Act, objects: &Objects, is_acknowledged: bool) -> Result<u8, String> {
        let opens = |key| self.reopened(objects, key).is_ok();
        let must_open: &[u8] = match (act, is_acknowledged) {
            (Act::KeyChange, true) => &[SECOND, THIRD],
            (Act::KeyChange, false) => &[SECOND],
            (Act::KeyRemove, _) => &[FIRST],
            (Act::KeyAdd, true) => &[FIRST, SECOND, THIRD],
            _ => &[FIRST, SECOND],
        };
        let must_not: &[u8] = match (act, is_acknowledged) {
            (Act::KeyChange, true) => &[FIRST],
            (Act::KeyRemove, true) => &[SECOND],
            _ => &[],
        };
        match (must_open.iter().find(|key| !opens(**key)), must_not.iter().find(|key| opens(**key))) {
            (Some(key), _) => Err(format!("key {key} does not open it any more")),
            (_, Some(key)) => Err(format!("key {key} was removed and opens it")),
            _ => Ok(must_open[0]),
        }
    }

    /// Every point that was acknowledged and not forgotten is there with all its bytes; all that is there is whole.
    fn check_points(&self, act: Act, repository: &Repository, is_acknowledged: bool) -> Result<(), String> {
        let read = read_back_from(repository).map_err(|failure| format!("read back: {failure}"))?;
        let found: BTreeMap<ObjectId, Contents> =
            read.into_iter().map(|found| (found.point.id, found.contents)).collect();
        for id in self.points.keys() {
            let may_be_gone = act == Act::Forget && *id == self.victim;
            if !found.contains_key(id) && !may_be_gone {
                return Err(format!("point {id} is gone"));
            }
            if found.contains_key(id) && may_be_gone && is_acknowledged {
                return Err(format!("point {id} was forgotten and is back"));
            }
        }
        let is_new = |contents: &&Contents| [PAST, PAST + 1].iter().any(|n| **contents == contents_of(&trees(*n)));
        let wrong = found.iter().find(|(id, contents)| match self.points.get(*id) {
            Some(expected) => expected != *contents,
            None => !is_new(contents),
        });
        if let Some((id, _)) = wrong {
            return Err(format!("point {id} does not hold what the source held"));
        }
        if act == Act::Backup && is_acknowledged && !found.values().any(|held| *held == contents_of(&trees(PAST))) {
            return Err("the new point is gone".into());
        }
        verify_errors_of(repository).first().map_or(Ok(()), |error| Err(format!("verify: {error}")))
    }

    /// Verify names exactly what is hurt, and the next backup of that content heals it.
    fn check_damaged(&self, repository: &Repository) -> Result<(), String> {
        let hurt = self.hurt_files(repository);
        if hurt != self.hurt {
            return Err(format!("verify names {hurt:?}, and hurt are {:?}", self.hurt));
        }
        self.repair_packs(repository)?;
        // Jobs of their own: those of the past are done.
        (0..PAST).try_for_each(|number| back_up_by(job(1000 + number), repository, number))?;
        match self.hurt_files(repository)[..] {
            [] => Ok(()),
            ref left => Err(format!("not healed: {left:?}")),
        }
    }
}
