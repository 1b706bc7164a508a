//! Fusion of activation gradients into the backward pass of the op that reads the activation.

use super::{Node, Var};
use crate::device::{Caps, Tensor};
use crate::ops::Activation;

/// The gradient of an activation that the op after it computes.
pub(super) struct Fused {
    /// The input of that op which the activation gave.
    pub input: usize,
    /// The activation.
    pub act: Activation,
    /// What its derivative is taken at.
    pub at: Tensor,
}

/// The ops that read a variable.
#[derive(Clone, Copy)]
enum Readers {
    None,
    /// One op by its index, and which of its inputs the variable is.
    One(usize, usize),
    Many,
}

/// Moves the gradient of an activation from the op that ends with it into the op that reads it, where the
/// device has a kernel for that.
///
/// This needs a single reader: a second one would add its gradient after the derivative was applied. For the
/// same reason the output that the backward pass starts from (`root`) keeps its own. `slots` is the number of
/// variables with a gradient.
pub(super) fn activations(nodes: &mut [Node], slots: usize, root: Option<usize>, caps: &Caps) {
    let mut readers = vec![Readers::None; slots];
    for (n, node) in nodes.iter().enumerate() {
        for (i, slot) in node.x.iter().map(Var::slot).enumerate() {
            let Some(reader) = slot.and_then(|slot| readers.get_mut(slot)) else { continue };
            *reader = match reader {
                Readers::None => Readers::One(n, i),
                _ => Readers::Many,
            };
        }
    }
    for n in 0..nodes.len() {
        let slot = nodes[n].slot;
        let Some(&Readers::One(reader, input)) = readers.get(slot).filter(|_| root != Some(slot)) else {
            continue;
        };
        let Some((act, at, rest)) = nodes[n].op.fused_activation() else { continue };
        let Some(at) = nodes[n].y.get(at).cloned() else { continue };
        if nodes[reader].op.fuses_dact(caps, input) {
            nodes[n].op = rest;
            nodes[reader].fused.push(Fused { input, act, at });
        }
    }
}
