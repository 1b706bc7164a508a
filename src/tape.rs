//! Records ops as they run; plays them backwards. The order of execution is already a topological order.

mod fuse;
mod var;

pub use var::{Leaf, Var};

use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::{Backward, Forward, Grad, Op};
use fuse::Fused;
use var::Slot;

/// A recorded op.
struct Node {
    op: Box<dyn Op>,
    x: Vec<Var>,
    /// The outputs, then the saved tensors.
    y: Vec<Tensor>,
    outputs: usize,
    /// The index of the first output's gradient.
    slot: usize,
    /// The activation gradients that its backward pass computes for the ops before it.
    fused: Vec<Fused>,
}

/// One forward pass, and the means to differentiate it.
///
/// The crate's page has an [example](crate#ops-and-gradients).
pub struct Tape<'d> {
    device: &'d Device,
    recording: bool,
    slots: Vec<Slot>,
    nodes: Vec<Node>,
    leaves: Vec<Var>,
}

impl<'d> Tape<'d> {
    /// A tape that records, for training.
    pub fn new(device: &'d Device) -> Self {
        Self { device, recording: true, slots: Vec::new(), nodes: Vec::new(), leaves: Vec::new() }
    }
    /// A tape that only runs ops, for evaluation: it keeps no value. Whoever builds the model leaves dropout
    /// out.
    pub fn evaluate(device: &'d Device) -> Self {
        Self { recording: false, ..Self::new(device) }
    }
    /// Whether gradients can be asked for.
    pub fn recording(&self) -> bool {
        self.recording
    }
    /// The device it runs on.
    pub fn device(&self) -> &'d Device {
        self.device
    }
    /// A value without a gradient.
    pub fn constant(&mut self, value: Tensor) -> Var {
        Var::new(value, None)
    }
    fn push(&mut self, slot: Slot) -> usize {
        self.slots.push(slot);
        self.slots.len() - 1
    }
    /// Plans, allocates, runs and records one op; returns its first output.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the op does not accept the inputs, or one of them is
    /// given twice; [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn apply(&mut self, op: impl Op, x: impl Into<Vec<Var>>) -> Result<Var> {
        let x = x.into();
        let slots = || x.iter().filter_map(Var::slot);
        if (1..x.len()).any(|i| x[i].slot().is_some() && x[..i].contains(&x[i])) {
            let what = format!("{} got the same variable twice, and would overwrite its gradient", op.name());
            return Err(Error::shape(what));
        }
        if slots().any(|i| i >= self.slots.len()) {
            return Err(Error::shape(format!("{} got a variable of another tape", op.name())));
        }
        let inputs: Vec<&Tensor> = x.iter().map(Var::value).collect();
        let plan = op.plan(&self.device.caps(), &inputs.iter().map(|t| &t.spec).collect::<Vec<_>>())?;
        let outputs = plan.outputs.len();
        let specs = plan.outputs.into_iter().chain(plan.saved);
        let y = specs.map(|s| self.device.alloc(s)).collect::<Result<Vec<_>>>()?;
        self.device.forward(&op, Forward { x: &inputs, y: &y.iter().collect::<Vec<_>>() })?;
        let first = y.first().cloned().ok_or_else(|| Error::shape(format!("{} has no output", op.name())))?;
        let slot = (self.recording && slots().next().is_some()).then(|| self.push(Slot::default()));
        if let Some(slot) = slot {
            self.nodes.push(Node { op: Box::new(op), x, y, outputs, slot, fused: Vec::new() });
        }
        Ok(Var::new(first, slot))
    }
    /// Fills the gradient of every leaf that `root` depends on, given d(loss)/d(root). Leaves that it does
    /// not depend on are left untouched and returned, in the order they were made.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the seed has another shape than `root`;
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn backward(mut self, root: Var, seed: Tensor) -> Result<Vec<Var>> {
        let at = root.slot();
        // The tape holds what it still reads of it.
        drop(root);
        if let Some(slot) = at.and_then(|i| self.slots.get_mut(i)) {
            (slot.grad, slot.filled, slot.reached) = (Some(seed), true, true);
        }
        fuse::activations(&mut self.nodes, self.slots.len(), at, &self.device.caps());
        while let Some(node) = self.nodes.pop() {
            if self.slots[node.slot].reached {
                self.play(&node)?;
            }
            // Every op that read the output has been played already.
            self.slots[node.slot].grad = None;
        }
        let reached = |v: &Var| v.slot().is_some_and(|i| self.slots[i].reached);
        Ok(self.leaves.iter().filter(|v| !reached(v)).cloned().collect())
    }
    /// The backward pass of one op.
    fn play(&mut self, node: &Node) -> Result<()> {
        let keeps_bitmap = node.op.maintains_zero_blocks();
        for v in &node.x {
            if let Some(slot) = v.slot() {
                var::begin(self.device, &mut self.slots, slot, &v.value().spec, keeps_bitmap)?;
            }
        }
        let slots = &self.slots;
        let grad = |(i, v): (usize, &Var)| {
            let slot = &slots[v.slot()?];
            let zero_blocks = slot.zero_blocks.as_ref().filter(|_| keeps_bitmap);
            let dact = node.fused.iter().find(|f| f.input == i).map(|f| (f.act, &f.at));
            slot.grad.as_ref().map(|t| Grad { t, add: slot.filled, zero_blocks, dact })
        };
        let (x, y): (Vec<_>, Vec<_>) = (node.x.iter().map(Var::value).collect(), node.y.iter().collect());
        // Only the first output of an op leaves the tape, so only it has a gradient.
        let dy: Vec<_> =
            (0..node.outputs).map(|i| slots[node.slot].grad.as_ref().filter(|_| i == 0)).collect();
        let dx: Vec<_> = node.x.iter().enumerate().map(grad).collect();
        self.device.backward(&*node.op, Backward { x: &x, y: &y, dy: &dy, dx: &dx })?;
        node.x.iter().filter_map(Var::slot).for_each(|slot| var::written(&mut self.slots, slot));
        Ok(())
    }
}
