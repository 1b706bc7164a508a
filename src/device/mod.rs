//! Devices: memory and kernel launches. A backend knows no op.
//!
//! Tensors are contiguous and row-major. There are no strides and no general tensor operations.

pub mod cpu;
pub mod cuda;
mod meta;
mod identity;
pub(crate) mod isolated;
mod library;
mod logs;
mod name;
mod profile;
pub mod settings;
#[cfg_attr(not(feature = "wgpu"), path = "wgpu/absent.rs")]
pub mod wgpu;

pub use self::wgpu::{Wgpu, fold};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
pub use cpu::Cpu;
pub use cuda::Cuda;
pub use identity::Identity;
pub use library::{LibraryFacts, PassedOver};
pub use meta::{MemoryUsage, Meta, MetaStorage};
pub use name::DeviceId;
pub(crate) use name::{index, suggestion};
pub use profile::{Pass, Profile, Timed};
use std::fmt;
use std::sync::Arc;

/// The capabilities of a device. [`crate::ops::Op::plan`] reads them, so that an op that cannot run is
/// refused before it starts.
#[derive(Clone, Debug)]
pub struct Caps {
    /// The device's own name.
    pub name: String,
    /// The element types that kernels can compute in.
    pub dtypes: &'static [DType],
    /// The type of activations and of the weights that kernels read. If it is not f32, the device also keeps
    /// f32 master weights.
    pub compute: DType,
    /// The compute type, which options, results and pages call `dtype`: the type in which the matmuls of
    /// `linear` multiply. It is `compute`, except in f16 on wgpu, where activations stay f32.
    pub matmul: DType,
    /// Shared memory of one group of threads, in bytes.
    pub shared_bytes: usize,
    /// The device's memory in bytes, if known.
    pub memory_bytes: Option<u64>,
    /// Memory that was in use when the device was opened, or that it needs itself, in bytes; 0 if unknown.
    pub taken_bytes: u64,
    /// The largest tensor that a kernel can access, in bytes.
    pub binding_bytes: u64,
    /// Whether the device is a GPU: it has its own memory, and work is queued on it.
    pub gpu: bool,
    /// The number of CUDA blocks that run at once and share sums over rows; 0 on other devices.
    pub blocks: usize,
    /// What `linear` packs before it multiplies.
    pub packs: Packing,
}

/// The operands that a device's matmul packs into memory of their own first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// None.
    None,
    /// The weights in the forward pass, on an adapter in software.
    Weights,
    /// The right one of every matmul; one of 16 bits in f32.
    Wide,
    /// As [`Packing::Wide`], but of two bf16 matrices both, if the left one is transposed, in bf16.
    Pairs,
}

impl Caps {
    /// The device's name, and what it computes in if that is not f32: for messages.
    pub fn label(&self) -> String {
        match (self.matmul, self.compute) {
            (DType::F32 | DType::F64, _) => self.name.clone(),
            (matmul, compute) if matmul == compute => format!("{}, computing in {matmul}", self.name),
            (matmul, _) => format!("{}, matmuls in {matmul}", self.name),
        }
    }
    /// Checks that the device can compute in an element type.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if it cannot.
    pub fn require(&self, op: &'static str, dtype: DType) -> Result<()> {
        if self.dtypes.contains(&dtype) {
            return Ok(());
        }
        let names: Vec<String> = self.dtypes.iter().map(DType::to_string).collect();
        Err(Error::device(format!("{op} cannot compute in {dtype} on {}", self.name))
            .with_expected(format!("one of {}", names.join(", ")))
            .with_help("set precision = \"f32\", or choose another --device"))
    }
}

/// What every device does: allocate memory, and copy bytes to and from it.
pub trait Backend: 'static {
    /// The device's capabilities.
    fn caps(&self) -> Caps;
    /// Memory for a tensor, from a pool, with undefined contents.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    fn alloc(&self, spec: &Spec) -> Result<Storage>;
    /// Memory for a tensor that the host will write.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    fn alloc_input(&self, spec: &Spec) -> Result<Storage> {
        self.alloc(spec)
    }
    /// Copies host bytes into a tensor.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if `src` has another number of bytes;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    fn write(&self, dst: &Tensor, src: &[u8]) -> Result<()>;
    /// Copies a tensor to the host.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if `dst` has another number of bytes;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    fn read(&self, src: &Tensor, dst: &mut [u8]) -> Result<()>;
    /// Sets every byte of a tensor to zero.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    fn zero(&self, dst: &Tensor) -> Result<()>;
    /// The time in seconds that the device spent on the work that `work` queued.
    ///
    /// # Errors
    /// Those of `work` and of the device.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
    /// Returns the pool's unused memory to the system.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    fn trim(&self) -> Result<()>;
    /// The recorder of op times, used during profiling.
    fn profile(&self) -> &Profile;
}

