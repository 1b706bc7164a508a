//! NVIDIA GPUs through CUDA: a caching allocator, kernels compiled for the GPU's architecture, one stream,
//! and CUDA graphs for training steps.
//!
//! Settings for debugging:
//! - `TEMPRA_CUDA_EXACT=1`: each tensor has its own allocation, so that a checker (compute-sanitizer, the
//!   emulator) detects accesses beyond its end.
//! - `TEMPRA_CUDA_PTX=1`: load PTX instead of machine code, for the emulator.
//! - `TEMPRA_CUDA_TARGET=80`: compile for at most this architecture, as an NVRTC that is older than the GPU
//!   does.
//! - `TEMPRA_CUDA_GRAPHS=0`: launch kernel by kernel, without CUDA graphs.
//! - `TEMPRA_CUDA_MATMUL`: choose the matmul kernels (see [`Cuda::matmul`]).
//! - `TEMPRA_CUDA_MEMORY`: limit the device memory, in bytes.
//! - `TEMPRA_CUDA_LOSE_AFTER`: simulate a lost device after this number of graph launches.
//!
//! Unknown values are refused; see [`CudaSettings`].
#![allow(unsafe_code, reason = "calls the CUDA driver")]

mod arena;
mod blas;
mod choose;
mod compile;
mod driver;
mod graph;
mod hardware;
mod identity;
mod launch;
mod library;
mod memory;
pub mod nvml;
mod nvrtc;
mod system;

pub(crate) use blas::MatmulAlgorithm;
pub use blas::{BackwardEpilogue, Matmul, MatmulCandidates};
pub use compile::{Compiler, PRELUDE, Resources, specialised};
pub use driver::functions as driver_functions;
pub use graph::Captured;
pub use hardware::Hardware;
pub use library::BLAS_FUNCTIONS;
pub use memory::{Fetched, Memory};

use super::settings::{self, CudaSettings};
use super::{Backend, Caps, Gpu, Identity, Launch, LibraryFacts, Packing, Profile, Storage, Tensor};
use crate::error::{Error, Kind, Result};
use crate::shape::{DType, Spec};
use arena::Arena;
use cudarc::driver::{DriverError, result, sys};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The lowest supported compute capability: Turing.
const OLDEST_CARD: u32 = 75;

/// Memory that is not for tensors, in bytes: kernel code, inputs of CUDA graphs, cuBLASLt's workspace.
const OWN_BYTES: u64 = 64 << 20;

/// Counters of the device's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaStats {
    /// Allocations from the driver.
    pub allocations: u64,
    /// Their total size in bytes.
    pub bytes: u64,
    /// Tensors copied to the host.
    pub reads: u64,
    /// Small tensors copied to the host asynchronously: see [`Fetched`].
    pub fetches: u64,
    /// Kernels launched outside of graphs.
    pub launches: u64,
    /// CUDA graphs launched for steps.
    pub graphs: u64,
    /// CUDA graphs launched with [`Cuda::launch_captured`].
    pub captured: u64,
    /// Copies from the host.
    pub writes: u64,
    /// Waits for the device.
    pub waits: u64,
    /// Matmuls computed by cuBLASLt.
    pub library: u64,
    /// The number of these with a fused epilogue of a backward pass.
    pub whole: u64,
}

/// One NVIDIA GPU.
pub struct Cuda {
    inner: Arc<Inner>,
    caps: Caps,
    identity: Identity,
    compiler: Compiler,
    constants: Mutex<HashMap<Vec<u8>, Tensor>>,
    profile: Profile,
    graphs: bool,
    inspected: Option<Inspected>,
    matmul: Option<&'static str>,
    blas: Mutex<blas::BlasState>,
}

/// Kernels that are compiled instead of launched.
#[derive(Default)]
struct Inspected {
    /// Known resources, by the digest of the kernel's text.
    known: HashMap<String, Resources>,
    /// Resources and digests, by entry point and constants.
    found: Mutex<BTreeMap<String, (Resources, String)>>,
}

struct Inner {
    context: sys::CUcontext,
    stream: sys::CUstream,
    name: String,
    capability: u32,
    sms: u32,
    shared_limit: usize,
    hardware: Hardware,
    /// How to read the time between two events.
    clock: driver::Clock,
    /// The driver's version of CUDA: 13000 for 13.0.
    driver: i32,
    budget: Option<u64>,
    lose_after: Option<u64>,
    state: Mutex<State>,
}

