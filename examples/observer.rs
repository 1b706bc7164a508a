//! Trains by a recipe for at most so many minutes. Then it saves a checkpoint and stops; the same command
//! resumes. Every event is appended to a file as a line of JSON.
//!
//! `cargo run --release --example observer -- recipe.toml 50 events.jsonl`

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempra::checkpoint::RealFs;
use tempra::error::{Error, Result};
use tempra::train::{Control, Event, Observer, Observers, Recipe, Signals, train};

/// Stops the run when its time is up.
struct TimeLimit {
    begun: Instant,
    most: Duration,
}

impl Observer for TimeLimit {
    fn event(&mut self, _: &Event) -> Control {
        if self.begun.elapsed() < self.most { Control::Continue } else { Control::Stop }
    }
    fn name(&self) -> &str {
        "the time limit"
    }
}

/// Appends events to a file. Asks for a checkpoint at each new best validation.
struct Log(File);

impl Observer for Log {
    fn event(&mut self, event: &Event) -> Control {
        // A full disk should not end the run.
        let _ = writeln!(self.0, "{}", event.to_json());
        match event {
            Event::Evaluated { best: true, .. } => Control::Save,
            _ => Control::Continue,
        }
    }
}

fn run() -> Result<()> {
    let usage = || {
        Error::usage("the arguments are not valid")
            .with_expected("RECIPE MINUTES EVENTS, such as recipe.toml 50 events.jsonl")
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, minutes, events] = &arguments[..] else { return Err(usage()) };
    let minutes: f64 = minutes.parse().map_err(|_| usage().with_found(minutes.clone()))?;
    let most =
        Duration::try_from_secs_f64(60.0 * minutes).map_err(|_| usage().with_found(minutes.to_string()))?;
    let recipe = Recipe::load(Path::new(recipe), &[])?;
    let file = OpenOptions::new().create(true).append(true).open(events);
    let file = file.map_err(|e| {
        Error::usage("the file for events cannot be written").at(events).with_found(e.to_string())
    })?;

    let (mut limit, mut log) = (TimeLimit { begun: Instant::now(), most }, Log(file));
    let mut both = Observers::default().with(&mut log).with(&mut limit);
    let outcome = train(&recipe, false, Arc::new(RealFs), &Signals::install()?, &mut both)?;
    match &outcome.stopped_by {
        Some(name) => println!("stopped by {name} after step {}; the same command resumes", outcome.steps),
        None => println!("finished: {}", outcome.scores()),
    }
    println!("model: {}", outcome.model.display());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(e.exit_code().clamp(1, 255) as u8)
        }
    }
}
