//! GELU and its derivative, both forms: in f64 by their formulas, in f32 by tables instead of exponentials.
//!
//! gelu(x) = max(x, 0) - c T(c) and gelu'(x) = S(c) for x < 0, 1 - S(c) for x >= 0, with c = |x|, T(c) =
//! gelu(-c) / -c and S(c) = gelu'(-c). T and S fall smoothly to zero: fifteen polynomials of degree five
//! cover c < 5.95, and zero takes the rest. Since the tail itself is tabulated, and not its distance from
//! one half, large negative arguments keep relative accuracy, which 1 + erf(x) loses.
//!
//! Every processor computes the same bits: the three versions below take the same coefficients through the
//! same fused multiplications.
#![allow(unsafe_code, reason = "calls code compiled for instructions that were found to be there")]

use super::{Level, level};

/// The two forms of GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluForm {
    /// x Phi(x), Phi the standard normal distribution function.
    Erf,
    /// The approximation of Phi by a hyperbolic tangent.
    Tanh,
}

/// Polynomials by ascending powers: column p belongs to c = (p + r) / SCALE with |r| <= 1/2.
#[repr(align(64))]
struct Piecewise([[f32; 16]; 6]);

/// Pieces in a unit of c.
const SCALE: f32 = 2.4375;
/// Larger c count as this one, which lies in the last piece, where T and S are zero.
const END: f32 = 6.2;
/// Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the lowest bits.
const ROUND: f32 = 12_582_912.0;

