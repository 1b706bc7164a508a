//! Soft targets: how far the outputs of a model are from those of a teacher (Hinton et al. 2015, "Distilling
//! the Knowledge in a Neural Network"), for each kind of outputs.
//!
//! With the model's outputs s, the teacher's t and the temperature T:
//!
//! - classes: T^2 KL(softmax(t / T) || softmax(s / T)) of a row, weighted as the task's loss weighs the row;
//! - labels: T^2 times the sum over the labels of KL(Bernoulli(sigmoid(t / T)) || Bernoulli(sigmoid(s / T)));
//! - a number: ((s - t) / unit)^2, both in original units, with the unit of the task's loss;
//! - spans: the mean of two divergences as for classes, of where an answer starts and of where it ends, over
//!   the tokens of the sequence;
//! - vectors: 1 - cos(s, t), the mean over the two texts of a pair.
//!
//! Each is 0 for outputs that agree. Its scale is that of the task's loss.

use super::{Task, reals, row_weights, total, unlabelled, weight};
use crate::data::{Batch, TokenSet};
use crate::error::{Error, Result};
use crate::ops::Activation;
use crate::ops::binary_cross_entropy::BinaryCrossEntropy;
use crate::ops::linear::Linear;
use crate::ops::mask::WeightMask;
use crate::ops::mse::Mse;
use crate::ops::normalize::Normalize;
use crate::ops::residual::Residual;
use crate::ops::soft_cross_entropy::SoftCrossEntropy;
use crate::shape::DType;
use crate::tape::{Tape, Var};

/// Which output of a task's model is compared with a teacher's, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftOutput {
    /// The measure.
    pub kind: SoftKind,
    /// Which of the model's outputs, and with it which part of the task's loss: see [`Task::weights`].
    pub output: usize,
}

/// The measure; see the module.
#[derive(Clone, Debug, PartialEq)]
pub enum SoftKind {
    /// Logits of classes that exclude each other, a row for each example.
    Classes,
    /// The same, a row for each token. The weights are [`Task::class_rows`].
    Tags,
    /// Logits of independent labels, a row for each example, with the weight of each label in the loss.
    Labels(Option<Vec<f32>>),
    /// A number for each example.
    Number {
        /// What an output of 0 stands for in original units, in which a teacher's outputs are.
        shift: f64,
        /// What an output of 1 stands for, less `shift`.
        scale: f64,
        /// What differences are divided by.
        unit: f64,
    },
    /// Start and end logits of each token.
    Span,
    /// Two vectors for each example.
    Vectors,
}

impl SoftKind {
    /// The measure for a model's first output.
    pub fn first(self) -> SoftOutput {
        SoftOutput { kind: self, output: 0 }
    }
    /// A teacher's output as the student's model would give it: a number in the units of training.
    pub fn in_units(&self, output: f64) -> f64 {
        match self {
            Self::Number { shift, scale, .. } => (output - shift) / scale,
            _ => output,
        }
    }
}

impl SoftOutput {
    /// Where the rows of each example begin among those of a set, and where the last one ends: (examples +
    /// 1).
    pub fn rows(&self, set: &TokenSet) -> Vec<usize> {
        match self.kind {
            SoftKind::Tags | SoftKind::Span => set.offsets.iter().map(|at| *at as usize).collect(),
            SoftKind::Vectors => (0..=set.len()).map(|i| 2 * i).collect(),
            _ => (0..=set.len()).collect(),
        }
    }
    /// Records the measure for a batch, its sum times `scale`, from the outputs of the model and those of the
    /// teacher: these are of one example after the other, without rows for padding. `temperature`: T.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for outputs of the teacher of another number;
    /// [`Kind::Data`](crate::error::Kind::Data) for examples without labels whose weights depend on them;
    /// those of the ops.
    pub fn loss(
        &self,
        tape: &mut Tape,
        task: &dyn Task,
        outputs: &[Var],
        batch: &Batch,
        (teacher, temperature): (&[f64], f64),
        scale: f64,
    ) -> Result<Var> {
        let missing = || Error::shape("the model lacks the output that is compared with the teacher's");
        let student = outputs.get(self.output).ok_or_else(missing)?;
        let (rows, width) = student.value().spec.rows_cols();
        // Rows that pad the batch have weight 0, or no sequence has them.
        let padded = matches!(self.kind, SoftKind::Tags | SoftKind::Span);
        let mut teacher = teacher.to_vec();
        if teacher.len() != rows * width && !(padded && teacher.len() < rows * width) {
            return Err(Error::shape("the teacher's outputs do not fit the model's")
                .with_expected(format!("{rows} rows of {width}"))
                .with_found(format!("{} numbers", teacher.len())));
        }
        teacher.resize(rows * width, 0.0);
        let shape = [rows, width];
        match &self.kind {
            SoftKind::Classes | SoftKind::Tags => {
                let weights = match task.class_rows(batch).filter(|_| self.output == 0) {
                    Some(weights) => weights,
                    None => (0..batch.len()).map(|example| weight(batch, example)).collect(),
                };
                if weights.len() != rows {
                    return Err(unlabelled());
                }
                let teacher = reals(tape, student, &shape, &teacher)?;
                let weights = reals(tape, student, &[rows], &weights)?;
                let scale = reals(tape, student, &[1], &[scale])?;
                let op = SoftCrossEntropy { temperature: temperature as f32 };
                tape.apply(op, [student.clone(), teacher, weights, scale])
            }
            SoftKind::Labels(of_labels) => {
                labels(tape, student, batch, &teacher, of_labels.as_deref(), temperature, scale)
            }
            SoftKind::Number { scale: one, unit, .. } => {
                let targets: Vec<f64> = teacher.iter().map(|t| self.kind.in_units(*t)).collect();
                let scale = scale * (one / unit).powi(2);
                let mut x = vec![
                    student.clone(),
                    reals(tape, student, &shape, &targets)?,
                    reals(tape, student, &[1], &[scale])?,
                ];
                x.extend(row_weights(tape, student, batch)?);
                tape.apply(Mse, x)
            }
            SoftKind::Span => spans(tape, student, batch, &teacher, temperature, scale),
            SoftKind::Vectors => {
                // |u - v|^2 = 2 - 2 cos(u, v) for vectors of length 1, and there are two of each example.
                let unit = |row: &[f64]| -> Vec<f64> {
                    let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
                    row.iter().map(|x| x / norm).collect()
                };
                let targets: Vec<f64> = teacher.chunks_exact(width.max(1)).flat_map(unit).collect();
                let vectors = tape.apply(Normalize { scale: 1.0 }, [student.clone()])?;
                let targets = reals(tape, &vectors, &shape, &targets)?;
                let scale = reals(tape, &vectors, &[1], &[scale / 4.0])?;
                tape.apply(Mse, [vectors, targets, scale])
            }
        }
    }
}

