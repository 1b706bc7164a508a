//! y = act(x w^T + b).
//!
//! x (tokens, in), w (out, in), b (out) -> y (tokens, out); `b` may be left out. Weights as in PyTorch's `nn.Linear`.
//! Saves z = x w^T + b (tokens, out) where the derivative of the activation needs it.

use super::{
    Backward, Case, Forward, Input, On, Op, Plan, THREADS, by_dtype, compute_dtype, groups_for, launch,
    launch_with, refuse, sum_columns, words,
};
use crate::device::cpu::{BLOCK, Mat, Out, Real, inlined, product, vectorise};
use crate::device::wgpu::Tiles;
use crate::device::{Caps, Const, Cpu, Tensor, Wgpu};
use crate::error::Result;
use crate::shape::Spec;
use rayon::prelude::*;

/// What is applied to every element of the product. The two forms of GELU differ by up to 5e-4 and are never exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
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
    /// Whether the derivative needs the product itself, not just the result.
    fn needs_input(self) -> bool {
        matches!(self, Activation::GeluErf | Activation::GeluTanh)
    }
    /// y = act(z), element by element. The choice is made outside of the loop, so that each loop is one vector loop.
    #[inline(always)]
    fn apply<T: Real>(self, y: &mut [T], z: impl Fn(T, usize) -> T) {
        #[inline(always)]
        fn each<T: Real>(y: &mut [T], f: impl Fn(T, usize) -> T) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = f(*y, i);
            }
        }
        match self {
            Activation::None => each(y, z),
            Activation::GeluErf => each(y, inlined!(|y: T, i: usize| gelu_erf(z(y, i)))),
            Activation::GeluTanh => each(y, inlined!(|y: T, i: usize| gelu_tanh(z(y, i)))),
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
    fn slope<T: Real>(self, dz: &mut [T], dy: &[T], kept: &[T]) {
        #[inline(always)]
        fn each<T: Real>(dz: &mut [T], dy: &[T], kept: &[T], f: impl Fn(T) -> T) {
            for ((dz, &dy), &k) in dz.iter_mut().zip(dy).zip(kept) {
                *dz = dy * f(k);
            }
        }
        match self {
            Activation::None => dz.copy_from_slice(dy),
            Activation::GeluErf => each(dz, dy, kept, inlined!(|z: T| gelu_erf_slope(z))),
            Activation::GeluTanh => each(dz, dy, kept, inlined!(|z: T| gelu_tanh_slope(z))),
            Activation::Relu => {
                each(dz, dy, kept, inlined!(|y: T| if y > T::ZERO { T::ONE } else { T::ZERO }))
            }
            Activation::Tanh => each(dz, dy, kept, inlined!(|y: T| T::ONE - y * y)),
        }
    }
}

/// sqrt(2 / pi).
const SQRT_2_PI: f64 = 0.797_884_560_802_865_4;

