// The product of linear.cu on tensor cores, for T = bf16 or f16: c (m, n) = sum over k of A(m, k) B(k, n),
// sums in f32. One kernel gives y = x w^T, dx = dz w and dw = dz^T x: they differ in how operands lie in
// memory.
//
// Constants: A_DOWN, B_DOWN 1 where neighbours in memory are neighbours along k: A is stored (m, k), else (k,
// m); B is stored (n, k), else (k, n). A_ALIGNED, B_ALIGNED 1 where stored rows are multiples of 16 bytes.
// TILE_M, TILE_N, TILE_K of a block, WARP_M, WARP_N of a warp. STAGES tiles of k in shared memory, at least
// two. Dynamic shared memory: STAGES (TILE_M + TILE_N) TILE_K elements.

constexpr u32 WARPS_N = TILE_N / WARP_N, STAGE = (TILE_M + TILE_N) * TILE_K;
static_assert(THREADS == 32 * (TILE_M / WARP_M) * WARPS_N, "a warp for each of its tiles");
static_assert(STAGES * STAGE * 2 >= THREADS / 32 * 16 * WARP_N * 4, "room for the epilogue");

// Where a chunk of eight neighbours is in a tile of lines of WIDTH elements. The chunks of a line are
// permuted, so that neither the rows of a matrix (same chunk, eight lines) nor the chunks of a line share a
// bank. 32 banks of four bytes are eight chunks of sixteen bytes; for WIDTH 64 a line is all of them, and
// chunk c of line l stands in place c ^ l % 8:
//
//   place     0 1 2 3 4 5 6 7
//   line 0    0 1 2 3 4 5 6 7
//   line 1    1 0 3 2 5 4 7 6
//   line 2    2 3 0 1 6 7 4 5        a matrix reads one chunk, say 0, of eight lines: it stands in eight places
//   ...
//   line 7    7 6 5 4 3 2 1 0
//
// For WIDTH 32 two lines fill the banks, so lines are turned in pairs.
template <u32 WIDTH> DEVICE u32 place(u32 line, u32 chunk) {
  const u32 turn = WIDTH >= 64 ? line % 8 : line / 2 % 4;
  return line * WIDTH + (chunk ^ turn) * 8;
}

// How a thread brings its chunks of an operand's tiles to shared memory. What cannot be copied asynchronously
// (rows of odd length; everything on Turing) is held in registers from `fetch` to `store`, so that the
// multiplications hide its way.
template <u32 DOWN, u32 ALIGNED, u32 TILE> struct Operand {
  static constexpr u32 WIDTH = DOWN == 1 ? TILE_K : TILE, LINES = DOWN == 1 ? TILE : TILE_K, CHUNKS = WIDTH / 8;
  static constexpr u32 STEP = THREADS / CHUNKS, EACH = LINES / STEP;
  static constexpr bool ASYNC = ALIGNED == 1 && __CUDA_ARCH__ >= 800;
  static_assert(THREADS % CHUNKS == 0 && LINES % STEP == 0, "equal shares");

  // The chunk that is brought next: where it is, and how many elements are left from it on, along k and
  // across.
  const T *from, *at;
  u32 next_line, next_tile;
  int along, across;
  uint4 held[ASYNC ? 1 : EACH];

  // Rows (of A) or columns (of B) from `first` to `edge`, depths from `k` to `depth`.
  __device__ __forceinline__ Operand(const T* from, u32 row, u32 first, u32 edge, u32 k, u32 depth)
      : from(from) {
    const u32 line = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS * 8;
    at = from + (DOWN == 1 ? (size_t)(first + line) * row + k + chunk : (size_t)(k + line) * row + first + chunk);
    next_line = STEP * row, next_tile = DOWN == 1 ? TILE_K : TILE_K * row;
    along = depth - k - (DOWN == 1 ? chunk : line), across = edge - first - (DOWN == 1 ? line : chunk);
  }
  // Begins to bring a tile; tiles come in order.
  __device__ __forceinline__ void fetch(T* tile) {
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
      const int l = i * STEP, left = DOWN == 1 ? along : across;
      const bool in = left > 0 && l < (DOWN == 1 ? across : along);
      const T* p = at + i * next_line;
      if constexpr (ASYNC) {
        copy16(tile + place<WIDTH>(threadIdx.x / CHUNKS + l, threadIdx.x % CHUNKS), in ? p : from, in ? 16 : 0);
      } else if constexpr (ALIGNED == 1) {
        held[i] = in ? *(const uint4*)p : make_uint4(0, 0, 0, 0);
      } else {
        u32 e[8];
#pragma unroll
        for (int j = 0; j < 8; j++) e[j] = in && j < left ? p[j].bits : 0;
        held[i] = make_uint4(e[0] | e[1] << 16, e[2] | e[3] << 16, e[4] | e[5] << 16, e[6] | e[7] << 16);
      }
    }
    at += next_tile, along -= TILE_K;
  }
  __device__ __forceinline__ void store(T* tile) {
    if constexpr (!ASYNC) {
#pragma unroll
      for (u32 i = 0; i < EACH; i++)
        store_shared(tile + place<WIDTH>(threadIdx.x / CHUNKS + i * STEP, threadIdx.x % CHUNKS), held[i]);
    }
  }
};