// The coefficients minimise the greatest error of each piece in f64 (Lawson's reweighted least squares at 120
// Chebyshev points): the error relative to the function, but relative to its greatest value in the pieces
// around zero. The first constant is 1/2 exactly.
/// Phi(-c), Phi the standard normal distribution function.
#[rustfmt::skip]
static ERF: Piecewise = Piecewise([
    [
        0.5, 0.340_808_93, 0.205_961_91, 0.109_204_6, 0.050_396_044, 0.020_119_742, 0.006_917_127,
        0.002_040_739, 5.152_746_5e-4, 1.111_144_2e-4, 2.042_993_2e-5, 3.198_589e-6, 4.259_769e-7,
        4.821_431_4e-8, 4.634_691_3e-9, 0.0,
    ],
    [
        -0.163_668_62, -0.150_458_7, -0.116_888_81, -0.076_741_87, -0.042_579_014, -0.019_964_695,
        -0.007_911_037, -0.002_649_154_7, -7.496_936e-4, -1.792_923_7e-4, -3.623_595_7e-5,
        -6.188_927_7e-6, -8.932_768e-7, -1.089_552_1e-7, -1.123_044_15e-8, 0.0,
    ],
    [
        -8.053_027e-8, 0.012_661_42, 0.019_673_128, 0.019_374_559, 0.014_333_147, 0.008_400_861,
        0.003_994_617, 0.001_560_58, 5.046_982e-4, 1.357_761_2e-4, 3.048_603_7e-5, 5.726_516_5e-6,
        9.014_644e-7, 1.190_831_04e-7, 1.321_423e-8, 0.0,
    ],
    [
        0.004_591_867, 0.003_510_130_6, 0.001_071_454_6, -0.001_108_106_7, -0.002_021_879_4,
        -0.001_796_271_3, -0.001_122_637_8, -5.385_848e-4, -2.055_574e-4, -6.357_662e-5, -1.611_019_3e-5,
        -3.368_351_8e-6, -5.839_351e-7, -8.423_147e-8, -1.013_663_7e-8, 0.0,
    ],
    [
        -2.392_327_8e-6, -4.979_605e-4, -6.370_287e-4, -4.023_761_7e-4, -6.365_403e-5, 1.400_325_3e-4,
        1.703_689_3e-4, 1.148_698_7e-4, 5.534_906_8e-5, 2.049_836_8e-5, 6.026_42e-6, 1.431_398_9e-6,
        2.776_576_5e-7, 4.430_087e-8, 5.843_285_4e-9, 0.0,
    ],
    [
        -1.126_755_96e-4, -7.100_473e-5, 1.582_185_9e-5, 6.796_761_6e-5, 5.846_853_7e-5, 2.079_854_9e-5,
        -6.404_072_3e-6, -1.333_097_4e-5, -9.453_631e-6, -4.422_954e-6, -1.538_221_9e-6, -4.165_872_3e-7,
        -8.997_378e-8, -1.571_528_9e-8, -2.240_326_4e-9, 0.0,
    ],
]);
/// Phi(-c) - c phi(c), phi the density.
#[rustfmt::skip]
static ERF_GRADIENT: Piecewise = Piecewise([
    [
        0.5, 0.190_350_28, -0.027_815_677, -0.121_021, -0.119_919_99, -0.079_703_68, -0.040_549_05,
        -0.016_503_343, -0.005_482_296_5, -0.001_502_538, -3.419_412_8e-4, -6.488_414_5e-5,
        -1.029_466_7e-5, -1.368_503_1e-6, -1.526_452e-7, 0.0,
    ],
    [
        -0.327_337_24, -0.275_593_64, -0.155_083_28, -0.037_235_726, 0.029_505_732, 0.044_077_16,
        0.032_112_245, 0.016_549_85, 0.006_576_253, 0.002_085_762_3, 5.374_301_7e-4, 1.136_676_2e-4,
        1.986_470_5e-5, 2.881_505_2e-6, 3.480_586_2e-7, 0.0,
    ],
    [
        -6.395_004e-7, 0.048_512_906, 0.065_446_5, 0.048_150_435, 0.018_735_657, -0.001_744_175_4,
        -0.008_225_486, -0.006_628_542_7, -0.003_418_180_4, -0.001_308_191_7, -3.912_621e-4,
        -9.374_557e-5, -1.824_911_7e-5, -2.912_103_6e-6, -3.832_393_2e-7, 0.0,
    ],
    [
        0.018_370_152, 0.012_028_748, -8.497_301e-4, -0.009_275_262, -0.009_075_423, -0.004_339_549_7,
        -3.777_267_7e-4, 0.001_061_141_5, 9.383_26e-4, 4.749_209_6e-4, 1.723_198_7e-4, 4.799_487_6e-5,
        1.058_687_9e-5, 1.881_909_6e-6, 2.725_27e-7, 0.0,
    ],
    [
        -1.902_907_6e-5, -0.002_835_523_3, -0.003_018_417_6, -9.909_112e-4, 8.577_108e-4, 0.001_234_538_9,
        6.697_023e-4, 1.077_413e-4, -1.073_516_6e-4, -1.022_297_1e-4, -4.997_249_2e-5, -1.701_98e-5,
        -4.386_566e-6, -8.871_853e-7, -1.436_240_6e-7, 0.0,
    ],
    [
        -6.696_895_6e-4, -3.462_797_3e-4, 2.531_015_8e-4, 4.656_529_6e-4, 2.275_939_8e-4, -5.683_602e-5,
        -1.361_464_5e-4, -7.642_488e-5, -1.278_833_9e-5, 9.962_14e-6, 9.004_902e-6, 4.018_167_6e-6,
        1.232_318_7e-6, 2.835_268_2e-7, 5.084_713e-8, 0.0,
    ],
]);
/// (1 - tanh(sqrt(2 / pi) (c + 0.044715 c^3))) / 2.
#[rustfmt::skip]
static TANH: Piecewise = Piecewise([
    [
        0.5, 0.340_829_13, 0.206_072_26, 0.109_383_43, 0.050_496_697, 0.020_050_295, 0.006_744_262_3,
        0.001_883_554_4, 4.262_495_2e-4, 7.606_035e-5, 1.039_875_6e-5, 1.057_778_1e-6, 7.772_844e-8,
        4.005_858_3e-9, 1.405_653_2e-10, 0.0,
    ],
    [
        -0.163_668_62, -0.150_403_02, -0.116_782_21, -0.076_737_255, -0.042_728_95, -0.020_123_888,
        -0.007_950_108_5, -0.002_592_444_4, -6.819_92e-4, -1.408_463_1e-4, -2.217_650_8e-5,
        -2.583_809_4e-6, -2.162_168_8e-7, -1.261_438_7e-8, -4.980_640_3e-10, 0.0,
    ],
    [
        -8.433_455e-8, 0.012_705_325, 0.019_664_46, 0.019_291_358, 0.014_281_939, 0.008_440_294,
        0.004_059_941_5, 0.001_586_182_2, 4.949_540_6e-4, 1.202_647_5e-4, 2.210_335_7e-5, 2.982_218_8e-6,
        2.867_420_5e-7, 1.908_072_6e-8, 8.536_618_6e-10, 0.0,
    ],
    [
        0.004_614_623_3, 0.003_510_08, 0.001_041_352, -0.001_118_652_4, -0.001_993_571_4,
        -0.001_772_517_2, -0.001_128_622_7, -5.543_747_7e-4, -2.120_591_2e-4, -6.216_306e-5,
        -1.361_062_2e-5, -2.164_256_3e-6, -2.430_510_3e-7, -1.875_680_4e-8, -9.683_068e-10, 0.0,
    ],
    [
        -2.505_200_7e-6, -5.072_928e-4, -6.393_489_3e-4, -3.920_468_7e-4, -5.824_083e-5, 1.336_094_4e-4,
        1.644_539_9e-4, 1.156_407_4e-4, 5.808_231_4e-5, 2.151_349_9e-5, 5.812_801e-6, 1.120_479e-6,
        1.503_028_8e-7, 1.367_666e-8, 8.224_058_7e-10, 0.0,
    ],
    [
        -1.151_728_65e-4, -7.148_577e-5, 1.873_399_6e-5, 6.908_594e-5, 5.585_387_4e-5, 1.950_136_2e-5,
        -5.156_283_4e-6, -1.234_278_8e-5, -9.609_745e-6, -4.772_268e-6, -1.620_454_7e-6, -3.764_022_3e-7,
        -5.892_704_6e-8, -6.097_044_6e-9, -4.076_415e-10, 0.0,
    ],
]);
/// The derivative of c times that, at -c.
#[rustfmt::skip]
static TANH_GRADIENT: Piecewise = Piecewise([
    [
        0.5, 0.190_426_14, -0.027_492_138, -0.120_828_33, -0.120_419_08, -0.080_569_096, -0.040_956_356,
        -0.016_263_554, -0.005_029_708, -0.001_191_581_6, -2.113_817_3e-4, -2.736_987e-5, -2.518_208_2e-6,
        -1.601_734_7e-7, -6.849_310_5e-9, 0.0,
    ],
    [
        -0.327_337_24, -0.275_394_4, -0.154_904_72, -0.037_725_85, 0.028_796_127, 0.044_153_277,
        0.032_818_075, 0.017_021_615, 0.006_555_679_3, 0.001_883_449_7, 3.979_015_2e-4, 6.049_743e-5,
        6.459_692_5e-6, 4.719_997e-7, 2.297_562_1e-8, 0.0,
    ],
    [
        -6.697_592_3e-7, 0.048_644_39, 0.065_239_86, 0.047_806_017, 0.018_921_65, -0.001_269_382_2,
        -0.008_137_163, -0.006_883_489_4, -0.003_603_500_5, -0.001_316_344, -3.412_181e-4, -6.217_094e-5,
        -7.816_634e-6, -6.632_455_4e-7, -3.707_325e-8, 0.0,
    ],
    [
        0.018_461_304, 0.011_990_254, -9.894_037e-4, -0.009_190_228, -0.008_874_171, -0.004_376_83,
        -5.453_966_4e-4, 0.001_021_598_2, 0.001_001_264_3, 5.168_606_3e-4, 1.733_762_5e-4, 3.913_12e-5,
        5.934_750_3e-6, 5.969_023_4e-7, 3.908_989_4e-8, 0.0,
    ],
    [
        -1.992_808_2e-5, -0.002_884_140_2, -0.003_000_773_3, -9.229_849e-4, 8.329_06e-4, 0.001_169_005_4,
        6.771_307_7e-4, 1.471_162_5e-4, -9.969_166e-5, -1.140_774_9e-4, -5.631_271_8e-5, -1.679_044e-5,
        -3.198_592_1e-6, -3.919_543_3e-7, -3.059_920_3e-8, 0.0,
    ],
    [
        -6.843_718e-4, -3.453_128_7e-4, 2.734_293_8e-4, 4.592_696_2e-4, 2.062_368_4e-4, -4.914_36e-5,
        -1.214_966_2e-4, -7.911_041e-5, -1.957_863_8e-5, 9.543_902e-6, 1.077_327e-5, 4.580_063_4e-6,
        1.100_967_1e-6, 1.602_688_1e-7, 1.430_006_2e-8, 0.0,
    ],
]);

