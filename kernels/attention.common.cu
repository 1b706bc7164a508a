// What the files of attention have in common; stands before them. Constants: D, DROPOUT (0 or 1), WINDOW
// (keys nearer than this are seen; 0: all), BLOCKS (that a multiprocessor should hold: without a number,
// ptxas takes one for which it has to spill).

#define ATTENTION extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)

struct Params {
  Drop drop;
  u32 tokens, heads, seqs;
  float scale;
  u32 add;
};

constexpr u32 WARPS = THREADS / 32;
constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f;

extern __shared__ __align__(16) u8 shared[];

// ---- Which tokens.

// A tile of one sequence: where the sequence begins in the batch, its length, and which of its tiles it is.
// The span is for short sequences, several of which share a block: it says for how many warps one has room, 1
// or 2; 0 is the block alone with one.
struct Place {
  u32 first, length, tile, span;
};
// Bounds of 128 sequences from s0 on, four a lane.
DEVICE void bounds_of(u32 (&at)[5], const u32* bounds, u32 seqs, u32 s0) {
#pragma unroll
  for (u32 i = 0; i < 5; i++) at[i] = bounds[min(s0 + threadIdx.x % 32 * 4 + i, seqs)];
}
// Tiles are numbered through these sequences, of each so many as COUNT says of its length. True if the one of
// this number is among them; if not, `number` becomes how many there are.
template <class Count> DEVICE bool find(Place& to, const u32 (&at)[5], u32& number, Count tiles_of) {
  const u32 lane = threadIdx.x % 32;
  u32 count[4], upto = 0;
#pragma unroll
  for (u32 i = 0; i < 4; i++) upto += count[i] = tiles_of(at[i + 1] - at[i]);
  const u32 mine = upto;
#pragma unroll
  for (u32 d = 1; d < 32; d *= 2) {
    const u32 before = __shfl_up_sync(~0u, upto, d);
    if (lane >= d) upto += before;
  }
  const u32 found = __ballot_sync(~0u, number < upto);
  if (found == 0) {
    number = __shfl_sync(~0u, upto, 31);
    return false;
  }
  u32 left = number - (upto - mine), first = 0, length = 0, tile = 0;
  bool open = true;
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    if (open && left < count[i]) first = at[i], length = at[i + 1] - at[i], tile = left, open = false;
    left -= count[i];
  }
  const u32 from = __ffs(found) - 1;
  to.first = __shfl_sync(~0u, first, from), to.length = __shfl_sync(~0u, length, from);
  to.tile = __shfl_sync(~0u, tile, from);
  return true;
}
// The block's tile, all numbered as above; beyond the last the length is 0. All warps find the same. Each
// block searches on its own, 128 sequences at a time with a prefix sum over lanes: the host knows the number
// of sequences but not their lengths, and a launch of a replayed CUDA graph cannot change.
template <class Count> DEVICE Place place(const u32* bounds, u32 seqs, u32 block, Count tiles_of) {
  Place to{};
  for (u32 s0 = 0; s0 < seqs; s0 += 128) {
    u32 at[5], number = block;
    bounds_of(at, bounds, seqs, s0);
    if (find(to, at, number, tiles_of)) break;
    block -= number;
  }
  return to;
}
// The same where short sequences share blocks: of each 128 sequences first those that a warp has alone, of at
// most EACH_WARP tokens, WARPS a block, then those of two warps, then the tiles of longer ones. Warps of a
// block find the same span; a length of 0 leaves a warp idle.
template <u32 EACH_WARP, class Count> DEVICE Place place_shared(const u32* bounds, u32 seqs, u32 block, Count tiles_of) {
  const u32 warp = threadIdx.x / 32;
  Place to{};
  for (u32 s0 = 0; s0 < seqs; s0 += 128) {
    u32 at[5];
    bounds_of(at, bounds, seqs, s0);
#pragma unroll
    for (u32 span = 1; span <= 2; span++) {
      u32 number = block * (WARPS / span) + warp / span;
      const bool here = find(to, at, number, [span](u32 n) { return n > EACH_WARP * (span - 1) && n <= EACH_WARP * span ? 1u : 0u; });
      const u32 blocks = here ? ~0u : ceil_div(number, WARPS / span);
      if (block < blocks) {
        to.span = span;
        return to;
      }
      block -= blocks;
    }
    u32 number = block;
    if (find(to, at, number, [tiles_of](u32 n) { return n > 2 * EACH_WARP ? tiles_of(n) : 0; })) break;
    block -= number;
  }
  return to;
}

// ---- The window.

DEVICE bool sees(u32 a, u32 b) { return WINDOW == 0 || max(a, b) - min(a, b) < WINDOW; }
// Whether `n` tokens from a on and `m` from b on all see each other.
DEVICE bool all_see(u32 a, u32 n, u32 b, u32 m) { return WINDOW == 0 || (sees(a, b + m - 1) && sees(a + n - 1, b)); }
// What tokens from `begin` to `end` see, or are seen by: from the tile that the first of it is in, to behind
// the last.
DEVICE u32 seen_from(u32 begin, u32 tile) { return WINDOW == 0 || begin < WINDOW ? 0 : (begin - WINDOW + 1) / tile * tile; }
DEVICE u32 seen_upto(u32 end, u32 length) { return WINDOW == 0 ? length : min(length, end + WINDOW - 1); }

// ---- The mask: sixteen bits for each element, of counter [first token of the step + token, key / 8,
// dropout_id and head, step].

struct Mask {
  u32 k0, k1, step, row, dropout_id, threshold;
  float scale;
};
// `first` is the token that the block's queries are counted from.
DEVICE Mask mask_of(const Drop& d, const u32* key, u32 head, u32 first) {
  if constexpr (DROPOUT == 0) return Mask{0, 0, 0, 0, 0, 0, 1.f};
  return Mask{key[0], key[1], key[2], key[d.row] + first, d.dropout_id ^ (head << 16), d.threshold, d.scale};
}
// Which of eight neighbouring keys a query keeps, a bit each.
DEVICE u32 kept(const Mask& m, u32 query, u32 block) {
  const uint4 w = philox(make_uint4(m.row + query, block, m.dropout_id, m.step), m.k0, m.k1);
  const u32 words[4] = {w.x, w.y, w.z, w.w};
  u32 bits = 0;
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    bits |= ((words[i] & 0xffffu) >= m.threshold ? 1u : 0u) << 2 * i;
    bits |= (words[i] >> 16 >= m.threshold ? 1u : 0u) << (2 * i + 1);
  }
  return bits;
}
