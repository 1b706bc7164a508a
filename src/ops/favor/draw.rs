//! The random features, drawn on the host: a function of the seed, the layer and how often they were drawn
//! anew.

use crate::rng::Rng;

/// How many features approximate heads of a width well enough: d ln d (the order that Choromanski et al. 2021
/// prove sufficient, section 4.2), at least one.
pub fn default_features(dim: usize) -> usize {
    ((dim as f64 * (dim as f64).ln()) as usize).max(1)
}

/// Orthogonal random features w (features, dim), row by row: blocks of `dim` rows that are orthogonal to each
/// other, each row as long as a vector of `dim` independent standard normals (ibid., section 2.4). Every row
/// alone is standard normal, so estimates stay unbiased; that rows of a block do not repeat each other makes
/// their variance smaller.
///
/// The same seed, layer and count of draws give the same numbers: nothing of it needs to be saved to resume.
pub fn features(seed: u64, layer: usize, redraw: u64, [features, dim]: [usize; 2]) -> Vec<f32> {
    let mut rng = rng(seed, layer, redraw);
    let mut w: Vec<f64> = Vec::with_capacity(features * dim);
    while w.len() < features * dim {
        let block = orthogonal(&mut rng, dim);
        let left = features * dim - w.len();
        w.extend(&block[..left.min(dim * dim)]);
    }
    for row in w.chunks_exact_mut(dim) {
        let length = (0..dim).map(|_| rng.normal().powi(2)).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v *= length);
    }
    w.into_iter().map(|v| v as f32).collect()
}

/// Features whose rows are independent: what orthogonal ones are compared with.
pub fn independent(seed: u64, layer: usize, redraw: u64, [features, dim]: [usize; 2]) -> Vec<f32> {
    let mut rng = rng(seed, layer, redraw);
    (0..features * dim).map(|_| rng.normal() as f32).collect()
}

fn rng(seed: u64, layer: usize, redraw: u64) -> Rng {
    Rng::new(seed, &format!("favor {layer}"), redraw)
}

/// A matrix (dim, dim) with orthonormal rows, uniform among all: Gram and Schmidt's process, twice over for
/// exactness, on rows of normals.
fn orthogonal(rng: &mut Rng, dim: usize) -> Vec<f64> {
    let mut q: Vec<f64> = Vec::with_capacity(dim * dim);
    while q.len() < dim * dim {
        let mut row: Vec<f64> = (0..dim).map(|_| rng.normal()).collect();
        for _ in 0..2 {
            for other in q.chunks_exact(dim) {
                let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        // A row that lies in the span of the others, which has probability zero, is drawn again.
        if length > 1e-6 {
            q.extend(row.iter().map(|v| v / length));
        }
    }
    q
}
