//! What `cudarc` calls of cuBLASLt for products of matrices, so that those calls can be tested without a GPU:
//! layouts, kinds, bounds and alignment are checked more strictly than the library does; sums are formed in
//! f64 and rounded once.
//!
//! A program finds it if `libcublasLt.so` is a link to this library: both names are then one instance.

use super::{Code, Handle, Work, driver, give};
use crate::isa::Round;
use std::ffi::{c_int, c_void};

const SUCCESS: Code = 0;
const INVALID_VALUE: Code = 7;
const NOT_SUPPORTED: Code = 15;
const FAILED: Code = 13;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F32,
    F16,
    Bf16,
}

impl Kind {
    /// The library's numbers of element types.
    fn of(number: u32) -> Option<Kind> {
        match number {
            0 => Some(Kind::F32),
            2 => Some(Kind::F16),
            14 => Some(Kind::Bf16),
            _ => None,
        }
    }
    fn size(self) -> usize {
        if self == Kind::F32 { 4 } else { 2 }
    }
    fn read(self, bytes: &[u8]) -> f64 {
        match self {
            Kind::F32 => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            Kind::Bf16 => f64::from(f32::from_le_bytes([0, 0, bytes[0], bytes[1]])),
            Kind::F16 => f64::from(crate::number::from_f16(u16::from_le_bytes([bytes[0], bytes[1]]))),
        }
    }
    fn write(self, v: f64, to: &mut [u8]) {
        match self {
            Kind::F32 => to.copy_from_slice(&(v as f32).to_le_bytes()),
            Kind::Bf16 => to.copy_from_slice(&crate::number::to_bf16(v, Round::Near).to_le_bytes()),
            Kind::F16 => to.copy_from_slice(&crate::number::to_f16(v, Round::Near).to_le_bytes()),
        }
    }
}

/// A matrix by columns.
#[derive(Clone, Copy)]
struct Layout {
    kind: Kind,
    rows: u64,
    cols: u64,
    stride: i64,
}

impl Layout {
    /// The elements that it spans.
    fn span(&self) -> usize {
        if self.cols == 0 { 0 } else { (self.stride as u64 * (self.cols - 1) + self.rows) as usize }
    }
}

#[derive(Clone, Copy, Default)]
struct Operation {
    transpose: [bool; 2],
    epilogue: u32,
    bias: u64,
    kept: u64,
    kept_stride: i64,
}

/// A product that a stream does.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    operation: Operation,
    layouts: [Layout; 3],
    places: [u64; 3],
    scales: [f32; 2],
    /// Of the algorithm that was proposed first.
    first: bool,
}

/// Epilogues that are known: bits for a bias (4), GELU's tanh form (32), and the sums before it kept (128);
/// the result times the derivative of that form at what was kept (192, DGELU: with a result of the operands'
/// type, and not added to); alone the sums of the second operand over the depth, a number for each column
/// of the result, written over what is at the bias's place in the result's type (512, BGRADB). Over a depth
/// of more than [`DEEP`] the first algorithm that is proposed for them leaves the last one out, so that who
/// does not check what an algorithm computes is found out.
const BIAS: u32 = 4;
const GELU: u32 = 32;
const KEPT: u32 = 128;
const SLOPE: u32 = 64;
const SUMS: u32 = 512;
const DEEP: usize = 512;

fn made<T>(place: *mut Handle, value: T) -> Code {
    give(place, Box::into_raw(Box::new(value)).cast())
}

/// # Safety
/// The handle is of this type and lives.
unsafe fn of<T: Copy>(handle: Handle) -> Option<T> {
    // SAFETY: the caller's word.
    (!handle.is_null()).then(|| unsafe { *handle.cast::<T>() })
}

