//! Which layers of an encoder matter least: those that change the hidden states least.
//!
//! The block influence of a layer is 1 - cos(x, y), x being a token's hidden state before the layer and y
//! that after it, in the mean over tokens (Men et al. 2024, "ShortGPT: Layers in Large Language Models are
//! More Redundant Than You Expect", eq. 1).

use crate::data::{TokenSet, micro_batches};
use crate::device::Device;
use crate::error::Result;
use crate::models::Model;
use crate::nn::Taps;
use crate::tape::Tape;
use crate::tasks::inputs;

/// Examples that influence is measured on, spread evenly over the set.
const EXAMPLES: usize = 256;

/// The block influence of each layer of a model on examples of a set, in passes of at most `max_tokens`
/// tokens, without dropout.
///
/// # Errors
/// Those of the model's ops.
pub fn influence(device: &Device, model: &Model, set: &TokenSet, max_tokens: usize) -> Result<Vec<f64>> {
    let count = set.len().min(EXAMPLES);
    let examples: Vec<u32> = (0..count).map(|i| (i * set.len() / count) as u32).collect();
    let (mut sums, mut tokens) = (vec![0.0; model.shape().depth()], 0);
    for batch in micro_batches(set, &examples, 1, Some(max_tokens), 0)? {
        let states = device.scoped(|| -> Result<Vec<Vec<f64>>> {
            let mut tape = Tape::evaluate(device);
            let bound = model.params.bind(&mut tape, false)?;
            let x = inputs(&mut tape, &batch, None)?;
            let mut taps = Taps::none().with_hidden();
            model.forward(&mut tape, &bound, &x, &mut taps)?;
            taps.hidden.iter().map(|h| device.read_reals(h.value())).collect()
        })?;
        let width = model.shape().hidden;
        for (sum, pair) in sums.iter_mut().zip(states.windows(2)) {
            *sum += changes(&pair[0], &pair[1], width);
        }
        tokens += batch.ids.len();
    }
    Ok(sums.into_iter().map(|sum| sum / tokens.max(1) as f64).collect())
}

/// The sum of 1 - cos(x, y) over the rows of x and y. A row of zeros has cosine 0 with every other.
fn changes(x: &[f64], y: &[f64], width: usize) -> f64 {
    let change = |(x, y): (&[f64], &[f64])| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let norms = (dot(x, x) * dot(y, y)).sqrt();
        if norms > 0.0 { 1.0 - dot(x, y) / norms } else { 1.0 }
    };
    x.chunks_exact(width).zip(y.chunks_exact(width)).map(change).sum()
}

/// The layers that remain if the `removed` of least influence go, in their order. Of equal layers the later
/// one goes first.
///
/// ```
/// use tempra::compress::layers::remaining;
///
/// assert_eq!(remaining(&[0.3, 0.1, 0.2, 0.1], 1), [0, 1, 2]);
/// assert_eq!(remaining(&[0.3, 0.1, 0.2, 0.1], 2), [0, 2]);
/// ```
pub fn remaining(influence: &[f64], removed: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..influence.len()).rev().collect();
    order.sort_by(|&a, &b| influence[a].total_cmp(&influence[b]));
    let mut left = order.split_off(removed.min(order.len()));
    left.sort_unstable();
    left
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn the_change_of_a_state_is_one_less_its_cosine() {
        let x = [1.0, 0.0, 3.0, 4.0, 0.0, 0.0, 2.0, 2.0];
        let y = [0.0, 2.0, 6.0, 8.0, 1.0, 0.0, -1.0, -1.0];
        // Orthogonal, parallel, undefined, opposite.
        assert!((changes(&x, &y, 2) - (1.0 + 0.0 + 1.0 + 2.0)).abs() < 1e-12);
    }
}
