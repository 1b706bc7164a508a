//! The matmul of 16-bit elements, on every engine that this machine has, against sums in f64.

use half::{bf16, f16};
use tempra::device::Cpu;
use tempra::device::cpu::{HalfEpilogue, Mat, MatmulEngine, Out, Stored, matmul_half, matmul_half_serial};
use tempra::error::Kind;
use tempra::rng::Rng;

/// One matmul: the shape, which matrices are stored transposed, and where they lie.
#[derive(Clone, Copy, Debug)]
struct Problem {
    m: usize,
    n: usize,
    k: usize,
    a_t: bool,
    b_t: bool,
    /// C is added to.
    add: bool,
    /// Unused elements before the matrices and between rows; elements of transposed matrices are this and one
    /// apart if `sparse`.
    gap: usize,
    sparse: bool,
    /// Bias, kept values and an activation.
    epilogue: bool,
}

/// The matrices of a shape as stored, f64 that the element type holds exactly; unused elements are NaN.
struct Operands {
    a: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
    bias: Vec<f64>,
    a_at: [usize; 2],
    b_at: [usize; 2],
    c_row: usize,
    /// The elements of A B, and the sums of the magnitudes of their terms.
    sums: Vec<(f64, f64)>,
}

impl Operands {
    fn new(s: Problem, mut element: impl FnMut() -> f64) -> Operands {
        let mut matrix = |rows: usize, cols: usize, transposed: bool| {
            let (outer, inner) = if transposed { (cols, rows) } else { (rows, cols) };
            let apart = if s.sparse { 1 + s.gap } else { 1 };
            let stride = inner * apart + s.gap;
            let at = if transposed { [apart, stride] } else { [stride, apart] };
            let mut all = vec![f64::NAN; s.gap + outer * stride];
            for i in 0..rows {
                (0..cols).for_each(|j| all[s.gap + i * at[0] + j * at[1]] = element());
            }
            (all, at)
        };
        let ((a, a_at), (b, b_at)) = (matrix(s.m, s.k, s.a_t), matrix(s.k, s.n, s.b_t));
        let c_row = s.n + s.gap;
        let c = (0..s.gap + s.m * c_row).map(|_| element()).collect();
        let bias = (0..s.n).map(|_| element()).collect();
        let row = |i: usize| (0..s.k).map(|p| a[s.gap + i * a_at[0] + p * a_at[1]]).collect::<Vec<f64>>();
        let column = |j: usize| (0..s.k).map(|p| b[s.gap + p * b_at[0] + j * b_at[1]]).collect::<Vec<f64>>();
        let columns: Vec<_> = (0..s.n).map(column).collect();
        let dot = |row: &[f64], column: &[f64]| {
            let terms = row.iter().zip(column).map(|(a, b)| a * b);
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        };
        let rows: Vec<_> = (0..s.m).map(row).collect();
        let sums = rows.iter().flat_map(|row| columns.iter().map(|column| dot(row, column))).collect();
        Operands { a, b, c, bias, a_at, b_at, c_row, sums }
    }
}

/// Doubles and shifts: exact for the integers of these tests, and not the same twice.
fn activation(v: &mut [f32]) {
    v.iter_mut().for_each(|v| *v = 2.0 * *v - 1.0);
}

/// Stands for the gradient of an activation; exact for integers.
fn gradient(v: &mut [f32], at: &[f32]) {
    assert_eq!(v.len(), at.len());
    v.iter_mut().zip(at).for_each(|(v, at)| *v -= at);
}

/// An element type in these tests: conversions by the `half` crate, not by tempra.
trait Half: Stored + std::fmt::Debug {
    fn of(v: f64) -> Self;
    fn f64(self) -> f64;
    /// The distance from 1 to the next value.
    const EPS: f64;
    /// How far apart the smallest values are, or what may count as zero.
    const LEAST: f64 = f32::MIN_POSITIVE as f64;
}
impl Half for f32 {
    fn of(v: f64) -> f32 {
        v as f32
    }
    fn f64(self) -> f64 {
        self as f64
    }
    const EPS: f64 = f32::EPSILON as f64;
}
impl Half for bf16 {
    fn of(v: f64) -> bf16 {
        bf16::from_f32(v as f32)
    }
    fn f64(self) -> f64 {
        bf16::to_f64(self)
    }
    const EPS: f64 = 1.0 / 128.0;
}
impl Half for f16 {
    fn of(v: f64) -> f16 {
        f16::from_f32(v as f32)
    }
    fn f64(self) -> f64 {
        f16::to_f64(self)
    }
    const EPS: f64 = 1.0 / 1024.0;
    const LEAST: f64 = 1.0 / (1 << 24) as f64;
}

