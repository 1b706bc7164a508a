#include "common.cuh"
// C[m, n] = sum_k A[m, k] B[n, k] + bias[n]; bf16 in and out, f32 sums. Tiles of 64 x 64 x 32, three stages
// of cp.async.
#define TM 64
#define TN 64
#define TK 32
#define ROW 40
#define STAGES 3
extern "C" __global__ void __launch_bounds__(128)
product(const half_t* __restrict__ A, const half_t* __restrict__ B, const float* __restrict__ bias, half_t* __restrict__ C,
        int M, int N, int K) {
  __shared__ __align__(16) half_t tile_a[STAGES][TM * ROW];
  __shared__ __align__(16) half_t tile_b[STAGES][TN * ROW];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int m0 = blockIdx.y * TM, n0 = blockIdx.x * TN, wm = warp / 2 * 32, wn = warp % 2 * 32;
  const int steps = (K + TK - 1) / TK;
  auto fetch = [&](int step) {
    const int stage = step % STAGES;
#pragma unroll
    for (int i = 0; i < TM * TK / 8 / 128; i++) {
      int c = threadIdx.x + i * 128, row = c / (TK / 8), k = c % (TK / 8) * 8, at = step * TK + k;
      bool in_a = m0 + row < M && at < K;
      bool in_b = n0 + row < N && at < K;
      copy16(&tile_a[stage][row * ROW + k], in_a ? A + (size_t)(m0 + row) * K + at : A, in_a ? 16 : 0);
      copy16(&tile_b[stage][row * ROW + k], in_b ? B + (size_t)(n0 + row) * K + at : B, in_b ? 16 : 0);
    }
  };
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) fetch(s);
    copies_commit();
  }
  float sum[2][4][4] = {};
  for (int step = 0; step < steps; step++) {
    copies_wait<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) fetch(step + STAGES - 1);
    copies_commit();
    const half_t* a = tile_a[step % STAGES];
    const half_t* b = tile_b[step % STAGES];
#pragma unroll
    for (int k = 0; k < TK; k += 16) {
      u32 fa[2][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) load4(fa[i], a + (wm + i * 16 + lane % 16) * ROW + k + lane / 16 * 8);
#pragma unroll
      for (int j = 0; j < 2; j++) load4(fb[j], b + (wn + j * 16 + lane / 16 * 8 + lane % 8) * ROW + k + lane / 8 % 2 * 8);
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma_bf16(sum[i][j], fa[i], &fb[j / 2][j % 2 * 2]);
    }
  }
  copies_wait<0>();
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        int m = m0 + wm + i * 16 + h * 8 + lane / 4, n = n0 + wn + j * 8 + lane % 4 * 2;
        if (m < M && n < N)
          *(u32*)(C + (size_t)m * N + n) = narrow2(sum[i][j][h * 2] + bias[n], sum[i][j][h * 2 + 1] + bias[n + 1]);
      }
}
