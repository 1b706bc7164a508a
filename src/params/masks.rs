//! Pruning masks: tensors of 0 and 1 that weights are multiplied by before the model computes with them.
//!
//! A mask without scores masks in place: the weight is stored as 0 where it is masked, and its gradient and
//! the optimizer's states are set to 0 there, so that it stays 0. That saves the product in every pass. With
//! scores the weight keeps its values, which the gradient of the scores needs.

use super::{ArenaKind, Group, Layout, Param, ParamRole, Params};
use crate::device::{Device, Tensor};
use crate::error::Result;
use crate::ops::zero_masked::ZeroMasked;
use crate::tape::Var;

/// What an element of a pruning mask stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskUnit {
    /// One weight of a matrix of the encoder's layers.
    Weight,
    /// A head of attention: its columns of the output projection. Nothing else reads what the head computes.
    Head,
    /// A row of the feed-forward block's first map: its column of the second map, which alone reads it.
    Row,
}

impl MaskUnit {
    /// All of them, in the order in which masks are applied to a weight.
    pub const ALL: [MaskUnit; 3] = [MaskUnit::Weight, MaskUnit::Head, MaskUnit::Row];

    /// What stands before a weight's name in the names of its mask and its scores.
    fn prefix(self) -> &'static str {
        match self {
            MaskUnit::Weight => "",
            MaskUnit::Head => "heads.",
            MaskUnit::Row => "ffn.",
        }
    }
}

/// Which masks a model gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Masking {
    /// The units that are masked.
    pub units: Vec<MaskUnit>,
    /// The factor on the learning rate of the scores that masks are chosen by; `None`: there are none.
    pub scores: Option<f32>,
}

impl Masking {
    /// A mask for the elements of the encoder's matrices, without scores.
    pub fn weights() -> Masking {
        Masking { units: vec![MaskUnit::Weight], scores: None }
    }
}

/// A mask that is declared.
#[derive(Clone, Debug)]
pub(super) struct MaskLayout {
    group: usize,
    unit: MaskUnit,
    shape: [usize; 2],
    scores: Option<Group>,
}

impl Layout {
    /// Declares masks, and the scores that they are chosen by, which are trained parameters. Call it after
    /// all other parameters are declared and frozen. A weight whose parameters no loss reaches, as
    /// `unreached` names them, has nothing that could train a score: it gets no mask that needs one.
    pub fn mask(&mut self, wanted: &Masking, unreached: &[String]) {
        for group in 0..self.groups.len() {
            let g = self.groups[group].clone();
            let (Some(first), &[rows, cols]) = (self.list.get(g.first), &g.shape[..]) else { continue };
            let name = first.name.clone();
            if wanted.scores.is_some() && self.list[g.range()].iter().all(|p| unreached.contains(&p.name)) {
                continue;
            }
            let elements = g.prunable.then_some((MaskUnit::Weight, [rows, cols]));
            let columns = g.columns.map(|(unit, count)| (unit, [1, count]));
            for (unit, shape) in elements.into_iter().chain(columns) {
                if !wanted.units.contains(&unit) {
                    continue;
                }
                let scores = wanted.scores.map(|lr_scale| {
                    let scores = self.add(format!("scores.{}{name}", unit.prefix()), &shape);
                    if let Some(p) = self.list.iter_mut().next_back() {
                        (p.decay, p.lr_scale, p.role) = (false, lr_scale, ParamRole::Scores);
                    }
                    scores
                });
                self.masks.push(MaskLayout { group, unit, shape, scores });
            }
        }
    }
}

/// A pruning mask of a weight: 1 for what is kept, 0 for what is masked.
pub struct PruningMask {
    layout: MaskLayout,
    /// The name of the weight in checkpoints, that of the first parameter in it.
    name: String,
    /// The mask: (rows, cols) of the weight for single weights, (1, n) for its columns by n units. With
    /// scores it has the type that kernels read, else that of the weight.
    pub mask: Tensor,
    /// The (master) weight (rows, cols), f32. It keeps its values where it is masked if there are scores.
    pub weight: Tensor,
    /// Where the weight begins in the trained arena; `None` if it is frozen.
    offset: Option<usize>,
    /// The scores that the mask is chosen by, f32, in its shape; `None` if it is chosen by the weights.
    pub scores: Option<Tensor>,
    /// The gradient of the scores; `None` without scores, and for evaluation.
    pub scores_grad: Option<Tensor>,
}

