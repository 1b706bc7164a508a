//! The parameters of a model, in one allocation per role (values, gradients; an optimizer holds its states
//! likewise), so that one launch can update, clip, zero or copy all of them.

use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::ZeroBlocks;
use crate::ops::cast::Cast;
use crate::ops::update::Segment;
use crate::shape::{DType, Spec};
use crate::tape::{Leaf, Tape, Var};

/// The alignment of a group of parameters, in elements: 256 bytes of f32, the largest alignment that GPUs
/// require.
const ALIGN: usize = 64;

/// One parameter: its name in the model's files, and how it is trained.
#[derive(Clone, Debug)]
pub struct Param {
    /// The name as in `model.safetensors`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// It is the transpose of what files hold under that shape, its first dimension against all others.
    pub transposed: bool,
    /// Its offset in the arena, in elements.
    pub offset: usize,
    /// Whether weight decay applies: yes for matrices, no for biases and norms.
    pub decay: bool,
    /// The factor on the learning rate.
    pub lr_scale: f32,
    /// Whether it is frozen (not trained).
    pub frozen: bool,
}

impl Param {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Converts its elements to the order in files.
    pub fn to_file<T: Copy>(&self, values: Vec<T>) -> Vec<T> {
        let first = self.shape.first().copied().unwrap_or(1).max(1);
        if self.transposed { transpose(&values, values.len() / first, first) } else { values }
    }
    /// Converts its elements from the order in files.
    pub fn from_file<T: Copy>(&self, values: Vec<T>) -> Vec<T> {
        let first = self.shape.first().copied().unwrap_or(1).max(1);
        if self.transposed { transpose(&values, first, values.len() / first) } else { values }
    }
}

/// The transpose of a matrix (rows, cols).
fn transpose<T: Copy>(m: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| m[r * cols + c])).collect()
}

/// Adjacent parameters that are used as one tensor, such as the weights of queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(usize);

#[derive(Clone, Debug)]
struct Members {
    first: usize,
    count: usize,
    shape: Vec<usize>,
    /// Of which a batch has some rows only.
    table: bool,
}

/// The parameters of a model before allocation: names, shapes and offsets.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The parameters, in order of their offsets.
    pub list: Vec<Param>,
    groups: Vec<Members>,
    len: usize,
}

