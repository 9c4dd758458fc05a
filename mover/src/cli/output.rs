//! Where results go: text or JSON lines on standard output, notes and errors on standard error.
//!
//! With `--json` standard output carries one object a line and nothing else; the last one is the
//! summary, or the error. `--quiet` drops notes and summaries, never results or errors.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};
use std::sync::Mutex;

use serde_json::{Map, Value, json};

use super::error::{CliError, Result};
use super::exit::Exit;
use super::terminal;
use super::text::escape;

/// The two streams of one command.
pub struct Output {
    /// Whether results are JSON lines.
    pub json: bool,
    /// Whether notes, progress and summaries are left out.
    pub quiet: bool,
    terminal: bool,
    stdout: Mutex<BufWriter<Stdout>>,
}

impl Output {
    /// An output in the chosen form.
    pub fn new(json: bool, quiet: bool) -> Output {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Output { json, quiet, terminal, stdout: Mutex::new(BufWriter::with_capacity(64 << 10, stdout)) }
    }

    fn write(&self, parts: &[&[u8]], flush: bool) -> Result<()> {
        let write = || {
            let mut stdout = self.stdout.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            parts.iter().try_for_each(|part| stdout.write_all(part))?;
            if flush || self.terminal { stdout.flush() } else { Ok(()) }
        };
        // only what shares the terminal with a bar has to wait for it to step aside
        let finished = if self.terminal { terminal::aside(write) } else { write() };
        finished.map_err(|error| match error.kind() {
            // the reader has what it wanted (`mover ls … | head`)
            ErrorKind::BrokenPipe => CliError { exit: Exit::Done, message: String::new(), help: None },
            _ => CliError::system("write to", "standard output", error),
        })
    }

    /// One line of a result.
    pub fn line(&self, text: &str) -> Result<()> {
        self.write(&[text.as_bytes(), b"\n"], false)
    }

    /// One line of several parts; names in it come from [`Output::name`].
    pub fn line_of(&self, parts: &[&[u8]]) -> Result<()> {
        let line = [&parts.concat()[..], b"\n"].concat();
        self.write(&[&line], false)
    }

    /// A name as this output shows it: escaped on a terminal; elsewhere raw, but for names in which a line
    /// break or a backslash would leave open what was meant.
    pub fn name(&self, name: &[u8]) -> Vec<u8> {
        let is_ambiguous = name.iter().any(|byte| byte.is_ascii_control() || *byte == b'\\');
        if self.terminal || is_ambiguous { escape(name).into_bytes() } else { name.to_vec() }
    }

    /// Bytes of a file (`dump`).
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        self.write(&[bytes], false)
    }

    /// One JSON object as a line, at once. Does nothing without `--json`.
    pub fn object(&self, kind: &str, value: Value) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut object = Map::new();
        object.insert("type".to_owned(), kind.into());
        if let Value::Object(fields) = value {
            object.extend(fields);
        }
        self.write(&[Value::Object(object).to_string().as_bytes(), b"\n"], true)
    }

    /// Text of a summary for a person: not with `--json` or `--quiet`.
    pub fn say(&self, text: &str) -> Result<()> {
        if self.json || self.quiet {
            return Ok(());
        }
        self.line(text)
    }

    /// Something worth knowing that is no result.
    pub fn note(&self, text: &str) {
        if self.json {
            let _ = self.object("note", json!({ "message": text }));
        } else if !self.quiet {
            terminal::say(&format!("note: {text}"));
        }
    }

    /// Something that a person must know whatever the mode; JSON carries it in the summary.
    pub fn warn(&self, text: &str) {
        terminal::say(&format!("mover: {text}"));
    }

    /// A path that a rule left out.
    pub fn excluded(&self, path: &[u8]) -> Result<()> {
        if self.json {
            let mut object = Map::new();
            super::text::json_path(&mut object, path);
            return self.object("excluded", Value::Object(object));
        }
        self.line_of(&[b"excluded ", &self.name(path)])
    }

    /// An exception that the exit code counts: shown in every mode.
    pub fn problem(&self, path: &[u8], cause: &str) {
        if self.json {
            let mut object = Map::new();
            super::text::json_path(&mut object, path);
            object.insert("cause".to_owned(), cause.into());
            let _ = self.object("problem", Value::Object(object));
        } else {
            terminal::say(&format!("mover: {}: {cause}", escape(path)));
        }
    }

    /// The error that ends the command.
    pub fn error(&self, error: &CliError) {
        if error.message.is_empty() {
            return;
        }
        terminal::say(&format!("mover: {}", error.message));
        if let Some(help) = &error.help {
            terminal::say(&format!("help: {help}"));
        }
        let fields = json!({ "message": error.message, "help": error.help, "exit_code": error.exit.code() });
        let _ = self.object("error", fields);
    }

    /// Hands everything to the system.
    pub fn flush(&self) -> Result<()> {
        self.write(&[], true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name with a line break in it looked like two names to whoever read the listing line by line.
    #[test]
    fn a_name_is_one_line_and_no_two_names_look_the_same() {
        let output = Output { terminal: false, ..Output::new(false, false) };
        assert_eq!(output.name(b"a\nb"), b"a\\x0ab");
        assert_eq!(output.name(b"a\\x0ab"), b"a\\\\x0ab");
        assert_eq!(
            output.name("gr\u{fc}n \u{202e}".as_bytes()),
            "gr\u{fc}n \u{202e}".as_bytes(),
            "raw where that is one line"
        );
        assert_eq!(output.name(b"\xff"), b"\xff");
    }
}
