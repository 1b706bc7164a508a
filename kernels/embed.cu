// y[t] = word[ids[t]] + position[positions[t] + first] + kind[types[t]]: see src/ops/embed.rs. Constants: T
// (tables and y), G (a table's gradient), VEC (elements of an access), TABLES (how many of the three there
// are), ZERO_BLOCKS (is there a record of where gradients are zero).

struct Params {
  u32 tokens, cols;
  // Rows of the three tables; in the backward pass the first is that of the current table.
  u32 rows, positions, kinds;
  u32 add;
  // Row of the position table for position 0; in the backward pass what is added to the indices into the
  // current table.
  u32 first;
  // Where the table's gradient begins in its arena, in 64 elements.
  u32 origin;
};

// ids, positions, types (tokens); word, position, kind (rows, cols) -> y (tokens, cols)
KERNEL embed_forward(const u32* __restrict__ ids, const u32* __restrict__ positions, const u32* __restrict__ types,
                     const T* __restrict__ word, const T* __restrict__ position, const T* __restrict__ kind, T* __restrict__ y,
                     Params p) {
  const u32 wide = p.cols / VEC;
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 t = (u32)(i / wide), c = (u32)(i % wide) * VEC;
  if (t >= p.tokens) return;
  const u32 a = ids[t], b = TABLES > 1 ? positions[t] : 0, k = TABLES > 2 ? types[t] : 0;
  float sum[VEC];
  // Of the position, not of its row: a sum that overflows must not pass.
  const bool fits = (TABLES < 2 || (p.first < p.positions && b < p.positions - p.first)) && (TABLES < 3 || k < p.kinds);
  if (a < p.rows && fits) {
    float other[VEC];
    load(sum, word + (u64)a * p.cols + c);
    if (TABLES > 1) {
      load(other, position + (u64)(b + p.first) * p.cols + c);
#pragma unroll
      for (u32 e = 0; e < VEC; e++) sum[e] += other[e];
    }
    if (TABLES > 2) {
      load(other, kind + (u64)k * p.cols + c);
#pragma unroll
      for (u32 e = 0; e < VEC; e++) sum[e] += other[e];
    }
  } else {
    // An index without a row shows: it makes the loss no number, and the step is skipped and reported.
#pragma unroll
    for (u32 e = 0; e < VEC; e++) sum[e] = NOT_A_NUMBER;
  }
  store(y + (u64)t * p.cols + c, sum);
}

// The tokens sorted by their row, those of one row in their own order: a token's place is how many stand
// before it. Quadratic, but of integers in shared memory: 4,096 tokens are some microseconds, and nothing has
// to be sorted on the host. ids (tokens) -> order (tokens)
KERNEL embed_rank(const u32* __restrict__ ids, u32* __restrict__ order, Params p) {
  __shared__ u32 others[THREADS];
  const u32 t = blockIdx.x * THREADS + threadIdx.x;
  const u32 mine = t < p.tokens ? ids[t] : 0;
  u32 before = 0;
  for (u32 start = 0; start < p.tokens; start += THREADS) {
    if (start + threadIdx.x < p.tokens) others[threadIdx.x] = ids[start + threadIdx.x];
    __syncthreads();
    const u32 count = min(THREADS, p.tokens - start);
    for (u32 j = 0; j < count; j++) {
      const u32 other = others[j];
      before += other < mine || (other == mine && start + j < t);
    }
    __syncthreads();
  }
  if (t < p.tokens) order[before] = t;
}

// Elements of the arena that a bit of `zero_blocks` stands for.
constexpr u32 LIVE = 512;

// Zeroes what of a table is not known to be zero, and marks the blocks that lie in it wholly. A block of
// threads a word. table (rows, cols), zero_blocks (arena / 16384) -> table, zero_blocks
KERNEL embed_clear(G* __restrict__ table, u32* __restrict__ zero_blocks, Params p) {
  const u64 from = (u64)p.origin * 64, to = from + (u64)p.rows * p.cols;
  const u64 word = from / (32 * LIVE) + blockIdx.x;
  const u32 before = zero_blocks[word];
  u32 after = before;
  for (u32 b = 0; b < 32; b++) {
    const u64 begin = (word * 32 + b) * LIVE, end = begin + LIVE;
    if (before >> b & 1 || end <= from || begin >= to) continue;
    for (u64 i = max(begin, from) + threadIdx.x * 4; i < min(end, to); i += THREADS * 4) {
      const float zeros[4] = {};
      if (i + 4 <= to) {
        store(table + (i - from), zeros);
      } else {
        for (u64 e = i; e < to; e++) table[e - from] = narrow<G>(0.f);
      }
    }
    if (begin >= from && end <= to) after |= 1u << b;
  }
  __syncthreads();
  if (threadIdx.x == 0 && after != before) zero_blocks[word] = after;
}

