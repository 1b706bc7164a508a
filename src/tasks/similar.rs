//! How alike two texts are, by the vectors of each: what sentence-transformers trains (Reimers & Gurevych
//! 2019).

use super::regress::{measured, uncorrelated};
use super::{DataKind, Meter, SoftKind, SoftOutput, Task, TaskEntry, only, reals, unlabelled};
use crate::data::{Batch, TokenSet};
use crate::error::Result;
use crate::metrics::{Regression, Scores, realistic_rank};
use crate::models::Outputs;
use crate::ops::Activation;
use crate::ops::cross_entropy::{CrossEntropy, IGNORE};
use crate::ops::dot::Dot;
use crate::ops::gather::Gather;
use crate::ops::linear::Linear;
use crate::ops::mse::Mse;
use crate::ops::normalize::Normalize;
use crate::ops::residual::Residual;
use crate::shape::DType;
use crate::tape::{Tape, Var};
use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};

/// Which loss is minimised: a setting of the recipe. [`SimilarityLoss`] has the numbers that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairLoss {
    /// The squared difference of cosine similarity and label.
    Cosine,
    /// Cross-entropy of the right partner among those of all pairs in the batch.
    Contrastive,
}

impl PairLoss {
    /// Its name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Contrastive => "contrastive",
        }
    }
    /// The task with this loss, as the table of metrics names it.
    pub fn task(self) -> &'static str {
        match self {
            Self::Cosine => COSINE,
            Self::Contrastive => CONTRASTIVE,
        }
    }
    /// The default of `train.best_metric` with this loss.
    pub fn best_metric(self) -> &'static str {
        match self {
            Self::Cosine => ENTRY.best_metric,
            Self::Contrastive => "mrr",
        }
    }
}

/// `similar` with the loss that has labels, and with the one that has none, in the table of metrics.
pub const COSINE: &str = "similar (cosine)";
/// See [`COSINE`].
pub const CONTRASTIVE: &str = "similar (contrastive)";

/// The task's entry in the table.
pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "similar",
    doc: "trains text embeddings",
    best_metric: "spearman",
    metrics: &[
        (COSINE, &["pearson", "spearman", "mse", "mae", "loss"]),
        (CONTRASTIVE, &["accuracy", "mrr", "hits_10"]),
    ],
    data: DataKind::Rows,
    trains: |outputs| *outputs == Outputs::Embedding,
    sections: &["similar"],
    classes: false,
    weights: false,
    scores: &["correlation of cosine and label, or rank of the partner"],
    columns: &["similarity (the cosine of the two texts' vectors)"],
};

/// The task; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Similar {
    /// What is minimised.
    pub loss: SimilarityLoss,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SimilarityLoss {
    /// The squared difference of cosine similarity and label over `label_scale`: sentence-transformers'
    /// `CosineSimilarityLoss`.
    Cosine {
        /// What labels are divided by.
        label_scale: f64,
    },
    /// Cross-entropy of a text's own partner among the partners of all texts of the same optimizer step,
    /// cosine similarities over `temperature` being the logits: `MultipleNegativesRankingLoss`, van den Oord
    /// et al. 2018, eq. 4. A partner that is the text itself, the same text as its own partner, or the
    /// partner of the same text is left out: it is no negative.
    Contrastive {
        /// What similarities are divided by.
        temperature: f64,
    },
}

