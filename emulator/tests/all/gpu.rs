//! A device for tests, and what they compare with.

use emulator::{Finding, Grid, Kernel, Loaded, Memory, Options, Report, launch};

pub struct Gpu {
    pub memory: Memory,
    pub options: Options,
}

/// One argument of a kernel.
pub enum Arg {
    P(u64),
    I(i32),
    F(f32),
    Map(Box<[u8; 128]>),
}

impl Gpu {
    pub fn new(seed: u64) -> Gpu {
        Gpu { memory: Memory::default(), options: Options { seed, ..Options::default() } }
    }
    pub fn load(&mut self, ptx: &str) -> Loaded {
        let module = emulator::parse(ptx).unwrap_or_else(|e| panic!("{e}"));
        Loaded::new(module, &mut self.memory)
    }
    /// What a kernel may only read.
    pub fn input(&mut self, name: &str, bytes: &[u8]) -> u64 {
        let at = self.memory.upload(name, bytes);
        self.memory.set_read_only(at, true);
        at
    }
    pub fn zeros(&mut self, name: &str, bytes: usize) -> u64 {
        self.memory.upload(name, &vec![0; bytes])
    }
    pub fn run(
        &self,
        m: &Loaded,
        kernel: &str,
        grid: [u32; 3],
        block: u32,
        shared: usize,
        args: &[Arg],
    ) -> Report {
        let k: &Kernel = m.kernel(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        let mut params = vec![0; k.param_bytes];
        assert_eq!(k.params.len(), args.len(), "{kernel}");
        for (p, a) in k.params.iter().zip(args) {
            let bytes = match a {
                Arg::P(v) => v.to_le_bytes().to_vec(),
                Arg::I(v) => v.to_le_bytes().to_vec(),
                Arg::F(v) => v.to_le_bytes().to_vec(),
                Arg::Map(v) => v.to_vec(),
            };
            assert_eq!(bytes.len(), p.size, "{kernel}: {}", p.name);
            params[p.at..p.at + p.size].copy_from_slice(&bytes);
        }
        launch(&self.memory, m, k, Grid { grid, block: [block, 1, 1], shared }, &params, &self.options)
    }
    pub fn f32(&self, at: u64, n: usize) -> Vec<f64> {
        let bytes = self.memory.read(at, 4 * n).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
    }
    pub fn half(&self, at: u64, n: usize) -> Vec<f64> {
        let bytes = self.memory.read(at, 2 * n).unwrap();
        bytes.chunks_exact(2).map(|b| bf(u16::from_le_bytes(b.try_into().unwrap()))).collect()
    }
}

pub fn bf(h: u16) -> f64 {
    emulator::number::from_bf16(h).into()
}

/// Reals in (-1, 1), always the same.
pub fn reals(seed: u64, n: usize) -> Vec<f64> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

pub fn bytes_f32(v: &[f64]) -> Vec<u8> {
    v.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()
}

pub fn bytes_i32(v: &[i32]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Rounds to bf16, and gives the bytes as well.
pub fn halves(v: &[f64]) -> (Vec<f64>, Vec<u8>) {
    let h: Vec<u16> = v.iter().map(|&x| emulator::number::to_bf16(x, emulator::isa::Round::Near)).collect();
    (h.iter().map(|&h| bf(h)).collect(), h.iter().flat_map(|h| h.to_le_bytes()).collect())
}

/// The error's norm relative to the truth's: a wrong mask of one column shows, which a tolerance for each
/// element hides.
pub fn error(found: &[f64], truth: &[f64]) -> f64 {
    assert_eq!(found.len(), truth.len());
    let off: f64 = found.iter().zip(truth).map(|(a, b)| (a - b).powi(2)).sum();
    let all: f64 = truth.iter().map(|b| b * b).sum();
    if off.is_finite() { (off / all.max(1e-30)).sqrt() } else { f64::INFINITY }
}

pub fn tell(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("  {f}\n")).collect()
}
