//! Records ops as they run; plays them backwards. The order of execution is already a topological order.

use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::linear::Activation;
use crate::ops::{Backward, Blank, Forward, Grad, Op};

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(usize);

struct Slot {
    /// Freed once nothing that is left to do needs it.
    value: Option<Tensor>,
    wants_grad: bool,
    grad: Option<Tensor>,
    /// Whether the gradient holds something that further gradients are added to.
    filled: bool,
    /// Where the gradient is known to be zero.
    blank: Option<Blank>,
    /// The leaf whose first rows these are; their gradients share memory.
    part_of: Option<Var>,
}

struct Node {
    op: Box<dyn Op>,
    x: Vec<Var>,
    y: Vec<Var>,
    outputs: usize,
}

/// An activation whose derivative another op takes care of.
struct Fold {
    /// The result of the activation.
    of: Var,
    /// The node that reads it.
    by: usize,
    act: Activation,
    /// What the derivative is taken at.
    at: Var,
    /// The op without it.
    rest: Box<dyn Op>,
}

/// One forward pass, and the means to differentiate it.
///
/// The crate's page has an [example](crate#ops-and-gradients).
pub struct Tape<'d> {
    device: &'d Device,
    slots: Vec<Slot>,
    nodes: Vec<Node>,
    recording: bool,
}

