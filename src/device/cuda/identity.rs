//! Which GPU a CUDA device is.
#![allow(unsafe_code, reason = "calls the CUDA driver")]

use super::nvml::{Nvml, NvmlGpu};
use super::{Cuda, driver};
use crate::device::Identity;
use cudarc::driver::sys::{CUdevice, CUresult};
use std::ffi::{CStr, c_char, c_int};

type GetPciBusId = unsafe extern "C" fn(*mut c_char, c_int, CUdevice) -> CUresult;
type GetUuid = unsafe extern "C" fn(*mut [u8; 16], CUdevice) -> CUresult;

/// The addresses of a device. Neither is needed to compute, so a driver without these functions is no error.
pub(super) fn of(device: CUdevice) -> Identity {
    let mut found = Identity::default();
    // SAFETY: the function has been of this type since CUDA 4.1.
    if let Some(get) = unsafe { driver::function::<GetPciBusId>(b"cuDeviceGetPCIBusId\0") } {
        let mut text = [0 as c_char; 32];
        // SAFETY: the device is one of the driver's; the text has the length that is said, and the last byte
        // stays zero.
        if unsafe { get(text.as_mut_ptr(), text.len() as c_int - 1, device) } == CUresult::CUDA_SUCCESS {
            // SAFETY: it ends with a zero.
            found.pci_bus_id = Identity::pci(&unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy());
        }
    }
    // The newer function gives the UUID of a part of a GPU (MIG) where the device is one.
    for name in [&b"cuDeviceGetUuid_v2\0"[..], b"cuDeviceGetUuid\0"] {
        // SAFETY: both functions have been of this type since they exist.
        let Some(get) = (unsafe { driver::function::<GetUuid>(name) }) else { continue };
        let mut bytes = [0; 16];
        // SAFETY: the device is one of the driver's, and a UUID has 16 bytes.
        if unsafe { get(&mut bytes, device) } == CUresult::CUDA_SUCCESS {
            found.uuid = Identity::uuid(bytes);
            break;
        }
    }
    found
}

impl Cuda {
    /// The PCI address and the UUID of this GPU, as far as the driver reports them.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// NVML's view of this GPU, with its clocks and temperature.
    ///
    /// # Errors
    /// A reason in one line, if NVML cannot be loaded or does not know this GPU.
    pub fn nvml(&self) -> Result<NvmlGpu, String> {
        Nvml::get()?.gpu(&self.identity)
    }

    /// The driver: its version and the newest CUDA that it supports. The version is known only through NVML.
    pub fn driver(&self) -> String {
        let [cuda, _] = self.versions();
        match Nvml::get() {
            Ok(nvml) if !nvml.driver().is_empty() => format!("NVIDIA {}, CUDA {cuda}", nvml.driver()),
            _ => format!("CUDA {cuda}"),
        }
    }
}
