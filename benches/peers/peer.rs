//! What peers in Rust share: how times are taken and reported. Each includes this file; none of it is tempra.
//!
//! The method is that of `tempra bench` (src/bench/measure.rs): random operands in more sets than the cache
//! holds, used in turn; all sets run once first; runs are repeated until one measurement is long enough for
//! the clock, measurements until the granted time is over; medians and quartiles. Bytes and operations are
//! counted as src/ops counts them. The report is the JSON that src/bench/report/schema.json describes.
//!
//! A backward pass is timed alone: the graphs of one measurement are built before its clock starts and
//! freed after it stopped, unless the library frees them in the pass. Its seed is ones, which both libraries
//! make in the pass.

#[path = "system.rs"]
mod system;

use serde_json::{json, Value};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use system::{cache_bytes, forget_peak, load, machine, peak};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub const MODEL: &str = "minilm-l6";
pub const HIDDEN: usize = 384;
pub const LAYERS: usize = 6;
pub const HEADS: usize = 12;
pub const INTERMEDIATE: usize = 1536;
pub const VOCAB: usize = 30522;
pub const POSITIONS: usize = 512;
pub const DROPOUT: f64 = 0.1;
pub const EPS: f64 = 1e-12;
pub const LR: f64 = 1e-5;
pub const WEIGHT_DECAY: f64 = 0.01;

const SETS: usize = 64;
const RUNS: usize = 64;
const LONG_ENOUGH: f64 = 2e-3;
/// Samples of each ceiling.
const CEILING_SAMPLES: usize = 9;
/// How a copy is made.
const COPIES: [&str; 2] = ["memcpy by all threads", "in-place update by all threads"];
/// Bytes that sets of operands, and graphs that wait for their backward pass, may take.
const BUDGET: f64 = (1u64 << 30) as f64;

/// What a job computes; the sizes stand in its shapes.
#[derive(Clone, Copy)]
pub enum Kind {
    /// ids, positions, types (T each), three tables -> the sum of their rows (T, H).
    Embed,
    /// x (T, K), w (N, K), b (N) -> x wᵀ + b, then GELU (erf) or not.
    Linear { gelu: bool },
    /// x (T, H), gain, bias, residual (T, H) -> layer norm of dropout(x) + residual.
    Block,
    /// x (T, H), gain, bias -> dropout of the layer norm of x.
    Embeddings,
    /// q, k, v (T, H each) in sequences of so many tokens -> (T, H); dropout on the weights.
    Attention { length: usize },
    /// x (T, H) -> the mean of each sequence of so many tokens.
    Pool { length: usize },
    /// logits (rows, classes), targets (rows) -> the mean loss.
    CrossEntropy,
    /// A step of AdamW on so many parameters in one tensor.
    AdamW,
    /// The norm of so many gradients in one tensor.
    GlobalNorm,
}

/// One op at one shape.
pub struct Job {
    op: &'static str,
    role: String,
    tokens: usize,
    pub kind: Kind,
    pub shapes: Vec<Vec<usize>>,
    /// FLOPs and bytes of the forward pass (of a step), then of the backward pass.
    cost: [f64; 4],
}

impl Job {
    fn label(&self) -> String {
        let tokens = if self.tokens == 0 { String::new() } else { format!(", {} tokens", self.tokens) };
        format!("{} {} of {MODEL}{tokens}", self.op, self.role)
    }
}

/// A forward pass on one set of operands; it returns the graph.
pub type Pass<G> = Box<dyn Fn() -> Result<G>>;

/// A training step: seconds of forward, backward and the optimizer.
pub type Step = Box<dyn FnMut(usize) -> Result<[f64; 3]>>;