fn value(form: GeluForm) -> &'static Piecewise {
    match form {
        GeluForm::Erf => &ERF,
        GeluForm::Tanh => &TANH,
    }
}
fn gradient(form: GeluForm) -> &'static Piecewise {
    match form {
        GeluForm::Erf => &ERF_GRADIENT,
        GeluForm::Tanh => &TANH_GRADIENT,
    }
}

/// y = gelu(y), in place. The absolute error is below 5e-8 plus half a unit in the last place of y; gelu(NaN)
/// is NaN, gelu(-infinity) is 0.
pub(super) fn apply(form: GeluForm, y: &mut [f32]) {
    let table = value(form);
    match level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` found these instructions.
        Level::V4 => unsafe { v4::apply(table, y) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` found these instructions.
        Level::V3 => unsafe { v3::apply(table, y) },
        _ => plain::apply(table, y),
    }
}

/// dz = dy gelu'(z). The absolute error of gelu' is below 1.3e-7. Elements beyond the shortest slice are left
/// alone.
pub(super) fn backward(form: GeluForm, dz: &mut [f32], dy: &[f32], z: &[f32]) {
    let table = gradient(form);
    let len = dz.len().min(dy.len()).min(z.len());
    let (dz, dy, z) = (&mut dz[..len], &dy[..len], &z[..len]);
    match level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` found these instructions.
        Level::V4 => unsafe { v4::backward(table, dz, dy, z) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` found these instructions.
        Level::V3 => unsafe { v3::backward(table, dz, dy, z) },
        _ => plain::backward(table, dz, dy, z),
    }
}

