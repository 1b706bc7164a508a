// The product of linear.cu on Hopper (sm_90a), for T = bf16 or f16: c (m, n) = sum over k of A(m, k) B(k, n),
// sums in f32. One warp asks for boxes of the operands, two groups of four warps multiply them (wgmma) and
// write 64 rows each.
//
// Constants: A_DOWN, B_DOWN 1 where neighbours in memory are neighbours along k: A is stored (m, k), else (k,
// m); B is stored (n, k), else (k, n). TILE_N of a block, 128 or 256; its other sides are 128 and 64. STAGES
// tiles of k in shared memory, BLOCKS of them that shall fit a multiprocessor. THREADS is 288. Dynamic shared
// memory: STAGES (128 + TILE_N) 128 + 2,048 bytes. Tensor maps: of the operands as they are stored, boxes of
// 64 x 64, swizzled over 128 bytes, zeros beyond the edges.

constexpr u32 TILE_M = 128, TILE_K = 64;
constexpr u32 BOX = 64 * 64;  // elements: 64 rows of 128 bytes
constexpr u32 STAGE = (TILE_M + TILE_N) / 64 * BOX, CONSUMERS = 256;
static_assert(STAGES >= 2, "a stage is free again one step late");
static_assert(THREADS == CONSUMERS + 32 && STAGES * STAGE * 2 >= CONSUMERS / 32 * 16 * 64 * 4, "room for the epilogue");

// The operand of a product at depth k of a tile of boxes: 16 deep, rows (of A) or columns (of B) from the
// start of a box. A box is 64 lines of 128 bytes, swizzled by TMA as in linear.tensor.cu (chunk c of line l
// in place c ^ l % 8), in groups of eight lines:
//
//   DOWN 1, stored (m, k)                         DOWN 0, stored (k, m)
//          k 0    ..    63                               m 0    ..    63       the next box: m 64 .. 127
//   m 0   +---------------+  bytes 0             k 0    +---------------+     +---------------+
//   ..    |  eight lines  |                      ..     |  eight lines  |     |               |
//   m 8   +---------------+  1,024               k 8    +---------------+     +---------------+
//   ..    |               |                      ..     |               |     |  8,192 bytes behind the first
//
// DOWN 1: 16 deep are 32 bytes of each line, so the operand begins 2 k bytes from the box; the stride
// distance, 1,024 bytes, leads from eight rows to the next; the leading distance does not count with this
// swizzle. DOWN 0: 16 deep are sixteen lines, so it begins 128 k bytes from the box; the stride distance
// leads from eight lines along k to the next, the leading distance, 8,192 bytes, to the box with the next 64
// rows.
template <u32 DOWN> DEVICE u64 operand(const T* tile, u32 k) {
  const u32 at = shared_address(tile) + (DOWN == 1 ? 2 * k : 128 * k);
  return (u64)(at >> 4 & 0x3fff) | (u64)(DOWN == 1 ? 1 : 512) << 16 | 64ull << 32 | 1ull << 62;
}

