//! Where bytes live and kernels run. A backend knows memory and launches, and no op.
//!
//! Tensors are contiguous and row-major; there are no strides and no general tensor operations.

pub mod absent;
pub mod cpu;
mod dry;
mod profile;
pub mod wgpu;

pub use self::wgpu::{Wgpu, fold};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
pub use absent::Cuda;
pub use cpu::Cpu;
pub use dry::{Dry, Ghost, Taken};
pub use profile::{Pass, Profile, Timed};
use std::fmt;
use std::sync::Arc;

/// What a device can do; [`crate::ops::Op::plan`] reads it, so that what cannot run is refused before it starts.
#[derive(Clone, Debug)]
pub struct Caps {
    /// A name a person recognises.
    pub name: String,
    /// Element types that kernels can compute in.
    pub dtypes: &'static [DType],
    /// Bytes of memory that one group of threads can share.
    pub shared_bytes: usize,
    /// Bytes of memory on the device, where it tells.
    pub memory_bytes: Option<u64>,
    /// Bytes of one tensor that a kernel can reach.
    pub binding_bytes: u64,
    /// Whether it has memory of its own and work is queued on it.
    pub gpu: bool,
    /// Whether products copy an operand first.
    pub packs: bool,
}

impl Caps {
    /// Refuses an element type that the device cannot compute in.
    pub fn require(&self, op: &'static str, dtype: DType) -> Result<()> {
        if self.dtypes.contains(&dtype) {
            return Ok(());
        }
        Err(Error::device(format!("{op} cannot compute in {dtype:?} on {}", self.name))
            .expected(format!("one of {:?}", self.dtypes)))
    }
}

/// What every device does: give memory, take bytes and give them back.
pub trait Backend: 'static {
    /// What the device can do.
    fn caps(&self) -> Caps;
    /// Memory for a tensor, from a pool; its content is whatever was there.
    fn alloc(&self, spec: &Spec) -> Result<Storage>;
    /// Copies host bytes into a tensor.
    fn write(&self, dst: &Tensor, src: &[u8]) -> Result<()>;
    /// Copies a tensor to the host.
    fn read(&self, src: &Tensor, dst: &mut [u8]) -> Result<()>;
    /// Sets every byte of a tensor to zero.
    fn zero(&self, dst: &Tensor) -> Result<()>;
    /// Seconds that the device was at what `work` gave it to do.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
    /// Gives memory that the pool keeps back to the system.
    fn trim(&self) -> Result<()>;
    /// Where the times of ops are noted while somebody asks for them.
    fn profile(&self) -> &Profile;
}

/// A constant that is put before a kernel's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Const {
    /// An unsigned integer.
    U32(u32),
    /// The element type under this name.
    Type(DType),
    /// Cooperative matrices of this size, f16 in and f32 out, as the types `MatA`, `MatB` and `MatC`; the name is not used.
    Matrices(u32),
}

/// A kernel launch: one source file, one entry point; buffers in declared order, then one `Params`.
pub struct Launch<'a> {
    /// The source, as in `kernels/` or `shaders/`.
    pub source: &'static str,
    /// The entry point in it.
    pub entry: &'static str,
    /// What specialises the source: a few lines put before it.
    pub consts: &'a [(&'static str, Const)],
    /// How many groups in x, y and z.
    pub groups: [u32; 3],
    /// Threads of a group.
    pub threads: u32,
    /// Dynamic shared memory of a group, in bytes.
    pub shared_bytes: u32,
    /// The buffers the kernel reads and writes.
    pub buffers: &'a [&'a Tensor],
    /// The bytes of one `Params` struct of 4-byte fields.
    pub params: &'a [u8],
}

/// The backends that compile source text.
pub trait Gpu: Backend {
    /// Queues a kernel.
    fn launch(&self, launch: Launch) -> Result<()>;
}

/// The memory behind one or more tensors.
#[derive(Debug)]
pub enum Storage {
    /// Host memory.
    Cpu(cpu::Buffer),
    /// CUDA device memory.
    Cuda(Cuda),
    /// A wgpu buffer.
    Wgpu(wgpu::Memory),
    /// Memory that is only counted.
    Dry(Ghost),
}

/// A contiguous, row-major run of elements on one device. Cloning shares the memory.
#[derive(Clone)]
pub struct Tensor {
    /// Element type and shape.
    pub spec: Spec,
    storage: Arc<Storage>,
    offset: usize,
}

impl Tensor {
    /// A part of this tensor: `shape` elements from element `offset` on, sharing its memory.
    pub fn view(&self, offset: usize, shape: &[usize]) -> Result<Tensor> {
        let spec = Spec::new(self.spec.dtype, shape);
        if offset.checked_add(spec.len()).is_none_or(|end| end > self.spec.len()) {
            return Err(Error::shape(format!(
                "a view of {shape:?} at {offset} does not fit into {:?}",
                self.spec
            )));
        }
        Ok(Tensor { spec, storage: self.storage.clone(), offset: self.offset + offset })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.spec, self.offset)
    }
}

/// One device of one backend.
pub enum Device {
    /// The processor itself.
    Cpu(Cpu),
    /// An NVIDIA card through CUDA.
    Cuda(Cuda),
    /// Any card through Vulkan, Metal or DX12.
    Wgpu(Wgpu),
    /// None: counts what a run would take.
    Dry(Dry),
}