/// A constant that is defined before a kernel's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Const {
    /// An unsigned integer.
    U32(u32),
    /// The element type under this name.
    Type(DType),
    /// Cooperative matrices of this size, f16 input and f32 output, as the types `MatA`, `MatB` and `MatC`.
    /// The name is not used.
    Matrices(u32),
}

/// A matrix of 16-bit elements that a kernel reads through a tensor map (TMA): boxes of 64 x 64 with a
/// 128-byte swizzle, and zeros beyond the edges.
#[derive(Clone, Copy)]
pub struct TensorMap<'a> {
    /// The row-major matrix.
    pub t: &'a Tensor,
    /// The number of elements in a row, a multiple of 8.
    pub row: usize,
}

/// A kernel launch: the source, its entry point, the buffers in declared order, and one `Params` struct.
pub struct Launch<'a> {
    /// The source, from `kernels/` or `shaders/`.
    pub source: &'static str,
    /// The entry point.
    pub entry: &'static str,
    /// Constants that specialise the source, defined before it.
    pub consts: &'a [(&'static str, Const)],
    /// The number of groups (CUDA blocks) in x, y and z.
    pub groups: [u32; 3],
    /// The number of threads of a group.
    pub threads: u32,
    /// Dynamic shared memory of a group, in bytes.
    pub shared_bytes: u32,
    /// Matrices that the kernel reads through tensor maps (CUDA, Hopper or later); the kernel's first
    /// parameters.
    pub tensor_maps: &'a [TensorMap<'a>],
    /// The buffers that the kernel reads and writes.
    pub buffers: &'a [&'a Tensor],
    /// The bytes of one `Params` struct of 4-byte fields.
    pub params: &'a [u8],
}

/// A backend that compiles and launches kernels.
pub trait Gpu: Backend {
    /// Queues a kernel launch.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) for a kernel that does not compile;
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
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
    /// No memory: only its size is counted.
    Meta(MetaStorage),
}

/// A contiguous, row-major tensor on one device. Cloning shares the memory.
#[derive(Clone)]
pub struct Tensor {
    /// Element type and shape.
    pub spec: Spec,
    storage: Arc<Storage>,
    offset: usize,
}

