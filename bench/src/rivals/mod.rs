//! `rivals PATH…`: mover beside other backup tools on the same data, in the same session, under the same limits.
//!
//! It installs nothing: it uses what is on the PATH, names what is not, and leaves everything outside its scratch
//! directory as it was. Runs of different tools are interleaved and paired by round. Its result is one JSON document;
//! `results` makes tables and plots of it.

mod cage;
mod compare;
mod machine;
mod measure;
pub mod processes;
pub mod record;
mod session;
pub mod statistics;
mod summaries;
pub mod tools;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::{Result, during, results};
use cage::Cage;
use record::{Phase, Report, ToolRecord};
use session::{Contender, Session};
use tools::{TOOLS, Tool};

/// What to measure, and how.
#[derive(Args, Clone)]
pub struct Options {
    /// Trees or files, each a data set of its own
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Rounds; each runs every tool once in every phase
    #[arg(long, default_value_t = 3)]
    pub runs: u32,
    /// Which tools (may be repeated); default: all that are on the PATH
    #[arg(long = "tool", value_name = "NAME")]
    pub tools: Vec<String>,
    /// Edits with a backup each after the first one, so that recovery points are fragmented
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub generations: u32,
    /// Cores that every tool may use
    #[arg(long, default_value_t = 2)]
    pub cores: usize,
    /// Memory that every tool may use in MiB, page cache included; 0 for no limit
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub memory_limit: u64,
    /// Passed on to mover
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// zstd level of mover, instead of the one that it adapts
    #[arg(long)]
    pub level: Option<i32>,
    /// The mover to measure; default: the one beside this program, or on the PATH
    #[arg(long, value_name = "FILE")]
    pub mover: Option<PathBuf>,
    /// Where copies, repositories and targets go, to be removed; default: beside the first PATH
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Another seed makes other edits
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Seconds after which a command is ended and counted as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub timeout: u64,
    /// Write the JSON document here
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Print the JSON document instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints; `false` where a tool failed.
pub fn run(options: &Options) -> Result<bool> {
    let scratch = scratch(options)?;
    measure_with(options, scratch.path(), |_, _| {})
}

/// The same in `scratch`, after `adapt` has changed how the tools are run.
pub fn measure_with(
    options: &Options,
    scratch: &Path,
    adapt: impl FnOnce(&mut Session<'_>, &mut Report),
) -> Result<bool> {
    let cage = cage(options)?;
    let (contenders, absent) = contenders(options)?;
    let mut report = begin(options, scratch, &cage, &contenders, absent);
    let mut session = session(options, &cage, scratch, &contenders);
    adapt(&mut session, &mut report);
    rounds(options, &session, &mut report)?;
    finish(options, &report)
}

/// A directory that is removed at the end; from here on an interrupt ends the session in good order.
pub fn scratch(options: &Options) -> Result<tempfile::TempDir> {
    measure::end_cleanly_when_interrupted();
    let first = during(format!("find {}", options.paths[0].display()), options.paths[0].canonicalize())?;
    let place = options.scratch.clone().unwrap_or_else(|| first.parent().unwrap_or(Path::new("/")).to_owned());
    let place = during(format!("find {}", place.display()), place.canonicalize())?;
    let prefix = "mover-rivals-";
    during(
        format!("create a directory in {}", place.display()),
        tempfile::Builder::new().prefix(prefix).tempdir_in(&place),
    )
}

fn cage(options: &Options) -> Result<Cage> {
    Cage::create(options.cores, Some(options.memory_limit << 20).filter(|bytes| *bytes > 0))
}

/// The tools that take part, and the names of those that are not on the PATH.
fn contenders(options: &Options) -> Result<(Vec<Contender>, Vec<String>)> {
    if let Some(unknown) = options.tools.iter().find(|name| Tool::named(name).is_none()) {
        let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
        return Err(format!("there is no tool '{unknown}': the tools are {}", names.join(", ")));
    }
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    for tool in &TOOLS {
        if !options.tools.is_empty() && !options.tools.iter().any(|name| name == tool.name) {
            continue;
        }
        let given = options.mover.clone().filter(|_| tool.name == tools::OWN);
        match given.and_then(|path| path.canonicalize().ok()).or_else(|| machine::find(tool)) {
            Some(program) => found.push(Contender { tool, program }),
            None => absent.push(tool.name.to_owned()),
        }
    }
    if found.is_empty() { Err("none of the tools is on the PATH".to_owned()) } else { Ok((found, absent)) }
}

fn begin(options: &Options, scratch: &Path, cage: &Cage, contenders: &[Contender], absent: Vec<String>) -> Report {
    for name in &absent {
        eprintln!("{name} is not on the PATH: left out (bench/rivals.md says how to get it)");
    }
    let mut limits = cage.words();
    limits.push(format!("rounds: {}, interleaved, the order of the tools turned by one each round", options.runs));
    limits.push("page cache warm, file system synced between runs".to_owned());
    Report {
        machine: machine::look(scratch, cage.cores_count()),
        command: command_line(),
        limits,
        tools: contenders.iter().map(describe).collect(),
        absent,
        ..Report::default()
    }
}

/// The command line with the names of files alone: where they lie on one machine says nothing to a reader.
fn command_line() -> String {
    let short = |argument: String| {
        let name = Path::new(&argument).file_name().map(|name| name.to_string_lossy().into_owned());
        if argument.starts_with(['/', '.']) { name.unwrap_or(argument) } else { argument }
    };
    std::env::args().map(short).collect::<Vec<_>>().join(" ")
}

fn describe(contender: &Contender) -> ToolRecord {
    let tool = contender.tool;
    let mut commands = BTreeMap::new();
    let init: Vec<String> = tool.init.iter().map(|arguments| tool.line(arguments)).collect();
    commands.insert("init".to_owned(), init.join("; "));
    commands.insert("backup".to_owned(), tool.line(tool.backup));
    commands.insert("restore".to_owned(), tool.line(tool.restore));
    ToolRecord {
        name: tool.name.to_owned(),
        version: machine::version(tool, &contender.program),
        commands,
        note: tool.note.to_owned(),
    }
}

fn session<'s>(options: &Options, cage: &'s Cage, scratch: &'s Path, contenders: &'s [Contender]) -> Session<'s> {
    let mut chosen = Vec::new();
    chosen.extend(options.level.map(|level| ("level", level.to_string())));
    chosen.extend(options.memory.clone().map(|memory| ("memory", memory)));
    Session {
        contenders,
        cage,
        scratch,
        repositories: scratch.to_owned(),
        mount: None,
        namespace: None,
        host: None,
        helpers: Vec::new(),
        environment: Vec::new(),
        chosen,
        phases: Phase::ALL.to_vec(),
        generations: options.generations,
        seed: options.seed,
        time_max: Duration::from_secs(options.timeout),
    }
}

