//! Runs an act on the production local backend, each step of it recorded, so that the power can be cut between any two.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_lite::future::block_on;
use mover_repository::backend::local::disk_trace::{DiskFault, DiskStep, DiskTrace};
use mover_repository::backend::{
    Backend, Created, IoFuture, LocalBackend, ObjectMeta, ObjectWriter, StorageError, Temporary,
};

use super::disk::Disk;
use super::scene::{Act, FIRST, Scene, open};

/// A store whose calls are ready at once, as the simulated scheduler needs them.
struct Waiting(LocalBackend);

fn waited<T: Send + 'static>(call: IoFuture<T>) -> IoFuture<T> {
    let result: Result<T, StorageError> = block_on(call);
    Box::pin(std::future::ready(result))
}

impl Backend for Waiting {
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn get(&self, name: &str, limit_bytes: u64) -> IoFuture<Bytes> {
        waited(self.0.get(name, limit_bytes))
    }
    fn get_range(&self, name: &str, range: Range<u64>) -> IoFuture<Bytes> {
        waited(self.0.get_range(name, range))
    }
    fn size(&self, name: &str) -> IoFuture<u64> {
        waited(self.0.size(name))
    }
    fn list(&self, prefix: &str) -> IoFuture<Vec<ObjectMeta>> {
        waited(self.0.list(prefix))
    }
    fn create(&self, name: &str, body: Bytes) -> IoFuture<Created> {
        waited(self.0.create(name, body))
    }
    fn stream(&self, name: &str) -> Box<dyn ObjectWriter> {
        Box::new(WaitingWriter(self.0.stream(name)))
    }
    fn barrier(&self) -> IoFuture<()> {
        waited(self.0.barrier())
    }
    fn adopt(&self, name: &str) {
        self.0.adopt(name);
    }
    fn delete(&self, name: &str) -> IoFuture<()> {
        waited(self.0.delete(name))
    }
    fn temporaries(&self) -> IoFuture<Vec<Temporary>> {
        waited(self.0.temporaries())
    }
    fn remove_temporary(&self, name: &str) -> IoFuture<()> {
        waited(self.0.remove_temporary(name))
    }
}

struct WaitingWriter(Box<dyn ObjectWriter>);

impl ObjectWriter for WaitingWriter {
    fn append(&mut self, parts: Vec<Bytes>) -> IoFuture<()> {
        waited(self.0.append(parts))
    }
    fn finish(self: Box<Self>) -> IoFuture<()> {
        waited(self.0.finish())
    }
}

/// What one process did after another on one disk.
pub struct Record {
    before: Disk,
    pub steps: Vec<DiskStep>,
    /// How many of the steps each process made, and how it ended.
    pub ended: Vec<(usize, Result<(), String>)>,
}

impl Record {
    /// Lets one process after another run on the scene's disk, each with its fault.
    pub fn of(scene: &Scene, processes: &[(Act, Option<DiskFault>)]) -> Record {
        // In memory, where a sync costs nothing: what it promises is the matter of `Disk`.
        let place =
            tempfile::Builder::new().prefix("mover-test-").tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let place = place.expect("a directory");
        Scene::lay_out(&scene.objects, place.path());
        let trace = Arc::new(DiskTrace::default());
        let ended = processes.iter().map(|(act, fault)| {
            let local = LocalBackend::open_traced(place.path(), false, Arc::clone(&trace)).expect("a directory");
            let store: Arc<dyn Backend> = Arc::new(Waiting(local));
            let repository = open(&store, FIRST).expect("it opens");
            trace.plan(*fault);
            let result = scene.act(*act, &repository);
            // Joins the backend's threads: nothing is under way any more.
            drop((repository, store));
            trace.plan(None);
            (trace.steps().len(), result)
        });
        let ended = ended.collect();
        Record { before: Disk::holding(&scene.objects), steps: trace.steps(), ended }
    }

    /// Shows the disk after each number of steps, of which some are not taken.
    pub fn each_disk(&self, is_taken: impl Fn(usize, &DiskStep) -> bool, mut show: impl FnMut(usize, &Disk)) {
        let mut disk = self.before.clone();
        show(0, &disk);
        for (number, step) in self.steps.iter().enumerate() {
            if is_taken(number, step) {
                disk.take(step)
            } else {
                disk.skip()
            }
            show(number + 1, &disk);
        }
    }
}
