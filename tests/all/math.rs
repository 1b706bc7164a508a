//! The arithmetic under the ops: exp, tanh and GELU in f32 against f64, matmul, borrows of pooled memory.

use rayon::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};
use tempra::device::cpu::{GeluForm, Mat, Out, Real, matmul, matmul_serial, vectorised};
use tempra::device::{Cpu, Device};
use tempra::error::{Error, Kind};
use tempra::rng::Rng;
use tempra::shape::{DType, Spec};

/// A function in f32, its truth in f64, and how many units in the last place it may be off where the truth is
/// a normal number; below that it may be off by the least normal number.
struct Function {
    name: &'static str,
    ours: fn(&mut [f32]),
    truth: fn(f64) -> f64,
    bound: f64,
}

/// Bounds above what was measured: exp over all of f32, tanh over every 1009th (`every_f32` measures all).
const FUNCTIONS: [Function; 2] = [
    Function { name: "exp", ours: |v| map(v, Real::exp), truth: f64::exp, bound: 1.1 },
    Function { name: "tanh", ours: |v| map(v, Real::tanh), truth: f64::tanh, bound: 1.5 },
];

fn map(v: &mut [f32], f: impl Fn(f32) -> f32) {
    vectorised(|| v.iter_mut().for_each(|x| *x = f(*x)));
}

/// The distance of `y` from `truth` in units of the last place that an f32 near `truth` has.
fn ulps(y: f32, truth: f64) -> f64 {
    let expected = truth as f32;
    if y.is_nan() || truth.is_nan() {
        return if y.is_nan() == truth.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if expected.is_infinite() || y.is_infinite() {
        return if y == expected { 0.0 } else { f64::INFINITY };
    }
    let exponent = (truth.abs().to_bits() >> 52) as i32 - 1023;
    (y as f64 - truth).abs() / 2f64.powi(exponent.max(-126) - 23)
}

/// What is wrong over every `stride`-th bit pattern of f32.
#[derive(Clone, Copy, Debug, Default)]
struct Worst {
    /// Most ulps where the truth is normal, and the argument.
    ulps: (f64, f32),
    /// Greatest error, in least normal numbers, where the truth is below the normal range.
    subnormal: f64,
    /// Wrong signs, of zeros too.
    signs: u64,
}

fn sweep(f: &Function, stride: u64) -> Worst {
    const BLOCK: u64 = 1 << 12;
    let count = (1u64 << 32).div_ceil(stride);
    let block = |b: u64| {
        let bits = (b * BLOCK..count.min((b + 1) * BLOCK)).map(|i| (i * stride) as u32);
        let x: Vec<f32> = bits.map(f32::from_bits).collect();
        let mut y = x.clone();
        (f.ours)(&mut y);
        let mut worst = Worst::default();
        for (&x, &y) in x.iter().zip(&y) {
            let truth = (f.truth)(x as f64);
            if truth.is_finite() && truth.abs() < f32::MIN_POSITIVE as f64 {
                let error = (y as f64 - truth).abs() / f32::MIN_POSITIVE as f64;
                worst.subnormal = worst.subnormal.max(if y.is_nan() { f64::INFINITY } else { error });
            } else if ulps(y, truth) > worst.ulps.0 {
                worst.ulps = (ulps(y, truth), x);
            }
            worst.signs += u64::from(!x.is_nan() && y.is_sign_negative() != truth.is_sign_negative());
        }
        worst
    };
    let join = |a: Worst, b: Worst| Worst {
        ulps: if b.ulps.0 > a.ulps.0 { b.ulps } else { a.ulps },
        subnormal: a.subnormal.max(b.subnormal),
        signs: a.signs + b.signs,
    };
    (0..count.div_ceil(BLOCK)).into_par_iter().map(block).reduce(Worst::default, join)
}

fn hold(stride: u64) {
    for f in &FUNCTIONS {
        let worst = sweep(f, stride);
        println!("{}: at most {:.3} ulp, at {:e}; {worst:?}", f.name, worst.ulps.0, worst.ulps.1);
        assert!(worst.ulps.0 <= f.bound, "{}: {worst:?}, bound {}", f.name, f.bound);
        assert!(worst.subnormal <= 1.0 && worst.signs == 0, "{}: {worst:?}", f.name);
    }
}

/// Every 1009th f32 of all: each exponent is met 8,000 times, in places that repeat in none.
#[test]
fn functions_are_within_their_bounds() {
    hold(1009);
}

/// All of f32. `cargo test --release --test all every_f32 -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes"]
fn every_f32() {
    hold(1);
}

#[test]
fn functions_at_the_ends_and_at_zero() {
    let at = |f: &Function, x: f32| {
        let mut v = [x];
        (f.ours)(&mut v);
        v[0]
    };
    let [exp, tanh] = &FUNCTIONS;
    for f in &FUNCTIONS {
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7F80_0001)] {
            assert!(at(f, nan).is_nan(), "{} of NaN", f.name);
        }
    }
    assert_eq!((at(exp, f32::INFINITY), at(exp, f32::NEG_INFINITY)), (f32::INFINITY, 0.0));
    assert_eq!((at(exp, 0.0), at(exp, -0.0)), (1.0, 1.0));
    // exp of the first is 3.40280e38, of the second 3.40282450e38, more than the largest f32 (3.40282347e38)
    // and half its last place; exp of the third is 2^-126 to seven digits.
    assert!(at(exp, 88.722_83).is_finite() && at(exp, 88.722_84) == f32::INFINITY);
    assert!(at(exp, -87.336_54) >= f32::MIN_POSITIVE);
    assert_eq!((at(tanh, f32::INFINITY), at(tanh, f32::NEG_INFINITY)), (1.0, -1.0));
    assert_eq!((at(tanh, 30.0), at(tanh, -30.0)), (1.0, -1.0));
    assert_eq!((at(tanh, -0.0).to_bits(), at(tanh, 0.0).to_bits()), ((-0.0f32).to_bits(), 0));
    assert!(at(tanh, f32::from_bits(1)) > 0.0);
}

