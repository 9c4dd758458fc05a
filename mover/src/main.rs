//! The binary `mover`: parse, resolve, run, exit code. Nothing else happens here.
//!
//! In command: it knows the two libraries, they do not know it. Everything runs on the main thread
//! until a command starts the shards.

mod agent;
mod cli;
mod client;
mod config;
mod serve;

fn main() -> std::process::ExitCode {
    cli::process::prepare();
    cli::run(std::env::args_os()).into()
}
