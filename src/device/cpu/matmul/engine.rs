//! What multiplies bf16.

/// What computes matmuls of two bf16 matrices. Engines add in different orders, so the last bits of their
/// results differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulEngine {
    /// The tile registers of Intel AMX.
    Amx,
    /// `vdpbf16ps` of AVX-512, which multiplies pairs.
    Avx512Bf16,
    /// The matmul of f32, whose operands are converted while they are packed.
    Widened,
}

impl MatmulEngine {
    /// All engines, the fastest first.
    pub const ALL: [MatmulEngine; 3] = [MatmulEngine::Amx, MatmulEngine::Avx512Bf16, MatmulEngine::Widened];

    /// The engine's name, as `TEMPRA_CPU_MATMUL` has it.
    pub fn name(self) -> &'static str {
        match self {
            MatmulEngine::Amx => "amx",
            MatmulEngine::Avx512Bf16 => "avx512_bf16",
            MatmulEngine::Widened => "widened",
        }
    }

    /// Whether this processor and system can run it. The first call asks the system for the permission to
    /// use AMX, for all threads of the process.
    pub fn available(self) -> bool {
        match self {
            MatmulEngine::Amx => pairs() && amx(),
            MatmulEngine::Avx512Bf16 => pairs(),
            MatmulEngine::Widened => true,
        }
    }

    /// The fastest engine of this processor. Not found by timing: results would differ from run to run.
    pub fn fastest() -> MatmulEngine {
        let wins = |engine: &MatmulEngine| match engine {
            // It has twice the rate of f32 on AMD's Zen 4, but 0.6 of it on Intel's Sapphire Rapids.
            MatmulEngine::Avx512Bf16 => engine.available() && is_amd(),
            _ => engine.available(),
        };
        MatmulEngine::ALL.into_iter().find(wins).unwrap_or(MatmulEngine::Widened)
    }
}

/// The instructions that [`MatmulEngine::Avx512Bf16`] needs, and what packs and rounds for AMX.
fn pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::device::cpu::level() == crate::device::cpu::Level::V4
        && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn amx() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::amx::permitted();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn is_amd() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let v = std::arch::x86_64::__cpuid(0);
        [v.ebx, v.edx, v.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes)
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}
