//! `tempra bench`: measures the speed of the kernels on this machine.

mod asked;
mod compare;
mod idle;
mod interrupt;
mod pareto;
mod peers;
mod results;
mod rounds;
mod wanted;

use super::options::threads_arg;
use super::style::Voice;
use crate::bench::monitor::is_stopped;
use crate::bench::report::{Machine, Report, Skipped};
use crate::bench::{self, CeilingEffort, Control, Effort, ModelShape, Monitor, NvmlMonitor, Workbench};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::EncoderConfig;
use asked::Asked;
use clap::{Arg, ArgAction, ArgMatches, Command};
use interrupt::Guard;
use results::Destinations;
use wanted::Planned;

const METHOD: &str = "Method: operands are random. Several sets of them, together larger than the cache, are used in turn. A \
    warm-up run on every set compiles the kernels and is not counted. Times are medians, from the device's own clock if it has one. +- \
    is how far the 95 % bootstrap interval of the median reaches, in percent of the median. FLOPs and bytes are counted from the op's \
    formula, not by hardware counters. The ceilings of a device are its copy rate (GB/s) and its best matmul rate (FLOP/s): medians of \
    a fixed number of samples, measured at the start and at the end of the same run, however long ops are measured. The table shows \
    the time with cold caches, to which the percentage refers, and the time with warm caches, on one set of operands again and again. \
    On an NVIDIA GPU the runs of a sample are CUDA graphs, so that the rate at which the host launches kernels does not count. A fixed \
    piece of work, timed between the measurements, shows how fast the machine itself is; `compare` adds its changes to the \
    uncertainty.";

pub fn define() -> Command {
    let measures = |name: &'static str, about: &'static str| {
        let command = options(Command::new(name).about(about)).arg(peers::arg());
        idle::hidden(name == "ops", name == "step").fold(command, |c, id| c.mut_arg(id, |arg| arg.hide(true)))
    };
    let ops = measures("ops", "Measure every op at the shapes of real models, or at other shapes").long_about(format!(
        "Measure the forward and backward pass of every op at the shapes of real models, or at the shapes of --shape.\n\nThe result \
         has the time, GB/s, TFLOP/s, percent of the device's ceilings and number of kernel launches.\n\n{METHOD}"
    ))
    .after_help(
        "Examples:\n  tempra bench ops --device cpu,wgpu --op 'attention*' --html ops.html\n  \
         tempra bench ops --shape 512,4096,1024 --dtype f32,bf16 --device cuda\n  \
         tempra bench ops --op attention --shape heads=12,head_dim=64 --tokens 1024,4096 --lengths lognormal:40,0.6:512",
    );
    let step = measures("step", "Measure a training step by op and by phase").long_about(
        "Measure a training step (forward, backward, clipping, AdamW) of a model with random weights.\n\nThe result has the time by \
         op and by phase, tokens/s, samples/s, the share of the best matmul rate, and peak memory. It compares packed with padded \
         batches, and sweeps over the number of sequences and their length.",
    )
    .after_help(
        "Examples:\n  tempra bench step --device cuda --dtype bf16 --html step.html\n  \
         tempra bench step --device cpu --lengths lengths.txt",
    );
    options(Command::new("bench").about("Measure the speed of ops and training steps on a device"))
        .arg(peers::arg())
        .long_about(format!(
            "Measure every op at the shapes of real models, then training steps.\n\nUse `ops` or `step` to measure one of the two, and \
             `compare` to compare devices or results, `pareto` to compare fine-tuned models.\n\n{METHOD}"
        ))
        .after_help(
            "Examples:\n  tempra bench ops --device cpu,wgpu --html ops.html\n  tempra bench step --device cuda --dtype bf16\n  \
             tempra bench --json > today.json\n  tempra bench compare last-week.json today.json --fail-under 0.95",
        )
        .args_conflicts_with_subcommands(true)
        .subcommand(ops)
        .subcommand(step)
        .subcommand(compare::define())
        .subcommand(pareto::define())
}

