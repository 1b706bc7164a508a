//! What the backend and its stand-in share: sizes, tilings and abilities, none of which needs wgpu.

use crate::device::Identity;

/// Alignment of a tensor inside a buffer, in bytes: the largest that any adapter requires.
pub const ALIGN: usize = 256;

/// Definitions that every shader may use; put before the shader's own source.
pub const PRELUDE: &str = include_str!("../../../shaders/prelude.wgsl");

/// Counts of what a device has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WgpuStats {
    /// Buffers requested from the driver.
    pub allocations: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Tensors copied back to the host.
    pub reads: u64,
    /// Kernels queued.
    pub launches: u64,
    /// Command buffers submitted.
    pub submissions: u64,
}

/// How kernels divide their work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileLayout {
    /// Large workgroups that share workgroup memory: for GPUs.
    Workgroup,
    /// Workgroups of as many threads as the processor has lanes, without workgroup memory: for software
    /// drivers.
    Rows,
}

/// What an adapter can do beyond what tempra requires.
#[derive(Clone, Debug, Default)]
pub struct Abilities {
    /// Invocations of a subgroup, where the adapter has subgroup operations and one size only.
    pub subgroup: Option<u32>,
    /// Whether kernels can measure their own time.
    pub timestamps: bool,
    /// Rows, columns and depth of the cooperative matrices (f16 in, f32 out) that matmuls use, if the adapter
    /// has them.
    pub coop: Option<u32>,
    /// The driver's name and version.
    pub driver: String,
    /// Whether it is a software driver.
    pub software: bool,
    /// Bytes that one binding of a buffer may span.
    pub binding_bytes: u64,
    /// Bytes of workgroup memory.
    pub shared_bytes: u32,
    /// Bytes of memory on the device, where the driver reports them.
    pub memory_bytes: Option<u64>,
    /// The PCI address and the UUID of the GPU, where the driver reports them.
    pub identity: Identity,
    /// Whether it is an NVIDIA GPU.
    pub nvidia: bool,
}

/// Groups of a one-dimensional launch; what exceeds the limit of one dimension continues in the second one.
pub fn fold(groups: usize) -> [u32; 3] {
    const MOST: usize = 65535;
    [groups.min(MOST) as u32, groups.div_ceil(MOST) as u32, 1]
}

/// The size in bytes of the buffer that holds `bytes`: rounded up in steps of an eighth, so that batches of
/// nearly the same size share buffers.
pub fn size_class(bytes: usize) -> u64 {
    let need = bytes.max(ALIGN).next_multiple_of(ALIGN) as u64;
    need.next_multiple_of((need.next_power_of_two() / 16).max(ALIGN as u64))
}