impl<'d> Tape<'d> {
    /// A tape that records, for training.
    pub fn new(device: &'d Device) -> Self {
        Self { device, slots: Vec::new(), nodes: Vec::new(), recording: true }
    }
    /// A tape that only runs, for evaluation: dropout is left out by whoever builds the model, and values are kept only
    /// as long as the caller holds them.
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
        self.push(value, None, false)
    }
    /// A value whose gradient goes into `grad`: added to what is there if `filled`, written over it otherwise.
    pub fn leaf(&mut self, value: Tensor, grad: Tensor, filled: bool) -> Var {
        self.push(value, Some(grad), filled)
    }
    /// The same of which mostly some rows only have a gradient: where there is none is kept in `blank`.
    pub fn table(&mut self, value: Tensor, grad: Tensor, filled: bool, blank: Blank) -> Var {
        let v = self.push(value, Some(grad), filled);
        self.slots[v.0].blank = Some(blank);
        v
    }
    /// The first rows of a leaf or a constant, of a shape with as many elements. Their gradient is a part of the leaf's.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for more elements than there are, and for what an op gave.
    pub fn part(&mut self, v: Var, shape: &[usize]) -> Result<Var> {
        let value = self.value(v)?.view(0, shape)?;
        let slot = &self.slots[v.0];
        if slot.wants_grad && slot.grad.is_none() {
            return Err(Error::shape(
                "cannot take a part of an op's output: only leaves and constants have parts",
            ));
        }
        let grad = slot.grad.as_ref().map(|g| g.view(0, shape)).transpose()?;
        let blank = slot.blank.clone();
        let part = self.push(value, grad, false);
        (self.slots[part.0].blank, self.slots[part.0].part_of) = (blank, Some(v));
        Ok(part)
    }
    /// A value computed so far.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the tape has freed it.
    pub fn value(&self, v: Var) -> Result<&Tensor> {
        self.slots
            .get(v.0)
            .and_then(|s| s.value.as_ref())
            .ok_or_else(|| Error::shape("the tape has already freed this value"))
    }
    fn push(&mut self, value: Tensor, grad: Option<Tensor>, filled: bool) -> Var {
        self.slots.push(Slot {
            value: Some(value),
            wants_grad: grad.is_some(),
            grad,
            filled,
            blank: None,
            part_of: None,
        });
        Var(self.slots.len() - 1)
    }
    /// Plans, allocates, runs and records one op; returns its first output.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the op does not accept the inputs, or one of them is given twice;
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left; [`Kind::Lost`](crate::error::Kind::Lost)
    /// if it was lost.
    pub fn apply(&mut self, op: impl Op, x: &[Var]) -> Result<Var> {
        let twice = (1..x.len()).any(|i| x[..i].contains(&x[i]) && self.slots[x[i].0].wants_grad);
        if twice {
            return Err(Error::shape(format!(
                "{} got the same variable twice, and would overwrite its gradient",
                op.name()
            )));
        }
        let inputs = x.iter().map(|v| self.value(*v)).collect::<Result<Vec<_>>>()?;
        let plan = op.plan(&self.device.caps(), &inputs.iter().map(|t| &t.spec).collect::<Vec<_>>())?;
        let outputs = plan.outputs.len();
        let specs = plan.outputs.into_iter().chain(plan.saved);
        let y = specs.map(|s| self.device.alloc(s)).collect::<Result<Vec<_>>>()?;
        self.device.forward(&op, Forward { x: &inputs, y: &y.iter().collect::<Vec<_>>() })?;
        let wants_grad = self.recording && x.iter().any(|v| self.slots[v.0].wants_grad);
        let first = Var(self.slots.len());
        for (i, value) in y.into_iter().enumerate() {
            // What only a backward pass would read is given back at once where there will be none.
            if i < outputs || wants_grad {
                self.slots.push(Slot {
                    value: Some(value),
                    wants_grad: wants_grad && i < outputs,
                    grad: None,
                    filled: false,
                    blank: None,
                    part_of: None,
                });
            }
        }
        if wants_grad {
            let y = (first.0..self.slots.len()).map(Var).collect();
            self.nodes.push(Node { op: Box::new(op), x: x.to_vec(), y, outputs });
        }
        Ok(first)
    }
    /// Gives back a value that nothing will read again; only for tapes that do not record.
    pub fn release(&mut self, v: Var) {
        if !self.recording
            && let Some(slot) = self.slots.get_mut(v.0)
        {
            slot.value = None;
        }
    }
    /// The activations whose derivative goes into the op that comes after: where that is the only one that reads the result, which
    /// gets no other gradient then.
    fn fold(&self, root: Var) -> Vec<Fold> {
        let caps = self.device.caps();
        let mut readers: Vec<Option<(usize, usize)>> = vec![None; self.slots.len()];
        let mut many = vec![false; self.slots.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            for (i, v) in node.x.iter().enumerate() {
                many[v.0] |= readers[v.0].replace((n, i)).is_some();
            }
        }
        let fold = |node: &Node| {
            let of = *node.y.first()?;
            let (by, i) = readers[of.0].filter(|_| !many[of.0] && of != root)?;
            let (act, at, rest) = node.op.ends_in()?;
            let at = *node.y.get(at)?;
            self.nodes[by].op.takes_slope(&caps, i).then_some(Fold { of, by, act, at, rest })
        };
        self.nodes.iter().filter_map(fold).collect()
    }
    /// Before the gradient of a leaf's part is written: what is in the leaf's is added to; if nothing is, the rest is zeroed.
    fn begin_part(&mut self, v: Var) -> Result<()> {
        let Some(whole) = self.slots[v.0].part_of else { return Ok(()) };
        let (part, whole) = (&self.slots[v.0], &self.slots[whole.0]);
        let filled = whole.filled;
        if let (false, Some(part), Some(whole)) = (filled, &part.grad, &whole.grad) {
            let (from, len) = (part.spec.len(), whole.spec.len());
            if from < len {
                self.device.zero(&whole.view(from, &[len - from])?)?;
            }
        }
        self.slots[v.0].filled = filled;
        Ok(())
    }
    /// Fills the gradient of every leaf that `root` depends on, given d(loss)/d(root). Leaves that it does not depend on
    /// are left untouched and returned by index, in the order they were made.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the seed has another shape than `root`;
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left; [`Kind::Lost`](crate::error::Kind::Lost)
    /// if it was lost.
    pub fn backward(mut self, root: Var, seed: Tensor) -> Result<Vec<Var>> {
        let is_leaf = |s: &Slot| s.grad.is_some() && s.part_of.is_none();
        let leaves: Vec<Var> = (0..self.slots.len()).filter(|&i| is_leaf(&self.slots[i])).map(Var).collect();
        let mut reached = vec![false; self.slots.len()];
        let slot = &mut self.slots[root.0];
        (slot.grad, slot.filled, reached[root.0]) = (Some(seed), true, true);
        let folded = self.fold(root);
        while let Some(node) = self.nodes.pop() {
            let at = self.nodes.len();
            let outputs = &node.y[..node.outputs];
            if outputs.iter().any(|v| reached[v.0]) {
                for v in &node.x {
                    let slot = &mut self.slots[v.0];
                    if slot.wants_grad && slot.grad.is_none() {
                        let spec = slot.value.as_ref().map(|t| t.spec.clone());
                        slot.grad = spec.map(|s| self.device.alloc(s)).transpose()?;
                    }
                }
                for v in &node.x {
                    self.begin_part(*v)?;
                }
                let s = &self.slots;
                let values = |vs: &[Var]| vs.iter().map(|v| self.value(*v)).collect::<Result<Vec<_>>>();
                let (x, y) = (values(&node.x)?, values(&node.y)?);
                let dy: Vec<_> =
                    outputs.iter().map(|v| s[v.0].grad.as_ref().filter(|_| reached[v.0])).collect();
                let keeps = node.op.keeps_blank();
                for slot in node.x.iter().map(|v| &s[v.0]).filter(|_| !keeps) {
                    if let (Some(blank), Some(grad)) = (&slot.blank, &slot.grad) {
                        self.device.zero(&blank.part(grad.spec.len())?)?;
                    }
                }
                let grad = |v: &Var| {
                    let slot = &s[v.0];
                    let blank = slot.blank.as_ref().filter(|_| keeps);
                    let fold = folded.iter().find(|f| f.by == at && f.of == *v);
                    let slope = fold.and_then(|f| Some((f.act, s[f.at.0].value.as_ref()?)));
                    slot.grad.as_ref().map(|t| Grad { t, add: slot.filled, blank, slope })
                };
                let dx: Vec<_> = node.x.iter().map(grad).collect();
                // If the gradient that comes is by what was before the activation, the rest of the op is played.
                let rest =
                    folded.iter().find(|f| node.y.first() == Some(&f.of)).map_or(&node.op, |f| &f.rest);
                self.device.backward(&**rest, Backward { x: &x, y: &y, dy: &dy, dx: &dx })?;
                for v in &node.x {
                    let slot = &mut self.slots[v.0];
                    (slot.filled, reached[v.0]) = (true, true);
                    if let Some(whole) = slot.part_of {
                        (self.slots[whole.0].filled, reached[whole.0]) = (true, true);
                    }
                }
            }
            // Everything that read these has been played already.
            for v in &node.y {
                (self.slots[v.0].value, self.slots[v.0].grad) = (None, None);
            }
        }
        Ok(leaves.into_iter().filter(|v| !reached[v.0]).collect())
    }
}
