//! What limits a job, and what one more core would change.
//!
//! The model: a job of wall time W on N cores uses C seconds of CPU. Cores were busy for u = C ÷ (N·W) of the time; that
//! part shrinks with every core that is added and grows with everything that is slowed down, the rest (waiting for
//! devices, opening, committing) stays. It knows nothing of caches and of memory that is shared, nor of waits that
//! busy cores hide: what another core gains is an upper bound. `mover-bench whatif` compares what it foretells with what
//! then happens.
//!
//! An actor's own clock runs on while its thread waits for a core: together, actors are not charged with more than
//! their shards really had. Must never be used to decide anything.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::runtime::stats::ActorSnapshot;
use crate::runtime::usage::Usage;

/// From this share of busy cores on the cores are the limit.
const CORES_ARE_BUSY: f64 = 0.8;
/// Groups of threads and what they do; `shard` is seen through its actors.
const THREAD_GROUPS: [(&str, &str); 7] = [
    ("source", "source reads"),
    ("stream", "source reads"),
    ("target", "target writes"),
    ("target-sync", "target syncs"),
    ("mover-read", "repository reads"),
    ("mover-write", "repository writes"),
    ("mover-sync", "repository syncs"),
];
const SHARD_GROUP: &str = "shard";

/// The beginning of a job.
#[derive(Debug)]
pub struct Stopwatch {
    began: Duration,
    usage: Usage,
}

impl Stopwatch {
    /// Begins at the job's time `now`.
    pub fn start(now: Duration) -> Stopwatch {
        Stopwatch { began: now, usage: Usage::now() }
    }

    /// What limited the job that ends `now`, on `cores` cores.
    pub fn stop(&self, now: Duration, cores: usize, actors: &[ActorSnapshot]) -> Bottleneck {
        let wall = now.saturating_sub(self.began);
        Bottleneck::of(wall, cores, actors, &Usage::now().since(&self.usage))
    }
}

/// What one stage did with its time: an actor on all shards, or the threads that work for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Name of the actor, or what the threads do.
    pub name: String,
    /// CPU seconds.
    pub cpu_seconds: f64,
    /// Shares of the stage's own time: on the CPU, without input, without room downstream or memory, waiting for a
    /// device. They add up to 1, or to 0 for threads.
    pub shares: [f64; 4],
}

impl Stage {
    fn of_threads(name: &str, on_core: Duration) -> Stage {
        Stage { name: name.to_owned(), cpu_seconds: on_core.as_secs_f64(), shares: [0.0; 4] }
    }

    fn of_actors(name: &str, actors: &[&ActorSnapshot], scale: f64) -> Stage {
        let sum = |of: fn(&ActorSnapshot) -> Duration| actors.iter().map(|actor| of(actor).as_secs_f64()).sum::<f64>();
        let times = [sum(|a| a.busy), sum(|a| a.starved), sum(|a| a.blocked), sum(|a| a.waiting)];
        let all = times.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        Stage { name: name.to_owned(), cpu_seconds: times[0] * scale, shares: times.map(|time| time / all) }
    }

    /// Share of its time that it waited for a device.
    fn waiting(&self) -> f64 {
        self.shares[3]
    }
}

/// Who is to blame.
#[derive(Clone, Debug, PartialEq)]
pub enum Limit {
    /// The cores are busy, most of all with this stage.
    Stage(String),
    /// This is waited for: the source, the repository, the target.
    Device(&'static str),
    /// Opening the repository, making durable, committing: nothing moves meanwhile.
    BeginningAndEnd,
    /// Nothing stands out: stages wait for each other.
    Hops,
}

/// What limited one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    /// Seconds from the first to the last step of the job.
    pub wall_seconds: f64,
    /// Cores that it could use.
    pub cores: usize,
    /// CPU seconds of the whole process.
    pub cpu_seconds: f64,
    /// Every stage, the one with most CPU time first.
    pub stages: Vec<Stage>,
    /// What limited it.
    pub limit: Limit,
    /// How much of the limit it is, 0 to 1: share of the busy time of the cores, or of the wall time.
    pub limit_share: f64,
}