/// What a library has to do.
pub trait Library {
    /// What a forward pass leaves and a backward pass needs.
    type Graph;
    /// Its name, version and backend.
    fn tool(&self) -> String;
    /// The matmul of two random square matrices.
    fn matmul(&self, side: usize) -> Result<Pass<Self::Graph>>;
    /// A pass on random operands of its own; tables may be shared. An error says why it cannot do the job.
    fn job(&mut self, job: &Job) -> Result<Pass<Self::Graph>>;
    /// From ones at the root to the gradients of all real operands; returns what shall be freed after the
    /// clock stopped.
    fn backward(&self, graph: Self::Graph) -> Result<Box<dyn std::any::Any>>;
    /// A model of the shape in training on random tokens.
    fn training(&mut self, sequences: usize, length: usize) -> Result<Step>;
    /// What is different from tempra's job, or missing: (what, why).
    fn notes(&self) -> &'static [(&'static str, &'static str)];
}

/// Runs the whole program.
pub fn main<L: Library>(library: impl FnOnce() -> Result<L>) {
    let run = || -> Result<()> {
        let args = Args::parse(std::env::args().skip(1))?;
        // Before the first thread pool is made: they read it once.
        std::env::set_var("RAYON_NUM_THREADS", args.threads.to_string());
        let report = Bench::new(library()?, args).run()?;
        println!("{report:#}");
        Ok(())
    };
    if let Err(e) = run() {
        eprintln!("error: {e}");
        std::process::exit(1);
    }
}

struct Args {
    tokens: Vec<usize>,
    seconds: f64,
    threads: usize,
    ops: bool,
    steps: bool,
    sequences: usize,
    length: usize,
}

const USAGE: &str = "[--tokens 256,1024] [--seconds 0.3] [--threads 2] [--only ops,steps] [--sequences 8] [--length 64] > FILE";

impl Args {
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Args> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut a = Args {
            tokens: vec![256],
            seconds: 0.3,
            threads: cpus,
            ops: true,
            steps: true,
            sequences: 8,
            length: 64,
        };
        while let Some(key) = given.next() {
            if key == "--help" || key == "-h" {
                println!("{USAGE}");
                std::process::exit(0);
            }
            let value = given.next().ok_or_else(|| format!("{key} needs a value; usage: {USAGE}"))?;
            let count = || match value.parse::<usize>() {
                Ok(n) if n > 0 => Ok(n),
                _ => Err(format!("{key} {value}: expected a number above 0")),
            };
            match key.as_str() {
                "--tokens" => {
                    let each = value.split(',').map(|v| v.parse().ok().filter(|&n| n > 0));
                    a.tokens = each
                        .collect::<Option<_>>()
                        .ok_or_else(|| format!("--tokens {value}: expected numbers above 0"))?;
                }
                "--seconds" => a.seconds = value.parse()?,
                "--threads" => a.threads = count()?,
                "--sequences" => a.sequences = count()?,
                "--length" if count()? <= POSITIONS => a.length = count()?,
                "--length" => {
                    return Err(format!("--length {value}: the model has {POSITIONS} positions").into())
                }
                "--only" => {
                    let parts: Vec<&str> = value.split(',').collect();
                    if let Some(other) = parts.iter().find(|p| !["ops", "steps"].contains(p)) {
                        return Err(format!("--only {other}: expected ops, steps or both").into());
                    }
                    (a.ops, a.steps) = (parts.contains(&"ops"), parts.contains(&"steps"));
                }
                _ => return Err(format!("unknown option {key}; usage: {USAGE}").into()),
            }
        }
        Ok(a)
    }
}