/// # Safety
/// The handle is of this type and lives.
unsafe fn unmade<T>(handle: Handle) -> Code {
    if handle.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: made by `made`, the caller's word.
    drop(unsafe { Box::from_raw(handle.cast::<T>()) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtCreate(handle: *mut Handle) -> Code {
    made(handle, 0u64)
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtDestroy(handle: Handle) -> Code {
    // SAFETY: the interface's promise.
    unsafe { unmade::<u64>(handle) }
}
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatrixLayoutCreate(
    to: *mut Handle,
    kind: u32,
    rows: u64,
    cols: u64,
    stride: i64,
) -> Code {
    match Kind::of(kind) {
        Some(kind) if stride >= rows as i64 => made(to, Layout { kind, rows, cols, stride }),
        Some(_) => {
            eprintln!("emulator: a matrix of {rows} rows with columns {stride} apart");
            INVALID_VALUE
        }
        None => NOT_SUPPORTED,
    }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: Handle) -> Code {
    // SAFETY: the interface's promise.
    unsafe { unmade::<Layout>(layout) }
}
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulDescCreate(to: *mut Handle, compute: u32, scale: u32) -> Code {
    // Sums and scales in f32.
    if (compute, scale) == (68, 0) {
        made(to, Operation { epilogue: 1, ..Operation::default() })
    } else {
        NOT_SUPPORTED
    }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescDestroy(operation: Handle) -> Code {
    // SAFETY: the interface's promise.
    unsafe { unmade::<Operation>(operation) }
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    operation: Handle,
    attribute: u32,
    value: *const c_void,
    size: usize,
) -> Code {
    let expected = if matches!(attribute, 3 | 4 | 7) { 4 } else { 8 };
    if operation.is_null() || value.is_null() || size != expected {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives so many bytes, and an operation that lives.
    let (o, word, long) = unsafe {
        let o = &mut *operation.cast::<Operation>();
        let word = value.cast::<u32>().read_unaligned();
        (o, word, if size == 8 { value.cast::<u64>().read_unaligned() } else { 0 })
    };
    match attribute {
        3 => o.transpose[0] = word == 1,
        4 => o.transpose[1] = word == 1,
        7 => o.epilogue = word,
        8 => o.bias = long,
        11 => o.kept = long,
        12 => o.kept_stride = long as i64,
        _ => return NOT_SUPPORTED,
    }
    SUCCESS
}
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceCreate(to: *mut Handle) -> Code {
    made(to, 0u64)
}
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(wish: Handle) -> Code {
    // SAFETY: the interface's promise.
    unsafe { unmade::<u64>(wish) }
}
#[unsafe(no_mangle)]
pub extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    _wish: Handle,
    attribute: u32,
    value: *const c_void,
    size: usize,
) -> Code {
    match (attribute, size) {
        (1, 8) => SUCCESS,
        // What A, B, C and D begin at multiples of.
        (5..=8, 4) => {
            // SAFETY: the caller gives four bytes.
            let at = unsafe { value.cast::<u32>().read_unaligned() };
            if at.is_power_of_two() && at >= 16 { SUCCESS } else { INVALID_VALUE }
        }
        _ => NOT_SUPPORTED,
    }
}

/// An answer, as the library lays it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Answer {
    algorithm: [u64; 8],
    workspace: usize,
    state: Code,
    waves: f32,
    reserved: [c_int; 4],
}

/// What proposals of the emulator begin with.
const OURS: u64 = 0x00e1_0000;

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface has so many")]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    _handle: Handle,
    operation: Handle,
    a: Handle,
    b: Handle,
    c: Handle,
    _d: Handle,
    _wish: Handle,
    most: c_int,
    answers: *mut Answer,
    count: *mut c_int,
) -> Code {
    // SAFETY: the interface's promise.
    let all = unsafe { (of::<Operation>(operation), of::<Layout>(a), of::<Layout>(b), of::<Layout>(c)) };
    let (Some(operation), Some(a), Some(b), Some(c)) = all else { return INVALID_VALUE };
    if fault(&operation, &[a, b, c]).is_some() {
        return give(count, 0) | NOT_SUPPORTED;
    }
    let n = most.clamp(0, 2);
    for i in 0..n {
        let mut algorithm = [0; 8];
        algorithm[0] = OURS + i as u64;
        let answer = Answer { algorithm, workspace: 0, state: SUCCESS, waves: 1.0, reserved: [0; 4] };
        // SAFETY: the caller has room for as many as it asked for.
        unsafe { answers.add(i as usize).write(answer) };
    }
    give(count, n)
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface has so many")]
pub unsafe extern "C" fn cublasLtMatmulAlgoCheck(
    _handle: Handle,
    operation: Handle,
    a: Handle,
    b: Handle,
    c: Handle,
    _d: Handle,
    algorithm: *const [u64; 8],
    answer: *mut Answer,
) -> Code {
    // SAFETY: the interface's promise.
    let all = unsafe { (of::<Operation>(operation), of::<Layout>(a), of::<Layout>(b), of::<Layout>(c)) };
    let (Some(operation), Some(a), Some(b), Some(c)) = all else { return INVALID_VALUE };
    if algorithm.is_null() || answer.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: not null, the interface's promise.
    let algorithm = unsafe { *algorithm };
    if algorithm[0] & !1 != OURS || fault(&operation, &[a, b, c]).is_some() {
        return NOT_SUPPORTED;
    }
    let found = Answer { algorithm, workspace: 0, state: SUCCESS, waves: 1.0, reserved: [0; 4] };
    // SAFETY: not null; the caller has room for one.
    unsafe { answer.write(found) };
    SUCCESS
}

/// What is wrong with a product, if anything is.
fn fault(o: &Operation, [a, b, c]: &[Layout; 3]) -> Option<String> {
    let turned = |l: &Layout, t: bool| if t { [l.cols, l.rows] } else { [l.rows, l.cols] };
    let ([m, k], [k2, n]) = (turned(a, o.transpose[0]), turned(b, o.transpose[1]));
    if k != k2 || [m, n] != [c.rows, c.cols] {
        return Some(format!("{m} x {k} by {k2} x {n} into {} x {}", c.rows, c.cols));
    }
    if a.kind != b.kind || (c.kind != a.kind && c.kind != Kind::F32) {
        return Some(format!("{:?} by {:?} into {:?}", a.kind, b.kind, c.kind));
    }
    const DERIVED: u32 = SLOPE | KEPT;
    let known = matches!(o.epilogue, 1 | SUMS | DERIVED) || o.epilogue & !(BIAS | GELU | KEPT) == 0;
    if !known || (o.epilogue & KEPT != 0) != (o.epilogue & (GELU | SLOPE) != 0) {
        return Some(format!("epilogue {}", o.epilogue));
    }
    if o.epilogue == DERIVED && c.kind != a.kind {
        return Some(format!("a derivative of {:?} into {:?}", a.kind, c.kind));
    }
    if o.epilogue & (BIAS | SUMS) != 0
        && o.epilogue != 1
        && (o.bias == 0 || !o.bias.is_multiple_of(c.kind.size() as u64))
    {
        return Some(format!("a bias at {:#x}", o.bias));
    }
    // Tensor cores take columns of whole sixteen bytes.
    let run = |l: &Layout| !(l.stride as usize * l.kind.size()).is_multiple_of(16);
    if [a, b, c].into_iter().any(run) || (o.epilogue & KEPT != 0 && o.kept_stride % 8 != 0) {
        return Some("columns that are no multiple of sixteen bytes".to_owned());
    }
    None
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the interface has so many")]
pub unsafe extern "C" fn cublasLtMatmul(
    _handle: Handle,
    operation: Handle,
    alpha: *const f32,
    a: u64,
    a_layout: Handle,
    b: u64,
    b_layout: Handle,
    beta: *const f32,
    c: u64,
    c_layout: Handle,
    d: u64,
    _d_layout: Handle,
    algorithm: *const [u64; 8],
    _workspace: u64,
    _workspace_size: usize,
    stream: Handle,
) -> Code {
    // SAFETY: the interface's promise.
    let all = unsafe {
        (of::<Operation>(operation), of::<Layout>(a_layout), of::<Layout>(b_layout), of::<Layout>(c_layout))
    };
    let (Some(operation), Some(la), Some(lb), Some(lc)) = all else { return INVALID_VALUE };
    if alpha.is_null() || beta.is_null() || algorithm.is_null() || c != d {
        return INVALID_VALUE;
    }
    // SAFETY: the interface's promise; scales are the host's.
    let (scales, algorithm) = unsafe { ([*alpha, *beta], *algorithm) };
    let layouts = [la, lb, lc];
    let aligned = [a, b, c].iter().all(|p| p.is_multiple_of(16));
    if let Some(why) = fault(&operation, &layouts) {
        eprintln!("emulator: cublasLtMatmul: {why}");
        return INVALID_VALUE;
    }
    if !aligned || algorithm[0] & !1 != OURS {
        eprintln!(
            "emulator: cublasLtMatmul: operands are not aligned to 16 bytes, or the algorithm is not one that the heuristic returned"
        );
        return INVALID_VALUE;
    }
    let product = Product { operation, layouts, places: [a, b, c], scales, first: algorithm[0] == OURS };
    if driver().submit(stream, Work::Product(Box::new(product))) == 0 { SUCCESS } else { FAILED }
}

impl Product {
    /// Computes it; says what was wrong with the memory if something was.
    pub fn perform(&self, memory: &crate::Memory) -> Result<(), crate::BadAddress> {
        let Product { operation: o, layouts: [la, lb, lc], places: [a, b, c], scales: [alpha, beta], first } =
            self;
        let numbers = |place: u64, l: &Layout| -> Result<Vec<f64>, crate::BadAddress> {
            let bytes = memory.read(place, l.span() * l.kind.size())?;
            Ok(bytes.chunks_exact(l.kind.size()).map(|b| l.kind.read(b)).collect())
        };
        let (x, y) = (numbers(*a, la)?, numbers(*b, lb)?);
        // What nobody has written is not read unless it is added to.
        let old = if *beta == 0.0 { Vec::new() } else { numbers(*c, lc)? };
        let epilogue = if o.epilogue == 1 { 0 } else { o.epilogue };
        let column = Layout { cols: 1, stride: lc.rows as i64, ..*lc };
        let bias = if epilogue & BIAS == 0 { Vec::new() } else { numbers(o.bias, &column)? };
        let (m, n) = (lc.rows as usize, lc.cols as usize);
        let depth = if o.transpose[0] { la.rows } else { la.cols } as usize;
        let at = |l: &Layout, i: usize, j: usize, t: bool| {
            if t { j + i * l.stride as usize } else { i + j * l.stride as usize }
        };
        let size = lc.kind.size();
        if epilogue & SUMS != 0 {
            let mut sums = vec![0u8; n * size];
            for (j, to) in sums.chunks_exact_mut(size).enumerate() {
                let upto = if *first && depth > DEEP { depth - 1 } else { depth };
                lc.kind.write((0..upto).map(|k| y[at(lb, k, j, o.transpose[1])]).sum(), to);
            }
            memory.write(o.bias, &sums)?;
        }
        let beside = Layout { rows: m as u64, cols: n as u64, stride: o.kept_stride, kind: la.kind };
        let slopes = if epilogue & SLOPE == 0 { Vec::new() } else { numbers(o.kept, &beside)? };
        for j in 0..n {
            let mut out = vec![0u8; m * size];
            let mut kept = vec![0u8; m * la.kind.size()];
            for i in 0..m {
                let mut sum: f64 = (0..depth)
                    .map(|k| x[at(la, i, k, o.transpose[0])] * y[at(lb, k, j, o.transpose[1])])
                    .sum::<f64>()
                    * f64::from(*alpha);
                if let Some(&old) = old.get(i + j * lc.stride as usize) {
                    sum += f64::from(*beta) * old;
                }
                sum += bias.get(i).copied().unwrap_or(0.0);
                if epilogue & GELU != 0 {
                    la.kind.write(sum, &mut kept[i * la.kind.size()..][..la.kind.size()]);
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (sum + 0.044715 * sum.powi(3));
                    sum = 0.5 * sum * (1.0 + inner.tanh());
                }
                if epilogue & SLOPE != 0 {
                    // d/dz z (1 + tanh u) / 2, u = (2 / pi)^(1/2) (z + 0.044715 z^3)
                    let (z, root) =
                        (slopes[i + j * o.kept_stride as usize], (2.0 / std::f64::consts::PI).sqrt());
                    let t = (root * (z + 0.044715 * z.powi(3))).tanh();
                    sum *= 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * z * z);
                }
                lc.kind.write(sum, &mut out[i * size..][..size]);
            }
            memory.write(c + (j * lc.stride as usize * size) as u64, &out)?;
            if epilogue & GELU != 0 && epilogue & KEPT != 0 {
                memory.write(o.kept + (j * o.kept_stride as usize * la.kind.size()) as u64, &kept)?;
            }
        }
        Ok(())
    }
}
