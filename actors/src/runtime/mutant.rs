//! Guards that the simulator switches off one at a time, to prove that some test fails without them.
//!
//! In a release build every switch is the constant `false` and the branch is compiled away. The switch is
//! thread-local: a mutated simulation never disturbs the tests that run beside it.

/// One guard that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// The recovery point is published before the storage has acknowledged what it names.
    PublishBeforeAck = 1,
    /// A chunk enters the index before its pack is durable.
    IndexBeforeDurable = 2,
    /// A shard that found the injector empty parks without looking once more.
    LostWakeUp = 3,
    /// A dropped permit does not give its bytes back.
    PermitLeak = 4,
    /// The open frame is forgotten when the input ends.
    DroppedLastFrame = 5,
    /// Not a guard that is off, but what one is for: zstd makes frames that decode to something else.
    FaultyEncoder = 6,
}

impl Mutant {
    /// All guards.
    pub const ALL: [Mutant; 5] = [
        Mutant::PublishBeforeAck,
        Mutant::IndexBeforeDurable,
        Mutant::LostWakeUp,
        Mutant::PermitLeak,
        Mutant::DroppedLastFrame,
    ];
}

/// True if `guard` is switched off on this thread.
#[cfg(any(test, feature = "simulation"))]
#[inline]
pub fn mutant(guard: Mutant) -> bool {
    switch::ACTIVE.with(|active| active.get() == guard as u8)
}

/// True if `guard` is switched off on this thread: never in this build.
#[cfg(not(any(test, feature = "simulation")))]
#[inline(always)]
pub const fn mutant(_guard: Mutant) -> bool {
    false
}

#[cfg(any(test, feature = "simulation"))]
mod switch {
    use super::Mutant;
    use std::cell::Cell;

    thread_local! {
        pub(super) static ACTIVE: Cell<u8> = const { Cell::new(0) };
    }

    /// Switches a guard off on this thread until it is dropped.
    #[must_use = "the guard is on again when this is dropped"]
    pub struct MutantSwitch {
        before: u8,
    }

    impl MutantSwitch {
        /// Switches `guard` off; `None` switches all guards on.
        pub fn set(guard: Option<Mutant>) -> MutantSwitch {
            let code = guard.map_or(0, |guard| guard as u8);
            MutantSwitch { before: ACTIVE.with(|active| active.replace(code)) }
        }
    }

    impl Drop for MutantSwitch {
        fn drop(&mut self) {
            ACTIVE.with(|active| active.set(self.before));
        }
    }
}

#[cfg(any(test, feature = "simulation"))]
pub use switch::MutantSwitch;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_guard_is_off_while_its_switch_lives() {
        assert!(!mutant(Mutant::PermitLeak));
        {
            let _switch = MutantSwitch::set(Some(Mutant::PermitLeak));
            assert!(mutant(Mutant::PermitLeak));
            assert!(!mutant(Mutant::LostWakeUp));
        }
        assert!(Mutant::ALL.iter().all(|guard| !mutant(*guard)));
    }
}