// SAFETY: the driver's handles may be used from any thread to which the context is bound, which `bind` does
// first.
unsafe impl Send for Inner {}
// SAFETY: the same; what the host keeps of them is behind a lock.
unsafe impl Sync for Inner {}

#[derive(Default)]
struct State {
    arena: Arena,
    kernels: launch::Kernels,
    graphs: graph::Graphs,
    staging: memory::Staging,
    /// Unused pieces for [`Fetched`].
    fetched: memory::Staging,
    stats: CudaStats,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A driver's error in words: its name and its explanation.
fn words(e: DriverError) -> String {
    let name = e.error_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let explained = e.error_string().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if name == explained || explained.is_empty() { name } else { format!("{name}: {explained}") }
}

/// Converts a driver call that failed while the GPU was being opened to an error. It is never [`Kind::Lost`]:
/// no work has started, and the same command would fail again.
fn not_opened(device: &str, what: &str, e: DriverError) -> Error {
    if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Error::memory(format!("{device} has not enough memory: {what} failed"))
            .with_found(words(e))
            .with_help("run `nvidia-smi` to see which programs use its memory");
    }
    driver::refused(device, what, e.0, &words(e))
}

/// Converts a failed driver call to an error, after the GPU was opened.
fn failed(device: &str, what: &str, e: DriverError) -> Error {
    use sys::CUresult as C;
    let text = || words(e);
    match e.0 {
        C::CUDA_ERROR_OUT_OF_MEMORY => {
            Error::memory(format!("{device} has not enough memory: {what} failed")).with_found(text())
        }
        // After these errors the context is unusable.
        C::CUDA_ERROR_ILLEGAL_ADDRESS
        | C::CUDA_ERROR_MISALIGNED_ADDRESS
        | C::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | C::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | C::CUDA_ERROR_INVALID_PC
        | C::CUDA_ERROR_HARDWARE_STACK_ERROR
        | C::CUDA_ERROR_LAUNCH_FAILED
        | C::CUDA_ERROR_LAUNCH_TIMEOUT
        | C::CUDA_ERROR_ASSERT
        | C::CUDA_ERROR_ECC_UNCORRECTABLE
        | C::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | C::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | C::CUDA_ERROR_DEVICE_UNAVAILABLE
        | C::CUDA_ERROR_UNKNOWN => Error::new(Kind::Lost, format!("the device was lost: {what}")).at(device).with_found(text()).with_help(
            "run the same command again: training resumes from the last checkpoint; if the driver hangs, restart it first",
        ),
        _ => Error::device(format!("{what} failed")).at(device).with_found(text()),
    }
}

/// Makes a context current on this thread.
///
/// # Safety
/// It is retained.
unsafe fn make_current(context: sys::CUcontext) -> std::result::Result<(), DriverError> {
    thread_local! { static CURRENT: Cell<usize> = const { Cell::new(0) } }
    if CURRENT.get() != context as usize {
        // SAFETY: the caller's word.
        unsafe { result::ctx::set_current(context) }?;
        CURRENT.set(context as usize);
    }
    Ok(())
}

impl Inner {
    /// Makes the context current on this thread.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained as long as this lives.
        unsafe { make_current(self.context) }.map_err(|e| self.failed("binding the context", e))
    }
    fn failed(&self, what: &str, e: DriverError) -> Error {
        failed(&self.name, what, e)
    }
    /// Waits until all queued work is done.
    fn wait(&self) -> Result<()> {
        self.bind()?;
        lock(&self.state).stats.waits += 1;
        // SAFETY: the stream lives as long as this.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|e| self.failed("waiting for the kernels", e))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What fails here has failed before and was reported then.
        if self.bind().is_err() {
            return;
        }
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nothing uses these any more: every tensor holds this alive.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            state.graphs.destroy();
            state.kernels.unload();
            state.staging.free();
            state.fetched.free();
            for place in state.arena.clear().into_iter().chain(state.graphs.clear()) {
                let _ = result::free_sync(place);
            }
            // The primary context stays: cuBLASLt keeps handles in it, and the next device uses the same
            // context.
            let _ = result::stream::destroy(self.stream);
        }
    }
}

impl Cuda {
    /// The number of NVIDIA GPUs.
    ///
    /// # Errors
    /// [`Kind::Device`] if there is no driver, or it does not start.
    pub fn count() -> Result<usize> {
        driver::start()?;
        let count = result::device::get_count().map_err(|e| not_opened("CUDA", "counting the GPUs", e))?;
        Ok(count.max(0) as usize)
    }

