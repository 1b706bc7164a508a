#include "common.cuh"
// C[m, n] = sum_k A[m, k] B[n, k], f16 in, f32 out; for GPUs without cp.async. One warp a tile of 16 x 16, K
// in steps of 8.
#define ROW 24
extern "C" __global__ void __launch_bounds__(32)
turing(const half_t* __restrict__ A, const half_t* __restrict__ B, float* __restrict__ C, int M, int N, int K) {
  __shared__ __align__(16) half_t a[16 * ROW], b[16 * ROW];
  const int lane = threadIdx.x, m0 = blockIdx.y * 16, n0 = blockIdx.x * 16;
  float sum[2][4] = {};
  for (int k0 = 0; k0 < K; k0 += 16) {
    for (int i = lane; i < 256; i += 32) {
      int row = i / 16, k = i % 16;
      a[row * ROW + k] = m0 + row < M && k0 + k < K ? A[(m0 + row) * K + k0 + k] : 0;
      b[row * ROW + k] = n0 + row < N && k0 + k < K ? B[(n0 + row) * K + k0 + k] : 0;
    }
    __syncwarp();
    u32 fa[4], fb[4];
    load4(fa, a + lane % 16 * ROW + lane / 16 * 8);
    load4(fb, b + (lane / 16 * 8 + lane % 8) * ROW + lane / 8 % 2 * 8);
#pragma unroll
    for (int k = 0; k < 2; k++)
#pragma unroll
      for (int j = 0; j < 2; j++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(sum[j][0]), "+f"(sum[j][1]), "+f"(sum[j][2]), "+f"(sum[j][3])
                     : "r"(fa[2 * k]), "r"(fa[2 * k + 1]), "r"(fb[2 * j + k]));
    __syncwarp();
  }
#pragma unroll
  for (int j = 0; j < 2; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int m = m0 + lane / 4 + e / 2 * 8, n = n0 + j * 8 + lane % 4 * 2 + e % 2;
      if (m < M && n < N) C[m * N + n] = sum[j][e];
    }
}