// A block takes the tile that tile_of gives it and the part blockIdx.y of the sums; parts of c lie behind one
// another.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
linear_matmul_hopper(const __grid_constant__ TensorMap a,  // (m, k) or (k, m)
                      const __grid_constant__ TensorMap b,  // (n, k) or (k, n)
                      const T* __restrict__ bias,           // (n)
                      C* __restrict__ c,                    // (parts, m, n)
                      T* __restrict__ kept,                 // (m, n)
                      D* __restrict__ db,                   // (parts, m), the sums of A over k
                      Params p) {
  hopper_only();
  extern __shared__ __align__(1024) u8 memory[];
  // Swizzled boxes begin at multiples of 1,024 bytes of shared memory, which the driver does not promise.
  u8* const start = memory + (1024 - shared_address(memory) % 1024) % 1024;
  T* const tiles = (T*)start;
  u64* const full = (u64*)(tiles + STAGES * STAGE);
  u64* const empty = full + STAGES;
  u32* const ones = (u32*)(start + STAGES * STAGE * 2 + 256);  // 16 x 8 of them
  const uint2 tile = tile_of<8>(blockIdx.x, ceil_div(p.m, TILE_M), ceil_div(p.n, TILE_N));
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const u32 all = ceil_div(p.k, TILE_K), begin = blockIdx.y * p.steps;
  const u32 steps = begin >= all ? 0 : all - begin < p.steps ? all - begin : p.steps;
  if (threadIdx.x == 0) {
#pragma unroll
    for (u32 s = 0; s < STAGES; s++) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, CONSUMERS / 32);
    }
    barriers_ready();
  }
  if constexpr (DB == 1) {
    if (threadIdx.x < 64) ones[threadIdx.x] = narrow2<T>(1.f, 1.f);
    wgmma_see();
  }
  __syncthreads();

  // The producer: one lane asks for boxes, because TMA moves them without threads. Each stage has two
  // barriers. `full` ends a phase when the bytes have landed, `empty` when the eight consumer warps have
  // arrived; the producer is a whole ring ahead at most.
  if (warp == CONSUMERS / 32) {
    if (lane == 0) {
#pragma unroll 1
      for (u32 step = 0; step < steps; step++) {
        const u32 s = step % STAGES, k = (begin + step) * TILE_K;
        // Use number u of a stage (from 0) waits for the consumers of use u - 1, which ends phase u - 1.
        if (step >= STAGES) barrier_wait(empty + s, (step / STAGES - 1) % 2);
        barrier_expect(full + s, STAGE * 2);
        T* to = tiles + s * STAGE;
#pragma unroll
        for (u32 i = 0; i < TILE_M / 64; i++, to += BOX) {
          const u32 row = tile.x * TILE_M + 64 * i;
          load_box(to, a, full + s, A_DOWN == 1 ? k : row, A_DOWN == 1 ? row : k);
        }
#pragma unroll
        for (u32 i = 0; i < TILE_N / 64; i++, to += BOX) {
          const u32 col = tile.y * TILE_N + 64 * i;
          load_box(to, b, full + s, B_DOWN == 1 ? k : col, B_DOWN == 1 ? col : k);
        }
      }
    }
    return;
  }

  float sum[TILE_N / 64][8][4] = {};
  // The sums of A over k are a product with ones; each of its eight columns holds them.
  float sums[4] = {};
  const bool adds = DB == 1 && tile.y == 0;
  // Two pieces (k 0-7 and 8-15) of eight columns of 16 bytes, without swizzle: 128 bytes from one piece to
  // the next along k. All of them are ones, so it does not matter which element a place holds.
  const u64 by_ones = (u64)(shared_address(ones) >> 4 & 0x3fff) | 8ull << 16 | 16ull << 32;
#pragma unroll 1
  for (u32 step = 0; step < steps; step++) {
    const u32 s = step % STAGES;
    barrier_wait(full + s, step / STAGES % 2);
    const T *const x = tiles + s * STAGE + warp / 4 * BOX, *const y = tiles + s * STAGE + TILE_M / 64 * BOX;
    wgmma_fence();
#pragma unroll
    for (u32 k = 0; k < TILE_K; k += 16)
      multiply_async<T, 1 - A_DOWN, 1 - B_DOWN>(sum, operand<A_DOWN>(x, k), operand<B_DOWN>(y, k));
    if (adds) {
#pragma unroll
      for (u32 k = 0; k < TILE_K; k += 16) multiply_async<T, 1 - A_DOWN, 0>(sums, operand<A_DOWN>(x, k), by_ones);
    }
    wgmma_commit();
    // One step of products stays under way while the next is issued. Those of the step before are done, and
    // its stage can be filled again.
    wgmma_wait<1>();
    if (step > 0 && lane == 0) barrier_arrive(empty + (step - 1) % STAGES);
  }
  wgmma_wait<0>();
#pragma unroll
  for (u32 i = 0; i < TILE_N / 64 * 32; i++) hold(sum[i / 32][i / 4 % 8][i % 4]);
#pragma unroll
  for (u32 i = 0; i < 4; i++) hold(sums[i]);
  // Both groups have read the last tiles, and their memory is free for the results.
  barrier_part(1, CONSUMERS);
  const u32 row = tile.x * TILE_M + warp * 16, col = tile.y * TILE_N;
  c += (size_t)blockIdx.y * p.m * p.n;
  float* const slice = (float*)start + warp * 16 * 64;
#pragma unroll
  for (u32 i = 0; i < TILE_N / 64; i++) finish_slab<64>(sum[i], slice, row, col + 64 * i, bias, c, kept, p);
  if (adds && lane % 4 == 0) {
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
      const float v[1] = {sums[2 * h]};
      const u32 r = row + 8 * h + lane / 4;
      if (r < p.m) put(db + (size_t)blockIdx.y * p.m + r, v, p.add_db != 0);
    }
  }
}
