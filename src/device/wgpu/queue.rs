//! Compiles each specialised kernel once, and queues and submits commands in batches.
#![allow(unsafe_code, reason = "kernels without the checks that wgpu would put into every loop and access")]

use super::{ALIGN, Fault, PRELUDE, Wgpu, lock};
use crate::device::logs::{first_errors, save_log};
use crate::device::{Const, Launch, Tensor};
use crate::error::{Error, Kind, Result};
use crate::shape::DType;

/// The number of commands that are submitted together: enough to limit the driver's cost, few enough that
/// work starts early.
const BATCH: usize = 96;
/// The largest number of passes that are timed together. 64 runs of an op with 15 cleared buffers have as
/// many; a query set of wgpu has at most 4,096 queries, two for each pass.
const TIMED: u32 = 1024;
/// The largest number of cached bind groups.
const GROUPS: usize = 8192;

#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key {
    source: usize,
    entry: &'static str,
    consts: Vec<(&'static str, Const)>,
    threads: u32,
    buffers: usize,
}

pub(super) enum Command {
    Dispatch { pipeline: wgpu::ComputePipeline, group: wgpu::BindGroup, params: Vec<u8>, groups: [u32; 3] },
    Clear { buffer: wgpu::Buffer, offset: u64, size: u64 },
}

impl Wgpu {
    /// Submits what is queued.
    pub(super) fn flush(&self) -> Result<()> {
        self.submit(None).map(drop)
    }

