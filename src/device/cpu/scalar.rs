//! The element types of tensors on the CPU, and what their elements are computed in: f64 and f32 in
//! themselves, bf16 and f16 in f32.
//!
//! Conversions are integer arithmetic without branches: the compiler turns loops over them into vector
//! instructions, also inside of an op's own loop.

use super::{Cpu, Real, SliceMut, vectorise};
use crate::device::Tensor;
use crate::device::cpu::parallel::*;
use crate::error::Result;
use crate::shape::DType;
use half::{bf16, f16};

/// An element type of tensors on the CPU.
pub trait Scalar: bytemuck::Pod + PartialEq + Send + Sync {
    /// What elements and their sums are computed in.
    type Real: Real;
    /// The value of an element.
    fn load(self) -> Self::Real;
    /// The nearest element to a value, ties to even. NaN stays NaN, and what is too large becomes infinite.
    fn store(v: Self::Real) -> Self;
    /// The elements themselves, if they are what is computed in.
    fn reals(all: &[Self]) -> Option<&[Self::Real]>;
    /// The elements themselves to write, if they are what is computed in.
    fn reals_mut(all: &mut [Self]) -> Option<&mut [Self::Real]>;
}

impl Scalar for f64 {
    type Real = f64;
    #[inline(always)]
    fn load(self) -> f64 {
        self
    }
    #[inline(always)]
    fn store(v: f64) -> f64 {
        v
    }
    #[inline(always)]
    fn reals(all: &[f64]) -> Option<&[f64]> {
        Some(all)
    }
    #[inline(always)]
    fn reals_mut(all: &mut [f64]) -> Option<&mut [f64]> {
        Some(all)
    }
}

impl Scalar for f32 {
    type Real = f32;
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
    #[inline(always)]
    fn store(v: f32) -> f32 {
        v
    }
    #[inline(always)]
    fn reals(all: &[f32]) -> Option<&[f32]> {
        Some(all)
    }
    #[inline(always)]
    fn reals_mut(all: &mut [f32]) -> Option<&mut [f32]> {
        Some(all)
    }
}

/// The bits of infinity in f32. Those of a NaN without its sign are larger.
const INFINITY: i32 = 0x7f80_0000;

impl Scalar for bf16 {
    type Real = f32;
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn store(v: f32) -> bf16 {
        let bits = v.to_bits();
        let even = bits >> 16 & 1;
        let nearest = bits.wrapping_add(0x7fff + even) >> 16;
        // Rounding could turn a NaN into infinity, so one bit of its payload is set instead.
        let nan = (bits & 0x7fff_ffff) as i32 > INFINITY;
        bf16::from_bits(if nan { bits >> 16 | 0x40 } else { nearest } as u16)
    }
    #[inline(always)]
    fn reals(_: &[bf16]) -> Option<&[f32]> {
        None
    }
    #[inline(always)]
    fn reals_mut(_: &mut [bf16]) -> Option<&mut [f32]> {
        None
    }
}

/// The bits of 0.5 in f32. Numbers from there up to 1 are 2^-24 apart, as f16's are below its normal range.
const STEPS: u32 = 0x3f00_0000;
/// The bias of f32's exponents minus that of f16's.
const BIAS: u32 = 127 - 15;

impl Scalar for f16 {
    type Real = f32;
    #[inline(always)]
    fn load(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let (sign, rest) = ((bits & 0x8000) << 16, bits & 0x7fff);
        // The exponent of infinity and NaN is the greatest one in both types.
        let special = if rest as i32 >= 0x7c00 { BIAS << 23 } else { 0 };
        let normal = (rest << 13) + (BIAS << 23) + special;
        // An f32 below its own normal range would be correct too, but slow on many processors.
        let subnormal = (f32::from_bits(STEPS | rest) - 0.5).to_bits();
        f32::from_bits(sign | if (rest as i32) < 0x400 { subnormal } else { normal })
    }
    #[inline(always)]
    fn store(v: f32) -> f16 {
        let bits = v.to_bits();
        let (sign, rest) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
        let even = rest >> 13 & 1;
        let normal = ((rest + 0xfff + even) >> 13).wrapping_sub(BIAS << 10);
        // The addition rounds to a multiple of 2^-24.
        let subnormal = (f32::from_bits(rest) + 0.5).to_bits().wrapping_sub(STEPS);
        let finite = if (rest as i32) < (BIAS as i32 + 1) << 23 { subnormal } else { normal.min(0x7c00) };
        f16::from_bits((sign | if rest as i32 > INFINITY { 0x7e00 } else { finite }) as u16)
    }
    #[inline(always)]
    fn reals(_: &[f16]) -> Option<&[f32]> {
        None
    }
    #[inline(always)]
    fn reals_mut(_: &mut [f16]) -> Option<&mut [f32]> {
        None
    }
}