    /// The libraries that CUDA devices need or can use, for `tempra devices`: the driver, NVRTC and its
    /// builtins, cuBLASLt, NVML.
    pub fn libraries() -> Vec<LibraryFacts> {
        let driver = driver::start().ok().map(|d| d.version / 1000);
        let mut all = vec![driver::facts()];
        all.extend(library::nvrtc_facts(driver));
        all.extend([library::cublaslt_facts(driver), library::nvml_facts()]);
        all
    }

    /// Opens a GPU by its index.
    ///
    /// # Errors
    /// [`Kind::Device`] if there is no driver or it is too old, if there is no GPU with this index or it is
    /// older than Turing, and if NVRTC is missing; [`Kind::Usage`] for an environment variable with an
    /// unknown value.
    pub fn new(index: usize) -> Result<Cuda> {
        let set = CudaSettings::read()?;
        let version = driver::start()?.version;
        let count = Self::count()?;
        if index >= count {
            let hint =
                "run `nvidia-smi` to list the GPUs, check CUDA_VISIBLE_DEVICES, or run with --device cpu";
            return Err(Error::device(format!("there is no GPU cuda:{index}"))
                .with_expected(match count {
                    0 => "at least one NVIDIA GPU".to_owned(),
                    1 => "cuda:0, the only GPU".to_owned(),
                    _ => format!("cuda:0 to cuda:{}", count - 1),
                })
                .with_help(hint));
        }
        let call = |what: &'static str| move |e| not_opened("CUDA", what, e);
        let device = result::device::get(index as i32).map_err(call("finding the GPU"))?;
        let name = result::device::get_name(device).map_err(call("reading the GPU's name"))?;
        use sys::CUdevice_attribute as A;
        let ask = |a| {
            // SAFETY: the device is one of the driver's.
            unsafe { result::device::get_attribute(device, a) }
                .map_err(|e| not_opened(&name, "reading the GPU's properties", e))
        };
        let capability = (ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
            + ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?) as u32;
        if capability < OLDEST_CARD {
            return Err(Error::device(format!("{name} is too old for the CUDA kernels"))
                .with_expected("compute capability 7.5 (Turing) or later")
                .with_found(format!("compute capability {}.{}", capability / 10, capability % 10))
                .with_help("run with --device wgpu, which uses this GPU through Vulkan"));
        }
        let cache = crate::cache::dir().map(|d| d.join("kernels"));
        let compiler = Compiler::new(capability, version, set.target, set.ptx, cache)?;
        if compiler.older && set.target.is_none() {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| {
                crate::console::line(format!(
                    "note: NVRTC {}.{} does not support compute capability {}.{}, so tempra compiles kernels for {}.{} and the driver translates them; install a newer NVRTC for faster kernels",
                    compiler.version.0,
                    compiler.version.1,
                    capability / 10,
                    capability % 10,
                    compiler.target() / 10,
                    compiler.target() % 10,
                ));
            });
        }
        let sms = ask(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as u32;
        let shared_limit =
            ask(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.max(48 << 10) as usize;
        // SAFETY: the device is one of the driver's.
        let memory = unsafe { result::device::total_mem(device) }
            .map_err(|e| not_opened(&name, "reading the GPU's memory size", e))?;
        // SAFETY: the device is one of the driver's; it is kept as long as the program runs.
        let context = unsafe { result::primary_ctx::retain(device) }
            .map_err(|e| not_opened(&name, "creating a context", e))?;
        // SAFETY: just retained.
        unsafe { make_current(context) }.map_err(|e| not_opened(&name, "binding the context", e))?;
        // Other programs use some of the memory, and so does this context.
        let (free, _) =
            result::mem_get_info().map_err(|e| not_opened(&name, "reading the free memory", e))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| not_opened(&name, "creating a stream", e))?;
        let (arena, graphs) = (Arena::new(set.exact), graph::Graphs::new(set.exact));
        let state = State { arena, graphs, ..State::default() };
        let caps = Caps {
            name: name.clone(),
            dtypes: if capability >= 80 {
                &[DType::F32, DType::BF16, DType::F16]
            } else {
                &[DType::F32, DType::F16]
            },
            compute: DType::F32,
            matmul: DType::F32,
            shared_bytes: shared_limit,
            memory_bytes: Some(memory as u64),
            taken_bytes: memory.saturating_sub(free) as u64 + OWN_BYTES,
            binding_bytes: u64::MAX,
            gpu: true,
            blocks: 8 * sms as usize,
            packs: Packing::None,
        };
        let inner = Inner {
            context,
            stream,
            name,
            capability,
            sms,
            shared_limit,
            hardware: Hardware::of(device),
            clock: driver::clock(),
            driver: version,
            budget: set.memory_bytes,
            lose_after: set.lose_after,
            state: Mutex::new(state),
        };
        Cuda {
            inner: Arc::new(inner),
            caps,
            identity: identity::of(device),
            compiler,
            constants: Mutex::default(),
            profile: Profile::default(),
            graphs: set.graphs,
            inspected: None,
            blas: Mutex::default(),
            matmul: None,
        }
        .with_matmuls(set.matmuls)
    }

