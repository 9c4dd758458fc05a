//! The control plane on a thread of its own, and how agents ask it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mover_control::agents::{enrolment, store as agents};
use mover_control::clock::{SettledClock, SystemClock};
use mover_control::database::Database;
use mover_control::ids::{AgentId, UnixMillis};
use mover_control::job::{Job, NewJob, Outcome, admission};
use mover_control::lease::report::{self, Advice, Ending, Held};
use mover_control::lease::take::{Lease, Offer};
use mover_control::service::delivery::Deliveries;
use mover_control::service::queue::{Poll, WAIT_MAX, Wake, give_back};
use mover_control::service::registry::Heard;
use mover_control::service::{Context, Service};
use tokio::sync::{mpsc, oneshot};

use super::Place;
use super::plane::description;
use crate::{Result, during};

/// How long what actors have begun may take at the end.
const CLOSE: Duration = Duration::from_secs(2);

type Reply<T> = oneshot::Sender<mover_control::Result<T>>;

/// What can be asked.
pub enum Request {
    Enrol(AgentId, Reply<()>),
    Submit(Box<NewJob>, Reply<Job>),
    Poll(Offer, Reply<Vec<Lease>>),
    Beat(AgentId, Held, Reply<Vec<Advice>>),
    Finish(AgentId, Held, Reply<()>),
    Stop,
}

/// A control plane.
pub struct Server {
    /// For questions that are no agent's.
    pub database: Database,
    requests: mpsc::UnboundedSender<Request>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts all actors.
    pub fn start(place: Place) -> Result<Server> {
        let (requests, incoming) = mpsc::unbounded_channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                let database = place.open().await;
                let opened = database.as_ref().ok().cloned();
                let _ = tell.send(database);
                if let Some(database) = opened {
                    serve(database, incoming).await;
                }
            });
        });
        let database = during("start the control plane", told.recv())??;
        Ok(Server { database, requests, thread })
    }

    /// Asks and waits.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let _ = self.requests.send(request(reply));
        during("ask the control plane", during("ask the control plane", answer.await)?)
    }

    /// Ends it.
    pub fn stop(self) {
        let _ = self.requests.send(Request::Stop);
        let _ = self.thread.join();
    }
}

async fn serve(database: Database, mut incoming: mpsc::UnboundedReceiver<Request>) {
    let context = Context::new(database.clone(), Arc::new(SystemClock::new()));
    let service = Service::start(context, Deliveries::new(None, true).expect("TLS on this machine"));
    while let Some(request) = incoming.recv().await {
        if matches!(request, Request::Stop) {
            break;
        }
        actix::spawn(answer(service.clone(), request));
    }
    // What actors have begun ends first. Connections that the other thread used come back only while it runs.
    let _ = tokio::time::timeout(CLOSE, database.close()).await;
}

/// As the handlers of `mover serve` do it, the look at the certificate included.
async fn answer(service: Service, request: Request) {
    let (database, clock): (&Database, &SettledClock) = (&service.context.database, &service.context.clock);
    let now = clock.now();
    match request {
        Request::Enrol(agent, reply) => _ = reply.send(enrol(database, &agent, now).await),
        Request::Submit(job, reply) => {
            _ = reply.send(admission::submit(database, *job, &service.context.away, now).await);
        }
        Request::Poll(offer, mut reply) => {
            hear(&service, &offer.agent).await;
            let (poll, asker) = Poll::new(offer, WAIT_MAX);
            let mut leases = Box::pin(service.queue.send(poll));
            // Agents of a round that is over do not wait any more, and must not get jobs of the next one.
            let leases = tokio::select! {
                leases = &mut leases => leases,
                () = reply.closed() => {
                    drop(asker);
                    leases.await
                }
            };
            if let Err(Ok(lost)) = reply.send(leases.expect("the queue lives")) {
                give_back(database, lost, clock.now()).await;
            }
        }
        Request::Beat(agent, held, reply) => {
            hear(&service, &agent).await;
            _ = reply.send(report::beat(database, &agent, &[(held, None)], now).await);
        }
        Request::Finish(agent, held, reply) => {
            hear(&service, &agent).await;
            let ended = report::finish(database, &agent, &held, &Ending::Completed, Outcome::default(), now).await;
            service.queue.do_send(Wake);
            _ = reply.send(ended.map(|_| ()));
        }
        Request::Stop => {}
    }
}

async fn hear(service: &Service, agent: &AgentId) {
    let known = agents::by_fingerprint(&service.context.database, agent.as_str()).await;
    service.registry.do_send(Heard(known.expect("an enrolled agent").id));
}

async fn enrol(database: &Database, agent: &AgentId, now: UnixMillis) -> mover_control::Result<()> {
    let token = enrolment::create(database, "main", enrolment::LIFE_MAX, "bench", now).await?;
    let print = agent.as_str();
    enrolment::enrol(database, token.reveal(), agent, print, &description(), print, now).await.map(|_| ())
}
