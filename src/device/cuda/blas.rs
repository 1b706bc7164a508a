//! Matrix products by cuBLASLt, where it is there and faster than the kernels of our own. It is never needed.
//!
//! Which of its algorithms, or whether our own kernel, is measured the first time that a product of a shape is asked for, and
//! kept for later runs on the same machine: so that one run gives the bits of the other.
#![allow(unsafe_code, reason = "calls cuBLASLt")]

use super::graph::Event;
use super::{Cuda, Memory, library, lock};
use crate::device::{Storage, Tensor};
use crate::error::{Error, Result};
use crate::shape::{DType, Spec};
use cudarc::cublaslt::{result, sys};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::Arc;

/// c (m, n) = A B, or added to it, with a bias of n and maybe GELU's tanh form, in row-major terms.
pub struct Product<'a> {
    /// Rows, columns, depth.
    pub shape: [usize; 3],
    /// A and B as they are stored: elements of a row, and whether neighbours in memory are neighbours along the depth.
    pub a: (&'a Tensor, usize, bool),
    /// The same of B.
    pub b: (&'a Tensor, usize, bool),
    /// The result.
    pub c: &'a Tensor,
    /// Whether it is added to.
    pub add: bool,
    /// Added to every row.
    pub bias: Option<&'a Tensor>,
    /// Where the sums before GELU go; `None` without GELU.
    pub gelu: Option<&'a Tensor>,
}

impl Product<'_> {
    /// What a choice is kept under.
    fn key(&self) -> String {
        let [m, n, k] = self.shape;
        let name = |t: &Tensor| format!("{:?}", t.spec.dtype).to_lowercase();
        let down = |d: bool| if d { 'k' } else { 'x' };
        let more = [(self.add, " add"), (self.bias.is_some(), " bias"), (self.gelu.is_some(), " gelu")];
        let more: String = more.iter().filter(|(is, _)| *is).map(|(_, s)| *s).collect();
        let (a, b) = (name(self.a.0), name(self.c));
        format!("{m}x{n}x{k} {}{} {a} {b}{more}", down(self.a.2), down(self.b.2))
    }
    /// Whether cuBLASLt can be asked at all: rows of whole sixteen bytes, types that go together.
    fn fits(&self) -> bool {
        let (t, c) = (self.a.0.spec.dtype, self.c.spec.dtype);
        let run = 16 / t.size();
        let rows = [self.a.1, self.b.1, self.shape[1]].iter().all(|r| r.is_multiple_of(run));
        let bias = self.bias.is_none_or(|b| b.spec.dtype == c);
        rows && bias && (c == t || c == DType::F32) && !self.shape.contains(&0)
    }
}

/// What was found to be fastest: an algorithm of cuBLASLt by its words, or our own kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Choice {
    Own,
    Library([u64; 8]),
}

/// The library with what it needs.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: Memory,
    workspace_bytes: usize,
    chosen: BTreeMap<String, Choice>,
    file: Option<PathBuf>,
}

// SAFETY: the handle may be used from any thread; it is reached through a lock.
unsafe impl Send for Blas {}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once; the memory keeps the context alive.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// The descriptions of one product, destroyed with it.
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
        .found(format!("{:?}", e.0))
        .hint("TEMPRA_CUDA_PRODUCT=own goes on without cuBLASLt")
}

fn data(dtype: DType) -> sys::cudaDataType_t {
    match dtype {
        DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        _ => sys::cudaDataType_t::CUDA_R_32F,
    }
}

/// As cuBLAS has matrices by columns, the product is C^T = B^T A^T: its first operand is our B. Rows, columns and stride of
/// the stored matrix by columns, and whether it has to be transposed.
fn by_columns(stored: [usize; 2], row: usize, transpose: bool) -> ([u64; 2], i64, bool) {
    // Stored row by row as (r, c), it is (c, r) by columns.
    let [r, c] = stored;
    ([c as u64, r as u64], row as i64, transpose)
}

impl Cuda {
    /// The library's version, if products may be left to it.
    pub fn blas_version(&self) -> Option<usize> {
        self.may_use_blas().then(|| {
            // SAFETY: the library is there.
            unsafe { sys::cublasLtGetVersion() }
        })
    }

    fn may_use_blas(&self) -> bool {
        match self.product() {
            Some("cublaslt") => library::cublaslt(),
            None => !self.compiler.ptx && library::cublaslt(),
            Some(_) => false,
        }
    }

