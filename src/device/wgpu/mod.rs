//! Vulkan, Metal and DX12 through wgpu: buffers from a pool, pipelines by their specialised text, work that is queued and
//! submitted in batches. Nothing is read back unless [`Backend::read`] asks for it.

mod adapter;
mod memory;
mod queue;
mod shared;

pub use memory::Memory;
pub use shared::{ALIGN, Abilities, PRELUDE, Tiles, WgpuStats, fold, size_class};

use super::{Backend, Caps, Gpu, Launch, Profile, Storage, Tensor};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
use queue::{Command, Key};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers that one kernel may bind: what every adapter allows.
const MAX_BUFFERS: usize = 8;
/// One adapter.
pub struct Wgpu {
    inner: Arc<Inner>,
    caps: Caps,
    abilities: Abilities,
    constants: Mutex<HashMap<Vec<u8>, Tensor>>,
    tiles: Tiles,
    half: bool,
    /// Whether wgpu's own bounds checks go into every kernel: `TEMPRA_WGPU_CHECKED=1`, to hunt a fault.
    checked: bool,
    /// Bytes that may be asked of the driver, where somebody set a limit: `TEMPRA_WGPU_MEMORY`.
    budget: Option<u64>,
    profile: Profile,
    /// Fault injection: `TEMPRA_WGPU_LOSE_AFTER` submissions the device is lost, as with a crashed driver.
    lose_after: Option<u64>,
}

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    layouts: Vec<wgpu::BindGroupLayout>,
    state: Mutex<State>,
    /// What the driver reported outside of a call.
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
    /// Whether what is queued is being timed.
    timing: bool,
    stats: WgpuStats,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number in an environment variable.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Wgpu {
    /// Whether this build contains the backend.
    pub const BUILT: bool = true;

    /// The adapters there are, by the number that `wgpu:N` takes.
    pub fn list() -> Vec<String> {
        adapter::names()
    }

    /// Opens an adapter by its number; real GPUs come first, software drivers last.
    ///
    /// Errors are of kind `Device`: no adapter, no such number, an adapter without push constants ("immediates") or with
    /// fewer than eight storage buffers a stage.
    pub fn new(index: usize) -> Result<Wgpu> {
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
            shared_bytes: abilities.shared_bytes as usize,
            memory_bytes: abilities.memory_bytes,
            taken_bytes: 0,
            binding_bytes: abilities.binding_bytes,
            gpu: true,
            blocks: 0,
            packs: abilities.software,
        };
        let tiles = if abilities.software { Tiles::Rows } else { Tiles::Workgroup };
        let next = AtomicU64::new(0);
        let inner = Inner { device, queue, layouts, state: Mutex::default(), fault, next };
        Ok(Wgpu {
            inner: Arc::new(inner),
            caps,
            abilities,
            constants: Mutex::default(),
            tiles,
            half: false,
            checked: std::env::var_os("TEMPRA_WGPU_CHECKED").is_some_and(|v| v == "1"),
            budget: number("TEMPRA_WGPU_MEMORY"),
            lose_after: number("TEMPRA_WGPU_LOSE_AFTER"),
            profile: Profile::default(),
        })
    }

    /// With no more than so many bytes in one binding, as smaller adapters have it.
    pub fn with_bindings(mut self, bytes: u64) -> Wgpu {
        self.abilities.binding_bytes = bytes;
        self
    }

    /// Throws the device away, as a crashed driver does; everything asked of it from now on fails with `Kind::Lost`.
    pub fn lose(&self) {
        self.inner.device.destroy();
    }

    /// What was done so far.
    pub fn stats(&self) -> WgpuStats {
        lock(&self.inner.state).stats
    }

    /// With the kernels for another sort of adapter, so that they can be tried here.
    pub fn with_tiles(mut self, tiles: Tiles) -> Wgpu {
        self.tiles = tiles;
        self
    }

    /// With products that round their operands to f16 and add up in f32, on cooperative matrices.
    ///
    /// Fails with `Device` where the adapter has none of f16 in and f32 out.
    pub fn with_half(mut self) -> Result<Wgpu> {
        if self.abilities.coop.is_none() {
            return Err(Error::device(format!("{} has no cooperative matrices for f16", self.caps.name))
                .with_help("without them f16 brings nothing here: take precision = \"f32\""));
        }
        self.half = true;
        self.caps.name += ", products in f16";
        Ok(self)
    }

    /// The size of the cooperative matrices and of a subgroup, if products are to be computed on them.
    pub fn half(&self) -> Option<(u32, u32)> {
        self.abilities.coop.filter(|_| self.half).zip(self.abilities.subgroup)
    }

    /// With wgpu's own bounds checks in every kernel, which `TEMPRA_WGPU_CHECKED=1` brings as well.
    pub fn with_checks(mut self) -> Wgpu {
        self.checked = true;
        self
    }

    /// Which kernels suit the adapter.
    pub fn tiles(&self) -> Tiles {
        self.tiles
    }

    /// Threads of a group that run side by side.
    pub fn lanes(&self) -> u32 {
        self.abilities.subgroup.unwrap_or(8)
    }

    /// What the adapter can do beyond the least.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Bytes that one binding of a buffer may span.
    pub fn binding_bytes(&self) -> usize {
        self.abilities.binding_bytes.try_into().unwrap_or(usize::MAX)
    }

    /// Scratch memory of one op.
    pub fn scratch(&self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let spec = Spec::new(dtype, shape);
        Ok(Tensor { storage: Arc::new(self.alloc(&spec)?), spec, offset: 0 })
    }

    /// A tensor of constants, uploaded once.
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
            _ => Err(Error::shape("a tensor of another device was given to wgpu")),
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
            return Err(Error::device(format!("kernel {} is too large to launch", launch.entry))
                .with_expected(format!("at most {MAX_BUFFERS} buffers and 65535 groups a dimension"))
                .with_found(format!("{} buffers, groups {:?}", launch.buffers.len(), launch.groups)));
        }
        let (pipeline, group) = (self.pipeline(&launch)?, self.group(launch.buffers)?);
        lock(&self.inner.state).stats.launches += 1;
        let (params, groups) = (launch.params.to_vec(), launch.groups);
        self.queue(Command::Dispatch { pipeline, group, params, groups })
    }
}
