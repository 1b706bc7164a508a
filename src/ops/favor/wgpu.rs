//! The launches of shaders/favor.wgsl.

use super::Favor;
use crate::device::wgpu::TileLayout;
use crate::device::{Tensor, Wgpu};
use crate::error::Result;
use crate::ops::{Backward, Forward, On, launch_with, words};

pub(in crate::ops) const SHADER: &str = concat!(
    include_str!("../../../shaders/attention.common.wgsl"),
    include_str!("../../../shaders/favor.wgsl")
);

impl Favor {
    fn launch(&self, device: &Wgpu, entry: &'static str, buffers: &[&Tensor], add: bool) -> Result<()> {
        let s = self.sizes([0, 1, 2].map(|i| &buffers[i].spec));
        let sizes = [s.tokens, s.heads, s.seqs, s.features].map(|v| v as u32);
        let params = [sizes[0], sizes[1], sizes[2], sizes[3], self.scale.to_bits(), add as u32];
        let threads = if device.tiles() == TileLayout::Rows { 8 } else { 32 };
        // A group has features of one sequence, or tokens of one sequence.
        let blocks = match entry {
            "keys" | "backward_features" => s.seqs * s.features.div_ceil(threads),
            _ => s.tokens.div_ceil(threads) + s.seqs,
        };
        let groups = [blocks as u32, s.heads as u32, 1];
        let consts = [("D", s.dim as u32)];
        launch_with(device, threads as u32, (SHADER, entry), &words(&consts), groups, buffers, &params)
    }
}

impl On<Wgpu> for Favor {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let buffers = [io.x[0], io.x[1], io.x[2], io.y[0], io.y[1], io.y[2]];
        self.launch(device, "keys", &buffers, false)?;
        self.launch(device, "queries", &buffers, false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let (x, table, lse, dy) = (io.x, io.y[1], io.y[2], io.dy()?);
        let delta = device.scratch(g.t.spec.dtype, &lse.spec.shape)?;
        let dtable = device.scratch(g.t.spec.dtype, &table.spec.shape)?;
        self.launch(device, "backward_delta", &[x[0], x[1], x[2], io.y[0], table, &delta, dy], false)?;
        let buffers = |last| [x[0], x[1], x[2], &delta, table, lse, dy, last];
        self.launch(device, "backward_q", &buffers(g.t), g.add)?;
        self.launch(device, "backward_features", &buffers(&dtable), false)?;
        self.launch(device, "backward_kv", &[x[0], x[1], x[2], &dtable, table, lse, dy, g.t], g.add)
    }
}
