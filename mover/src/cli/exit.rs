//! The exit codes, a contract with scripts. Never add a meaning to a number that has one.

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage: a flag, a variable or a config key.
    Usage = 2,
    /// Done, with exceptions, each listed.
    Exceptions = 3,
    /// No repository there.
    NoRepository = 10,
    /// Repository in use by an operation that excludes this one.
    InUse = 11,
    /// Wrong password or key.
    WrongKey = 12,
    /// An agent that its control plane does not accept any more.
    Revoked = 13,
    /// Interrupted; the work done so far is kept.
    Interrupted = 130,
}

impl Exit {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// `Exceptions` if there are any, `Done` otherwise.
    pub fn from_exceptions(exceptions: u64) -> Exit {
        if exceptions == 0 { Exit::Done } else { Exit::Exceptions }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn the_numbers_are_the_documented_ones() {
        let all = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Exceptions,
            Exit::NoRepository,
            Exit::InUse,
            Exit::WrongKey,
            Exit::Revoked,
            Exit::Interrupted,
        ];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 10, 11, 12, 13, 130]);
    }
}