impl Tensor {
    /// A view of the elements from `offset` on, with this shape. It shares the memory.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the view does not fit into the tensor.
    pub fn view(&self, offset: usize, shape: &[usize]) -> Result<Tensor> {
        let spec = Spec::new(self.spec.dtype, shape);
        if offset.checked_add(spec.len()).is_none_or(|end| end > self.spec.len()) {
            return Err(Error::shape(format!(
                "a view of shape {shape:?} at element {offset} does not fit into {:?}",
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
#[cfg_attr(
    not(feature = "wgpu"),
    expect(
        clippy::large_enum_variant,
        reason = "only the stand-in for wgpu is small; there are few devices"
    )
)]
pub enum Device {
    /// The CPU.
    Cpu(Cpu),
    /// An NVIDIA GPU through CUDA.
    Cuda(Cuda),
    /// Any GPU through Vulkan, Metal or DX12.
    Wgpu(Wgpu),
    /// No device: counts the memory that a run would use.
    Meta(Meta),
}

/// Evaluates an expression with the backend of a device.
macro_rules! dispatch {
    ($device:expr, $d:ident => $e:expr) => {
        match $device {
            $crate::device::Device::Cpu($d) => $e,
            $crate::device::Device::Cuda($d) => $e,
            $crate::device::Device::Wgpu($d) => $e,
            $crate::device::Device::Meta($d) => $e,
        }
    };
}
pub(crate) use dispatch;

impl Device {
    /// Opens a device by its name, as for `--device`: `auto`, `cpu`, `cuda`, `cuda:N`, `wgpu` or `wgpu:N`.
    /// `auto` is the CPU. `threads` is the number of CPU threads, 0 for one per core.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for an unknown name, and for an environment variable with
    /// an unknown value (see [`settings`]); [`Kind::Device`](crate::error::Kind::Device) if the device cannot
    /// be opened.
    ///
    /// ```
    /// use tempra::device::Device;
    ///
    /// let device = Device::open("cpu", 2)?;
    /// assert!(!device.caps().gpu);
    /// assert!(Device::open("gpu", 0).is_err());
    /// # Ok::<(), tempra::error::Error>(())
    /// ```
    pub fn open(name: &str, threads: usize) -> Result<Device> {
        match DeviceId::parse(name)? {
            DeviceId::Cpu => Ok(Device::Cpu(Cpu::new(threads)?)),
            DeviceId::Cuda(index) => Ok(Device::Cuda(Cuda::new(index)?)),
            DeviceId::Wgpu(index) => Ok(Device::Wgpu(Wgpu::new(index)?)),
        }
    }
    /// Checks whether [`Device::with_compute`] accepts a type.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if the device cannot compute in it.
    pub fn can_compute(&self, dtype: DType) -> Result<()> {
        match (self, dtype) {
            (_, DType::F32) | (Device::Cpu(_), DType::BF16 | DType::F16) => Ok(()),
            (Device::Cuda(gpu), _) => gpu.can_compute(dtype),
            (Device::Wgpu(gpu), DType::F16) => gpu.can_compute_half(),
            (other, _) => Err(Error::device(format!("{} cannot compute in {dtype}", other.caps().name))
                .with_expected("f32, f16 or bf16 on a CPU and on CUDA; f32 or f16 on wgpu")
                .with_help("set precision = \"f32\", or choose another --device")),
        }
    }
    /// The same device, computing in a 16-bit type. On wgpu the matmuls of `linear` round their operands to
    /// f16; tensors and all other ops, attention included, stay f32. On the CPU and on CUDA all activations
    /// and the weights that ops read have this type. Sums are accumulated in f32 everywhere.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if the device cannot compute in it.
    pub fn with_compute(self, dtype: DType) -> Result<Device> {
        self.can_compute(dtype)?;
        match (self, dtype) {
            (Device::Cpu(cpu), dtype) => Ok(Device::Cpu(cpu.with_compute(dtype))),
            (device, DType::F32) => Ok(device),
            (Device::Cuda(gpu), _) => Ok(Device::Cuda(gpu.with_compute(dtype)?)),
            (Device::Wgpu(gpu), _) => Ok(Device::Wgpu(gpu.with_half()?)),
            // Not reached: the meta device has its type from its capabilities.
            (other, _) => Ok(other),
        }
    }
    /// Runs `f` as [`Device::run`] does. Tensors that it allocates must be dropped at its end.
    pub fn scoped<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cuda(gpu) => gpu.scoped(f),
            _ => self.run(f),
        }
    }
    /// Whether the device replays captured steps (CUDA graphs).
    pub fn replays(&self) -> bool {
        matches!(self, Device::Cuda(gpu) if gpu.replays())
    }
    /// Runs a step. Steps of one `key` must differ only in the data that the host writes into tensors. On
    /// CUDA the step is captured as a graph and replayed from then on. `work` must not read tensors back, and
    /// its tensors must not be used afterwards.
    ///
    /// # Errors
    /// Those of `work` and of the device.
    pub fn replayed<R>(&self, key: u64, work: impl FnOnce() -> Result<R>) -> Result<R> {
        match self {
            Device::Cuda(gpu) => gpu.replayed(key, work),
            _ => work(),
        }
    }
    /// Runs `f`. On the CPU, parallel loops in it use the device's threads.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        match self {
            Device::Cpu(cpu) => cpu.install(f),
            Device::Cuda(_) | Device::Wgpu(_) | Device::Meta(_) => f(),
        }
    }
    /// The device's capabilities.
    pub fn caps(&self) -> Caps {
        dispatch!(self, d => d.caps())
    }
    /// The most bytes of tensors and scratch memory that were in use at once. For a GPU, the bytes allocated
    /// from its driver, which include memory kept for reuse since [`Device::trim`].
    pub fn peak_bytes(&self) -> Option<u64> {
        match self {
            Device::Cpu(d) => Some(d.memory().peak as u64),
            Device::Meta(d) => Some(d.usage().peak),
            Device::Cuda(d) => Some(d.stats().bytes),
            Device::Wgpu(d) => Some(d.stats().bytes),
        }
    }
    /// A tensor with undefined contents.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if there is not enough memory.
    pub fn alloc(&self, spec: Spec) -> Result<Tensor> {
        let storage = dispatch!(self, d => d.alloc(&spec))?;
        Ok(Tensor { spec, storage: Arc::new(storage), offset: 0 })
    }
    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let t = self.alloc(Spec::new(dtype, shape))?;
        self.zero(&t)?;
        Ok(t)
    }
    /// Sets a tensor to zero.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn zero(&self, t: &Tensor) -> Result<()> {
        dispatch!(self, d => d.zero(t))
    }
    /// Copies host elements into a tensor of the same number of bytes.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if `src` has another number of bytes;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn write<T: bytemuck::NoUninit>(&self, t: &Tensor, src: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(src);
        if bytes.len() != t.spec.bytes() {
            let what =
                format!("cannot write {} bytes to {:?}, which has {}", bytes.len(), t.spec, t.spec.bytes());
            return Err(Error::shape(what));
        }
        dispatch!(self, d => d.write(t, bytes))
    }
    /// Lets `fill` write all elements of a tensor: in place on the CPU, otherwise through a host buffer.
    ///
    /// # Errors
    /// Those of `fill`; [`Kind::Shape`](crate::error::Kind::Shape) for a `T` of another size;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn write_with<T: bytemuck::Pod>(
        &self,
        t: &Tensor,
        fill: impl FnOnce(&mut [T]) -> Result<()>,
    ) -> Result<()> {
        match self {
            Device::Cpu(_) => return fill(&mut t.cpu_mut::<T>()?),
            Device::Meta(_) => return Ok(()),
            Device::Cuda(_) | Device::Wgpu(_) => {}
        }
        let mut host = vec![T::zeroed(); t.spec.len()];
        fill(&mut host)?;
        self.write(t, &host)
    }
    /// A new tensor with these host elements.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if `src` does not fill the shape;
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn upload<T: bytemuck::NoUninit>(&self, dtype: DType, shape: &[usize], src: &[T]) -> Result<Tensor> {
        let spec = Spec::new(dtype, shape);
        let storage = Arc::new(dispatch!(self, d => d.alloc_input(&spec))?);
        let t = Tensor { spec, storage, offset: 0 };
        self.write(&t, src)?;
        Ok(t)
    }
    /// A new tensor with these numbers, converted to its type.
    ///
    /// # Errors
    /// As [`Device::upload`].
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
    /// The elements of a tensor of any type, as f64.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
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
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for a `T` of another size;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn read<T: bytemuck::Pod>(&self, t: &Tensor) -> Result<Vec<T>> {
        if size_of::<T>() != t.spec.dtype.size() {
            return Err(Error::shape(format!(
                "cannot read {:?} as elements of {} bytes",
                t.spec,
                size_of::<T>()
            )));
        }
        let mut out = vec![T::zeroed(); t.spec.len()];
        dispatch!(self, d => d.read(t, bytemuck::cast_slice_mut(&mut out)))?;
        Ok(out)
    }
    /// Starts an asynchronous copy of a small tensor to the host, after the work queued before. `None` if the
    /// device does not support it.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the tensor is too large; those of the device.
    pub fn fetch(&self, t: &Tensor) -> Result<Option<cuda::Fetched>> {
        match self {
            Device::Cuda(gpu) => Ok(Some(gpu.fetch(t)?)),
            Device::Cpu(_) | Device::Wgpu(_) | Device::Meta(_) => Ok(None),
        }
    }
    /// Returns the pool's unused memory to the system.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn trim(&self) -> Result<()> {
        dispatch!(self, d => d.trim())
    }
    /// The time in seconds that the device spent on `work`: by the device's clock if it has one, else by the
    /// host's until the device is idle.
    ///
    /// # Errors
    /// Those of `work` and of the device.
    pub fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        dispatch!(self, d => Backend::time(d, work))
    }
    /// The PCI address and the UUID of a GPU; nothing for other devices.
    pub fn identity(&self) -> Identity {
        match self {
            Device::Cuda(gpu) => gpu.identity().clone(),
            Device::Wgpu(gpu) => gpu.abilities().identity.clone(),
            Device::Cpu(_) | Device::Meta(_) => Identity::default(),
        }
    }
    /// Runs `work` and returns the names of the GPU kernels that it launched, each once, in the order of
    /// their first launch. `cublasLtMatmul` stands for the kernels of cuBLASLt. Empty on a CPU, and where
    /// `work` replays a captured step.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn kernels(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<&'static str>> {
        let profile = dispatch!(self, d => d.profile());
        profile.begin_kernels();
        let done = work();
        let kernels = profile.end_kernels();
        done.map(|()| kernels)
    }
    /// Runs `work` and records the time of every op, in order.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn profiled<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(R, Vec<Timed>)> {
        let profile = dispatch!(self, d => d.profile());
        profile.begin();
        let done = work();
        let timed = profile.end();
        Ok((done?, timed))
    }
}