// 16 rows of A, 16 deep, as four matrices of 8 x 8 (rows, k). ldmatrix wants matrix i in register i (see
// multiply_add), so lanes 8 i to 8 i + 7 point to the rows of: i = 0 rows 0-7, k 0-7; 1 rows 8-15, k 0-7; 2
// rows 0-7, k 8-15; 3 rows 8-15, k 8-15. Where A is stored (k, m), they point to lines along k, and the
// matrices are transposed on the way.
DEVICE void a_fragment(u32 (&r)[4], const T* tile, u32 row, u32 k) {
  const u32 lane = threadIdx.x % 32;
  if constexpr (A_DOWN == 1) {
    load_matrices(r, tile + place<TILE_K>(row + lane % 16, k / 8 + lane / 16));
  } else {
    load_matrices_transposed(r, tile + place<TILE_M>(k + lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2));
  }
}
// 16 columns of B, 16 deep: two registers for the first eight columns, two for the others. Matrix i here: 0
// columns 0-7, k 0-7; 1 columns 0-7, k 8-15; 2 columns 8-15, k 0-7; 3 columns 8-15, k 8-15.
DEVICE void b_fragment(u32 (&r)[4], const T* tile, u32 col, u32 k) {
  const u32 lane = threadIdx.x % 32;
  if constexpr (B_DOWN == 1) {
    load_matrices(r, tile + place<TILE_K>(col + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
  } else {
    load_matrices_transposed(r, tile + place<TILE_N>(k + lane % 16, col / 8 + lane / 16));
  }
}

// A block takes the tile that tile_of gives it and the part blockIdx.y of the sums; parts of c lie behind one
// another.
KERNEL linear_matmul(const T* __restrict__ a,     // (m, k) or (k, m)
                      const T* __restrict__ b,     // (n, k) or (k, n)
                      const T* __restrict__ bias,  // (n)
                      C* __restrict__ c,           // (parts, m, n)
                      T* __restrict__ kept,        // (m, n)
                      D* __restrict__ db,          // (parts, m), the sums of A over k
                      Params p) {
  extern __shared__ __align__(128) u8 memory[];
  T* const tiles = (T*)memory;
  const uint2 tile = tile_of<8>(blockIdx.x, ceil_div(p.m, TILE_M), ceil_div(p.n, TILE_N));
  const u32 warp = threadIdx.x / 32, wm = warp / WARPS_N * WARP_M, wn = warp % WARPS_N * WARP_N;
  const u32 all = ceil_div(p.k, TILE_K), begin = blockIdx.y * p.steps;
  const u32 steps = begin >= all ? 0 : all - begin < p.steps ? all - begin : p.steps;
  Operand<A_DOWN, A_ALIGNED, TILE_M> from_a(a, p.a_row, tile.x * TILE_M, p.m, begin * TILE_K, p.k);
  Operand<B_DOWN, B_ALIGNED, TILE_N> from_b(b, p.b_row, tile.y * TILE_N, p.n, begin * TILE_K, p.k);
  const auto fetch = [&](u32 step) {
    T* const to = tiles + step % STAGES * STAGE;
    from_a.fetch(to);
    from_b.fetch(to + TILE_M * TILE_K);
  };
  const auto store = [&](u32 step) {
    T* const to = tiles + step % STAGES * STAGE;
    from_a.store(to);
    from_b.store(to + TILE_M * TILE_K);
  };

  constexpr u32 ROWS = WARP_M / 16, COLS = WARP_N / 8, DEEP = TILE_K / 16;
  float sum[ROWS][COLS][4] = {};
  // The sums of A over k are a product with ones; each of its eight columns holds them.
  float sums[DB == 1 ? ROWS : 1][4] = {};
  const u32 ones = sizeof(T) == 2 && narrow<T>(1.f).bits == 0x3c00 ? 0x3c003c00u : 0x3f803f80u;
  const bool adds = DB == 1 && tile.y == 0 && wn == 0;
  // Fragments of two depths: one is loaded while the other is multiplied.
  u32 fa[2][ROWS][4], fb[2][COLS / 2][4];
  const auto fragments = [&](u32 set, u32 step, u32 k) {
    const T* const at = tiles + step % STAGES * STAGE;
#pragma unroll
    for (u32 i = 0; i < ROWS; i++) a_fragment(fa[set][i], at, wm + 16 * i, k);
#pragma unroll
    for (u32 j = 0; j < COLS / 2; j++) b_fragment(fb[set][j], at + TILE_M * TILE_K, wn + 16 * j, k);
  };

  // All stages but one are under way before the first product; each step asks for the tile STAGES - 1 steps
  // ahead. A group of copies is committed in every step, even an empty one, so that "all but the newest
  // STAGES - 2 groups" always means the tile needed next.
#pragma unroll
  for (u32 s = 0; s < STAGES - 1; s++) {
    if (s < steps) {
      fetch(s);
      store(s);
    }
    copies_commit();
  }
  copies_wait<STAGES - 2>();
  __syncthreads();
  if (steps > 0) fragments(0, 0, 0);
#pragma unroll 1
  for (u32 step = 0; step < steps; step++) {
    const u32 next = step + STAGES - 1;
#pragma unroll
    for (u32 d = 0; d < DEEP; d++) {
      if (d == 0) {
        // All warps are past the stage that this overwrites: they left it before the last barrier.
        if (next < steps) fetch(next);
        copies_commit();
      }
      if (d == DEEP - 1) {
        // Before the last products of the step, whose fragments are in registers: they hide the loads of the
        // next step's first ones.
        if (next < steps) store(next);
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (step + 1 < steps) fragments((d + 1) % 2, step + 1, 0);
      } else {
        fragments((d + 1) % 2, step, 16 * (d + 1));
      }
#pragma unroll
      for (u32 i = 0; i < ROWS; i++) {
#pragma unroll
        for (u32 j = 0; j < COLS; j++)
          multiply_add<T>(sum[i][j], fa[d % 2][i], fb[d % 2][j / 2][j % 2 * 2], fb[d % 2][j / 2][j % 2 * 2 + 1]);
        if (adds) multiply_add<T>(sums[DB == 1 ? i : 0], fa[d % 2][i], ones, ones);
      }
    }
  }
  copies_wait<0>();
  // The last tiles are read, and their memory is free for the results.
  __syncthreads();
  const u32 row = tile.x * TILE_M + wm, col = tile.y * TILE_N + wn;
  c += (size_t)blockIdx.y * p.m * p.n;
  float* const slice = (float*)memory + warp * 16 * WARP_N;
#pragma unroll
  for (u32 i = 0; i < ROWS; i++) finish_slab<WARP_N>(sum[i], slice, row + 16 * i, col, bias, c, kept, p);
  if (adds && threadIdx.x % 4 == 0) {
#pragma unroll
    for (u32 i = 0; i < ROWS; i++)
#pragma unroll
      for (u32 h = 0; h < 2; h++) {
        const u32 r = row + 16 * i + 8 * h + threadIdx.x % 32 / 4;
        const float v[1] = {sums[DB == 1 ? i : 0][2 * h]};
        if (r < p.m) put(db + (size_t)blockIdx.y * p.m + r, v, p.add_db != 0);
      }
  }
}