// Says that a row's columns from c on are not zero any more: one thread for each block that they touch.
// Atomic, because a word has the bits of blocks of other rows too. Bits are only cleared here, so their order
// does not matter, and the next kernel sees them all.
DEVICE void unmark(u32* zero_blocks, u32 row, u32 c, const Params& p) {
  const u64 at = (u64)p.origin * 64 + (u64)row * p.cols + c;
  if (ZERO_BLOCKS && (c == 0 || at % LIVE < VEC)) atomicAnd(zero_blocks + at / (32 * LIVE), ~(1u << (at / LIVE % 32)));
}

// Sorted tokens that one block adds up.
constexpr u32 CHUNK = 32;

// The gradient of one table. A run of tokens of one row that lies within a chunk goes to the table; of a run
// that goes beyond, each chunk keeps its part: in parts[0] if the run began before, in parts[1] if it begins
// here. ids, order (tokens); dy (tokens, cols) -> table (rows, cols), parts (chunks, 2, cols) f32,
// zero_blocks
KERNEL embed_sum(const u32* __restrict__ ids, const u32* __restrict__ order, const T* __restrict__ dy, G* __restrict__ table,
                 float* __restrict__ parts, u32* __restrict__ zero_blocks, Params p) {
  const u32 c = (blockIdx.y * THREADS + threadIdx.x) * VEC;
  if (c >= p.cols) return;
  const u32 first = blockIdx.x * CHUNK, end = min(first + CHUNK, p.tokens);
  float* mine = parts + (u64)blockIdx.x * 2 * p.cols + c;
  float sum[VEC] = {};
  bool began_before = first > 0 && ids[order[first - 1]] == ids[order[first]];
  for (u32 j = first; j < end; j++) {
    const u32 t = order[j], row = ids[t];
    float v[VEC];
    load(v, dy + (u64)t * p.cols + c);
#pragma unroll
    for (u32 e = 0; e < VEC; e++) sum[e] += v[e];
    const bool goes_on = j + 1 < p.tokens && ids[order[j + 1]] == row;
    if (goes_on && j + 1 < end) continue;
    if (began_before) {
      store(mine, sum);
    } else if (goes_on) {
      store(mine + p.cols, sum);
    } else if (row < p.rows - p.first) {
      put(table + (u64)(row + p.first) * p.cols + c, sum, p.add);
      unmark(zero_blocks, row + p.first, c, p);
    }
    began_before = false;
#pragma unroll
    for (u32 e = 0; e < VEC; e++) sum[e] = 0.f;
  }
}

// Puts the parts of runs together that go beyond their chunk, in order: the chunk where a run begins adds
// those after it.
KERNEL embed_carry(const u32* __restrict__ ids, const u32* __restrict__ order, G* __restrict__ table,
                   const float* __restrict__ parts, u32* __restrict__ zero_blocks, Params p) {
  const u32 c = (blockIdx.y * THREADS + threadIdx.x) * VEC;
  if (c >= p.cols) return;
  const u32 first = blockIdx.x * CHUNK, end = min(first + CHUNK, p.tokens);
  if (end == p.tokens) return;
  const u32 row = ids[order[end - 1]];
  const bool begins_here = first == 0 || ids[order[first - 1]] != row;
  if (ids[order[end]] != row || !begins_here || row >= p.rows - p.first) return;
  float sum[VEC];
  load(sum, parts + ((u64)blockIdx.x * 2 + 1) * p.cols + c);
  for (u32 chunk = blockIdx.x + 1; chunk * CHUNK < p.tokens && ids[order[chunk * CHUNK]] == row; chunk++) {
    float v[VEC];
    load(v, parts + (u64)chunk * 2 * p.cols + c);
#pragma unroll
    for (u32 e = 0; e < VEC; e++) sum[e] += v[e];
    // A run that ends within the chunk is not that of the next one.
    if (chunk * CHUNK + CHUNK < p.tokens && ids[order[chunk * CHUNK + CHUNK - 1]] != row) break;
  }
  put(table + (u64)(row + p.first) * p.cols + c, sum, p.add);
  unmark(zero_blocks, row + p.first, c, p);
}
