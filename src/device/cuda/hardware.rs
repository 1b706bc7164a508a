//! What the driver tells about the hardware of a GPU, for benchmarks.
#![allow(unsafe_code, reason = "calls the CUDA driver")]

use cudarc::driver::{result, sys};

/// Properties of a GPU that bound its speed. Each is `None` if the driver does not tell it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hardware {
    /// The size of the L2 cache in bytes.
    pub l2_bytes: Option<u64>,
    /// The highest clock rate of the multiprocessors in Hz.
    pub clock_hz: Option<f64>,
    /// The highest clock rate of the memory in Hz.
    pub memory_clock_hz: Option<f64>,
    /// The width of the memory bus in bits.
    pub bus_bits: Option<u32>,
}

impl Hardware {
    /// Asks the driver about a device of it.
    pub(super) fn of(device: sys::CUdevice) -> Hardware {
        use sys::CUdevice_attribute as A;
        // A driver that does not know an attribute, or returns 0 for it, is no reason not to open the GPU.
        let ask = |attribute| {
            // SAFETY: the device is one of the driver's.
            let value = unsafe { result::device::get_attribute(device, attribute) }.ok()?;
            u32::try_from(value).ok().filter(|&value| value > 0)
        };
        let hz = |khz: u32| 1e3 * f64::from(khz);
        Hardware {
            l2_bytes: ask(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).map(u64::from),
            clock_hz: ask(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).map(hz),
            memory_clock_hz: ask(A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE).map(hz),
            bus_bits: ask(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
        }
    }
}