/// Runs an expression on whichever backend this is: the only place where they are told apart.
macro_rules! dispatch {
    ($device:expr, $d:ident => $e:expr) => {
        match $device {
            $crate::device::Device::Cpu($d) => $e,
            $crate::device::Device::Cuda($d) => $e,
            $crate::device::Device::Wgpu($d) => $e,
            $crate::device::Device::Dry($d) => $e,
        }
    };
}
pub(crate) use dispatch;

impl Device {
    /// Opens a device by the name that `--device` takes: `auto`, `cpu`, `cuda`, `wgpu` or `wgpu:N`; `threads` is the
    /// CPU's, 0 for one a core. `auto` is the CPU: a GPU is taken when it is asked for.
    pub fn open(name: &str, threads: usize) -> Result<Device> {
        match name {
            "cpu" | "auto" => Ok(Device::Cpu(Cpu::new(threads)?)),
            "wgpu" => Ok(Device::Wgpu(Wgpu::new(0)?)),
            "cuda" => Err(Error::device("this build cannot drive `cuda`")
                .expected("auto, cpu or wgpu")
                .hint("run with --device cpu, or --device wgpu (Vulkan, Metal, DX12); CUDA is not part of this build")),
            _ => match name.strip_prefix("wgpu:").and_then(|n| n.parse().ok()) {
                Some(index) => Ok(Device::Wgpu(Wgpu::new(index)?)),
                None => Err(Error::usage("unknown device")
                    .expected("auto, cpu, cuda, wgpu or wgpu:N")
                    .found(name)),
            },
        }
    }
    /// With products that round their operands to f16 and add up in f32; refused where that cannot be.
    pub fn with_half(self) -> Result<Device> {
        match self {
            Device::Wgpu(gpu) => Ok(Device::Wgpu(gpu.with_half()?)),
            other => Err(Error::device(format!("{} computes products in f32 only", other.caps().name))
                .hint("take precision = \"f32\", or --device wgpu")),
        }
    }
    /// Runs `f` where the device's work is cheapest to start: on the CPU, on one of its own threads.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu(cpu) => cpu.install(f),
            Device::Cuda(_) | Device::Wgpu(_) | Device::Dry(_) => f(),
        }
    }
    /// What the device can do.
    pub fn caps(&self) -> Caps {
        dispatch!(self, d => d.caps())
    }
    /// A tensor with undefined content.
    pub fn alloc(&self, spec: Spec) -> Result<Tensor> {
        let storage = dispatch!(self, d => d.alloc(&spec))?;
        Ok(Tensor { spec, storage: Arc::new(storage), offset: 0 })
    }
    /// A tensor of zeros.
    pub fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let t = self.alloc(Spec::new(dtype, shape))?;
        self.zero(&t)?;
        Ok(t)
    }
    /// Sets a tensor to zero.
    pub fn zero(&self, t: &Tensor) -> Result<()> {
        dispatch!(self, d => d.zero(t))
    }
    /// Copies host elements into a tensor of the same number of bytes.
    pub fn write<T: bytemuck::NoUninit>(&self, t: &Tensor, src: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(src);
        if bytes.len() != t.spec.bytes() {
            return Err(Error::shape(format!("{} bytes written to {:?}", bytes.len(), t.spec)));
        }
        dispatch!(self, d => d.write(t, bytes))
    }
    /// Lets `fill` write all elements of a tensor: in their place on the CPU, else by way of the host.
    pub fn write_with<T: bytemuck::Pod>(
        &self,
        t: &Tensor,
        fill: impl FnOnce(&mut [T]) -> Result<()>,
    ) -> Result<()> {
        match self {
            Device::Cpu(_) => return fill(&mut t.cpu_mut::<T>()?),
            Device::Dry(_) => return Ok(()),
            Device::Cuda(_) | Device::Wgpu(_) => {}
        }
        let mut host = vec![T::zeroed(); t.spec.len()];
        fill(&mut host)?;
        self.write(t, &host)
    }
    /// A new tensor with these host elements.
    pub fn upload<T: bytemuck::NoUninit>(&self, dtype: DType, shape: &[usize], src: &[T]) -> Result<Tensor> {
        let t = self.alloc(Spec::new(dtype, shape))?;
        self.write(&t, src)?;
        Ok(t)
    }
    /// Copies a tensor to the host; `T` must have the element type's size.
    pub fn read<T: bytemuck::Pod>(&self, t: &Tensor) -> Result<Vec<T>> {
        if size_of::<T>() != t.spec.dtype.size() {
            return Err(Error::shape(format!("{:?} read as elements of {} bytes", t.spec, size_of::<T>())));
        }
        let mut out = vec![T::zeroed(); t.spec.len()];
        dispatch!(self, d => d.read(t, bytemuck::cast_slice_mut(&mut out)))?;
        Ok(out)
    }
    /// Gives memory that the pool keeps back to the system.
    pub fn trim(&self) -> Result<()> {
        dispatch!(self, d => d.trim())
    }
    /// Notes the time of every op that `work` runs here, one after another, in order.
    pub fn profiled<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(R, Vec<Timed>)> {
        let profile = dispatch!(self, d => d.profile());
        profile.begin();
        let done = work();
        let timed = profile.end();
        Ok((done?, timed))
    }
}
