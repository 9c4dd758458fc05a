//! `--stats`: what each stage of a job did with its time, and what limited the job.

use std::str::FromStr;

use clap::Args;
use mover_actors::bottleneck::{Bottleneck, Stage};
use mover_actors::progress::Slowed;
use mover_actors::runtime::stats::ActorSnapshot;
use serde_json::{Value, json};

use super::error::{CliError, Result};
use super::output::Output;
use super::table::Table;

/// The options of `--stats`.
#[derive(Args, Debug, Default)]
pub struct StatsArgs {
    /// Print at the end what each stage did with its time, and what limited the job
    #[arg(long)]
    pub stats: bool,
    /// Make the actor ACTOR need FACTOR times its CPU time, to see what the figures are worth
    #[arg(long, value_name = "ACTOR=FACTOR", hide = true)]
    pub slow_stage: Option<SlowStage>,
}

impl StatsArgs {
    /// The actor that is slowed down on purpose.
    pub fn slowed(&self) -> Option<Slowed> {
        self.slow_stage.as_ref().map(|slow| slow.0.clone())
    }
}

/// `chunker=2.5`
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStage(Slowed);

impl FromStr for SlowStage {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<SlowStage, String> {
        let parts = text.split_once('=').and_then(|(actor, factor)| Some((actor, factor.parse::<f64>().ok()?)));
        match parts {
            Some((actor, factor)) if (1.0..=1000.0).contains(&factor) => {
                Ok(SlowStage(Slowed { actor: actor.to_owned(), factor }))
            }
            _ => Err("give an actor and a factor from 1 to 1000, for example chunker=2".to_owned()),
        }
    }
}

/// What `--json` tells of it in every summary.
pub fn to_json(bottleneck: &Bottleneck) -> Value {
    let stage = |stage: &Stage| {
        let doubled = bottleneck.seconds_if_slowed(&stage.name, 2.0);
        let [busy, starved, blocked, waiting] = stage.shares;
        json!({
            "stage": stage.name, "cpu_seconds": stage.cpu_seconds,
            "busy": busy, "starved": starved, "blocked": blocked, "waiting": waiting, "seconds_if_doubled": doubled,
        })
    };
    json!({
        "limit": bottleneck.limit.to_string(),
        "limit_share": bottleneck.limit_share,
        "seconds_with_one_more_core": bottleneck.seconds_on(bottleneck.cores + 1),
        "one_more_core": bottleneck.gain_of_one_more_core(),
        "cores": bottleneck.cores,
        "cores_busy": bottleneck.utilization(),
        "cpu_seconds": bottleneck.cpu_seconds,
        "wall_seconds": bottleneck.wall_seconds,
        "stages": bottleneck.stages.iter().map(stage).collect::<Vec<_>>(),
    })
}

/// Prints the stages and the sentence; with `--json` also every actor of every shard.
///
/// # Errors
/// If nothing can be printed, or an actor that does not exist was to be slowed down.
pub fn print(output: &Output, args: &StatsArgs, actors: &[ActorSnapshot], bottleneck: &Bottleneck) -> Result<()> {
    if let Some(slowed) = args.slowed()
        && !actors.iter().any(|actor| actor.name == slowed.actor)
    {
        let names: std::collections::BTreeSet<&str> = actors.iter().map(|actor| actor.name).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let help = format!("this job has {}", names.join(", "));
        return Err(CliError::usage(format!("no actor is called {}", slowed.actor), help));
    }
    if !args.stats {
        return Ok(());
    }
    for actor in actors {
        let fields = json!({
            "actor": actor.name,
            "shard": actor.shard,
            "busy_seconds": actor.busy.as_secs_f64(),
            "starved_seconds": actor.starved.as_secs_f64(),
            "blocked_seconds": actor.blocked.as_secs_f64(),
            "waiting_seconds": actor.waiting.as_secs_f64(),
            "messages": actor.messages,
        });
        output.object("actor", fields)?;
    }
    let mut table = Table::new(&["stage", ">CPU s", ">of all CPU", ">busy", ">starved", ">blocked", ">waiting"]);
    for stage in &bottleneck.stages {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let of_all = percent(stage.cpu_seconds / bottleneck.cpu_seconds.max(f64::MIN_POSITIVE));
        let mut row = vec![stage.name.clone(), format!("{:.2}", stage.cpu_seconds), of_all];
        let has_own_time = stage.shares.iter().any(|share| *share > 0.0);
        row.extend(stage.shares.iter().map(|share| if has_own_time { percent(*share) } else { "-".to_owned() }));
        table.row(row);
    }
    for line in table.lines() {
        output.say(&line)?;
    }
    let (cores, busy) = (bottleneck.cores, bottleneck.utilization() * 100.0);
    output.say(&format!("{cores} cores, busy {busy:.0} % of {:.2} s", bottleneck.wall_seconds))?;
    output.say(&bottleneck.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_to_slow_is_an_actor_and_a_factor() {
        let slowed = |text: &str| text.parse::<SlowStage>().ok().map(|slow| (slow.0.actor, slow.0.factor));
        assert_eq!(slowed("chunker=2.5"), Some(("chunker".to_owned(), 2.5)));
        for wrong in ["chunker", "chunker=", "chunker=fast", "chunker=0.5", "chunker=1e9", "chunker=NaN"] {
            assert_eq!(slowed(wrong), None, "{wrong}");
        }
    }
}