    /// Submits what is queued; with a query set, the passes write the times of their beginning and end there.
    /// Returns how many passes there were.
    fn submit(&self, times: Option<&wgpu::QuerySet>) -> Result<u32> {
        let inner = &self.inner;
        let mut passes = 0;
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
                let timestamp_writes = times.filter(|_| passes < TIMED).map(|query_set| {
                    let (begin, end) = (Some(2 * passes), Some(2 * passes + 1));
                    wgpu::ComputePassTimestampWrites {
                        query_set,
                        beginning_of_pass_write_index: begin,
                        end_of_pass_write_index: end,
                    }
                });
                passes += 1;
                let mut pass = encoder
                    .begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
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
            if self.lose_after.is_some_and(|n| state.stats.submissions == n) {
                self.lose();
            }
        }
        drop(state);
        self.check()?;
        Ok(passes)
    }

    /// Returns an error that the driver has reported.
    pub(super) fn check(&self) -> Result<()> {
        match &*lock(&self.inner.fault) {
            None => Ok(()),
            Some(Fault::Lost(text)) => {
                Err(Error::new(Kind::Lost, "the device was lost").at(&self.caps.name).with_found(text.clone()).with_help(
                    "run the same command again: training resumes from the last checkpoint; if the driver hangs, restart it first",
                ))
            }
            Some(Fault::Failed(text)) => {
                Err(Error::device("the device rejected a command").at(&self.caps.name).with_found(text.clone()))
            }
        }
    }

    pub(super) fn queue(&self, command: Command) -> Result<()> {
        let mut state = lock(&self.inner.state);
        state.queued.push(command);
        // What is timed is submitted as one.
        let full = state.queued.len() >= BATCH && !state.timing;
        drop(state);
        if full { self.flush() } else { Ok(()) }
    }

    /// The time of `work` in seconds: by the device's timestamps if it has them, else by the host's clock
    /// until the device is idle.
    pub(super) fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.flush()?;
        self.wait()?;
        lock(&self.inner.state).timing = true;
        let begun = std::time::Instant::now();
        let done = work();
        lock(&self.inner.state).timing = false;
        done?;
        let device = &self.inner.device;
        if !self.abilities.timestamps {
            self.flush()?;
            self.wait()?;
            return Ok(begun.elapsed().as_secs_f64());
        }
        let set = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: 2 * TIMED,
        });
        let passes = self.submit(Some(&set))?;
        if passes == 0 {
            return Ok(0.0);
        }
        if passes > TIMED {
            // The set has no room for the last passes.
            self.wait()?;
            return Ok(begun.elapsed().as_secs_f64());
        }
        let size = u64::from(2 * TIMED) * 8;
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let staging = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let mut encoder = device.create_command_encoder(&Default::default());
        encoder.resolve_query_set(&set, 0..2 * passes, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, size);
        self.inner.queue.submit([encoder.finish()]);
        staging.slice(..).map_async(wgpu::MapMode::Read, |_| ());
        self.wait()?;
        let mapped = staging.slice(..).get_mapped_range().map_err(|e| {
            Error::device("cannot read timestamps").at(&self.caps.name).with_found(e.to_string())
        })?;
        let ticks: Vec<u64> = mapped[..16 * passes as usize]
            .chunks_exact(8)
            .map(|b| b.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
            .collect();
        let (first, last) = (ticks.iter().min().copied(), ticks.iter().max().copied());
        let span = last.unwrap_or(0) - first.unwrap_or(0);
        Ok(span as f64 * f64::from(self.inner.queue.get_timestamp_period()) * 1e-9)
    }

    pub(super) fn pipeline(&self, launch: &Launch) -> Result<wgpu::ComputePipeline> {
        let key = Key {
            source: launch.source.as_ptr() as usize,
            entry: launch.entry,
            consts: launch.consts.to_vec(),
            threads: launch.threads,
            buffers: launch.buffers.len(),
        };
        let mut state = lock(&self.inner.state);
        if let Some(p) = state.pipelines.get(&key) {
            return Ok(p.clone());
        }
        // What a source enables has to stand before everything else.
        let (enabled, source): (Vec<&str>, Vec<&str>) =
            launch.source.lines().partition(|line| line.starts_with("enable "));
        let mut text = enabled.join("\n") + &format!("\nconst THREADS: u32 = {}u;\n", launch.threads);
        for (name, value) in launch.consts {
            text += &match value {
                Const::U32(v) => format!("const {name}: u32 = {v}u;\n"),
                Const::Type(DType::U32) => format!("alias {name} = u32;\n"),
                Const::Type(_) => format!("alias {name} = f32;\n"),
                Const::Matrices(n) => format!(
                    "const SZ: u32 = {n}u;\nalias MatA = coop_mat{n}x{n}<f16, A>;\n\
                     alias MatB = coop_mat{n}x{n}<f16, B>;\nalias MatC = coop_mat{n}x{n}<f32, C>;\n"
                ),
            };
        }
        text += PRELUDE;
        text += &source.join("\n");
        let device = &self.inner.device;
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(launch.entry),
            source: wgpu::ShaderSource::Wgsl(text.as_str().into()),
        };
        // SAFETY: our own kernels: every loop ends, and every index is kept inside its buffer by the kernel
        // itself (the tests hold the bytes around each buffer). Counters in loops would keep drivers from
        // unrolling them.
        let module = unsafe {
            device.create_shader_module_trusted(
                descriptor,
                wgpu::ShaderRuntimeChecks {
                    bounds_checks: self.checked,
                    force_loop_bounding: false,
                    ..wgpu::ShaderRuntimeChecks::checked()
                },
            )
        };
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
            let log = e.to_string();
            let place = save_log(
                launch.entry,
                &format!(
                    "kernel {}\n--- the compiler's output\n{log}\n--- the compiled source\n{text}",
                    launch.entry
                ),
            );
            return Err(Error::device(format!("kernel {} does not compile", launch.entry))
                .at(&self.caps.name)
                .with_found(first_errors(&log) + &place)
                .with_help(
                    "this is a bug in tempra: report it with that file; until it is fixed, run with --device cpu",
                ));
        }
        state.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// The bind group of these tensors, from a cache.
    pub(super) fn group(&self, buffers: &[&Tensor]) -> Result<wgpu::BindGroup> {
        let mut key = Vec::with_capacity(buffers.len());
        let most = self.abilities.binding_bytes;
        for t in buffers {
            let (m, bytes) = (self.memory(t)?, t.spec.bytes().max(4).next_multiple_of(4) as u64);
            let offset = t.offset * t.spec.dtype.size();
            if !offset.is_multiple_of(ALIGN) {
                return Err(Error::shape(format!("the offset of {t:?} is not a multiple of {ALIGN} bytes")));
            }
            if bytes > most {
                return Err(Error::memory(format!(
                    "{:?} is larger than a buffer that {} can bind",
                    t.spec, self.caps.name
                ))
                .with_expected(format!("at most {most} bytes"))
                .with_help("lower train.max_tokens or data.max_length, or choose a smaller model"));
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
        // Ragged batches need ever new sizes: forgotten all at once, the ones in use come back with the next
        // step.
        if state.groups.len() >= GROUPS {
            state.groups.clear();
        }
        state.groups.insert(key, group.clone());
        Ok(group)
    }
}

/// `n` storage buffers, all writable: parts of one arena are inputs and outputs of one kernel, and a buffer
/// that is bound both ways is refused.
pub(super) fn layout(device: &wgpu::Device, n: u32) -> wgpu::BindGroupLayout {
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