impl Layout {
    /// Declares one parameter. Weight decay applies to those with two dimensions or more.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> Group {
        self.join(vec![name.into()], shape, shape)
    }
    /// Declares parameters of one shape that are used as one tensor of shape `joined`.
    pub fn join(&mut self, names: Vec<String>, each: &[usize], joined: &[usize]) -> Group {
        self.join_of(names.into_iter().map(|name| (name, each.to_vec())).collect(), joined)
    }
    /// Declares parameters of several shapes that are used as one tensor of shape `joined`. Weight decay does
    /// not apply to biases.
    pub fn join_of(&mut self, members: Vec<(String, Vec<usize>)>, joined: &[usize]) -> Group {
        self.len = self.len.next_multiple_of(ALIGN);
        let (first, count) = (self.list.len(), members.len());
        for (name, shape) in members {
            let (offset, elements) = (self.len, shape.iter().product::<usize>());
            let decay = shape.len() > 1 && !name.ends_with("bias");
            let (transposed, lr_scale, frozen) = (false, 1.0, false);
            self.list.push(Param { name, shape, transposed, offset, decay, lr_scale, frozen });
            self.len += elements;
        }
        self.groups.push(Members { first, count, shape: joined.to_vec(), table: false });
        Group(self.groups.len() - 1)
    }
    /// Marks a group as an embedding table: the gradients of most of its rows are zero.
    pub fn table(&mut self, group: Group) {
        self.groups[group.0].table = true;
    }
    /// Marks the parameters of a group as transposed in files.
    pub fn transpose(&mut self, group: Group) {
        let Members { first, count, .. } = self.groups[group.0];
        self.list[first..first + count].iter_mut().for_each(|p| p.transposed = true);
    }
    /// Freezes the parameter that was declared last.
    pub fn keep_last(&mut self) {
        self.list.iter_mut().next_back().into_iter().for_each(|p| p.frozen = true);
    }
    /// Trains all parameters of a group, also frozen ones.
    pub fn train(&mut self, group: Group) {
        let Members { first, count, .. } = self.groups[group.0];
        self.list[first..first + count].iter_mut().for_each(|p| p.frozen = false);
    }
    /// The number of elements of the arena.
    pub fn len(&self) -> usize {
        self.len.next_multiple_of(ALIGN)
    }
    /// Whether no parameter is declared.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    /// Freezes every parameter whose name starts with a prefix, and returns their number.
    pub(crate) fn freeze_prefix(&mut self, prefix: &str) -> usize {
        let all = self.list.iter_mut().filter(|p| p.name.starts_with(prefix));
        all.map(|p| p.frozen = true).count()
    }
    /// Freezes every parameter whose name starts with one of the prefixes.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a prefix that matches no parameter.
    pub fn freeze(&mut self, prefixes: &[String]) -> Result<()> {
        for prefix in prefixes {
            if self.freeze_prefix(prefix) == 0 {
                let some: Vec<&str> = self.list.iter().take(3).map(|p| p.name.as_str()).collect();
                return Err(Error::usage(format!(
                    "model.freeze names `{prefix}`, which is not the start of any parameter's name"
                ))
                .with_expected(format!("the start of a name such as {}", some.join(", ")))
                .with_help("remove it from model.freeze, or correct its spelling"));
            }
        }
        Ok(())
    }
    /// The segments of the arena with the same optimizer settings. `weight_decay` is for parameters that
    /// decay.
    pub fn segments(&self, weight_decay: f32) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut put = |len: usize, decay: f32, lr_scale: f32, frozen: bool| match segments.last_mut() {
            Some(s) if (s.decay, s.lr_scale, s.frozen) == (decay, lr_scale, frozen) => s.len += len,
            _ if len > 0 => segments.push(Segment { len, decay, lr_scale, frozen }),
            _ => {}
        };
        let mut at = 0;
        for p in &self.list {
            // Gaps hold zeros and stay so.
            put(p.offset - at, 0.0, 1.0, true);
            put(p.len(), if p.decay { weight_decay } else { 0.0 }, p.lr_scale, p.frozen);
            at = p.offset + p.len();
        }
        put(self.len() - at, 0.0, 1.0, true);
        segments
    }
}

/// Parameters on a device.
pub struct Params {
    layout: Layout,
    /// The (master) weights, f32 (arena).
    pub value: Tensor,
    /// The copy that kernels read, if the device computes in a 16-bit type: the weights rounded to it.
    pub copy: Option<Tensor>,
    /// The arenas for training; `None` for evaluation.
    pub training: Option<Training>,
}

/// The arenas for training, each as long as the values.
pub struct Training {
    /// Gradients.
    pub grad: Tensor,
    /// The zero-block bitmap of the gradients, u32 (see [`ZeroBlocks`]). Without it gradients are read and
    /// zeroed completely.
    pub zero_blocks: Option<Tensor>,
}

/// The variables of all groups on one tape.
pub struct Bound {
    vars: Vec<Var>,
}

impl Bound {
    /// The variable of a group.
    pub fn var(&self, group: Group) -> Var {
        self.vars[group.0].clone()
    }
}

