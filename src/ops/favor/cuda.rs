//! The launches of kernels/favor.cu.

use super::{Favor, Sizes};
use crate::device::{Const, Cuda, Gpu, Launch, Tensor};
use crate::error::{Error, Result};
use crate::ops::attention::{PLAIN_THREADS, plain_tiles};
use crate::ops::{Backward, Forward, On};
use crate::shape::DType;

/// Both passes, in f32 arithmetic.
pub(in crate::ops) const KERNEL: &str = concat!(
    include_str!("../../../kernels/attention.common.cu"),
    include_str!("../../../kernels/attention.rows.cu"),
    include_str!("../../../kernels/favor.cu")
);

/// The widest head that the kernels have registers for.
const WIDEST: usize = 128;

/// One pass of the op: what all its launches have in common.
struct PassLaunches<'a> {
    op: &'a Favor,
    device: &'a Cuda,
    sizes: Sizes,
    /// Element types of activations and of their gradients.
    types: [DType; 2],
    pass: usize,
    add: bool,
}

impl PassLaunches<'_> {
    fn new<'a>(
        op: &'a Favor,
        device: &'a Cuda,
        x: &[&Tensor],
        gradient: Option<(&Tensor, bool)>,
    ) -> Result<PassLaunches<'a>> {
        let sizes = op.sizes([0, 1, 2].map(|i| &x[i].spec));
        if sizes.dim > WIDEST {
            return Err(Error::device(format!(
                "FAVOR+ attention on CUDA does not support head_dim = {}",
                sizes.dim
            ))
            .with_expected(format!("a head_dim of at most {WIDEST}"))
            .with_help("run with --device wgpu or --device cpu, or set model.attention to \"exact\""));
        }
        let dtype = x[0].spec.dtype;
        let types = [dtype, gradient.map_or(dtype, |(g, _)| g.spec.dtype)];
        let (pass, add) = (gradient.is_some() as usize, gradient.is_some_and(|(_, add)| add));
        Ok(PassLaunches { op, device, sizes, types, pass, add })
    }
    fn launch(&self, entry: &'static str, buffers: &[&Tensor]) -> Result<()> {
        let Sizes { tokens, seqs, heads, dim, features } = self.sizes;
        let (each, shared) = plain_tiles(self.device.shared_limit(), dim)[self.pass];
        let own = (PLAIN_THREADS / 32 * each) as usize;
        let blocks = match entry {
            "favor_keys" | "favor_backward_features" => seqs * features.div_ceil(own),
            _ => tokens.div_ceil(own) + seqs,
        };
        let params = [0, 0, 3, 1f32.to_bits(), tokens as u32, heads as u32, seqs as u32];
        let params = [&params[..], &[self.op.scale.to_bits(), self.add as u32]].concat();
        let word = |v: usize| Const::U32(v as u32);
        let consts = [
            ("D", word(dim)),
            ("DROPOUT", word(0)),
            ("WINDOW", word(0)),
            ("BLOCKS", word(1)),
            ("EACH", Const::U32(each)),
            ("M", word(features)),
            ("PASS", word(self.pass)),
            ("T", Const::Type(self.types[0])),
            ("G", Const::Type(self.types[1])),
        ];
        self.device.launch(Launch {
            source: KERNEL,
            entry,
            consts: &consts,
            groups: [blocks as u32, heads as u32, 1],
            threads: PLAIN_THREADS,
            shared_bytes: shared as u32,
            tensor_maps: &[],
            buffers,
            params: bytemuck::cast_slice(&params),
        })
    }
}

impl On<Cuda> for Favor {
    fn forward(&self, device: &Cuda, io: Forward) -> Result<()> {
        let (x, y) = (io.x, io.y);
        let run = PassLaunches::new(self, device, x, None)?;
        run.launch("favor_keys", &[x[0], x[1], x[2], y[1]])?;
        run.launch("favor_queries", &[x[0], x[1], x[2], y[1], y[0], y[2]])
    }
    fn backward(&self, device: &Cuda, io: Backward) -> Result<()> {
        let Some(g) = io.dx(0) else { return Ok(()) };
        let (x, o, table, lse, dy) = (io.x, io.y[0], io.y[1], io.y[2], io.dy()?);
        let run = PassLaunches::new(self, device, x, Some((g.t, g.add)))?;
        let delta = device.scratch(DType::F32, &lse.spec.shape)?;
        let dtable = device.scratch(DType::F32, &table.spec.shape)?;
        run.launch("favor_backward_q", &[x[0], x[1], x[2], table, o, lse, dy, g.t, &delta])?;
        run.launch("favor_backward_features", &[x[0], x[1], x[2], table, lse, dy, &delta, &dtable])?;
        run.launch("favor_backward_kv", &[x[0], x[1], x[2], table, &dtable, g.t])
    }
}
