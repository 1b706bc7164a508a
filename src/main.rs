//! The program: reads the command line, runs a command, says what went wrong, and ends with the documented
//! exit code.

use clap::ColorChoice;
use std::process::exit;
use tempra::cli::{self, style::Voice};
use tempra::error::Error;

fn main() {
    tempra::train::started();
    let args: Vec<_> = std::env::args_os().collect();
    // Known before the command line is understood, since what cannot be understood is reported too.
    let colour = !args.iter().take_while(|a| *a != "--").any(|a| a == "--no-color");
    let voice = Voice::new(false, colour);
    report_panics(voice);

    let choice = if colour && !cli::style::refused() { ColorChoice::Auto } else { ColorChoice::Never };
    let matches = match cli::command().color(choice).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) => {
            if let Some(e) = cli::recipe_key_as_option(&e) {
                voice.error(&e);
                exit(e.exit_code());
            }
            // Help and version come this way too. That their reader went away is no error; that they cannot
            // be written is.
            let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
            match e.print() {
                Err(print) if e.exit_code() == 0 && !gone(&print) => exit(Error::disk("").exit_code()),
                _ => exit(e.exit_code()),
            }
        }
    };
    match cli::run(&matches) {
        Ok(code) => exit(code),
        Err(e) => {
            voice.error(&e);
            exit(e.exit_code());
        }
    }
}

/// A panic is a bug, and says so; the exit code stays Rust's 101.
fn report_panics(voice: Voice) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        voice.error(format!(
            "this is a bug in tempra, not a mistake of yours: {text}{place}\n  \
             help: report it with the command line and this message; RUST_BACKTRACE=1 shows where it came from"
        ));
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
            usual(info);
        }
    }));
}
