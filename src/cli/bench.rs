//! `tempra bench`: how fast the kernels are here.

use super::options::{count, device_arg, flag, json_arg, open_device, precision_arg, text, threads_arg};
use super::output::{say, say_json};
use crate::bench::{self, Product, Setting, StepReport, Work};
use crate::device::{Device, Pass};
use crate::error::Result;
use crate::models::{encoder_shape, source};
use crate::nn::EncoderConfig;
use crate::ops::linear::Activation;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

pub fn define() -> Command {
    let whole = |id, help, default: &'static str| count(id, help).default_value(default);
    Command::new("bench")
        .about("Measures the kernels of a device")
        .long_about(
            "Measures a training step op by op, the step as a whole, and the matrix product by itself beside the CPU's.\n\n\
             The model has random weights; its shape is that of all-MiniLM-L6-v2, or of the folder that --model names. \
             Times are medians over the steps. An op's time is the device's own where it has a clock, else the time until \
             it was idle again; operations and bytes are what the formula asks for, so the rates are not those of some \
             counter.",
        )
        .after_help("Examples:\n  tempra bench --device wgpu\n  tempra bench --sequences 16 --length 128 --json")
        .arg(device_arg())
        .arg(threads_arg())
        .arg(Arg::new("model").long("model").value_name("MODEL").help("A model whose shape is measured"))
        .arg(whole("sequences", "Sequences of a batch", "8"))
        .arg(whole("length", "Tokens of each sequence", "64"))
        .arg(whole("repeats", "Steps and products that are measured", "5"))
        .arg(Arg::new("no-step").long("no-step").action(ArgAction::SetTrue).help("Only the matrix product"))
        .arg(precision_arg())
        .arg(json_arg())
}

/// all-MiniLM-L6-v2.
fn minilm() -> EncoderConfig {
    EncoderConfig {
        vocab: 30522,
        positions: 512,
        types: 2,
        hidden: 384,
        layers: 6,
        heads: 12,
        intermediate: 1536,
        act: Activation::GeluErf,
        ..EncoderConfig::default()
    }
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let number = |id: &str| matches.get_one::<usize>(id).copied().unwrap_or(1);
    let shape = match text(matches, "model") {
        Some(name) => encoder_shape(&source::resolve(name)?)?,
        None => minilm(),
    };
    let setting = Setting {
        sequences: number("sequences"),
        length: number("length").min(shape.positions),
        repeats: number("repeats"),
        shape,
    };
    let device = open_device(matches)?;
    let json = flag(matches, "json");
    if !json {
        say(format!("device: {}", device.caps().name))?;
    }
    let report = match flag(matches, "no-step") {
        true => None,
        false => Some(bench::step(&device, &setting)?),
    };
    if let Some(report) = report.as_ref().filter(|_| !json) {
        say(table(report, &setting))?;
    }
    let host = match device {
        Device::Cpu(_) => None,
        _ => Some(Device::open("cpu", 0)?),
    };
    let mut products: Vec<(Product, Option<Product>)> = Vec::new();
    for shape in bench::SHAPES {
        let there = bench::product(&device, shape, setting.repeats)?;
        let here = host.as_ref().map(|cpu| bench::product(cpu, shape, setting.repeats)).transpose()?;
        products.push((there, here));
    }
    if json {
        say_json(&as_json(&device.caps().name, &setting, report.as_ref(), &products))?;
    } else {
        say(product_table(&products))?;
    }
    Ok(0)
}

fn pass_name(pass: Pass) -> &'static str {
    match pass {
        Pass::Forward => "forward",
        Pass::Backward => "backward",
        Pass::Step => "step",
    }
}

fn shapes(w: &Work) -> String {
    // The first two tell which of an op's uses this is.
    let one = |s: &Vec<usize>| s.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    w.shapes.iter().take(2).map(one).collect::<Vec<_>>().join(" ")
}

fn table(r: &StepReport, s: &Setting) -> String {
    let sum: f64 = r.work.iter().map(|w| w.seconds).sum();
    let mut text = format!(
        "\nA training step: {} layers, {} wide, {} sequences of {} tokens\n\n{:<22} {:<9} {:<24} {:>5} {:>9} {:>6} {:>9} {:>8}\n",
        s.shape.layers,
        s.shape.hidden,
        s.sequences,
        s.length,
        "op",
        "pass",
        "on",
        "calls",
        "ms",
        "share",
        "GFLOP/s",
        "GB/s"
    );
    for w in &r.work {
        text += &format!(
            "{:<22} {:<9} {:<24} {:>5} {:>9.3} {:>5.1}% {:>9.1} {:>8.2}\n",
            w.op,
            pass_name(w.pass),
            shapes(w),
            w.calls,
            w.seconds * 1e3,
            100.0 * w.seconds / sum,
            w.flops / w.seconds / 1e9,
            w.bytes / w.seconds / 1e9,
        );
    }
    text += &format!(
        "\nops together {:.1} ms; a step in training {:.1} ms, {:.0} tokens/s\n",
        sum * 1e3,
        r.seconds * 1e3,
        r.tokens as f64 / r.seconds
    );
    if let Some([allocations, reads, launches, submissions]) = r.counts {
        text += &format!(
            "in {} warm steps: {allocations} allocations, {reads} read-backs, {launches} kernels in {submissions} command buffers\n",
            s.repeats
        );
    }
    text
}

fn product_table(products: &[(Product, Option<Product>)]) -> String {
    let mut text = format!(
        "Matrix product, GFLOP/s\n\n{:<18} {:>9} {:>9} {:>13} {:>13}\n",
        "rows x cols x depth", "forward", "backward", "CPU forward", "CPU backward"
    );
    for (there, here) in products {
        let [m, n, k] = there.shape;
        let host = here.map_or(String::new(), |h| format!(" {:>13.1} {:>13.1}", h.forward, h.backward));
        text += &format!(
            "{:<18} {:>10.1} {:>9.1}{host}\n",
            format!("{m}x{n}x{k}"),
            there.forward,
            there.backward
        );
    }
    text
}

fn as_json(
    device: &str,
    s: &Setting,
    report: Option<&StepReport>,
    products: &[(Product, Option<Product>)],
) -> Value {
    let work = |w: &Work| {
        json!({
            "op": w.op, "pass": pass_name(w.pass), "shapes": w.shapes, "calls": w.calls, "seconds": w.seconds,
            "flops": w.flops, "bytes": w.bytes,
        })
    };
    let step = report.map(|r| {
        json!({
            "seconds": r.seconds, "tokens": r.tokens, "tokens_per_s": r.tokens as f64 / r.seconds,
            "ops": r.work.iter().map(work).collect::<Vec<_>>(),
            "warm": r.counts.map(|[a, b, c, d]| {
                json!({ "steps": s.repeats, "allocations": a, "reads": b, "kernels": c, "command_buffers": d })
            }),
        })
    });
    let rates = |p: &Product| json!({ "forward_gflops": p.forward, "backward_gflops": p.backward });
    let product = |(there, here): &(Product, Option<Product>)| json!({ "shape": there.shape, "device": rates(there), "cpu": here.as_ref().map(rates) });
    json!({
        "tempra": env!("CARGO_PKG_VERSION"), "device": device, "layers": s.shape.layers, "hidden": s.shape.hidden,
        "sequences": s.sequences, "length": s.length, "repeats": s.repeats, "step": step,
        "products": products.iter().map(product).collect::<Vec<_>>(),
    })
}
