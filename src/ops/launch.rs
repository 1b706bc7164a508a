//! Launches of kernels with the usual number of threads, for the ops that need nothing else.

use crate::device::{Const, Cuda, Gpu, Launch, Tensor};
use crate::error::Result;

/// Threads of a group in kernels that do not say otherwise; of a block of CUDA's.
pub(super) const THREADS: u32 = 64;
pub(super) const CUDA_THREADS: u32 = 128;

/// Blocks of a one-dimensional CUDA launch with one thread an item.
pub(super) fn blocks_for(items: usize) -> [u32; 3] {
    [items.div_ceil(CUDA_THREADS as usize) as u32, 1, 1]
}

/// Elements of one access of a CUDA kernel to rows of so many columns.
pub(super) fn vector(cols: usize) -> u32 {
    if cols.is_multiple_of(8) { 8 } else { 1 }
}

/// Queues a CUDA kernel of [`CUDA_THREADS`] threads a block.
pub(super) fn launch_cuda(
    device: &Cuda,
    kernel: (&'static str, &'static str),
    consts: &[(&'static str, Const)],
    groups: [u32; 3],
    buffers: &[&Tensor],
    params: &[u32],
) -> Result<()> {
    launch_with(device, CUDA_THREADS, kernel, consts, groups, buffers, params)
}

/// Queues a kernel of [`THREADS`] threads a group. `params` are the words of its `Params`, floats by their
/// bits.
pub(super) fn launch(
    device: &impl Gpu,
    kernel: (&'static str, &'static str),
    consts: &[(&'static str, u32)],
    groups: [u32; 3],
    buffers: &[&Tensor],
    params: &[u32],
) -> Result<()> {
    launch_with(device, THREADS, kernel, &words(consts), groups, buffers, params)
}

/// Constants that are words.
pub(super) fn words(consts: &[(&'static str, u32)]) -> Vec<(&'static str, Const)> {
    consts.iter().map(|&(name, v)| (name, Const::U32(v))).collect()
}

/// Queues a kernel of so many threads a group.
pub(super) fn launch_with(
    device: &impl Gpu,
    threads: u32,
    (source, entry): (&'static str, &'static str),
    consts: &[(&'static str, Const)],
    groups: [u32; 3],
    buffers: &[&Tensor],
    params: &[u32],
) -> Result<()> {
    device.launch(Launch {
        source,
        entry,
        consts,
        groups,
        threads,
        shared_bytes: 0,
        tensor_maps: &[],
        buffers,
        params: bytemuck::cast_slice(params),
    })
}

/// Groups of a launch with one thread an item.
pub(super) fn groups_for(items: usize) -> [u32; 3] {
    crate::device::fold(items.div_ceil(THREADS as usize))
}
