//! Matmuls by cuBLASLt, if it is installed and faster than tempra's kernels. It is optional.
//!
//! The first matmul of about each size measures its algorithms and tempra's kernel (see [`super::choose`]).
//! The choice is kept for later runs on the same machine, so that runs are bit-identical.
#![allow(unsafe_code, reason = "calls cuBLASLt")]

use super::graph::Event;
use super::{Cuda, Memory, library, lock};
use crate::device::Tensor;
use crate::error::{Error, Kind, Result};
use crate::shape::DType;
use cudarc::cublaslt::{result, sys};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::path::PathBuf;

/// A matmul: C (m, n) = A (m, k) B (k, n), or C += A B, with an epilogue. All matrices are row-major.
pub struct Matmul<'a> {
    /// m, n and k.
    pub shape: [usize; 3],
    /// A as stored: the tensor, the elements of a row, and whether its k elements are contiguous in memory.
    pub a: (&'a Tensor, usize, bool),
    /// B as stored, in the same form.
    pub b: (&'a Tensor, usize, bool),
    /// C.
    pub c: &'a Tensor,
    /// Whether to add to C (beta = 1).
    pub add: bool,
    /// A bias (n), added to every row.
    pub bias: Option<&'a Tensor>,
    /// Where to write the inputs of GELU (tanh form); `None` without GELU.
    pub gelu: Option<&'a Tensor>,
    /// The epilogue of a backward pass.
    pub backward: BackwardEpilogue<'a>,
}

/// The epilogue of a matmul in a backward pass.
#[derive(Clone, Copy)]
pub enum BackwardEpilogue<'a> {
    /// No epilogue.
    None,
    /// The bias gradient: the sums of A's rows (m), overwritten.
    BiasGradient,
    /// The activation gradient: C times the derivative of an activation.
    Dact {
        /// The activation's name.
        of: &'static str,
        /// The activation's input, if the library supports this activation (GELU's tanh form).
        known: Option<&'a Tensor>,
    },
}

/// Other ways to compute a matmul, which the library is compared with.
pub struct MatmulCandidates<'a> {
    /// Computes the matmul and its epilogue with tempra's kernel, into other tensors.
    pub own: &'a dyn Fn(&Tensor, Option<&Tensor>) -> Result<()>,
    /// Computes the epilogue for a finished matmul.
    pub rest: &'a dyn Fn(&Tensor, Option<&Tensor>) -> Result<()>,
}

impl Matmul<'_> {
    /// The key of a choice: the sizes, types, epilogue, and alignment in bytes.
    pub(super) fn key(&self, [m, n, k]: [usize; 3], aligned: u32) -> String {
        let name = |t: &Tensor| t.spec.dtype.to_string();
        let down = |d: bool| if d { 'k' } else { 'x' };
        let more = [(self.add, " add"), (self.bias.is_some(), " bias"), (self.gelu.is_some(), " gelu")];
        let mut more: String = more.iter().filter(|(is, _)| *is).map(|(_, s)| *s).collect();
        match self.backward {
            BackwardEpilogue::None => {}
            BackwardEpilogue::BiasGradient => more += " sums",
            BackwardEpilogue::Dact { of, .. } => more = format!("{more} d{of}"),
        }
        let (a, b) = (name(self.a.0), name(self.c));
        let at = if aligned < MOST_ALIGNED { format!(" at {aligned}") } else { String::new() };
        format!("{m}x{n}x{k} {}{} {a} {b}{more}{at}", down(self.a.2), down(self.b.2))
    }
    /// The sizes of the bucket that shares a choice. The buckets are those that training pads batches to, so
    /// that evaluation, where the number of tokens varies, measures about as often.
    fn about(&self) -> [usize; 3] {
        self.shape.map(|n| n.next_multiple_of((n.next_power_of_two() / 16).max(64)))
    }
    /// Whether cuBLASLt supports this matmul: rows of a multiple of 16 bytes, and matching types.
    fn fits(&self) -> bool {
        let (t, c) = (self.a.0.spec.dtype, self.c.spec.dtype);
        let run = 16 / t.size();
        let rows = [self.a.1, self.b.1, self.shape[1]].iter().all(|r| r.is_multiple_of(run));
        let bias = self.bias.is_none_or(|b| b.spec.dtype == c);
        rows && bias && (c == t || c == DType::F32) && !self.shape.contains(&0)
    }
}

