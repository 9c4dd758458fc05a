//! How much of a network link may be used: one limit for what is sent, one for what is received.
//!
//! All jobs of a process share the two through one [`BandwidthLimits`]. A limit is a [`Calendar`] of a week and can be
//! replaced at any time. Only backends that speak over a network ask here; a local directory is not limited. Must
//! never cost anything where nothing is limited.

mod bucket;
mod calendar;
#[cfg(test)]
mod calendar_tests;
mod grammar;

use std::sync::Arc;

use jiff::Zoned;

pub use bucket::{TokenBucket, WallClock};
pub use calendar::{Calendar, Rate};
pub use grammar::CalendarError;

/// The limits of a process.
pub struct BandwidthLimits {
    /// For what is sent to the repository.
    pub upload: TokenBucket,
    /// For what is received from it.
    pub download: TokenBucket,
}

impl BandwidthLimits {
    /// No limits, until some are set.
    pub fn unlimited() -> Arc<BandwidthLimits> {
        BandwidthLimits::with_wall_clock(Arc::new(Zoned::now))
    }

    /// As [`BandwidthLimits::unlimited`]; the rules are chosen by another clock.
    pub fn with_wall_clock(wall_clock: WallClock) -> Arc<BandwidthLimits> {
        let bucket = || TokenBucket::new(Calendar::unlimited(), Arc::clone(&wall_clock));
        Arc::new(BandwidthLimits { upload: bucket(), download: bucket() })
    }

    /// Replaces the limit of what is sent.
    pub fn set_upload(&self, calendar: Calendar) {
        self.upload.set(calendar);
    }

    /// Replaces the limit of what is received.
    pub fn set_download(&self, calendar: Calendar) {
        self.download.set(calendar);
    }
}
