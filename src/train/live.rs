//! Losses that compare the inside of a student with that of a teacher which runs beside it.
//!
//! - hidden states: sum over the pairs of layers of the mean distance of a token, by mean square (Jiao et al.
//!   2020, "TinyBERT", eq. 8) or cosine (Sanh et al. 2019, "DistilBERT", sec. 3). Of the embeddings likewise
//!   (TinyBERT, eq. 9). States of another width go through one linear map that all layers share.
//! - relations: MiniLM-v2 (Wang et al. 2021, eq. 5 to 7), [`Relation`]: of a layer of the teacher and the
//!   last one of the student, the mean over the sequences.
//! - logits: T^2 KL, the mean over the masked tokens, or over the rows that count in the task's loss.
//!
//! Means are over the tokens, sequences and masked tokens of the optimizer step, so that the sum does not
//! depend on how the step is cut into micro-batches. Every token of a sequence counts, special ones too;
//! padding does not.

use super::objective::TapedPass;
use super::recipe::{Distillation, HiddenLoss, LayerMap, Recipe, TaskKind};
use crate::compress::LiveTeacher;
use crate::data::IGNORED;
use crate::error::{Error, Result};
use crate::nn::{EncoderConfig, Taps};
use crate::ops::Activation;
use crate::ops::hidden_match::{HiddenMatch, RowDistance};
use crate::ops::linear::Linear;
use crate::ops::relation::Relation;
use crate::ops::soft_cross_entropy::SoftCrossEntropy;
use crate::tape::{Tape, Var};
use crate::tasks::{Task, reals};
use std::fmt;

/// The losses of a live teacher, each with its factor; 0 turns one off.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveLosses {
    /// On the divergence of the logits: at masked tokens, or in the rows that count in the task's loss.
    pub logits: f64,
    /// For each of the student's logits, which of the teacher's it is compared with; empty if they have one
    /// order.
    order: Vec<usize>,
    /// The temperature of the logits.
    pub temperature: f64,
    /// On the distance of hidden states.
    pub hidden: f64,
    /// The layers that are compared, each of the student with one of the teacher, counted from 0.
    pub layers: Vec<[usize; 2]>,
    /// On the distance of the embeddings, the input of the first layers.
    pub embedding: f64,
    /// How a row of hidden states or embeddings is measured.
    pub distance: RowDistance,
    /// The width of the teacher's states, if a linear map takes the student's there.
    pub projection: Option<usize>,
    /// On the divergence of the relations.
    pub relation: f64,
    /// The number of relation heads.
    pub heads: usize,
    /// The teacher's layer whose relations are the target.
    pub relation_layer: usize,
    /// Its place among the teacher's layers that have heads.
    relation_tap: usize,
}

/// The most relation heads that are chosen without being asked for: those of MiniLM-v2 for BERT-base.
const RELATION_HEADS: usize = 48;

impl LiveLosses {
    /// The losses that a recipe asks for, between two encoders. `None` if it asks for none.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for layers, widths and relation heads that the encoders do
    /// not have.
    pub fn of(
        recipe: &Recipe,
        student: &EncoderConfig,
        teacher: &EncoderConfig,
    ) -> Result<Option<LiveLosses>> {
        let d = &recipe.distill;
        if !recipe.has_live_teacher() {
            return Ok(None);
        }
        let [hidden, embedding, relation] = [d.hidden(), d.embedding(), d.relation()];
        let states = hidden > 0.0 || embedding > 0.0;
        let relation_layer = relation_layer(d, teacher.depth())?;
        let logits = if recipe.has_live_logits() { d.logits() } else { 0.0 };
        if logits > 0.0 && recipe.task == TaskKind::Mask && student.vocab != teacher.vocab {
            return Err(Error::usage("the teacher has another number of tokens than the student")
                .with_expected(format!("{} tokens (vocab_size in config.json)", student.vocab))
                .with_found(teacher.vocab.to_string())
                .with_help("choose another teacher, or set distill.logits_weight = 0"));
        }
        Ok(Some(LiveLosses {
            logits,
            order: Vec::new(),
            temperature: d.temperature,
            hidden,
            layers: if hidden > 0.0 { layers(d, student.depth(), teacher.depth())? } else { Vec::new() },
            embedding,
            distance: match d.hidden_loss {
                Some(HiddenLoss::Cosine) => RowDistance::Cosine,
                Some(HiddenLoss::Mse) | None => RowDistance::Mse,
            },
            projection: if states { projection(d, student.hidden, teacher.hidden)? } else { None },
            relation,
            heads: if relation > 0.0 { relation_heads(d, student, teacher)? } else { 0 },
            relation_layer,
            relation_tap: (0..relation_layer).filter(|&i| teacher.layer(i).heads > 0).count(),
        }))
    }