/// The fastest way to compute a matmul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MatmulAlgorithm {
    /// Tempra's kernel.
    Own,
    /// An algorithm of cuBLASLt, in its opaque form; tempra computes the epilogue.
    Library([u64; 8]),
    /// An algorithm of cuBLASLt with a fused epilogue.
    Whole([u64; 8]),
}

/// The opened library and its state.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: Memory,
    workspace_bytes: usize,
    /// The measured choices, by size bucket.
    chosen: BTreeMap<String, MatmulAlgorithm>,
    /// The choices for exact sizes. They do not change while the program runs, because captured steps depend
    /// on them.
    exactly: HashMap<String, MatmulAlgorithm>,
    file: Option<PathBuf>,
}

/// Whether the library is open.
#[derive(Default)]
pub(super) enum BlasState {
    #[default]
    Unasked,
    Open(Blas),
    /// It cannot be used on this machine.
    Unusable,
}

/// The largest and the smallest alignment of operands that is distinguished, in bytes.
const MOST_ALIGNED: u32 = 256;
const LEAST_ALIGNED: u32 = 16;

// SAFETY: the handle may be used from any thread; it is reached through a lock.
unsafe impl Send for Blas {}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once; the memory keeps the context alive.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// The descriptors of one matmul; dropping this destroys them.
struct Described {
    op: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
}

