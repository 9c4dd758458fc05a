//! The database is away for longer than any transaction is asked again, with all actors of a server at work.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::SystemClock;
use crate::database::Database;
use crate::ids::UnixMillis;
use crate::job::{JobState, Outcome, store};
use crate::lease::report::{Advice, Ending, Held, beat, finish};
use crate::lease::take::Offer;
use crate::placement::away::AwayTable;
use crate::testing::{self, OwnPostgres, agent, backup, run, skipped, submit};

use super::delivery::Deliveries;
use super::{Context, Service};

#[test]
fn server_whose_postgres_is_away_keeps_its_agents_waiting_and_goes_on_afterwards() {
    let Some(postgres) = OwnPostgres::start() else {
        skipped("server_whose_postgres_is_away_keeps_its_agents_waiting_and_goes_on_afterwards", "needs postgresql");
        return;
    };
    run(async {
        let database = Database::open_postgres(&postgres.url()).await.expect("open");
        let context = Context::new(database.clone(), Arc::new(SystemClock::new()));
        let now = || -> UnixMillis { context.clock.now() };
        let service = Service::start(context.clone(), Deliveries::new(None, true).expect("TLS"));
        let poll = |name: &str| {
            let offer = Offer { agent: name.into(), free: 1, resident: Vec::new() };
            testing::poll(&service.queue, offer, Duration::from_secs(60))
        };
        let (a, b) = (agent(&database, "a", &[], now()).await, agent(&database, "b", &[], now()).await);
        submit(&database, backup("before", now()), now()).await;
        let lease = poll("a").await.expect("an answer").remove(0);
        let held = Held { job: lease.job.id, fence: lease.fence };
        let waiting = poll("b");

        postgres.go();
        // Longer than the attempts of a transaction: who asks is told to come again, nothing hangs or ends.
        let refused = beat(&database, &a, &[(held.clone(), None)], now()).await.expect_err("away");
        assert!(refused.is_transient(), "{refused}");
        let new = backup("during", now());
        let refused = crate::job::admission::submit(&database, new.clone(), &AwayTable::default(), now()).await;
        assert!(refused.expect_err("away").is_transient());
        assert!(service.scheduler.connected() && service.queue.connected() && service.notifier.connected());
        postgres.come();

        let advice = beat(&database, &a, &[(held.clone(), None)], now()).await.expect("there again");
        assert_eq!(advice, [Advice::Continue], "its lease is its own");
        submit(&database, new, now()).await;
        let leases = waiting.await.expect("the poll that waited all the time");
        assert_eq!(leases.iter().map(|lease| lease.job.set.as_str()).collect::<Vec<_>>(), ["during"]);
        for (agent, held) in [(&a, held), (&b, Held { job: leases[0].job.id.clone(), fence: leases[0].fence })] {
            finish(&database, agent, &held, &Ending::Completed, Outcome::default(), now()).await.expect("finish");
        }
        assert_eq!(store::counts(&database).await.expect("counts"), [(JobState::Completed, 2)]);
    });
}