/// Every op that is asked of a peer, as src/bench/shapes has it.
fn jobs(tokens: usize, once: bool) -> Vec<Job> {
    let (h, f, e) = (HIDDEN, INTERMEDIATE, 4.0);
    let length = tokens.min(128);
    let sequences = (tokens / length).max(1);
    let t = sequences * length;
    let job = |op, role: &str, kind, shapes: &[&[usize]], cost| Job {
        op,
        role: role.to_owned(),
        tokens: t,
        kind,
        shapes: shapes.iter().map(|s| s.to_vec()).collect(),
        cost,
    };
    let (tf, y) = (t as f64, (t * h) as f64 * e);
    let th = (t * h) as f64;
    let tables = ((VOCAB + POSITIONS + 2) * h) as f64;
    // The counts are those of tempra (src/ops/cost.rs). Each set names other random words: as many distinct
    // ones as is expected.
    let vocab = VOCAB as f64;
    let words = vocab * (1.0 - (1.0 - 1.0 / vocab).powi(t as i32));
    let rows = (words.round() + (length.min(t) + 2) as f64) * h as f64 * e;
    let mut all = vec![job(
        "embed",
        "tables",
        Kind::Embed,
        &[&[t], &[t], &[t], &[VOCAB, h], &[POSITIONS, h], &[2, h]],
        [2.0 * th, 12.0 * tf + rows + y, 3.0 * th, 12.0 * tf + y + tables * e],
    )];
    for (role, k, n, gelu) in [
        ("qkv", h, 3 * h, false),
        ("attention output", h, h, false),
        ("up, gelu", h, f, true),
        ("down", f, h, false),
    ] {
        let flops = (2 * t * k * n) as f64;
        let (own, out) = ((t * k + n * k) as f64 * e, (t * n) as f64 * e * if gelu { 2.0 } else { 1.0 });
        let bias = n as f64 * e;
        let cost = [flops, own + bias + out, 2.0 * flops, 2.0 * own + bias + out];
        all.push(job("linear", role, Kind::Linear { gelu }, &[&[t, k], &[n, k], &[n]], cost));
    }
    let norm = |arrays: f64| {
        // Nine operations an element with a residual, eight without.
        let each = 5.0 + arrays;
        let [there, back] = [2.0, 3.0].map(|vectors| arrays * y + vectors * h as f64 * e + 4.0 * tf + 20.0);
        [each * th + 5.0 * tf, there, 12.0 * th + 2.0 * tf, back]
    };
    all.push(job("add_norm", "block", Kind::Block, &[&[t, h], &[h], &[h], &[t, h]], norm(4.0)));
    all.push(job("add_norm", "embeddings", Kind::Embeddings, &[&[t, h], &[h], &[h]], norm(3.0)));
    let mut attention = |length: usize| {
        let (flops, lse) = (4.0 * th * length as f64, 4.0 * tf * HEADS as f64);
        let cost = [flops, 4.0 * y + lse, 2.5 * flops, 8.0 * y + lse];
        let role = format!("length {length}");
        all.push(job("attention", &role, Kind::Attention { length }, &[&[t, h], &[t, h], &[t, h]], cost));
    };
    attention(length);
    for longer in [64, 256, 512] {
        if t.is_multiple_of(longer) && longer != length {
            attention(longer);
        }
    }
    let pooled = y + (sequences * h) as f64 * e;
    let means = (sequences * h) as f64;
    all.push(job("pool", "mean", Kind::Pool { length }, &[&[t, h]], [th + means, pooled, means, pooled]));
    for (role, rows, classes) in [("2 classes", sequences, 2), ("vocabulary", (t / 8).max(1), VOCAB)] {
        let (n, more) = ((rows * classes) as f64, 8.0 * rows as f64 + 8.0);
        let r = rows as f64;
        let cost = [4.0 * n + 4.0 * r + 1.0, n * e + more, 3.0 * n + r + 1.0, 2.0 * n * e + more];
        all.push(job("cross_entropy", role, Kind::CrossEntropy, &[&[rows, classes], &[rows]], cost));
    }
    if once {
        let count =
            (VOCAB + POSITIONS + 2) * h + 2 * h + LAYERS * (4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h);
        let n = count as f64;
        let mut step =
            |op, role, kind, cost| all.push(Job { tokens: 0, ..job(op, role, kind, &[&[count]], cost) });
        step("adamw", "all parameters", Kind::AdamW, [15.0 * n, 28.0 * n, 0.0, 0.0]);
        step("global_norm", "all gradients", Kind::GlobalNorm, [2.0 * n + 1.0, 4.0 * n + 4.0, 0.0, 0.0]);
    }
    all
}

/// Seconds of one run, and how they were taken.
struct Timing {
    seconds: Vec<f64>,
    repeats: usize,
}

/// The median, and the quartiles by linear interpolation.
fn quartiles(v: &[f64]) -> Value {
    let [q1, median, q3] = [0.25, 0.5, 0.75].map(|q| at(v, q));
    json!({ "q1": q1, "median": median, "q3": q3 })
}