impl Drop for Described {
    fn drop(&mut self) {
        // SAFETY: made in `describe`, destroyed once.
        unsafe {
            let _ = result::destroy_matmul_desc(self.op);
            for layout in self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

fn failed(what: &str, e: result::CublasError) -> Error {
    Error::device(format!("cuBLASLt: {what} failed"))
        .with_found(format!("{:?}", e.0))
        .with_help("set TEMPRA_CUDA_MATMUL=own to run without cuBLASLt")
}

const NO_ANSWER: sys::cublasLtMatmulHeuristicResult_t = sys::cublasLtMatmulHeuristicResult_t {
    algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
    workspaceSize: 0,
    state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

fn data(dtype: DType) -> sys::cudaDataType_t {
    match dtype {
        DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        _ => sys::cudaDataType_t::CUDA_R_32F,
    }
}

/// cuBLAS matrices are column-major, so it computes C^T = B^T A^T: its first operand is our B. Returns rows,
/// columns and stride of the stored matrix in column-major terms, and whether to transpose it.
fn by_columns(stored: [usize; 2], row: usize, transpose: bool) -> ([u64; 2], i64, bool) {
    // A row-major (r, c) matrix is a column-major (c, r) matrix.
    let [r, c] = stored;
    ([c as u64, r as u64], row as i64, transpose)
}

impl Cuda {
    /// The library's version, if it may be used for matmuls.
    pub fn blas_version(&self) -> Option<usize> {
        self.may_use_blas().then(|| {
            // SAFETY: the library is there.
            unsafe { sys::cublasLtGetVersion() }
        })
    }

    fn may_use_blas(&self) -> bool {
        match self.matmul() {
            Some("cublaslt") => library::cublaslt(),
            Some("fastest") => library::cublaslt(),
            None => !self.compiler.ptx && library::cublaslt(),
            Some(_) => false,
        }
    }

    /// The fastest way to compute a matmul, measured for the first matmul of its size bucket.
    pub(crate) fn way(&self, p: &Matmul, ways: &MatmulCandidates) -> Result<MatmulAlgorithm> {
        if self.inspected.is_some() || !p.fits() || !self.may_use_blas() {
            return Ok(MatmulAlgorithm::Own);
        }
        let aligned = self.alignment(p)?;
        if aligned < LEAST_ALIGNED {
            return Ok(MatmulAlgorithm::Own);
        }
        self.inner.bind()?;
        let mut held = lock(&self.blas);
        if matches!(*held, BlasState::Unasked) {
            *held = match self.open_blas() {
                Ok(blas) => BlasState::Open(blas),
                // An error only if the user asked for cuBLASLt; otherwise tempra's kernels replace it.
                Err(e) if self.matmul() == Some("cublaslt") || e.kind() == Kind::Lost => return Err(e),
                // There may be enough memory for its workspace later.
                Err(e) if e.kind() == Kind::Memory => return Ok(MatmulAlgorithm::Own),
                Err(e) => {
                    let why = e.to_string();
                    crate::console::line(format!(
                        "note: tempra uses its own matmul kernels, not cuBLASLt: {}",
                        why.lines().next().unwrap_or_default()
                    ));
                    BlasState::Unusable
                }
            };
        }
        let BlasState::Open(blas) = &mut *held else { return Ok(MatmulAlgorithm::Own) };
        let exactly = p.key(p.shape, aligned);
        if let Some(choice) = blas.exactly.get(&exactly) {
            return Ok(*choice);
        }
        let about = p.key(p.about(), aligned);
        let choice = match blas.chosen.get(&about) {
            Some(&choice) if self.will_do(blas, p, choice) => choice,
            Some(_) => MatmulAlgorithm::Own,
            // Nothing can be measured during capture; this shape occurred in the step before, which ran
            // kernel by kernel.
            None if self.capturing() => MatmulAlgorithm::Own,
            None => match self.choose(blas, p, ways, aligned)? {
                Some(choice) => {
                    blas.chosen.insert(about, choice);
                    blas.keep();
                    choice
                }
                None => MatmulAlgorithm::Own,
            },
        };
        blas.exactly.insert(exactly, choice);
        Ok(choice)
    }

    /// The common alignment of all operands in bytes: the largest power of two up to [`MOST_ALIGNED`].
    fn alignment(&self, p: &Matmul) -> Result<u32> {
        let dact = if let BackwardEpilogue::Dact { known, .. } = p.backward { known } else { None };
        let all = [Some(p.a.0), Some(p.b.0), Some(p.c), p.bias, p.gelu, dact];
        let mut bits = u64::from(MOST_ALIGNED);
        for t in all.into_iter().flatten() {
            bits |= self.place(t)?;
        }
        Ok(1 << bits.trailing_zeros())
    }

    /// Whether a choice made for the size bucket is valid for these exact sizes.
    fn will_do(&self, blas: &Blas, p: &Matmul, choice: MatmulAlgorithm) -> bool {
        let (algorithm, with) = match (choice, p.backward) {
            (MatmulAlgorithm::Own, _) => return true,
            (MatmulAlgorithm::Library(algorithm), _) => (algorithm, None),
            // The library does not use the address here, so any will do for the sums.
            (MatmulAlgorithm::Whole(algorithm), BackwardEpilogue::BiasGradient) => (algorithm, Some(p.c)),
            (MatmulAlgorithm::Whole(algorithm), BackwardEpilogue::Dact { known, .. }) => (algorithm, known),
            (MatmulAlgorithm::Whole(_), BackwardEpilogue::None) => return false,
        };
        let Ok(d) = self.describe(p, with) else { return false };
        let [a, b, c] = d.layouts;
        let algorithm = sys::cublasLtMatmulAlgo_t { data: algorithm };
        let mut answer = NO_ANSWER;
        // SAFETY: the descriptions live, and there is room for the answer.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(blas.handle, d.op, a, b, c, c, &raw const algorithm, &raw mut answer)
        };
        status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && answer.workspaceSize <= blas.workspace_bytes
    }

    /// Queues a matmul with an algorithm that [`Cuda::way`] returned. `with`: for a fused epilogue, the
    /// tensor for the sums, or the input of the activation.
    pub(crate) fn by_blas(&self, p: &Matmul, algorithm: [u64; 8], with: Option<&Tensor>) -> Result<()> {
        match &*lock(&self.blas) {
            BlasState::Open(blas) => self.multiply(blas, p, algorithm, p.c, with),
            _ => Err(Error::device("cuBLASLt is not initialised")),
        }
    }

    fn open_blas(&self) -> Result<Blas> {
        // SAFETY: the library is there.
        let version = unsafe { sys::cublasLtGetVersion() };
        if version / 10_000 > self.inner.driver as usize / 1000 {
            return Err(Error::device(format!(
                "cuBLASLt {}.{} is newer than the driver (CUDA {})",
                version / 10_000,
                version / 100 % 100,
                self.inner.driver / 1000
            )));
        }
        let workspace_bytes = if self.capability() >= 90 { 32 << 20 } else { 8 << 20 };
        let workspace = self.take_lasting(workspace_bytes)?;
        let handle = result::create_handle().map_err(|e| failed("starting", e))?;
        let of = format!("{}\0{version}\0{:?}", self.inner.name, self.compiler.version);
        let name = format!("matmuls-{}.json", &blake3::hash(of.as_bytes()).to_hex()[..16]);
        // Choices forced by the user are not the fastest ones: they are not kept, and kept ones are not used.
        let keeps = !self.compiler.ptx && self.matmul() != Some("cublaslt");
        let file = crate::cache::dir().filter(|_| keeps).map(|d| d.join("kernels").join(name));
        let kept = file.as_ref().and_then(|f| serde_json::from_slice(&std::fs::read(f).ok()?).ok());
        Ok(Blas {
            handle,
            workspace,
            workspace_bytes,
            chosen: kept.unwrap_or_default(),
            exactly: HashMap::new(),
            file,
        })
    }

    /// The descriptors of operands, layouts and epilogue. `with` is the tensor of the epilogue: where to
    /// write the sums of A's rows, or the input of GELU. For the library A is the second operand, so the sums
    /// are its BGRADB epilogue, which overwrites them in C's type.
    fn describe(&self, p: &Matmul, with: Option<&Tensor>) -> Result<Described> {
        let call = |what: &'static str| move |e| failed(what, e);
        let ([m, n, k], t, c) = (p.shape, p.a.0.spec.dtype, p.c.spec.dtype);
        let stored = |across: usize, down: bool| if down { [across, k] } else { [k, across] };
        let first = by_columns(stored(n, p.b.2), p.b.1, p.b.2);
        let second = by_columns(stored(m, p.a.2), p.a.1, !p.a.2);
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let op = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)
            .map_err(call("describing"))?;
        let layout = |t, ([rows, cols], ld, _): ([u64; 2], i64, bool)| {
            result::create_matrix_layout(data(t), rows, cols, ld).map_err(call("describing"))
        };
        let layouts =
            [layout(t, first)?, layout(t, second)?, layout(c, ([n as u64, m as u64], n as i64, false))?];
        let described = Described { op, layouts };
        let set = |attribute, value: &[u8]| {
            // SAFETY: the description lives, and the value has the length that is said.
            unsafe {
                result::set_matmul_desc_attribute(op, attribute, value.as_ptr().cast::<c_void>(), value.len())
                    .map_err(call("describing"))
            }
        };
        use sys::cublasLtMatmulDescAttributes_t as A;
        for (attribute, transpose) in
            [(A::CUBLASLT_MATMUL_DESC_TRANSA, first.2), (A::CUBLASLT_MATMUL_DESC_TRANSB, second.2)]
        {
            set(attribute, &i32::from(transpose).to_ne_bytes())?;
        }
        use sys::cublasLtEpilogue_t as E;
        let (epilogue, bias, beside) = match (p.bias, p.gelu, with, p.backward) {
            (None, None, None, _) => (E::CUBLASLT_EPILOGUE_DEFAULT, None, None),
            (Some(_), None, None, _) => (E::CUBLASLT_EPILOGUE_BIAS, p.bias, None),
            (None, Some(_), None, _) => (E::CUBLASLT_EPILOGUE_GELU_AUX, None, p.gelu),
            (Some(_), Some(_), None, _) => (E::CUBLASLT_EPILOGUE_GELU_AUX_BIAS, p.bias, p.gelu),
            (None, None, Some(_), BackwardEpilogue::BiasGradient) => {
                (E::CUBLASLT_EPILOGUE_BGRADB, with, None)
            }
            (None, None, Some(_), BackwardEpilogue::Dact { .. }) => (E::CUBLASLT_EPILOGUE_DGELU, None, with),
            _ => {
                return Err(Error::shape("cuBLASLt does not support this matmul")
                    .with_found(p.key(p.shape, MOST_ALIGNED)));
            }
        };
        set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32).to_ne_bytes())?;
        if let Some(bias) = bias {
            set(A::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &self.place(bias)?.to_ne_bytes())?;
        }
        if let Some(kept) = beside {
            set(A::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &self.place(kept)?.to_ne_bytes())?;
            set(A::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &(n as i64).to_ne_bytes())?;
        }
        Ok(described)
    }

