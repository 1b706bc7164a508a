//! A launch: blocks, one after another or at once.

use crate::block::{Block, Common};
use crate::finding::{Finding, Kind, Place};
use crate::isa::{Kernel, Module};
use crate::memory::Memory;
use crate::schedule::Turn;
use crate::warp::Scene;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed of the schedule, which determines the order in which warps and blocks run. 0: the simplest
    /// order.
    pub seed: u64,
    /// The seed of the errors of approximate functions such as `ex2.approx`. 0: they are exact.
    pub blur: u64,
    /// The number of bits of a sum that matrix instructions keep, as tensor cores do. Eight products and the
    /// accumulator are aligned to the largest of them, and lower bits are truncated, as is the result to f32.
    /// Volta keeps 24 bits, later GPUs more (Fasi et al. 2021; Khattak and Mikaitis 2025). 0: all products of
    /// an instruction are added exactly and rounded once.
    pub tensor_bits: u32,
    /// The number of consecutive instructions without a visible change after which a block counts as endless.
    pub patience: u64,
    /// The number of instructions after which a block counts as endless.
    pub limit: u64,
    /// The number of blocks that run concurrently, if blocks may communicate.
    pub resident: usize,
    /// The number of CPU threads for blocks that cannot communicate; 0: one per core.
    pub threads: usize,
    /// The largest shared memory of a block, in bytes.
    pub shared_limit: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 0,
            blur: 0,
            tensor_bits: 0,
            patience: 2_000_000,
            limit: 1 << 36,
            resident: 4,
            threads: 0,
            shared_limit: 227 << 10,
        }
    }
}

/// Counters of a launch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Instructions, each counted once for a warp.
    pub instructions: u64,
    /// Instructions, counted for each lane that took part.
    pub lanes: u64,
    /// Accesses of warps to shared memory, in parts of at most 128 bytes.
    pub shared_requests: u64,
    /// Wavefronts of these requests: as many as requests without bank conflicts.
    pub shared_wavefronts: u64,
    /// Accesses of warps to global memory.
    pub global_requests: u64,
    /// Sectors of 32 bytes that they touched.
    pub global_sectors: u64,
    /// Bytes that they requested, each counted once for an access.
    pub global_bytes: u64,
    /// How often warps executed each instruction of the kernel.
    pub mix: Vec<u64>,
}

impl Stats {
    fn add(&mut self, other: &Stats) {
        self.instructions += other.instructions;
        self.lanes += other.lanes;
        self.shared_requests += other.shared_requests;
        self.shared_wavefronts += other.shared_wavefronts;
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.global_bytes += other.global_bytes;
        for (sum, n) in self.mix.iter_mut().zip(&other.mix) {
            *sum += n;
        }
    }
    /// The number of executed instructions of a kind.
    pub fn count(&self, kernel: &Kernel, sort: impl Fn(&crate::isa::Op) -> bool) -> u64 {
        kernel.code.iter().zip(&self.mix).filter(|(i, _)| sort(&i.op)).map(|(_, n)| n).sum()
    }
    /// Wavefronts in addition to one per request: 0 without bank conflicts.
    pub fn bank_conflicts(&self) -> u64 {
        self.shared_wavefronts - self.shared_requests
    }
}

/// The outcome of a launch.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The findings, in the order of blocks.
    pub findings: Vec<Finding>,
    /// The counters.
    pub stats: Stats,
}

/// A module on a device: its variables have addresses.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The module.
    pub module: Module,
    /// Addresses of its variables.
    pub variables: Vec<u64>,
}

impl Loaded {
    /// Puts a module's variables into memory.
    pub fn new(module: Module, memory: &mut Memory) -> Loaded {
        let put = |v: &crate::isa::Variable, memory: &mut Memory| {
            let at = memory.upload(&v.name, &v.data);
            memory.set_read_only(at, v.constant);
            at
        };
        let variables = module.variables.iter().map(|v| put(v, memory)).collect();
        Loaded { module, variables }
    }
    /// A kernel by its name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.module.kernels.iter().find(|k| k.name == name)
    }
}

/// A launch's shape.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

static LAUNCHES: AtomicU64 = AtomicU64::new(1);

fn refused(kernel: &Kernel, what: String) -> Report {
    let place = Place { file: String::new(), line: 0, called: None, ptx: 0, block: [0; 3], thread: 0 };
    let kernel = kernel.name.clone();
    Report {
        findings: vec![Finding { kind: Kind::Invalid, kernel, place, what, other: None }],
        ..Report::default()
    }
}