impl Task for Similar {
    fn outputs(&self) -> Outputs {
        Outputs::Embedding
    }
    fn weights(&self, batch: &Batch) -> [f64; 2] {
        [batch.len() as f64, 0.0]
    }
    fn least_examples(&self) -> usize {
        if let SimilarityLoss::Contrastive { .. } = self.loss { 2 } else { 1 }
    }
    fn loss(&self, tape: &mut Tape, outputs: &[Var], batch: &Batch, [scale, _]: [f64; 2]) -> Result<Var> {
        let (vectors, n) = (only(outputs)?, batch.len());
        let mut side = |first: u32, scale: f64| -> Result<Var> {
            let index: Vec<u32> = (0..n as u32).map(|i| 2 * i + first).collect();
            let index = tape.device().upload(DType::U32, &[n], &index)?;
            let index = tape.constant(index);
            let rows = tape.apply(Gather, [vectors.clone(), index])?;
            tape.apply(Normalize { scale: scale as f32 }, [rows])
        };
        match self.loss {
            SimilarityLoss::Cosine { label_scale } => {
                let values = batch.targets.values();
                if values.len() != n {
                    return Err(unlabelled());
                }
                let (u, v) = (side(0, 1.0)?, side(1, 1.0)?);
                let cosine = tape.apply(Dot, [u, v])?;
                let labels: Vec<f64> = values.iter().map(|&v| v as f64 / label_scale).collect();
                let labels = reals(tape, &cosine, &[n, 1], &labels)?;
                let scale = reals(tape, &cosine, &[1], &[scale])?;
                tape.apply(Mse, [cosine, labels, scale])
            }
            SimilarityLoss::Contrastive { temperature } => {
                let (u, v) = (side(0, 1.0 / temperature)?, side(1, 1.0)?);
                let mut logits = tape.apply(Linear { act: Activation::None }, [u, v])?;
                let repeated = repeated(batch);
                if !repeated.is_empty() {
                    let mut mask = vec![0.0; n * n];
                    // Below every other logit by so much that its exponential is 0 in f32; an infinity is not
                    // sure to be kept by a GPU.
                    repeated.iter().for_each(|&(i, j)| mask[i * n + j] = -(2.0 / temperature + 200.0));
                    let mask = tape.device().upload_reals(logits.value().spec.dtype, &[n, n], &mask)?;
                    let mask = tape.constant(mask);
                    logits = tape.apply(Residual { dropout: None }, [logits, mask])?;
                }
                let own: Vec<u32> = (0..n as u32).collect();
                let own = tape.device().upload(DType::U32, &[n], &own)?;
                let scale = reals(tape, &logits, &[1], &[scale])?;
                let x = [logits, tape.constant(own), scale];
                tape.apply(
                    CrossEntropy { label_smoothing: 0.0, ignore_index: IGNORE, weighted: false, gamma: 0.0 },
                    x,
                )
            }
        }
    }
    fn soft(&self) -> Option<SoftOutput> {
        Some(SoftKind::Vectors.first())
    }
    fn spans_step(&self) -> bool {
        matches!(self.loss, SimilarityLoss::Contrastive { .. })
    }
    /// Steps with repeated texts add a mask.
    fn kernels(&self, batches: &[Batch]) -> u64 {
        u64::from(self.spans_step() && !repeated(&Batch::joined(batches)).is_empty())
    }
    fn uninformative(&self, metric: &str, set: &TokenSet) -> Result<Option<String>> {
        let pairs = set.len();
        Ok(match (self.loss, metric) {
            (SimilarityLoss::Cosine { .. }, _) => uncorrelated(metric, set.targets.values()),
            // Each text has its partner among the nearest ten of ten.
            (SimilarityLoss::Contrastive { .. }, "hits_10") if pairs <= 10 => {
                Some(format!("of {pairs} pairs every partner is among the nearest ten"))
            }
            (SimilarityLoss::Contrastive { .. }, _) if pairs < 2 => Some("there is one pair only".to_owned()),
            _ => None,
        })
    }
    fn meter(&self, _: &TokenSet) -> Box<dyn Meter> {
        Box::new(Compared {
            loss: self.loss,
            sums: Regression::new(),
            sides: [Vec::new(), Vec::new()],
            ranks: OnceCell::new(),
        })
    }
}

/// Which partners (the second) are no negatives of which texts (the first) of other pairs, by the tokens.
fn repeated(batch: &Batch) -> Vec<(usize, usize)> {
    let mut places: HashMap<&[u32], [Vec<usize>; 2]> = HashMap::new();
    for i in 0..batch.len() {
        for side in 0..2 {
            places.entry(batch.sequence(2 * i + side)).or_default()[side].push(i);
        }
    }
    let mut found = BTreeSet::new();
    for [texts, partners] in places.values() {
        // Texts with one partner in common; one text with several partners; partners that are the text of
        // another pair.
        for (rows, columns) in [(partners, partners), (texts, texts), (texts, partners)] {
            found.extend(rows.iter().flat_map(|&i| columns.iter().map(move |&j| (i, j))));
        }
    }
    found.into_iter().filter(|(i, j)| i != j).collect()
}