/// Phi(z), the standard normal distribution function.
#[inline(always)]
fn phi<T: Real>(z: T) -> T {
    T::of(0.5) * (T::ONE + (z * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}
#[inline(always)]
fn gelu_erf<T: Real>(z: T) -> T {
    z * phi(z)
}
#[inline(always)]
fn gelu_erf_slope<T: Real>(z: T) -> T {
    // 1 / sqrt(2 pi).
    let density = T::of(0.398_942_280_401_432_7) * (-T::of(0.5) * z * z).exp();
    z.mul_add(density, phi(z))
}
#[inline(always)]
fn gelu_inner<T: Real>(z: T) -> T {
    T::of(SQRT_2_PI) * (z + T::of(0.044715) * z * z * z)
}
#[inline(always)]
fn gelu_tanh<T: Real>(z: T) -> T {
    T::of(0.5) * z * (T::ONE + gelu_inner(z).tanh())
}
#[inline(always)]
fn gelu_tanh_slope<T: Real>(z: T) -> T {
    let t = gelu_inner(z).tanh();
    let inner = T::of(SQRT_2_PI) * (T::ONE + T::of(3.0 * 0.044715) * z * z);
    T::of(0.5) * (T::ONE + t + z * inner * (T::ONE - t * t))
}

/// The op; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// The epilogue.
    pub act: Activation,
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn plan(&self, caps: &Caps, x: &[&Spec]) -> Result<Plan> {
        let wrong = || refuse("linear", "x (tokens, in), w (out, in) and maybe b (out)", x);
        let [input, w, b @ ..] = x else { return Err(wrong()) };
        let ((rows, k), (n, wk)) = (input.rows_cols(), w.rows_cols());
        if wk != k || b.len() > 1 || b.iter().any(|b| b.shape != [n]) {
            return Err(wrong());
        }
        let dtype = compute_dtype("linear", caps, x)?;
        let y = Spec::new(dtype, &[rows, n]);
        let saved = if self.act.needs_input() { vec![y.clone()] } else { vec![] };
        let flops = 2.0 * rows as f64 * n as f64 * k as f64;
        // The copied operand; the gradient before the activation; partial sums of the bias's gradient.
        let packed = if caps.packs { n * k } else { 0 };
        let dz = if self.act == Activation::None { 0 } else { rows * n };
        let operand = if caps.packs && !caps.gpu { k * n.max(rows) } else { 0 };
        let parts = if caps.gpu { rows.div_ceil(TILE) * n } else { 0 };
        let scratch = [packed, dz + operand + parts].map(|elements| elements * dtype.size());
        Ok(Plan::new(x, vec![y], saved, [flops, 2.0 * flops]).with_scratch(scratch))
    }
}

impl On<Cpu> for Linear {
    fn forward(&self, cpu: &Cpu, io: Forward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, forward(self.act, cpu, io))
    }
    fn backward(&self, cpu: &Cpu, io: Backward) -> Result<()> {
        by_dtype!(io.x[0].spec.dtype, backward(self.act, cpu, io))
    }
}

fn forward<T: Real>(act: Activation, cpu: &Cpu, io: Forward) -> Result<()> {
    let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
    let (x, w) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?);
    let b = io.x.get(2).map(|b| b.cpu::<T>()).transpose()?;
    let shape = [rows, n, k];
    let (x, w) = (Mat::new(&x, k), Mat::new(&w, k).t());
    let mut y = io.y[0].cpu_mut::<T>()?;
    if act.needs_input() {
        let mut z = io.y[1].cpu_mut::<T>()?;
        let done = |_: usize, col: usize, z: &mut [T]| add_bias(b.as_deref(), col, z);
        product(cpu, shape, x, w, Out { data: &mut z, row: n, add: false }, Some(&done))?;
        let rows = |(y, z): (&mut [T], &[T])| vectorise!({ act.apply(y, inlined!(|_: T, i: usize| z[i]),) });
        cpu.install(|| y.par_chunks_mut(BLOCK * n).zip(z.par_chunks(BLOCK * n)).for_each(rows));
        return Ok(());
    }
    let done = |_: usize, col: usize, z: &mut [T]| {
        add_bias(b.as_deref(), col, z);
        if act != Activation::None {
            vectorise!({ act.apply(z, inlined!(|z: T, _| z)) });
        }
    };
    product(cpu, shape, x, w, Out { data: &mut y, row: n, add: false }, Some(&done))
}

fn add_bias<T: Real>(b: Option<&[T]>, col: usize, z: &mut [T]) {
    if let Some(b) = b {
        z.iter_mut().zip(&b[col..]).for_each(|(z, &b)| *z += b);
    }
}

