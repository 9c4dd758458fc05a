//! Figures for Prometheus. What happens is counted where it happens; what stands in the database is looked up when
//! somebody asks, at most every [`FRESH`].
//!
//! Every server counts what it did itself: sums over servers are right. What comes from the database is the same on all.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use mover_control::agents;
use mover_control::error::Result;
use mover_control::ids::{AgentId, PolicyId, UnixMillis};
use mover_control::job::{JobState, store};
use mover_control::policy;
use parking_lot::Mutex;

use super::app::App;

/// How old figures of the database may be.
const FRESH: Duration = Duration::from_secs(5);
/// A gauge that was not set for so long is gone.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// Policies and agents that are looked at.
const SEEN_MAX: u32 = 10_000;

/// When the certificate of this server ends, in unix milliseconds.
static CERTIFICATE_END: AtomicI64 = AtomicI64::new(0);

/// This server shows a certificate that ends then.
pub fn certified(end: UnixMillis) {
    CERTIFICATE_END.store(end.0, Ordering::Relaxed);
}

/// Begins to collect; one collector a process.
pub fn start() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        // A policy that was removed is not told of for ever.
        let builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(FORGOTTEN));
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // A second recorder would be one of a test of this process: the first goes on.
        let _ = metrics::set_global_recorder(recorder);
        describe();
        handle
    });
    handle.clone()
}

fn describe() {
    describe_counter!("mover_http_requests_total", "Requests by status");
    describe_counter!("mover_http_connections_refused_total", "Connections beyond the bound of their address");
    describe_counter!("mover_bytes_total", "Bytes of jobs that ended, by class");
    describe_counter!("mover_jobs_finished_total", "Jobs that ended or went back to the queue, by kind and state");
    describe_counter!("mover_job_retries_total", "Attempts beyond the first of jobs that ended");
    describe_counter!("mover_job_exceptions_total", "Exceptions of jobs that ended");
    describe_counter!("mover_notifications_total", "Attempts to deliver a message, by outcome");
    describe_gauge!("mover_certificate_end_timestamp_seconds", "When a certificate of this server ends");
    describe_counter!("mover_actor_ticks_failed_total", "Ticks of control plane actors that failed, by actor");
    describe_histogram!("mover_actor_tick_seconds", "Time of ticks of control plane actors, by actor");
    describe_histogram!("mover_actor_busy_seconds", "Time in which control plane actors worked, by actor");
    describe_histogram!("mover_actor_blocked_seconds", "Time in which their work waited for the database, by actor");
    describe_gauge!("mover_jobs", "Jobs by state");
    describe_gauge!("mover_queue_depth_jobs", "Jobs that wait");
    describe_gauge!("mover_queue_wait_seconds", "How long the oldest job waits that could begin");
    describe_gauge!("mover_policy_last_success_timestamp_seconds", "When a job of the policy succeeded last; 0: never");
    describe_gauge!("mover_policy_created_timestamp_seconds", "When the policy was made");
    describe_gauge!("mover_policy_enabled", "Whether the calendar of the policy runs");
    describe_gauge!("mover_policy_scheduled", "Whether the policy has a calendar; else it runs on demand only");
    describe_gauge!("mover_agents_connected", "Agents that were heard lately, by pool");
    describe_gauge!("mover_agents_enrolled", "Agents that are not revoked, by pool");
    describe_gauge!("mover_bytes_per_second", "What the running jobs read together");
    // What has not happened yet is 0, not absent: the first failure is an increase.
    counter!("mover_http_connections_refused_total").increment(0);
    counter!("mover_job_retries_total").increment(0);
    counter!("mover_job_exceptions_total").increment(0);
    for outcome in ["accepted", "failed"] {
        counter!("mover_notifications_total", "outcome" => outcome).increment(0);
    }
    for actor in ["scheduler", "queue", "registry", "retention", "notifier", "housekeeper"] {
        counter!("mover_actor_ticks_failed_total", "actor" => actor).increment(0);
    }
}

fn word<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// All figures as Prometheus reads them.
///
/// # Errors
/// The database fails.
pub async fn render(app: &App) -> Result<String> {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let is_fresh = LAST.lock().is_some_and(|last| last.elapsed() < FRESH);
    if !is_fresh {
        look(app).await?;
        *LAST.lock() = Some(Instant::now());
    }
    Ok(app.metrics.render())
}

async fn look(app: &App) -> Result<()> {
    let now = app.clock.now();
    let counts = store::counts(&app.database).await?;
    for state in JobState::ALL {
        let count = counts.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count);
        gauge!("mover_jobs", "state" => word(&state)).set(count as f64);
    }
    let (depth, oldest) = store::queue_depth(&app.database).await?;
    gauge!("mover_queue_depth_jobs").set(depth as f64);
    let waited = oldest.map_or(0, |oldest: UnixMillis| (now.0 - oldest.0).max(0));
    gauge!("mover_queue_wait_seconds").set(waited as f64 / 1000.0);
    let speed: u64 =
        store::active(&app.database, SEEN_MAX).await?.iter().map(|job| job.progress.bytes_per_second).sum();
    gauge!("mover_bytes_per_second").set(speed as f64);
    let end = CERTIFICATE_END.load(Ordering::Relaxed) as f64 / 1000.0;
    gauge!("mover_certificate_end_timestamp_seconds", "certificate" => "server").set(end);
    look_at_agents(app, now).await?;
    look_at_policies(app).await
}

async fn look_at_agents(app: &App, now: UnixMillis) -> Result<()> {
    let mut pools: std::collections::BTreeMap<String, (u32, u32)> = std::collections::BTreeMap::new();
    for agent in agents::store::list(&app.database, None::<&AgentId>, SEEN_MAX).await? {
        let (connected, enrolled) = pools.entry(agent.pool.clone()).or_default();
        *connected += u32::from(agent.is_connected(now));
        *enrolled += u32::from(!agent.revoked);
    }
    for (pool, (connected, enrolled)) in pools {
        gauge!("mover_agents_connected", "pool" => pool.clone()).set(connected);
        gauge!("mover_agents_enrolled", "pool" => pool).set(enrolled);
    }
    Ok(())
}

async fn look_at_policies(app: &App) -> Result<()> {
    for stored in policy::store::list(&app.database, None::<&PolicyId>, SEEN_MAX).await? {
        let name = stored.policy.name;
        let last = stored.last_success.map_or(0.0, |time| time.0 as f64 / 1000.0);
        gauge!("mover_policy_last_success_timestamp_seconds", "policy" => name.clone()).set(last);
        gauge!("mover_policy_created_timestamp_seconds", "policy" => name.clone())
            .set(stored.created_at.0 as f64 / 1000.0);
        let is_scheduled = !stored.policy.when.schedules.is_empty();
        gauge!("mover_policy_scheduled", "policy" => name.clone()).set(f64::from(u8::from(is_scheduled)));
        gauge!("mover_policy_enabled", "policy" => name).set(f64::from(u8::from(stored.enabled)));
    }
    Ok(())
}
