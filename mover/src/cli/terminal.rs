//! The terminal that a progress bar shares with everything else that is printed.
//!
//! While a bar is up, whoever prints goes through [`aside`]: the bar is taken away, the text printed, the
//! bar drawn again below it. Without that, text lands on the bar's line and the next redraw eats the rest
//! of it. Any thread; must not be called from within `aside`.

use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

/// The bar that is up now; a process shows one at a time.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn bar() -> Option<ProgressBar> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Makes this bar the one that gives way.
pub fn raise(bar: &ProgressBar) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
}

/// No bar is up any more.
pub fn lower() {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Runs `print` with the bar out of the way.
pub fn aside<T>(print: impl FnOnce() -> T) -> T {
    match bar() {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// A line on standard error, beside the bar. Nobody is left to tell if that fails.
pub fn say(line: &str) {
    use std::io::Write;
    aside(|| _ = writeln!(std::io::stderr(), "{line}"));
}

/// Columns of the terminal behind standard error.
pub fn columns() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 80,
    }
}
