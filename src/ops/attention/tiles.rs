//! Chooses the tiles of the CUDA attention kernels, from the shared memory of a block and the sizes of the
//! batch. The host knows only the mean length of the sequences; the result is correct for any lengths.

/// What the tiles are chosen for.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionDesc {
    /// The largest shared memory of a block, in bytes.
    pub shared: usize,
    /// The number of multiprocessors.
    pub sms: u32,
    /// The compute capability, such as 80.
    pub capability: u32,
    /// Tokens, sequences and heads of the batch.
    pub batch: [usize; 3],
    /// The head dimension, 1 to 128.
    pub dim: usize,
    /// The window: a query sees keys nearer than this; 0: all keys.
    pub reach: usize,
}

impl AttentionDesc {
    /// The mean number of tokens of a sequence.
    fn mean(&self) -> usize {
        self.batch[0].div_ceil(self.batch[1].max(1))
    }
    /// How many tokens a token sees on one side. If a block owns more tokens than that, most tokens that it
    /// loads are seen by few of them.
    fn sight(&self) -> usize {
        if self.reach == 0 { self.mean() } else { self.mean().min(self.reach - 1) }
    }
}

/// The constants of a kernel on tensor cores, and the resources of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TileConfig {
    /// The number of threads of a block, which owns half as many tokens.
    pub threads: u32,
    /// The number of tokens that are loaded at a time.
    pub tile: u32,
    /// The number of buffers for loaded tokens (pipeline stages).
    pub stages: u32,
    /// The number of blocks that should fit on a multiprocessor.
    pub blocks: u32,
    /// The longest sequence whose backward pass one block computes.
    pub limit: u32,
    /// Whether short sequences share blocks.
    pub share: bool,
    /// Shared memory in bytes; for the tiled backward pass, of the kernel for keys and of the kernel for
    /// queries.
    pub shared: [usize; 2],
}

/// The launches of both passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaunchConfigs {
    /// The forward pass.
    pub forward: TileConfig,
    /// The backward pass of sequences that one block can compute, if there may be any.
    pub whole: Option<TileConfig>,
    /// The backward pass of longer sequences, if there may be any.
    pub tiles: Option<TileConfig>,
}

/// The number of elements of a row of a tile in shared memory, including padding against bank conflicts.
fn row(dim: usize) -> usize {
    dim.next_multiple_of(16) + 8
}

// Bytes of shared memory: kernels/attention.cu and attention.backward.cu lay it out. An element has two
// bytes; what is kept in f32, four.
impl TileConfig {
    /// Sixteen tokens for each warp of 32 threads.
    fn own(self) -> usize {
        self.threads as usize / 2
    }
    /// Own queries, and a tile of keys and of values. A block that sequences share has the keys and values of
    /// its own tokens.
    fn forward(mut self, dim: usize) -> TileConfig {
        let keys = if self.share { self.own() } else { 0 }.max(self.tile as usize);
        self.shared = [2 * (self.own() + 2 * keys) * row(dim); 2];
        self
    }
    /// Two tensors of own tokens (K and V, or Q and dO), and each stage two of the other side. In f32, lse
    /// and D of the queries: of those that go by in the kernel for keys; D of the own ones in the kernel for
    /// queries.
    fn tiles(mut self, dim: usize) -> TileConfig {
        let by = 2 * self.stages as usize * self.tile as usize;
        let both = 2 * (2 * self.own() + by) * row(dim);
        self.shared = [both + 4 * by, both + 4 * self.own()];
        self
    }
    /// For sequences of at most `limit` tokens: K, V and dS of the own keys, Q and dO of each stage; in f32,
    /// lse and D of all queries, and dQ of all queries if the keys come in several rounds. dQ is what limits
    /// the length: 512 x 64 of it are 128 KiB.
    fn whole(mut self, dim: usize, limit: usize) -> TileConfig {
        let (own, tile) = (self.own(), self.tile as usize);
        let queries = if self.share { own } else { 0 }.max(self.stages as usize * tile);
        let halves = 2 * (own + queries) * row(dim) + own * (tile + 8);
        let held = limit.next_multiple_of(tile);
        let dq = if limit > own { held * dim.next_multiple_of(16) } else { 0 };
        self.limit = limit as u32;
        self.shared = [2 * halves + 4 * (2 * held + dq); 2];
        self
    }
}