/// A vector of length 1; one of zeros stays.
pub fn unit(v: &[f32]) -> Vec<f32> {
    let norm = v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
    v.iter().map(|&x| (f64::from(x) / norm) as f32).collect()
}

/// The cosine of two vectors, as it is scored.
pub fn similarity(u: &[f32], v: &[f32]) -> f64 {
    dot(&unit(u), &unit(v))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

struct Compared {
    loss: SimilarityLoss,
    sums: Regression,
    /// The vectors of all pairs, of length 1, where partners are searched for.
    sides: [Vec<Vec<f32>>; 2],
    ranks: OnceCell<Vec<f64>>,
}

impl Compared {
    /// The rank of each text's own partner among those of all; with ties the mean of the best and the worst.
    fn ranks(&self) -> &[f64] {
        self.ranks.get_or_init(|| {
            let [us, vs] = &self.sides;
            let one = |(i, u): (usize, &Vec<f32>)| {
                let others = vs.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, v)| dot(u, v) as f32);
                realistic_rank(dot(u, &vs[i]) as f32, others)
            };
            us.iter().enumerate().map(one).collect()
        })
    }
}

/// The scores of ranks.
fn of_ranks(ranks: impl Iterator<Item = f64> + Clone) -> Scores {
    let n = ranks.clone().count() as f64;
    let mean = |f: &dyn Fn(f64) -> f64| ranks.clone().map(f).sum::<f64>() / n;
    [
        ("accuracy", mean(&|r| f64::from(u8::from(r < 2.0)))),
        ("mrr", mean(&|r| 1.0 / r)),
        ("hits_10", mean(&|r| f64::from(u8::from(r <= 10.0)))),
    ]
    .into_iter()
    .collect()
}

impl Meter for Compared {
    fn add(&mut self, outputs: &[Vec<f32>], batch: &Batch) -> Result<()> {
        let vectors = only(outputs)?;
        let width = vectors.len() / (2 * batch.len()).max(1);
        for (i, pair) in vectors.chunks_exact((2 * width).max(1)).take(batch.len()).enumerate() {
            let (u, v) = pair.split_at(width);
            let (u, v) = (unit(u), unit(v));
            match self.loss {
                SimilarityLoss::Cosine { label_scale } => {
                    let Some(&label) = batch.targets.values().get(i) else { return Err(unlabelled()) };
                    let (p, t) = (dot(&u, &v), f64::from(label) / label_scale);
                    self.sums.add(p, t, (p - t) * (p - t));
                }
                SimilarityLoss::Contrastive { .. } => {
                    self.sides[0].push(u);
                    self.sides[1].push(v);
                }
            }
        }
        Ok(())
    }
    fn scores(&self) -> Scores {
        match self.loss {
            SimilarityLoss::Cosine { .. } => self.sums.scores(),
            SimilarityLoss::Contrastive { .. } => of_ranks(self.ranks().iter().copied()),
        }
    }
    fn report(&self) -> String {
        let n = self.sums.len().max(self.sides[0].len() as u64);
        format!("{n} pairs: {}", self.scores())
    }
    fn units(&self) -> usize {
        self.sums.pairs().len().max(self.sides[0].len())
    }
    /// Of texts that look for their partner, the ranks among all are drawn.
    fn scores_of(&self, drawn: &[usize]) -> Scores {
        match self.loss {
            SimilarityLoss::Cosine { .. } => measured(self.sums.pairs(), drawn).scores(),
            SimilarityLoss::Contrastive { .. } => {
                of_ranks(drawn.iter().filter_map(|&i| self.ranks().get(i).copied()))
            }
        }
    }
}