/// The options of all commands that measure.
fn options(command: Command) -> Command {
    let list = |id: &'static str, name, help| {
        Arg::new(id).long(id).value_name(name).value_delimiter(',').action(ArgAction::Append).help(help)
    };
    let number = |id, help, default: &'static str| super::options::count(id, help).default_value(default);
    command
        .arg(list("device", "NAMES", "Measure on these devices: auto, cpu, cuda, cuda:N, wgpu or wgpu:N [default: auto]"))
        .arg(threads_arg())
        .arg(list("op", "PATTERN", "Measure only ops whose names match; * matches any text"))
        .arg(
            list("dtype", "TYPES", "Compute in these types [default: f32]")
                .alias("precision")
                .value_parser(["f32", "f16", "bf16"]),
        )
        .arg(
            list("shape-of", "MODELS", "Use the shapes of these models: minilm-l6, bert-base, bert-large, or a model's folder or name [default: all three; on a CPU minilm-l6]")
                .alias("model"),
        )
        .arg(
            Arg::new("shape")
                .long("shape")
                .value_name("SHAPE")
                .action(ArgAction::Append)
                .help("Measure an op at this shape, which may be given several times: M,N,K for linear (rows, outputs, inputs), or the \
                       sizes of the op of --op by name, such as rows=512,columns=768 or tokens=4096,heads=12,head_dim=64,length=512"),
        )
        .arg(
            list("tokens", "N", "Measure ops with these numbers of tokens in a batch [default: 256 to 32768; on a CPU 256 and 1024]")
                .value_parser(clap::value_parser!(u32).range(1..=1 << 20)),
        )
        .arg(
            Arg::new("lengths")
                .long("lengths")
                .value_name("LENGTHS")
                .help("Lengths of the sequences in tokens: 12,40,128, a file with one length on each line, constant:N, uniform:A-B or \
                       lognormal:MEAN,SIGMA:LONGEST [default: 128 for ops]"),
        )
        .arg(number("sequences", "Number of sequences in a training step's batch", "8"))
        .arg(number("length", "Number of tokens in each sequence", "64"))
        .arg(number("repeats", "Number of steps queued on a GPU for one measurement", "10"))
        .arg(Arg::new("no-sweep").long("no-sweep").action(ArgAction::SetTrue).help("Skip the sweeps over sequences and lengths"))
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .value_name("S")
                .default_value("0.3")
                .value_parser(seconds)
                .help("Measure each pass of an op for about this many seconds, and a quarter more with warm caches [at most 3600]"),
        )
        .arg(number("samples", "Least number of measurements of each pass", "5"))
        .args(results::args())
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    match matches.subcommand() {
        Some(("compare", of)) => compare::run(of),
        Some(("pareto", of)) => pareto::run(of),
        Some((name, of)) => measure(of, name == "ops", name == "step"),
        None => measure(matches, true, true),
    }
}

/// Measures and writes the results.
fn measure(matches: &ArgMatches, ops: bool, steps: bool) -> Result<i32> {
    let voice = Voice::of(matches);
    let to = Destinations::of(matches)?;
    to.spare(&peers::paths(matches))?;
    idle::of_measuring(matches, ops, steps, &voice)?;
    // Read before anything is measured: a bad file is known at once.
    let others = peers::read(peers::paths(matches))?;
    let asked = Asked::of(matches, (ops, steps))?;
    idle::of_lengths(matches, asked.wanted.lengths(), steps, &voice);
    let write = |report: &Report| -> Result<()> {
        let wants = |op: &str| ops && asked.wanted.wants(op);
        let merged =
            (!others.is_empty()).then(|| peers::merge(report.clone(), others.clone(), &wants, steps, &voice));
        to.write_report(merged.as_ref().unwrap_or(report))
    };
    let (report, code) = measured(&asked, ops, steps, &voice, &write)?;
    write(&report)?;
    if code == 0 && report.ops.is_empty() && report.steps.is_empty() {
        let refused = |s: &Skipped| format!("{}: {}: {}", s.device, s.what, s.why);
        let e = Error::device("nothing was measured").with_help("choose other shapes, types or devices");
        return Err(match report.skipped.first() {
            Some(first) => e.with_found(refused(first)),
            None => e,
        });
    }
    Ok(code)
}

/// Measures on every device. If it is interrupted, it returns the results so far and an exit code other
/// than 0. `write` writes the results if measuring cannot be interrupted soon enough; see [`Guard`].
fn measured(
    asked: &Asked,
    ops: bool,
    steps: bool,
    voice: &Voice,
    write: &(dyn Fn(&Report) -> Result<()> + Sync),
) -> Result<(Report, i32)> {
    Guard::run(voice, write, |guard| Ok(on_devices(asked, (ops, steps), voice, guard)))
}

fn on_devices(asked: &Asked, what: (bool, bool), voice: &Voice, guard: &Guard) -> (Report, i32) {
    let mut report = Report { skipped: asked.refused.clone(), ..Report::begin() };
    let mut code = 0;
    for refused in &asked.refused {
        voice.note(format!("{}: skipped: {}", refused.device, refused.why));
    }
    for (id, device) in &asked.devices {
        if guard.stop().is_some() {
            break;
        }
        let (monitor, source) = match NvmlMonitor::of(device) {
            Ok(None) => (None, None),
            Ok(Some(monitor)) => (Some(monitor), Some(NvmlMonitor::source())),
            Err(why) => (None, Some(format!("none: {why}"))),
        };
        let monitor = monitor.as_ref().map(|m| m as &dyn Monitor);
        let bench = Workbench::new(device, id.clone(), asked.effort.clone());
        let mut bench = bench.with_control(guard).with_monitor(monitor);
        if quick_ceilings() {
            bench = bench.with_ceiling_effort(CeilingEffort::quick());
        }
        let mut entry = bench.entry();
        if let Some(provenance) = &mut entry.provenance {
            (provenance.nvml, provenance.gpu_before) = (source, monitor.map(|m| m.state()));
        }
        if let Some((op, times)) = &bench.effort.planted {
            entry.tool += &format!(", {op} slowed down {times} times");
        }
        report.devices.push(entry);
        guard.added(&report);
        let done = on_device(&bench, asked, what, &mut report, voice);
        if let Some(entry) = report.devices.last_mut() {
            entry.machine.load_after = Machine::load();
            if let Some(provenance) = &mut entry.provenance {
                provenance.gpu_after = monitor.map(|m| m.state());
            }
        }
        if let Err(e) = done {
            if is_stopped(&e) {
                break;
            }
            // The device's own help is about training.
            let e = match bench::measure::is_gone(&e) {
                true => e.with_help(
                    "the result holds the measurements made before; restart the driver and run this command again",
                ),
                false => e,
            };
            code = e.exit_code();
            voice.error(format!("{id}: {e}"));
            report.complete = false;
            report.stopped = Some(format!("{id}: {}", bench::measure::reason(&e)));
            report.skipped.push(Skipped {
                device: id.clone(),
                what: "all further measurements".to_owned(),
                why: bench::measure::reason(&e),
            });
        }
    }
    if let Some(signal) = guard.stop() {
        code = interrupt::mark(&mut report, signal);
    }
    (report, code)
}