impl Bottleneck {
    fn of(wall: Duration, cores: usize, actors: &[ActorSnapshot], used: &Usage) -> Bottleneck {
        let on_core = used.group(SHARD_GROUP).as_secs_f64();
        let busy: f64 = actors.iter().map(|actor| actor.busy.as_secs_f64()).sum();
        let scale = if on_core > 0.0 && busy > on_core { on_core / busy } else { 1.0 };
        let mut by_name: BTreeMap<&str, Vec<&ActorSnapshot>> = BTreeMap::new();
        actors.iter().for_each(|actor| by_name.entry(actor.name).or_default().push(actor));
        let mut stages: Vec<Stage> =
            by_name.iter().map(|(name, actors)| Stage::of_actors(name, actors, scale)).collect();
        let in_actors: f64 = stages.iter().map(|stage| stage.cpu_seconds).sum();
        for (group, name) in THREAD_GROUPS {
            let on_core = used.group(group);
            if on_core > Duration::ZERO {
                stages.push(Stage::of_threads(name, on_core));
            }
        }
        let cpu_seconds = used.process.as_secs_f64().max(in_actors);
        let rest = cpu_seconds - stages.iter().map(|stage| stage.cpu_seconds).sum::<f64>();
        if rest > 0.0 {
            stages.push(Stage { name: "scheduling and others".into(), cpu_seconds: rest, shares: [0.0; 4] });
        }
        stages.sort_by(|a, b| b.cpu_seconds.total_cmp(&a.cpu_seconds));
        let moving = actors.iter().map(lifetime).max().unwrap_or_default().as_secs_f64();
        let wall_seconds = wall.as_secs_f64().max(f64::MIN_POSITIVE);
        let mut this = Bottleneck { wall_seconds, cores, cpu_seconds, stages, limit: Limit::Hops, limit_share: 0.0 };
        (this.limit, this.limit_share) = this.find(moving);
        this
    }

    /// Busy cores first; else the device that is waited for longest; else what stands still.
    fn find(&self, moving_seconds: f64) -> (Limit, f64) {
        if self.utilization() >= CORES_ARE_BUSY
            && let Some(stage) = self.stages.first()
        {
            return (Limit::Stage(stage.name.clone()), stage.cpu_seconds / self.cpu_seconds.max(f64::MIN_POSITIVE));
        }
        let moving = (moving_seconds / self.wall_seconds).min(1.0);
        let devices = self.stages.iter().filter_map(|stage| Some((device_of(&stage.name)?, stage.waiting() * moving)));
        let longest = devices.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(("", 0.0));
        let (standing, hops) = (1.0 - moving, moving * (1.0 - self.utilization().min(1.0)));
        if standing >= longest.1 && standing >= hops {
            (Limit::BeginningAndEnd, standing)
        } else if longest.1 >= hops / 2.0 {
            (Limit::Device(longest.0), longest.1)
        } else {
            (Limit::Hops, hops)
        }
    }

    /// Share of the cores' time that was used, 0 to 1.
    pub fn utilization(&self) -> f64 {
        (self.cpu_seconds / (self.cores as f64 * self.wall_seconds)).min(1.0)
    }

    /// The wall seconds that it should take if stage `name` needed `factor` times its CPU time.
    pub fn seconds_if_slowed(&self, name: &str, factor: f64) -> f64 {
        let own: f64 = self.stages.iter().filter(|stage| stage.name == name).map(|stage| stage.cpu_seconds).sum();
        self.wall_seconds + own * (factor - 1.0) / self.cores as f64
    }

    /// The wall seconds that it should take on `cores` cores.
    pub fn seconds_on(&self, cores: usize) -> f64 {
        let busy = self.wall_seconds * self.utilization();
        self.wall_seconds - busy + busy * self.cores as f64 / cores.max(1) as f64
    }

    /// How much faster it should be with one more core: 0.38 is 38 %.
    pub fn gain_of_one_more_core(&self) -> f64 {
        self.wall_seconds / self.seconds_on(self.cores + 1) - 1.0
    }

    /// Hands the figures to the process's recorder of metrics, if there is one.
    pub fn publish(&self) {
        metrics::gauge!("mover_cores_busy_ratio").set(self.utilization());
        metrics::gauge!("mover_one_more_core_gain_ratio").set(self.gain_of_one_more_core());
        for stage in &self.stages {
            metrics::gauge!("mover_stage_cpu_seconds", "stage" => stage.name.clone()).set(stage.cpu_seconds);
        }
        metrics::gauge!("mover_limit_ratio", "limit" => self.limit.to_string()).set(self.limit_share);
    }
}

