//! The two element types the CPU computes in, and functions that the compiler can turn into vector
//! instructions.
//!
//! f32 has its own exp, tanh and GELU: polynomials without branches, fitted for the smallest greatest error.
//! Tests hold them against f64 over the whole range. f64, which only proofs use, takes the exact library
//! functions.
#![allow(unsafe_code, reason = "calls code compiled for instructions that were found to be there")]

use super::Scalar;
use super::gelu::{self, GeluForm};
use super::matmul::{Kernel, kernel_f32, kernel_f64};
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};
use std::sync::OnceLock;

/// What vector instructions the processor has, by the levels of the x86-64 ABI; `V1` stands for everything
/// else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What the build's target guarantees.
    V1,
    /// AVX2 and FMA.
    V3,
    /// AVX-512.
    V4,
}

/// Found once.
pub(super) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let v4 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match (v3, v4) {
                (true, true) => return Level::V4,
                (true, false) => return Level::V3,
                _ => {}
            }
        }
        Level::V1
    })
}

pub(super) fn features() -> &'static str {
    match level() {
        Level::V1 => "baseline",
        Level::V3 => "AVX2",
        Level::V4 => "AVX-512",
    }
}

/// Runs `f` compiled for the widest vectors of this processor. Only what is inlined into `f` gains from it,
/// so write `vectorised(#[inline(always)] || ...)`, and likewise for closures that `f` calls.
#[inline]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    // One copy of the code for both levels: what runs here waits for memory, and wider vectors would not help
    // it.
    #[cfg(target_arch = "x86_64")]
    if level() != Level::V1 {
        // SAFETY: `level` found these instructions.
        return unsafe { v3(f) };
    }
    f()
}
/// The same closure: an argument may carry `#[inline(always)]`, a `let` may not yet.
pub fn always<F>(f: F) -> F {
    f
}

/// A closure that is always inlined: `inlined!(|c| x[c] * y[c])`.
macro_rules! inlined {
    ($($closure:tt)*) => { $crate::device::cpu::always(#[inline(always)] $($closure)*) };
}
/// Runs an expression compiled for the widest vectors of this processor; closures in it belong into
/// [`inlined!`].
macro_rules! vectorise {
    ($body:expr) => {
        $crate::device::cpu::vectorised(
            #[inline(always)]
            || $body,
        )
    };
}
pub(crate) use {inlined, vectorise};

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt")]
fn v3<R>(f: impl FnOnce() -> R) -> R {
    f()
}
/// An element type that the CPU computes in.
pub trait Real:
    Scalar<Real = Self>
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Nearest value.
    fn of(v: f64) -> Self;
    /// The same value.
    fn f64(self) -> f64;
    /// self * a + b, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// e to the power of self.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The greater one; NaN if either is.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // `max` would drop a NaN.
        if self > other || self.partial_cmp(&self).is_none() { self } else { other }
    }
    /// y = gelu(y), element by element and in place.
    fn gelu(form: GeluForm, y: &mut [Self]);
    /// dz = dy gelu'(z), element by element, as far as the shortest slice reaches.
    fn gelu_backward(form: GeluForm, dz: &mut [Self], dy: &[Self], z: &[Self]);
    /// The transposed block: element (j, i) of (i, j).
    #[inline(always)]
    fn transpose4(block: [[Self; 4]; 4]) -> [[Self; 4]; 4] {
        std::array::from_fn(|j| std::array::from_fn(|i| block[i][j]))
    }
    /// The register tile of the matmul.
    fn kernel(level: Level) -> Kernel<Self>;
}

impl Real for f64 {
    const ZERO: f64 = 0.;
    const ONE: f64 = 1.;
    fn of(v: f64) -> f64 {
        v
    }
    fn f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn mul_add(self, a: f64, b: f64) -> f64 {
        f64::mul_add(self, a, b)
    }
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
    fn gelu(form: GeluForm, y: &mut [f64]) {
        y.iter_mut().for_each(|y| *y *= gelu::exact(form, *y)[0]);
    }
    fn gelu_backward(form: GeluForm, dz: &mut [f64], dy: &[f64], z: &[f64]) {
        for ((dz, &dy), &z) in dz.iter_mut().zip(dy).zip(z) {
            let [p, derivative] = gelu::exact(form, z);
            *dz = dy * z.mul_add(derivative, p);
        }
    }
    fn kernel(level: Level) -> Kernel<f64> {
        kernel_f64(level)
    }
}

/// (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2; relative error of e^r below 3.1e-9.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_394, 0.008_368_781, 0.001_381_446_5];
/// (tanh(x) / x - 1) / x^2 in powers of x^2 for |x| <= 0.6; relative error of tanh below 2.8e-9.
const TANH_NEAR: [f32; 5] = [-0.333_333, 0.133_319_24, -0.053_783_83, 0.020_795_977, -0.005_895_165];

/// Sum of c[i] * x^i by Horner's rule.
#[inline(always)]
fn poly<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut y = c[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        y = f32::mul_add(y, x, c[i]);
    }
    y
}