/// The longest sequence that one block computes. For longer ones a single block would take too long.
const LONGEST: usize = 512;

fn of([threads, tile, stages, blocks]: [u32; 4]) -> TileConfig {
    TileConfig { threads, tile, stages, blocks, limit: 0, share: false, shared: [0; 2] }
}

/// The mean length up to which short sequences share blocks, if shared memory allows it. The result does not
/// depend on it.
const SHARED_UP_TO: usize = 64;

/// These tiles with shared blocks, if sequences are short and it fits.
fn share(t: TileConfig, desc: &AttentionDesc, size: impl Fn(TileConfig) -> TileConfig) -> TileConfig {
    let shared = size(TileConfig { share: true, ..t });
    if desc.mean() <= SHARED_UP_TO && shared.shared[0] <= desc.shared { shared } else { t }
}

/// An upper bound of the number of blocks for any lengths with this number of tokens and sequences, if
/// sequences share blocks of this number of warps with `each` tokens (see `place_shared` in
/// kernels/attention.common.cu). `whole`: a long sequence has one block; otherwise it has one for each block
/// that its tokens fill.
pub(super) fn shared_blocks(tokens: usize, seqs: usize, [warps, each]: [usize; 2], whole: bool) -> usize {
    let (own, some) = (warps * each, seqs.min(tokens));
    let alone = if whole { seqs } else { tokens.div_ceil(own) + seqs };
    // The worst lengths are those that make the most warps of the fewest tokens. In warps: a sequence has
    // one, plus at most this many for each further token. A second warp starts one token after the first is
    // full, a whole block one token after two warps are full, and a second block one token after that. The
    // steepest of these slopes bounds all mixtures of lengths.
    let [more, per] =
        [[1, each], [warps - 1, 2 * each], [if whole { 0 } else { 2 * warps - 1 }, own.max(2 * each)]]
            .into_iter()
            .max_by(|a, b| (a[0] * b[1]).cmp(&(b[0] * a[1])))
            .unwrap_or([1, 1]);
    // For each 128 sequences, up to two blocks are not full.
    let shared = (some + ((tokens - some) * more).div_ceil(per)).div_ceil(warps) + 2 * seqs.div_ceil(128);
    shared.min(alone)
}

fn forward(desc: &AttentionDesc) -> TileConfig {
    // More queries per block read keys and values less often, if sequences are long enough.
    let (narrow, long) = (desc.dim <= 32, desc.sight() > 128);
    // `blocks` is a promise to ptxas (launch bounds): it limits the registers of a thread to what so many
    // blocks leave for each. On architectures whose machine code needs a few more registers, a third block
    // would cause spills.
    let most = if desc.capability >= 120 || desc.reach > 0 && desc.capability >= 100 { 2 } else { 3 };
    let list: &[[u32; 4]] = match (desc.dim <= 64, long) {
        (true, true) if narrow => &[[256, 64, 1, 2], [64, 32, 1, 4]],
        (true, true) => &[[256, 32, 1, 2], [64, 32, 1, 4]],
        (true, false) => &[[128, 64, 1, if narrow { 4 } else { most }], [64, 32, 1, 4]],
        (false, _) => &[[128, 32, 1, 2], [64, 32, 1, 2]],
    };
    let t = first(list, desc, |t| t.forward(desc.dim)).unwrap_or(of([64, 32, 1, 2]).forward(desc.dim));
    share(t, desc, |t| t.forward(desc.dim))
}

/// The first candidate that fits.
fn first(
    list: &[[u32; 4]],
    desc: &AttentionDesc,
    size: impl Fn(TileConfig) -> TileConfig,
) -> Option<TileConfig> {
    list.iter().map(|&c| size(of(c))).find(|t| t.shared[0].max(t.shared[1]) <= desc.shared)
}

