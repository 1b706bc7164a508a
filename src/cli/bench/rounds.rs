//! Measures with two builds of tempra in alternating rounds, so that changes of the machine affect both.

use super::wanted::Wanted;
use crate::bench::Report;
use crate::cli::style::Voice;
use crate::error::{Error, Kind, Result};
use crate::train::Signals;
use clap::ArgMatches;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Options that both builds get unchanged.
const LISTS: [&str; 4] = ["device", "op", "dtype", "shape-of"];

fn arguments(matches: &ArgMatches) -> Vec<String> {
    let mut all: Vec<String> = ["bench", "ops", "--json", "--quiet"].map(str::to_owned).to_vec();
    let mut give = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            all.extend([format!("--{name}"), values.join(",")]);
        }
    };
    for name in LISTS {
        give(name, matches.get_many::<String>(name).into_iter().flatten().cloned().collect());
    }
    give("tokens", matches.get_many::<u32>("tokens").into_iter().flatten().map(u32::to_string).collect());
    give("seconds", matches.get_one::<f64>("seconds").map(f64::to_string).into_iter().collect());
    for name in ["samples", "threads"] {
        give(name, matches.get_one::<usize>(name).map(usize::to_string).into_iter().collect());
    }
    // Their values contain commas of their own.
    for name in ["shape", "lengths"] {
        let values = matches.get_many::<String>(name).into_iter().flatten();
        all.extend(values.flat_map(|value| [format!("--{name}"), value.clone()]));
    }
    all
}

/// Measures with both programs in rounds; each is first in every other round. If it is interrupted, it
/// returns the complete rounds and the exit code for that.
///
/// # Errors
/// [`Kind::Usage`] for several devices and for a program that cannot be started or fails.
pub fn in_turns(
    other: &Path,
    rounds: usize,
    matches: &ArgMatches,
    voice: &Voice,
) -> Result<([Report; 2], i32)> {
    // Before a program is started: both would refuse it.
    Wanted::of(matches, true)?;
    let device = matches.get_many::<String>("device").into_iter().flatten().count();
    if device > 1 || matches.get_many::<String>("dtype").into_iter().flatten().count() > 1 {
        return Err(Error::usage("--against got several devices or types")
            .with_expected("one device and one type")
            .with_help("name one device with --device, and one type with --dtype"));
    }
    let own = std::env::current_exe()
        .map_err(|e| Error::device("cannot find the path of this program").with_found(e.to_string()))?;
    let signals = Signals::install()?;
    let (programs, arguments) = ([other, &own], arguments(matches));
    let bar = voice.bar(2 * rounds as u64, "runs");
    let found = alternate(rounds, &mut |round, side| {
        bar.set_message(format!("round {} of {rounds}, {}", round + 1, programs[side].display()));
        let measured = measure(programs[side], &arguments, &|| signals.stop().is_some());
        if signals.stop().is_some() {
            return Ok(None);
        }
        bar.inc(1);
        measured
    });
    bar.finish_and_clear();
    let (mut found, whole) = found?;
    let mut code = 0;
    if let Some(signal) = signals.stop() {
        let e = Error::new(Kind::Interrupted(signal), "stopped before the first round was complete");
        if whole == 0 {
            return Err(e);
        }
        code = e.exit_code();
        for report in &mut found {
            report.complete = false;
            report.stopped = Some(format!("stopped after {whole} of {rounds} rounds"));
        }
        voice.warn(format!("stopped early: the result holds {whole} of {rounds} rounds"));
    }
    Ok((found, code))
}

/// Calls `measure` with the round and the side (0 or 1), each side first in every other round, until it
/// returns `None`. Returns the result of each side over the complete rounds, and how many these are.
fn alternate(
    rounds: usize,
    measure: &mut dyn FnMut(usize, usize) -> Result<Option<Report>>,
) -> Result<([Report; 2], usize)> {
    let mut found: [Vec<Report>; 2] = [Vec::new(), Vec::new()];
    'rounds: for round in 0..rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let Some(report) = measure(round, side)? else { break 'rounds };
            found[side].push(report);
        }
    }
    let complete = found[0].len().min(found[1].len());
    Ok((found.map(|reports| Report::of_rounds(&reports[..complete])), complete))
}

