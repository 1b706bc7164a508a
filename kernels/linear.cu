// y = act(x w^T + b) and its gradients: see src/ops/linear. What all matrix products share, and the small
// kernels around them. The product itself, `linear_matmul`, is in one of linear.tensor.cu (tensor cores),
// linear.plain.cu (f32 arithmetic), linear.hopper.cu (wgmma), put behind this file.
//
// Constants of this file: T the elements of operands, bias and kept sums; C the elements of a product's
// result, D those of the bias gradient; BIAS, KEEP, DB 0 or 1: whether there is a bias, whether the sums
// before the activation are written, whether a product also gives the row sums of A; ACT: see the prelude;
// WIDE 4 where rows of the result have a multiple of four elements, else 1; VEC the same with 8, for column
// sums.

struct Params {
  u32 m, n, k;       // the result is (m, n), the sums run over k
  u32 a_row, b_row;  // elements from one stored row of an operand to the next
  u32 steps;         // of k, each TILE_K deep, that one part of the sums takes
  u32 parts;         // how many parts the sums come in
  u32 add, add_db;   // whether the result, and the row sums, are added to what is there
};

// What becomes of N neighbouring sums that belong to element `at` of the result, in column `col`; `old` is
// what they are added to.
template <u32 N>
DEVICE void finish(float (&v)[N], const float (&old)[N], size_t at, u32 col, const T* bias, C* c, T* kept) {
  if constexpr (BIAS == 1) {
    float b[N];
    load(b, bias + col);
#pragma unroll
    for (u32 i = 0; i < N; i++) v[i] += b[i];
  }
  if constexpr (KEEP == 1) store(kept + at, v);
#pragma unroll
  for (u32 i = 0; i < N; i++) v[i] = activation<ACT>(v[i]) + old[i];
  store(c + at, v);
}

// Writes 16 x COLS sums that a warp holds as mma's accumulators. They go through `slice`, 16 COLS floats of
// shared memory of the warp's own, so that lanes next to each other write next to each other. Four rows that
// are written at once have their eights of columns exchanged, so that their banks differ: COLS is a multiple
// of 32, so without that column q of every row would be in the same bank.
template <u32 COLS>
DEVICE void finish_slab(const float (&sum)[COLS / 8][4], float* slice, u32 row, u32 col, const T* bias, C* c, T* kept,
                        const Params& p) {
  constexpr u32 TURNS = 16 * COLS / (32 * WIDE);
  // How many old values are asked for at once; activations are long, and are not repeated in the code.
  constexpr u32 BATCH = ACT != 0 ? 1 : TURNS < 4 ? TURNS : 4;
  static_assert(COLS % 32 == 0, "rows of all banks");
  const u32 lane = threadIdx.x % 32;
  const auto spot = [](u32 r, u32 q) { return r * COLS + (q ^ r % 4 * 8); };
  __syncwarp();
#pragma unroll
  for (u32 j = 0; j < COLS / 8; j++)
#pragma unroll
    for (u32 h = 0; h < 2; h++)
      store_shared(slice + spot(lane / 4 + 8 * h, 8 * j + lane % 4 * 2), sum[j][2 * h], sum[j][2 * h + 1]);
  __syncwarp();
#pragma unroll 1
  for (u32 turn = 0; turn < TURNS; turn += BATCH) {
    float old[BATCH][WIDE] = {};
#pragma unroll
    for (u32 i = 0; i < BATCH; i++) {
      const u32 e = ((turn + i) * 32 + lane) * WIDE, r = row + e / COLS, q = col + e % COLS;
      if (p.add != 0 && r < p.m && q < p.n) load(old[i], c + (size_t)r * p.n + q);
    }
#pragma unroll
    for (u32 i = 0; i < BATCH; i++) {
      const u32 e = ((turn + i) * 32 + lane) * WIDE, r = row + e / COLS, q = col + e % COLS;
      if (r < p.m && q < p.n) {
        float v[WIDE];
        load(v, slice + spot(e / COLS, e % COLS));
        finish(v, old[i], (size_t)r * p.n + q, q, bias, c, kept);
      }
    }
  }
}