fn on_device(
    bench: &Workbench,
    asked: &Asked,
    (ops, steps): (bool, bool),
    report: &mut Report,
    voice: &Voice,
) -> Result<()> {
    let stop = || bench.stopped();
    let models = asked.wanted.models(bench)?;
    if let Some(smaller) = asked.wanted.smaller(bench, ops, steps) {
        voice.note(format!(
            "{}: this device runs on the CPU, so the default shapes are smaller: {smaller}",
            bench.id
        ));
    }
    let pace = Some(bench.pace()?.how(bench.device));
    if let Some(entry) = report.devices.last_mut() {
        entry.pace = pace;
    }
    let jobs = if ops { asked.wanted.jobs(bench, &models) } else { Planned::Given(&[]) };
    let settings = if steps { asked.settings(bench.is_slow()) } else { Vec::new() };
    let bar = voice.bar((jobs.len() + settings.len() * models.len() + 1) as u64, "measured");
    let before = bench.ceilings()?;
    report.judge(&bench.id, before.clone(), None);
    bar.inc(1);
    let measured = bench::ops::run(bench, &jobs, report, &stop, &mut |job| {
        bar.set_message(job.label());
        bar.inc(1);
    })
    .and_then(|()| {
        models.iter().filter(|_| steps).try_for_each(|(shape, config): &(ModelShape, EncoderConfig)| {
            let mut say = |s: &bench::step::Setting| {
                bar.set_message(s.label());
                bar.inc(1);
            };
            bench::step::run(bench, (&shape.name, config), &settings, asked.repeats, report, &stop, &mut say)
        })
    });
    bar.finish_and_clear();
    let after = match (&measured, stop()) {
        (Ok(()), false) => match bench.ceilings_again(&before) {
            Err(e) if is_stopped(&e) => None,
            ceilings => Some(ceilings?),
        },
        _ => None,
    };
    report.judge(&bench.id, before, after);
    // Ceilings of a test are not those of the device.
    if let Some(entry) = report.devices.last().filter(|_| !quick_ceilings()) {
        bench::ceilings::keep(report, entry);
    }
    measured
}

/// For tests: `TEMPRA_BENCH_QUICK_CEILINGS=1` measures ceilings with three samples of the smallest matmul.
/// The report names the effort, and the cache does not store such ceilings.
fn quick_ceilings() -> bool {
    crate::device::settings::flag_of("TEMPRA_BENCH_QUICK_CEILINGS").is_ok_and(|on| on == Some(true))
}

/// A slowdown for tests: `TEMPRA_BENCH_PLANT=op:N` runs an op N times and counts it as one run, to check that
/// a slower kernel is detected. The report names it.
///
/// # Errors
/// [`Kind::Usage`] for another value.
fn planted() -> Result<Option<(String, usize)>> {
    let name = "TEMPRA_BENCH_PLANT";
    let Some(text) = std::env::var_os(name).filter(|v| !v.is_empty()) else { return Ok(None) };
    let text = text.to_string_lossy();
    let parts =
        text.split_once(':').and_then(|(op, times)| Some((op, times.parse().ok().filter(|n| *n >= 1)?)));
    match parts {
        Some((op, times)) if bench::ops::names().any(|known| known == op) => Ok(Some((op.to_owned(), times))),
        _ => {
            Err(crate::device::settings::unknown(name, &text, "an op and a number of runs, such as linear:3"))
        }
    }
}

fn effort(matches: &ArgMatches) -> Effort {
    let seconds = matches.get_one::<f64>("seconds").copied().unwrap_or(0.3);
    let samples = matches.get_one::<usize>("samples").copied().unwrap_or(5);
    Effort { seconds, samples, planted: planted().unwrap_or_default() }
}

/// Parses `--seconds`.
fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err("expected a number of seconds above 0 and at most 3600".to_owned()),
    }
}

/// A device opened for one type.
type Opened = (String, Device);