fn backward<T: Real>(act: Activation, cpu: &Cpu, io: Backward) -> Result<()> {
    let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
    let (x, w, dy) = (io.x[0].cpu::<T>()?, io.x[1].cpu::<T>()?, io.dy()?.cpu::<T>()?);
    // dz = dy * act'(z), in scratch unless the activation is the identity.
    let identity = act == Activation::None;
    let scratch = cpu.scratch(if identity { 0 } else { rows * n * size_of::<T>() })?;
    let mut dz = scratch.write::<T>(0, if identity { 0 } else { rows * n })?;
    if !identity {
        let kept = io.y[act.needs_input() as usize].cpu::<T>()?;
        let chunk = BLOCK * n;
        let rows = |((dz, dy), kept): ((&mut [T], &[T]), &[T])| vectorise!(act.slope(dz, dy, kept));
        cpu.install(|| {
            dz.par_chunks_mut(chunk).zip(dy.par_chunks(chunk)).zip(kept.par_chunks(chunk)).for_each(rows)
        });
    }
    let dz: &[T] = if identity { &dy } else { &dz };
    if let Some(g) = io.dx(0) {
        let mut dx = g.t.cpu_mut::<T>()?;
        product(
            cpu,
            [rows, k, n],
            Mat::new(dz, n),
            Mat::new(&w, k),
            Out { data: &mut dx, row: k, add: g.add },
            None,
        )?;
    }
    if let Some(g) = io.dx(1) {
        let mut dw = g.t.cpu_mut::<T>()?;
        let c = Out { data: &mut dw[..], row: k, add: g.add };
        product(cpu, [n, k, rows], Mat::new(dz, n).t(), Mat::new(&x, k), c, None)?;
    }
    if let Some(g) = io.dx(2) {
        let mut db = g.t.cpu_mut::<T>()?;
        sum_columns(cpu, &mut db, g.add, rows, |r, cols, out| {
            out.iter_mut().zip(&dz[r * n..][cols]).for_each(|(o, &d)| *o += d);
        });
    }
    Ok(())
}

pub(super) const SHADER: &str = include_str!("../../shaders/linear.wgsl");
/// Rows and columns of a tile of the product, and the rows that one partial sum of a bias gradient covers.
/// The kernels of linear.wgsl, and the product on cooperative matrices, which not every adapter can compile.
pub(super) const COOP: &str =
    concat!(include_str!("../../shaders/linear.wgsl"), include_str!("../../shaders/linear.coop.wgsl"));
const TILE: usize = 64;

impl Activation {
    fn code(self) -> u32 {
        match self {
            Activation::None => 0,
            Activation::GeluErf => 1,
            Activation::GeluTanh => 2,
            Activation::Relu => 3,
            Activation::Tanh => 4,
        }
    }
}

/// A matrix of a kernel: element (i, j) is at `i * row + j * col`.
struct Strided<'a> {
    t: &'a Tensor,
    row: usize,
    col: usize,
}

/// What happens to the sums of a product: bias, activation, where the sums themselves go, whether C is added to.
struct After<'a> {
    bias: Option<&'a Tensor>,
    act: Activation,
    keep: Option<&'a Tensor>,
    add: bool,
}

fn product_gpu(
    device: &Wgpu,
    [m, n, k]: [usize; 3],
    a: Strided,
    b: Strided,
    c: &Tensor,
    after: After,
) -> Result<()> {
    let consts = [
        ("BIAS", after.bias.is_some() as u32),
        ("KEEP", after.keep.is_some() as u32),
        ("ACT", after.act.code()),
        ("A_DOWN", (a.col == 1) as u32),
        ("B_DOWN", (b.row == 1) as u32),
    ];
    let params = |b: &Strided| [m, n, k, a.row, a.col, b.row, b.col, after.add as usize].map(|v| v as u32);
    let buffers =
        |b: &Strided| [a.t, b.t, c, after.bias.unwrap_or(c), after.keep.unwrap_or(c)].map(Tensor::clone);
    if let Some((size, subgroup)) = device.half() {
        let mut consts = words(&consts);
        consts.extend([("SUBGROUP", Const::U32(subgroup)), ("MATRICES", Const::Matrices(size))]);
        let wide = 4 * size as usize;
        let groups = [n.div_ceil(wide) as u32, m.div_ceil(wide) as u32, 1];
        let buffers = buffers(&b);
        let kernel = (COOP, "product_coop");
        return launch_with(device, 4 * subgroup, kernel, &consts, groups, &buffers.each_ref(), &params(&b));
    }
    if device.tiles() == Tiles::Workgroup {
        let groups = [n.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, 1];
        let buffers = buffers(&b);
        return launch(device, (SHADER, "product"), &consts, groups, &buffers.each_ref(), &params(&b));
    }
    // Columns side by side: a transposed B is copied first, which costs one part in m of the product.
    let scratch;
    let b = if b.col == 1 {
        b
    } else {
        scratch = device.scratch(c.spec.dtype, &[k, n])?;
        let groups = [n.div_ceil(THREADS as usize) as u32, k.min(65535) as u32, 1];
        launch(device, (SHADER, "transpose"), &consts, groups, &[b.t, b.t, &scratch, c, c], &params(&b))?;
        Strided { t: &scratch, row: n, col: 1 }
    };
    let lanes = device.lanes();
    let groups = [m.div_ceil(16) as u32, n.div_ceil(2 * lanes as usize) as u32, 1];
    launch_with(
        device,
        lanes,
        (SHADER, "product_rows"),
        &words(&consts),
        groups,
        &buffers(&b).each_ref(),
        &params(&b),
    )
}

