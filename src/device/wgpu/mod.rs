//! Vulkan, Metal and DX12 through wgpu: a buffer pool, a cache of specialised pipelines, and commands that
//! are submitted in batches. Nothing is read back except by [`Backend::read`].

mod adapter;
mod memory;
mod queue;
mod shared;
mod vulkan;

pub use memory::Memory;
pub use shared::{ALIGN, Abilities, PRELUDE, TileLayout, WgpuStats, fold, size_class};

use super::settings::WgpuSettings;
use super::{Backend, Caps, Gpu, Launch, LibraryFacts, Packing, Profile, Storage, Tensor};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
use queue::{Command, Key};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The largest number of buffers of a kernel; every adapter allows it.
const MAX_BUFFERS: usize = 8;
/// One adapter.
pub struct Wgpu {
    inner: Arc<Inner>,
    caps: Caps,
    abilities: Abilities,
    constants: Mutex<HashMap<Vec<u8>, Tensor>>,
    tiles: TileLayout,
    half: bool,
    /// Whether kernels have wgpu's bounds checks, for debugging: `TEMPRA_WGPU_CHECKED=1`.
    checked: bool,
    /// A limit on device memory in bytes: `TEMPRA_WGPU_MEMORY`.
    budget: Option<u64>,
    profile: Profile,
    /// Fault injection: the device is lost after `TEMPRA_WGPU_LOSE_AFTER` submissions.
    lose_after: Option<u64>,
}

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    layouts: Vec<wgpu::BindGroupLayout>,
    state: Mutex<State>,
    /// An error that the driver reported asynchronously.
    fault: Arc<Mutex<Option<Fault>>>,
    next: AtomicU64,
}

enum Fault {
    Lost(String),
    Failed(String),
}

#[derive(Default)]
struct State {
    free: BTreeMap<u64, Vec<(u64, wgpu::Buffer)>>,
    pipelines: HashMap<Key, wgpu::ComputePipeline>,
    groups: HashMap<Vec<[u64; 3]>, wgpu::BindGroup>,
    queued: Vec<Command>,
    /// Whether queued commands are being timed.
    timing: bool,
    stats: WgpuStats,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wgpu {
    /// Whether this build contains the backend.
    pub const BUILT: bool = true;

    /// The names of all adapters, by the index N of `wgpu:N`.
    pub fn list() -> Vec<String> {
        adapter::names()
    }

    /// The libraries that find the adapters, for `tempra devices`: on Linux the Vulkan loader and the drivers
    /// that it is told of.
    pub fn libraries() -> Vec<LibraryFacts> {
        vulkan::libraries()
    }

    /// Opens an adapter by its index. GPUs come first, software drivers last.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if there is no adapter with this index, or it does not
    /// support push constants ("immediates") and eight storage buffers per shader stage;
    /// [`Kind::Usage`](crate::error::Kind::Usage) for an environment variable with an unknown value.
    pub fn new(index: usize) -> Result<Wgpu> {
        let set = WgpuSettings::read()?;
        let adapter::Opened { name, device, queue, abilities } = adapter::open(index)?;
        let fault: Arc<Mutex<Option<Fault>>> = Arc::default();
        let report = fault.clone();
        device.on_uncaptured_error(Arc::new(move |e| {
            lock(&report).get_or_insert(Fault::Failed(e.to_string()));
        }));
        let report = fault.clone();
        device.set_device_lost_callback(move |why, text| {
            let text = if text.is_empty() { format!("no message, reason {why:?}") } else { text };
            *lock(&report) = Some(Fault::Lost(text));
        });
        let layouts = (0..=MAX_BUFFERS as u32).map(|n| queue::layout(&device, n)).collect();
        let caps = Caps {
            name,
            dtypes: &[DType::F32],
            compute: DType::F32,
            matmul: DType::F32,
            shared_bytes: abilities.shared_bytes as usize,
            memory_bytes: abilities.memory_bytes,
            taken_bytes: 0,
            binding_bytes: abilities.binding_bytes,
            gpu: true,
            blocks: 0,
            packs: if abilities.software { Packing::Weights } else { Packing::None },
        };
        let tiles = if abilities.software { TileLayout::Rows } else { TileLayout::Workgroup };
        let next = AtomicU64::new(0);
        let inner = Inner { device, queue, layouts, state: Mutex::default(), fault, next };
        Ok(Wgpu {
            inner: Arc::new(inner),
            caps,
            abilities,
            constants: Mutex::default(),
            tiles,
            half: false,
            checked: set.checked,
            budget: set.memory_bytes,
            lose_after: set.lose_after,
            profile: Profile::default(),
        })
    }

    /// Limits the size of a binding in bytes, to test the limits of smaller adapters.
    pub fn with_bindings(mut self, bytes: u64) -> Wgpu {
        self.abilities.binding_bytes = bytes;
        self
    }

    /// Destroys the device, as a crashed driver does. Later calls fail with
    /// [`Kind::Lost`](crate::error::Kind::Lost).
    pub fn lose(&self) {
        self.inner.device.destroy();
    }

    /// The counters of the work so far.
    pub fn stats(&self) -> WgpuStats {
        lock(&self.inner.state).stats
    }

    /// Chooses the kernels of another kind of adapter, to test them.
    pub fn with_tiles(mut self, tiles: TileLayout) -> Wgpu {
        self.tiles = tiles;
        self
    }

    /// Checks whether the adapter has cooperative matrices for [`Wgpu::with_half`].
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if it has none with f16 input and f32 output.
    pub fn can_compute_half(&self) -> Result<()> {
        if self.abilities.coop.is_some() {
            return Ok(());
        }
        Err(Error::device(format!("{} cannot compute in f16", self.caps.name))
            .with_expected("an adapter with cooperative matrices; without them f16 is not faster than f32")
            .with_help("set precision = \"f32\""))
    }

    /// The same device with matmuls on cooperative matrices: operands are rounded to f16, and sums
    /// accumulated in f32.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if the adapter has no cooperative matrices with f16 input
    /// and f32 output.
    pub fn with_half(mut self) -> Result<Wgpu> {
        self.can_compute_half()?;
        self.half = true;
        self.caps.matmul = DType::F16;
        Ok(self)
    }

    /// The sizes of the cooperative matrices and of a subgroup, if matmuls use them.
    pub fn half(&self) -> Option<(u32, u32)> {
        self.abilities.coop.filter(|_| self.half).zip(self.abilities.subgroup)
    }

    /// The same device with wgpu's bounds checks in every kernel, as with `TEMPRA_WGPU_CHECKED=1`.
    pub fn with_checks(mut self) -> Wgpu {
        self.checked = true;
        self
    }

    /// The kernels for this adapter.
    pub fn tiles(&self) -> TileLayout {
        self.tiles
    }

    /// The number of threads of a subgroup.
    pub fn lanes(&self) -> u32 {
        self.abilities.subgroup.unwrap_or(8)
    }

    /// The adapter's optional capabilities.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// The largest size of a binding, in bytes.
    pub fn binding_bytes(&self) -> usize {
        self.abilities.binding_bytes.try_into().unwrap_or(usize::MAX)
    }

    /// Temporary memory for an op.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn scratch(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let spec = Spec::new(dtype, shape);
        Ok(Tensor { storage: Arc::new(self.alloc(&spec)?), spec, offset: 0 })
    }