/// P(z) and P'(z) in f64, where gelu(z) = z P(z) and gelu'(z) = P(z) + z P'(z).
pub(super) fn exact(form: GeluForm, z: f64) -> [f64; 2] {
    // 1 / sqrt(2 pi) and sqrt(2 / pi).
    const DENSITY: f64 = 0.398_942_280_401_432_7;
    const SQRT_2_PI: f64 = 0.797_884_560_802_865_4;
    match form {
        GeluForm::Erf => {
            let phi = 0.5 * (1.0 + libm::erf(z * std::f64::consts::FRAC_1_SQRT_2));
            [phi, DENSITY * (-0.5 * z * z).exp()]
        }
        GeluForm::Tanh => {
            let t = (SQRT_2_PI * (z + 0.044715 * z * z * z)).tanh();
            let inner = SQRT_2_PI * (1.0 + 3.0 * 0.044715 * z * z);
            [0.5 * (1.0 + t), 0.5 * inner * (1.0 - t * t)]
        }
    }
}

/// In plain Rust.
mod plain {
    use super::{END, Piecewise, ROUND, SCALE};

    /// |x| or [`END`], and the table's function of it.
    fn tail(table: &Piecewise, x: f32) -> (f32, f32) {
        let c = x.abs();
        // A comparison that keeps a NaN.
        let c = if END < c { END } else { c };
        let shifted = c.mul_add(SCALE, ROUND);
        let r = c.mul_add(SCALE, -(shifted - ROUND));
        // Of a NaN any piece is right.
        let piece = shifted.to_bits() as usize & 15;
        let power = |i: usize| table.0[i][piece];
        (c, (0..5).rev().fold(power(5), |sum, i| sum.mul_add(r, power(i))))
    }
    pub fn apply(table: &Piecewise, y: &mut [f32]) {
        for y in y {
            let (c, t) = tail(table, *y);
            let positive = if 0.0 > *y { 0.0 } else { *y };
            *y = (-c).mul_add(t, positive);
        }
    }
    pub fn backward(table: &Piecewise, dz: &mut [f32], dy: &[f32], z: &[f32]) {
        for ((dz, dy), z) in dz.iter_mut().zip(dy).zip(z) {
            let (_, s) = tail(table, *z);
            *dz = dy * if z.is_sign_negative() { s } else { 1.0 - s };
        }
    }
}

