//! The simulator under test: one seed one trace, other seeds other orders, deadlocks and crashes are found.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::runtime::mutant::{Mutant, MutantSwitch};
use crate::runtime::{ActorStats, Budget, Injector, KillSwitch, Weigh, mailbox, spawn_supervised};

struct Item(u64);
impl Weigh for Item {
    fn weight_bytes(&self) -> usize {
        16
    }
}

/// Shards take from one injector and send to one collector; returns the order in which items arrived.
async fn shuffle(rt: SimRuntime, items: u64) -> Result<Vec<u64>, Failure> {
    let injector: Injector<u64> = Injector::new("work", 4);
    let (address, mut inbox) = mailbox::<Item>("collector", 2, 64);
    let kill = KillSwitch::new();
    for shard in 0..rt.shards() {
        let (injector, address, kill) = (injector.clone(), address.clone(), kill.clone());
        rt.remote().spawn_on(shard, "worker", move |rt| {
            crate::runtime::supervise(kill, "worker", async move {
                while let Some(item) = injector.take(rt.shard()).await {
                    rt.sleep(Duration::from_micros(item % 7)).await;
                    address.send(Item(item)).await?;
                }
                Ok(())
            })
        });
    }
    drop(address);
    let feeder = {
        let injector = injector.clone();
        let stats = ActorStats::new("feeder", 0);
        spawn_supervised(&rt, "feeder", &kill, &stats, async move {
            for item in 0..items {
                injector.push(item).await?;
            }
            injector.close();
            Ok(())
        })
    };
    let mut order = Vec::new();
    while let Some(Item(item)) = inbox.receive().await {
        order.push(item);
    }
    feeder.await;
    kill.check()?;
    Ok(order)
}

#[test]
fn one_seed_gives_one_trace() {
    for seed in 0..20 {
        let first = Simulation::new(seed, 8).run(|rt| shuffle(rt, 100));
        let again = Simulation::new(seed, 8).run(|rt| shuffle(rt, 100));
        assert_eq!(first.trace_hash, again.trace_hash, "seed {seed}");
        assert_eq!((first.steps, first.simulated), (again.steps, again.simulated), "seed {seed}");
        assert_eq!(first.left_over, Vec::<String>::new());
        assert_eq!(first.unwrap(), again.unwrap());
    }
}

#[test]
fn other_seeds_give_other_orders_and_never_lose_an_item() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let order = Simulation::new(seed, 5).run(|rt| shuffle(rt, 40)).unwrap();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..40).collect::<Vec<_>>(), "seed {seed}");
        orders.insert(order);
    }
    assert!(orders.len() > 190, "only {} different orders", orders.len());
}

#[test]
fn a_deadlock_is_found_and_names_who_waits() {
    let outcome = Simulation::new(1, 2).run(|rt| async move {
        let budget = Budget::new(10);
        let mine = budget.acquire(10).await;
        let other = budget.clone();
        let waiter = rt.spawn("waiter", async move {
            let _never = other.acquire(1).await;
        });
        waiter.await;
        drop(mine);
        Ok(())
    });
    let Err(Ended::Deadlock { live, tail }) = outcome.result else { panic!("no deadlock found") };
    assert_eq!(live, vec!["job on shard 0", "waiter on shard 0"]);
    assert!(tail.contains("waiter"), "{tail}");
}

#[test]
fn a_dropped_timer_is_not_waited_for() {
    let outcome = Simulation::new(1, 1).run(|rt| async move {
        let long = rt.sleep(Duration::from_secs(86_400));
        let short = rt.sleep(Duration::from_millis(1));
        futures_lite::future::or(short, long).await;
        Ok(rt.now())
    });
    assert!(outcome.unwrap() < Duration::from_millis(10));
}

#[test]
fn work_that_never_ends_is_called_endless() {
    let outcome = Simulation::new(1, 1).run(|rt| async move {
        loop {
            rt.sleep(Duration::from_secs(60)).await;
            if rt.now() == Duration::MAX {
                return Ok(());
            }
        }
    });
    assert!(matches!(outcome.result, Err(Ended::Endless { .. })));
}

#[test]
fn a_panic_is_a_failure_and_names_its_task() {
    let failure = Simulation::new(7, 2)
        .run(|rt| async move {
            rt.remote().spawn_on(1, "stumbler", |rt| async move {
                rt.sleep(Duration::from_secs(1)).await;
                panic!("over a stone");
            });
            futures_lite::future::pending::<Result<(), Failure>>().await
        })
        .unwrap_failure();
    assert_eq!((failure.operation.as_str(), failure.cause.as_str()), ("stumbler", "panicked: over a stone"));
}