/// gelu(x) and gelu'(x) in f64, by functions that keep the tail: erfc, and e to the power of a large number.
fn gelu_truth(form: GeluForm, x: f64) -> [f64; 2] {
    let (phi, slope) = match form {
        GeluForm::Erf => {
            let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            (libm::erfc(-x / 2f64.sqrt()) / 2.0, density)
        }
        GeluForm::Tanh => {
            let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let inner = twice * (x + 0.044715 * x * x * x);
            let (phi, rest) = (1.0 / (1.0 + (-inner).exp()), 1.0 / (1.0 + inner.exp()));
            (phi, phi * rest * twice * (1.0 + 3.0 * 0.044715 * x * x))
        }
    };
    // Far out a product of zero and infinity.
    [if phi == 0.0 { 0.0 } else { x * phi }, if slope == 0.0 { phi } else { phi + x * slope }]
}

fn gelus(form: GeluForm, x: &[f32]) -> [Vec<f32>; 2] {
    let (mut y, mut slope) = (x.to_vec(), x.to_vec());
    Real::gelu(form, &mut y);
    Real::gelu_backward(form, &mut slope, &vec![1.0; x.len()], x);
    [y, slope]
}

/// Every 1009th f32, and a fine grid where both functions bend.
#[test]
fn gelu_is_within_its_bounds() {
    let all = (0..1u64 << 32).step_by(1009).map(|bits| f32::from_bits(bits as u32));
    let near = (-700_000..700_000).map(|i| i as f32 / 100_000.0);
    let x: Vec<f32> = all.chain(near).filter(|x| x.is_finite()).collect();
    for form in [GeluForm::Erf, GeluForm::Tanh] {
        let [y, slope] = gelus(form, &x);
        // Greatest errors: of y beyond half a unit of its last place, of the slope, and of both over the
        // truth in the tail, where one half and an erf near -1 would cancel.
        let (mut value, mut gradient, mut tail) = (0f64, 0f64, 0f64);
        for ((&x, y), slope) in x.iter().zip(y).zip(slope) {
            let truth = gelu_truth(form, x as f64);
            let errors = [(y as f64 - truth[0]).abs(), (slope as f64 - truth[1]).abs()];
            assert!(errors.iter().all(|e| e.is_finite()), "{form:?} {x:e}: {y:e} {slope:e}");
            let last_place = 2f64.powi((truth[0].abs().to_bits() >> 52) as i32 - 1023 - 23);
            value = value.max(errors[0] - last_place / 2.0);
            gradient = gradient.max(errors[1]);
            if (-5.9..=-3.0).contains(&x) {
                tail = tail.max(errors[0] / truth[0].abs()).max(errors[1] / truth[1].abs());
            }
        }
        println!("{form:?}: {value:.2e}, {gradient:.2e}, tail {tail:.2e}");
        assert!(value <= 3e-8 && gradient <= 1.3e-7, "{form:?}: {value:e} {gradient:e}");
        // PyTorch's f32 forms lose every digit of y below -5.5.
        assert!(tail <= if form == GeluForm::Erf { 1e-4 } else { 1e-3 }, "{form:?}: {tail:e}");
    }
}

