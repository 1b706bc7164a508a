//! Vulkan, Metal and DX12 through wgpu: buffers from a pool, pipelines by their specialised text, work that is queued and
//! submitted in batches. Nothing is read back unless [`Backend::read`] asks for it.

use super::{Backend, Caps, Const, Gpu, Launch, Storage, Tensor};
use crate::error::{Error, Kind, Result};
use crate::shape::{DType, Spec};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wgpu::Features;

/// What every shader may use; put before its own source.
const PRELUDE: &str = include_str!("../../shaders/prelude.wgsl");
/// Buffers that one kernel may bind: what every adapter allows.
const MAX_BUFFERS: usize = 8;
/// Work that is queued before it is submitted: enough to spare the driver, few enough for it to begin early.
const BATCH: usize = 96;
/// Alignment of a tensor inside a buffer, in bytes: the most that any adapter asks for.
pub const ALIGN: usize = 256;

/// What the device has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WgpuStats {
    /// Buffers asked of the driver.
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

/// One adapter.
pub struct Wgpu {
    inner: Arc<Inner>,
    caps: Caps,
    constants: Mutex<HashMap<Vec<u8>, Tensor>>,
}

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    layouts: Vec<wgpu::BindGroupLayout>,
    state: Mutex<State>,
    /// What the driver reported outside of a call.
    fault: Arc<Mutex<Option<Fault>>>,
    next: AtomicU64,
    binding_bytes: u64,
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
    stats: WgpuStats,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    source: usize,
    entry: &'static str,
    consts: Vec<(&'static str, Const)>,
    threads: u32,
}

enum Command {
    Dispatch { pipeline: wgpu::ComputePipeline, group: wgpu::BindGroup, params: Vec<u8>, groups: [u32; 3] },
    Clear { buffer: wgpu::Buffer, offset: u64, size: u64 },
}

/// A buffer; it goes back to the pool when dropped.
pub struct Memory {
    buffer: wgpu::Buffer,
    id: u64,
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.buffer.size())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Work that is queued on it runs before whatever its next owner queues.
        lock(&self.inner.state)
            .free
            .entry(self.buffer.size())
            .or_default()
            .push((self.id, self.buffer.clone()));
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Groups of a one-dimensional launch; more than a dimension allows go on in the second one.
pub fn fold(groups: usize) -> [u32; 3] {
    const MOST: usize = 65535;
    [groups.min(MOST) as u32, groups.div_ceil(MOST) as u32, 1]
}

/// All adapters, real ones first.
fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    descriptor.flags = wgpu::InstanceFlags::empty();
    let backends = descriptor.backends;
    let mut found = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends));
    found.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    found
}

fn describe(adapter: &wgpu::Adapter) -> String {
    let info = adapter.get_info();
    let software = if info.device_type == wgpu::DeviceType::Cpu { ", a software driver: no GPU" } else { "" };
    format!("{} ({:?}{software})", info.name, info.backend)
}

impl Wgpu {
    /// The adapters there are, by the number that `wgpu:N` takes.
    pub fn list() -> Vec<String> {
        adapters().iter().map(describe).collect()
    }

    /// Opens an adapter by its number; real GPUs come first, software drivers last.
    ///
    /// Errors are of kind `Device`: no adapter, no such number, an adapter without push constants ("immediates") or with
    /// fewer than eight storage buffers a stage.
    pub fn new(index: usize) -> Result<Wgpu> {
        let found = adapters();
        let Some(adapter) = found.get(index) else {
            let names: Vec<String> = found.iter().map(describe).collect();
            return Err(match names.is_empty() {
                true => Error::device("no Vulkan, Metal or DX12 adapter was found").hint(
                    "install the GPU's Vulkan driver (Linux: also libvulkan1), or run with --device cpu",
                ),
                false => {
                    Error::device(format!("there is no adapter wgpu:{index}")).expected(names.join("; "))
                }
            });
        };
        let (name, limits) = (describe(adapter), adapter.limits());
        if !adapter.features().contains(Features::IMMEDIATES)
            || (limits.max_storage_buffers_per_shader_stage as usize) < MAX_BUFFERS
        {
            return Err(Error::device(format!("{name} cannot run tempra's kernels"))
                .expected("push constants, and eight storage buffers a shader stage")
                .hint("update its driver, or run with --device cpu"));
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("tempra"),
            required_features: Features::IMMEDIATES,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::device(format!("{name} could not be opened")).found(e.to_string()))?;
        let fault: Arc<Mutex<Option<Fault>>> = Arc::default();
        let report = fault.clone();
        device.on_uncaptured_error(Arc::new(move |e| {
            lock(&report).get_or_insert(Fault::Failed(e.to_string()));
        }));
        let report = fault.clone();
        device.set_device_lost_callback(move |_, text| {
            *lock(&report) = Some(Fault::Lost(text));
        });
        let layouts = (0..=MAX_BUFFERS as u32).map(|n| layout(&device, n)).collect();
        let caps = Caps {
            name,
            dtypes: &[DType::F32],
            shared_bytes: limits.max_compute_workgroup_storage_size as usize,
            memory_bytes: None,
        };
        let inner = Inner {
            device,
            queue,
            layouts,
            state: Mutex::default(),
            fault,
            next: AtomicU64::new(0),
            binding_bytes: limits.max_storage_buffer_binding_size,
        };
        Ok(Wgpu { inner: Arc::new(inner), caps, constants: Mutex::default() })
    }

