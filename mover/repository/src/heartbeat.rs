//! Signs of life of a run, from a thread of its own: without them a long backup would look like a dead one to
//! whoever wants to delete what it may rely on. Advice alone: a sign that cannot be left is logged.

use std::fmt::Display;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use crate::blocking::block_on;
use crate::error::RepositoryError;
use crate::ids::UnixNanos;
use crate::log::{OpenRecord, Outcome, Registration};
use crate::repository::Repository;

/// How often a sign is due.
pub const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(300);

/// Leaves signs of life of one registration until it is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Begins, with the first sign after `every`.
    ///
    /// # Panics
    /// If the system starts no thread.
    pub fn start(registration: &Registration, every: Duration) -> Self {
        let mut sign = registration.sign_of_life();
        let (stop, stopped) = bounded::<()>(0);
        let beat = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = block_on(sign.leave(UnixNanos::now())) {
                    tracing::warn!(%error, "cannot leave a sign of life");
                }
            }
        };
        let thread = std::thread::Builder::new().name("mover-alive".into()).spawn(beat);
        Self { stop: Some(stop), thread: Some(thread.expect("the system starts a thread")) }
    }
}

/// Registers, does `work` while signs of life are left, and makes its outcome that of the registration; a failure too is
/// one. Blocks.
///
/// # Errors
/// Those of `work`; of registering, and of committing.
pub fn registered<T, E: From<RepositoryError> + Display>(
    repository: &Repository,
    who: &OpenRecord,
    work: impl FnOnce(&Registration) -> Result<(T, Outcome), E>,
) -> Result<T, E> {
    let registration = block_on(repository.register(who.clone()))?;
    let heartbeat = Heartbeat::start(&registration, SIGN_OF_LIFE_EVERY);
    let worked = work(&registration);
    drop(heartbeat);
    match worked {
        Ok((done, outcome)) => {
            block_on(registration.commit(outcome))?;
            Ok(done)
        }
        Err(error) => Err(block_on(registration.give_up(&error)).map_or(error, E::from)),
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
