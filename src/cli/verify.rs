//! `tempra verify`: proves that a device computes what it should.

use super::options::{device_arg, flag, json_arg, open_device, precision_arg, text, threads_arg};
use super::output::{Destination, say, say_json};
use crate::error::Result;
use crate::parity::{Certificate, Row};
use clap::{Arg, ArgMatches, Command};

pub fn define() -> Command {
    Command::new("verify")
        .about("Prove that a device computes correct results")
        .long_about(
            "Prove that a device computes correct results.\n\n\
             tempra runs every op on the device, forward and backward, on hard test cases, and compares the results with \
             the CPU in f64. (tempra's tests check the gradients of the CPU against finite differences.) The command \
             prints a table, and exits with code 1 if a result is outside of its error bound.\n\n\
             The result is saved as a certificate. `tempra train` on the same device with the same kernels writes its \
             digest to metrics.json in the run folder.",
        )
        .after_help("Examples:\n  tempra verify --device wgpu\n  tempra verify --device wgpu:1 -o certificate.json")
        .arg(device_arg())
        .arg(threads_arg())
        .arg(precision_arg())
        .arg(Arg::new("output").short('o').long("output").value_name("FILE").help("Write the certificate to this file as well"))
        .arg(json_arg())
}

fn line(r: &Row) -> String {
    let number = |e: Option<f64>| e.map_or("-".to_owned(), |e| format!("{e:.1e}"));
    let what = match &r.failure {
        Some(why) => format!("  {}", why.lines().next().unwrap_or(why)),
        None => String::new(),
    };
    format!(
        "{:<4} {:<20} {:<44} {:<5} {:>8} {:>8} {:>8.0e}{what}",
        if r.passed { "ok" } else { "FAIL" },
        r.op,
        r.case,
        r.dtype,
        number(r.forward),
        number(r.backward),
        r.bounds[1],
    )
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let json = flag(matches, "json");
    let output = text(matches, "output").map(|name| Destination::of(Some(name))).transpose()?;
    let device = open_device(matches)?;
    let mut told = Ok(());
    if !json {
        told = say(format!(
            "device: {}\n\n     {:<20} {:<44} {:<5} {:>8} {:>8} {:>8}",
            device.caps().label(),
            "op",
            "case",
            "dtype",
            "forward",
            "backward",
            "bound"
        ));
    }
    let begun = std::time::Instant::now();
    let certificate = Certificate::issue(&device, |row| {
        if !json && told.is_ok() {
            told = say(line(row));
        }
    })?;
    if let Some(output) = output {
        output.write(|out| writeln!(out, "{:#}", certificate.to_json()))?;
    }
    let kept = crate::cache::dir().map(|cache| certificate.keep(&cache)).transpose()?;
    // The certificate is kept before it is an error that the table could not be written.
    told?;
    if json {
        say_json(&certificate.to_json())?;
    } else {
        let missed = certificate.rows.iter().filter(|r| !r.passed).count();
        let verdict = match missed {
            0 => format!("all {} cases are correct", certificate.rows.len()),
            n => format!("{n} of {} cases are WRONG", certificate.rows.len()),
        };
        say(format!(
            "\n{verdict} ({:.1} s); digest {}",
            begun.elapsed().as_secs_f64(),
            certificate.digest()
        ))?;
        if let Some(path) = kept {
            say(format!("certificate: {}", path.display()))?;
        }
    }
    Ok(if certificate.passed() { 0 } else { 1 })
}
