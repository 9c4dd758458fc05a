//! A small writer of SVG: bars with their spread, and lines, each with axes and a legend.
//!
//! One chart is one self-contained file without scripts or outside fonts, readable on dark pages too. The same figures
//! give the same bytes. It draws what it is given; it judges and rounds nothing but labels.

use std::fmt::Write;

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 78.0;
const BOTTOM: f64 = 50.0;
/// About so many lines across a chart.
const TICKS: f64 = 5.0;
/// Room that one letter takes, roughly.
const LETTER: f64 = 6.8;

/// One bar.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Its height.
    pub value: f64,
    /// Least and most, if there were several.
    pub spread: Option<(f64, f64)>,
}

/// What has one colour.
#[derive(Clone, Debug)]
pub struct Series<T> {
    /// Its name in the legend.
    pub name: String,
    /// Its colour, as SVG says it.
    pub colour: &'static str,
    /// Its data.
    pub data: T,
}

/// Head and axes of a chart.
#[derive(Clone, Debug)]
pub struct Frame<'f> {
    /// What is shown.
    pub title: &'f str,
    /// How to read it.
    pub subtitle: &'f str,
    /// Unit of the upward axis.
    pub unit: &'f str,
}

/// Bars side by side in groups; a group's missing bar stays empty.
pub fn bars(frame: &Frame<'_>, groups: &[String], series: &[Series<Vec<Option<Bar>>>]) -> String {
    let values = series.iter().flat_map(|one| one.data.iter().flatten());
    let most = values.map(|bar| bar.spread.map_or(bar.value, |spread| spread.1.max(bar.value))).fold(0.0, f64::max);
    let axis = Axis::of(most);
    let mut out = begin(frame, series.iter().map(|one| (one.name.as_str(), one.colour)));
    axis.lines(&mut out);
    let group_width = (WIDTH - LEFT - RIGHT) / groups.len().max(1) as f64;
    let bar_width = (group_width * 0.84 / series.len().max(1) as f64).min(70.0);
    let value_size = if bar_width >= 26.0 { 11 } else { 9 };
    for (index, group) in groups.iter().enumerate() {
        let middle = LEFT + group_width * (index as f64 + 0.5);
        text(&mut out, middle, HEIGHT - BOTTOM + 20.0, "middle", 12, group);
        let start = middle - bar_width * series.len() as f64 / 2.0;
        for (position, one) in series.iter().enumerate() {
            let Some(bar) = one.data.get(index).copied().flatten() else { continue };
            let (x, y) = (start + bar_width * position as f64, axis.y(bar.value));
            let (width, height) = (bar_width - 2.0, axis.y(0.0) - y);
            let _ = writeln!(
                out,
                r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="1.5" fill="{}"/>"#,
                one.colour
            );
            let centre = x + width / 2.0;
            let mut label_y = y - 4.0;
            if let Some((least, most)) = bar.spread.filter(|spread| spread.1 > spread.0) {
                let (low, high) = (axis.y(least), axis.y(most));
                let _ = writeln!(out, r##"<path d="M{centre:.1} {low:.1}V{high:.1}" stroke="#333"/>"##);
                label_y = high - 4.0;
            }
            text(&mut out, centre, label_y, "middle", value_size, &short(bar.value));
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Lines over an axis of seconds.
pub fn lines(frame: &Frame<'_>, series: &[Series<Vec<(f64, f64)>>]) -> String {
    let points = || series.iter().flat_map(|one| one.data.iter());
    let axis = Axis::of(points().map(|point| point.1).fold(0.0, f64::max));
    let across = Axis::of(points().map(|point| point.0).fold(0.0, f64::max));
    let x = |seconds: f64| LEFT + seconds / across.end * (WIDTH - LEFT - RIGHT);
    let mut out = begin(frame, series.iter().map(|one| (one.name.as_str(), one.colour)));
    axis.lines(&mut out);
    for tick in across.ticks() {
        text(&mut out, x(tick), HEIGHT - BOTTOM + 18.0, "middle", 11, &short(tick));
    }
    text(&mut out, WIDTH - RIGHT, HEIGHT - BOTTOM + 36.0, "end", 11, "seconds since the start");
    for one in series {
        let mut path = String::new();
        for (index, (seconds, value)) in one.data.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if index == 0 { 'M' } else { 'L' }, x(*seconds), axis.y(*value));
        }
        let _ = writeln!(
            out,
            r#"<path d="{path}" fill="none" stroke="{}" stroke-width="2" stroke-linejoin="round"/>"#,
            one.colour
        );
        if let Some((seconds, value)) = one.data.last() {
            let _ = writeln!(
                out,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{}"/>"#,
                x(*seconds),
                axis.y(*value),
                one.colour
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// An axis from zero to a round number.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    end: f64,
    step: f64,
}

impl Axis {
    fn of(most: f64) -> Axis {
        let rough = (most / TICKS).max(1e-9);
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(power * 10.0);
        Axis { end: (most / step).ceil().max(1.0) * step, step }
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        let count = (self.end / self.step).round() as usize;
        (0..=count).map(move |number| number as f64 * self.step)
    }

    fn y(self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.end * (HEIGHT - TOP - BOTTOM)
    }

    fn lines(self, out: &mut String) {
        for tick in self.ticks() {
            let y = self.y(tick);
            let colour = if tick == 0.0 { "#555" } else { "#e3e3e3" };
            let _ = writeln!(out, r#"<path d="M{LEFT} {y:.1}H{:.1}" stroke="{colour}"/>"#, WIDTH - RIGHT);
            text(out, LEFT - 8.0, y + 4.0, "end", 11, &short(tick));
        }
    }
}

fn begin<'n>(frame: &Frame<'_>, legend: impl Iterator<Item = (&'n str, &'static str)>) -> String {
    let mut out = format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" height="{}" "#,
            r#"font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" role="img">"#,
            "\n"
        ),
        WIDTH, HEIGHT, WIDTH, HEIGHT
    );
    let _ = writeln!(out, "<title>{}</title>", escape(frame.title));
    let _ = writeln!(out, r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>"##);
    text(&mut out, 12.0, 22.0, "start", 15, frame.title);
    text(&mut out, 12.0, 40.0, "start", 11, frame.subtitle);
    text(&mut out, 12.0, 62.0, "start", 11, frame.unit);
    let mut x = LEFT + 24.0 + frame.unit.len() as f64 * LETTER;
    for (name, colour) in legend {
        let _ = writeln!(out, r#"<rect x="{x:.1}" y="53" width="11" height="11" rx="2" fill="{colour}"/>"#);
        text(&mut out, x + 16.0, 62.5, "start", 12, name);
        x += 36.0 + name.chars().count() as f64 * LETTER;
    }
    out
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, size: u32, words: &str) {
    let words = escape(words);
    let _ = writeln!(
        out,
        r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="#222">{words}</text>"##
    );
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A label: three significant digits, no more than needed.
fn short(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        small if small.abs() < 1.0 => format!("{small:.2}"),
        middle if middle.abs() < 10.0 && middle.fract() != 0.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Axis, Bar, Frame, Series, bars, lines, short};

    const FRAME: Frame<'static> = Frame { title: "a < b & c", subtitle: "how", unit: "MB/s" };

    #[test]
    fn results_axis_ends_at_a_round_number() {
        assert_eq!(Axis::of(437.0), Axis { end: 500.0, step: 100.0 });
        assert_eq!(Axis::of(100.0), Axis { end: 100.0, step: 20.0 });
        assert_eq!(Axis::of(0.0).ticks().count(), 2);
        assert_eq!([0.0, 0.25, 2.5, 20.0, 1234.5].map(short), ["0", "0.25", "2.5", "20", "1234"]);
    }

    #[test]
    fn results_bars_are_drawn_once_each_and_words_escaped() {
        let series = [
            Series {
                name: "one".into(),
                colour: "#111111",
                data: vec![Some(Bar { value: 5.0, spread: Some((4.0, 6.0)) }), None],
            },
            Series { name: "two".into(), colour: "#222222", data: vec![Some(Bar { value: 9.0, spread: None }); 2] },
        ];
        let chart = bars(&FRAME, &["first".into(), "second".into()], &series);
        // One in the legend, the others bars.
        assert_eq!(chart.matches("#111111").count(), 2);
        assert_eq!(chart.matches("#222222").count(), 3);
        assert!(chart.contains("a &lt; b &amp; c") && !chart.contains("NaN"));
        assert_eq!(chart.matches("<svg").count(), chart.matches("</svg>").count());
    }

    #[test]
    fn results_lines_stay_inside() {
        let data = vec![(0.0, 0.0), (1.0, 150.0), (2.0, 75.0)];
        let chart = lines(&FRAME, &[Series { name: "one".into(), colour: "#111111", data }]);
        assert_eq!(chart.matches("stroke-width=\"2\"").count(), 1);
        assert!(!chart.contains("NaN") && !chart.contains("inf"));
    }
}
