//! How figures are shown: MB/s and ns a file in a table, or JSON.

use serde_json::{Value, json};

/// One stage and its reference.
#[derive(Clone, Debug)]
pub struct Row {
    name: &'static str,
    bytes_per_second: Option<f64>,
    ns_per_file: Option<f64>,
    reference: Option<Reference>,
}

#[derive(Clone, Debug)]
struct Reference {
    tool: &'static str,
    /// In the unit of the stage; `None` where the tool is missing.
    figure: Option<f64>,
    /// Whether the figure is nanoseconds a file, of which fewer are better.
    per_file: bool,
}

impl Row {
    /// A stage that has a rate.
    pub fn rate(name: &'static str, bytes_per_second: f64) -> Row {
        Row { name, bytes_per_second: Some(bytes_per_second), ns_per_file: None, reference: None }
    }

    /// A stage that costs time a file, and perhaps moves bytes.
    pub fn ns_per_file(name: &'static str, ns: f64, bytes_per_second: f64) -> Row {
        let rate = Some(bytes_per_second).filter(|rate| *rate > 0.0);
        Row { name, bytes_per_second: rate, ns_per_file: Some(ns), reference: None }
    }

    /// The rate that a plain tool reaches.
    pub fn beside(mut self, tool: &'static str, figure: Option<f64>) -> Row {
        self.reference = Some(Reference { tool, figure, per_file: false });
        self
    }

    /// The nanoseconds a file that a plain tool takes.
    pub fn beside_ns(mut self, tool: &'static str, figure: Option<f64>) -> Row {
        self.reference = Some(Reference { tool, figure, per_file: true });
        self
    }

    /// The stage's speed ÷ the reference's, where there is one.
    pub fn share(&self) -> Option<f64> {
        let reference = self.reference.as_ref()?;
        let figure = reference.figure?;
        if reference.per_file { Some(figure / self.ns_per_file?) } else { Some(self.bytes_per_second? / figure) }
    }

    /// The row for a program.
    pub fn json(&self) -> Value {
        json!({
            "stage": self.name,
            "bytes_per_second": self.bytes_per_second,
            "ns_per_file": self.ns_per_file,
            "reference": self.reference.as_ref().map(|reference| reference.tool),
            "reference_figure": self.reference.as_ref().and_then(|reference| reference.figure),
            "share_of_reference": self.share(),
        })
    }
}

/// Prints the rows as a table.
pub fn print_table(rows: &[Row]) {
    println!(
        "{:<28} {:>10} {:>10}   {:<14} {:>10} {:>6}",
        "stage, one core", "MB/s", "ns/file", "reference", "", "share"
    );
    for row in rows {
        let number =
            |value: Option<f64>, unit: f64| value.map_or(String::new(), |found| format!("{:.0}", found / unit));
        let (tool, figure) = match &row.reference {
            None => (String::new(), String::new()),
            Some(reference) => {
                let unit = if reference.per_file { 1.0 } else { 1e6 };
                let figure =
                    if reference.figure.is_some() { number(reference.figure, unit) } else { "missing".to_owned() };
                (reference.tool.to_owned(), figure)
            }
        };
        let share = row.share().map_or(String::new(), |share| format!("{share:.2}"));
        let (rate, ns) = (number(row.bytes_per_second, 1e6), number(row.ns_per_file, 1.0));
        println!("{:<28} {rate:>10} {ns:>10}   {tool:<14} {figure:>10} {share:>6}", row.name);
    }
}
