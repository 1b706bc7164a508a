//! A device that computes nothing and counts bytes (like PyTorch's meta device): it predicts the memory that
//! a run needs.

use super::{Backend, Caps, Device, Profile, Storage, Tensor, wgpu};
use crate::error::Result;
use crate::shape::Spec;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A stand-in for a device with given capabilities.
pub struct Meta {
    caps: Caps,
    meter: Arc<Mutex<Meter>>,
    profile: Profile,
}

#[derive(Default)]
struct Meter {
    live: u64,
    peak: u64,
    /// Free buffers by size, for a pool that reuses only buffers of the same size.
    free: BTreeMap<u64, u64>,
    taken: u64,
    largest: u64,
}

/// Memory use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUsage {
    /// The peak memory in use, in bytes.
    pub peak: u64,
    /// Memory allocated from the driver or system, including the pool's unused memory, in bytes.
    pub reserved: u64,
    /// The largest tensor that an op read or wrote, in bytes.
    pub largest: u64,
}

/// Memory that is only counted.
pub struct MetaStorage {
    bytes: u64,
    meter: Arc<Mutex<Meter>>,
}

impl std::fmt::Debug for MetaStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MetaStorage({} bytes)", self.bytes)
    }
}

impl Drop for MetaStorage {
    fn drop(&mut self) {
        let mut meter = lock(&self.meter);
        meter.live -= self.bytes;
        *meter.free.entry(self.bytes).or_default() += 1;
    }
}

fn lock(m: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meta {
    /// A stand-in for a device with these capabilities.
    pub fn new(caps: Caps) -> Meta {
        Meta { caps, meter: Arc::default(), profile: Profile::default() }
    }
    /// Another handle to the same counters.
    pub fn share(&self) -> Meta {
        Meta { meter: self.meter.clone(), ..Meta::new(self.caps.clone()) }
    }
    /// A device with the same counters.
    pub fn device(&self) -> Device {
        Device::Meta(self.share())
    }
    /// The memory use so far.
    pub fn usage(&self) -> MemoryUsage {
        let meter = lock(&self.meter);
        // The CPU's pool lets larger blocks serve smaller requests, so it holds hardly more than was in use
        // at once.
        let reserved = if self.caps.gpu { meter.taken } else { meter.peak };
        MemoryUsage { peak: meter.peak, reserved, largest: meter.largest }
    }
    /// Counts an op: the tensors that it reads or writes, and its temporary memory.
    pub(crate) fn note(&self, tensors: &[&[&Tensor]], scratch: u64) {
        let largest = tensors.concat().iter().map(|t| t.spec.bytes()).max().unwrap_or(0) as u64;
        let mut meter = lock(&self.meter);
        meter.largest = meter.largest.max(largest);
        drop(meter);
        if scratch > 0 {
            drop(self.take(scratch as usize));
        }
    }
    fn take(&self, bytes: usize) -> MetaStorage {
        let size = if self.caps.gpu { wgpu::size_class(bytes) } else { bytes as u64 };
        let mut meter = lock(&self.meter);
        match meter.free.get_mut(&size).filter(|n| **n > 0) {
            Some(n) => *n -= 1,
            None => meter.taken += size,
        }
        meter.live += size;
        meter.peak = meter.peak.max(meter.live);
        MetaStorage { bytes: size, meter: self.meter.clone() }
    }
}

impl Backend for Meta {
    fn caps(&self) -> Caps {
        self.caps.clone()
    }
    fn alloc(&self, spec: &Spec) -> Result<Storage> {
        Ok(Storage::Meta(self.take(spec.bytes())))
    }
    fn write(&self, _: &Tensor, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn read(&self, _: &Tensor, dst: &mut [u8]) -> Result<()> {
        dst.fill(0);
        Ok(())
    }
    fn zero(&self, _: &Tensor) -> Result<()> {
        Ok(())
    }
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        work().map(|()| 0.0)
    }
    fn trim(&self) -> Result<()> {
        Ok(())
    }
    fn profile(&self) -> &Profile {
        &self.profile
    }
}
