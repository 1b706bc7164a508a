//! The launches of kernels/attention*.cu.

use super::tiles::{
    AttentionDesc, LaunchConfigs, PLAIN_THREADS, TileConfig, choose, plain, plain_shares, shared_blocks,
};
use super::{Attention, Dropout};
use crate::device::{Const, Cuda, Gpu, Launch, Tensor};
use crate::error::{Error, Result};
use crate::ops::{Backward, Forward, On};
use crate::shape::DType;

/// The forward pass on tensor cores.
pub(in crate::ops) const FORWARD: &str = concat!(
    include_str!("../../../kernels/attention.common.cu"),
    include_str!("../../../kernels/attention.cu")
);
/// The backward pass on tensor cores.
pub(in crate::ops) const BACKWARD: &str = concat!(
    include_str!("../../../kernels/attention.common.cu"),
    include_str!("../../../kernels/attention.cu"),
    include_str!("../../../kernels/attention.backward.cu")
);
/// Both passes in f32 arithmetic.
pub(in crate::ops) const PLAIN: &str = concat!(
    include_str!("../../../kernels/attention.common.cu"),
    include_str!("../../../kernels/attention.rows.cu"),
    include_str!("../../../kernels/attention.plain.cu")
);

/// The largest head dimension of the kernels on tensor cores, limited by registers.
const WIDEST: usize = 128;
/// The largest head dimension in f32, if shared memory allows it.
const WIDEST_PLAIN: usize = 256;

/// One pass of the op: the data that its launches share.
struct PassLaunches<'a> {
    op: &'a Attention,
    device: &'a Cuda,
    buffers: &'a [&'a Tensor],
    add: bool,
    tokens: usize,
    seqs: usize,
    dim: usize,
}