fn at(v: &[f64], q: f64) -> f64 {
    let mut v = v.to_vec();
    v.sort_by(f64::total_cmp);
    let place = q * (v.len() - 1) as f64;
    let (low, part) = (place as usize, place.fract());
    v[low] + part * (v[(low + 1).min(v.len() - 1)] - v[low])
}

#[derive(Clone, Copy)]
struct Ceilings {
    /// Rates of all samples.
    copies: Vec<f64>,
    matmuls: Vec<f64>,
    in_place: bool,
    side: usize,
}

impl Ceilings {
    fn copy(&self) -> f64 {
        at(&self.copies, 0.5)
    }
    fn matmul(&self) -> f64 {
        at(&self.matmuls, 0.5)
    }
    /// The samples of both measurements.
    fn with(mut self, after: Ceilings) -> Ceilings {
        self.copies.extend(after.copies);
        self.matmuls.extend(after.matmuls);
        self
    }
}

struct Bench<L: Library> {
    library: L,
    args: Args,
    id: String,
    cache: usize,
    ops: Vec<Value>,
    steps: Vec<Value>,
    skipped: Vec<Value>,
}

impl<L: Library> Bench<L> {
    fn new(library: L, args: Args) -> Bench<L> {
        let id = library.tool();
        let (ops, steps, skipped) = Default::default();
        Bench { library, args, id, cache: cache_bytes(), ops, steps, skipped }
    }

    fn run(mut self) -> Result<Value> {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut machine = machine();
        let before = self.ceilings(None)?;
        if self.args.ops {
            for (i, tokens) in self.args.tokens.clone().into_iter().enumerate() {
                for job in jobs(tokens, i == 0) {
                    eprintln!("{}: {}", self.id, job.label());
                    if let Err(e) = self.measure(&job) {
                        self.skip(&job.label(), &e.to_string());
                    }
                }
            }
        }
        if self.args.steps {
            let (n, l) = (self.args.sequences, self.args.length);
            eprintln!("{}: step of {MODEL}, {n} sequences of {l} tokens", self.id);
            if let Err(e) = self.step(n, l) {
                self.skip(&format!("{MODEL}: base step, {n} sequences of up to {l} tokens"), &e.to_string());
            }
        }
        for (what, why) in self.library.notes() {
            self.skip(what, why);
        }
        let after = self.ceilings(Some(&before))?;
        let drift = [after.copy() / before.copy(), after.matmul() / before.matmul()];
        let best = before.with(after);
        self.judge(&best);
        machine["load_after"] = load();
        Ok(json!({
            "schema": 2, "begun": begun, "complete": true, "stopped": null,
            "devices": [{
                "machine": machine,
                "id": self.id, "tool": self.library.tool(), "dtype": "f32", "memory_bytes": null,
                "description": format!("cpu ({} threads)", self.args.threads),
                "timer": "host clock", "cache_bytes": self.cache,
                "ceilings": {
                    "copy_bytes_per_s": best.copy(), "matmul_flops_per_s": best.matmul(),
                    "how": format!("medians of {CEILING_SAMPLES} samples; copy: {}, bytes read plus written; \
                        matmul: {1} x {1} x {1} by the library", COPIES[usize::from(best.in_place)], best.side),
                    "drift": drift, "copy_by": COPIES[usize::from(best.in_place)], "matmul_side": best.side,
                    "copy_samples_bytes_per_s": best.copies, "matmul_samples_flops_per_s": best.matmuls,
                },
            }],
            "ops": self.ops, "steps": self.steps, "skipped": self.skipped,
        }))
    }

    fn skip(&mut self, what: &str, why: &str) {
        let why = why.lines().next().unwrap_or("no message");
        self.skipped.push(json!({ "device": self.id, "what": what, "why": why }));
    }