fn whole(desc: &AttentionDesc) -> Option<TileConfig> {
    let list: &[[u32; 4]] = match (desc.dim <= 64, desc.sight() > 64) {
        // The machine code for sm_120 would spill with tiles of 64 here.
        (true, true) if desc.dim <= 16 => &[[256, 32, 2, 1], [256, 32, 1, 1], [128, 32, 1, 1]],
        (true, true) => &[[256, 64, 2, 1], [256, 64, 1, 1], [256, 32, 1, 1], [128, 32, 1, 1]],
        (true, false) => &[[128, 64, 1, 2], [128, 32, 1, 2]],
        (false, true) => &[[256, 32, 2, 1], [256, 32, 1, 1], [128, 32, 1, 1]],
        (false, false) => &[[128, 32, 1, 1]],
    };
    let t = first(list, desc, |t| t.whole(desc.dim, t.own()))?;
    // On Turing, a kernel with both variants would spill for the widest heads.
    let t = if desc.capability < 80 && desc.dim > 112 {
        t
    } else {
        share(t, desc, |t| t.whole(desc.dim, t.own()))
    };
    // Two of the smaller blocks should fit on a multiprocessor, which has slightly more shared memory than a
    // block may use.
    let room = if t.blocks > 1 { (desc.shared - 1024) / 2 } else { desc.shared };
    // With few sequences, one block per sequence leaves multiprocessors idle; tiles of long sequences do not.
    let few = desc.batch[1] * desc.batch[2] < desc.sms as usize;
    let most = if few { t.own() } else { LONGEST };
    let tile = t.tile as usize;
    let limits = (t.own()..=most).step_by(tile).map(|limit| t.whole(desc.dim, limit));
    Some(limits.take_while(|w| w.shared[0] <= room).last().unwrap_or(t))
}

fn tiles(desc: &AttentionDesc) -> TileConfig {
    let list: &[[u32; 4]] = match (desc.dim <= 64, desc.reach == 0 || desc.sight() > 128) {
        (true, true) => &[[256, 64, 2, 1], [256, 64, 1, 1], [128, 64, 1, 1], [128, 32, 1, 1]],
        (true, false) => &[[128, 64, 2, 1], [128, 64, 1, 1], [128, 32, 1, 1]],
        (false, _) => &[[256, 32, 2, 1], [256, 32, 1, 1], [128, 32, 1, 1]],
    };
    first(list, desc, |t| t.tiles(desc.dim)).unwrap_or(of([64, 32, 1, 1]).tiles(desc.dim))
}

/// The tiles of both passes for 16-bit elements.
pub(super) fn choose(desc: &AttentionDesc) -> LaunchConfigs {
    let [tokens, seqs, _] = desc.batch;
    let whole = whole(desc);
    let limit = whole.map_or(0, |w| w.limit);
    // A sequence can be long only if all tokens together exceed the limit. A single long sequence leaves no
    // short ones.
    let long = tokens > limit as usize;
    let tiles = long.then(|| TileConfig { limit, ..tiles(desc) });
    let short = !(seqs == 1 && long);
    LaunchConfigs { forward: forward(desc), whole: whole.filter(|_| short), tiles }
}

/// The rows of a warp and the shared memory in bytes, for the forward and the backward pass in f32.
pub(in crate::ops) fn plain(shared: usize, dim: usize) -> [(u32, usize); 2] {
    let (line, probs) = (dim.next_multiple_of(32) + 4, 36);
    let size = |own: usize| [(own + 64) * line + own * probs, (2 * own + 64) * line + 2 * own * probs];
    // At most 16 accumulators per lane and pass.
    let most = if dim <= 64 { 8 } else { 4 };
    [0, 1].map(|pass| {
        let of = |each: u32| (each, 4 * size(PLAIN_THREADS as usize / 32 * each as usize)[pass]);
        [most, 4].map(of).into_iter().find(|&(_, bytes)| bytes <= shared).unwrap_or(of(2))
    })
}

/// Whether sequences share blocks in f32, with this number of rows per warp. The result does not depend on
/// it.
pub(super) fn plain_shares(each: u32, tokens: usize, seqs: usize) -> bool {
    // Up to a mean length of a block's tokens.
    each >= 4 && tokens <= seqs * (PLAIN_THREADS / 32 * each) as usize
}

