//! Programs that run before and after the data is moved: those that this host allows, no shell, a time limit, a process
//! group that ends with the program.

use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mover_control::job::order::Command;
use tokio::sync::watch;

use super::child::Control;
use super::process::Process;

/// After it was asked to stop, a program has so long until it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The program of a command, if this host allows orders to run it: `allowed` are programs and directories of programs.
/// A name without a slash is looked for as a shell does it; what is found counts.
///
/// # Errors
/// It is not allowed, with the setting that would allow it.
pub fn permitted(allowed: &[PathBuf], command: &Command) -> Result<PathBuf, String> {
    let typed = command.arguments.first().ok_or("a command without a program")?;
    let path = if typed.contains('/') { Some(PathBuf::from(typed)) } else { find(typed) };
    let Some(path) = path else { return Err(format!("{typed}: there is no such program")) };
    // Steps upwards would lead out of an allowed directory.
    let is_plain = path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
    if is_plain && allowed.iter().any(|place| path == *place || path.parent() == Some(place)) {
        return Ok(path);
    }
    let path = path.display();
    Err(format!("{path}: this agent runs no such program for orders: name it in `commands` of its agent.toml"))
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// Runs one; the error says what went wrong, with the end of what the program said. It ends soon when the job is to stop.
pub async fn run(
    program: &Path,
    command: &Command,
    variables: &[(&str, String)],
    control: &mut watch::Receiver<Control>,
) -> Result<(), String> {
    let mut typed = std::process::Command::new(program);
    typed.args(command.arguments.iter().skip(1)).stdin(Stdio::null()).stdout(Stdio::null());
    typed.envs(variables.iter().map(|(name, value)| (name, value)));
    let program = program.display();
    let mut process = Process::start(typed).map_err(|error| format!("{program}: cannot start: {error}"))?;
    let limit = Duration::from_secs(command.limit_seconds.max(1));
    let cut = tokio::select! {
        () = process.ended() => None,
        () = tokio::time::sleep(limit) => Some(format!("killed after {} s", limit.as_secs())),
        told = control.wait_for(|control| *control != Control::GoOn) => {
            Some(told.map_or_else(|_| "the agent ends".to_owned(), |control| format!("stopped: {:?}", *control)))
        }
    };
    let is_lost = matches!(*control.borrow(), Control::Lost(_));
    if control.borrow().clone() != Control::GoOn && !is_lost {
        process.stop();
        let _ = tokio::time::timeout(STOP_GRACE, process.ended()).await;
    }
    process.kill();
    let (status, said) = process.reap().await;
    match (cut, status) {
        (Some(why), _) => Err(format!("{program}: {why}")),
        (None, Some(status)) if status.success() => Ok(()),
        (None, Some(status)) if said.is_empty() => Err(format!("{program}: {status}")),
        (None, Some(status)) => Err(format!("{program}: {status}: {said}")),
        (None, None) => Err(format!("{program}: nobody knows how it ended")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Pid;

    fn command(arguments: &[&str], limit_seconds: u64) -> Command {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Command { arguments, limit_seconds, required: true }
    }

    fn run_told(arguments: &[&str], limit_seconds: u64, told: Option<Control>) -> Result<(), String> {
        let command = command(arguments, limit_seconds);
        let program = find(arguments[0]).unwrap_or_else(|| arguments[0].into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (sender, mut control) = watch::channel(Control::GoOn);
        let variables = [("MOVER_JOB", "J1".to_owned())];
        let work = async {
            let run = run(&program, &command, &variables, &mut control);
            let tell = async {
                if let Some(told) = told {
                    sender.send_replace(told);
                }
            };
            tokio::join!(run, tell).0
        };
        tokio::task::LocalSet::new().block_on(&runtime, work)
    }

    fn run_one(arguments: &[&str], limit_seconds: u64) -> Result<(), String> {
        run_told(arguments, limit_seconds, None)
    }

    #[test]
    fn commands_that_fail_say_why_and_those_that_hang_are_killed_with_all_they_started() {
        assert_eq!(run_one(&["sh", "-c", "test $MOVER_JOB = J1"], 60), Ok(()));
        let failed = run_one(&["sh", "-c", "echo because >&2; exit 3"], 60).expect_err("it fails");
        assert!(failed.contains("exit status: 3") && failed.contains("because"), "{failed}");
        assert!(run_one(&["/nonexistent/program"], 60).expect_err("none").contains("cannot start"));
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        assert!(run_one(&["sh", "-c", &script], 1).expect_err("it hangs").contains("killed after 1 s"));
        let left: i32 = std::fs::read_to_string(&file).expect("written").trim().parse().expect("a number");
        let process = Pid::from_raw(left).expect("a process");
        // A zombie that nobody has waited for counts as dead.
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
            rustix::process::test_kill_process(process).is_err() || state.contains(") Z ")
        };
        while !is_gone() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// They once ran to their limit, whatever the job was told.
    #[test]
    fn command_ends_when_its_job_is_cancelled_given_back_or_lost() {
        for told in [Control::Stop("by me".into()), Control::GiveBack, Control::Lost("gone".into())] {
            let ended = run_told(&["sleep", "100000"], 100_000, Some(told.clone()));
            assert!(ended.as_ref().is_err_and(|why| why.contains("stopped")), "{told:?}: {ended:?}");
        }
    }

    #[test]
    fn only_programs_that_the_host_allows_are_run_for_an_order() {
        let allowed = [PathBuf::from("/etc/mover/hooks"), PathBuf::from("/usr/bin/true")];
        let ask = |program: &str| permitted(&allowed, &command(&[program], 1));
        assert_eq!(ask("/etc/mover/hooks/freeze"), Ok("/etc/mover/hooks/freeze".into()));
        assert_eq!(ask("/usr/bin/true"), Ok("/usr/bin/true".into()));
        let outside =
            ["/usr/bin/false", "/etc/mover/hooks/../../../bin/sh", "/etc/mover/hooks/a/freeze", "hooks/freeze"];
        for program in outside {
            let refused = ask(program).expect_err("not allowed");
            assert!(refused.contains("`commands` of its agent.toml"), "{program}: {refused}");
        }
        let none = permitted(&[], &command(&["true"], 1));
        assert!(none.expect_err("nothing is allowed by itself").contains("`commands`"));
        assert!(ask("no-such-program-at-all").expect_err("none").contains("no such program"));
        assert!(permitted(&allowed, &command(&[], 1)).is_err());
    }
}
