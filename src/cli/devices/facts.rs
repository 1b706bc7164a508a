//! What `tempra devices` finds out about each device. Every field is the key of the same name in the JSON
//! output.

use crate::device::{Caps, Cuda, Device, Identity, LibraryFacts, Wgpu};
use crate::error::{Error, Result};
use crate::shape::DType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A device that opened, or why it did not. Keys that do not apply to a device are null.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// The name that `--device` takes.
    pub name: String,
    /// Whether it opened.
    pub available: bool,
    /// The device's own name.
    pub description: Option<String>,
    /// The types that matmuls can multiply in: on wgpu f16 too where there are cooperative matrices.
    pub dtypes: Vec<String>,
    /// The types of activations, by those of `dtypes` that have another one.
    pub activation_dtypes: Option<BTreeMap<String, String>>,
    /// The PCI address of a GPU.
    pub pci_bus_id: Option<String>,
    /// The driver's UUID of a GPU.
    pub uuid: Option<String>,
    /// The names of devices that are the same GPU through another interface.
    pub same_gpu_as: Vec<String>,
    /// Its memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Its free memory, in bytes.
    pub free_bytes: Option<u64>,
    /// Its driver.
    pub driver: Option<String>,
    /// Shared memory of a CUDA block or of a workgroup, in bytes.
    pub workgroup_bytes: Option<u64>,
    /// NVRTC's version, on CUDA.
    pub nvrtc: Option<String>,
    /// NVRTC's file, on CUDA.
    pub nvrtc_file: Option<String>,
    /// The compute capability, on CUDA.
    pub compute_capability: Option<String>,
    /// The number of multiprocessors, on CUDA.
    pub multiprocessors: Option<u32>,
    /// Whether cuBLASLt may compute matmuls, on CUDA.
    pub cublaslt: Option<bool>,
    /// Whether it is a software driver, on wgpu.
    pub software: Option<bool>,
    /// The subgroup size, on wgpu, if it is fixed.
    pub subgroup: Option<u32>,
    /// The size of the cooperative matrices, on wgpu.
    pub cooperative_matrix: Option<u32>,
    /// Whether the GPU's clock can be read, on wgpu.
    pub timestamps: Option<bool>,
    /// The largest buffer, in bytes, on wgpu.
    pub binding_bytes: Option<u64>,
    /// Why it is not available, in one line.
    pub reason: Option<String>,
    /// What would have been right.
    pub expected: Option<String>,
    /// What was there instead.
    pub found: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

/// What one backend has: its devices, and the libraries that they need.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Backend {
    pub devices: Vec<DeviceFacts>,
    pub libraries: Vec<LibraryFacts>,
}

impl DeviceFacts {
    /// A device that cannot be used.
    pub fn refused(name: &str, e: &Error) -> DeviceFacts {
        let own = |text: Option<&str>| text.map(str::to_owned);
        DeviceFacts {
            name: name.to_owned(),
            reason: Some(match e.file() {
                Some(place) => format!("{}: {}", place.display(), e.what()),
                None => e.what().to_owned(),
            }),
            expected: own(e.expected()),
            found: own(e.found()),
            help: Some(e.help().unwrap_or("run `tempra verify` on it, and report what it says").to_owned()),
            ..DeviceFacts::default()
        }
    }

