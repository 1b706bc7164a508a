//! Finds the fastest way to compute a matmul: tempra's kernel, or one of cuBLASLt's algorithms. Each result
//! is checked before the algorithm is measured.

use super::Cuda;
use super::blas::{BackwardEpilogue, Blas, Matmul, MatmulAlgorithm, MatmulCandidates};
use crate::device::{Storage, Tensor};
use crate::error::{Kind, Result};
use crate::shape::{DType, Spec};
use std::sync::Arc;

/// The number of elements that are compared at the beginning and at the end of a result.
const COMPARED: usize = 1 << 16;

/// The relative L2 error of results, the largest of several tensors; infinite if a tensor should be zero and
/// is not.
fn far(found: &[Vec<f64>], expected: &[Vec<f64>]) -> f64 {
    let length = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    let of = |(a, b): (&Vec<f64>, &Vec<f64>)| {
        let error = length(&mut a.iter().zip(b).map(|(a, b)| a - b));
        if error == 0.0 { 0.0 } else { error / length(&mut b.iter().copied()) }
    };
    // NaN counts as an infinite error.
    let worst = |a: f64, b: f64| if b.is_nan() { f64::INFINITY } else { a.max(b) };
    found.iter().zip(expected).map(of).fold(0.0, worst)
}

impl Cuda {
    /// Measures tempra's kernel and the library's algorithms, each with the epilogue: fused by the library,
    /// or computed by tempra afterwards. An algorithm with a wrong result is skipped with a note. `None` if
    /// they cannot be compared: there is not enough memory, or the expected result is all zeros.
    pub(super) fn choose(
        &self,
        blas: &Blas,
        p: &Matmul,
        ways: &MatmulCandidates,
        aligned: u32,
    ) -> Result<Option<MatmulAlgorithm>> {
        match self.fastest(blas, p, ways, aligned) {
            Err(e) if e.kind() == Kind::Memory => Ok(None),
            done => done,
        }
    }

    fn fastest(
        &self,
        blas: &Blas,
        p: &Matmul,
        ways: &MatmulCandidates,
        aligned: u32,
    ) -> Result<Option<MatmulAlgorithm>> {
        let scratch = |spec: &Spec| -> Result<Tensor> {
            let storage = Arc::new(Storage::Cuda(self.take_lasting(spec.bytes())?));
            let t = Tensor { spec: spec.clone(), storage, offset: 0 };
            self.clear(&t)?;
            Ok(t)
        };
        let summed = matches!(p.backward, BackwardEpilogue::BiasGradient);
        let row = Spec::new(p.c.spec.dtype, &[if summed { p.shape[0] } else { 1 }]);
        let places =
            [&p.c.spec, &p.c.spec, &row, &row].map(scratch).into_iter().collect::<Result<Vec<_>>>()?;
        let [mine, theirs, my_sums, their_sums] = &places[..] else { return Ok(None) };
        // Inputs of GELU have the same place for all ways.
        let results = |c: &Tensor, sums: &Tensor| -> Result<Vec<Vec<f64>>> {
            [Some(c), Some(sums), p.gelu].into_iter().flatten().map(|t| self.ends(t)).collect()
        };
        let own = || (ways.own)(mine, summed.then_some(my_sums));
        own()?;
        let expected = results(mine, my_sums)?;
        if expected[0].iter().all(|v| *v == 0.0) {
            return Ok(None);
        }
        let forced = self.matmul() == Some("cublaslt");
        let mut best = (if forced { f64::INFINITY } else { self.graph_seconds(&own)? }, MatmulAlgorithm::Own);
        let half = p.c.spec.dtype.size() == 2 || p.a.0.spec.dtype.size() == 2;
        let whole = match p.backward {
            BackwardEpilogue::None => None,
            BackwardEpilogue::BiasGradient => Some(their_sums),
            BackwardEpilogue::Dact { known, .. } => known,
        };
        for with in whole.map(Some).into_iter().chain([None]) {
            for algorithm in self.proposals(blas, p, with, aligned) {
                let work = || {
                    self.multiply(blas, p, algorithm, theirs, with)?;
                    match (p.backward, with) {
                        (BackwardEpilogue::None, _) | (_, Some(_)) => Ok(()),
                        (_, None) => (ways.rest)(theirs, summed.then_some(their_sums)),
                    }
                };
                for t in [Some(theirs), Some(their_sums), p.gelu].into_iter().flatten() {
                    self.clear(t)?;
                }
                match work().and_then(|()| self.inner.wait()) {
                    Ok(()) => {}
                    Err(e) if e.kind() == Kind::Lost => return Err(e),
                    // An algorithm that fails is skipped.
                    Err(_) => continue,
                }
                let error = far(&results(theirs, their_sums)?, &expected);
                if error > if half { 1e-2 } else { 1e-4 } {
                    let key = p.key(p.shape, aligned);
                    crate::console::line(format!(
                        "note: a cuBLASLt algorithm for {key} has a relative error of {error:.1e}; tempra does not use it"
                    ));
                    continue;
                }
                // Without measuring, the first algorithm counts as the fastest.
                let took = if forced { 0.0 } else { self.graph_seconds(&work)? };
                if took < best.0 {
                    let choice =
                        if with.is_some() { MatmulAlgorithm::Whole } else { MatmulAlgorithm::Library };
                    best = (took, choice(algorithm));
                }
            }
        }
        Ok(Some(best.1))
    }

    fn clear(&self, t: &Tensor) -> Result<()> {
        self.zero_bytes(self.place(t)?, t.spec.bytes())
    }

    /// The numbers at both ends of a tensor.
    fn ends(&self, t: &Tensor) -> Result<Vec<f64>> {
        let n = t.spec.len().min(COMPARED);
        let last = t.spec.len() - n;
        let mut all = self.reals(&t.view(last, &[n])?)?;
        if last > 0 {
            all.extend(self.reals(&t.view(0, &[n])?)?);
        }
        Ok(all)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_results_are_held_to_their_own_size() {
        let truth = vec![vec![1e-5, -2e-5, 3e-5]];
        assert_eq!(far(&truth, &truth), 0.0);
        assert_eq!(far(&[vec![0.0; 3]], &truth), 1.0);
        assert!((far(&[vec![1.01e-5, -2.02e-5, 3.03e-5]], &truth) - 0.01).abs() < 1e-9);
        assert_eq!(far(&[vec![1.0]], &[vec![0.0]]), f64::INFINITY);
        assert_eq!(far(&[vec![f64::NAN]], &[vec![1.0]]), f64::INFINITY);
        // Whichever of several tensors it is.
        assert_eq!(far(&[vec![1.0], vec![0.0]], &[vec![1.0], vec![2.0]]), 1.0);
    }
}