    /// Times `run(first, count)`, which returns the seconds of so many runs from the number `first` on.
    fn time(
        &self,
        sets: usize,
        most: usize,
        samples: Option<usize>,
        mut run: impl FnMut(usize, usize) -> Result<f64>,
    ) -> Result<Timing> {
        let mut next = 0;
        let mut measure = |runs: usize| -> Result<f64> {
            next += runs;
            Ok(run(next - runs, runs)? / runs as f64)
        };
        for _ in 0..sets {
            measure(1)?;
        }
        let one = measure(1)?.min(measure(1)?);
        let repeats = ((LONG_ENOUGH / one.max(1e-9)).ceil() as usize).clamp(1, most);
        // A fixed number of samples does not depend on --seconds.
        let limit = if samples.is_some() { 0.0 } else { self.args.seconds };
        let least = samples.unwrap_or(if one > limit { 3 } else { 5 });
        let (mut seconds, mut spent) = (Vec::new(), 0.0);
        while seconds.len() < least || spent < limit {
            let s = measure(repeats)?;
            seconds.push(s);
            spent += s * repeats as f64;
        }
        Ok(Timing { seconds, repeats })
    }

    fn measure(&mut self, job: &Job) -> Result<()> {
        let [flops, bytes, back_flops, back_bytes] = job.cost;
        let is_step = matches!(job.kind, Kind::AdamW | Kind::GlobalNorm);
        // One set of a step's operands is far larger than any cache.
        let sets = if is_step {
            1
        } else {
            ((2 * self.cache).div_ceil(bytes as usize))
                .clamp(2, SETS)
                .min((BUDGET / (3.0 * bytes)) as usize)
                .max(1)
        };
        let all = (0..sets).map(|_| self.library.job(job)).collect::<Result<Vec<_>>>()?;
        let forward = |first: usize, runs: usize| {
            let begun = Instant::now();
            for i in first..first + runs {
                drop(all[i % sets]()?);
            }
            Ok(begun.elapsed().as_secs_f64())
        };
        let there = self.time(sets, RUNS, None, forward)?;
        let kind = if is_step { "step" } else { "forward" };
        self.note(job, kind, &there, sets, flops, bytes);
        if is_step {
            return Ok(());
        }
        let backward = |first: usize, runs: usize| {
            let graphs = (first..first + runs).map(|i| all[i % sets]()).collect::<Result<Vec<_>>>()?;
            let mut rest = Vec::with_capacity(runs);
            let begun = Instant::now();
            for graph in graphs {
                rest.push(self.library.backward(graph)?);
            }
            Ok(begun.elapsed().as_secs_f64())
        };
        // A graph of a chain of small ops holds several times what the op must move.
        let most = ((BUDGET / (8.0 * back_bytes)) as usize).clamp(1, RUNS);
        let back = self.time(sets, most, None, backward)?;
        self.note(job, "backward", &back, sets, back_flops, back_bytes);
        Ok(())
    }

    fn note(&mut self, job: &Job, pass: &str, timing: &Timing, sets: usize, flops: f64, bytes: f64) {
        self.ops.push(json!({
            "device": self.id, "op": job.op, "role": job.role, "model": MODEL, "tokens": job.tokens, "pass": pass,
            "shapes": job.shapes, "seconds": quartiles(&timing.seconds), "samples": timing.seconds.len(), "samples_s": timing.seconds,
            "repeats": timing.repeats, "sets": sets, "beyond_cache": job.cost[1] * sets as f64 > self.cache as f64,
            "flops": flops, "bytes": bytes, "launches": null, "percent": null, "bound": null,
        }));
    }

    /// Notes how near the rows come to what the ceilings allow.
    fn judge(&mut self, best: &Ceilings) {
        for row in self.ops.iter_mut().filter(|r| r["beyond_cache"] == true) {
            let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
            let (copy, matmul) = (number(&row["bytes"]) / best.copy(), number(&row["flops"]) / best.matmul());
            row["percent"] = json!(100.0 * copy.max(matmul) / number(&row["seconds"]["median"]));
            row["bound"] = json!(if matmul > copy { "matmul" } else { "copy" });
        }
    }