fn all_of<T: Half>(v: &[f64]) -> Vec<T> {
    v.iter().map(|&v| T::of(v)).collect()
}

/// C and the kept values by `matmul_half`, on all devices and on one thread; refuses results that differ.
fn results<A: Half, C: Half>(cpus: &[&Cpu], s: Problem, x: &Operands) -> [Vec<f64>; 2] {
    let (a, b, bias) = (all_of::<A>(&x.a), all_of::<A>(&x.b), all_of::<A>(&x.bias));
    let mat = |data, [row, col]: [usize; 2]| Mat { data: &data[s.gap.min(<[A]>::len(data))..], row, col };
    let (ma, mb) = (mat(&a, x.a_at), mat(&b, x.b_at));
    let mut found: Vec<[Vec<C>; 2]> = Vec::new();
    for cpu in cpus {
        let (mut c, mut kept) = (all_of::<C>(&x.c), all_of::<C>(&x.c));
        let at = c.clone();
        let out = Out { data: &mut c[s.gap..], row: x.c_row, add: s.add };
        let epilogue = match s.epilogue {
            true => HalfEpilogue {
                bias: Some(&bias),
                kept: Some(&mut kept[s.gap..]),
                act: Some(&activation),
                dact: Some((&at[s.gap..], &gradient)),
            },
            false => HalfEpilogue::default(),
        };
        matmul_half(cpu, [s.m, s.n, s.k], ma, mb, out, epilogue).unwrap_or_else(|e| panic!("{s:?}: {e}"));
        found.push([c, kept]);
    }
    if !s.epilogue {
        let mut c = all_of::<C>(&x.c);
        let out = Out { data: &mut c[s.gap..], row: x.c_row, add: s.add };
        matmul_half_serial(cpus[0], [s.m, s.n, s.k], ma, mb, out).unwrap_or_else(|e| panic!("{s:?}: {e}"));
        found.push([c, all_of::<C>(&x.c)]);
    }
    let bits = |v: &[Vec<C>; 2]| {
        v.iter().flat_map(|v| bytemuck::cast_slice::<C, u8>(v).to_vec()).collect::<Vec<_>>()
    };
    for other in &found[1..] {
        assert!(bits(other) == bits(&found[0]), "{s:?}: threads change the result");
    }
    found.swap_remove(0).map(|v| v.into_iter().map(C::f64).collect())
}

/// The greatest error over what rounding allows, which is 0 for integers: f32 sums are exact then.
fn against_f64<A: Half, C: Half>(cpus: &[&Cpu], s: Problem, x: &Operands, exact: bool) -> f64 {
    let engine = cpus[0].engine().name();
    let [c, kept] = results::<A, C>(cpus, s, x);
    let mut worst = 0f64;
    for at in 0..c.len() {
        let (i, j) = match at.checked_sub(s.gap) {
            Some(at) if at % x.c_row < s.n => (at / x.c_row, at % x.c_row),
            _ => {
                let before = C::of(x.c[at]).f64();
                assert_eq!(
                    (c[at], kept[at]),
                    (before, before),
                    "{engine} {s:?}: an element outside of C was written"
                );
                continue;
            }
        };
        let (mut value, mut size) = x.sums[i * s.n + j];
        // Higham, "Accuracy and Stability", eq. 3.5: any order of n roundings is off by at most n eps.
        let mut bound = |value: f64, size: f64, found: f64, what: &str| {
            let f32s = (s.k + 4) as f64 * f32::EPSILON as f64 * size;
            let allowed = f32s + C::EPS / 2.0 * (value.abs() + f32s) + C::LEAST;
            let error = (found - value).abs();
            if exact {
                assert_eq!(found, C::of(value).f64(), "{engine} {s:?}: {what} ({i}, {j})");
            }
            assert!(
                error <= allowed,
                "{engine} {s:?}: {what} ({i}, {j}) is {found}, not {value}, off by {error:e} of {allowed:e}"
            );
            worst = worst.max(error / allowed);
        };
        if s.epilogue {
            value += x.bias[j];
            size += x.bias[j].abs();
            bound(value, size, kept[at], "kept value");
            (value, size) = (2.0 * value - 1.0 - x.c[at], 2.0 * size + 1.0 + x.c[at].abs());
        }
        if s.add {
            value += x.c[at];
            size += x.c[at].abs();
        }
        bound(value, size, c[at], "element");
    }
    worst
}

