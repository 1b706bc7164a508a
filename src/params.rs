//! The parameters of a model in two arenas. Trained parameters have one allocation per role (values,
//! gradients; an optimizer holds its states likewise), so that one launch can update, clip, zero or copy all
//! of them. Frozen parameters have values only.

mod masks;

pub use masks::{MaskUnit, Masking, PruningMask};

use crate::device::{Device, Tensor};
use crate::error::{Error, Result};
use crate::ops::ZeroBlocks;
use crate::ops::cast::Cast;
use crate::ops::mask::WeightMask;
use crate::ops::update::Segment;
use crate::shape::{DType, Spec};
use crate::tape::{Leaf, Tape, Var};
use std::ops::Range;

/// The alignment of a group of parameters, in elements: 256 bytes of f32, the largest alignment that GPUs
/// require.
const ALIGN: usize = 64;

/// Which allocation holds a parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArenaKind {
    /// That of trained parameters: values, gradients and the optimizer's states. It also holds a frozen
    /// parameter that is used as one tensor with a trained one, such as the queries' weight beside that of
    /// keys and values.
    #[default]
    Trained,
    /// That of all other frozen parameters: values only.
    Frozen,
}

/// What a parameter is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParamRole {
    /// It is a part of the model.
    #[default]
    Model,
    /// The scores that a pruning mask is chosen by. They start at 0; checkpoints hold them, a model folder
    /// does not.
    Scores,
    /// A linear map between the hidden states of a student and of its teacher. Checkpoints hold it, a model
    /// folder does not.
    Projection,
}

