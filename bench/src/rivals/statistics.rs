//! Medians with their spread, and which runs were disturbed.

use super::record::Run;

/// A calibration loop that takes so many times the usual time says that the machine was busy or throttled.
const CALIBRATION_RATIO_MAX: f64 = 1.25;

/// Median, least and most of several figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// How many.
    pub count: usize,
}

impl Spread {
    /// `None` of no figure.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Spread { median, least, most, count: sorted.len() })
    }
}

/// Marks the runs beside which the calibration loop was slow, measured by the median of all loops.
pub fn mark_disturbed(runs: &mut [Run]) {
    let Some(usual) = Spread::of(runs.iter().map(|run| run.calibration_seconds)) else { return };
    for run in runs {
        let ratio = run.calibration_seconds / usual.median;
        if run.disturbed.is_none() && ratio > CALIBRATION_RATIO_MAX {
            run.disturbed = Some(format!("a fixed loop beside it took {ratio:.2} times as long as usual"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Run, Spread, mark_disturbed};

    #[test]
    fn rivals_median_is_the_middle_one() {
        let three = Spread::of([3.0, 1.0, 2.0]).expect("three");
        assert_eq!((three.median, three.least, three.most, three.count), (2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).expect("four").median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn rivals_slow_calibration_marks_its_run_alone() {
        let mut runs = vec![Run::default(); 5];
        for (run, seconds) in runs.iter_mut().zip([1.0, 1.1, 0.9, 1.6, 1.0]) {
            run.calibration_seconds = seconds;
        }
        mark_disturbed(&mut runs);
        let marked: Vec<bool> = runs.iter().map(|run| run.disturbed.is_some()).collect();
        assert_eq!(marked, [false, false, false, true, false]);
        assert!(runs[3].disturbed.as_deref().expect("marked").contains("1.60 times"));
    }
}