impl<'a> PassLaunches<'a> {
    /// `buffers` begin with qkv and the bounds of the sequences.
    fn new(
        op: &'a Attention,
        device: &'a Cuda,
        buffers: &'a [&'a Tensor],
        add: bool,
    ) -> Result<PassLaunches<'a>> {
        let (tokens, cols) = buffers[0].spec.rows_cols();
        let dim = cols / 3 / op.heads;
        let room = plain(device.shared_limit(), WIDEST_PLAIN).iter().all(|p| p.1 <= device.shared_limit());
        let widest = if room { WIDEST_PLAIN } else { WIDEST };
        if dim > widest {
            let e = Error::device(format!("attention on this GPU does not support head_dim = {dim}"))
                .with_expected(format!("a head_dim of at most {widest}"));
            let wider = "use an Ampere or later GPU, which supports a head_dim up to 256, or --device wgpu";
            let other = "run with --device wgpu or --device cpu, or choose another model";
            return Err(e.with_help(if dim > WIDEST_PLAIN { other } else { wider }));
        }
        Ok(PassLaunches { op, device, buffers, add, tokens, seqs: buffers[1].spec.len() - 1, dim })
    }
    /// Whether to use the kernels in f32 arithmetic.
    fn flat(&self) -> bool {
        self.buffers[0].spec.dtype == DType::F32 || self.dim > WIDEST
    }
    fn choice(&self) -> LaunchConfigs {
        choose(&AttentionDesc {
            shared: self.device.shared_limit(),
            sms: self.device.sms(),
            capability: self.device.capability(),
            batch: [self.tokens, self.seqs, self.op.heads],
            dim: self.dim,
            reach: self.op.reach() as usize,
        })
    }
    /// Queues a kernel with this number of blocks per head.
    fn launch(
        &self,
        (source, entry): (&'static str, &'static str),
        consts: &[(&'static str, u32)],
        blocks: usize,
        [threads, shared_bytes]: [u32; 2],
        buffers: &[&Tensor],
    ) -> Result<()> {
        let [a, b, c, d] = Dropout::words(self.op.dropout);
        let sizes = [self.tokens, self.op.heads, self.seqs].map(|v| v as u32);
        let params = [a, b, c, d, sizes[0], sizes[1], sizes[2], self.op.scale.to_bits(), self.add as u32];
        let dropped = self.op.dropout.is_some_and(|d| d.active());
        let mut all = vec![
            ("D", Const::U32(self.dim as u32)),
            ("DROPOUT", Const::U32(dropped as u32)),
            ("WINDOW", Const::U32(self.op.reach())),
        ];
        all.extend(consts.iter().map(|&(name, v)| (name, Const::U32(v))));
        // Only the backward pass has a gradient.
        let t = self.buffers[0].spec.dtype;
        let g = self.buffers.get(6).map(|g| g.spec.dtype);
        all.push(("T", Const::Type(t)));
        if g.is_some() || source == PLAIN {
            all.push(("G", Const::Type(g.unwrap_or(t))));
        }
        self.device.launch(Launch {
            source,
            entry,
            consts: &all,
            groups: [blocks as u32, sizes[1], 1],
            threads,
            shared_bytes,
            tensor_maps: &[],
            buffers,
            params: bytemuck::cast_slice(&params),
        })
    }
    /// An upper bound of the number of tiles of this many tokens, in sequences longer than `over`.
    fn tiles_of(&self, own: usize, over: usize) -> usize {
        self.tokens.div_ceil(own) + self.seqs.min(self.tokens / (over + 1))
    }
    /// Queues a kernel on tensor cores; `which` selects one of the tiles' two shared memory sizes.
    fn tiled(
        &self,
        pass: u32,
        entry: &'static str,
        t: TileConfig,
        which: usize,
        buffers: &[&Tensor],
    ) -> Result<()> {
        let (own, whole) = (t.threads as usize / 2, pass == WHOLE);
        let blocks = match (t.share, whole) {
            (true, _) => shared_blocks(self.tokens, self.seqs, [own / 16, 16], whole),
            (_, true) => self.seqs,
            _ => self.tiles_of(own, t.limit as usize),
        };
        let share = ("SHARE", t.share as u32);
        let mut consts = vec![("TILE", t.tile), ("BLOCKS", t.blocks), share, ("PASS", pass)];
        if pass != 0 {
            consts.extend([("STAGES", t.stages), ("LIMIT", t.limit)]);
        }
        let source = if pass == 0 { FORWARD } else { BACKWARD };
        self.launch((source, entry), &consts, blocks, [t.threads, t.shared[which] as u32], buffers)
    }
    /// Queues a kernel in f32.
    fn plain(&self, pass: u32, entry: &'static str, buffers: &[&Tensor]) -> Result<()> {
        let (each, shared) = plain(self.device.shared_limit(), self.dim)[pass as usize];
        let warps = PLAIN_THREADS as usize / 32;
        let share = plain_shares(each, self.tokens, self.seqs);
        let blocks = match share {
            true => shared_blocks(self.tokens, self.seqs, [warps, each as usize], false),
            false => self.tiles_of(warps * each as usize, 0),
        };
        let consts = [("EACH", each), ("BLOCKS", 1), ("SHARE", share as u32), ("PASS", pass)];
        self.launch((PLAIN, entry), &consts, blocks, [PLAIN_THREADS, shared as u32], buffers)
    }
}

/// The constant PASS of kernels/attention.backward.cu.
const WHOLE: u32 = 1;
const TILED: u32 = 2;

impl On<Cuda> for Attention {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let key: &Tensor = io.x.get(2).unwrap_or(&io.x[1]);
        let buffers = [io.x[0], io.x[1], key, io.y[0], io.y[1]];
        let run = PassLaunches::new(self, device, &buffers, false)?;
        if run.flat() {
            return run.plain(0, "attention_plain_forward", &buffers);
        }
        run.tiled(0, "attention_forward", run.choice().forward, 0, &buffers)
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let key: &Tensor = io.x.get(2).unwrap_or(&io.x[1]);
        let buffers = [io.x[0], io.x[1], key, io.y[0], io.y[1], io.dy()?, g.t];
        let run = PassLaunches::new(self, device, &buffers, g.add)?;
        let with_delta = |f: &dyn Fn(&[&Tensor]) -> Result<()>| {
            let delta = device.scratch(DType::F32, &io.y[1].spec.shape)?;
            let [a, b, c, d, e, dy, to] = buffers;
            f(&[a, b, c, d, e, dy, to, &delta])
        };
        if run.flat() {
            return with_delta(&|buffers| {
                run.plain(1, "attention_plain_backward_q", buffers)?;
                run.plain(1, "attention_plain_backward_kv", buffers)
            });
        }
        let choice = run.choice();
        if let Some(t) = choice.whole {
            run.tiled(WHOLE, "attention_backward", t, 0, &buffers)?;
        }
        let Some(t) = choice.tiles else { return Ok(()) };
        with_delta(&|buffers| {
            run.tiled(TILED, "attention_backward_q", t, 1, buffers)?;
            run.tiled(TILED, "attention_backward_kv", t, 0, buffers)
        })
    }
}
