//! The peak that the hardware of a device has by its specification.

use crate::device::Device;
use crate::device::cuda::Hardware;
use crate::shape::DType;
use serde::{Deserialize, Serialize};

/// The peak rates of a device by its specification, where tempra can compute them. Measured rates stay below
/// them, except where the GPU runs above the clock rate that the driver tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Nameplate {
    /// The peak rate of the memory in bytes per second, read plus written.
    pub copy_bytes_per_s: Option<f64>,
    /// The peak rate of matmuls in FLOP/s, for the compute type.
    pub matmul_flops_per_s: Option<f64>,
    /// How they are computed.
    pub how: String,
}

impl Nameplate {
    /// The peak of a device. `None` for a CPU, for wgpu, which has no query for it, and for GPUs whose
    /// figures are not known.
    pub fn of(device: &Device) -> Option<Nameplate> {
        match device {
            Device::Cuda(gpu) => nvidia(&gpu.hardware(), gpu.capability(), gpu.sms(), device.caps().matmul),
            Device::Cpu(_) | Device::Wgpu(_) | Device::Meta(_) => None,
        }
    }
}

/// The multiply-adds of one multiprocessor in one clock cycle.
///
/// f32 runs without tensor cores. Source: "Throughput of Native Arithmetic Instructions", row "32-bit
/// floating-point add, multiply, multiply-add", in the CUDA C++ Programming Guide.
///
/// 16 bits run on tensor cores, with dense operands and sums in f32. Sources: 1,024 in the NVIDIA A100
/// whitepaper (2020; 312 TFLOP/s from 108 multiprocessors at 1.41 GHz), 2,048 in the NVIDIA H100 whitepaper
/// (2022; 989 TFLOP/s from 132 multiprocessors at 1.83 GHz). GPUs of the same compute capability 7.5, 8.6,
/// 8.9 or 12.0 differ: GeForce matmuls sum in f32 at half the rate of professional ones. For compute
/// capability 10.0 NVIDIA has not published the rate of one multiprocessor.
fn multiply_adds(capability: u32, dtype: DType) -> Option<u32> {
    match (dtype, capability) {
        (DType::F32, 75 | 80) => Some(64),
        (DType::F32, 86 | 87 | 89 | 90 | 100 | 103 | 120 | 121) => Some(128),
        (DType::F16 | DType::BF16, 80) => Some(1024),
        (DType::F16 | DType::BF16, 90) => Some(2048),
        _ => None,
    }
}

fn nvidia(hardware: &Hardware, capability: u32, sms: u32, dtype: DType) -> Option<Nameplate> {
    let matmul = hardware.clock_hz.zip(multiply_adds(capability, dtype));
    // Data is transferred at both edges of the clock.
    let memory = hardware.memory_clock_hz.zip(hardware.bus_bits);
    let mut how = Vec::new();
    if let Some((clock, bits)) = memory {
        how.push(format!("copy: 2 x {:.0} MHz x {bits} bits", clock / 1e6));
    }
    if let Some((clock, each)) = matmul {
        how.push(format!("matmul: {sms} multiprocessors x {:.0} MHz x 2 x {each} FLOP", clock / 1e6));
    }
    (!how.is_empty()).then(|| Nameplate {
        copy_bytes_per_s: memory.map(|(clock, bits)| 2.0 * clock * f64::from(bits) / 8.0),
        matmul_flops_per_s: matmul.map(|(clock, each)| f64::from(sms) * clock * 2.0 * f64::from(each)),
        how: how.join("; ") + "; at the highest clock rates that the driver tells",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: Option<f64>, truth: f64) -> bool {
        found.is_some_and(|found| (found / truth - 1.0).abs() < 0.01)
    }

    /// The figures of NVIDIA's data sheets: A100 40 GB SXM (1,555 GB/s, f32 19.5 TFLOP/s, bf16 312 TFLOP/s)
    /// and H100 SXM (3.35 TB/s, f32 67 TFLOP/s at 1.98 GHz, bf16 989 TFLOP/s at 1.83 GHz), from the clock
    /// rates and bus widths of these matmuls.
    #[test]
    fn the_peaks_are_those_of_data_sheets() {
        let a100 = Hardware {
            l2_bytes: Some(40 << 20),
            clock_hz: Some(1.41e9),
            memory_clock_hz: Some(1.215e9),
            bus_bits: Some(5120),
        };
        let f32 = nvidia(&a100, 80, 108, DType::F32).unwrap();
        assert!(near(f32.copy_bytes_per_s, 1.555e12) && near(f32.matmul_flops_per_s, 19.5e12), "{f32:?}");
        assert!(near(nvidia(&a100, 80, 108, DType::BF16).unwrap().matmul_flops_per_s, 312e12));
        let h100 =
            Hardware { clock_hz: Some(1.98e9), memory_clock_hz: Some(2.619e9), bus_bits: Some(5120), ..a100 };
        let f32 = nvidia(&h100, 90, 132, DType::F32).unwrap();
        assert!(near(f32.copy_bytes_per_s, 3.35e12) && near(f32.matmul_flops_per_s, 67e12), "{f32:?}");
        let slower = Hardware { clock_hz: Some(1.83e9), ..h100 };
        assert!(near(nvidia(&slower, 90, 132, DType::F16).unwrap().matmul_flops_per_s, 989e12));
    }

    #[test]
    fn what_is_not_known_is_not_claimed() {
        let some = Hardware { clock_hz: Some(1e9), ..Hardware::default() };
        assert_eq!(nvidia(&Hardware::default(), 90, 132, DType::F32), None);
        // A GeForce and a professional GPU of one compute capability differ.
        for capability in [75, 86, 89, 120] {
            assert_eq!(nvidia(&some, capability, 10, DType::F16), None);
            let f32 = nvidia(&some, capability, 10, DType::F32).unwrap();
            assert!(f32.matmul_flops_per_s.is_some() && f32.copy_bytes_per_s.is_none());
        }
        assert_eq!(nvidia(&some, 999, 10, DType::F32), None);
    }
}