/// One thread and four, for every engine of this machine.
fn engines() -> Vec<[Cpu; 2]> {
    let found: Vec<MatmulEngine> = MatmulEngine::ALL.into_iter().filter(|e| e.available()).collect();
    assert!(found.contains(&MatmulEngine::Widened));
    let cpu = |threads, engine| {
        Cpu::new(threads).and_then(|c| c.with_engine(engine)).expect("an engine that is available")
    };
    found.into_iter().map(|engine| [1, 4].map(|threads| cpu(threads, engine))).collect()
}

/// Sizes around the sides of tiles (12, 16, 32), parts (72, 96) and passes (384, 512); whole ones for
/// operands that are read in place.
fn shapes(number: usize) -> Vec<Problem> {
    const SIDES: [usize; 18] = [1, 2, 3, 7, 8, 12, 15, 16, 17, 31, 32, 33, 47, 64, 65, 72, 97, 130];
    const DEPTHS: [usize; 16] = [1, 2, 3, 15, 31, 32, 33, 63, 64, 65, 96, 128, 383, 512, 544, 1030];
    let mut rng = Rng::new(5, "16-bit shapes", 0);
    let mut all = Vec::new();
    let mut put = |[m, n, k]: [usize; 3], i: usize| {
        let bit = |b: usize| i >> b & 1 == 1;
        let (gap, sparse) = ([0, 0, 1, 32][i / 16 % 4], i % 11 == 10);
        all.push(Problem { m, n, k, a_t: bit(0), b_t: bit(1), add: bit(2), epilogue: bit(3), gap, sparse });
    };
    for i in 0..number {
        let mut of = |sizes: &[usize]| sizes[rng.below(sizes.len() as u32) as usize];
        put([of(&SIDES), of(&SIDES), of(&DEPTHS)], i);
    }
    for i in 0..64 {
        put([33, 33, 33], i);
        put([64, 64, 64], i);
        put([5, 3, 0], i);
        put([0, 3, 5], i);
        put([3, 0, 5], i);
        put([1, 1, 1], i);
    }
    // Several tasks and several passes; more columns than a chunk of B may have.
    (0..16).for_each(|i| put([272, 200, 544], i));
    (0..2).for_each(|i| put([40, 1300, 1056], i));
    // More than the caches may keep: on cache lines and across them, with and without an epilogue.
    [0, 8, 32, 40].into_iter().for_each(|i| put([1030, 1056, 3], i));
    all
}

fn integers(s: Problem, seed: u64) -> Operands {
    let mut rng = Rng::new(seed, "integers", (s.m * 1_000_003 + s.n * 1009 + s.k) as u64);
    Operands::new(s, || rng.below(9) as f64 - 4.0)
}

#[test]
fn integers_are_multiplied_exactly() {
    let cpus = engines();
    for s in shapes(250) {
        let x = integers(s, 7);
        for [one, four] in &cpus {
            against_f64::<bf16, bf16>(&[one, four], s, &x, true);
            against_f64::<bf16, f32>(&[one, four], s, &x, true);
        }
    }
}