    /// The same, where the classes of the teacher have another order.
    pub fn with_order(self, order: Vec<usize>) -> LiveLosses {
        let ordered = order.iter().enumerate().all(|(i, at)| i == *at);
        LiveLosses { order: if ordered { Vec::new() } else { order }, ..self }
    }

    /// Taps for what these losses read.
    pub fn taps(&self) -> Taps {
        let taps =
            if self.hidden > 0.0 || self.embedding > 0.0 { Taps::none().with_hidden() } else { Taps::none() };
        if self.relation > 0.0 { taps.with_qkv() } else { taps }
    }

    /// Records the losses (1) of a micro-batch, each times its factor, from what the student gave: `student`
    /// has what [`LiveLosses::taps`] ask for, `logits` are its logits. `scale` is the factor on the sum over
    /// their rows.
    ///
    /// # Errors
    /// Those of the teacher and of the ops.
    pub fn record(
        &self,
        run: &mut TapedPass,
        (task, teacher): (&dyn Task, &LiveTeacher),
        student: &Taps,
        logits: Option<&Var>,
        scale: f64,
    ) -> Result<Vec<Var>> {
        let mut taps = self.taps();
        let target = teacher.run(run.tape.device(), run.inputs(), &mut taps)?;
        let mut losses = Vec::new();
        if self.logits > 0.0 {
            let (Some(logits), Some(target)) = (logits, target) else { return Err(missing("logits")) };
            let target = self.ordered(&mut run.tape, target)?;
            let counts = |id: &u32| if *id == IGNORED { 0.0 } else { 1.0 };
            let masked = || run.batch.targets.tokens().iter().map(counts).collect();
            let weights: Vec<f64> = task.class_rows(run.batch).unwrap_or_else(masked);
            let weights = reals(&mut run.tape, logits, &[weights.len()], &weights)?;
            let scale = reals(&mut run.tape, logits, &[1], &[self.logits * scale])?;
            let op = SoftCrossEntropy { temperature: self.temperature as f32 };
            losses.push(run.tape.apply(op, [logits.clone(), target, weights, scale])?);
        }
        if self.embedding > 0.0 {
            losses.push(self.state(run, self.embedding, [student, &taps], [0, 0])?);
        }
        if self.hidden > 0.0 {
            for [own, other] in &self.layers {
                losses.push(self.state(run, self.hidden, [student, &taps], [own + 1, other + 1])?);
            }
        }
        if self.relation > 0.0 {
            losses.push(self.relations(run, student, &taps)?);
        }
        Ok(losses)
    }

    /// The teacher's logits in the order of the student's: times a matrix of zeros and ones.
    fn ordered(&self, tape: &mut Tape, logits: Var) -> Result<Var> {
        let classes = self.order.len();
        if classes == 0 {
            return Ok(logits);
        }
        let mut matrix = vec![0.0; classes * classes];
        for (row, at) in self.order.iter().enumerate() {
            matrix[row * classes + at] = 1.0;
        }
        let matrix = tape.device().upload_reals(logits.value().spec.dtype, &[classes, classes], &matrix)?;
        let matrix = tape.constant(matrix);
        tape.apply(Linear { act: Activation::None }, [logits, matrix])
    }

