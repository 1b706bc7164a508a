//! Scores of a ranking: where the right candidate stands among all.

use super::{Scores, mean};
use crate::error::{Error, Result};

/// The rank of a right candidate among `others`, counted from 1, ties taken as they fall on average: the mean
/// of the optimistic rank 1 + #(above) and the pessimistic one 1 + #(above or equal). A model that scores all
/// n candidates alike has rank (n + 1) / 2, not 1. NaN counts as above everything, and a right candidate that
/// is NaN stands below everything.
pub fn realistic_rank(target: f32, others: impl IntoIterator<Item = f32>) -> f64 {
    let (mut above, mut equal) = (0u64, 0u64);
    for other in others {
        above += u64::from(other > target || other.is_nan() || target.is_nan());
        equal += u64::from(other == target);
    }
    1.0 + above as f64 + equal as f64 / 2.0
}

/// Accumulates ranks. Memory: a count for each k of Hits@k and a few sums.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    hits: Vec<(u32, u64)>,
    ranks: f64,
    reciprocal: f64,
    /// Σ (candidates + 1) / 2: the ranks of a model that knows nothing.
    chance: f64,
    queries: u64,
}

impl Default for Ranking {
    fn default() -> Self {
        Self::new(&[1, 3, 10])
    }
}

impl Ranking {
    /// Nothing counted yet; Hits@k for each of `ks`.
    pub fn new(ks: &[u32]) -> Self {
        let hits = ks.iter().map(|k| (*k, 0)).collect();
        Self { hits, ranks: 0.0, reciprocal: 0.0, chance: 0.0, queries: 0 }
    }
    /// Counts a query by the rank of its right candidate among `candidates`, the right one included.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for a rank that is not between 1 and `candidates`.
    pub fn add(&mut self, rank: f64, candidates: u64) -> Result<()> {
        if !(1.0..=candidates as f64).contains(&rank) {
            let e = Error::shape("a rank is not among its candidates");
            return Err(e.with_expected(format!("1 to {candidates}")).with_found(rank.to_string()));
        }
        self.hits.iter_mut().for_each(|(k, n)| *n += u64::from(rank <= f64::from(*k)));
        self.ranks += rank;
        self.reciprocal += 1.0 / rank;
        self.chance += (candidates as f64 + 1.0) / 2.0;
        self.queries += 1;
        Ok(())
    }
    /// Adds what another accumulator counted. Refuses one with Hits@k of other k.
    ///
    /// # Errors
    /// [`Kind::Shape`](crate::error::Kind::Shape) for Hits@k of other k.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let ks = |m: &Self| m.hits.iter().map(|(k, _)| *k).collect::<Vec<_>>();
        if ks(self) != ks(other) {
            let e = Error::shape("accumulators of other Hits@k cannot be merged");
            return Err(e.with_expected(format!("{:?}", ks(self))).with_found(format!("{:?}", ks(other))));
        }
        self.hits.iter_mut().zip(&other.hits).for_each(|(a, b)| a.1 += b.1);
        self.ranks += other.ranks;
        self.reciprocal += other.reciprocal;
        self.chance += other.chance;
        self.queries += other.queries;
        Ok(())
    }
    /// Number of queries.
    pub fn len(&self) -> u64 {
        self.queries
    }
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.queries == 0
    }
    /// Mean rank, from 1; NaN for none.
    pub fn mean_rank(&self) -> f64 {
        mean(self.ranks, self.queries)
    }
    /// Mean of 1 / rank; NaN for none.
    pub fn mrr(&self) -> f64 {
        mean(self.reciprocal, self.queries)
    }
    /// Adjusted mean rank index 1 − Σ (rank − 1) / Σ (chance − 1): 1 is perfect, 0 is chance (Berrendorf et
    /// al. 2020); NaN where every query has one candidate.
    pub fn adjusted(&self) -> f64 {
        let n = self.queries as f64;
        1.0 - (self.ranks - n) / (self.chance - n)
    }
    /// `mrr`, `mean_rank`, `adjusted_mean_rank_index` and `hits@k` for each k.
    pub fn scores(&self) -> Scores {
        let all = [
            ("mrr", self.mrr()),
            ("mean_rank", self.mean_rank()),
            ("adjusted_mean_rank_index", self.adjusted()),
        ];
        let all = all.map(|(name, v)| (name.to_owned(), v)).into_iter();
        all.chain(self.hits.iter().map(|(k, n)| (format!("hits@{k}"), mean(*n as f64, self.queries))))
            .collect()
    }
}
