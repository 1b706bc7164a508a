//! The activations of `linear` and `glu`: names, cost, and both passes on the CPU. The preludes of kernels
//! and shaders have the same functions.

use crate::device::cpu::{GeluForm, Real, inlined};

/// The activation applied to every element. The two forms of GELU differ by up to 5e-4 and are never
/// exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// No activation.
    None,
    /// x Phi(x), Phi by the error function: `gelu` (Hendrycks and Gimpel 2016, eq. 1).
    GeluErf,
    /// The tanh approximation: `gelu_new`, `gelu_pytorch_tanh` (ibid., eq. 2).
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// tanh(x).
    Tanh,
}

impl Activation {
    /// Whether the derivative needs the activation's input, not only its output.
    pub(super) fn needs_input(self) -> bool {
        matches!(self, Activation::GeluErf | Activation::GeluTanh)
    }
    pub(super) fn name(self) -> &'static str {
        match self {
            Activation::None => "nothing",
            Activation::GeluErf => "gelu",
            Activation::GeluTanh => "gelu tanh",
            Activation::Relu => "relu",
            Activation::Tanh => "tanh",
        }
    }
    /// FLOP of the activation and of its derivative for one element, by their formulas, each counted
    /// separately.
    pub(super) fn flops(self) -> [f64; 2] {
        match self {
            Activation::None => [0.0, 0.0],
            // z / 2 (1 + erf(z / sqrt 2)); its Phi(z) + z exp(-z^2 / 2) / sqrt(2 pi).
            Activation::GeluErf => [5.0, 10.0],
            // z / 2 (1 + t), t = tanh(sqrt(2 / pi) (z + 0.044715 z^3)); (1 + t + z sqrt(2 / pi) (1 + 0.134
            // z^2) (1 - t^2)) / 2.
            Activation::GeluTanh => [9.0, 17.0],
            Activation::Relu => [1.0, 1.0],
            // Its derivative is 1 - y^2.
            Activation::Tanh => [1.0, 2.0],
        }
    }
    /// The constant ACT of the kernels.
    pub(super) fn code(self) -> u32 {
        match self {
            Activation::None => 0,
            Activation::GeluErf => 1,
            Activation::GeluTanh => 2,
            Activation::Relu => 3,
            Activation::Tanh => 4,
        }
    }
    /// y = act(z), element by element. The choice is made outside of the loop, so that each loop is one
    /// vector loop.
    #[inline(always)]
    pub(super) fn apply<T: Real>(self, y: &mut [T], z: impl Fn(T, usize) -> T) {
        #[inline(always)]
        fn each<T: Real>(y: &mut [T], f: impl Fn(T, usize) -> T) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = f(*y, i);
            }
        }
        match self {
            Activation::None => each(y, z),
            Activation::GeluErf => gelu(GeluForm::Erf, y, z),
            Activation::GeluTanh => gelu(GeluForm::Tanh, y, z),
            Activation::Relu => each(
                y,
                inlined!(|y: T, i: usize| {
                    let z = z(y, i);
                    // Keeps a NaN, which `max` would drop.
                    if z < T::ZERO { T::ZERO } else { z }
                }),
            ),
            Activation::Tanh => each(y, inlined!(|y: T, i: usize| z(y, i).tanh())),
        }
    }
    /// dz = dy act'(z), from z or from y = act(z), whichever was kept.
    #[inline(always)]
    pub(super) fn backward<T: Real>(self, dz: &mut [T], dy: &[T], kept: &[T]) {
        #[inline(always)]
        fn each<T: Real>(dz: &mut [T], dy: &[T], kept: &[T], f: impl Fn(T) -> T) {
            for ((dz, &dy), &k) in dz.iter_mut().zip(dy).zip(kept) {
                *dz = dy * f(k);
            }
        }
        match self {
            Activation::None => dz.copy_from_slice(dy),
            Activation::GeluErf => T::gelu_backward(GeluForm::Erf, dz, dy, kept),
            Activation::GeluTanh => T::gelu_backward(GeluForm::Tanh, dz, dy, kept),
            Activation::Relu => {
                each(dz, dy, kept, inlined!(|y: T| if y > T::ZERO { T::ONE } else { T::ZERO }))
            }
            Activation::Tanh => each(dz, dy, kept, inlined!(|y: T| T::ONE - y * y)),
        }
    }
}

/// y = gelu(z).
#[inline(always)]
fn gelu<T: Real>(form: GeluForm, y: &mut [T], z: impl Fn(T, usize) -> T) {
    /// Elements whose z stays in the L1 cache until GELU reads it.
    const PART: usize = 1024;
    for (part, y) in y.chunks_mut(PART).enumerate() {
        for (i, y) in y.iter_mut().enumerate() {
            *y = z(*y, part * PART + i);
        }
        T::gelu(form, y);
    }
}