/// Runs a program to its end and collects what it writes; `None` if `stop` became true. The program is ended
/// then: a signal may have reached only this process.
fn output(mut command: Command, stop: &dyn Fn() -> bool) -> std::io::Result<Option<Output>> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Both pipes are read meanwhile, or a full one would stop the program.
    fn read(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<std::io::Result<Vec<u8>>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes)).map(|_| bytes)
        })
    }
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if stop() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // A panic of a reader counts as nothing read.
    let joined =
        |reader: std::thread::JoinHandle<std::io::Result<Vec<u8>>>| reader.join().unwrap_or(Ok(Vec::new()));
    Ok(Some(Output { status, stdout: joined(stdout)?, stderr: joined(stderr)? }))
}

fn measure(program: &Path, arguments: &[String], stop: &dyn Fn() -> bool) -> Result<Option<Report>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let out = output(command, stop).map_err(|e| {
        Error::io(Kind::Usage, "cannot start the program", program, &e)
            .with_help("give --against the path of another tempra program")
    })?;
    let Some(out) = out else { return Ok(None) };
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let said: Vec<&str> = said.trim().lines().rev().take(6).collect();
        return Err(Error::usage("the program failed to measure")
            .at(program)
            .with_expected("a tempra with the command `bench ops --json`")
            .with_found(match said.is_empty() {
                true => format!("{}, without a message", out.status),
                false => {
                    format!("{}: {}", out.status, said.into_iter().rev().collect::<Vec<_>>().join("; "))
                }
            })
            .with_help("run that command alone to see its messages"));
    }
    Report::parse(&String::from_utf8_lossy(&out.stdout)).map(Some).map_err(|e| e.at(program))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{DeviceEntry, OpRow};
    use crate::bench::{Quartiles, Verdict, compare};

    /// One op, measured as `seconds` without any spread.
    fn report(seconds: f64) -> Report {
        let row = |op: &str| OpRow {
            device: "cpu".to_owned(),
            op: op.to_owned(),
            seconds: Quartiles { q1: seconds, median: seconds, q3: seconds },
            samples: 5,
            ..OpRow::default()
        };
        let device = DeviceEntry { id: "cpu".to_owned(), ..DeviceEntry::default() };
        // Enough ops for a median with an interval of its own.
        let ops = ["a", "b", "c", "d", "e", "f"].map(row).to_vec();
        Report { devices: vec![device], ops, ..Report::begin() }
    }

    fn compared(found: [Report; 2]) -> crate::bench::Comparison {
        let [theirs, ours] = found;
        let both = Report::merge(vec![("other".to_owned(), theirs), ("this".to_owned(), ours)]);
        compare(&both).unwrap().remove(0)
    }

    /// The machine becomes slower by 1 % with each run. Each program is first in every other round, so of
    /// five rounds the medians are those of the third one, runs 5 and 6: a ratio of 3 / 1.01.
    #[test]
    fn programs_alternate_and_drift_does_not_become_a_result() {
        let mut order = Vec::new();
        let mut measured = |times: [f64; 2]| {
            let mut machine = 1e-3;
            order.clear();
            let (found, complete) = alternate(5, &mut |round, side| {
                order.push((round, side));
                machine *= 1.01;
                Ok(Some(report(machine * times[side])))
            })
            .unwrap();
            assert_eq!(complete, 5);
            compared(found)
        };
        let slow = measured([1.0, 3.0]);
        assert!((1.0 / slow.speedup.value / (3.0 * 1.01) - 1.0).abs() < 1e-9, "{:?}", slow.speedup);
        assert_eq!(slow.verdict, Verdict::Slower);
        assert!(slow.pairs.iter().all(|p| p.verdict == Verdict::Slower), "{:?}", slow.pairs);
        let same = measured([1.0, 1.0]);
        assert_eq!(same.verdict, Verdict::Same, "{:?}", same.speedup);
        let sides = [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1), (3, 1), (3, 0), (4, 0), (4, 1)];
        assert_eq!(order, sides);
    }

    #[test]
    fn only_complete_rounds_count() {
        let run = |last: (usize, usize)| {
            alternate(4, &mut |round, side| Ok(((round, side) != last).then(|| report(1.0 + round as f64))))
        };
        // Round 2 begins with side 0, whose report has no partner.
        let (found, complete) = run((2, 1)).unwrap();
        assert_eq!((complete, found[0].ops[0].samples, found[1].ops[0].samples), (2, 2, 2));
        assert_eq!(found[0].ops[0].seconds.median, 1.5);
        assert_eq!(run((0, 1)).unwrap().1, 0);
        let failed = alternate(3, &mut |_, _| Err(Error::usage("no")));
        assert_eq!(failed.unwrap_err().kind(), Kind::Usage);
    }
}
