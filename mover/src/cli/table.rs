//! A plain text table: columns as wide as their content, numbers to the right.

/// Rows under one header.
pub struct Table {
    header: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose columns are named in `header`; a name that begins with `>` is a column of
    /// numbers, aligned to the right.
    pub fn new(header: &[&'static str]) -> Table {
        Table {
            header: header.iter().map(|name| name.trim_start_matches('>')).collect(),
            right: header.iter().map(|name| name.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of as many cells as the header has.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.header.len(), "a row has one cell a column");
        self.rows.push(cells);
    }

    /// The lines of the table, header first.
    pub fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.header[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let header: Vec<String> = self.header.iter().map(|name| (*name).to_owned()).collect();
        std::iter::once(&header).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            let (before, after) = if self.right[column] { (padding.as_str(), "") } else { ("", padding.as_str()) };
            line.push_str(if column == 0 { "" } else { "  " });
            line.push_str(before);
            line.push_str(cell);
            line.push_str(after);
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn numbers_stand_on_the_right() {
        let mut table = Table::new(&["set", ">size"]);
        table.row(vec!["web:/etc".to_owned(), "1.4 GiB".to_owned()]);
        table.row(vec!["db".to_owned(), "9 B".to_owned()]);
        assert_eq!(table.lines(), ["set          size", "web:/etc  1.4 GiB", "db            9 B"]);
    }
}