    /// What was done so far.
    pub fn stats(&self) -> WgpuStats {
        lock(&self.inner.state).stats
    }

    /// Bytes that one binding of a buffer may span.
    pub fn binding_bytes(&self) -> usize {
        self.inner.binding_bytes.try_into().unwrap_or(usize::MAX)
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

    /// Submits what is queued.
    fn flush(&self) -> Result<()> {
        let inner = &self.inner;
        let mut state = lock(&inner.state);
        if !state.queued.is_empty() {
            let mut encoder = inner.device.create_command_encoder(&Default::default());
            let mut queued = state.queued.drain(..).peekable();
            while let Some(first) = queued.peek() {
                if let Command::Clear { buffer, offset, size } = first {
                    encoder.clear_buffer(buffer, *offset, Some(*size));
                    queued.next();
                    continue;
                }
                let mut pass = encoder.begin_compute_pass(&Default::default());
                while let Some(Command::Dispatch { pipeline, group, params, groups: [x, y, z] }) =
                    queued.next_if(|c| matches!(c, Command::Dispatch { .. }))
                {
                    pass.set_pipeline(&pipeline);
                    pass.set_bind_group(0, &group, &[]);
                    if !params.is_empty() {
                        pass.set_immediates(0, &params);
                    }
                    pass.dispatch_workgroups(x, y, z);
                }
            }
            drop(queued);
            inner.queue.submit([encoder.finish()]);
            state.stats.submissions += 1;
        }
        drop(state);
        self.check()
    }

    /// Whatever the driver has reported since.
    fn check(&self) -> Result<()> {
        match &*lock(&self.inner.fault) {
            None => Ok(()),
            Some(Fault::Lost(text)) => {
                Err(Error::new(Kind::Lost, "the device was lost").at(&self.caps.name).found(text.clone()).hint(
                    "the last checkpoint is complete: the same command goes on from there, once the driver is well",
                ))
            }
            Some(Fault::Failed(text)) => {
                Err(Error::device("the device refused a command").at(&self.caps.name).found(text.clone()))
            }
        }
    }

    fn queue(&self, command: Command) -> Result<()> {
        let mut state = lock(&self.inner.state);
        state.queued.push(command);
        let full = state.queued.len() >= BATCH;
        drop(state);
        if full { self.flush() } else { Ok(()) }
    }

    fn pipeline(&self, launch: &Launch) -> Result<wgpu::ComputePipeline> {
        let key = Key {
            source: launch.source.as_ptr() as usize,
            entry: launch.entry,
            consts: launch.consts.to_vec(),
            threads: launch.threads,
        };
        let mut state = lock(&self.inner.state);
        if let Some(p) = state.pipelines.get(&key) {
            return Ok(p.clone());
        }
        let mut text = format!("const THREADS: u32 = {}u;\n", launch.threads);
        for (name, value) in launch.consts {
            text += &match value {
                Const::U32(v) => format!("const {name}: u32 = {v}u;\n"),
                Const::Type(DType::U32) => format!("alias {name} = u32;\n"),
                Const::Type(_) => format!("alias {name} = f32;\n"),
            };
        }
        text += PRELUDE;
        text += launch.source;
        let device = &self.inner.device;
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(launch.entry),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[self.inner.layouts.get(launch.buffers.len())],
            immediate_size: launch.params.len() as u32,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(launch.entry),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(launch.entry),
            compilation_options: Default::default(),
            cache: None,
        });
        if let Some(e) = pollster::block_on(scope.pop()) {
            return Err(Error::device(format!("kernel {} does not compile", launch.entry))
                .at(&self.caps.name)
                .found(e.to_string()));
        }
        state.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// The bind group of these tensors; the same ones give the same group again.
    fn group(&self, buffers: &[&Tensor]) -> Result<wgpu::BindGroup> {
        let mut key = Vec::with_capacity(buffers.len());
        for t in buffers {
            let (m, bytes) = (self.memory(t)?, t.spec.bytes().max(4).next_multiple_of(4) as u64);
            let offset = t.offset * t.spec.dtype.size();
            if !offset.is_multiple_of(ALIGN) {
                return Err(Error::shape(format!("{t:?} does not begin at a multiple of {ALIGN} bytes")));
            }
            if bytes > self.inner.binding_bytes {
                return Err(Error::memory(format!(
                    "{:?} is more than {} binds at once",
                    t.spec, self.caps.name
                ))
                .expected(format!("at most {} bytes", self.inner.binding_bytes))
                .hint("lower train.max_tokens or data.max_length, or take a smaller model"));
            }
            key.push([m.id, offset as u64, bytes]);
        }
        let mut state = lock(&self.inner.state);
        if let Some(g) = state.groups.get(&key) {
            return Ok(g.clone());
        }
        let mut entries = Vec::with_capacity(buffers.len());
        for (i, (t, [_, offset, size])) in buffers.iter().zip(&key).enumerate() {
            let binding = wgpu::BufferBinding {
                buffer: &self.memory(t)?.buffer,
                offset: *offset,
                size: std::num::NonZero::new(*size),
            };
            entries.push(wgpu::BindGroupEntry {
                binding: i as u32,
                resource: wgpu::BindingResource::Buffer(binding),
            });
        }
        let group = self.inner.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.inner.layouts[buffers.len()],
            entries: &entries,
        });
        // Ragged batches need ever new sizes: forgotten all at once, the ones in use come back with the next step.
        if state.groups.len() >= 8192 {
            state.groups.clear();
        }
        state.groups.insert(key, group.clone());
        Ok(group)
    }
}