#[test]
fn other_types_are_widened() {
    let [one, four] = &engines()[0];
    for s in shapes(60).into_iter().step_by(3) {
        let x = integers(s, 8);
        against_f64::<f16, f16>(&[one, four], s, &x, true);
        against_f64::<f16, f32>(&[one, four], s, &x, true);
        against_f64::<f32, f32>(&[one, four], s, &x, true);
        against_f64::<f32, bf16>(&[one, four], s, &x, true);
        against_f64::<bf16, f16>(&[one, four], s, &x, true);
    }
}

#[test]
fn errors_are_those_of_rounding() {
    let cpus = engines();
    let mut worst = vec![[0f64; 3]; cpus.len()];
    for s in shapes(80).into_iter().step_by(2) {
        let mut rng = Rng::new(9, "reals", (s.m * 1_000_003 + s.n * 1009 + s.k) as u64);
        // Values that all three types hold: eight significant bits, none below 2^-16.
        let x = Operands::new(s, || bf16::of((rng.below(1 << 17) as f64 - 65536.0) / 65536.0).f64());
        for ([one, four], worst) in cpus.iter().zip(&mut worst) {
            worst[0] = worst[0].max(against_f64::<bf16, bf16>(&[one, four], s, &x, false));
            worst[1] = worst[1].max(against_f64::<bf16, f32>(&[one, four], s, &x, false));
            worst[2] = worst[2].max(against_f64::<f16, f16>(&[one, four], s, &x, false));
        }
    }
    for ([cpu, _], worst) in cpus.iter().zip(&worst) {
        println!("{}: at most {worst:.3?} of the bound", cpu.engine().name());
        assert!(worst[0] > 0.1 && worst[2] > 0.1, "a result that is rounded has an error: {worst:?}");
    }
}

/// One element of A that is not finite spoils its row of C, one of B its column, and nothing else.
#[test]
fn nan_and_infinity_propagate() {
    for [one, four] in &engines() {
        for (m, n, k) in [(35, 40, 33), (64, 64, 64), (3, 2, 5)] {
            for (a_t, b_t) in [(false, false), (false, true), (true, false), (true, true)] {
                let s = Problem { m, n, k, a_t, b_t, add: false, gap: 0, sparse: false, epilogue: false };
                // Of one sign, so that an infinity stays one.
                let mut x = Operands::new(s, || 1.0);
                let (i, j, p) = (m - 1, n / 2, k - 1);
                for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                    let spoiled = |v: f64| if value.is_nan() { v.is_nan() } else { v == value };
                    for in_a in [true, false] {
                        let (all, at) = if in_a {
                            (&mut x.a, i * x.a_at[0] + p * x.a_at[1])
                        } else {
                            (&mut x.b, p * x.b_at[0] + j * x.b_at[1])
                        };
                        all[at] = value;
                        let [c, _] = results::<bf16, bf16>(&[one, four], s, &x);
                        let [wide, _] = results::<bf16, f32>(&[one, four], s, &x);
                        for (at, (&c, &wide)) in c.iter().zip(&wide).enumerate() {
                            let hit = if in_a { at / n == i } else { at % n == j };
                            let good = |v: f64| if hit { spoiled(v) } else { v == k as f64 };
                            assert!(
                                good(c) && good(wide),
                                "{} {s:?} {value}: {at} is {c}, {wide}",
                                one.engine().name()
                            );
                        }
                        let all = if in_a { &mut x.a } else { &mut x.b };
                        all.fill(1.0);
                    }
                }
            }
        }
    }
}

/// Every bf16 and f16, through the conversions of packing and rounding: times one.
#[test]
fn every_value_passes_unchanged() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    fn check<T: Half>(cpus: &[[Cpu; 2]], values: &[T], flushes: impl Fn(&Cpu) -> bool) {
        for [cpu, _] in cpus {
            let mut c = vec![T::of(0.0); values.len()];
            let out = Out { data: &mut c, row: 1, add: false };
            let one = [T::of(1.0)];
            matmul_half(
                cpu,
                [values.len(), 1, 1],
                Mat::new(values, 1),
                Mat::new(&one, 1),
                out,
                HalfEpilogue::default(),
            )
            .expect("a matmul");
            for (v, c) in values.iter().zip(&c) {
                let (v, c) = (v.f64(), c.f64());
                let small = flushes(cpu) && v.abs() < f32::MIN_POSITIVE as f64;
                let same = c == v || (v.is_nan() && c.is_nan()) || (small && c == 0.0);
                assert!(same, "{}: {v} became {c}", cpu.engine().name());
            }
        }
    }
    let cpus = engines();
    let bf16s: Vec<bf16> = all.iter().map(|&b| bf16::from_bits(b)).collect();
    check(&cpus, &bf16s, |cpu| cpu.engine() != MatmulEngine::Widened);
    let f16s: Vec<f16> = all.iter().map(|&b| f16::from_bits(b)).collect();
    check(&cpus[..1], &f16s, |_| false);
}

