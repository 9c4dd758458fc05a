//! Hears agents: collects when each was heard, and writes it down together, with the fact that somebody listened.
//!
//! Two servers may hear one agent; the later time counts. A server that dies loses at most [`WRITE`] of hearing.

use std::collections::HashMap;
use std::time::Duration;

use actix::{Actor, Handler, Message};

use crate::agents::hearing;
use crate::error::Result;
use crate::ids::{AgentId, UnixMillis};

use super::{Context, ticker};

/// How often what was heard is written down: well below the time after which an agent is away.
const WRITE: Duration = Duration::from_secs(5);

const _: () = assert!(WRITE.as_secs() * 4 < crate::agents::CONNECTED.as_secs());

/// An agent let itself be heard.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Heard(pub AgentId);

/// Hears agents.
pub struct Registry {
    context: Context,
    heard: HashMap<AgentId, UnixMillis>,
}

impl Registry {
    /// With nobody heard.
    pub fn new(context: Context) -> Registry {
        Registry { context, heard: HashMap::new() }
    }

    fn write(&mut self) -> impl Future<Output = Result<()>> + use<> {
        let database = self.context.database.clone();
        // In one order everywhere, so that two servers that write the same rows do not wait for each other in a ring.
        let mut heard: Vec<(AgentId, UnixMillis)> = self.heard.drain().collect();
        heard.sort_unstable();
        let now = self.context.clock.now();
        async move { hearing::listen(&database, &heard, now).await }
    }
}

impl Actor for Registry {
    type Context = actix::Context<Registry>;

    fn started(&mut self, actor: &mut Self::Context) {
        ticker::every(actor, "registry", WRITE, Registry::write);
    }
}

impl Handler<Heard> for Registry {
    type Result = ();

    fn handle(&mut self, heard: Heard, _: &mut Self::Context) {
        self.heard.insert(heard.0, self.context.clock.now());
    }
}