/// The number of threads of a block in f32.
pub(in crate::ops) const PLAIN_THREADS: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    /// 48, 64, 99, 163 and 227 KiB: every limit there is.
    const LIMITS: [usize; 5] = [48 << 10, 64 << 10, 99 << 10, 163 << 10, 227 << 10];

    #[test]
    fn everything_fits_and_every_length_is_done() {
        for shared in LIMITS {
            for (dim, reach) in (1..=128).flat_map(|dim| [0, 1, 65, 300].map(|reach| (dim, reach))) {
                for batch in
                    [[1, 1, 1], [60, 3, 12], [4096, 32, 12], [16384, 32, 16], [20000, 1000, 12], [512, 0, 1]]
                {
                    let desc = AttentionDesc { shared, sms: 132, capability: 90, batch, dim, reach };
                    let c = choose(&desc);
                    for t in [Some(c.forward), c.whole, c.tiles].into_iter().flatten() {
                        assert!(t.shared[0].max(t.shared[1]) <= shared, "{desc:?}: {c:?}");
                        assert!(t.own() >= t.tile as usize, "{desc:?}: {c:?}");
                    }
                    let limit = c.whole.map_or(0, |w| w.limit as usize);
                    assert!(c.tiles.is_some() || batch[0] <= limit, "{desc:?}: {c:?}");
                    assert!(
                        c.tiles.is_none_or(|t| c.whole.is_none_or(|w| w.limit == t.limit)),
                        "{desc:?}: {c:?}"
                    );
                    assert!(c.whole.is_none_or(|w| w.limit as usize >= w.own()), "{desc:?}: {c:?}");
                    assert!(c.whole.is_none_or(|w| !w.share || w.limit >= 32), "{desc:?}: {c:?}");
                    assert!(plain(shared, dim).iter().all(|p| p.1 <= shared), "{desc:?}");
                }
            }
        }
    }

    /// As the kernel counts, for lengths that need most.
    #[test]
    fn shared_blocks_are_enough() {
        let mut rng = crate::rng::Rng::new(5, "lengths", 0);
        for [warps, each] in [[2, 16], [4, 16], [4, 8], [4, 4]] {
            let own = warps * each;
            for whole in [false, true] {
                let needed = |lengths: &[usize]| -> usize {
                    let of = |part: &[usize]| {
                        let count = |from, to| part.iter().filter(|&&n| n > from && n <= to).count();
                        let long = part.iter().filter(|&&n| n > 2 * each);
                        let long: usize = long.map(|n| if whole { 1 } else { n.div_ceil(own) }).sum();
                        count(0, each).div_ceil(warps) + count(each, 2 * each).div_ceil(warps / 2) + long
                    };
                    lengths.chunks(128).map(of).sum()
                };
                let check = |lengths: &[usize]| {
                    let (tokens, seqs) = (lengths.iter().sum(), lengths.len());
                    let blocks = shared_blocks(tokens, seqs, [warps, each], whole);
                    assert!(needed(lengths) <= blocks, "{own} {whole} {lengths:?}: {blocks}");
                };
                for n in 0..300 {
                    check(&vec![n; n % 7]);
                    check(&vec![n % 70; n]);
                }
                let worst = [0, 1, each, each + 1, 2 * each, 2 * each + 1, own, own + 1, 97, 2 * own + 1];
                for _ in 0..2000 {
                    let some = 1 + rng.below(worst.len() as u32) as usize;
                    let n = rng.below(300) as usize;
                    let lengths: Vec<usize> =
                        (0..n).map(|_| worst[rng.below(some as u32) as usize]).collect();
                    check(&lengths);
                }
            }
        }
        // Sixty-four sequences of sixteen tokens are sixteen blocks; the worst of equal sizes takes no more
        // than there were.
        assert!(
            shared_blocks(1024, 64, [4, 16], false) <= 46 && shared_blocks(1024, 64, [4, 16], true) <= 42
        );
    }

    #[test]
    fn common_models_have_one_block_a_sequence() {
        for (shared, dim, mean, limit) in [
            (227 << 10, 64, 128, 512),
            (227 << 10, 32, 256, 512),
            (99 << 10, 64, 128, 128),
            (64 << 10, 64, 128, 128),
        ] {
            let desc =
                AttentionDesc { shared, sms: 132, capability: 90, batch: [32 * mean, 32, 12], dim, reach: 0 };
            assert_eq!(choose(&desc).whole.map(|w| w.limit), Some(limit), "{desc:?}");
        }
    }
}
