#include "common.cuh"
// Backward pass of an embedding: adds rows of dy to the rows of a table that ids name.
extern "C" __global__ void embedding_backward(const int* __restrict__ ids, const half_t* __restrict__ dy,
                                              float* __restrict__ table, int tokens, int width, int skip) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < tokens * (width / 2); i += gridDim.x * blockDim.x) {
    const int token = i / (width / 2), c = i % (width / 2), id = ids[token];
    if (id == skip) continue;
    const float2 v = widen2(((const u32*)dy)[(size_t)token * (width / 2) + c]);
    atomicAdd(table + (size_t)id * width + 2 * c, v.x);
    atomicAdd(table + (size_t)id * width + 2 * c + 1, v.y);
  }
}
// Sum of squares over many blocks: each leaves its part, and the last to come adds them up, always in the
// same order.
extern "C" __global__ void __launch_bounds__(128)
squares(const float* __restrict__ x, float* __restrict__ parts, u32* __restrict__ counter, float* __restrict__ out, int n) {
  __shared__ float warps[4];
  __shared__ bool last;
  float sum = 0.f;
  for (int i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) sum += x[i] * x[i];
  sum = sum_lanes<32>(sum);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = warps[0] + warps[1] + warps[2] + warps[3];
    __threadfence();
    last = atomicAdd(counter, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  if (threadIdx.x < 32) {
    float all = 0.f;
    for (int i = threadIdx.x; i < gridDim.x; i += 32) all += parts[i];
    all = sum_lanes<32>(all);
    if (threadIdx.x == 0) {
      *out = all;
      *counter = 0u;
    }
  }
}
