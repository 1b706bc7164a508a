//! The measurements that a command line asks for: devices, types and effort. [`Wanted`] holds ops and shapes.

use super::Opened;
use super::wanted::Wanted;
use crate::bench::report::Skipped;
use crate::bench::{Effort, LengthSource, measure, step};
use crate::device::{Device, DeviceId, settings};
use crate::error::{Error, Result};
use crate::shape::DType;
use clap::ArgMatches;

/// The most tokens of a training step's batch.
const MOST_TOKENS: usize = 1 << 24;

/// Devices, ops, shapes.
pub struct Asked {
    pub devices: Vec<Opened>,
    /// Types that a device cannot compute in.
    pub refused: Vec<Skipped>,
    pub effort: Effort,
    /// Ops, shapes and lengths.
    pub wanted: Wanted,
    /// The number of sequences, their length, and whether to sweep.
    step: (usize, usize, bool),
    /// The number of steps queued on a GPU for one measurement.
    pub repeats: usize,
}

impl Asked {
    /// Checks the command line before anything is measured. `ops` and `steps`: what is measured.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for unknown ops, models and sizes, and devices named twice;
    /// those of opening a device; [`Kind::Device`](crate::error::Kind::Device) if no device can compute in
    /// any of the types.
    pub fn of(matches: &ArgMatches, (ops, steps): (bool, bool)) -> Result<Asked> {
        let number = |id: &str| matches.get_one::<usize>(id).copied().unwrap_or(1);
        let wanted = Wanted::of(matches, ops)?;
        let (sequences, length) = (number("sequences"), number("length"));
        if steps {
            fits(sequences, length, wanted.lengths())?;
        }
        super::planted()?;
        settings::flag_of("TEMPRA_BENCH_QUICK_CEILINGS")?;
        let threads = matches.get_one::<usize>("threads").copied().unwrap_or(0);
        let (devices, refused) =
            open(&list(matches, "device", "auto"), &list(matches, "dtype", "f32"), threads)?;
        Ok(Asked {
            devices,
            refused,
            effort: super::effort(matches),
            wanted,
            step: (sequences, length, !matches.get_flag("no-sweep")),
            repeats: number("repeats"),
        })
    }
    /// The training steps to measure on a device.
    pub fn settings(&self, slow: bool) -> Vec<step::Setting> {
        let (sequences, length, sweeps) = self.step;
        match self.wanted.lengths() {
            Some(lengths) => step::settings_of(lengths, sequences),
            None => step::settings(sequences, length, sweeps, slow),
        }
    }
}

/// Refuses a batch of a training step that is too large when it is padded.
fn fits(sequences: usize, length: usize, lengths: Option<&LengthSource>) -> Result<()> {
    let too_large = |n: usize, longest: usize| n.checked_mul(longest).is_none_or(|t| t > MOST_TOKENS);
    let e = |found: String| {
        Err(Error::usage("the batch of a training step is too large")
            .with_expected(format!("at most {MOST_TOKENS} tokens, padding included"))
            .with_found(found))
    };
    if too_large(sequences, length) && lengths.is_none_or(|l| l.list().is_none()) {
        return e(format!("--sequences {sequences} x --length {length}"));
    }
    let Some(drawn) = lengths.map(|l| l.with_sequences(sequences)) else { return Ok(()) };
    match too_large(drawn.sequences(), drawn.longest()) {
        true => e(format!("{} sequences of up to {} tokens", drawn.sequences(), drawn.longest())),
        false => Ok(()),
    }
}

/// The values of an option, or its default.
fn list<'a>(matches: &'a ArgMatches, id: &str, default: &'a str) -> Vec<&'a str> {
    match matches.get_many::<String>(id) {
        Some(all) => all.map(String::as_str).collect(),
        None => vec![default],
    }
}

/// Checks that the names are of different devices: `cuda` and `cuda:0` are one.
fn distinct(names: &[&str]) -> Result<()> {
    let ids = names.iter().map(|name| DeviceId::parse(name)).collect::<Result<Vec<_>>>()?;
    for (i, id) in ids.iter().enumerate() {
        if let Some(before) = ids[..i].iter().position(|other| other == id) {
            let both = format!("{} and {}", names[before], names[i]);
            return Err(Error::usage(format!("the device {id} is named twice: {both}"))
                .with_help("name each device once"));
        }
    }
    Ok(())
}

/// Opens each device for each type that it can compute in. A device has memory and graphs of its own for each
/// type, so that the results for one type do not depend on the others. Also returns the types that a device
/// lacks.
fn open(names: &[&str], types: &[&str], threads: usize) -> Result<(Vec<Opened>, Vec<Skipped>)> {
    distinct(names)?;
    let (mut devices, mut refused): (Vec<Opened>, Vec<Skipped>) = Default::default();
    let mut why = None;
    for &name in names {
        // Opened once, also if it lacks some of the types.
        let mut spare: Option<Device> = None;
        for &dtype in types {
            let number = match dtype {
                "f16" => DType::F16,
                "bf16" => DType::BF16,
                _ => DType::F32,
            };
            let name_of = if name == "auto" { "cpu" } else { name };
            let id = if dtype == "f32" { name_of.to_owned() } else { format!("{name_of} {dtype}") };
            let ids = devices.iter().map(|(id, _)| id).chain(refused.iter().map(|s| &s.device));
            if ids.into_iter().any(|other| *other == id) {
                return Err(Error::usage(format!("the device {id} is named twice"))
                    .with_help("name each device and each type once"));
            }
            let device = spare.take().map_or_else(|| Device::open(name, threads), Ok)?;
            if let Err(e) = device.can_compute(number) {
                let skipped =
                    Skipped { device: id, what: "every measurement".to_owned(), why: measure::reason(&e) };
                refused.push(skipped);
                why.get_or_insert(e);
                spare = Some(device);
                continue;
            }
            devices.push((id, device.with_compute(number)?));
        }
    }
    match why {
        Some(e) if devices.is_empty() => Err(e),
        _ => Ok((devices, refused)),
    }
}