impl Real for f32 {
    const ZERO: f32 = 0.;
    const ONE: f32 = 1.;
    #[inline(always)]
    fn of(v: f64) -> f32 {
        v as f32
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self as f64
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32) -> f32 {
        f32::mul_add(self, a, b)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    /// 2^n e^r with |r| <= ln 2 / 2. Overflows to infinity, underflows to 0 below the normal range.
    #[inline(always)]
    fn exp(self) -> f32 {
        const LOG2_E: f32 = std::f32::consts::LOG2_E;
        // ln 2 in two parts: the first has few enough bits for n * LN2_HI to be exact.
        const LN2_HI: f32 = 0.693_359_4;
        const LN2_LO: f32 = -2.121_944_4e-4;
        // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
        const ROUND: f32 = 12_582_912.0;
        // ln of the largest f32 and of the least normal one, to the f32 inside.
        const MOST: f32 = 88.722_83;
        const LEAST: f32 = -87.336_54;
        // Comparisons that keep a NaN: `min` and `max` would drop it.
        let x = if self > 88.8 { 88.8 } else { self };
        let x = if x < -87.4 { -87.4 } else { x };
        let shifted = f32::mul_add(x, LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = f32::mul_add(n, -LN2_HI, x);
        let r = f32::mul_add(n, -LN2_LO, r);
        let p = poly(r, EXP);
        let e = f32::mul_add(r * r, p, r) + 1.0;
        // 2^n in two factors, so that n = 128 does not overflow before the multiplication does.
        let bits = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let (half, rest) = (bits >> 1, bits.wrapping_sub(bits >> 1));
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
        let y = e * power(half) * power(rest);
        let y = if self > MOST { f32::INFINITY } else { y };
        if self < LEAST { 0.0 } else { y }
    }
    fn ln(self) -> f32 {
        f32::ln(self)
    }
    /// x + x^3 P(x^2) near zero, 1 - 2 / (exp(2t) + 1) elsewhere.
    #[inline(always)]
    fn tanh(self) -> f32 {
        let t = self.abs();
        let s = self * self;
        let near = f32::mul_add(self * s, poly(s, TANH_NEAR), self);
        let c = if t > 10.0 { 10.0 } else { t };
        let far = 1.0 - 2.0 / (Real::exp(2.0 * c) + 1.0);
        // Near -0 the terms of `near` have opposite signs, and 0 - 0 is +0.
        (if t > 0.6 { far } else { near }).copysign(self)
    }
    fn gelu(form: GeluForm, y: &mut [f32]) {
        gelu::apply(form, y);
    }
    fn gelu_backward(form: GeluForm, dz: &mut [f32], dy: &[f32], z: &[f32]) {
        gelu::backward(form, dz, dy, z);
    }
    /// In eight shuffles, which compilers do not find.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn transpose4(block: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_movehl_ps, _mm_movelh_ps, _mm_storeu_ps};
        use std::arch::x86_64::{_mm_unpackhi_ps, _mm_unpacklo_ps};
        let mut columns = [[0.0; 4]; 4];
        // SAFETY: every x86-64 has SSE2; rows and columns are four elements.
        unsafe {
            let [a, b, c, d] = block.each_ref().map(|row| _mm_loadu_ps(row.as_ptr()));
            let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
            let transposed = [
                _mm_movelh_ps(ab, cd),
                _mm_movehl_ps(cd, ab),
                _mm_movelh_ps(ab_high, cd_high),
                _mm_movehl_ps(cd_high, ab_high),
            ];
            for (column, v) in columns.iter_mut().zip(transposed) {
                _mm_storeu_ps(column.as_mut_ptr(), v);
            }
        }
        columns
    }
    fn kernel(level: Level) -> Kernel<f32> {
        kernel_f32(level)
    }
}

/// The greatest element, NaN if there is one, -infinity of none; in lanes that the compiler can vectorise.
#[inline(always)]
pub fn max_lanes<T: Real>(v: &[T]) -> T {
    let none = T::of(f64::NEG_INFINITY);
    let mut most = [none; LANES];
    let whole = v.chunks_exact(LANES);
    let rest = whole.remainder().iter().fold(none, |m, &v| v.larger(m));
    for chunk in whole {
        for (m, &v) in most.iter_mut().zip(chunk) {
            *m = v.larger(*m);
        }
    }
    most.iter().fold(rest, |m, &v| v.larger(m))
}

/// Lanes of sums: as many as two of the widest vectors have.
const LANES: usize = 16;

/// Sum over `f(i)`, i < n, in sixteen interleaved lanes that are added at the end: an order the compiler can
/// vectorise and that is the same on every processor.
#[inline(always)]
pub fn sum_lanes<T: Real>(n: usize, f: impl Fn(usize) -> T) -> T {
    let mut acc = [T::ZERO; LANES];
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (l, acc) in acc.iter_mut().enumerate() {
            *acc += f(i + l);
        }
        i += LANES;
    }
    let mut tail = T::ZERO;
    for i in whole..n {
        tail += f(i);
    }
    together(acc, tail)
}

/// Sum over `f` of all elements, in the order of [`sum_lanes`]: for an `f` that is long, where checks of an
/// index would stand in the way of vectors.
#[inline(always)]
pub fn sum_over<T: Real>(v: &[T], f: impl Fn(T) -> T) -> T {
    let mut acc = [T::ZERO; LANES];
    let whole = v.chunks_exact(LANES);
    let rest = whole.remainder();
    for chunk in whole {
        for (acc, &v) in acc.iter_mut().zip(chunk) {
            *acc += f(v);
        }
    }
    let mut tail = T::ZERO;
    for &v in rest {
        tail += f(v);
    }
    together(acc, tail)
}

#[inline(always)]
fn together<T: Real>(mut acc: [T; LANES], tail: T) -> T {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            let other = acc[l + width];
            acc[l] += other;
        }
    }
    acc[0] + tail
}