/// Sums between two bf16: rounded to the nearest, ties to even, as the `half` crate does.
#[test]
fn sums_are_rounded_to_nearest_even() {
    let mut rng = Rng::new(2, "rounding", 0);
    let mut sums: Vec<f32> =
        (0..4000).map(|_| f32::from_bits(rng.next_u32())).filter(|v| v.is_normal()).collect();
    // Ties, and their neighbours.
    for i in 0..4000u32 {
        let tie = 0x3f80_8000 + ((i / 3) << 16);
        sums.push(f32::from_bits(tie + i % 3 - 1));
    }
    sums.extend([f32::MAX, f32::MIN, 0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY]);
    let zero = [bf16::ZERO];
    for [cpu, _] in &engines() {
        for &sum in &sums {
            // The activation may write what it likes.
            let put = |v: &mut [f32]| v.fill(sum);
            let epilogue = HalfEpilogue { act: Some(&put), ..Default::default() };
            let mut c = [bf16::ONE];
            let out = Out { data: &mut c, row: 1, add: false };
            matmul_half(cpu, [1, 1, 1], Mat::new(&zero, 1), Mat::new(&zero, 1), out, epilogue)
                .expect("a matmul");
            assert_eq!(c[0], bf16::from_f32(sum), "{}: {sum}", cpu.engine().name());
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let data = [bf16::ONE; 16];
    for [cpu, _] in &engines() {
        let run = |shape: [usize; 3], a: Mat<bf16>, b: Mat<bf16>, row: usize, bias: usize, kept: usize| {
            let (mut c, mut z) = (vec![0f32; 16], vec![0f32; kept]);
            let epilogue =
                HalfEpilogue { bias: Some(&data[..bias]), kept: Some(&mut z), ..Default::default() };
            matmul_half(cpu, shape, a, b, Out { data: &mut c, row, add: false }, epilogue)
        };
        let mat = |row, col| Mat { data: &data[..], row, col };
        let four = [4, 4, 4];
        run(four, mat(4, 1), mat(1, 4), 4, 4, 16).expect("it fits");
        let cases = [
            (four, mat(5, 1), mat(4, 1), 4, 4, 16, "A is too short"),
            (four, mat(4, 1), mat(5, 1), 4, 4, 16, "B is too short"),
            (four, mat(4, 1), mat(4, 1), 5, 4, 16, "C is too short"),
            (four, mat(4, 1), mat(4, 1), 3, 4, 16, "rows of C overlap"),
            (four, mat(4, 1), mat(4, 1), 4, 3, 16, "the bias is too short"),
            (four, mat(4, 1), mat(4, 1), 4, 4, 15, "the kept values are too few"),
            (four, mat(1 << 63, 1), mat(4, 1), 4, 4, 16, "A's stride overflows"),
            (four, mat(4, 1), mat(4, 1 << 63), 4, 4, 16, "B's stride overflows"),
            (four, mat(4, 1), mat(4, 1), 1 << 62, 4, 16, "C's stride overflows"),
            ([usize::MAX, 4, 1], mat(0, 0), mat(0, 0), 4, 4, 16, "C's size overflows"),
            ([1, 1, usize::MAX], mat(0, 0), mat(0, 0), 1, 1, 16, "packed panels overflow"),
        ];
        for (shape, a, b, row, bias, kept, why) in cases {
            let e = run(shape, a, b, row, bias, kept).expect_err(why);
            assert_eq!(e.kind(), Kind::Shape, "{why}: {e}");
        }
    }
}
