//! `network PATH…`: what `rivals` measures, with the repository behind a link of a set rate, delay and loss.
//!
//! The tools run in one network namespace, an ssh server with the repositories in another; `wire` carries packets
//! between them. A tool that speaks ssh itself (borg, bupstash, restic by sftp) does so; the others see the repository
//! as a directory mounted by sshfs, which costs them round trips that a transport of their own would spare: their notes
//! in the report say so. Server, mount and link run outside the tools' limits, on the same cores, so rates near what
//! the machine can carry say little: the link's own rate is measured first and stands in the report. Needs root.

mod far;
mod wire;

use std::time::Duration;

use clap::Args;

use crate::rivals::record::{Link, Report};
use crate::rivals::{self, tools};
use crate::{Result, during, reference};
use far::Far;
use wire::{Shape, Wire};

/// What to measure, over which link.
#[derive(Args)]
#[group(id = "network")]
pub struct Options {
    /// What and how, as for `rivals`
    #[command(flatten)]
    pub rivals: rivals::Options,
    /// Rate each way, in Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 100)]
    pub rate: u64,
    /// Delay one way, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10.0)]
    pub delay: f64,
    /// Packets that are lost, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    pub loss: f64,
    /// Every tool through the mount, those too that speak ssh themselves
    #[arg(long)]
    pub mount_only: bool,
}

/// Builds the link, measures it and the tools, and takes it down.
pub fn run(options: &Options) -> Result<bool> {
    let missing: Vec<&str> = far::NEEDED.into_iter().filter(|tool| !reference::present(tool)).collect();
    if !missing.is_empty() {
        return Err(format!("the network needs {} on the PATH", missing.join(", ")));
    }
    if options.rate == 0 || !(0.0..100.0).contains(&options.loss) || !(0.0..10_000.0).contains(&options.delay) {
        return Err("a link needs a rate above 0, a loss below 100 % and a delay below 10 s".to_owned());
    }
    let scratch = rivals::scratch(&options.rivals)?;
    let directory = scratch.path().join("far");
    during("create a directory", std::fs::create_dir(&directory))?;
    let wire = Wire::create(Shape {
        bits_per_second: options.rate * 1_000_000,
        delay: Duration::from_secs_f64(options.delay / 1000.0),
        loss: options.loss / 100.0,
        seed: options.rivals.seed,
    })?;
    let (bytes_per_second, round_trip_ms) = far::probe(&wire)?;
    let link = Link {
        rate_bits_per_second: options.rate * 1_000_000,
        delay_ms: options.delay,
        loss: options.loss / 100.0,
        measured_bytes_per_second: bytes_per_second,
        measured_round_trip_ms: round_trip_ms,
    };
    eprintln!("link: {:.2} MB/s and {round_trip_ms:.1} ms there and back measured", bytes_per_second / 1e6);
    let far = Far::create(&wire, scratch.path(), &directory)?;
    let path = format!("{}:{}", far.programs.display(), std::env::var("PATH").unwrap_or_default());
    let good = rivals::measure_with(&options.rivals, scratch.path(), |session, report| {
        session.repositories = directory.clone();
        session.mount = Some(far.mount.clone());
        session.namespace = Some(wire.near());
        session.helpers = far.helpers();
        session.environment.push(("PATH".to_owned(), path));
        session.host = Some("far".to_owned()).filter(|_| !options.mount_only);
        report.link = Some(link);
        note_transports(report, options.mount_only);
    });
    // The mount goes before the link that it needs.
    drop(far);
    drop(wire);
    good
}

fn note_transports(report: &mut Report, mount_only: bool) {
    for record in &mut report.tools {
        let speaks = tools::Tool::named(&record.name).and_then(|tool| tool.remote).filter(|_| !mount_only);
        let transport = match speaks {
            Some(remote) => format!("reached by its own transport, {remote}"),
            None => "reached through sshfs".to_owned(),
        };
        record.note = format!("{transport}; {}", record.note);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn network_command_line_fits_together() {
        // Options of two commands are shared here: the parser checks their names when it is built, not before.
        crate::Cli::command().debug_assert();
    }
}