    /// Sets the matmul kernels, if this GPU has them.
    fn with_matmuls(mut self, name: Option<&'static str>) -> Result<Cuda> {
        self.matmul = name;
        let found = match name {
            Some("cublaslt") if !library::cublaslt() => {
                let facts = library::cublaslt_facts(None);
                format!("cuBLASLt: {}", facts.problem.unwrap_or_default())
            }
            Some("wgmma") if !self.hopper() => {
                format!("compute capability {}.{}", self.capability() / 10, self.capability() % 10)
            }
            _ => return Ok(self),
        };
        let name = name.unwrap_or_default();
        Err(Error::device(format!("{} has no matmul kernels {name:?}", self.inner.name))
            .with_expected(match name {
                "wgmma" => "a Hopper GPU (compute capability 9.0) and an NVRTC that knows it",
                _ => "cuBLASLt, which `tempra devices` finds",
            })
            .with_found(found)
            .with_help("unset TEMPRA_CUDA_MATMUL, or set it to own or fastest"))
    }

    /// Checks whether the GPU computes in a type.
    ///
    /// # Errors
    /// [`Kind::Device`] if it does not.
    pub fn can_compute(&self, dtype: DType) -> Result<()> {
        if self.caps.dtypes.contains(&dtype) {
            return Ok(());
        }
        let what = format!("{} cannot compute in {dtype}", self.caps.name);
        Err(Error::device(what)
            .with_expected("compute capability 8.0 (Ampere) or later for bf16")
            .with_help("set precision = \"f16\", which uses loss scaling, or \"f32\""))
    }

    /// The same device with activations and the weights that kernels read in a 16-bit type. Sums, statistics
    /// and master weights stay f32.
    ///
    /// # Errors
    /// [`Kind::Device`] if the GPU cannot compute in it.
    pub fn with_compute(mut self, dtype: DType) -> Result<Cuda> {
        self.can_compute(dtype)?;
        (self.caps.compute, self.caps.matmul) = (dtype, dtype);
        Ok(self)
    }

    /// Chooses the matmul kernels by name; see [`Cuda::matmul`].
    ///
    /// # Errors
    /// [`Kind::Usage`] for a name that is not one of [`settings::MATMULS`]; [`Kind::Device`] if the GPU or
    /// the machine does not have these kernels.
    pub fn with_matmul(self, name: &str) -> Result<Cuda> {
        let name = settings::matmuls(name)?;
        self.with_matmuls(Some(name))
    }

    /// Sets whether steps are captured and replayed as CUDA graphs.
    pub fn with_graphs(mut self, graphs: bool) -> Cuda {
        self.graphs = graphs;
        self
    }

    /// A device that compiles kernels to machine code instead of launching them, except those in `known`,
    /// whose keys are digests from [`Cuda::inspected`]. Tensors have undefined contents.
    pub fn inspecting(mut self, known: HashMap<String, Resources>) -> Cuda {
        let inspected = Inspected { known, ..Inspected::default() };
        (self.inspected, self.graphs) = (Some(inspected), false);
        self
    }

    /// The resources of the kernels that would have been launched since [`Cuda::inspecting`], by entry point
    /// and constants, each with a digest of its text, the architecture and NVRTC's version.
    pub fn inspected(&self) -> BTreeMap<String, (Resources, String)> {
        self.inspected.as_ref().map(|all| lock(&all.found).clone()).unwrap_or_default()
    }