/// `n` storage buffers, all writable: parts of one arena are inputs and outputs of one kernel, and a buffer that is bound
/// both ways is refused.
fn layout(device: &wgpu::Device, n: u32) -> wgpu::BindGroupLayout {
    let entry = |binding| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: false },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = (0..n).map(entry).collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
}

impl Backend for Wgpu {
    fn caps(&self) -> Caps {
        self.caps.clone()
    }
    fn alloc(&self, spec: &Spec) -> Result<Storage> {
        // Sizes in steps of an eighth, so that batches of nearly the same size share buffers.
        let need = spec.bytes().max(ALIGN).next_multiple_of(ALIGN) as u64;
        let step = (need.next_power_of_two() / 16).max(ALIGN as u64);
        let size = need.next_multiple_of(step);
        let mut state = lock(&self.inner.state);
        let found = match state.free.get_mut(&size) {
            Some(shelf) => shelf.pop(),
            None => None,
        };
        let (id, buffer) = match found {
            Some(found) => found,
            None => {
                state.stats.allocations += 1;
                state.stats.bytes += size;
                let live = state.stats.bytes;
                let scope = self.inner.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
                let invalid = self.inner.device.push_error_scope(wgpu::ErrorFilter::Validation);
                let buffer = self.inner.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: wgpu::BufferUsages::STORAGE
                        | wgpu::BufferUsages::COPY_SRC
                        | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                let failed = pollster::block_on(invalid.pop()).or(pollster::block_on(scope.pop()));
                if let Some(e) = failed {
                    return Err(Error::memory(format!(
                        "{} gave no {size} bytes, with {live} asked for",
                        self.caps.name
                    ))
                    .found(e.to_string())
                    .hint("lower train.max_tokens (the tokens of one forward pass) or data.max_length"));
                }
                (self.inner.next.fetch_add(1, Ordering::Relaxed), buffer)
            }
        };
        drop(state);
        Ok(Storage::Wgpu(Memory { buffer, id, inner: self.inner.clone() }))
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
        if dst.is_empty() {
            return Ok(());
        }
        self.flush()?;
        lock(&self.inner.state).stats.reads += 1;
        let (size, offset) = (dst.len() as u64, (src.offset * src.spec.dtype.size()) as u64);
        let device = &self.inner.device;
        let staging = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.memory(src)?.buffer, offset, &staging, 0, size);
        self.inner.queue.submit([encoder.finish()]);
        staging.slice(..).map_async(wgpu::MapMode::Read, |_| ());
        let failed = |e: String| {
            self.check().err().unwrap_or_else(|| {
                Error::device("a tensor could not be read back").at(&self.caps.name).found(e)
            })
        };
        device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| failed(e.to_string()))?;
        let mapped = staging.slice(..).get_mapped_range().map_err(|e| failed(e.to_string()))?;
        dst.copy_from_slice(&mapped);
        self.check()
    }
    fn zero(&self, dst: &Tensor) -> Result<()> {
        let size = dst.spec.bytes() as u64;
        if size == 0 {
            return Ok(());
        }
        let offset = (dst.offset * dst.spec.dtype.size()) as u64;
        self.queue(Command::Clear { buffer: self.memory(dst)?.buffer.clone(), offset, size })
    }
}

impl Gpu for Wgpu {
    fn launch(&self, launch: Launch) -> Result<()> {
        if launch.groups.contains(&0) {
            return Ok(());
        }
        if launch.buffers.len() > MAX_BUFFERS || launch.groups.iter().any(|&g| g > 65535) {
            return Err(Error::device(format!("kernel {} is too large to launch", launch.entry))
                .expected(format!("at most {MAX_BUFFERS} buffers and 65535 groups a dimension"))
                .found(format!("{} buffers, groups {:?}", launch.buffers.len(), launch.groups)));
        }
        let (pipeline, group) = (self.pipeline(&launch)?, self.group(launch.buffers)?);
        lock(&self.inner.state).stats.launches += 1;
        self.queue(Command::Dispatch {
            pipeline,
            group,
            params: launch.params.to_vec(),
            groups: launch.groups,
        })
    }
}