    /// The distance of two hidden states.
    fn state(
        &self,
        run: &mut TapedPass,
        weight: f64,
        [student, teacher]: [&Taps; 2],
        at: [usize; 2],
    ) -> Result<Var> {
        let (Some(own), Some(target)) = (student.hidden.get(at[0]), teacher.hidden.get(at[1])) else {
            return Err(missing("hidden states"));
        };
        let mut own = own.clone();
        if self.projection.is_some() {
            own = run.project(own)?;
        }
        let (tokens, real) = (run.batch.ids.len(), run.batch.real_tokens());
        let weights: Vec<f64> = (0..tokens).map(|t| if t < real { 1.0 } else { 0.0 }).collect();
        let weights = reals(&mut run.tape, &own, &[tokens], &weights)?;
        let scale = reals(&mut run.tape, &own, &[1], &[weight / run.step.tokens.max(1) as f64])?;
        run.tape.apply(HiddenMatch { distance: self.distance }, [own, target.clone(), weights, scale])
    }

    /// The divergence of relations.
    fn relations(&self, run: &mut TapedPass, student: &Taps, teacher: &Taps) -> Result<Var> {
        let (Some(own), Some(target)) = (student.qkv.last(), teacher.qkv.get(self.relation_tap)) else {
            return Err(missing("queries, keys and values"));
        };
        let mut weights = vec![0.0; run.batch.ids.len()];
        for bounds in run.batch.cu_seqlens.windows(2).take(run.batch.sequences()) {
            let tokens = bounds[0] as usize..bounds[1] as usize;
            let weight = 1.0 / (self.heads * tokens.len().max(1)) as f64;
            weights.get_mut(tokens).into_iter().flatten().for_each(|w| *w = weight);
        }
        let bounds = run.inputs().sequences.clone();
        let weights = reals(&mut run.tape, own, &[weights.len()], &weights)?;
        let scale = reals(&mut run.tape, own, &[1], &[self.relation / run.step.sequences.max(1) as f64])?;
        let inputs = [target.clone(), own.clone(), bounds, weights, scale];
        run.tape.apply(Relation { heads: self.heads }, inputs)
    }
}

/// What a run says of its losses.
impl fmt::Display for LiveLosses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.logits > 0.0 {
            parts.push("logits".to_owned());
        }
        if self.embedding > 0.0 {
            parts.push("embeddings".to_owned());
        }
        if self.hidden > 0.0 {
            let pairs: Vec<String> = self.layers.iter().map(|[s, t]| format!("{s} from {t}")).collect();
            parts.push(format!("hidden states of layers {}", pairs.join(", ")));
        }
        if self.relation > 0.0 {
            let (layer, heads) = (self.relation_layer, self.heads);
            parts.push(format!("relations of layer {layer} in {heads} relation heads"));
        }
        f.write_str(&parts.join("; "))
    }
}

fn missing(what: &str) -> Error {
    Error::shape(format!("a pass of teacher or student gave no {what}"))
}

