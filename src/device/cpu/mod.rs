//! The CPU: pooled host memory, a fixed partition of work over threads, and the matmul.
//!
//! Results do not depend on the number of threads: work is cut into blocks of fixed size, and partial sums
//! are added in the order of the blocks.

mod gelu;
mod memory;
mod pages;
mod matmul;
pub mod parallel;
mod real;
mod scalar;
mod threads;

pub use gelu::GeluForm;
pub use matmul::{
    ApplyGradient, HalfEpilogue, Kernel, Mat, MatmulEngine, Out, Stored, matmul, matmul_half,
    matmul_half_serial, matmul_serial,
};
pub use memory::{Buffer, MemoryStats, Slice, SliceMut};
pub(crate) use pages::prefer_huge;
use real::level;
pub use real::{Level, Real, always, max_lanes, sum_lanes, sum_over, vectorised};
pub(crate) use real::{inlined, vectorise};
pub use scalar::{GradientMut, GradientPart, Scalar, convert, load_row, loaded, store_row};
pub(crate) use scalar::{by_gradient, by_scalar, round_to};

use super::settings::CpuSettings;
use super::{Backend, Caps, Packing, Profile, Storage, Tensor};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
use memory::Pool;
use std::sync::Arc;
use std::time::Instant;
use threads::Threads;

/// Rows per task of row-wise ops: few enough to balance the threads, enough to hide the scheduling cost.
pub const BLOCK: usize = 32;

/// The CPU device.
pub struct Cpu {
    pool: Arc<Pool>,
    threads: Threads,
    engine: MatmulEngine,
    profile: Profile,
    /// The type of activations.
    compute: DType,
}

impl Cpu {
    /// Opens the CPU with a number of threads; 0 means one per core. There are fewer if the system does not
    /// start them all. `TEMPRA_CPU_MATMUL` chooses what
    /// multiplies bf16: the name of a [`MatmulEngine`].
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if this machine does not have the engine;
    /// [`Kind::Usage`](crate::error::Kind::Usage) for an engine that does not exist.
    pub fn new(threads: usize) -> Result<Cpu> {
        let wanted = CpuSettings::read()?.matmul;
        // Asks for the permission to use AMX before threads start, which inherit it.
        let engine = MatmulEngine::fastest();
        let threads = Threads::new(threads);
        let cpu =
            Cpu { pool: Arc::default(), threads, engine, profile: Profile::default(), compute: DType::F32 };
        match MatmulEngine::ALL.into_iter().find(|e| Some(e.name()) == wanted) {
            Some(engine) => cpu.with_engine(engine),
            None => Ok(cpu),
        }
    }
    /// The same device, multiplying bf16 by another engine.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if this machine does not have it.
    pub fn with_engine(self, engine: MatmulEngine) -> Result<Cpu> {
        if !engine.available() {
            let can = MatmulEngine::ALL.into_iter().filter(|e| e.available()).map(MatmulEngine::name);
            return Err(Error::device(format!("this machine has no matmul engine {}", engine.name()))
                .with_expected(can.collect::<Vec<_>>().join(", "))
                .with_help("unset TEMPRA_CPU_MATMUL"));
        }
        Ok(Cpu { engine, ..self })
    }
    /// What multiplies bf16.
    pub fn engine(&self) -> MatmulEngine {
        self.engine
    }
    /// The same device, with activations and the copies of weights that ops read in this type: f32, bf16 or
    /// f16.
    pub(super) fn with_compute(self, compute: DType) -> Cpu {
        Cpu { compute, ..self }
    }
    /// Runs `f` on the calling thread, where [`parallel`] loops use this device's threads.
    pub fn install<R>(&self, f: impl FnOnce() -> R) -> R {
        self.threads.install(f)
    }
    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }
    /// The instruction set of the matmul: `AVX-512`, `AVX2`, or `baseline`, which is that of the build's
    /// target; and after it that of the matmul of bf16, if it has one: `AVX-512, AMX`.
    pub fn instructions(&self) -> String {
        match self.engine {
            MatmulEngine::Amx => format!("{}, AMX", real::features()),
            MatmulEngine::Avx512Bf16 => format!("{} with bf16", real::features()),
            MatmulEngine::Widened => real::features().to_owned(),
        }
    }
    /// Statistics of the memory pool.
    pub fn memory(&self) -> MemoryStats {
        self.pool.stats()
    }
    /// Temporary memory for an op, from the pool.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the system gives none.
    pub fn scratch(&self, bytes: usize) -> Result<Buffer> {
        Pool::take(&self.pool, bytes)
    }
    /// A temporary tensor with undefined contents, from the pool.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the system gives none.
    pub fn scratch_tensor(&self, spec: Spec) -> Result<Tensor> {
        let storage = Arc::new(self.alloc(&spec)?);
        Ok(Tensor { spec, storage, offset: 0 })
    }
    /// Temporary memory of `bytes` for each thread, which the tasks of an op use one after the other.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the system gives none.
    pub fn scratch_per_thread(&self, bytes: usize) -> Result<PerThread> {
        let bytes = bytes.next_multiple_of(memory::ALIGN);
        Ok(PerThread { all: self.scratch(bytes * self.threads())?, bytes })
    }
}