    /// Computes a product by cuBLASLt if that is the faster way; says whether it did. `own` computes the same with our own
    /// kernel into another tensor.
    pub(crate) fn by_blas(&self, p: &Product, own: &dyn Fn(&Tensor) -> Result<()>) -> Result<bool> {
        if self.inspected.is_some() || !p.fits() || !self.may_use_blas() {
            return Ok(false);
        }
        self.inner.bind()?;
        let mut held = lock(&self.blas);
        if held.is_none() {
            *held = Some(self.open_blas()?);
        }
        let Some(blas) = held.as_mut() else { return Ok(false) };
        let key = p.key();
        let choice = match blas.chosen.get(&key) {
            Some(choice) => *choice,
            // Nothing can be measured while a step is recorded; such a shape came up in the direct step before.
            None if self.recording() => return Ok(false),
            None => {
                let choice = self.choose(blas, p, own)?;
                blas.chosen.insert(key, choice);
                blas.keep();
                choice
            }
        };
        match choice {
            Choice::Own => Ok(false),
            Choice::Library(algorithm) => self.multiply(blas, p, algorithm, p.c).map(|()| true),
        }
    }

    fn open_blas(&self) -> Result<Blas> {
        let handle = result::create_handle().map_err(|e| failed("starting", e))?;
        let workspace_bytes = if self.capability() >= 90 { 32 << 20 } else { 8 << 20 };
        // SAFETY: the library is there.
        let version = unsafe { sys::cublasLtGetVersion() };
        let of = format!("{}\0{version}\0{:?}", self.inner.name, self.compiler.version);
        let name = format!("products-{}.json", &blake3::hash(of.as_bytes()).to_hex()[..16]);
        let file = crate::cache::dir().filter(|_| !self.compiler.ptx).map(|d| d.join("kernels").join(name));
        let kept = file.as_ref().and_then(|f| serde_json::from_slice(&std::fs::read(f).ok()?).ok());
        Ok(Blas {
            handle,
            workspace: self.take_lasting(workspace_bytes)?,
            workspace_bytes,
            chosen: kept.unwrap_or_default(),
            file,
        })
    }