/// The pairs of layers: those that are named, the last ones, or with n layers of the student and m of the
/// teacher, layer i with layer (i + 1) m / n - 1, rounded down (TinyBERT, sec. 3.1: every m / n-th layer).
fn layers(d: &Distillation, student: usize, teacher: usize) -> Result<Vec<[usize; 2]>> {
    let key = "distill.hidden_layers";
    match &d.hidden_layers {
        Some(LayerMap::Last) => Ok(vec![[student - 1, teacher - 1]]),
        Some(LayerMap::Pairs(pairs)) => {
            for (side, count) in [(0, student), (1, teacher)] {
                let who = ["student", "teacher"][side];
                let Some(pair) = pairs.iter().find(|pair| pair[side] >= count) else { continue };
                return Err(Error::usage(format!(
                    "{key} names layer {} of the {who}, which it does not have",
                    pair[side]
                ))
                .with_expected(format!("layers of the {who} from 0 to {}", count - 1))
                .with_found(format!("[{}, {}]", pair[0], pair[1]))
                .with_help("write [layer of the student, layer of the teacher], counted from 0"));
            }
            if let Some((_, pair)) = pairs.iter().enumerate().find(|(i, pair)| pairs[..*i].contains(pair)) {
                return Err(Error::usage(format!("{key} has the same pair twice"))
                    .with_found(format!("[{}, {}]", pair[0], pair[1]))
                    .with_help("remove one of them, or raise distill.hidden_weight"));
            }
            Ok(pairs.clone())
        }
        None | Some(LayerMap::All) if student <= teacher => {
            Ok((0..student).map(|i| [i, (i + 1) * teacher / student - 1]).collect())
        }
        None | Some(LayerMap::All) => Err(Error::usage("the student has more layers than the teacher")
            .with_expected(format!("at most {teacher} layers, or pairs of layers in {key}"))
            .with_found(student.to_string())
            .with_help(format!("set {key} to pairs, or model.layers to fewer layers"))),
    }
}

/// The width that a linear map takes the student's states to, if there is one.
fn projection(d: &Distillation, student: usize, teacher: usize) -> Result<Option<usize>> {
    match d.projection {
        Some(true) => Ok(Some(teacher)),
        None => Ok((student != teacher).then_some(teacher)),
        Some(false) if student == teacher => Ok(None),
        Some(false) => Err(Error::usage("the hidden states of teacher and student have different widths")
            .with_expected("equal widths, or distill.projection = true")
            .with_found(format!("{teacher} (teacher), {student} (student)"))
            .with_help(
                "set distill.projection = true to train a linear map between them, or choose another student",
            )),
    }
}

/// The number of relation heads: as asked for, or the largest common divisor of both widths up to
/// [`RELATION_HEADS`].
fn relation_heads(d: &Distillation, student: &EncoderConfig, teacher: &EncoderConfig) -> Result<usize> {
    // The widths of queries, which in pruned layers are not those of hidden states.
    let own = student.layer(student.depth() - 1).attention();
    let other = teacher.layer(relation_layer(d, teacher.depth())?).attention();
    for (who, width) in [("student", own), ("teacher", other)] {
        if width == 0 {
            return Err(Error::usage(format!(
                "the {who} has no attention heads in the layer of the relations"
            ))
            .with_expected("a last layer of the student, and a distill.relation_layer, with heads")
            .with_help("set distill.relation_weight = 0, or choose another layer or model"));
        }
    }
    let divides = |heads: usize| own.is_multiple_of(heads) && other.is_multiple_of(heads);
    let most = (1..=RELATION_HEADS).rev().find(|&heads| divides(heads)).unwrap_or(1);
    match d.relation_heads {
        None => Ok(most),
        Some(heads) if divides(heads) => Ok(heads),
        Some(heads) => {
            Err(Error::usage(format!("distill.relation_heads ({heads}) does not divide both widths"))
                .with_expected("a common divisor of the widths of the queries of teacher and student")
                .with_found(format!("widths {other} (teacher) and {own} (student)"))
                .with_help(format!("set distill.relation_heads = {most}, or remove it")))
        }
    }
}

/// The teacher's layer whose relations are the target; by default the last one.
fn relation_layer(d: &Distillation, teacher: usize) -> Result<usize> {
    match d.relation_layer {
        Some(layer) if d.relation() > 0.0 && layer >= teacher => Err(Error::usage(format!(
            "distill.relation_layer names layer {layer}, which the teacher does not have"
        ))
        .with_expected(format!("a number from 0 to {}", teacher - 1))
        .with_help("count layers from 0, or remove the key for the last one")),
        layer => Ok(layer.unwrap_or(teacher - 1)),
    }
}