/// Sixteen elements at a time, with the table in six registers.
#[cfg(target_arch = "x86_64")]
mod v4 {
    use super::{END, Piecewise, ROUND, SCALE};
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(table: &Piecewise) -> [__m512; 6] {
        // SAFETY: each row is one vector, and aligned as one.
        table.0.each_ref().map(|row| unsafe { _mm512_load_ps(row.as_ptr()) })
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn tail(table: &[__m512; 6], x: __m512) -> (__m512, __m512) {
        let (scale, round) = (_mm512_set1_ps(SCALE), _mm512_set1_ps(ROUND));
        // The second operand is taken if it is a NaN.
        let c = _mm512_min_ps(_mm512_set1_ps(END), _mm512_abs_ps(x));
        let shifted = _mm512_fmadd_ps(c, scale, round);
        let r = _mm512_fmsub_ps(c, scale, _mm512_sub_ps(shifted, round));
        // A look-up reads the lowest four bits of an index only.
        let piece = _mm512_castps_si512(shifted);
        let power = |i: usize| _mm512_permutexvar_ps(piece, table[i]);
        let mut sum = power(5);
        for i in (0..5).rev() {
            sum = _mm512_fmadd_ps(sum, r, power(i));
        }
        (c, sum)
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn gelu(table: &[__m512; 6], x: __m512) -> __m512 {
        let (c, t) = tail(table, x);
        _mm512_fnmadd_ps(c, t, _mm512_max_ps(_mm512_setzero_ps(), x))
    }
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn gradient(table: &[__m512; 6], z: __m512) -> __m512 {
        let (_, s) = tail(table, z);
        let negative = _mm512_movepi32_mask(_mm512_castps_si512(z));
        _mm512_mask_sub_ps(s, !negative, _mm512_set1_ps(1.0), s)
    }
    /// The lanes that the rest of a slice fills.
    fn lanes(rest: usize) -> u16 {
        (1u16 << rest).wrapping_sub(1)
    }

    #[target_feature(enable = "avx512f,avx512dq")]
    pub fn apply(table: &Piecewise, y: &mut [f32]) {
        let table = load(table);
        let mut whole = y.chunks_exact_mut(16);
        for y in &mut whole {
            // SAFETY: sixteen elements.
            unsafe { _mm512_storeu_ps(y.as_mut_ptr(), gelu(&table, _mm512_loadu_ps(y.as_ptr()))) };
        }
        let rest = whole.into_remainder();
        let lanes = lanes(rest.len());
        // SAFETY: lanes beyond the rest are neither read nor written.
        unsafe {
            let x = _mm512_maskz_loadu_ps(lanes, rest.as_ptr());
            _mm512_mask_storeu_ps(rest.as_mut_ptr(), lanes, gelu(&table, x));
        }
    }
    /// All slices have the same length.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub fn backward(table: &Piecewise, dz: &mut [f32], dy: &[f32], z: &[f32]) {
        let table = load(table);
        let (mut dz, dy, z) = (dz.chunks_exact_mut(16), dy.chunks_exact(16), z.chunks_exact(16));
        let (dy_rest, z_rest) = (dy.remainder(), z.remainder());
        for ((dz, dy), z) in (&mut dz).zip(dy).zip(z) {
            // SAFETY: sixteen elements each.
            unsafe {
                let slope = gradient(&table, _mm512_loadu_ps(z.as_ptr()));
                _mm512_storeu_ps(dz.as_mut_ptr(), _mm512_mul_ps(_mm512_loadu_ps(dy.as_ptr()), slope));
            }
        }
        let rest = dz.into_remainder();
        let lanes = lanes(rest.len());
        // SAFETY: lanes beyond the rest, which is as long in each slice, are neither read nor written.
        unsafe {
            let slope = gradient(&table, _mm512_maskz_loadu_ps(lanes, z_rest.as_ptr()));
            let product = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, dy_rest.as_ptr()), slope);
            _mm512_mask_storeu_ps(rest.as_mut_ptr(), lanes, product);
        }
    }
}