/// log(1 + exp(z)).
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// The cross-entropy of the teacher's decisions less their entropy, which no model changes.
fn labels(
    tape: &mut Tape,
    student: &Var,
    batch: &Batch,
    teacher: &[f64],
    of_labels: Option<&[f32]>,
    temperature: f64,
    scale: f64,
) -> Result<Var> {
    let (rows, width) = student.value().spec.rows_cols();
    let scale = scale * temperature * temperature;
    let device = tape.device();
    let inverse = device.upload_reals(student.value().spec.dtype, &[1, 1], &[1.0 / temperature])?;
    let inverse = tape.constant(inverse);
    let logits = tape.apply(WeightMask, [student.clone(), inverse])?;
    let probability = |t: &f64| (-softplus(-t / temperature)).exp();
    let targets: Vec<f64> = teacher.iter().map(probability).collect();
    let mut x = vec![
        logits.clone(),
        reals(tape, &logits, &[rows, width], &targets)?,
        reals(tape, &logits, &[1], &[scale])?,
    ];
    let of_labels: Option<Vec<f64>> = of_labels.map(|w| w.iter().map(|&w| f64::from(w)).collect());
    if let Some(weights) = &of_labels {
        x.push(reals(tape, &logits, &[weights.len()], weights)?);
    }
    x.extend(row_weights(tape, &logits, batch)?);
    let loss = tape.apply(BinaryCrossEntropy { weighted: of_labels.is_some(), gamma: 0.0 }, x)?;
    let entropy = |(i, t): (usize, &f64)| {
        let z = t / temperature;
        let of_label = of_labels.as_ref().and_then(|w| w.get(i % width)).copied().unwrap_or(1.0);
        let p = (-softplus(-z)).exp();
        weight(batch, i / width) * of_label * (p * softplus(-z) + (1.0 - p) * softplus(z))
    };
    let entropy: f64 = teacher.iter().enumerate().map(entropy).sum();
    let entropy = reals(tape, &logits, &[1], &[-scale * entropy])?;
    total(tape, [loss, entropy])
}

/// Start and end logits become rows over all tokens of the batch, two for each sequence, in which the tokens
/// of other sequences have no probability.
fn spans(
    tape: &mut Tape,
    student: &Var,
    batch: &Batch,
    teacher: &[f64],
    temperature: f64,
    scale: f64,
) -> Result<Var> {
    let (tokens, n) = (student.value().spec.rows_cols().0, batch.sequences());
    let rows = 2 * n;
    // So far below all logits that the exponential is 0; an infinity is not sure to be kept by a GPU.
    let most = if student.value().spec.dtype == DType::F16 { 60000.0 } else { f64::from(f32::MAX) / 4.0 };
    let outside = -(1000.0 * temperature.max(1.0)).min(most);
    let mut mask = vec![outside; rows * tokens];
    let mut targets = mask.clone();
    for (sequence, bounds) in batch.cu_seqlens.windows(2).take(n).enumerate() {
        for column in 0..2 {
            for token in bounds[0] as usize..bounds[1] as usize {
                let at = (2 * sequence + column) * tokens + token;
                mask[at] = 0.0;
                targets[at] = teacher[2 * token + column];
            }
        }
    }
    let dtype = student.value().spec.dtype;
    let chosen: Vec<f64> = (0..rows).flat_map(|row| [(row + 1) % 2, row % 2]).map(|v| v as f64).collect();
    let chosen = tape.device().upload_reals(dtype, &[rows, 2], &chosen)?;
    let chosen = tape.constant(chosen);
    let logits = tape.apply(Linear { act: Activation::None }, [chosen, student.clone()])?;
    let mask = tape.device().upload_reals(dtype, &[rows, tokens], &mask)?;
    let mask = tape.constant(mask);
    let logits = tape.apply(Residual { dropout: None }, [logits, mask])?;
    let targets = reals(tape, &logits, &[rows, tokens], &targets)?;
    let weights = reals(tape, &logits, &[rows], &vec![0.5; rows])?;
    let scale = reals(tape, &logits, &[1], &[scale])?;
    let op = SoftCrossEntropy { temperature: temperature as f32 };
    tape.apply(op, [logits, targets, weights, scale])
}