impl On<Wgpu> for Linear {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
        let x = Strided { t: io.x[0], row: k, col: 1 };
        let w = Strided { t: io.x[1], row: 1, col: k };
        let keep = self.act.needs_input().then(|| io.y[1]);
        let after = After { bias: io.x.get(2).copied(), act: self.act, keep, add: false };
        product_gpu(device, [rows, n, k], x, w, io.y[0], after)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
        let (x, w, dy) = (io.x[0], io.x[1], io.dy()?);
        let consts = [("BIAS", 0), ("KEEP", 0), ("ACT", self.act.code()), ("A_DOWN", 0), ("B_DOWN", 0)];
        let sizes = |add: bool| [rows, n, 0, 0, 0, 0, 0, add as usize].map(|v| v as u32);
        let scratch;
        let dz = if self.act == Activation::None {
            dy
        } else {
            scratch = device.scratch(dy.spec.dtype, &[rows, n])?;
            let kept = io.y[self.act.needs_input() as usize];
            let buffers = [dy, kept, &scratch];
            launch(device, (SHADER, "derive"), &consts, groups_for(rows * n), &buffers, &sizes(false))?;
            &scratch
        };
        let plain = |add| After { bias: None, act: Activation::None, keep: None, add };
        if let Some(g) = io.dx(0) {
            let (a, b) = (Strided { t: dz, row: n, col: 1 }, Strided { t: w, row: k, col: 1 });
            product_gpu(device, [rows, k, n], a, b, g.t, plain(g.add))?;
        }
        if let Some(g) = io.dx(1) {
            let (a, b) = (Strided { t: dz, row: 1, col: n }, Strided { t: x, row: k, col: 1 });
            product_gpu(device, [n, k, rows], a, b, g.t, plain(g.add))?;
        }
        if let Some(g) = io.dx(2) {
            let parts = device.scratch(dy.spec.dtype, &[rows.div_ceil(TILE), n])?;
            let columns = groups_for(n)[0];
            let buffers = [dz, &parts, g.t];
            let by_block = [columns, rows.div_ceil(TILE) as u32, 1];
            launch(device, (SHADER, "sum_rows"), &consts, by_block, &buffers, &sizes(g.add))?;
            launch(device, (SHADER, "sum_parts"), &consts, [columns, 1, 1], &buffers, &sizes(g.add))?;
        }
        Ok(())
    }
}

/// Cases chosen to hurt: one row, one column, prime sizes, more rows and columns than a task, a depth of two passes.
pub fn cases() -> Vec<Case> {
    let case = |label, act, [rows, k, n]: [usize; 3], bias: bool| {
        let mut inputs = vec![Input::real(&[rows, k]), Input::real(&[n, k])];
        if bias {
            inputs.push(Input::real(&[n]));
        }
        Case::new(label, Linear { act }, inputs)
    };
    vec![
        case("bias", Activation::None, [5, 8, 3], true),
        case("no bias, odd", Activation::None, [2, 7, 9], false),
        case("one of each", Activation::None, [1, 1, 1], true),
        case("gelu erf, prime sizes", Activation::GeluErf, [13, 17, 19], true),
        case("gelu tanh", Activation::GeluTanh, [7, 12, 33], true),
        case("relu", Activation::Relu, [3, 5, 65], true),
        case("tanh, one row", Activation::Tanh, [1, 31, 6], true),
        case("no rows", Activation::GeluErf, [0, 4, 5], true),
        case("several tasks", Activation::None, [131, 37, 201], true),
        case("deep", Activation::GeluErf, [9, 521, 11], true),
    ]
}