/// What an actor that waits for a device waits for.
fn device_of(actor: &str) -> Option<&'static str> {
    match actor {
        "scanner" | "chunker" => Some("the source"),
        "compressor" | "uploader" | "recorder" | "downloader" | "planner" => Some("the repository"),
        "writer" => Some("the target"),
        _ => None,
    }
}

fn lifetime(actor: &ActorSnapshot) -> Duration {
    actor.busy + actor.starved + actor.blocked + actor.waiting
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Stage(name) => formatter.write_str(name),
            Limit::Device(name) => formatter.write_str(name),
            Limit::BeginningAndEnd => formatter.write_str("beginning and end"),
            Limit::Hops => formatter.write_str("stages that wait for each other"),
        }
    }
}

impl fmt::Display for Bottleneck {
    /// `limit: compressor 71 %; one more core: +38 %`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| (share * 100.0).round();
        let (limit, share, gain) = (&self.limit, percent(self.limit_share), percent(self.gain_of_one_more_core()));
        write!(formatter, "limit: {limit} {share} %; one more core: +{gain} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::stats::Activity;

    fn actor(name: &'static str, shard: usize, times_ms: [u64; 4]) -> ActorSnapshot {
        let [busy, starved, blocked, waiting] = times_ms.map(Duration::from_millis);
        let activity = Activity::Ended;
        ActorSnapshot { name, shard, busy, starved, blocked, waiting, messages: 0, heartbeat: 0, activity }
    }

    fn times(on_core_ms: u64) -> Duration {
        Duration::from_millis(on_core_ms)
    }

    fn usage(process_ms: u64, groups: &[(&str, Duration)]) -> Usage {
        let groups = groups.iter().map(|(name, times)| ((*name).to_owned(), *times)).collect();
        Usage { process: Duration::from_millis(process_ms), groups }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn busy_cores_are_told_by_their_largest_stage() {
        let actors = [
            actor("compressor", 0, [7_100, 500, 0, 2_400]),
            actor("compressor", 1, [7_100, 500, 0, 2_400]),
            actor("chunker", 0, [2_000, 0, 8_000, 0]),
        ];
        let used = |on_core| usage(20_000, &[("shard", times(on_core)), ("source", times(1_500))]);
        let found = Bottleneck::of(seconds(10), 2, &actors, &used(18_000));
        assert_eq!(found.limit, Limit::Stage("compressor".into()));
        assert_eq!(found.to_string(), "limit: compressor 71 %; one more core: +50 %");
        assert!((found.stages.iter().map(|stage| stage.cpu_seconds).sum::<f64>() - 20.0).abs() < 1e-9);
        assert!((found.seconds_if_slowed("compressor", 2.0) - 17.1).abs() < 1e-9);
        assert!((found.seconds_on(1) - 20.0).abs() < 1e-9);
        // The shards had a core for half of the time in which their actors believed to work.
        let found = Bottleneck::of(seconds(10), 2, &actors, &used(8_100));
        assert!((found.seconds_if_slowed("compressor", 2.0) - 13.55).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn a_device_that_is_waited_for_is_told_and_a_core_more_helps_little() {
        let actors = [actor("chunker", 0, [500, 0, 500, 9_000]), actor("uploader", 0, [100, 9_000, 0, 900])];
        let found = Bottleneck::of(seconds(10), 2, &actors, &usage(2_000, &[("shard", times(600))]));
        assert_eq!(found.limit, Limit::Device("the source"));
        assert_eq!(found.to_string(), "limit: the source 90 %; one more core: +3 %");
    }

    #[test]
    fn what_stands_still_before_and_after_the_moving_is_told() {
        let actors = [actor("chunker", 0, [500, 0, 0, 500])];
        let found = Bottleneck::of(seconds(4), 2, &actors, &usage(700, &[("shard", times(500))]));
        assert_eq!((found.limit, found.limit_share), (Limit::BeginningAndEnd, 0.75));
    }

    #[test]
    fn a_job_without_actors_has_a_report_too() {
        let found = Bottleneck::of(Duration::ZERO, 1, &[], &Usage::default());
        assert!(found.to_string().starts_with("limit: "), "{found}");
    }
}