/// Eight elements at a time: a look-up in each half of the table, and a choice by the index's fourth bit.
#[cfg(target_arch = "x86_64")]
mod v3 {
    use super::{END, Piecewise, ROUND, SCALE};
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn tail(table: &Piecewise, x: __m256) -> (__m256, __m256) {
        let (scale, round) = (_mm256_set1_ps(SCALE), _mm256_set1_ps(ROUND));
        // The second operand is taken if it is a NaN.
        let c = _mm256_min_ps(_mm256_set1_ps(END), _mm256_andnot_ps(_mm256_set1_ps(-0.0), x));
        let shifted = _mm256_fmadd_ps(c, scale, round);
        let r = _mm256_fmsub_ps(c, scale, _mm256_sub_ps(shifted, round));
        let piece = _mm256_castps_si256(shifted);
        // The fourth bit, where a choice looks for it.
        let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(piece));
        let power = |i: usize| {
            let row = table.0[i].as_ptr();
            // SAFETY: a row is two vectors, and aligned as they are.
            let (low, high) = unsafe { (_mm256_load_ps(row), _mm256_load_ps(row.add(8))) };
            let pick = |half| _mm256_permutevar8x32_ps(half, piece);
            _mm256_blendv_ps(pick(low), pick(high), upper)
        };
        let mut sum = power(5);
        for i in (0..5).rev() {
            sum = _mm256_fmadd_ps(sum, r, power(i));
        }
        (c, sum)
    }
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn gelu(table: &Piecewise, x: __m256) -> __m256 {
        let (c, t) = tail(table, x);
        _mm256_fnmadd_ps(c, t, _mm256_max_ps(_mm256_setzero_ps(), x))
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn apply(table: &Piecewise, y: &mut [f32]) {
        let mut whole = y.chunks_exact_mut(8);
        for y in &mut whole {
            // SAFETY: eight elements.
            unsafe { _mm256_storeu_ps(y.as_mut_ptr(), gelu(table, _mm256_loadu_ps(y.as_ptr()))) };
        }
        super::plain::apply(table, whole.into_remainder());
    }
    /// All slices have the same length.
    #[target_feature(enable = "avx2,fma")]
    pub fn backward(table: &Piecewise, dz: &mut [f32], dy: &[f32], z: &[f32]) {
        let (mut dz, dy, z) = (dz.chunks_exact_mut(8), dy.chunks_exact(8), z.chunks_exact(8));
        let (dy_rest, z_rest) = (dy.remainder(), z.remainder());
        for ((dz, dy), z) in (&mut dz).zip(dy).zip(z) {
            // SAFETY: eight elements each.
            unsafe {
                let z = _mm256_loadu_ps(z.as_ptr());
                let (_, s) = tail(table, z);
                // Chosen by the sign.
                let slope = _mm256_blendv_ps(_mm256_sub_ps(_mm256_set1_ps(1.0), s), s, z);
                _mm256_storeu_ps(dz.as_mut_ptr(), _mm256_mul_ps(_mm256_loadu_ps(dy.as_ptr()), slope));
            }
        }
        super::plain::backward(table, dz.into_remainder(), dy_rest, z_rest);
    }
}

#[cfg(target_arch = "x86_64")]
#[cfg(test)]
mod tests {
    use super::*;

    /// Every exponent, with and without a sign, infinities and NaN among them.
    fn arguments() -> Vec<f32> {
        let near = (0..70_000).map(|i| (i as f32 - 35_000.0) / 5_000.0);
        (0..1u64 << 32).step_by(70_001).map(|bits| f32::from_bits(bits as u32)).chain(near).collect()
    }
    fn same(found: &[f32], expected: &[f32], x: &[f32]) {
        for ((found, expected), x) in found.iter().zip(expected).zip(x) {
            let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(same, "{x:e}: {found:e} {expected:e}");
        }
    }

    #[test]
    fn every_processor_computes_the_same_bits() {
        let x = arguments();
        let dy: Vec<f32> = x.iter().rev().map(|v| v.clamp(-3.0, 3.0)).collect();
        for form in [GeluForm::Erf, GeluForm::Tanh] {
            let mut y = x.clone();
            plain::apply(value(form), &mut y);
            let mut dz = vec![0.0; x.len()];
            plain::backward(gradient(form), &mut dz, &dy, &x);
            // Also slices shorter than a vector, and ones that end within one.
            for len in (0..40).chain([x.len()]) {
                let (x, y, dy, dz) = (&x[..len], &y[..len], &dy[..len], &dz[..len]);
                let (mut found, mut found_dz) = (x.to_vec(), vec![0.0; len]);
                if level() != Level::V1 {
                    // SAFETY: `level` found these instructions.
                    unsafe {
                        v3::apply(value(form), &mut found);
                        v3::backward(gradient(form), &mut found_dz, dy, x);
                    }
                    same(&found, y, x);
                    same(&found_dz, dz, x);
                }
                if level() == Level::V4 {
                    let (mut found, mut found_dz) = (x.to_vec(), vec![0.0; len]);
                    // SAFETY: `level` found these instructions.
                    unsafe {
                        v4::apply(value(form), &mut found);
                        v4::backward(gradient(form), &mut found_dz, dy, x);
                    }
                    same(&found, y, x);
                    same(&found_dz, dz, x);
                }
            }
        }
    }
}
