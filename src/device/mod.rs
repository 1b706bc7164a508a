//! Where bytes live and kernels run. A backend knows memory and launches, and no op.
//!
//! Tensors are contiguous and row-major; there are no strides and no general tensor operations.

pub mod cpu;
pub mod cuda;
mod dry;
mod profile;
#[cfg_attr(not(feature = "wgpu"), path = "wgpu/absent.rs")]
pub mod wgpu;

pub use self::wgpu::{Wgpu, fold};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
use crate::suggest::nearest;
pub use cpu::Cpu;
pub use cuda::Cuda;
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
    /// What activations are kept in, and the copies of the weights that kernels read; if it is not f32, the weights
    /// themselves are kept in f32 beside them.
    pub compute: DType,
    /// Bytes of memory that one group of threads can share.
    pub shared_bytes: usize,
    /// Bytes of memory on the device, where it tells.
    pub memory_bytes: Option<u64>,
    /// Bytes of it that were gone when the device was opened, or that it needs for itself, where it tells; else 0.
    pub taken_bytes: u64,
    /// Bytes of one tensor that a kernel can reach.
    pub binding_bytes: u64,
    /// Whether it has memory of its own and work is queued on it.
    pub gpu: bool,
    /// CUDA blocks that run at once, which share out sums over rows; 0 elsewhere.
    pub blocks: usize,
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
            .with_expected(format!("one of {:?}", self.dtypes)))
    }
}

/// What every device does: give memory, take bytes and give them back.
pub trait Backend: 'static {
    /// What the device can do.
    fn caps(&self) -> Caps;
    /// Memory for a tensor, from a pool; its content is whatever was there.
    fn alloc(&self, spec: &Spec) -> Result<Storage>;
    /// The same for a tensor that the host is going to fill.
    fn alloc_input(&self, spec: &Spec) -> Result<Storage> {
        self.alloc(spec)
    }
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

/// A matrix of 16-bit elements that a kernel reads in boxes of 64 x 64, swizzled over 128 bytes, with zeros beyond the edges.
#[derive(Clone, Copy)]
pub struct Boxes<'a> {
    /// The matrix, row by row.
    pub t: &'a Tensor,
    /// Elements of a row: a multiple of eight.
    pub row: usize,
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
    /// Matrices that the kernel reads in boxes (CUDA from Hopper on): parameters before all others.
    pub boxes: &'a [Boxes<'a>],
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
    Cuda(cuda::Memory),
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
    /// Opens a device by the name that `--device` takes: `auto`, `cpu`, `cuda`, `cuda:N`, `wgpu` or `wgpu:N`; `threads` is
    /// the CPU's, 0 for one a core. `auto` is the CPU: a GPU is taken when it is asked for.
    pub fn open(name: &str, threads: usize) -> Result<Device> {
        let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
        match (kind, index.parse()) {
            ("cpu" | "auto", _) if kind == name => Ok(Device::Cpu(Cpu::new(threads)?)),
            ("cuda", Ok(index)) => Ok(Device::Cuda(Cuda::new(index)?)),
            ("wgpu", Ok(index)) => Ok(Device::Wgpu(Wgpu::new(index)?)),
            _ => {
                let e = Error::usage("unknown device")
                    .with_expected("auto, cpu, cuda, cuda:N, wgpu or wgpu:N")
                    .with_found(name);
                Err(match nearest(kind, ["auto", "cpu", "cuda", "wgpu"]) {
                    Some(near) if near != name => e.with_help(format!("did you mean {near:?}?")),
                    _ => e,
                })
            }
        }
    }
    /// Computing in a 16-bit type; refused where that cannot be. On wgpu that is products which round their operands to
    /// f16; on CUDA all activations and what kernels read of the weights. Sums are formed in f32 on both.
    pub fn with_compute(self, dtype: DType) -> Result<Device> {
        match (self, dtype) {
            (device, DType::F32) => Ok(device),
            (Device::Cuda(card), _) => Ok(Device::Cuda(card.with_compute(dtype)?)),
            (Device::Wgpu(gpu), DType::F16) => Ok(Device::Wgpu(gpu.with_half()?)),
            (other, _) => Err(Error::device(format!("{} cannot compute in {dtype:?}", other.caps().name))
                .with_expected("f32 on a CPU; f32 or f16 on wgpu; f32, f16 or bf16 on CUDA")
                .with_help("take precision = \"f32\", or another --device")),
        }
    }
    /// Runs what is given where the device's work is cheapest to start, with memory for tensors that are gone at the end.
    pub fn scoped<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cuda(card) => card.scoped(f),
            _ => self.run(f),
        }
    }
    /// Whether steps that recur are worth recording.
    pub fn replays(&self) -> bool {
        matches!(self, Device::Cuda(card) if card.replays())
    }
    /// Runs a step that is the same for every `key` but for what the host writes into tensors: where the device can, it is
    /// recorded and from then on launched as one. Nothing may be read back inside, and no tensor made inside used after.
    pub fn replayed<R>(&self, key: u64, work: impl FnOnce() -> Result<R>) -> Result<R> {
        match self {
            Device::Cuda(card) => card.replayed(key, work),
            _ => work(),
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
        let spec = Spec::new(dtype, shape);
        let storage = Arc::new(dispatch!(self, d => d.alloc_input(&spec))?);
        let t = Tensor { spec, storage, offset: 0 };
        self.write(&t, src)?;
        Ok(t)
    }
    /// A new tensor of a floating-point type with these numbers, rounded to it.
    pub fn upload_reals(&self, dtype: DType, shape: &[usize], src: &[f64]) -> Result<Tensor> {
        let single = || src.iter().map(|&v| v as f32);
        match dtype {
            DType::F64 => self.upload(dtype, shape, src),
            DType::U32 => self.upload(dtype, shape, &src.iter().map(|&v| v as u32).collect::<Vec<_>>()),
            DType::F32 => self.upload(dtype, shape, &single().collect::<Vec<_>>()),
            DType::BF16 => self.upload(dtype, shape, &single().map(half::bf16::from_f32).collect::<Vec<_>>()),
            DType::F16 => self.upload(dtype, shape, &single().map(half::f16::from_f32).collect::<Vec<_>>()),
        }
    }
    /// A tensor of any type as numbers on the host.
    pub fn read_reals(&self, t: &Tensor) -> Result<Vec<f64>> {
        Ok(match t.spec.dtype {
            DType::F64 => self.read::<f64>(t)?,
            DType::U32 => self.read::<u32>(t)?.into_iter().map(f64::from).collect(),
            DType::F32 => self.read::<f32>(t)?.into_iter().map(f64::from).collect(),
            DType::BF16 => self.read::<half::bf16>(t)?.into_iter().map(f64::from).collect(),
            DType::F16 => self.read::<half::f16>(t)?.into_iter().map(f64::from).collect(),
        })
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
    /// Has a small tensor brought to the host behind what was queued before, without waiting for it; `None` where the device
    /// cannot.
    pub fn fetch(&self, t: &Tensor) -> Result<Option<cuda::Fetched>> {
        match self {
            Device::Cuda(card) => Ok(Some(card.fetch(t)?)),
            Device::Cpu(_) | Device::Wgpu(_) | Device::Dry(_) => Ok(None),
        }
    }
    /// Gives memory that the pool keeps back to the system.
    pub fn trim(&self) -> Result<()> {
        dispatch!(self, d => d.trim())
    }
    /// Seconds that the device was at what `work` gave it to do: by its own clock where it has one, else the host's until the
    /// device is idle.
    pub fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        dispatch!(self, d => Backend::time(d, work))
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