impl PruningMask {
    /// What its elements stand for.
    pub fn unit(&self) -> MaskUnit {
        self.layout.unit
    }
    /// Its name in a checkpoint.
    pub fn name(&self) -> String {
        format!("mask.{}{}", self.layout.unit.prefix(), self.name)
    }
    /// The index of the group that it masks.
    pub(super) fn group(&self) -> usize {
        self.layout.group
    }
    /// Whether the scores of a group choose it.
    pub(super) fn is_chosen_by(&self, group: usize) -> bool {
        self.layout.scores == Some(Group(group))
    }
    /// Whether it is a mask of the same weight.
    pub fn shares_weight_with(&self, other: &PruningMask) -> bool {
        self.layout.group == other.layout.group
    }
    /// Whether the weight itself is 0 where it is masked; see the module.
    pub fn is_in_place(&self) -> bool {
        self.scores.is_none()
    }
    /// Sets what belongs to masked weights to 0 in a tensor of the trained arena's length, if the mask is one
    /// [in place](Self::is_in_place).
    fn zero_masked(&self, device: &Device, arena: &Tensor) -> Result<()> {
        match self.offset {
            Some(offset) if self.is_in_place() => {
                device.step(&ZeroMasked, &[&arena.view(offset, &self.weight.spec.shape)?, &self.mask])
            }
            _ => Ok(()),
        }
    }
    /// The variable of its scores among those of all groups.
    pub(super) fn scores_in(&self, vars: &[Var]) -> Option<Var> {
        self.layout.scores.and_then(|Group(i)| vars.get(i)).cloned()
    }
}

impl Params {
    /// Allocates the masks that the layout declares; they keep everything.
    pub(super) fn add_masks(&mut self, device: &Device) -> Result<()> {
        let mut masks = Vec::with_capacity(self.layout.masks.len());
        for m in &self.layout.masks {
            let g = &self.layout.groups[m.group];
            let Some(first) = self.layout.list[g.range()].first() else { continue };
            let arena = self.arena(first.arena);
            let weight = arena.value.view(first.offset, &g.shape)?;
            let read = arena.copy.as_ref().filter(|_| m.scores.is_some()).unwrap_or(&arena.value);
            let dtype = read.spec.dtype;
            let mask = device.upload_reals(dtype, &m.shape, &vec![1.0; m.shape.iter().product()])?;
            let scores = m.scores.and_then(|Group(i)| self.layout.list.get(self.layout.groups[i].first));
            let scores_grad = scores.map(|p| self.grad(p)).transpose()?.flatten();
            let scores = scores.map(|p| self.value(p)).transpose()?;
            let (layout, name) = (m.clone(), first.name.clone());
            let offset = (first.arena == ArenaKind::Trained).then_some(first.offset);
            masks.push(PruningMask { layout, name, mask, weight, offset, scores, scores_grad });
        }
        self.masks = masks;
        Ok(())
    }
    /// The masks, in the order of the weights.
    pub fn masks(&self) -> &[PruningMask] {
        &self.masks
    }
    /// Sets masked weights to 0 where masks are in place. Call it after masks were written.
    ///
    /// # Errors
    /// [`Kind::Memory`](crate::error::Kind::Memory) if the device has no memory left;
    /// [`Kind::Lost`](crate::error::Kind::Lost) if it was lost.
    pub fn zero_masked_weights(&self, device: &Device) -> Result<()> {
        let in_place = || self.masks.iter().filter(|m| m.is_in_place());
        in_place().try_for_each(|m| device.step(&ZeroMasked, &[&m.weight, &m.mask]))?;
        if in_place().next().is_some() { self.refresh(device) } else { Ok(()) }
    }
    /// Sets the gradients of masked weights to 0 where masks are in place, once all passes of a step have
    /// added theirs. [`Optimizer::step`](crate::optim::Optimizer::step) does it.
    ///
    /// # Errors
    /// As [`Params::zero_masked_weights`].
    pub fn zero_masked_gradients(&self, device: &Device) -> Result<()> {
        let Some(training) = &self.training else { return Ok(()) };
        self.zero_masked(device, &training.grad)
    }
    /// The same in any tensor of the trained arena's length, such as a state of the optimizer.
    ///
    /// # Errors
    /// As [`Params::zero_masked_weights`].
    pub fn zero_masked(&self, device: &Device, arena: &Tensor) -> Result<()> {
        self.masks.iter().try_for_each(|m| m.zero_masked(device, arena))
    }
    /// Whether a mask covers a parameter that keeps its values where it is masked.
    pub fn is_masked(&self, p: &Param) -> bool {
        let of = |m: &PruningMask| &self.layout.list[self.layout.groups[m.group()].range()];
        self.masks
            .iter()
            .filter(|m| !m.is_in_place())
            .any(|m| of(m).iter().any(|member| member.name == p.name))
    }
    /// Which elements of a parameter its masks keep, in the order of its elements: 1 or 0. `None` without a
    /// mask.
    ///
    /// # Errors
    /// [`Kind::Lost`](crate::error::Kind::Lost) if the device was lost.
    pub fn kept(&self, device: &Device, p: &Param) -> Result<Option<Vec<u8>>> {
        let mut kept: Option<Vec<u8>> = None;
        for m in &self.masks {
            let g = &self.layout.groups[m.group()];
            let members = &self.layout.list[g.range()];
            let (Some(first), true) = (members.first(), members.iter().any(|q| q.name == p.name)) else {
                continue;
            };
            let mask = device.read_reals(&m.mask)?;
            let ((rows, cols), [down, across]) = (m.weight.spec.rows_cols(), m.layout.shape);
            let [r, c] = [rows / down.max(1), cols / across.max(1)];
            let all = kept.get_or_insert_with(|| vec![1; p.len()]);
            for (i, k) in (p.offset - first.offset..).zip(all) {
                *k &= (mask[i / cols / r * across + i % cols / c] != 0.0) as u8;
            }
        }
        Ok(kept)
    }
}
