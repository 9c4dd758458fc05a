//! Programs that run before and after the data is moved: no shell, a time limit, a process group that ends with it.

use std::process::Stdio;
use std::time::Duration;

use mover_control::job::order::Command;
use tokio::sync::watch;

use super::child::Control;
use super::process::Process;

/// Runs one; the error says what went wrong, with the end of what the program said.
pub async fn run(
    command: &Command,
    variables: &[(&str, String)],
    control: &mut watch::Receiver<Control>,
) -> Result<(), String> {
    let Some((program, arguments)) = command.arguments.split_first() else {
        return Err("a command without a program".to_owned());
    };
    let mut typed = std::process::Command::new(program);
    typed.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    typed.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut process = Process::start(typed).map_err(|error| format!("{program}: cannot start: {error}"))?;
    let limit = Duration::from_secs(command.limit_seconds.max(1));
    let in_time = tokio::select! {
        () = process.ended() => true,
        () = tokio::time::sleep(limit) => false,
        _ = control.wait_for(|control| matches!(control, Control::Lost(_))) => false,
    };
    process.kill();
    let (status, said) = process.reap().await;
    match status {
        _ if !in_time => Err(format!("{program}: killed after {} s", limit.as_secs())),
        Some(status) if status.success() => Ok(()),
        Some(status) if said.is_empty() => Err(format!("{program}: {status}")),
        Some(status) => Err(format!("{program}: {status}: {said}")),
        None => Err(format!("{program}: nobody knows how it ended")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Pid;

    fn run_one(arguments: &[&str], limit_seconds: u64) -> Result<(), String> {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let command = Command { arguments, limit_seconds, required: true };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (_sender, mut control) = watch::channel(Control::GoOn);
        let variables = [("MOVER_JOB", "J1".to_owned())];
        tokio::task::LocalSet::new().block_on(&runtime, run(&command, &variables, &mut control))
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
}
