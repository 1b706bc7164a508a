//! Every op at the shapes of real models, by criterion: for whoever works on a kernel. `tempra bench ops`
//! walks the same list.
//!
//! `cargo bench --bench ops -- 'linear up'`; a name is op, role, model, tokens and pass. `TEMPRA_DEVICE`
//! (cpu), `TEMPRA_DTYPE` (f32), `TEMPRA_SHAPES` (minilm-l6), `TEMPRA_TOKENS` (256).

use criterion::{Criterion, Throughput};
use std::time::Duration;
use tempra::bench::{Effort, ModelShape, Workbench, ops};
use tempra::device::Device;
use tempra::shape::DType;

type Error = Box<dyn std::error::Error>;

fn env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn main() -> Result<(), Error> {
    // `cargo test` builds benches too; there is nothing to test here.
    if std::env::args().any(|a| a == "--test") {
        return Ok(());
    }
    let dtype = match env("TEMPRA_DTYPE", "f32").as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => return Err(format!("TEMPRA_DTYPE is {other:?}: expected f32, f16 or bf16").into()),
    };
    let wanted = env("TEMPRA_SHAPES", "minilm-l6");
    let models: Vec<ModelShape> = ModelShape::known().into_iter().filter(|m| m.name == wanted).collect();
    if models.is_empty() {
        let known: Vec<String> = ModelShape::known().into_iter().map(|m| m.name).collect();
        return Err(format!("TEMPRA_SHAPES is {wanted:?}: expected one of {}", known.join(", ")).into());
    }
    let tokens: usize = env("TEMPRA_TOKENS", "256").parse()?;
    let device = Device::open(&env("TEMPRA_DEVICE", "cpu"), 0)?.with_compute(dtype)?;
    let bench = Workbench::new(&device, "bench".to_owned(), Effort::default());
    let mut criterion =
        Criterion::default().measurement_time(Duration::from_secs(2)).sample_size(20).configure_from_args();
    for job in &ops::plan(&models, &[tokens], &|_| true) {
        let ready = match bench.ready(job) {
            Ok(ready) => ready,
            Err(e) => {
                eprintln!("{}: skipped: {}", job.label(), tempra::bench::measure::reason(&e));
                continue;
            }
        };
        bench.warm(&ready)?;
        let mut group = criterion.benchmark_group(job.label());
        for &pass in ready.passes() {
            let [flops, bytes] = ready.cost(pass);
            // Criterion knows one quantity: what bounds the op on most machines.
            group.throughput(if flops > 16.0 * bytes {
                Throughput::Elements(flops as u64)
            } else {
                Throughput::Bytes(bytes as u64)
            });
            let mut failed = None;
            group.bench_function(format!("{pass:?}").to_lowercase(), |b| {
                b.iter_custom(|runs| {
                    let timed = bench
                        .timed(&ready, pass, 0..runs as usize)
                        .inspect_err(|e| failed = Some(e.to_string()));
                    Duration::from_secs_f64(timed.unwrap_or(1.0))
                });
            });
            if let Some(e) = failed {
                return Err(e.into());
            }
        }
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}
