//! Signals during `tempra bench`: it ends soon, and what was measured before is kept.

use crate::schema::obeys;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tempra::bench::report::{Clocks, GpuState, Phase, Report};
use tempra::bench::{Control, Effort, ModelShape, Monitor, Workbench, ops};
use tempra::device::Device;

/// A signal that comes after the first job, or after so many passes.
#[derive(Default)]
struct Pressed {
    after_passes: Option<usize>,
    passes: AtomicUsize,
    pressed: AtomicBool,
}

impl Control for Pressed {
    fn stop(&self) -> Option<i32> {
        self.pressed.load(Ordering::Relaxed).then_some(2)
    }
    fn added(&self, _: &Report) {
        self.pressed.store(true, Ordering::Relaxed);
    }
}

impl Monitor for Pressed {
    fn state(&self) -> GpuState {
        GpuState::default()
    }
    fn begin(&self) {}
    fn end(&self) -> Clocks {
        let passes = 1 + self.passes.fetch_add(1, Ordering::Relaxed);
        if self.after_passes == Some(passes) {
            self.pressed.store(true, Ordering::Relaxed);
        }
        Clocks::default()
    }
}

/// What is measured of mse and of adamw until the signal, by op and pass.
fn until(pressed: &Pressed) -> Vec<(String, Phase)> {
    let device = Device::open("cpu", 1).unwrap();
    let effort = Effort { seconds: 0.0, samples: 3, ..Effort::default() };
    let bench = Workbench::new(&device, "cpu".to_owned(), effort).with_cache_bytes(1 << 20);
    let bench = bench.with_control(pressed).with_monitor(Some(pressed));
    let name = "tiny".to_owned();
    let tiny =
        ModelShape { name, hidden: 64, layers: 1, heads: 2, intermediate: 128, vocab: 512, positions: 128 };
    let jobs = ops::plan(&[tiny], &[16], &|op| op == "mse" || op == "adamw");
    assert_eq!(jobs.iter().map(|job| job.op).collect::<Vec<_>>(), ["mse", "adamw"]);
    let mut report = Report::begin();
    // The caller does not ask between jobs, so each must end on its own.
    ops::run(&bench, &jobs, &mut report, &|| false, &mut |_| ()).unwrap();
    assert_eq!(report.skipped, [], "an interrupted job is not one that the device refused");
    report.ops.into_iter().map(|row| (row.op, row.pass)).collect()
}

#[test]
fn a_job_ends_between_samples_and_finished_passes_are_kept() {
    let mse = |pass| ("mse".to_owned(), pass);
    assert_eq!(
        until(&Pressed::default()),
        [mse(Phase::Forward), mse(Phase::Backward)],
        "after the first job"
    );
    let forward = Pressed { after_passes: Some(1), ..Pressed::default() };
    assert_eq!(until(&forward), [mse(Phase::Forward)], "during the backward pass");
    let at_once = Pressed { pressed: AtomicBool::new(true), ..Pressed::default() };
    assert_eq!(until(&at_once), []);
}

