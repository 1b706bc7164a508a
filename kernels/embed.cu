// y[t] = word[ids[t]] + position[positions[t] + first] + kind[types[t]]: see src/ops/embed.rs.
// Constants: T (tables and y), G (a table's gradient), VEC (elements of an access), TABLES (how many of the three there are).

struct Params {
  u32 tokens, cols;
  // Rows of the three tables; in the backward pass the first is that of the table at hand.
  u32 rows, positions, kinds;
  u32 add;
  // Row of the position table for position 0; in the backward pass what is added to the indices into the table at hand.
  u32 first;
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

// The tokens sorted by their row, those of one row in their own order: a token's place is how many stand before it. Quadratic,
// but of integers in shared memory: 4,096 tokens are some microseconds, and nothing has to be sorted on the host.
// ids (tokens) -> order (tokens)
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

// Sorted tokens that one block adds up.
constexpr u32 CHUNK = 32;

// The gradient of one table. A run of tokens of one row that lies within a chunk goes to the table; of a run that goes beyond,
// each chunk keeps its part: in parts[0] if the run began before, in parts[1] if it begins here.
// ids, order (tokens); dy (tokens, cols) -> table (rows, cols), parts (chunks, 2, cols) f32
KERNEL embed_sum(const u32* __restrict__ ids, const u32* __restrict__ order, const T* __restrict__ dy, G* __restrict__ table,
                 float* __restrict__ parts, Params p) {
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
    }
    began_before = false;
#pragma unroll
    for (u32 e = 0; e < VEC; e++) sum[e] = 0.f;
  }
}

// Puts the parts of runs together that go beyond their chunk, in order: the chunk where a run begins adds those after it.
KERNEL embed_carry(const u32* __restrict__ ids, const u32* __restrict__ order, G* __restrict__ table,
                   const float* __restrict__ parts, Params p) {
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
}
