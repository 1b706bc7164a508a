//! The launches of shaders/attention.wgsl.

use super::{Attention, Dropout};
use crate::device::wgpu::TileLayout;
use crate::device::{Tensor, Wgpu};
use crate::error::Result;
use crate::ops::{Backward, Forward, On, launch_with, words};

pub(in crate::ops) const SHADER: &str = concat!(
    include_str!("../../../shaders/attention.common.wgsl"),
    include_str!("../../../shaders/attention.wgsl")
);

impl Attention {
    fn launch(&self, device: &Wgpu, entry: &'static str, buffers: &[&Tensor], add: bool) -> Result<()> {
        let (tokens, cols) = buffers[0].spec.rows_cols();
        let [a, b, c, d] = Dropout::words(self.dropout);
        let seqs = buffers[1].spec.len() as u32 - 1;
        let sizes = [tokens as u32, self.heads as u32, seqs];
        let scale = self.scale.to_bits();
        let params = [a, b, c, d, sizes[0], sizes[1], sizes[2], scale, add as u32, self.reach()];
        // A multiple of eight, the mask's block; a sequence's last group may be partly idle, so not too many.
        let threads = if device.tiles() == TileLayout::Rows { 8 } else { 32 };
        let blocks = tokens.div_ceil(threads) + seqs as usize;
        let groups = [blocks as u32, self.heads as u32, 1];
        let consts = [("D", (cols / 3 / self.heads) as u32)];
        launch_with(device, threads as u32, (SHADER, entry), &words(&consts), groups, buffers, &params)
    }
}

impl On<Wgpu> for Attention {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let key: &Tensor = io.x.get(2).unwrap_or(&io.x[1]);
        self.launch(device, "forward", &[io.x[0], io.x[1], key, io.y[0], io.y[1]], false)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let key: &Tensor = io.x.get(2).unwrap_or(&io.x[1]);
        let delta = device.scratch(g.t.spec.dtype, &io.y[1].spec.shape)?;
        let buffers = [io.x[0], io.x[1], key, io.y[0], io.y[1], io.dy()?, g.t, &delta];
        self.launch(device, "backward_q", &buffers, g.add)?;
        self.launch(device, "backward_kv", &buffers, g.add)
    }
}