#[test]
fn a_crash_comes_between_any_two_steps_and_drops_every_task() {
    let whole = Simulation::new(3, 4).run(|rt| shuffle(rt, 10));
    let steps = whole.steps;
    whole.unwrap();
    for at in 0..steps {
        let simulation = Simulation::new(3, 4).crash_after(at);
        let handle = simulation.handle();
        let dropped_after_crash = Arc::new(AtomicU64::new(0));
        let counter = dropped_after_crash.clone();
        struct Witness(SimHandle, Arc<AtomicU64>);
        impl Drop for Witness {
            fn drop(&mut self) {
                self.1.fetch_add(u64::from(self.0.has_crashed()), Ordering::Relaxed);
            }
        }
        let witness = Witness(handle, counter);
        let outcome = simulation.run(move |rt| async move {
            let _witness = witness;
            shuffle(rt, 10).await
        });
        assert!(matches!(outcome.result, Err(Ended::Crashed)), "at {at}");
        assert_eq!(outcome.steps, at);
        assert_eq!(dropped_after_crash.load(Ordering::Relaxed), 1, "devices freeze before tasks are dropped");
    }
}

#[test]
fn a_device_answers_on_the_scheduler() {
    let simulation = Simulation::new(9, 1);
    let handle = simulation.handle();
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let answer = simulation.run(|rt| async move {
        let device = assert_send(handle.delayed(Duration::from_millis(5), Duration::from_millis(9), 42));
        let began = rt.now();
        let value = device.await;
        let took = rt.now() - began;
        assert!(took >= Duration::from_millis(5) && took < Duration::from_millis(20), "{took:?}");
        handle.event("answered");
        Ok(value)
    });
    assert_eq!(answer.unwrap(), 42);
}

/// Fills the injector, waits until all of it was handled, and only then closes it: as a fileset is sealed.
async fn sealed_filesets(rt: SimRuntime) -> Result<(), Failure> {
    let injector: Injector<u64> = Injector::new("work", 64);
    let (address, mut inbox) = mailbox::<Item>("sealer", 64, 4096);
    for shard in 0..rt.shards() {
        let (injector, address) = (injector.clone(), address.clone());
        rt.remote().spawn_on(shard, "worker", move |rt| async move {
            while let Some(item) = injector.take(rt.shard()).await {
                if address.send(Item(item)).await.is_err() {
                    return;
                }
            }
        });
    }
    for fileset in 0..20 {
        for item in 0..3 {
            injector.push(fileset * 3 + item).await?;
            rt.sleep(Duration::from_micros(3)).await;
        }
        for _ in 0..3 {
            inbox.receive().await;
        }
    }
    injector.close();
    Ok(())
}

#[test]
fn mutant_lost_wake_up_is_found_as_a_deadlock() {
    for seed in 0..100 {
        Simulation::new(seed, 3).run(sealed_filesets).unwrap();
    }
    let _switch = MutantSwitch::set(Some(Mutant::LostWakeUp));
    let found = (0..100)
        .filter(|seed| matches!(Simulation::new(*seed, 3).run(sealed_filesets).result, Err(Ended::Deadlock { .. })));
    assert!(found.count() > 0, "no seed found the lost wake-up");
}

#[test]
fn mutant_permit_leak_is_found_as_a_deadlock() {
    let _switch = MutantSwitch::set(Some(Mutant::PermitLeak));
    let outcome = Simulation::new(5, 3).run(|rt| shuffle(rt, 100));
    assert!(matches!(outcome.result, Err(Ended::Deadlock { .. })));
}

#[test]
fn sixty_four_shards_share_a_budget_that_fits_one_request() {
    for seed in 0..10 {
        let simulation = Simulation::new(seed, 64);
        let outcome = simulation.run(|rt| async move {
            let budget = Budget::new(100);
            let (address, mut inbox) = mailbox::<Item>("done", 4, 64);
            for shard in 0..rt.shards() {
                let (budget, address) = (budget.clone(), address.clone());
                rt.remote().spawn_on(shard, "user", move |rt| async move {
                    for turn in 0..20_usize {
                        let permit = budget.acquire(1 + (turn * 37 + shard * 11) % 100).await;
                        rt.sleep(Duration::from_micros(turn as u64)).await;
                        drop(permit);
                    }
                    let _ = address.send(Item(shard as u64)).await;
                });
            }
            drop(address);
            let mut done = 0;
            while inbox.receive().await.is_some() {
                done += 1;
            }
            assert!(budget.peak_bytes() <= 100);
            assert_eq!(budget.in_use(), 0);
            Ok(done)
        });
        assert_eq!(outcome.unwrap(), 64);
    }
}