    /// Medians of a fixed number of samples, as tempra's (src/bench/ceilings); after a first time by the same
    /// copy and the same side.
    fn ceilings(&self, before: Option<&Ceilings>) -> Result<Ceilings> {
        let n = self.cache;
        let (from, mut to) = (vec![0.5f32; n], vec![0.25f32; n]);
        let part = n.div_ceil(self.args.threads);
        // A store to what is not in the cache reads it first, unless it was read anyway.
        let mut best = Ceilings { copies: vec![0.0], matmuls: vec![0.0], in_place: false, side: 0 };
        for in_place in [false, true].into_iter().filter(|&way| before.is_none_or(|b| b.in_place == way)) {
            let run = |_, runs| {
                let begun = Instant::now();
                for _ in 0..runs {
                    std::thread::scope(|s| {
                        for (t, f) in to.chunks_mut(part).zip(from.chunks(part)) {
                            s.spawn(move || match in_place {
                                true => t.iter_mut().for_each(|v| *v = -*v),
                                false => t.copy_from_slice(f),
                            });
                        }
                    });
                }
                Ok(begun.elapsed().as_secs_f64())
            };
            let timing = self.time(1, RUNS, Some(CEILING_SAMPLES), run)?;
            let copies: Vec<f64> = timing.seconds.iter().map(|s| 8.0 * n as f64 / s).collect();
            if at(&copies, 0.5) > best.copy() {
                (best.copies, best.in_place) = (copies, in_place);
            }
        }
        for side in [256, 512, 1024, 2048].into_iter().filter(|&side| before.is_none_or(|b| b.side == side)) {
            let matmul = self.library.matmul(side)?;
            let run = |_, runs| {
                let begun = Instant::now();
                for _ in 0..runs {
                    drop(matmul()?);
                }
                Ok(begun.elapsed().as_secs_f64())
            };
            let timing = self.time(1, RUNS, Some(CEILING_SAMPLES), run)?;
            let flops = 2.0 * (side as f64).powi(3);
            let matmuls: Vec<f64> = timing.seconds.iter().map(|s| flops / s).collect();
            if at(&matmuls, 0.5) > best.matmul() {
                (best.matmuls, best.side) = (matmuls, side);
            }
            // All samples of the next side are expected to take at most a second.
            if 8.0 * at(&timing.seconds, 0.5) * (CEILING_SAMPLES + 3) as f64 > 1.0 {
                break;
            }
        }
        Ok(best)
    }

    fn step(&mut self, sequences: usize, length: usize) -> Result<()> {
        forget_peak();
        let mut step = self.library.training(sequences, length)?;
        step(0)?;
        step(1)?;
        let (mut phases, mut seconds) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        while seconds.len() < 3 || begun.elapsed().as_secs_f64() < self.args.seconds {
            let from = Instant::now();
            phases.push(step(seconds.len())?);
            seconds.push(from.elapsed().as_secs_f64());
        }
        let [forward, backward, optimizer] =
            [0, 1, 2].map(|i| at(&phases.iter().map(|p| p[i]).collect::<Vec<_>>(), 0.5));
        let (median, tokens) = (at(&seconds, 0.5), sequences * length);
        let idle = (median - forward - backward - optimizer).max(0.0);
        self.steps.push(json!({
            "device": self.id, "model": MODEL, "part": "base", "sequences": sequences, "length": length, "tokens": tokens,
            "computed_tokens": tokens, "seconds": quartiles(&seconds), "samples": seconds.len(), "samples_s": seconds,
            "tokens_per_s": tokens as f64 / median, "samples_per_s": sequences as f64 / median, "flops": 0.0,
            "share_of_peak": null, "peak_bytes": peak(), "work": [], "warm": null,
            "phases": { "data": 0.0, "forward": forward, "backward": backward, "optimizer": optimizer, "idle": idle },
        }));
        Ok(())
    }
}

/// Random numbers: splitmix64, Steele, Lea, Flood 2014.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform from -bound to bound.
    pub fn reals(&mut self, n: usize, bound: f32) -> Vec<f32> {
        (0..n).map(|_| bound * ((self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0)).collect()
    }
    /// Uniform below the bound.
    pub fn ints(&mut self, n: usize, bound: usize) -> Vec<u32> {
        (0..n).map(|_| (self.next() % bound as u64) as u32).collect()
    }
}