/// Evaluates an expression with a type name that stands for the element type of a tensor on the CPU.
macro_rules! by_scalar {
    ($dtype:expr, $T:ident => $e:expr) => {
        match $dtype {
            $crate::shape::DType::F64 => {
                type $T = f64;
                $e
            }
            $crate::shape::DType::BF16 => {
                type $T = half::bf16;
                $e
            }
            $crate::shape::DType::F16 => {
                type $T = half::f16;
                $e
            }
            _ => {
                type $T = f32;
                $e
            }
        }
    };
}
pub(crate) use by_scalar;

/// The same with a second name for the element type of a gradient: that of the activations, or the one that
/// sums have.
macro_rules! by_gradient {
    ($dtype:expr, $gradient:expr, ($T:ident, $G:ident) => $e:expr) => {
        $crate::device::cpu::by_scalar!($dtype, $T => {
            if $gradient == $dtype {
                type $G = $T;
                $e
            } else {
                type $G = <$T as $crate::device::cpu::Scalar>::Real;
                $e
            }
        })
    };
}
pub(crate) use by_gradient;

/// Converts elements to another type, serially.
#[inline(always)]
pub fn convert<A: Scalar, B: Scalar>(from: &[A], to: &mut [B]) {
    // From f32 to f32 the way through f64 is compiled to nothing.
    to.iter_mut().zip(from).for_each(|(to, from)| *to = B::store(B::Real::of(from.load().f64())));
}

/// The elements of a small tensor as they are computed in.
///
/// # Errors
/// [`Kind::Shape`](crate::error::Kind::Shape) if they are being written.
pub fn loaded<T: Scalar>(t: &Tensor) -> Result<Vec<T::Real>> {
    Ok(t.cpu::<T>()?.iter().map(|v| v.load()).collect())
}

/// Fills a row with what another one holds.
#[inline(always)]
pub fn load_row<T: Scalar>(from: &[T], to: &mut [T::Real]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.load());
}

/// Overwrites elements with values, or adds the values to them, each rounded once.
#[inline(always)]
pub fn store_row<T: Scalar>(from: &[T::Real], to: &mut [T], add: bool) {
    let pairs = to.iter_mut().zip(from);
    match add {
        true => pairs.for_each(|(to, &v)| *to = T::store(to.load() + v)),
        false => pairs.for_each(|(to, &v)| *to = T::store(v)),
    }
}

/// The elements of a gradient: of the type that activations have, or of that of sums.
pub enum GradientMut<'a, T: Scalar> {
    /// That of activations.
    Same(SliceMut<'a, T>),
    /// That of sums.
    Sums(SliceMut<'a, T::Real>),
}

/// Some elements of a gradient.
pub enum GradientPart<'a, T: Scalar> {
    /// In the type of activations.
    Same(&'a mut [T]),
    /// In the type of sums.
    Sums(&'a mut [T::Real]),
}

impl<'a, T: Scalar> GradientMut<'a, T> {
    /// The elements of a gradient where activations are of type `dtype`.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if they are in use.
    pub fn of(t: &'a Tensor, dtype: DType) -> Result<Self> {
        Ok(if t.spec.dtype == dtype { Self::Same(t.cpu_mut()?) } else { Self::Sums(t.cpu_mut()?) })
    }
    /// Parts of so many elements, the last one maybe smaller.
    pub fn parts(&mut self, size: usize) -> Vec<GradientPart<'_, T>> {
        match self {
            Self::Same(all) => all.chunks_mut(size.max(1)).map(GradientPart::Same).collect(),
            Self::Sums(all) => all.chunks_mut(size.max(1)).map(GradientPart::Sums).collect(),
        }
    }
}

impl<T: Scalar> GradientPart<'_, T> {
    /// Overwrites the elements from `start` on, or adds to them.
    #[inline(always)]
    pub fn put(&mut self, start: usize, values: &[T::Real], add: bool) {
        match self {
            Self::Same(all) => store_row(values, &mut all[start..][..values.len()], add),
            Self::Sums(all) => store_row(values, &mut all[start..][..values.len()], add),
        }
    }
}

