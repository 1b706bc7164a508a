// What the files of attention have in common; stands before them. Constants: D, DROPOUT (0 or 1), BLOCKS (that a multiprocessor
// should hold: without a number, ptxas takes one for which it has to spill).

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

// A tile of one sequence: where the sequence begins in the batch, its length, and the first token of the tile in it.
struct Place {
  u32 first, length, begin;
};
// Tiles of OWN tokens are numbered through the sequences longer than `over`; beyond the last the length is 0. All warps
// find the same. A lane looks at four sequences, a warp at 128.
template <u32 OWN> DEVICE Place place(const u32* bounds, u32 seqs, u32 over, u32 tile) {
  const u32 lane = threadIdx.x % 32;
  for (u32 s0 = 0; s0 < seqs; s0 += 128) {
    u32 at[5], count[4], upto = 0;
#pragma unroll
    for (u32 i = 0; i < 5; i++) at[i] = bounds[min(s0 + 4 * lane + i, seqs)];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const u32 length = at[i + 1] - at[i];
      count[i] = length > over ? ceil_div(length, OWN) : 0;
      upto += count[i];
    }
    const u32 mine = upto;
#pragma unroll
    for (u32 d = 1; d < 32; d *= 2) {
      const u32 before = __shfl_up_sync(~0u, upto, d);
      if (lane >= d) upto += before;
    }
    const u32 found = __ballot_sync(~0u, tile < upto);
    if (found != 0) {
      u32 left = tile - (upto - mine), first = 0, length = 0, begin = 0;
      bool open = true;
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        if (open && left < count[i]) first = at[i], length = at[i + 1] - at[i], begin = left * OWN, open = false;
        left -= count[i];
      }
      const u32 from = __ffs(found) - 1;
      return Place{__shfl_sync(~0u, first, from), __shfl_sync(~0u, length, from), __shfl_sync(~0u, begin, from)};
    }
    tile -= __shfl_sync(~0u, upto, 31);
  }
  return Place{0, 0, 0};
}

// ---- The mask: sixteen bits for each element, of counter [first token of the step + token, key / 8, site and head, step].

struct Mask {
  u32 k0, k1, step, row, site, threshold;
  float scale;
};
// `first` is the token that the block's queries are counted from.
DEVICE Mask mask_of(const Drop& d, const u32* key, u32 head, u32 first) {
  if constexpr (DROPOUT == 0) return Mask{0, 0, 0, 0, 0, 0, 1.f};
  return Mask{key[0], key[1], key[2], key[d.row] + first, d.site ^ (head << 16), d.threshold, d.scale};
}
// Which of eight neighbouring keys a query keeps, a bit each.
DEVICE u32 kept(const Mask& m, u32 query, u32 block) {
  const uint4 w = philox(make_uint4(m.row + query, block, m.site, m.step), m.k0, m.k1);
  const u32 words[4] = {w.x, w.y, w.z, w.w};
  u32 bits = 0;
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    bits |= ((words[i] & 0xffffu) >= m.threshold ? 1u : 0u) << 2 * i;
    bits |= (words[i] >> 16 >= m.threshold ? 1u : 0u) << (2 * i + 1);
  }
  return bits;
}