#[test]
fn gelu_at_the_ends_and_at_zero() {
    for form in [GeluForm::Erf, GeluForm::Tanh] {
        let at = |x: f32| gelus(form, &[x]).map(|v| v[0]);
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7F80_0001)] {
            assert!(at(nan).iter().all(|v| v.is_nan()), "{form:?}");
        }
        assert_eq!(at(f32::INFINITY), [f32::INFINITY, 1.0]);
        assert_eq!(at(f32::NEG_INFINITY), [0.0, 0.0]);
        assert_eq!((at(f32::MAX), at(f32::MIN)), ([f32::MAX, 1.0], [0.0, 0.0]));
        assert_eq!(at(0.0).map(f32::to_bits), [0, 0.5f32.to_bits()]);
        assert_eq!(at(-0.0).map(f32::to_bits), [-0.0f32, 0.5].map(f32::to_bits));
        // Twice the least f32, so that half of it is one.
        assert_eq!(at(f32::from_bits(2)), [f32::from_bits(1), 0.5]);
    }
}

/// The measure itself: one f32 further is one ulp, an infinity is no neighbour of a number.
#[test]
fn ulps_are_counted() {
    for x in [1.0f32, 1.5, 3.7e-38, 2.9e38, 0.1] {
        assert!((ulps(f32::from_bits(x.to_bits() + 1), x as f64) - 1.0).abs() < 1e-9);
        assert_eq!(ulps(x, x as f64), 0.0);
    }
    assert!(ulps(f32::INFINITY, 1.0).is_infinite() && ulps(f32::NAN, 1.0).is_infinite());
    assert!(ulps(1.0, f64::NAN).is_infinite() && ulps(f32::NAN, f64::NAN) == 0.0);
    assert_eq!(ulps(f32::INFINITY, 1e300), 0.0);
}

/// One matmul: the shape, which matrices are stored transposed, whether C is added to.
#[derive(Clone, Copy, Debug)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    a_t: bool,
    b_t: bool,
    add: bool,
    /// Unused elements between rows.
    gap: usize,
}

/// Random elements as f64 that f32 holds too, so that both types see one problem.
fn random(rng: &mut Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| (rng.uniform() * 2.0 - 1.0) as f32 as f64).collect()
}

fn stored(rows: usize, cols: usize, transposed: bool, gap: usize) -> (usize, [usize; 2]) {
    let (outer, inner) = if transposed { (cols, rows) } else { (rows, cols) };
    let stride = inner + gap;
    (outer * stride, if transposed { [1, stride] } else { [stride, 1] })
}

/// Multiplies by `matmul` and by a naive loop; the greatest error over what rounding in any order allows.
fn against_naive<T: Real>(cpus: [&Cpu; 2], s: Shape, eps: f64) -> f64 {
    let mut rng = Rng::new(11, "matmul", (s.m * 1_000_003 + s.n * 1009 + s.k) as u64);
    let ((a_len, [a_row, a_col]), (b_len, [b_row, b_col])) =
        (stored(s.m, s.k, s.a_t, s.gap), stored(s.k, s.n, s.b_t, s.gap));
    let c_row = s.n + s.gap;
    let (a, b, c) = (random(&mut rng, a_len), random(&mut rng, b_len), random(&mut rng, s.m * c_row));
    let of = |v: &[f64]| v.iter().map(|&v| T::of(v)).collect::<Vec<T>>();
    let (at, bt) = (of(&a), of(&b));
    let (ma, mb) = (Mat { data: &at, row: a_row, col: a_col }, Mat { data: &bt, row: b_row, col: b_col });
    let shape = [s.m, s.n, s.k];
    let seen: Vec<AtomicU32> = (0..s.m * s.n).map(|_| AtomicU32::new(0)).collect();
    let done = |row: usize, col: usize, piece: &mut [T]| {
        (0..piece.len()).for_each(|j| {
            seen[row * s.n + col + j].fetch_add(1, Ordering::Relaxed);
        })
    };
    let mut results = Vec::new();
    for cpu in cpus {
        let mut out = of(&c);
        let o = Out { data: &mut out, row: c_row, add: s.add };
        matmul(cpu, shape, ma, mb, o, Some(&done)).unwrap_or_else(|e| panic!("{s:?}: {e}"));
        results.push(out);
    }
    let mut serial = of(&c);
    let o = Out { data: &mut serial, row: c_row, add: s.add };
    matmul_serial(cpus[0], shape, ma, mb, o).unwrap_or_else(|e| panic!("{s:?}: {e}"));
    results.push(serial);
    assert!(
        seen.iter().all(|n| n.load(Ordering::Relaxed) == 2),
        "{s:?}: an epilogue saw an element not once"
    );
    let bits = |v: &[T]| bytemuck::cast_slice::<T, u8>(v).to_vec();
    assert!(results.iter().all(|r| bits(r) == bits(&results[0])), "{s:?}: threads change the result");

    let mut worst = 0f64;
    for i in 0..s.m {
        for j in 0..c_row {
            let (before, got) = (c[i * c_row + j], results[0][i * c_row + j].f64());
            if j >= s.n {
                assert_eq!(got, before, "{s:?}: an element outside of C was written");
                continue;
            }
            let (mut sum, mut size) = if s.add { (before, before.abs()) } else { (0.0, 0.0) };
            for p in 0..s.k {
                let (x, y) = (a[i * a_row + p * a_col], b[p * b_row + j * b_col]);
                sum += x * y;
                size += (x * y).abs();
            }
            // Higham, "Accuracy and Stability", eq. 3.5: any order of n roundings is off by at most n eps /
            // (1 - n eps).
            let bound = (s.k + 1) as f64 * eps * 1.01 * size;
            let error = (got - sum).abs();
            worst = worst.max(if error <= bound { error / bound.max(1e-300) } else { f64::INFINITY });
        }
    }
    worst
}

