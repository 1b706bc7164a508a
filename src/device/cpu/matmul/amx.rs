//! The register tile of AMX: 32 x 32 sums in four tile registers.

use super::pair_pack::{PairTile, Stripe};
use half::bf16;
use std::arch::asm;

/// Whether this process may use the tile registers: the processor has AMX with bf16, and Linux permits it.
/// The first call asks for the permission.
pub(super) fn permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        use std::sync::OnceLock;
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        *PERMITTED.get_or_init(|| {
            /// `ARCH_REQ_XCOMP_PERM` of asm/prctl.h.
            const REQUEST: libc::c_long = 0x1023;
            /// The state of the tile registers, `XFEATURE_XTILEDATA`.
            const TILES: libc::c_long = 18;
            if std::arch::x86_64::__cpuid(0).eax < 7 {
                return false;
            }
            // AMX_BF16 and AMX_TILE, in leaf 7 of CPUID.
            let present = std::arch::x86_64::__cpuid_count(7, 0).edx >> 22 & 0b101 == 0b101;
            // SAFETY: the call changes nothing but which instructions the threads of this process may
            // execute. A kernel that does not know it, or refuses, answers with an error.
            present && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILES) } == 0
        })
    }
    #[cfg(not(target_os = "linux"))]
    false
}

pub(super) const TILE: PairTile = PairTile { enter, run, leave };

/// What `ldtilecfg` reads: palette 1 is eight registers of at most 16 rows of 64 bytes.
#[repr(C, align(64))]
struct TileShapes {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight whole tiles.
static WHOLE: TileShapes = TileShapes {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Configures the tile registers of this thread. Other code in the process may use them too, so a task
/// configures them at its beginning and releases them at its end.
///
/// # Safety
/// [`permitted`] said yes.
unsafe fn enter() {
    // SAFETY: reads the 64 bytes of a valid configuration.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, readonly, preserves_flags)) };
}

/// Releases the tile registers, so that the system need not save them when it switches threads.
///
/// # Safety
/// [`permitted`] said yes.
unsafe fn leave() {
    // SAFETY: changes the tile registers only.
    unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
}

/// See [`PairTile::run`]. `tmm0` to `tmm3` hold the sums, `tmm4` and `tmm5` the rows of A, `tmm6` and `tmm7`
/// the columns of B.
///
/// # Safety
/// As [`PairTile::run`] says, between [`enter`] and [`leave`].
unsafe fn run(steps: usize, rows: usize, a: Stripe, b: *const bf16, c: *mut f32, add: bool) {
    if rows <= 16 {
        // SAFETY: as the caller promises.
        return unsafe { upper(steps, a, b, c, add) };
    }
    // SAFETY: loads and stores are those that the caller permits: of A, 16 rows of 64 bytes from `p` and from
    // `half` on; of B, 2048 bytes a step; of C, rows of 128 bytes. The registers that are written are named,
    // or tile registers, which the compiler does not use.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jz 3f",
            "tileloadd tmm0, [{c} + {line}*2]",
            "tileloadd tmm1, [{c} + {line}*2 + 64]",
            "tileloadd tmm2, [{c} + {line}*2 + 2048]",
            "tileloadd tmm3, [{c} + {line}*2 + 2112]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a0} + {row}]",
            "tileloadd tmm6, [{b} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {line} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {row}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, {step}",
            "add {a1}, {step}",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {line}*2], tmm0",
            "tilestored [{c} + {line}*2 + 64], tmm1",
            "tilestored [{c} + {line}*2 + 2048], tmm2",
            "tilestored [{c} + {line}*2 + 2112], tmm3",
            a0 = inout(reg) a.p => _,
            a1 = inout(reg) a.p.wrapping_byte_add(a.half) => _,
            b = inout(reg) b => _,
            n = inout(reg) steps => _,
            row = in(reg) a.row,
            step = in(reg) a.step,
            line = in(reg) 64usize,
            c = in(reg) c,
            add = in(reg) add as u32,
            options(nostack)
        );
    }
}

/// The upper sixteen rows alone.
///
/// # Safety
/// As [`run`].
unsafe fn upper(steps: usize, a: Stripe, b: *const bf16, c: *mut f32, add: bool) {
    // SAFETY: as in `run`.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jz 3f",
            "tileloadd tmm0, [{c} + {line}*2]",
            "tileloadd tmm1, [{c} + {line}*2 + 64]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{a} + {row}]",
            "tileloadd tmm6, [{b} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {line} + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, {step}",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {line}*2], tmm0",
            "tilestored [{c} + {line}*2 + 64], tmm1",
            a = inout(reg) a.p => _,
            b = inout(reg) b => _,
            n = inout(reg) steps => _,
            row = in(reg) a.row,
            step = in(reg) a.step,
            line = in(reg) 64usize,
            c = in(reg) c,
            add = in(reg) add as u32,
            options(nostack)
        );
    }
}
