//! Every parameter of a model, in one allocation a role, so that one launch can update, clip, zero or copy them all.

use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::Blank;
use crate::ops::adamw::Segment;
use crate::ops::round::Round;
use crate::shape::{DType, Spec};
use crate::tape::{Tape, Var};

/// Elements that a group of parameters is aligned to: 256 bytes of f32, the most that a GPU asks of a buffer's beginning.
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
    /// Where it begins in the arena, in elements.
    pub offset: usize,
    /// Whether weight decay applies: to matrices, not to biases and norms.
    pub decay: bool,
    /// Factor on the learning rate.
    pub lr_scale: f32,
    /// Left as it is.
    pub frozen: bool,
}

impl Param {
    /// How many elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Its elements in the order that files have them.
    pub fn to_file<T: Copy>(&self, values: Vec<T>) -> Vec<T> {
        let first = self.shape.first().copied().unwrap_or(1).max(1);
        if self.transposed { transpose(&values, values.len() / first, first) } else { values }
    }
    /// Its elements, from the order that files have them in.
    pub fn from_file<T: Copy>(&self, values: Vec<T>) -> Vec<T> {
        let first = self.shape.first().copied().unwrap_or(1).max(1);
        if self.transposed { transpose(&values, first, values.len() / first) } else { values }
    }
}

/// The transpose of a matrix (rows, cols).
fn transpose<T: Copy>(m: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| m[r * cols + c])).collect()
}

/// Parameters that lie side by side and are used as one tensor, such as the weights of queries, keys and values.
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

/// The parameters of a model before they have memory: names, shapes, places.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The parameters, in order of their place.
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
    /// Declares parameters of several shapes that are used as one tensor of shape `joined`. What is called a bias does not
    /// decay.
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
    /// Says that rows of a group are looked up: the gradient of most of them is zero.
    pub fn table(&mut self, group: Group) {
        self.groups[group.0].table = true;
    }
    /// Says that files hold the transposes of a group's parameters.
    pub fn transpose(&mut self, group: Group) {
        let Members { first, count, .. } = self.groups[group.0];
        self.list[first..first + count].iter_mut().for_each(|p| p.transposed = true);
    }
    /// Leaves the parameter that was declared last as it is.
    pub fn keep_last(&mut self) {
        self.list.iter_mut().next_back().into_iter().for_each(|p| p.frozen = true);
    }
    /// Trains all parameters of a group, also one that was left as it is.
    pub fn train(&mut self, group: Group) {
        let Members { first, count, .. } = self.groups[group.0];
        self.list[first..first + count].iter_mut().for_each(|p| p.frozen = false);
    }
    /// Elements of the arena.
    pub fn len(&self) -> usize {
        self.len.next_multiple_of(ALIGN)
    }
    /// Whether nothing was declared.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    /// Freezes every parameter whose name begins with one of the prefixes; a prefix that fits none is an error.
    pub fn freeze(&mut self, prefixes: &[String]) -> Result<()> {
        for prefix in prefixes {
            let mut fits = 0;
            for p in self.list.iter_mut().filter(|p| p.name.starts_with(prefix.as_str())) {
                p.frozen = true;
                fits += 1;
            }
            if fits == 0 {
                let some: Vec<&str> = self.list.iter().take(3).map(|p| p.name.as_str()).collect();
                return Err(Error::usage(format!(
                    "model.freeze: no parameter's name begins with `{prefix}`"
                ))
                .with_expected(format!("the beginning of a name such as {}", some.join(", "))));
            }
        }
        Ok(())
    }
    /// The arena cut into runs of one setting, for the optimizer. `weight_decay` goes to parameters that decay.
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

/// Parameters with memory on a device.
pub struct Params {
    layout: Layout,
    /// The weights, f32 (arena).
    pub value: Tensor,
    /// What kernels read instead, where the device computes in another type: the same rounded to it.
    pub copy: Option<Tensor>,
    /// What training needs besides; absent for evaluation.
    pub training: Option<Training>,
}

/// The arenas that training needs, each as long as the values.
pub struct Training {
    /// Gradients.
    pub grad: Tensor,
    /// First moments.
    pub m: Tensor,
    /// Second moments.
    pub v: Tensor,
    /// Where the gradients are known to be zero, u32, as [`Blank`] has it; without it they are read and zeroed whole.
    pub blank: Option<Tensor>,
}

/// The variables of all groups on one tape.
pub struct Bound {
    vars: Vec<Var>,
}

impl Bound {
    /// The variable of a group.
    pub fn var(&self, group: Group) -> Var {
        self.vars[group.0]
    }
}

impl Params {
    /// Allocates the arenas, in `dtype` (f32; f64 for proofs), all zero; with a copy in the type that the device computes in
    /// if it is a smaller one.
    pub fn new(device: &Device, layout: Layout, dtype: DType, training: bool) -> Result<Params> {
        let zeros = || device.zeros(dtype, &[layout.len()]);
        let value = zeros()?;
        let training = if training {
            let blank = Some(device.zeros(DType::U32, &[Blank::words(layout.len())])?);
            Some(Training { grad: zeros()?, m: zeros()?, v: zeros()?, blank })
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
    /// Brings what kernels read up to date with the weights: to be called whenever the host has written some.
    pub fn refresh(&self, device: &Device) -> Result<()> {
        match &self.copy {
            Some(copy) => device.step(&Round, &[&self.value, copy]),
            None => Ok(()),
        }
    }
    /// Names, shapes and places.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// A parameter's part of an arena.
    pub fn view(&self, arena: &Tensor, p: &Param) -> Result<Tensor> {
        arena.view(p.offset, &p.shape)
    }
    /// Bytes of all arenas.
    pub fn bytes(&self) -> usize {
        let copy = self.copy.as_ref().map_or(0, |c| c.spec.bytes());
        self.value.spec.bytes() * if self.training.is_some() { 4 } else { 1 } + copy
    }
    /// Puts every group on a tape: as leaves with their gradients if the tape records, frozen ones as constants. `filled`
    /// says that gradients of earlier micro-batches are there to be added to.
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
                    match t.blank.clone().filter(|_| g.table) {
                        Some(bits) => tape.table(value, grad, filled, Blank { bits, first: offset }),
                        None => tape.leaf(value, grad, filled),
                    }
                }
                _ => tape.constant(value),
            });
        }
        Ok(Bound { vars })
    }
    /// The names of the parameters behind variables of a tape.
    pub fn names(&self, bound: &Bound, vars: &[Var]) -> Vec<String> {
        let groups = self.layout.groups.iter().zip(&bound.vars).filter(|(_, v)| vars.contains(v));
        groups
            .flat_map(|(g, _)| &self.layout.list[g.first..g.first + g.count])
            .filter(|p| !p.frozen)
            .map(|p| p.name.clone())
            .collect()
    }
    /// Zeroes the gradients of frozen parameters that share a group with trained ones, so that they do not count in the
    /// norm.
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
    /// The elements of an arena's specs: how many parameters there are, and how many of them are trained.
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
