//! Notes, warnings, progress and errors, on standard error.

use super::options::flag;
use crate::console::line;
use clap::ArgMatches;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Display;
use std::io::IsTerminal;

/// Whether the environment refuses colours: `NO_COLOR` is set and not empty (no-color.org), or `TERM` is
/// `dumb`.
pub fn refused() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    no_color || std::env::var_os("TERM").is_some_and(|t| t == "dumb")
}

/// How a command reports: quiet or not, with colours or without.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    quiet: bool,
    colour: bool,
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const RESET: &str = "\x1b[0m";

impl Voice {
    /// Follows the options `--quiet` and `--no-color`.
    pub fn of(matches: &ArgMatches) -> Self {
        Self::new(flag(matches, "quiet"), !flag(matches, "no-color"))
    }
    /// `colour`: whether colours are wanted. They appear only on a terminal that has them.
    pub fn new(quiet: bool, colour: bool) -> Self {
        Self { quiet, colour: colour && !refused() && std::io::stderr().is_terminal() }
    }
    /// Prints a note, unless quiet.
    pub fn note(&self, text: impl Display) {
        if !self.quiet {
            line(clean(&text.to_string()));
        }
    }
    /// Prints a warning.
    pub fn warn(&self, text: impl Display) {
        self.marked("warning", YELLOW, &text);
    }
    /// Prints the error that ends the program.
    pub fn error(&self, text: impl Display) {
        self.marked("error", RED, &text);
    }
    fn marked(&self, word: &str, colour: &str, text: &dyn Display) {
        let text = clean(&text.to_string());
        if self.colour {
            line(format!("{colour}{word}:{RESET} {text}"));
        } else {
            line(format!("{word}: {text}"));
        }
    }
    /// A progress bar on standard error, if that is a terminal and not quiet.
    pub fn bar(&self, length: u64, what: &'static str) -> ProgressBar {
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}  {per_sec}  {eta} left");
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
    }
}

/// Replaces control characters, which could steer a terminal, by U+FFFD. Line ends and tabs stay.
pub fn clean(text: &str) -> String {
    let visible = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    text.chars().map(visible).collect()
}