fn rounds(options: &Options, session: &Session<'_>, report: &mut Report) -> Result<()> {
    for path in &options.paths {
        let path = during(format!("find {}", path.display()), path.canonicalize())?;
        let set = path.file_stem().map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned());
        if report.sets.iter().any(|known| known.name == set) {
            return Err(format!("two paths are named '{set}': a data set needs a name of its own"));
        }
        for number in 1..=options.runs.max(1) {
            let (described, runs) = session.round(&path, &set, number)?;
            report.runs.extend(runs);
            if number == 1 {
                report.sets.push(described);
            }
            // What has been measured is kept whatever happens later.
            statistics::mark_disturbed(&mut report.runs);
            if let Some(file) = &options.write {
                write_json(file, report)?;
            }
        }
    }
    Ok(())
}

fn write_json(file: &Path, report: &Report) -> Result<()> {
    let text = during("write JSON", serde_json::to_string(report))?;
    during(format!("write {}", file.display()), std::fs::write(file, text + "\n"))
}

fn finish(options: &Options, report: &Report) -> Result<bool> {
    if options.json {
        println!("{}", during("write JSON", serde_json::to_string(report))?);
    } else {
        print!("{}", results::markdown::report(report));
    }
    Ok(report.runs.iter().all(|run| run.failed.is_none()))
}