impl Params {
    /// Allocates the arenas in `dtype` (f32, or f64 for gradient checks), filled with zeros, and a copy in
    /// the device's compute type if that is a 16-bit type.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if there is not enough memory.
    pub fn new(device: &Device, layout: Layout, dtype: DType, training: bool) -> Result<Params> {
        let zeros = || device.zeros(dtype, &[layout.len()]);
        let value = zeros()?;
        let training = if training {
            let zero_blocks = Some(device.zeros(DType::U32, &[ZeroBlocks::words(layout.len())])?);
            Some(Training { grad: zeros()?, zero_blocks })
        } else {
            None
        };
        let compute = device.caps().compute;
        let copy = if compute.size() < dtype.size() && dtype == DType::F32 {
            Some(device.zeros(compute, &[layout.len()])?)
        } else {
            None
        };
        Ok(Params { layout, value, copy, training })
    }
    /// Updates the copy that kernels read. Call it after the host has written weights.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn refresh(&self, device: &Device) -> Result<()> {
        match &self.copy {
            Some(copy) => device.step(&Cast, &[&self.value, copy]),
            None => Ok(()),
        }
    }
    /// The names, shapes and offsets.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// The view of a parameter in an arena.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the parameter is not of this arena.
    pub fn view(&self, arena: &Tensor, p: &Param) -> Result<Tensor> {
        arena.view(p.offset, &p.shape)
    }
    /// The size of all arenas in bytes, without the optimizer's states.
    pub fn bytes(&self) -> usize {
        let copy = self.copy.as_ref().map_or(0, |c| c.spec.bytes());
        self.value.spec.bytes() * if self.training.is_some() { 2 } else { 1 } + copy
    }
    /// Puts every group on a tape: as leaves with gradients if the tape records, and frozen groups as
    /// constants. `filled`: whether the gradients hold those of earlier micro-batches, to be added to.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if a view does not fit the arena.
    pub fn bind(&self, tape: &mut Tape, filled: bool) -> Result<Bound> {
        let mut vars = Vec::with_capacity(self.layout.groups.len());
        for g in &self.layout.groups {
            let members = &self.layout.list[g.first..g.first + g.count];
            let offset = members.first().map_or(0, |p| p.offset);
            let value = self.copy.as_ref().unwrap_or(&self.value).view(offset, &g.shape)?;
            let trained = members.iter().any(|p| !p.frozen);
            vars.push(match &self.training {
                Some(t) if tape.recording() && trained => {
                    let grad = t.grad.view(offset, &g.shape)?;
                    let bits = t.zero_blocks.clone().filter(|_| g.table);
                    let zero_blocks = bits.map(|bits| ZeroBlocks { bits, first: offset });
                    tape.leaf(Leaf { value, grad, filled, zero_blocks })
                }
                _ => tape.constant(value),
            });
        }
        Ok(Bound { vars })
    }
    /// The names of the parameters of variables on a tape.
    pub fn names(&self, bound: &Bound, vars: &[Var]) -> Vec<String> {
        let groups = self.layout.groups.iter().zip(&bound.vars).filter(|(_, v)| vars.contains(v));
        groups
            .flat_map(|(g, _)| &self.layout.list[g.first..g.first + g.count])
            .filter(|p| !p.frozen)
            .map(|p| p.name.clone())
            .collect()
    }
    /// Zeroes the gradients of frozen parameters that share a group with trained ones, so that the gradient
    /// norm excludes them.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn silence_frozen(&self, device: &Device) -> Result<()> {
        let Some(t) = &self.training else { return Ok(()) };
        for g in &self.layout.groups {
            let members = &self.layout.list[g.first..g.first + g.count];
            if members.iter().any(|p| p.frozen) && members.iter().any(|p| !p.frozen) {
                for p in members.iter().filter(|p| p.frozen) {
                    device.zero(&self.view(&t.grad, p)?)?;
                }
            }
        }
        Ok(())
    }
    /// The number of elements of all parameters, and of trained ones.
    pub fn count(&self) -> (usize, usize) {
        let sum =
            |trained: bool| self.layout.list.iter().filter(|p| !(trained && p.frozen)).map(Param::len).sum();
        (sum(false), sum(true))
    }
    /// The spec of an arena.
    pub fn spec(&self) -> &Spec {
        &self.value.spec
    }
}