#[test]
fn matmuls_are_those_of_a_naive_loop() {
    let (one, four) = (Cpu::new(1).expect("threads"), Cpu::new(4).expect("threads"));
    let mut rng = Rng::new(3, "shapes", 0);
    // Around the tile heights and widths (4, 6, 8, 12, 16, 32), the blocks (96, 192) and the depth (256).
    const SIZES: [usize; 22] =
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 31, 33, 95, 97, 191, 193, 257];
    let mut shapes: Vec<Shape> = Vec::new();
    let mut put = |m, n, k, i: usize| {
        let bit = |b: usize| i >> b & 1 == 1;
        shapes.push(Shape {
            m,
            n,
            k,
            a_t: bit(0),
            b_t: bit(1),
            add: bit(2),
            gap: if bit(3) { 3 } else { 0 },
        });
    };
    for i in 0..160 {
        let mut size = || SIZES[rng.below(SIZES.len() as u32) as usize];
        put(size(), size(), size(), i);
    }
    for i in 0..16 {
        put(97, 193, 257, i);
        put(5, 3, 0, i);
        put(0, 3, 5, i);
        put(3, 0, 5, i);
        put(1, 1, 1, i);
    }
    (0..4).for_each(|i| put(96, 192, 513, i));
    let worst = |f: fn([&Cpu; 2], Shape, f64) -> f64, eps: f64| {
        shapes.iter().map(|&s| (f([&one, &four], s, eps), s)).fold(0.0, |worst: f64, (e, s)| {
            assert!(e <= 1.0, "{s:?}");
            worst.max(e)
        })
    };
    let f32s = worst(against_naive::<f32>, f32::EPSILON as f64 / 2.0);
    // The naive loop rounds as well.
    let f64s = worst(against_naive::<f64>, f64::EPSILON);
    println!("matmuls: at most {f32s:.3} (f32) and {f64s:.3} (f64) of the bound of rounding");
}

#[test]
fn matmuls_that_do_not_fit_are_refused() {
    let cpu = Cpu::new(1).expect("threads");
    let data = vec![1f32; 16];
    let run = |shape: [usize; 3], a: Mat<f32>, b: Mat<f32>, row: usize| {
        let mut out = vec![0f32; 16];
        matmul(&cpu, shape, a, b, Out { data: &mut out, row, add: false }, None)
    };
    let mat = |row, col| Mat { data: &data, row, col };
    let four = [4, 4, 4];
    assert!(run(four, mat(4, 1), mat(1, 4), 4).is_ok());
    let cases = [
        (four, mat(5, 1), mat(4, 1), 4, "A is too short"),
        (four, mat(4, 1), mat(5, 1), 4, "B is too short"),
        (four, mat(4, 1), mat(4, 1), 5, "C is too short"),
        (four, mat(4, 1), mat(4, 1), 3, "rows of C overlap"),
        (four, mat(1 << 63, 1), mat(4, 1), 4, "A's stride overflows"),
        (four, mat(4, 1), mat(4, 1 << 63), 4, "B's stride overflows"),
        (four, mat(4, 1), mat(4, 1), 1 << 62, "C's stride overflows"),
        ([usize::MAX, 4, 1], mat(0, 0), mat(0, 0), 4, "C's size overflows"),
        ([2, usize::MAX, 1], mat(0, 0), mat(0, 0), usize::MAX, "C's rows overflow"),
    ];
    for (shape, a, b, row, why) in cases {
        let e = run(shape, a, b, row).expect_err(why);
        assert_eq!(e.kind(), Kind::Shape, "{why}: {e}");
    }
}

