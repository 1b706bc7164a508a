//! The launches of kernels/relative_attention.cu.

use super::{Dropout, ROWS, RelativeAttention, Sizes};
use crate::device::{Const, Cuda, Gpu, Launch, Tensor};
use crate::error::{Error, Result};
use crate::ops::attention::PLAIN_THREADS;
use crate::ops::{Backward, Forward, On};
use crate::shape::DType;

/// Both passes, in f32 arithmetic.
pub(in crate::ops) const KERNEL: &str = concat!(
    include_str!("../../../kernels/attention.common.cu"),
    include_str!("../../../kernels/attention.rows.cu"),
    include_str!("../../../kernels/relative_attention.cu")
);

/// The widest head that the kernels have registers for.
const WIDEST: usize = 128;
const WARPS: usize = PLAIN_THREADS as usize / 32;

/// Rows of a warp and bytes of shared memory of the forward pass, of the queries' and of the keys' backward
/// pass.
fn tiles(shared: usize, dim: usize) -> Option<(usize, [usize; 3])> {
    let (line, probs) = (dim.next_multiple_of(32) + 4, 36);
    let of = |each: usize| {
        let own = WARPS * each;
        let size = |lines: usize, probabilities: usize| 4 * (lines * line + probabilities * probs);
        (each, [size(2 * own + 64, own), size(3 * own + 64, own), size(2 * own + 96, 2 * own)])
    };
    let most = if dim <= 64 { 8 } else { 4 };
    [most, 4, 2].map(of).into_iter().find(|(_, bytes)| bytes.iter().all(|&b| b <= shared))
}

/// One pass of the op: what all its launches have in common.
struct PassLaunches<'a> {
    op: &'a RelativeAttention,
    device: &'a Cuda,
    s: Sizes,
    dtype: DType,
    pass: u32,
    each: usize,
    shared: [usize; 3],
}

impl<'a> PassLaunches<'a> {
    fn new(
        op: &'a RelativeAttention,
        device: &'a Cuda,
        x: &[&Tensor],
        pass: u32,
    ) -> Result<PassLaunches<'a>> {
        let s = op.sizes(&x.iter().map(|t| &t.spec).collect::<Vec<_>>());
        let tiles = tiles(device.shared_limit(), s.dim).filter(|_| s.dim <= WIDEST);
        let Some((each, shared)) = tiles else {
            return Err(Error::device(format!(
                "relative attention on this GPU does not support head_dim = {}",
                s.dim
            ))
            .with_expected(format!("a head_dim of at most {WIDEST}, and enough shared memory for its tiles"))
            .with_help("run with --device wgpu or --device cpu"));
        };
        Ok(PassLaunches { op, device, s, dtype: x[0].spec.dtype, pass, each, shared })
    }
    fn launch(
        &self,
        entry: &'static str,
        groups: [usize; 2],
        shared: usize,
        gradient: Option<(DType, bool)>,
        wanted: bool,
        buffers: &[&Tensor],
    ) -> Result<()> {
        let [a, b, c, d] = Dropout::words(self.op.dropout);
        let sizes = [self.s.tokens, self.s.heads, self.s.seqs, self.s.distances].map(|v| v as u32);
        let (to, add) = gradient.unwrap_or((self.dtype, false));
        let scale = self.op.scale.to_bits();
        let params = [a, b, c, d, sizes[0], sizes[1], sizes[2], scale, add as u32, sizes[3], wanted as u32];
        let dropped = self.op.dropout.is_some_and(|d| d.active());
        let consts = [
            ("D", Const::U32(self.s.dim as u32)),
            ("DROPOUT", Const::U32(dropped as u32)),
            ("WINDOW", Const::U32(0)),
            ("BLOCKS", Const::U32(1)),
            ("EACH", Const::U32(self.each as u32)),
            ("ORDERED", Const::U32(self.op.ordered as u32)),
            ("PASS", Const::U32(self.pass)),
            ("T", Const::Type(self.dtype)),
            ("G", Const::Type(to)),
            ("P", Const::Type(to)),
        ];
        self.device.launch(Launch {
            source: KERNEL,
            entry,
            consts: &consts,
            groups: [groups[0] as u32, groups[1] as u32, 1],
            threads: PLAIN_THREADS,
            shared_bytes: shared as u32,
            tensor_maps: &[],
            buffers,
            params: bytemuck::cast_slice(&params),
        })
    }
    /// A block for so many tokens of one sequence and head.
    fn by_tokens(&self) -> [usize; 2] {
        [self.s.tokens.div_ceil(WARPS * self.each) + self.s.seqs, self.s.heads]
    }
}

