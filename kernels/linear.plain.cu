// The product of linear.cu in f32 arithmetic, for any T: c (m, n) = sum over k of A(m, k) B(k, n).
//
// Constants: A_DOWN, B_DOWN 1 where neighbours in memory are neighbours along k: A is stored (m, k), else (k,
// m); B is stored (n, k), else (k, n). A_ALIGNED, B_ALIGNED 1 where stored rows have a multiple of four
// elements. TILE_M, TILE_N of a block, multiples of 32 and 64; THREADS = TILE_M TILE_N / 64, as each thread
// has eight rows and eight columns.

constexpr u32 DEPTH = 8;
static_assert(THREADS == TILE_M * TILE_N / 64 && TILE_M % 32 == 0 && TILE_N % 64 == 0, "a warp has 32 x 64 results");

// A thread's share of an operand's tile: runs of four neighbours, on their way from global to shared memory,
// where lines are along k. Four floats of padding make that the banks of what is turned round on its way
// differ.
template <u32 DOWN, u32 ALIGNED, u32 TILE> struct Share {
  static constexpr u32 RUNS = TILE * DEPTH / 4, EACH = RUNS / THREADS, LINE = TILE + 4;
  static_assert(RUNS % THREADS == 0, "equal shares");
  float held[EACH][4];

  // Place of a run in the tile: along k, and across it.
  static __device__ __forceinline__ uint2 spot(u32 i) {
    const u32 id = threadIdx.x + i * THREADS;
    return DOWN == 1 ? make_uint2(id % (DEPTH / 4) * 4, id / (DEPTH / 4)) : make_uint2(id / (TILE / 4), id % (TILE / 4) * 4);
  }
  __device__ __forceinline__ void fetch(const T* from, u32 row, u32 first, u32 edge, u32 k, u32 depth) {
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
      const uint2 at = spot(i);
      const u32 along = k + at.x, across = first + at.y;
      const bool in = across < edge && along < depth;
      const T* p = from + (DOWN == 1 ? (size_t)across * row + along : (size_t)along * row + across);
      const u32 left = in ? (DOWN == 1 ? depth - along : edge - across) : 0;
#pragma unroll
      for (u32 j = 0; j < 4; j++) held[i][j] = 0.f;
      if constexpr (ALIGNED == 1) {
        if (in) load(held[i], p);
      } else {
#pragma unroll
        for (u32 j = 0; j < 4; j++)
          if (j < left) held[i][j] = widen(p[j]);
      }
    }
  }
  __device__ __forceinline__ void store(float* tile) const {
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
      const uint2 at = spot(i);
      if constexpr (DOWN == 1) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) tile[(at.x + j) * LINE + at.y] = held[i][j];
      } else {
        store_shared(tile + at.x * LINE + at.y, held[i]);
      }
    }
  }
};

// Eight values, four from each half of a span of 2 HALF.
template <u32 HALF> DEVICE void load_halves(float (&v)[8], const float* p) {
  const float4 low = *(const float4*)p, high = *(const float4*)(p + HALF);
  v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

// A block takes the tile that tile_of gives it and the part blockIdx.y of the sums; parts of c lie behind one
// another. A thread has rows 4 ty and 16 + 4 ty, columns 4 tx and 32 + 4 tx of its warp's 32 x 64, and three
// neighbours of each.
KERNEL linear_matmul_plain(const T* __restrict__ a,     // (m, k) or (k, m)
                      const T* __restrict__ b,     // (n, k) or (k, n)
                      const T* __restrict__ bias,  // (n)
                      C* __restrict__ c,           // (parts, m, n)
                      T* __restrict__ kept,        // (m, n)
                      D* __restrict__ db,          // (parts, m), the sums of A over k
                      Params p) {
  __shared__ __align__(16) float tile_a[2][DEPTH * (TILE_M + 4)], tile_b[2][DEPTH * (TILE_N + 4)];
  const uint2 tile = tile_of<8>(blockIdx.x, ceil_div(p.m, TILE_M), ceil_div(p.n, TILE_N));
  const u32 warp = threadIdx.x / 32, tx = threadIdx.x % 8, ty = threadIdx.x % 32 / 8;
  const u32 rows = warp / (TILE_N / 64) * 32 + 4 * ty, cols = warp % (TILE_N / 64) * 64 + 4 * tx;
  const u32 row0 = tile.x * TILE_M, col0 = tile.y * TILE_N;
  const u32 all = ceil_div(p.k, DEPTH), begin = blockIdx.y * p.steps;
  const u32 end = begin >= all ? begin : all - begin < p.steps ? all : begin + p.steps;
  const bool adds = DB == 1 && tile.y == 0;

  Share<A_DOWN, A_ALIGNED, TILE_M> from_a;
  Share<B_DOWN, B_ALIGNED, TILE_N> from_b;
  float sum[8][8] = {}, sums[DB == 1 ? 8 : 1] = {};
  if (begin < end) {
    from_a.fetch(a, p.a_row, row0, p.m, begin * DEPTH, p.k);
    from_b.fetch(b, p.b_row, col0, p.n, begin * DEPTH, p.k);
    from_a.store(tile_a[0]);
    from_b.store(tile_b[0]);
  }
  __syncthreads();
#pragma unroll 1
  for (u32 step = begin; step < end; step++) {
    const u32 now = (step - begin) % 2;
    if (step + 1 < end) {
      from_a.fetch(a, p.a_row, row0, p.m, (step + 1) * DEPTH, p.k);
      from_b.fetch(b, p.b_row, col0, p.n, (step + 1) * DEPTH, p.k);
    }
#pragma unroll
    for (u32 d = 0; d < DEPTH; d++) {
      float x[8], y[8];
      load_halves<16>(x, tile_a[now] + d * (TILE_M + 4) + rows);
      load_halves<32>(y, tile_b[now] + d * (TILE_N + 4) + cols);
#pragma unroll
      for (u32 i = 0; i < 8; i++) {
#pragma unroll
        for (u32 j = 0; j < 8; j++) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
        if (adds) sums[DB == 1 ? i : 0] += x[i];
      }
    }
    if (step + 1 < end) {
      from_a.store(tile_a[1 - now]);
      from_b.store(tile_b[1 - now]);
    }
    __syncthreads();
  }

  c += (size_t)blockIdx.y * p.m * p.n;
#pragma unroll
  for (u32 i = 0; i < 8; i++) {
    const u32 row = row0 + rows + i % 4 + i / 4 * 16;
    if (row >= p.m) continue;
#pragma unroll
    for (u32 j = 0; j < 8; j += WIDE) {
      const u32 col = col0 + cols + j % 4 + j / 4 * 32;
      if (col >= p.n) continue;
      float v[WIDE], old[WIDE] = {};
#pragma unroll
      for (u32 e = 0; e < WIDE; e++) v[e] = sum[i][j + e];
      const size_t at = (size_t)row * p.n + col;
      if (p.add != 0) load(old, c + at);
      finish(v, old, at, col, bias, c, kept);
    }
    if (adds && cols == 0) {
      const float v[1] = {sums[DB == 1 ? i : 0]};
      put(db + (size_t)blockIdx.y * p.m + row, v, p.add_db != 0);
    }
  }
}