    /// Whether times come from CUDA events.
    pub fn timestamps(&self) -> bool {
        !matches!(self.inner.clock, driver::Clock::Host)
    }
    /// The driver's version of CUDA, and NVRTC's version.
    pub fn versions(&self) -> [String; 2] {
        let driver = format!("{}.{}", self.inner.driver / 1000, self.inner.driver % 1000 / 10);
        let (major, minor) = self.compiler.version;
        [driver, format!("{major}.{minor}")]
    }
    /// The file of NVRTC, or the name by which the loader found it.
    pub fn nvrtc(&self) -> &std::path::Path {
        self.compiler.library()
    }
    /// The counters of the work so far.
    pub fn stats(&self) -> CudaStats {
        lock(&self.inner.state).stats
    }

    /// The matmul kernels that `TEMPRA_CUDA_MATMUL` chooses: `mma`, `wgmma`, `own` (the better of these two),
    /// `cublaslt`, or `fastest`, which measures them. The default is `fastest`, and `own` on the emulator.
    pub fn matmul(&self) -> Option<&str> {
        self.matmul
    }

    /// The compute capability: 75, 80, 90 and so on.
    pub fn capability(&self) -> u32 {
        self.inner.capability
    }

    /// Whether kernels are compiled for Hopper, with wgmma and TMA.
    pub fn hopper(&self) -> bool {
        self.compiler.hopper()
    }

    /// The number of multiprocessors.
    pub fn sms(&self) -> u32 {
        self.inner.sms
    }

    /// Cache size, clock rates and bus width, as the driver tells them.
    pub fn hardware(&self) -> Hardware {
        self.inner.hardware
    }

    /// The largest shared memory of one block, in bytes.
    pub fn shared_limit(&self) -> usize {
        self.inner.shared_limit
    }

    /// Temporary memory for an op.
    ///
    /// # Errors
    /// [`Kind::Memory`] if the device has no memory left; [`Kind::Lost`]
    /// if it was lost.
    pub fn scratch(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let spec = Spec::new(dtype, shape);
        Ok(Tensor { storage: Arc::new(self.alloc(&spec)?), spec, offset: 0 })
    }

    /// A tensor of constants, uploaded once.
    ///
    /// # Errors
    /// [`Kind::Memory`] if the device has no memory left; [`Kind::Lost`]
    /// if it was lost.
    pub fn constants(&self, values: &[u32]) -> Result<Tensor> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if let Some(t) = lock(&self.constants).get(bytes) {
            return Ok(t.clone());
        }
        if self.capturing() {
            return Err(Error::shape("cannot upload constants while a CUDA graph is captured or replayed"));
        }
        let storage = Arc::new(Storage::Cuda(self.take_lasting(bytes.len())?));
        let t = Tensor { storage, spec: Spec::new(DType::U32, &[values.len()]), offset: 0 };
        self.write(&t, bytes)?;
        lock(&self.constants).insert(bytes.to_vec(), t.clone());
        Ok(t)
    }

    fn place(&self, t: &Tensor) -> Result<u64> {
        match &*t.storage {
            Storage::Cuda(m) => Ok(m.place + (t.offset * t.spec.dtype.size()) as u64),
            _ => Err(Error::shape("CUDA got a tensor of another device")),
        }
    }
}

impl Backend for Cuda {
    fn caps(&self) -> Caps {
        self.caps.clone()
    }
    fn alloc(&self, spec: &Spec) -> Result<Storage> {
        Ok(Storage::Cuda(self.take(spec.bytes(), false)?))
    }
    fn alloc_input(&self, spec: &Spec) -> Result<Storage> {
        Ok(Storage::Cuda(self.take(spec.bytes(), true)?))
    }
    fn write(&self, dst: &Tensor, src: &[u8]) -> Result<()> {
        if src.is_empty() { Ok(()) } else { self.write_bytes(self.place(dst)?, src) }
    }
    fn read(&self, src: &Tensor, dst: &mut [u8]) -> Result<()> {
        if dst.is_empty() { Ok(()) } else { self.read_bytes(self.place(src)?, dst) }
    }
    fn zero(&self, dst: &Tensor) -> Result<()> {
        let bytes = dst.spec.bytes();
        if bytes == 0 { Ok(()) } else { self.zero_bytes(self.place(dst)?, bytes) }
    }
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.time(work)
    }
    fn trim(&self) -> Result<()> {
        self.trim()
    }
    fn profile(&self) -> &Profile {
        &self.profile
    }
}

impl Gpu for Cuda {
    fn launch(&self, launch: Launch) -> Result<()> {
        match &self.inspected {
            _ if launch.groups.contains(&0) => Ok(()),
            Some(all) => self.inspect(&launch, all),
            None => self.launch_kernel(&launch),
        }
    }
}