impl On<Cuda> for RelativeAttention {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, run) = (io.x, PassLaunches::new(self, device, io.x, 0)?);
        let order = if self.ordered { x[5] } else { x[1] };
        let key: &Tensor = x.get(self.key()).unwrap_or(&x[1]);
        let buffers = [x[0], x[1], x[2], x[3], x[4], order, key, io.y[0], io.y[1]];
        run.launch("relative_attention_forward", run.by_tokens(), run.shared[0], None, false, &buffers)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let [g_qkv, g_r, g_bias] = [0, 3, 4].map(|i| io.dx(i));
        let (x, run) = (io.x, PassLaunches::new(self, device, io.x, 1)?);
        let (s, o, lse, dy) = (run.s, io.y[0], io.y[1], io.dy()?);
        let order = if self.ordered { x[5] } else { x[1] };
        let key: &Tensor = x.get(self.key()).unwrap_or(&x[1]);
        let parts = device.scratch(DType::F32, &[2, s.tokens, s.hidden()])?;
        let sums = device.scratch(DType::F32, &[3, s.tokens, s.heads])?;
        let inputs = [x[0], x[1], x[2], x[3], x[4], order, key];
        fn with<'a>(inputs: &[&'a Tensor], rest: &[&'a Tensor]) -> Vec<&'a Tensor> {
            [inputs, rest].concat()
        }
        let of = |g: crate::ops::Grad| (g.t.spec.dtype, g.add);
        // The sums over keys and delta are what the rest begins with.
        let dqkv = g_qkv.map_or(&parts, |g| g.t);
        let buffers = with(&inputs, &[o, lse, dy, dqkv, &parts, &sums]);
        let (entry, shared) = ("relative_attention_backward_q", run.shared[1]);
        run.launch(entry, run.by_tokens(), shared, g_qkv.map(of), g_qkv.is_some(), &buffers)?;
        if let Some(g) = g_qkv {
            let (entry, shared) = ("relative_attention_backward_kv", run.shared[2]);
            let buffers = with(&inputs, &[lse, dy, &sums, g.t]);
            run.launch(entry, run.by_tokens(), shared, Some(of(g)), true, &buffers)?;
        }
        if let Some(g) = g_r {
            let shared = 4 * WARPS * (32 + s.dim.next_multiple_of(32) + 4);
            let groups = [s.distances.div_ceil(WARPS), s.heads];
            let buffers = with(&inputs, &[lse, dy, &sums, g.t]);
            run.launch("relative_attention_backward_r", groups, shared, Some(of(g)), true, &buffers)?;
        }
        if let Some(g) = g_bias {
            let blocks = s.tokens.div_ceil(ROWS);
            let by_block = device.scratch(DType::F32, &[blocks, 5, s.hidden()])?;
            let threads = PLAIN_THREADS as usize;
            let groups = [s.hidden().div_ceil(threads), blocks];
            let buffers = [x[0], x[1], x[4], &parts, &sums, &by_block];
            run.launch("relative_attention_sum_rows", groups, 0, Some(of(g)), true, &buffers)?;
            let groups = [(5 * s.hidden()).div_ceil(threads), 1];
            run.launch("relative_attention_sum_blocks", groups, 0, Some(of(g)), true, &[&by_block, g.t])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every shared memory there is, for heads as wide as the kernels take.
    #[test]
    fn every_head_fits() {
        for shared in [64 << 10, 99 << 10, 163 << 10, 227 << 10] {
            for dim in 1..=WIDEST {
                assert!(tiles(shared, dim).is_some(), "{dim} in {shared}");
            }
        }
    }
}