    /// Queues a matmul with one of the library's algorithms.
    pub(super) fn multiply(
        &self,
        blas: &Blas,
        p: &Matmul,
        algorithm: [u64; 8],
        to: &Tensor,
        with: Option<&Tensor>,
    ) -> Result<()> {
        let operands = [p.b.0, p.a.0, to, p.bias.or(with).unwrap_or(to), p.gelu.unwrap_or(to)];
        let places = operands.map(|t| self.place(t)).into_iter().collect::<Result<Vec<u64>>>()?;
        let [m, n, k] = p.shape.map(|v| v as u32);
        let params = [m, n, k, p.add as u32, with.is_some() as u32];
        // No function has an address as low as this.
        let event = Event::Launch { function: 1, groups: [1; 3], places: &places, params: &params };
        {
            let mut state = lock(&self.inner.state);
            if state.graphs.note(&event) {
                return Ok(());
            }
            state.stats.launches += 1;
            state.stats.library += 1;
            state.stats.whole += u64::from(with.is_some());
        }
        self.profile.launched("cublasLtMatmul");
        let d = self.describe(p, with)?;
        let (one, beta) = (1f32, if p.add { 1f32 } else { 0.0 });
        let algorithm = sys::cublasLtMatmulAlgo_t { data: algorithm };
        let [a, b, c] = d.layouts;
        // SAFETY: all operands are memory of ours, of the sizes that the layouts say; alpha and beta are the
        // host's.
        unsafe {
            result::matmul(
                blas.handle,
                d.op,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                places[0] as *const c_void,
                a,
                places[1] as *const c_void,
                b,
                places[2] as *const c_void,
                c,
                places[2] as *mut c_void,
                c,
                &raw const algorithm,
                blas.workspace.place as *mut c_void,
                blas.workspace_bytes,
                self.inner.stream.cast(),
            )
        }
        .map_err(|e| {
            // If the device was lost before, waiting for it returns that error.
            let lost = if self.capturing() { None } else { self.inner.wait().err() };
            lost.unwrap_or_else(|| failed("a matmul", e))
        })
    }