/// Runs a kernel. `params` are the bytes of its parameters, each where the kernel's list says.
pub fn launch(
    memory: &Memory,
    loaded: &Loaded,
    kernel: &Kernel,
    grid: Grid,
    params: &[u8],
    options: &Options,
) -> Report {
    let threads = grid.block.iter().fold(1u64, |n, &b| n.saturating_mul(b.into()));
    let blocks = grid.grid.iter().fold(1u64, |n, &b| n.saturating_mul(b.into()));
    let most = if kernel.max_threads > 0 { kernel.max_threads } else { 1024 };
    if threads == 0 || threads > most.into() || blocks == 0 || blocks * threads.div_ceil(32) >= 1 << 31 {
        return refused(kernel, format!("{blocks} blocks of {threads} threads; a block has 1 to {most}"));
    }
    if kernel.static_shared + grid.shared > options.shared_limit {
        let wanted = kernel.static_shared + grid.shared;
        return refused(
            kernel,
            format!("{wanted} bytes of shared memory; a block has {}", options.shared_limit),
        );
    }
    if kernel.local_bytes > 512 << 10 || kernel.frame_bytes > 64 << 10 || kernel.registers.len() > 1 << 16 {
        let (local, registers) = (kernel.local_bytes, kernel.registers.len());
        return refused(kernel, format!("{local} bytes of local memory and {registers} registers a thread"));
    }
    if params.len() != kernel.param_bytes {
        return refused(kernel, format!("{} bytes of parameters for {}", params.len(), kernel.param_bytes));
    }
    let scene = Scene {
        grid: grid.grid,
        block: grid.block,
        dynamic: grid.shared,
        params: params.to_vec(),
        variables: loaded.variables.clone(),
    };
    let common = Common {
        memory,
        kernel,
        files: &loaded.module.files,
        scene: &scene,
        options,
        launch: LAUNCHES.fetch_add(1, Ordering::Relaxed),
        handed: Mutex::new(HashMap::new()),
    };
    let mut order: Vec<u32> = (0..blocks as u32).collect();
    if options.seed != 0 {
        let mut rng = options.seed | 1;
        for i in (1..order.len()).rev() {
            rng = rng.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            order.swap(i, ((rng >> 33) % (i as u64 + 1)) as usize);
        }
    }
    let mut done = if kernel.hand_over { together(&common, &order) } else { apart(&common, &order) };
    done.findings.sort_by_key(|f| f.0);
    let mut report = Report { stats: done.stats, ..Report::default() };
    for f in done.findings.into_iter().flat_map(|f| f.1) {
        let known = report.findings.iter().any(|k| k.kind == f.kind && k.place.ptx == f.place.ptx);
        if !known && report.findings.len() < 64 {
            report.findings.push(f);
        }
    }
    report
}

/// What blocks have done, and what was found in each.
struct Outcome {
    stats: Stats,
    findings: Vec<(u32, Vec<Finding>)>,
}

impl Outcome {
    fn new(kernel: &Kernel) -> Outcome {
        let stats = Stats { mix: vec![0; kernel.code.len()], ..Stats::default() };
        Outcome { stats, findings: Vec::new() }
    }
    fn end(&mut self, block: &mut Block) {
        if !block.findings.is_empty() {
            self.findings.push((block.number, std::mem::take(&mut block.findings)));
        }
    }
}

/// How long a launch goes on alone before others help: longer than it takes to start them.
const ALONE: Duration = Duration::from_micros(150);

/// Blocks that cannot speak to each other, on several CPU threads.
fn apart(common: &Common, order: &[u32]) -> Outcome {
    let next = AtomicUsize::new(0);
    // The first block that stops: those that come later are not of interest.
    let stopped = AtomicUsize::new(usize::MAX);
    let all = Mutex::new(Outcome::new(common.kernel));
    let work = |help: &mut dyn FnMut()| {
        let mut block = Block::new(common);
        let mut mine = Outcome::new(common.kernel);
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(&number) = order.get(i).filter(|_| i <= stopped.load(Ordering::Relaxed)) else { break };
            block.begin(number);
            let good = loop {
                match block.turn() {
                    Ok(Turn::Done) => break true,
                    Ok(Turn::Ran) => help(),
                    Ok(Turn::Stuck) => {
                        block.deadlock();
                        break false;
                    }
                    Err(_) => break false,
                }
            };
            if !good {
                stopped.fetch_min(i, Ordering::Relaxed);
            }
            mine.end(&mut block);
            help();
        }
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.stats.add(&block.stats);
        all.findings.append(&mut mine.findings);
    };
    // Asking for it takes longer than a small launch.
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = || *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let threads = if common.options.threads > 0 { common.options.threads } else { cores() };
    if threads.min(order.len()) <= 1 {
        work(&mut || {});
    } else {
        std::thread::scope(|s| {
            let begun = Instant::now();
            let mut helped = false;
            work(&mut || {
                let left = order.len().saturating_sub(next.load(Ordering::Relaxed));
                if !helped && left > 0 && begun.elapsed() > ALONE {
                    helped = true;
                    (0..left.min(threads - 1)).for_each(|_| drop(s.spawn(|| work(&mut || {}))));
                }
            });
        });
    }
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks that may wait for each other: some at once, in turns.
fn together(common: &Common, order: &[u32]) -> Outcome {
    let mut waiting = order.iter();
    let mut here: Vec<Block> = Vec::new();
    let mut free: Vec<Block> = Vec::new();
    let mut done = Outcome::new(common.kernel);
    let mut stuck = 0;
    'run: loop {
        while here.len() < common.options.resident.max(1) {
            let Some(&number) = waiting.next() else { break };
            let mut block = free.pop().unwrap_or_else(|| Block::new(common));
            block.begin(number);
            here.push(block);
        }
        if here.is_empty() {
            break;
        }
        let mut i = 0;
        while i < here.len() {
            match here[i].turn() {
                Ok(Turn::Done) => {
                    let mut block = here.remove(i);
                    done.end(&mut block);
                    free.push(block);
                    stuck = 0;
                    continue;
                }
                Ok(Turn::Ran) => stuck = 0,
                Ok(Turn::Stuck) => stuck += 1,
                Err(_) => break 'run,
            }
            // Nothing of one block's shared memory can be changed by another: it is stuck for good.
            if stuck > 2 * here.len() {
                here[i].deadlock();
                break 'run;
            }
            i += 1;
        }
    }
    for mut block in here.into_iter().chain(free) {
        done.end(&mut block);
        done.stats.add(&block.stats);
    }
    done
}
