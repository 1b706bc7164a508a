//! norm = sqrt(sum g_i^2), over all gradients at once.
//!
//! grad (n), norm (1): the norm is written. What PyTorch's `clip_grad_norm_` measures. Sums are formed in f64
//! by blocks of a fixed size and added in order.

use super::{
    Call, Case, Cost, Input, Step, StepOn, Subject, ZeroBlocks, by_dtype, launch, launch_with, refuse,
    step_dtype,
};
use crate::device::cpu::parallel::*;
use crate::device::cpu::{Real, vectorise};
use crate::device::{Caps, Const, Cpu, Cuda, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::{DType, Spec};
use std::fmt::Debug;

/// The step; see the module.
#[derive(Clone, Copy, Debug)]
pub struct GlobalNorm;

const CHUNK: usize = 1 << 15;

impl Step for GlobalNorm {
    fn name(&self) -> &'static str {
        "global_norm"
    }
    fn check(&self, caps: &Caps, x: &[&Spec]) -> Result<()> {
        let wrong = || refuse("global_norm", "grad (n), norm (1), maybe zero_blocks u32 (words)", x);
        let (own, zero_blocks) = x.split_at_checked(2).ok_or_else(wrong)?;
        let (grad, norm) = (own[0], own[1]);
        let fits = |b: &&Spec| b.dtype == DType::U32 && b.len() == ZeroBlocks::words(grad.len());
        if norm.shape != [1] || zero_blocks.len() > 1 || !zero_blocks.iter().all(fits) {
            return Err(wrong());
        }
        step_dtype("global_norm", caps, own).map(drop)
    }
    fn cost(&self, call: &Call) -> Cost {
        let (n, bits) = (call.len(0) as usize, call.integers(2));
        // Blocks that are known to be zero are not read.
        let count = |from: usize| ZeroBlocks::BLOCK.min(n - from);
        let blocks =
            (0..n).step_by(ZeroBlocks::BLOCK).filter(|&from| !ZeroBlocks::covers(bits, from, count(from)));
        let read: usize = blocks.map(count).sum();
        let size = call.x.first().map_or(0, |s| s.dtype.size());
        let bytes = (read * size) as f64 + call.input(1) + call.input(2);
        Cost::step(2.0 * call.len(0) + 1.0, bytes)
    }
}

impl StepOn<Cpu> for GlobalNorm {
    fn run(&self, cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
        by_dtype!(x[0].spec.dtype, run(cpu, x))
    }
}

fn run<T: Real>(cpu: &Cpu, x: &[&Tensor]) -> Result<()> {
    let grad = x[0].cpu::<T>()?;
    let zero_blocks = x.get(2).map(|b| b.cpu::<u32>()).transpose()?;
    let bits = zero_blocks.as_deref();
    let chunk = |(i, g): (usize, &[T])| {
        vectorise!({
            let (mut lanes, mut rest) = ([0f64; 16], 0.0);
            for (block, g) in g.chunks(ZeroBlocks::BLOCK).enumerate() {
                if ZeroBlocks::covers(bits, i * CHUNK + block * ZeroBlocks::BLOCK, g.len()) {
                    continue;
                }
                let (whole, tail) = g.as_chunks::<16>();
                for g in whole {
                    lanes.iter_mut().zip(g).for_each(|(l, g)| *l += g.f64() * g.f64());
                }
                // Only the last block has one.
                rest += tail.iter().map(|g| g.f64() * g.f64()).sum::<f64>();
            }
            lanes.iter().sum::<f64>() + rest
        })
    };
    let sums: Vec<f64> = cpu.install(|| grad.par_chunks(CHUNK).enumerate().map(chunk).collect());
    x[1].cpu_mut::<T>()?[0] = T::of(sums.iter().sum::<f64>().sqrt());
    Ok(())
}

fn textbook(_: &dyn Debug, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut y = x.to_vec();
    y[1] = vec![x[0].iter().map(|g| g * g).sum::<f64>().sqrt()];
    y
}

pub(super) const SHADER: &str = include_str!("../../shaders/global_norm.wgsl");
/// Elements of one sum on a GPU; the shader's `CHUNK`.
const GPU_CHUNK: usize = 8192;

impl StepOn<Wgpu> for GlobalNorm {
    fn run(&self, device: &Wgpu, x: &[&Tensor]) -> Result<()> {
        let n = x[0].spec.len();
        let chunks = n.div_ceil(GPU_CHUNK);
        let sums = device.scratch(x[0].spec.dtype, &[chunks])?;
        // Launch by launch, as many elements as one buffer may bind and one dimension may count.
        let most = (device.binding_bytes() / 4).min(65535 * GPU_CHUNK) / GPU_CHUNK * GPU_CHUNK;
        for start in (0..n).step_by(most) {
            let part = x[0].view(start, &[most.min(n - start)])?;
            let here = part.spec.len().div_ceil(GPU_CHUNK);
            let params = [part.spec.len() as u32, (start / GPU_CHUNK) as u32, here as u32];
            let groups = [here as u32, 1, 1];
            launch(device, (SHADER, "sum_chunk"), &[], groups, &[&part, &sums, x[1]], &params)?;
        }
        let params = [0, 0, chunks as u32];
        launch(device, (SHADER, "finish"), &[], [1; 3], &[x[1], &sums, x[1]], &params)
    }
}

pub(super) const KERNEL: &str = include_str!("../../kernels/global_norm.cu");

impl StepOn<Cuda> for GlobalNorm {
    fn run(&self, device: &Cuda, x: &[&Tensor]) -> Result<()> {
        const THREADS: u32 = 256;
        let n = x[0].spec.len();
        let chunks = n.div_ceil(GPU_CHUNK);
        let sums = device.scratch(x[0].spec.dtype, &[chunks])?;
        let params = [n as u32, (n as u64 >> 32) as u32, chunks as u32];
        let (all, finish) = ((KERNEL, "global_norm_chunks"), (KERNEL, "global_norm_finish"));
        let consts = [("ZERO_BLOCKS", Const::U32((x.len() > 2) as u32))];
        let buffers = [x[0], &sums, *x.get(2).unwrap_or(&x[0])];
        launch_with(device, THREADS, all, &consts, [chunks as u32, 1, 1], &buffers, &params)?;
        launch_with(device, THREADS, finish, &consts, [1; 3], &[&sums, x[1]], &params)
    }
}

/// Edge cases: one element, fewer and more than the lanes, more than a chunk, mostly zeros that are known.
pub fn cases() -> Vec<Case> {
    let case = |label, inputs| Case {
        label,
        subject: Subject::Step(Box::new(GlobalNorm), textbook),
        inputs,
        slack: 1.0,
        half_slack: 1.0,
    };
    let mut all: Vec<Case> = [("one", 1), ("odd", 37), ("more than a chunk", CHUNK + 17)]
        .map(|(label, n)| case(label, vec![Input::real(&[n]), Input::real(&[1])]))
        .into();
    let n = CHUNK + 3 * ZeroBlocks::BLOCK + 17;
    let at = [0, ZeroBlocks::BLOCK, 9 * ZeroBlocks::BLOCK - 1, CHUNK + 5, n - 1];
    let (grad, bits) = ZeroBlocks::case(n, &at);
    all.push(case("mostly zero", vec![grad, Input::real(&[1]), bits]));
    all
}
