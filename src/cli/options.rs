//! Options that several commands take, each with one name and one meaning.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::shape::DType;
use crate::tasks::{TASKS, TaskEntry};
use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgAction, ArgMatches};

/// The most threads that can be asked for, as in a recipe.
const THREADS: u64 = 4096;

/// `--device`.
pub fn device_arg() -> Arg {
    let help = "Device: auto, cpu, cuda, cuda:N, wgpu or wgpu:N [default: auto]";
    Arg::new("device").long("device").value_name("NAME").help(help)
}

/// `--threads`.
pub fn threads_arg() -> Arg {
    let help = "CPU threads; 0 uses all cores [default: 0]";
    let number = RangedU64ValueParser::<usize>::new().range(0..=THREADS);
    Arg::new("threads").long("threads").value_name("N").value_parser(number).help(help)
}

/// `--precision`.
pub fn precision_arg() -> Arg {
    let help = "Data type to compute in, like the key `precision` of a recipe [default: f32]";
    Arg::new("precision").long("precision").value_name("TYPE").value_parser(["f32", "f16", "bf16"]).help(help)
}

/// `--json`, where a command has a result that programs read.
pub fn json_arg() -> Arg {
    let help = "Print the result as JSON";
    Arg::new("json").long("json").action(ArgAction::SetTrue).help(help)
}

/// Whether a flag was given; `false` for a flag that the command does not have.
pub(super) fn flag(matches: &ArgMatches, id: &str) -> bool {
    matches.try_get_one::<bool>(id).ok().flatten().copied().unwrap_or(false)
}

/// The text of an option, if it was given.
pub(super) fn text<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a str> {
    matches.try_get_one::<String>(id).ok().flatten().map(String::as_str)
}

/// A whole number, at least 1.
pub(super) fn count(id: &'static str, help: &'static str) -> Arg {
    let number = RangedU64ValueParser::<usize>::new().range(1..=u64::from(u32::MAX));
    Arg::new(id).long(id).value_name("N").value_parser(number).help(help)
}

/// `--text`, `--pair` and the like: the name of a column.
pub(super) fn column(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).long(id).value_name("COLUMN").help(help)
}

/// Opens the device that `--device`, `--precision` and `--threads` ask for; the threads also split texts into
/// tokens.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for a name that is none,
/// [`Kind::Device`](crate::error::Kind::Device) for a device that this build or machine lacks.
pub fn open_device(matches: &ArgMatches) -> Result<Device> {
    let threads = matches.try_get_one::<usize>("threads").ok().flatten().copied().unwrap_or(0);
    let dtype = match text(matches, "precision") {
        Some("f16") => DType::F16,
        Some("bf16") => DType::BF16,
        _ => DType::F32,
    };
    let device = Device::open(text(matches, "device").unwrap_or("auto"), threads)?.with_compute(dtype)?;
    if threads > 0 {
        // Fails only where the pool is there already, as in a program that calls this twice: it stays as it
        // is.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    Ok(device)
}

/// What `of` says of each task, for a help text: the tasks that say the same on one line.
pub(super) fn listed(of: fn(&TaskEntry) -> &[&'static str]) -> String {
    let mut lines: Vec<(Vec<&str>, &[&str])> = Vec::new();
    for (_, entry) in TASKS.iter().filter(|(_, entry)| !of(entry).is_empty()) {
        match lines.iter_mut().find(|(_, said)| *said == of(entry)) {
            Some((names, _)) => names.push(entry.name),
            None => lines.push((vec![entry.name], of(entry))),
        }
    }
    let line = |(names, said): &(Vec<&str>, &[&str])| {
        format!("  {:<13}  {}\n", names.join(", "), said.join("\n                 "))
    };
    lines.iter().map(line).collect()
}

/// `--set KEY=VALUE`, which may be given several times and overrides keys of a recipe.
pub fn set_arg() -> Arg {
    Arg::new("set").long("set").value_name("KEY=VALUE").action(ArgAction::Append).help(
        "Override a key of the recipe, such as --set optim.lr=3e-5; an empty value restores the default",
    )
}

/// The keys and values of every `--set`, in order.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for one without a key or without `=`.
pub fn sets(matches: &ArgMatches) -> Result<Vec<(String, String)>> {
    let given = matches.try_get_many::<String>("set").ok().flatten();
    let pair = |flag: &String| match flag.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err(Error::usage(format!("--set {flag} is not a key and a value"))
            .with_expected("KEY=VALUE, such as optim.lr=3e-5")
            .with_help("`tempra help recipe` lists the keys")),
    };
    given.into_iter().flatten().map(pair).collect()
}