// Which tile of a grid of rows x cols tiles a block takes: HIGH rows of tiles together, column by column, so
// that the blocks that run at one time share operands in the L2 cache. Blocks start in the order of their
// numbers; with HIGH 2:
//
//   0  2  4  6
//   1  3  5  7      blocks 0 to 3 read two rows of tiles of A and two columns of B, instead of one row and four columns
//   8 10 12 14
//   9 11 13 15
template <u32 HIGH> DEVICE uint2 tile_of(u32 id, u32 rows, u32 cols) {
  const u32 first = id / (HIGH * cols) * HIGH, high = rows - first < HIGH ? rows - first : HIGH, in = id - first * cols;
  return make_uint2(first + in % high, in / high);
}

// Adds up the parts of a product's sums, in order, and does what the product itself would have done with
// them.
KERNEL linear_finish(const float* __restrict__ sums,  // (parts, m, n), then (parts, m) if DB
                     const T* __restrict__ bias,      // (n)
                     C* __restrict__ c,               // (m, n)
                     T* __restrict__ kept,            // (m, n)
                     D* __restrict__ db,              // (m)
                     Params p) {
  const u64 cells = (u64)p.m * p.n, all = (cells + WIDE - 1) / WIDE, id = (u64)blockIdx.x * THREADS + threadIdx.x;
  if (id < all) {
    const u64 at = id * WIDE;
    float v[WIDE] = {}, old[WIDE] = {};
    if (p.add != 0) load(old, c + at);
#pragma unroll 4
    for (u32 part = 0; part < p.parts; part++) {
      float x[WIDE];
      load(x, sums + part * cells + at);
#pragma unroll
      for (u32 i = 0; i < WIDE; i++) v[i] += x[i];
    }
    finish(v, old, at, BIAS == 1 ? (u32)(at % p.n) : 0, bias, c, kept);
  } else if (DB == 1 && id - all < p.m) {
    const u64 row = id - all;
    float v[1] = {};
    for (u32 part = 0; part < p.parts; part++) v[0] += sums[p.parts * cells + (u64)part * p.m + row];
    put(db + row, v, p.add_db != 0);
  }
}

// dz = dy act'(kept), eight elements a thread; dz may be dy.
KERNEL linear_derive(const T* dy,                 // (m, n)
                     const T* __restrict__ kept,  // (m, n), z or y
                     T* dz,                       // (m, n)
                     Params p) {
  const u64 cells = (u64)p.m * p.n, at = ((u64)blockIdx.x * THREADS + threadIdx.x) * 8;
  if (at + 8 <= cells) {
    float d[8], v[8];
    load(d, dy + at);
    load(v, kept + at);
#pragma unroll
    for (u32 i = 0; i < 8; i++) d[i] *= activation_gradient<ACT>(v[i], v[i]);
    store(dz + at, d);
  } else {
#pragma unroll 1
    for (u64 i = at; i < cells; i++) {
      const float v = widen(kept[i]);
      dz[i] = narrow<T>(widen(dy[i]) * activation_gradient<ACT>(v, v));
    }
  }
}

// Sums over a part of the rows of dz, for a bias gradient alone: a warp takes 32 VEC columns and every
// eighth row (THREADS is 256), and the warps' sums are added in order.
KERNEL linear_columns(const T* __restrict__ dz,  // (m, n)
                      float* __restrict__ sums,  // (parts, n)
                      Params p) {
  // A line for each of a lane's columns; four floats of padding make its banks differ.
  __shared__ float all[8][VEC][36];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * 32 * VEC, col = first + lane * VEC;
  const u32 each = ceil_div(p.m, p.parts), begin = blockIdx.y * each;
  const u32 end = begin + each < p.m ? begin + each : p.m;
  float sum[VEC] = {};
  if (col < p.n) {
#pragma unroll 4
    for (u32 r = begin + warp; r < end; r += 8) {
      float v[VEC];
      load(v, dz + (size_t)r * p.n + col);
#pragma unroll
      for (u32 i = 0; i < VEC; i++) sum[i] += v[i];
    }
  }
#pragma unroll
  for (u32 i = 0; i < VEC; i++) all[warp][i][lane] = sum[i];
  __syncthreads();
  if (threadIdx.x < 32 * VEC && first + threadIdx.x < p.n) {
    float total = 0.f;
#pragma unroll
    for (u32 w = 0; w < 8; w++) total += all[w][threadIdx.x % VEC][threadIdx.x / VEC];
    sums[(size_t)blockIdx.y * p.n + first + threadIdx.x] = total;
  }
}