/// One parameter: its name in the model's files, and how it is trained.
#[derive(Clone, Debug)]
pub struct Param {
    /// The name as in `model.safetensors`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// It is the transpose of what files hold under that shape, its first dimension against all others.
    pub transposed: bool,
    /// The arena that holds it, from [`Params::new`] on.
    pub arena: ArenaKind,
    /// Its offset in the arena in elements, from [`Params::new`] on.
    pub offset: usize,
    /// Whether weight decay applies: yes for matrices, no for biases and norms.
    pub decay: bool,
    /// The factor on the learning rate.
    pub lr_scale: f32,
    /// Whether it is frozen (not trained).
    pub frozen: bool,
    /// What it is for.
    pub role: ParamRole,
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
    /// Whether it is a part of the model, which a model folder holds.
    pub fn is_exported(&self) -> bool {
        self.role == ParamRole::Model
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
    /// Whether pruning may mask its elements.
    prunable: bool,
    /// The units that its columns stand for, and how many they are, if pruning may mask these.
    columns: Option<(MaskUnit, usize)>,
}

impl Members {
    fn range(&self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

/// The parameters of a model: names and shapes, and the offsets that [`Params::new`] gives them.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The parameters, in the order of their declaration, which is that of the offsets in each arena.
    pub list: Vec<Param>,
    groups: Vec<Members>,
    masks: Vec<masks::MaskLayout>,
    /// The elements of the trained and of the frozen arena.
    lens: [usize; 2],
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
        let (first, count) = (self.list.len(), members.len());
        for (name, shape) in members {
            let decay = shape.len() > 1 && !name.ends_with("bias");
            let (transposed, lr_scale, frozen) = (false, 1.0, false);
            let (arena, offset, role) = (ArenaKind::default(), 0, ParamRole::default());
            self.list.push(Param { name, shape, transposed, arena, offset, decay, lr_scale, frozen, role });
        }
        let (shape, table, prunable, columns) = (joined.to_vec(), false, false, None);
        self.groups.push(Members { first, count, shape, table, prunable, columns });
        Group(self.groups.len() - 1)
    }
    /// Marks a group as an embedding table: the gradients of most of its rows are zero.
    pub fn table(&mut self, group: Group) {
        self.groups[group.0].table = true;
    }
    /// Marks a group as a weight that pruning may mask.
    pub fn prunable(&mut self, group: Group) {
        self.groups[group.0].prunable = true;
    }
    /// Marks a group as a weight whose columns stand for `count` units that pruning may mask.
    pub fn prunable_columns(&mut self, group: Group, unit: MaskUnit, count: usize) {
        self.groups[group.0].columns = Some((unit, count));
    }
    /// Marks the parameters of a group as transposed in files.
    pub fn transpose(&mut self, group: Group) {
        self.list[self.groups[group.0].range()].iter_mut().for_each(|p| p.transposed = true);
    }
    /// Says what the parameters of a group are for.
    pub fn assign(&mut self, group: Group, role: ParamRole) {
        self.list[self.groups[group.0].range()].iter_mut().for_each(|p| p.role = role);
    }
    /// Freezes the parameters with these names. Names that no parameter has are ignored.
    pub(crate) fn freeze_named(&mut self, names: &[String]) {
        self.list.iter_mut().filter(|p| names.contains(&p.name)).for_each(|p| p.frozen = true);
    }
    /// Freezes the parameter that was declared last.
    pub fn keep_last(&mut self) {
        self.list.iter_mut().next_back().into_iter().for_each(|p| p.frozen = true);
    }
    /// Trains all parameters of a group, also frozen ones.
    pub fn train(&mut self, group: Group) {
        self.list[self.groups[group.0].range()].iter_mut().for_each(|p| p.frozen = false);
    }
    /// Gives every parameter its arena and its offset. Groups begin at multiples of [`ALIGN`].
    fn place(&mut self) {
        self.lens = [0; 2];
        for g in &self.groups {
            let members = &mut self.list[g.range()];
            let trained = members.iter().any(|p| !p.frozen);
            let arena = if trained { ArenaKind::Trained } else { ArenaKind::Frozen };
            let end = &mut self.lens[arena as usize];
            for p in members {
                (p.arena, p.offset) = (arena, *end);
                *end += p.len();
            }
            *end = end.next_multiple_of(ALIGN);
        }
    }
    /// The number of elements of an arena, from [`Params::new`] on.
    pub fn arena_len(&self, arena: ArenaKind) -> usize {
        self.lens[arena as usize]
    }
    /// The elements of the trained arena, from an array that also has a place for every frozen parameter, in
    /// the order of declaration: checkpoints had such arrays before there were two arenas. `None` if the
    /// array has another length.
    pub fn trained_of_all(&self, all: &[f32]) -> Option<Vec<f32>> {
        let mut trained = vec![0.0; self.arena_len(ArenaKind::Trained)];
        let mut at = 0;
        for g in &self.groups {
            let members = &self.list[g.range()];
            let len: usize = members.iter().map(Param::len).sum();
            let from = all.get(at..at + len)?;
            if let Some(first) = members.first().filter(|p| p.arena == ArenaKind::Trained) {
                trained.get_mut(first.offset..first.offset + len)?.copy_from_slice(from);
            }
            at = (at + len).next_multiple_of(ALIGN);
        }
        (at == all.len()).then_some(trained)
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
    /// The segments of the trained arena with the same optimizer settings. `weight_decay` is for parameters
    /// that decay.
    pub fn segments(&self, weight_decay: f32) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut put = |len: usize, decay: f32, lr_scale: f32, frozen: bool| match segments.last_mut() {
            Some(s) if (s.decay, s.lr_scale, s.frozen) == (decay, lr_scale, frozen) => s.len += len,
            _ if len > 0 => segments.push(Segment { len, decay, lr_scale, frozen }),
            _ => {}
        };
        let mut at = 0;
        for p in self.list.iter().filter(|p| p.arena == ArenaKind::Trained) {
            // Gaps hold zeros and stay so.
            put(p.offset - at, 0.0, 1.0, true);
            put(p.len(), if p.decay { weight_decay } else { 0.0 }, p.lr_scale, p.frozen);
            at = p.offset + p.len();
        }
        put(self.arena_len(ArenaKind::Trained) - at, 0.0, 1.0, true);
        segments
    }
}

/// Parameters in one allocation.
pub struct Arena {
    /// The (master) weights, f32 (elements).
    pub value: Tensor,
    /// The copy that kernels read, if the device computes in a 16-bit type: the weights rounded to it.
    pub copy: Option<Tensor>,
}

impl Arena {
    /// An arena of zeros, with a copy in the device's compute type if that is a 16-bit type.
    fn new(device: &Device, dtype: DType, len: usize) -> Result<Arena> {
        let value = device.zeros(dtype, &[len])?;
        let compute = device.caps().compute;
        let copied = compute.size() < dtype.size() && dtype == DType::F32;
        let copy = copied.then(|| device.zeros(compute, &[len])).transpose()?;
        Ok(Arena { value, copy })
    }
    fn bytes(&self) -> usize {
        self.value.spec.bytes() + self.copy.as_ref().map_or(0, |c| c.spec.bytes())
    }
}

/// Parameters on a device.
pub struct Params {
    layout: Layout,
    /// The arena of [`ArenaKind::Frozen`]; `None` if it would be empty.
    pub frozen: Option<Arena>,
    /// The arena of [`ArenaKind::Trained`]; empty if every parameter is frozen.
    pub trained: Arena,
    /// The gradients of the trained arena; `None` for evaluation, and if every parameter is frozen.
    pub training: Option<Training>,
    masks: Vec<PruningMask>,
}

/// What training takes besides values and the optimizer's states, for the trained arena.
pub struct Training {
    /// Gradients, as long as the values.
    pub grad: Tensor,
    /// The zero-block bitmap of the gradients, u32 (see [`ZeroBlocks`]). Without it gradients are read and
    /// zeroed completely.
    pub zero_blocks: Option<Tensor>,
}

/// The variables of all groups on one tape.
pub struct Bound {
    /// What the model computes with: masked weights where masks are not in place.
    vars: Vec<Var>,
    /// What stands in the arenas.
    leaves: Vec<Var>,
}

impl Bound {
    /// The variable of a group.
    pub fn var(&self, group: Group) -> Var {
        self.vars[group.0].clone()
    }
}

impl Params {
    /// Gives the parameters their places in the arenas and allocates these in `dtype` (f32, or f64 for
    /// gradient checks), filled with zeros, with a copy in the device's compute type if that is a 16-bit
    /// type.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if there is not enough memory.
    pub fn new(device: &Device, mut layout: Layout, dtype: DType, training: bool) -> Result<Params> {
        layout.place();
        let [trained, frozen] = layout.lens;
        let training = if training && trained > 0 {
            let zero_blocks = Some(device.zeros(DType::U32, &[ZeroBlocks::words(trained)])?);
            Some(Training { grad: device.zeros(dtype, &[trained])?, zero_blocks })
        } else {
            None
        };
        let frozen = (frozen > 0).then(|| Arena::new(device, dtype, frozen)).transpose()?;
        let trained = Arena::new(device, dtype, trained)?;
        let mut params = Params { frozen, trained, training, layout, masks: Vec::new() };
        params.add_masks(device)?;
        Ok(params)
    }
    /// Updates the copies that kernels read. Call it after the host has written weights.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn refresh(&self, device: &Device) -> Result<()> {
        for arena in self.frozen.iter().chain([&self.trained]) {
            if let Some(copy) = &arena.copy {
                device.step(&Cast, &[&arena.value, copy])?;
            }
        }
        Ok(())
    }
    /// The names, shapes and offsets.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// The arena of a kind. Without frozen parameters none has a place in the other one.
    fn arena(&self, kind: ArenaKind) -> &Arena {
        match kind {
            ArenaKind::Trained => &self.trained,
            ArenaKind::Frozen => self.frozen.as_ref().unwrap_or(&self.trained),
        }
    }
    /// The (master) weights of a parameter, f32, in its shape.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the parameter is not one of these.
    pub fn value(&self, p: &Param) -> Result<Tensor> {
        self.arena(p.arena).value.view(p.offset, &p.shape)
    }
    /// The gradient of a parameter, in its shape; `None` if it has none.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if the parameter is not one of these.
    pub fn grad(&self, p: &Param) -> Result<Option<Tensor>> {
        let training = self.training.as_ref().filter(|_| p.arena == ArenaKind::Trained);
        training.map(|t| t.grad.view(p.offset, &p.shape)).transpose()
    }
    /// The view of a parameter of the trained arena in a tensor of the arena's length, such as a state of the
    /// optimizer.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for a parameter of the frozen arena, and one that does not
    /// lie in the tensor.
    pub fn view(&self, arena: &Tensor, p: &Param) -> Result<Tensor> {
        match p.arena {
            ArenaKind::Trained => arena.view(p.offset, &p.shape),
            ArenaKind::Frozen => Err(Error::shape(format!(
                "`{}` is frozen: it has no gradient and no optimizer state",
                p.name
            ))),
        }
    }
    /// The size of all arenas in bytes, without the optimizer's states.
    pub fn bytes(&self) -> usize {
        let arenas = self.frozen.iter().chain([&self.trained]).map(Arena::bytes).sum::<usize>();
        let masks = self.masks.iter().map(|m| m.mask.spec.bytes()).sum::<usize>();
        arenas + masks + self.training.as_ref().map_or(0, |t| t.grad.spec.bytes())
    }
    /// Puts every group on a tape: those of the trained arena as leaves with gradients if the tape records,
    /// and all others as constants. `filled`: whether the gradients hold those of earlier micro-batches, to
    /// be added to.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) if a view does not fit the arena.
    pub fn bind(&self, tape: &mut Tape, filled: bool) -> Result<Bound> {
        let mut leaves = Vec::with_capacity(self.layout.groups.len());
        for (i, g) in self.layout.groups.iter().enumerate() {
            let first = self.layout.list[g.range()].first();
            let (kind, offset) = first.map_or_else(Default::default, |p| (p.arena, p.offset));
            let arena = self.arena(kind);
            // The gradient of a mask is that of the scores which it is chosen by.
            let value = match self.masks.iter().find(|m| m.is_chosen_by(i)) {
                Some(m) => m.mask.clone(),
                None => arena.copy.as_ref().unwrap_or(&arena.value).view(offset, &g.shape)?,
            };
            leaves.push(match &self.training {
                Some(t) if tape.recording() && kind == ArenaKind::Trained => {
                    let grad = t.grad.view(offset, &g.shape)?;
                    let bits = t.zero_blocks.clone().filter(|_| g.table);
                    let zero_blocks = bits.map(|bits| ZeroBlocks { bits, first: offset });
                    tape.leaf(Leaf { value, grad, filled, zero_blocks })
                }
                _ => tape.constant(value),
            });
        }
        let mut vars = leaves.clone();
        for m in self.masks.iter().filter(|m| !m.is_in_place()) {
            let mask = m.scores_in(&leaves).unwrap_or_else(|| tape.constant(m.mask.clone()));
            let (weight, group) = (&mut vars, m.group());
            weight[group] = tape.apply(WeightMask, [weight[group].clone(), mask])?;
        }
        Ok(Bound { vars, leaves })
    }
    /// The names of the parameters of variables on a tape.
    pub fn names(&self, bound: &Bound, vars: &[Var]) -> Vec<String> {
        let groups = self.layout.groups.iter().zip(&bound.leaves).filter(|(_, v)| vars.contains(v));
        groups
            .flat_map(|(g, _)| &self.layout.list[g.range()])
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
        for p in self.layout.list.iter().filter(|p| p.frozen) {
            if let Some(grad) = self.grad(p)? {
                device.zero(&grad)?;
            }
        }
        Ok(())
    }
    /// The number of elements of all parameters of the model, and of trained ones.
    pub fn count(&self) -> (usize, usize) {
        let own = || self.layout.list.iter().filter(|p| p.is_exported());
        let sum = |trained: bool| own().filter(|p| !(trained && p.frozen)).map(Param::len).sum();
        (sum(false), sum(true))
    }
    /// The spec of the trained arena.
    pub fn spec(&self) -> &Spec {
        &self.trained.value.spec
    }
}
