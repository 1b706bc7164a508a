//! The launches of shaders/relative_attention.wgsl.

use super::{Dropout, ROWS, RelativeAttention, Sizes};
use crate::device::wgpu::TileLayout;
use crate::device::{Tensor, Wgpu};
use crate::error::Result;
use crate::ops::{Backward, Forward, On, launch_with, words};
use crate::shape::DType;

pub(in crate::ops) const SHADER: &str = concat!(
    include_str!("../../../shaders/attention.common.wgsl"),
    include_str!("../../../shaders/relative_attention.wgsl")
);

/// What all launches of one pass have in common.
struct PassLaunches<'a> {
    op: &'a RelativeAttention,
    device: &'a Wgpu,
    s: Sizes,
    threads: usize,
}

impl<'a> PassLaunches<'a> {
    fn new(op: &'a RelativeAttention, device: &'a Wgpu, x: &[&Tensor]) -> PassLaunches<'a> {
        let s = op.sizes(&x.iter().map(|t| &t.spec).collect::<Vec<_>>());
        let threads = if device.tiles() == TileLayout::Rows { 8 } else { 32 };
        PassLaunches { op, device, s, threads }
    }
    fn launch(&self, entry: &'static str, groups: [usize; 2], buffers: &[&Tensor], add: bool) -> Result<()> {
        let Sizes { tokens, seqs, heads, dim, distances } = self.s;
        let [a, b, c, d] = Dropout::words(self.op.dropout);
        let [tokens, heads, seqs, distances] = [tokens, heads, seqs, distances].map(|v| v as u32);
        let params = [a, b, c, d, tokens, heads, seqs, distances, self.op.scale.to_bits(), add as u32];
        let consts = words(&[("D", dim as u32), ("ORDERED", self.op.ordered as u32)]);
        let groups = [groups[0] as u32, groups[1] as u32, 1];
        launch_with(self.device, self.threads as u32, (SHADER, entry), &consts, groups, buffers, &params)
    }
    /// A group for so many tokens of one sequence and head.
    fn by_tokens(&self) -> [usize; 2] {
        [self.s.tokens.div_ceil(self.threads) + self.s.seqs, self.s.heads]
    }
    /// An invocation for each element.
    fn by_elements(&self, n: usize) -> [usize; 2] {
        let [x, y, _] = crate::device::fold(n.div_ceil(self.threads));
        [x as usize, y as usize]
    }
    /// What is known of each token, as the kernels read it.
    fn tokens(&self, x: &[&Tensor]) -> Result<Tensor> {
        let tokens = self.device.scratch(DType::U32, &[self.s.tokens, 4])?;
        let order = if self.op.ordered { x[5] } else { x[2] };
        let buffers = [x[0], x[2], &tokens, x[3], x[4], order];
        self.launch("prepare", self.by_elements(self.s.tokens), &buffers, false)?;
        Ok(tokens)
    }
}

impl On<Wgpu> for RelativeAttention {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let (x, run) = (io.x, PassLaunches::new(self, device, io.x));
        let tokens = run.tokens(x)?;
        let key: &Tensor = x.get(self.key()).unwrap_or(&x[1]);
        let buffers = [x[0], x[1], &tokens, x[3], x[4], key, io.y[0], io.y[1]];
        run.launch("forward", run.by_tokens(), &buffers, false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let [g_qkv, g_r, g_bias] = [0, 3, 4].map(|i| io.dx(i));
        let (x, dy, run) = (io.x, io.dy()?, PassLaunches::new(self, device, io.x));
        let s = run.s;
        let tokens = run.tokens(x)?;
        let key: &Tensor = x.get(self.key()).unwrap_or(&x[1]);
        let work = device.scratch(DType::F32, &[s.work()])?;
        let buffers = [dy, x[1], &tokens, &work, x[4], key, io.y[0], io.y[1]];
        run.launch("backward_delta", run.by_tokens(), &buffers, false)?;
        let with = |six| [x[0], x[1], &tokens, x[3], x[4], key, six, &work];
        if g_qkv.is_some() || g_bias.is_some() {
            run.launch("backward_q", run.by_tokens(), &with(dy), false)?;
        }
        if let Some(g) = g_qkv {
            run.launch("backward_kv", run.by_tokens(), &with(dy), false)?;
            run.launch("put_qkv", run.by_elements(s.tokens * s.hidden()), &with(g.t), g.add)?;
        }
        if let Some(g) = g_r {
            run.launch("backward_r", [s.distances.div_ceil(run.threads), s.heads], &with(dy), false)?;
            run.launch("put_r", run.by_elements(s.distances * s.hidden()), &with(g.t), g.add)?;
        }
        if let Some(g) = g_bias {
            let blocks = s.tokens.div_ceil(ROWS);
            let parts = device.scratch(DType::F32, &[blocks, 5, s.hidden()])?;
            let columns = s.hidden().div_ceil(run.threads);
            run.launch("sum_rows", [columns, blocks], &with(&parts), false)?;
            let buffers = [x[0], x[1], &tokens, g.t, x[4], key, &parts, &work];
            run.launch("sum_parts", [(5 * s.hidden()).div_ceil(run.threads), 1], &buffers, g.add)?;
        }
        Ok(())
    }
}