#[cfg(target_os = "linux")]
mod processes {
    use super::*;
    use serde_json::Value;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    fn tempra(dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
        command.arg("bench").args(args).current_dir(dir).env("TEMPRA_CACHE", dir.join("cache"));
        command.env("TEMPRA_BENCH_QUICK_CEILINGS", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs dropout, which is measured, and mse, one run of which takes longer than any test: nothing between
    /// two samples ends it.
    fn endless(dir: &Path) -> Child {
        let args = [
            "ops",
            "--op",
            "dropout,mse",
            "--tokens",
            "256",
            "--seconds",
            "0.001",
            "--samples",
            "3",
            "--threads",
            "1",
        ];
        let mut command = tempra(dir, &[&args[..], &["--json", "--html", "page.html"]].concat());
        command.env("TEMPRA_BENCH_PLANT", "mse:1000000000000").spawn().unwrap()
    }

    /// Waits until a process handles SIGINT and SIGTERM itself; false if it ended before.
    fn handles_signals(child: &mut Child) -> bool {
        let (int, term) = (1u64 << 1, 1u64 << 14);
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap_or_default();
            let caught = u64::from_str_radix(caught.trim(), 16).unwrap_or(0);
            if caught & (int | term) == int | term {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn send(signals: &[&str], child: &Child) {
        let id = child.id();
        let script: Vec<String> = signals.iter().map(|signal| format!("kill -{signal} {id}")).collect();
        assert!(Command::new("sh").args(["-c", &script.join(";")]).status().unwrap().success());
    }

    /// One signal while work runs that cannot be interrupted: the rows before it are written, as JSON and as
    /// a page. How long the first op takes depends on the machine, so the signal comes later and later until
    /// there is a row.
    fn kept_after(signal: &str, code: i32, name: &str) {
        for wait in [1, 2, 4, 8, 16, 32, 64] {
            let dir = tempfile::tempdir().unwrap();
            let mut child = endless(dir.path());
            assert!(handles_signals(&mut child), "it ended before the signal");
            std::thread::sleep(Duration::from_secs(wait));
            send(&[signal], &child);
            let output = child.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{err}");
            let out = String::from_utf8(output.stdout).unwrap();
            let report = Report::parse(&out).unwrap_or_else(|e| panic!("{e}: {out} {err}"));
            assert!(!report.complete);
            assert_eq!(report.stopped.as_deref(), Some(format!("stopped by {name}").as_str()));
            let page = std::fs::read_to_string(dir.path().join("page.html")).unwrap();
            if report.ops.is_empty() {
                continue;
            }
            obeys(&serde_json::from_str::<Value>(&out).unwrap());
            assert!(page.contains(&format!("stopped by {name}")));
            let rows: Vec<(&str, Phase)> = report.ops.iter().map(|o| (o.op.as_str(), o.pass)).collect();
            assert_eq!(rows, [("dropout", Phase::Forward), ("dropout", Phase::Backward)]);
            let device = &report.devices[0];
            assert!(
                device.ceilings.is_some()
                    && report.ops.iter().any(|o| o.percent.is_some() || !o.beyond_cache)
            );
            return;
        }
        panic!("no op was measured within a minute");
    }

    #[test]
    fn sigint_in_work_that_cannot_be_interrupted_keeps_the_rows() {
        kept_after("INT", 130, "Ctrl-C (SIGINT)");
    }

    #[test]
    fn sigterm_in_work_that_cannot_be_interrupted_keeps_the_rows() {
        kept_after("TERM", 143, "SIGTERM");
    }

    #[test]
    fn a_second_signal_ends_it_at_once_and_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = endless(dir.path());
        assert!(handles_signals(&mut child), "it ended before the signals");
        send(&["INT", "TERM"], &child);
        let output = child.wait_with_output().unwrap();
        let code = output.status.code();
        assert!(matches!(code, Some(130 | 143)), "{code:?} {:?}", output.status.signal());
        assert!(output.stdout.is_empty(), "a second signal does not wait for the result");
        assert!(!dir.path().join("page.html").exists());
    }

    /// A signal that reaches only the program that compares: the program it runs is ended too.
    #[test]
    fn sigterm_ends_a_comparison_and_the_program_that_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (other, note) = (dir.path().join("other"), dir.path().join("pid"));
        let script = format!(
            "#!/bin/sh\necho $$ > '{0}.new'\nmv '{0}.new' '{0}'\nexec sleep 100000\n",
            note.display()
        );
        std::fs::write(&other, script).unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).unwrap();
        let other = other.to_str().unwrap();
        let mut child = tempra(dir.path(), &["compare", "--against", other, "--op", "mse"]).spawn().unwrap();
        assert!(handles_signals(&mut child), "it ended before the signal");
        let begun = Instant::now();
        let inner = loop {
            if let Ok(text) = std::fs::read_to_string(&note) {
                break text.trim().to_owned();
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "the other program was not started");
            std::thread::sleep(Duration::from_millis(10));
        };
        send(&["TERM"], &child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!Path::new("/proc").join(inner).exists(), "the other program still runs");
    }
}