#[test]
fn borrows_that_overlap_are_refused() {
    let device = Device::Cpu(Cpu::new(1).expect("threads"));
    let t = device.zeros(DType::F32, &[10]).expect("memory");
    let part = |at: usize, n: usize| t.view(at, &[n]).expect("inside");
    let (left, right, middle) = (part(0, 5), part(5, 5), part(4, 2));
    let refused = |r: Result<(), Error>| {
        let e = r.expect_err("an overlapping borrow was given");
        assert_eq!(e.kind(), Kind::Shape, "{e}");
        assert!(e.to_string().contains("in use"), "{e}");
    };
    let read = |t: &tempra::device::Tensor| t.cpu::<f32>().map(|_| ());
    let write = |t: &tempra::device::Tensor| t.cpu_mut::<f32>().map(|_| ());
    {
        let mut l = left.cpu_mut::<f32>().expect("free");
        let mut r = right.cpu_mut::<f32>().expect("disjoint");
        (l[4], r[0]) = (1.0, 2.0);
        [&left, &middle, &t].iter().for_each(|t| refused(read(t)));
        [&left, &middle, &t].iter().for_each(|t| refused(write(t)));
        refused(device.zero(&middle));
        refused(device.write(&right, &[0f32; 5]));
        refused(device.read::<f32>(&t).map(|_| ()));
        drop(l);
        // The one borrow that ended is free again, the other is not.
        assert!(read(&left).is_ok() && read(&middle).is_err());
    }
    {
        let (a, b) = (t.cpu::<f32>().expect("free"), middle.cpu::<f32>().expect("readers share"));
        assert_eq!((a[4], a[5], &b[..]), (1.0, 2.0, &[1.0, 2.0][..]));
        refused(write(&middle));
        drop(a);
        refused(write(&middle));
        assert!(write(&part(6, 4)).is_ok());
    }
    assert!(write(&t).is_ok());
}

#[test]
fn views_and_borrows_out_of_range_are_refused() {
    let cpu = Cpu::new(1).expect("threads");
    let buffer = cpu.scratch(64).expect("memory");
    assert!(buffer.read::<f32>(0, 16).is_ok() && buffer.read::<f64>(7, 1).is_ok());
    for (start, len) in
        [(0, 17), (16, 1), (1 << 62, 1), (usize::MAX, 1), (1, usize::MAX), (usize::MAX / 4 + 1, 2)]
    {
        assert!(buffer.read::<f32>(start, len).is_err(), "{start} {len}");
        assert!(buffer.write::<f32>(start, len).is_err(), "{start} {len}");
    }
    let device = Device::Cpu(cpu);
    let t = device.zeros(DType::F32, &[2, 6]).expect("memory");
    assert!(t.view(0, &[12]).is_ok() && t.view(12, &[0]).is_ok() && t.view(6, &[2, 3]).is_ok());
    for (at, shape) in [(0, &[13][..]), (6, &[7]), (13, &[0]), (usize::MAX, &[1]), (usize::MAX, &[2])] {
        assert_eq!(t.view(at, shape).expect_err("outside").kind(), Kind::Shape, "{at} {shape:?}");
    }
    // A view of a view counts from the view, and ends there.
    let inner = t.view(6, &[6]).expect("inside");
    assert!(inner.view(0, &[7]).is_err());
    device.write(&inner.view(2, &[1]).expect("inside"), &[5f32]).expect("written");
    assert_eq!(device.read::<f32>(&t).expect("read")[8], 5.0);
    // As another type, or with another number of bytes.
    assert!(
        t.cpu::<f64>().is_err() && device.read::<f64>(&t).is_err() && device.write(&t, &[0f32; 11]).is_err()
    );
    // What no system gives is an error of memory, not an abort.
    let huge = device.alloc(Spec::new(DType::F32, &[1 << 60])).expect_err("4 EiB");
    assert_eq!(huge.kind(), Kind::Memory, "{huge}");
}