    fn of(name: &str, opened: Result<Device>) -> DeviceFacts {
        let device = match opened {
            Ok(device) => device,
            Err(e) => return DeviceFacts::refused(name, &e),
        };
        let Caps { name: description, dtypes, shared_bytes, memory_bytes, taken_bytes, .. } = device.caps();
        let Identity { pci_bus_id, uuid } = device.identity();
        let facts = DeviceFacts {
            name: name.to_owned(),
            available: true,
            description: Some(description),
            dtypes: dtypes.iter().map(DType::to_string).collect(),
            memory_bytes,
            pci_bus_id,
            uuid,
            ..DeviceFacts::default()
        };
        match &device {
            Device::Cuda(gpu) => {
                // A GPU whose kernels do not compile or load is of no use.
                if let Err(e) = gpu.check_kernels() {
                    return DeviceFacts::refused(name, &e);
                }
                let (capability, [_, nvrtc]) = (gpu.capability(), gpu.versions());
                DeviceFacts {
                    driver: Some(gpu.driver()),
                    free_bytes: memory_bytes.map(|b| b.saturating_sub(taken_bytes)),
                    workgroup_bytes: Some(shared_bytes as u64),
                    nvrtc: Some(nvrtc),
                    nvrtc_file: Some(gpu.nvrtc().display().to_string()),
                    compute_capability: Some(format!("{}.{}", capability / 10, capability % 10)),
                    multiprocessors: Some(gpu.sms()),
                    cublaslt: Some(gpu.blas_version().is_some()),
                    ..facts
                }
            }
            Device::Wgpu(gpu) => {
                let a = gpu.abilities();
                // Activations stay f32 there.
                let half = a.coop.map(|_| DType::F16.to_string());
                let activations = half.clone().map(|half| BTreeMap::from([(half, DType::F32.to_string())]));
                DeviceFacts {
                    dtypes: facts.dtypes.iter().cloned().chain(half).collect(),
                    activation_dtypes: activations,
                    driver: Some(a.driver.clone()).filter(|d| !d.is_empty()),
                    workgroup_bytes: Some(a.shared_bytes.into()),
                    software: Some(a.software),
                    subgroup: a.subgroup,
                    cooperative_matrix: a.coop,
                    timestamps: Some(a.timestamps),
                    binding_bytes: Some(a.binding_bytes),
                    ..facts
                }
            }
            Device::Cpu(_) | Device::Meta(_) => facts,
        }
    }
}

/// Fills in which devices are the same GPU through CUDA and through wgpu.
pub fn match_gpus(devices: &mut [DeviceFacts]) {
    let identity = |d: &DeviceFacts| Identity { pci_bus_id: d.pci_bus_id.clone(), uuid: d.uuid.clone() };
    let all: Vec<(String, Identity)> = devices.iter().map(|d| (d.name.clone(), identity(d))).collect();
    for (i, device) in devices.iter_mut().enumerate() {
        let others = all.iter().enumerate().filter(|(j, (_, id))| *j != i && all[i].1.is_same(id));
        device.same_gpu_as = others.map(|(_, (name, _))| name.clone()).collect();
    }
}

/// The CPU.
pub fn cpu() -> DeviceFacts {
    DeviceFacts::of("cpu", Device::open("cpu", 0))
}

/// Every NVIDIA GPU; `cuda` for none.
pub fn cuda() -> Backend {
    let names = numbered("cuda", Cuda::count().unwrap_or(0));
    let devices = names.iter().map(|name| DeviceFacts::of(name, Device::open(name, 0))).collect();
    Backend { devices, libraries: Cuda::libraries() }
}

/// Every adapter of wgpu; `wgpu` for none.
pub fn wgpu() -> Backend {
    let names = numbered("wgpu", Wgpu::list().len());
    let devices = names.iter().map(|name| DeviceFacts::of(name, Device::open(name, 0))).collect();
    Backend { devices, libraries: Wgpu::libraries() }
}

/// The names of `count` devices; the kind alone for none.
fn numbered(kind: &str, count: usize) -> Vec<String> {
    if count == 0 { vec![kind.to_owned()] } else { (0..count).map(|i| format!("{kind}:{i}")).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gpu_through_two_interfaces_is_recognised() {
        let at = |name: &str, pci: &str| DeviceFacts {
            name: name.to_owned(),
            pci_bus_id: Identity::pci(pci),
            ..DeviceFacts::default()
        };
        let mut all = [
            at("cpu", ""),
            at("cuda:0", "00000000:3B:00.0"),
            at("wgpu:0", "0000:5e:00.0"),
            at("wgpu:1", "0000:3b:00.0"),
        ];
        match_gpus(&mut all);
        let same = all.map(|d| d.same_gpu_as);
        assert_eq!(same, [vec![], vec!["wgpu:1".to_owned()], vec![], vec!["cuda:0".to_owned()]]);
    }
}