    /// A tensor of constants, uploaded once.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn constants(&self, values: &[u32]) -> Result<Tensor> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if let Some(t) = lock(&self.constants).get(bytes) {
            return Ok(t.clone());
        }
        let t = self.scratch(DType::U32, &[values.len()])?;
        self.write(&t, bytes)?;
        lock(&self.constants).insert(bytes.to_vec(), t.clone());
        Ok(t)
    }

    fn memory<'a>(&self, t: &'a Tensor) -> Result<&'a Memory> {
        match &*t.storage {
            Storage::Wgpu(m) => Ok(m),
            _ => Err(Error::shape("wgpu got a tensor of another device")),
        }
    }
}

impl Backend for Wgpu {
    fn caps(&self) -> Caps {
        self.caps.clone()
    }
    fn alloc(&self, spec: &Spec) -> Result<Storage> {
        Ok(Storage::Wgpu(self.take(spec.bytes())?))
    }
    fn write(&self, dst: &Tensor, src: &[u8]) -> Result<()> {
        if src.is_empty() {
            return Ok(());
        }
        // A write lands before everything that is not submitted yet, also before what was queued earlier.
        self.flush()?;
        let offset = (dst.offset * dst.spec.dtype.size()) as u64;
        self.inner.queue.write_buffer(&self.memory(dst)?.buffer, offset, src);
        self.check()
    }
    fn read(&self, src: &Tensor, dst: &mut [u8]) -> Result<()> {
        if dst.is_empty() { Ok(()) } else { self.read_back(src, dst) }
    }
    fn zero(&self, dst: &Tensor) -> Result<()> {
        let size = dst.spec.bytes() as u64;
        if size == 0 {
            return Ok(());
        }
        let offset = (dst.offset * dst.spec.dtype.size()) as u64;
        self.queue(Command::Clear { buffer: self.memory(dst)?.buffer.clone(), offset, size })
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

impl Gpu for Wgpu {
    fn launch(&self, launch: Launch) -> Result<()> {
        if launch.groups.contains(&0) {
            return Ok(());
        }
        if launch.buffers.len() > MAX_BUFFERS || launch.groups.iter().any(|&g| g > 65535) {
            return Err(Error::device(format!("kernel {} exceeds the limits of a launch", launch.entry))
                .with_expected(format!("at most {MAX_BUFFERS} buffers, and 65535 workgroups per dimension"))
                .with_found(format!("{} buffers, {:?} workgroups", launch.buffers.len(), launch.groups))
                .with_help("lower train.max_tokens (the tokens of one forward pass) or data.max_length"));
        }
        let (pipeline, group) = (self.pipeline(&launch)?, self.group(launch.buffers)?);
        self.profile.launched(launch.entry);
        lock(&self.inner.state).stats.launches += 1;
        let (params, groups) = (launch.params.to_vec(), launch.groups);
        self.queue(Command::Dispatch { pipeline, group, params, groups })
    }
}