    /// The library's algorithms for a matmul with operands aligned to `aligned` bytes, in the order of its
    /// heuristic.
    pub(super) fn proposals(
        &self,
        blas: &Blas,
        p: &Matmul,
        with: Option<&Tensor>,
        aligned: u32,
    ) -> Vec<[u64; 8]> {
        const MOST: usize = 8;
        let Ok(d) = self.describe(p, with) else { return Vec::new() };
        let [a, b, c] = d.layouts;
        let Ok(wish) = result::create_matmul_pref() else { return Vec::new() };
        use sys::cublasLtMatmulPreferenceAttributes_t as A;
        let (mut found, mut count) = ([NO_ANSWER; MOST], 0);
        // SAFETY: the descriptions live, and there is room for as many answers as are asked for.
        unsafe {
            let most = (&raw const blas.workspace_bytes).cast();
            let _ = result::set_matmul_pref_attribute(
                wish,
                A::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                most,
                size_of::<usize>(),
            );
            // The library's default alignment is 256 bytes.
            for operand in [
                A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                A::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ] {
                let at = (&raw const aligned).cast();
                let _ = result::set_matmul_pref_attribute(wish, operand, at, size_of::<u32>());
            }
            // A status other than success also means that there are no algorithms.
            sys::cublasLtMatmulAlgoGetHeuristic(
                blas.handle,
                d.op,
                a,
                b,
                c,
                c,
                wish,
                MOST as i32,
                found.as_mut_ptr(),
                &mut count,
            );
            let _ = result::destroy_matmul_pref(wish);
        }
        let fine = |r: &&sys::cublasLtMatmulHeuristicResult_t| {
            r.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && r.workspaceSize <= blas.workspace_bytes
        };
        found[..count.clamp(0, MOST as i32) as usize].iter().filter(fine).map(|r| r.algo.data).collect()
    }
}

impl Blas {
    /// Writes the choices for later runs. If that fails, the next run measures again.
    fn keep(&self) {
        let Some(file) = &self.file else { return };
        let _ = serde_json::to_vec_pretty(&self.chosen).map(|text| crate::files::replace(file, &text));
    }
}
