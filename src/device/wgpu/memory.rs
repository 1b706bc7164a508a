//! Buffers from a pool, and copies between them and the host.

use super::{Wgpu, lock, size_class};
use crate::device::Tensor;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A buffer; dropping it returns it to the pool.
pub struct Memory {
    pub(super) buffer: wgpu::Buffer,
    pub(super) id: u64,
    inner: Arc<super::Inner>,
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

impl Wgpu {
    /// A buffer of at least `bytes`, from the pool or new.
    pub(super) fn take(&self, bytes: usize) -> Result<Memory> {
        let size = size_class(bytes);
        let mut state = lock(&self.inner.state);
        let found = state.free.get_mut(&size).and_then(Vec::pop);
        let (id, buffer) = match found {
            Some(found) => found,
            None => {
                let buffer = self.create(size, state.stats.bytes)?;
                state.stats.allocations += 1;
                state.stats.bytes += size;
                (self.inner.next.fetch_add(1, Ordering::Relaxed), buffer)
            }
        };
        drop(state);
        Ok(Memory { buffer, id, inner: self.inner.clone() })
    }

    fn create(&self, size: u64, live: u64) -> Result<wgpu::Buffer> {
        let refused = |why: String| {
            Error::memory(format!(
                "cannot allocate {size} bytes on {} ({live} bytes are allocated)",
                self.caps.name
            ))
            .with_found(why)
            .with_help("lower train.max_tokens (the tokens of one forward pass) or data.max_length")
        };
        if let Some(most) = self.budget.filter(|&most| live + size > most) {
            return Err(refused(format!("a limit of {most} bytes, set by TEMPRA_WGPU_MEMORY")));
        }
        let device = &self.inner.device;
        let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let invalid = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let failed = pollster::block_on(invalid.pop()).or(pollster::block_on(scope.pop()));
        failed.map_or(Ok(buffer), |e| Err(refused(e.to_string())))
    }

    /// Returns all free buffers to the driver.
    pub(super) fn trim(&self) -> Result<()> {
        self.flush()?;
        let mut state = lock(&self.inner.state);
        // Bind groups keep their buffers.
        state.groups.clear();
        let free = std::mem::take(&mut state.free);
        let bytes: u64 = free.iter().map(|(size, shelf)| size * shelf.len() as u64).sum();
        state.stats.bytes -= bytes;
        drop((state, free));
        self.wait()
    }

    /// Copies a tensor to the host.
    pub(super) fn read_back(&self, src: &Tensor, dst: &mut [u8]) -> Result<()> {
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
        self.wait()?;
        let mapped = staging.slice(..).get_mapped_range().map_err(|e| {
            self.check().err().unwrap_or_else(|| {
                Error::device("cannot read a tensor").at(&self.caps.name).with_found(e.to_string())
            })
        })?;
        dst.copy_from_slice(&mapped);
        self.check()
    }

    /// Waits until all submitted work is done.
    pub(super) fn wait(&self) -> Result<()> {
        let polled = self.inner.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        polled.map(drop).map_err(|e| {
            Error::device("the device did not finish its work").at(&self.caps.name).with_found(e.to_string())
        })
    }
}