/// Rounds values to bf16 or f16, serially, into the bits of the elements.
#[inline(always)]
pub(crate) fn round_to<T: Real>(dtype: DType, from: &[T], to: &mut [u16]) {
    let pairs = to.iter_mut().zip(from);
    match dtype {
        DType::BF16 => pairs.for_each(|(to, v)| *to = bf16::store(v.f64() as f32).to_bits()),
        _ => pairs.for_each(|(to, v)| *to = f16::store(v.f64() as f32).to_bits()),
    }
}

impl Cpu {
    /// Fills a tensor with the elements of another one, converted to its floating-point type.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if one of them is in use.
    pub fn convert(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        by_scalar!(from.spec.dtype, A => by_scalar!(to.spec.dtype, B => self.convert_all::<A, B>(from, to)))
    }
    fn convert_all<A: Scalar, B: Scalar>(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        // Elements of a task.
        const PART: usize = 1 << 14;
        let (from, mut to) = (from.cpu::<A>()?, to.cpu_mut::<B>()?);
        let task = |(to, from): (&mut [B], &[A])| vectorise!(convert(from, to));
        self.install(|| to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(task));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of f32 around every number of 16 bits and halfway between two: each pattern of the upper half
    /// with lower halves that round up, down and to even in both types.
    fn patterns() -> impl Iterator<Item = u32> {
        let lower = [0, 1, 0x0fff, 0x1000, 0x1001, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xefff, 0xffff];
        (0..=u16::MAX).flat_map(move |upper| lower.map(|lower| u32::from(upper) << 16 | lower))
    }

    /// The same bits as the crate `half` has, which converts in another way; of a NaN only that it is one.
    #[test]
    fn conversions_are_those_of_the_standard() {
        for h in 0..=u16::MAX {
            for (found, expected) in [
                (Scalar::load(bf16::from_bits(h)), bf16::from_bits(h).to_f32()),
                (Scalar::load(f16::from_bits(h)), f16::from_bits(h).to_f32()),
            ] {
                let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(same, "{h:#x}: {found} {expected}");
            }
        }
        for bits in patterns() {
            let v = f32::from_bits(bits);
            let (b, h) = (<bf16 as Scalar>::store(v), <f16 as Scalar>::store(v));
            assert!(b == bf16::from_f32(v) || b.is_nan() && v.is_nan(), "{v:e}: {b}");
            assert!(h == f16::from_f32(v) || h.is_nan() && v.is_nan(), "{v:e}: {h}");
            let signs = [b.is_sign_negative(), h.is_sign_negative()];
            assert!(v.is_nan() || signs == [v.is_sign_negative(); 2], "{v:e}");
        }
    }

    /// The loops as they run: more than a task, in whatever vectors this processor has.
    #[test]
    fn tensors_are_converted_whole() {
        let cpu = Cpu::new(2).unwrap();
        let values: Vec<f32> = patterns().map(f32::from_bits).collect();
        let spec = |dtype| crate::shape::Spec::new(dtype, &[values.len()]);
        let from = cpu.scratch_tensor(spec(DType::F32)).unwrap();
        from.cpu_mut::<f32>().unwrap().copy_from_slice(&values);
        for dtype in [DType::BF16, DType::F16] {
            let (half, back) =
                (cpu.scratch_tensor(spec(dtype)).unwrap(), cpu.scratch_tensor(spec(DType::F32)).unwrap());
            cpu.convert(&from, &half).unwrap();
            cpu.convert(&half, &back).unwrap();
            for (&found, &v) in back.cpu::<f32>().unwrap().iter().zip(&values) {
                let expected =
                    if dtype == DType::F16 { f16::from_f32(v).to_f32() } else { bf16::from_f32(v).to_f32() };
                assert!(found == expected || found.is_nan() && v.is_nan(), "{v:e}: {found:e} {expected:e}");
            }
        }
    }
}