    /// Operands, layouts and what comes after the sums.
    fn describe(&self, p: &Product) -> Result<Described> {
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
        let epilogue = match (p.bias, p.gelu) {
            (None, None) => E::CUBLASLT_EPILOGUE_DEFAULT,
            (Some(_), None) => E::CUBLASLT_EPILOGUE_BIAS,
            (None, Some(_)) => E::CUBLASLT_EPILOGUE_GELU_AUX,
            (Some(_), Some(_)) => E::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        };
        set(A::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32).to_ne_bytes())?;
        if let Some(bias) = p.bias {
            set(A::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &self.place(bias)?.to_ne_bytes())?;
        }
        if let Some(kept) = p.gelu {
            set(A::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &self.place(kept)?.to_ne_bytes())?;
            set(A::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &(n as i64).to_ne_bytes())?;
        }
        Ok(described)
    }

    /// Queues a product by one of the library's algorithms.
    fn multiply(&self, blas: &Blas, p: &Product, algorithm: [u64; 8], to: &Tensor) -> Result<()> {
        let operands = [p.b.0, p.a.0, to, p.bias.unwrap_or(to), p.gelu.unwrap_or(to)];
        let places = operands.map(|t| self.place(t)).into_iter().collect::<Result<Vec<u64>>>()?;
        let params = [p.shape[0] as u32, p.shape[1] as u32, p.shape[2] as u32, p.add as u32];
        // No function has an address as low as this.
        let event = Event::Launch { function: 1, groups: [1; 3], places: &places, params: &params };
        {
            let mut state = lock(&self.inner.state);
            if state.graphs.note(&event) {
                return Ok(());
            }
            state.stats.launches += 1;
            state.stats.library += 1;
        }
        let d = self.describe(p)?;
        let (one, beta) = (1f32, if p.add { 1f32 } else { 0.0 });
        let algorithm = sys::cublasLtMatmulAlgo_t { data: algorithm };
        let [a, b, c] = d.layouts;
        // SAFETY: all operands are memory of ours, of the sizes that the layouts say; alpha and beta are the host's.
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
        .map_err(|e| failed("a product", e))
    }

    /// The library's proposals for a product, the one that it thinks best first.
    fn proposals(&self, blas: &Blas, p: &Product) -> Result<Vec<[u64; 8]>> {
        const MOST: usize = 8;
        let d = self.describe(p)?;
        let [a, b, c] = d.layouts;
        let wish = result::create_matmul_pref().map_err(|e| failed("asking", e))?;
        let most = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let blank = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let (mut found, mut count) = ([blank; MOST], 0);
        // SAFETY: the descriptions live, and there is room for as many answers as are asked for.
        unsafe {
            let _ = result::set_matmul_pref_attribute(
                wish,
                most,
                (&raw const blas.workspace_bytes).cast(),
                size_of::<usize>(),
            );
            // Its status says that there is none, too: then there are no answers.
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
        Ok(found[..count.clamp(0, MOST as i32) as usize].iter().filter(fine).map(|r| r.algo.data).collect())
    }

    /// Measures our own kernel and what the library proposes; one that computes something else is left out, aloud.
    fn choose(&self, blas: &Blas, p: &Product, own: &dyn Fn(&Tensor) -> Result<()>) -> Result<Choice> {
        let proposals = self.proposals(blas, p)?;
        let scratch = |spec: &Spec| -> Result<Tensor> {
            let t = Tensor {
                spec: spec.clone(),
                storage: Arc::new(Storage::Cuda(self.take_lasting(spec.bytes())?)),
                offset: 0,
            };
            self.zero_bytes(self.place(&t)?, spec.bytes())?;
            Ok(t)
        };
        let (mine, theirs) = (scratch(&p.c.spec)?, scratch(&p.c.spec)?);
        // Sums before GELU go to the same place whoever computes them.
        own(&mine)?;
        let some = [p.c.spec.len().min(1 << 20)];
        let expected = self.reals(&mine.view(0, &some)?)?;
        let forced = self.product() == Some("cublaslt");
        let seconds = |work: &dyn Fn() -> Result<()>| -> Result<f64> {
            let mut best = f64::INFINITY;
            for _ in 0..3 {
                let took = self.time(&mut || (0..4).try_for_each(|_| work()))?;
                best = best.min(took);
            }
            Ok(best)
        };
        let mut best = (if forced { f64::INFINITY } else { seconds(&|| own(&mine))? }, Choice::Own);
        for algorithm in proposals {
            self.zero_bytes(self.place(&theirs)?, theirs.spec.bytes())?;
            // One that fails is not taken.
            if self.multiply(blas, p, algorithm, &theirs).and_then(|()| self.inner.wait()).is_err() {
                continue;
            }
            let error = crate::shape::apart(&self.reals(&theirs.view(0, &some)?)?, &expected);
            let bound = if p.c.spec.dtype.size() == 2 || p.a.0.spec.dtype.size() == 2 { 1e-2 } else { 1e-4 };
            if error > bound {
                eprintln!("note: cuBLASLt's {} differs by {error:.1e} and is not taken", p.key());
                continue;
            }
            let took = if forced { 0.0 } else { seconds(&|| self.multiply(blas, p, algorithm, &theirs))? };
            if took < best.0 {
                best = (took, Choice::Library(algorithm));
            }
        }
        Ok(best.1)
    }

    /// A tensor's numbers.
    fn reals(&self, t: &Tensor) -> Result<Vec<f64>> {
        let mut bytes = vec![0u8; t.spec.bytes()];
        self.read_bytes(self.place(t)?, &mut bytes)?;
        let halves = || bytes.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
        Ok(match t.spec.dtype {
            DType::BF16 => halves().map(|b| half::bf16::from_bits(b).into()).collect(),
            DType::F16 => halves().map(|b| half::f16::from_bits(b).into()).collect(),
            _ => bytes
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_ne_bytes([b[0], b[1], b[2], b[3]])))
                .collect(),
        })
    }
}

impl Blas {
    /// Writes the choices where the next run finds them; one that cannot be written only costs time.
    fn keep(&self) {
        let Some(file) = &self.file else { return };
        let write = || -> Option<()> {
            std::fs::create_dir_all(file.parent()?).ok()?;
            let temporary = file.with_extension(format!("tmp-{}", std::process::id()));
            std::fs::write(&temporary, serde_json::to_vec_pretty(&self.chosen).ok()?).ok()?;
            std::fs::rename(&temporary, file).ok()
        };
        let _ = write();
    }
}