/// See [`Cpu::scratch_per_thread`].
pub struct PerThread {
    all: Buffer,
    bytes: usize,
}

impl PerThread {
    /// `len` elements from `start` on of the calling thread's part.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if they do not fit or are in use.
    pub fn mine<T: bytemuck::Pod>(&self, start: usize, len: usize) -> Result<SliceMut<'_, T>> {
        let part = self.bytes / size_of::<T>();
        if start.checked_add(len).is_none_or(|end| end > part) {
            let what =
                format!("{len} elements from element {start} on do not fit into a thread's {part} elements");
            return Err(Error::shape(what));
        }
        self.all.write(threads::thread_index() * part + start, len)
    }
}

impl Backend for Cpu {
    fn caps(&self) -> Caps {
        Caps {
            name: match self.threads() {
                1 => format!("cpu (1 thread, {})", self.instructions()),
                n => format!("cpu ({n} threads, {})", self.instructions()),
            },
            dtypes: &[DType::F64, DType::F32, DType::BF16, DType::F16],
            compute: self.compute,
            matmul: self.compute,
            shared_bytes: usize::MAX,
            memory_bytes: None,
            taken_bytes: 0,
            binding_bytes: u64::MAX,
            gpu: false,
            blocks: 0,
            packs: if self.engine == MatmulEngine::Widened { Packing::Wide } else { Packing::Pairs },
        }
    }
    fn alloc(&self, spec: &Spec) -> Result<Storage> {
        Ok(Storage::Cpu(Pool::take(&self.pool, spec.bytes())?))
    }
    fn write(&self, dst: &Tensor, src: &[u8]) -> Result<()> {
        dst.cpu_bytes_mut()?.copy_from_slice(src);
        Ok(())
    }
    fn read(&self, src: &Tensor, dst: &mut [u8]) -> Result<()> {
        dst.copy_from_slice(&src.cpu_bytes()?);
        Ok(())
    }
    fn zero(&self, dst: &Tensor) -> Result<()> {
        // Memory that was never written is zero already; touching it would only make its pages.
        if !dst.host()?.pristine() {
            dst.cpu_bytes_mut()?.fill(0);
        }
        Ok(())
    }
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let begun = Instant::now();
        work()?;
        Ok(begun.elapsed().as_secs_f64())
    }
    fn trim(&self) -> Result<()> {
        self.pool.trim();
        Ok(())
    }
    fn profile(&self) -> &Profile {
        &self.profile
    }
}

impl Tensor {
    fn host(&self) -> Result<&Buffer> {
        match &*self.storage {
            Storage::Cpu(b) => Ok(b),
            _ => Err(Error::shape("the CPU got a tensor of another device")),
        }
    }
    fn cpu_bytes(&self) -> Result<Slice<'_, u8>> {
        let size = self.spec.dtype.size();
        self.host()?.read(self.offset * size, self.spec.len() * size)
    }
    fn cpu_bytes_mut(&self) -> Result<SliceMut<'_, u8>> {
        let size = self.spec.dtype.size();
        self.host()?.write(self.offset * size, self.spec.len() * size)
    }
    /// The elements, for reading.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) while any of them is being written, or if `T` has another
    /// size.
    pub fn cpu<T: bytemuck::Pod>(&self) -> Result<Slice<'_, T>> {
        self.check_size::<T>()?;
        self.host()?.read(self.offset, self.spec.len())
    }
    /// The elements, for writing.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) while any of them is in use, or if `T` has another size.
    pub fn cpu_mut<T: bytemuck::Pod>(&self) -> Result<SliceMut<'_, T>> {
        self.check_size::<T>()?;
        self.host()?.write(self.offset, self.spec.len())
    }
    fn check_size<T>(&self) -> Result<()> {
        if size_of::<T>() == self.spec.dtype.size() {
            return Ok(());
        }
        Err(Error::shape(format!("cannot use {:?} as elements of {} bytes", self.spec, size_of::<T>())))
    }
}
