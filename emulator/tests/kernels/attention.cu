#include "common.cuh"
// Attention over packed sequences, head width 64. Q, K, V, O: [tokens, heads, 64] bf16; sequence s has the
// tokens starts[s] to starts[s + 1]. Online softmax; L[token, head] is the logarithm of the sum, base 2.
#define WIDTH 64
#define TILE 64
#define ROW 72
extern "C" __global__ void __launch_bounds__(128)
attention(const half_t* __restrict__ Q, const half_t* __restrict__ K, const half_t* __restrict__ V,
          const int* __restrict__ starts, half_t* __restrict__ O, float* __restrict__ L, int heads, float scale) {
  extern __shared__ __align__(16) half_t tiles[];
  half_t* tile_q = tiles;
  half_t* tile_k = tile_q + TILE * ROW;
  half_t* tile_v = tile_k + TILE * ROW;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first = starts[blockIdx.z], length = starts[blockIdx.z + 1] - first, head = blockIdx.y;
  const int q0 = blockIdx.x * TILE;
  if (q0 >= length) return;
  auto fetch = [&](half_t* to, const half_t* from, int row0) {
#pragma unroll
    for (int i = 0; i < TILE * 8 / 128; i++) {
      int c = threadIdx.x + i * 128, row = c / 8, k = c % 8 * 8;
      bool in = row0 + row < length;
      copy16(to + row * ROW + k, in ? from + ((size_t)(first + row0 + row) * heads + head) * WIDTH + k : from, in ? 16 : 0);
    }
  };
  fetch(tile_q, Q, q0);
  fetch(tile_k, K, 0);
  copies_commit();
  fetch(tile_v, V, 0);
  copies_commit();
  float out[8][4] = {}, top[2] = {NEG_INF, NEG_INF}, total[2] = {0.f, 0.f};
  u32 fq[4][4];
  const int blocks = (length + TILE - 1) / TILE;
  for (int block = 0; block < blocks; block++) {
    copies_wait<1>();
    __syncthreads();
    if (block == 0)
#pragma unroll
      for (int k = 0; k < 4; k++) load4(fq[k], tile_q + (warp * 16 + lane % 16) * ROW + k * 16 + lane / 16 * 8);
    float score[8][4] = {};
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        u32 fk[4];
        load4(fk, tile_k + (j * 16 + lane / 16 * 8 + lane % 8) * ROW + k * 16 + lane / 8 % 2 * 8);
        mma_bf16(score[2 * j], fq[k], fk);
        mma_bf16(score[2 * j + 1], fq[k], fk + 2);
      }
    __syncthreads();  // keys are used up
    if (block + 1 < blocks) fetch(tile_k, K, (block + 1) * TILE);
    copies_commit();
    float now[2] = {top[0], top[1]};
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int key = block * TILE + j * 8 + lane % 4 * 2 + e % 2;
        score[j][e] = key < length ? score[j][e] * scale : NEG_INF;
        now[e / 2] = fmaxf(now[e / 2], score[j][e]);
      }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      now[h] = fmaxf(now[h], __shfl_xor_sync(~0u, now[h], 1));
      now[h] = fmaxf(now[h], __shfl_xor_sync(~0u, now[h], 2));
      float fade = exp2_fast(top[h] - now[h]);
      top[h] = now[h];
      total[h] *= fade;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        out[j][2 * h] *= fade;
        out[j][2 * h + 1] *= fade;
      }
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        score[j][e] = exp2_fast(score[j][e] - top[e / 2]);
        total[e / 2] += score[j][e];
      }
    copies_wait<1>();
    __syncthreads();  // values have landed
#pragma unroll
    for (int k = 0; k < 4; k++) {
      u32 fp[4] = {narrow2(score[2 * k][0], score[2 * k][1]), narrow2(score[2 * k][2], score[2 * k][3]),
                   narrow2(score[2 * k + 1][0], score[2 * k + 1][1]), narrow2(score[2 * k + 1][2], score[2 * k + 1][3])};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        u32 fv[4];
        load4_transposed(fv, tile_v + (k * 16 + lane % 16) * ROW + j * 16 + lane / 16 * 8);
        mma_bf16(out[2 * j], fp, fv);
        mma_bf16(out[2 * j + 1], fp, fv + 2);
      }
    }
    __syncthreads();  // values are used up
    if (block + 1 < blocks) fetch(tile_v, V, (block + 1) * TILE);
    copies_commit();
  }
  copies_wait<0>();
#pragma unroll
  for (int h = 0; h < 2; h++) {
    total[h] += __shfl_xor_sync(~0u, total[h], 1);
    total[h] += __shfl_xor_sync(~0u, total[h], 2);
    int row = q0 + warp * 16 + lane / 4 + h * 8;
    if (row >= length) continue;
    size_t at = (size_t)(first + row) * heads + head;
#pragma unroll
    for (int j = 0; j < 8; j++)
      *(u32*)(O + at * WIDTH + j * 8 + lane % 4 * 2) = narrow2(out[j][2 * h] / total[h], out[j][2 * h + 1] / total[h]);
    if (lane % 4 == 0) L[at] = top[h] + log2f(total[h]);
  }
}

// Its backward pass in f32, one block a (sequence, head): rows of 64 threads' worth, P computed again from L.
// delta[token, head] = sum of dO O.
extern "C" __global__ void __launch_bounds__(64)
attention_backward(const half_t* __restrict__ Q, const half_t* __restrict__ K, const half_t* __restrict__ V,
                   const int* __restrict__ starts, const half_t* __restrict__ O, const half_t* __restrict__ dO,
                   const float* __restrict__ L, float* __restrict__ dQ, float* __restrict__ dK, float* __restrict__ dV,
                   int heads, float scale) {
  __shared__ float q[WIDTH], d[WIDTH], part[2];
  __shared__ float p[TILE], ds[TILE];
  const int first = starts[blockIdx.y], length = starts[blockIdx.y + 1] - first, head = blockIdx.x, t = threadIdx.x;
  auto at = [&](int token) { return ((size_t)(first + token) * heads + head) * WIDTH; };
  for (int i = 0; i < length; i++) {
    q[t] = widen(Q[at(i) + t]);
    d[t] = widen(dO[at(i) + t]);
    float delta = sum_lanes<32>(d[t] * widen(O[at(i) + t]));
    if (t % 32 == 0) part[t / 32] = delta;
    __syncthreads();
    delta = part[0] + part[1];
    const float norm = L[(size_t)(first + i) * heads + head];
    float dq = 0.f;
    for (int j0 = 0; j0 < length; j0 += TILE) {
      const int j = j0 + t;
      if (j < length) {
        float s = 0.f, dp = 0.f;
        for (int k = 0; k < WIDTH; k++) {
          s += q[k] * widen(K[at(j) + k]);
          dp += d[k] * widen(V[at(j) + k]);
        }
        p[t] = exp2f(s * scale - norm);
        ds[t] = p[t] * (dp - delta) * scale * 0.6931471805599453f;
      }
      __syncthreads();
      for (int r = 0; r < TILE && j0 + r < length; r++) {
        dq += ds[r] * widen(K[at(j0 + r) + t]);
        dK[at(j0 + r) + t] += ds[r] * q[t];
        dV[at(j0 + r) + t] += p[r] * d[t];
      }
      __syncthreads();
    }
    dQ[at(i) + t] = dq;
  }
}
