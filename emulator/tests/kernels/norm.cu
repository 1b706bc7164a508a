#include "common.cuh"
// Layer normalisation of rows of n (even), a warp a row; f32 statistics.
extern "C" __global__ void __launch_bounds__(128)
norm_forward(const half_t* __restrict__ x, const float* __restrict__ gain, const float* __restrict__ shift,
             half_t* __restrict__ y, float* __restrict__ stats, int rows, int n, float eps) {
  const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const u32* from = (const u32*)(x + (size_t)row * n);
  float sum = 0.f;
  for (int i = lane; i < n / 2; i += 32) {
    float2 v = widen2(from[i]);
    sum += v.x + v.y;
  }
  const float mean = sum_lanes<32>(sum) / n;
  float squares = 0.f;
  for (int i = lane; i < n / 2; i += 32) {
    float2 v = widen2(from[i]);
    squares += (v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean);
  }
  const float scale = rsqrtf(sum_lanes<32>(squares) / n + eps);
  u32* to = (u32*)(y + (size_t)row * n);
  for (int i = lane; i < n / 2; i += 32) {
    float2 v = widen2(from[i]), g = ((const float2*)gain)[i], b = ((const float2*)shift)[i];
    to[i] = narrow2((v.x - mean) * scale * g.x + b.x, (v.y - mean) * scale * g.y + b.y);
  }
  if (lane == 0) {
    stats[2 * row] = mean;
    stats[2 * row + 1] = scale;
  }
}
// dx, and what each block adds to the gradients of gain and shift.
extern "C" __global__ void __launch_bounds__(128)
norm_backward(const half_t* __restrict__ dy, const half_t* __restrict__ x, const float* __restrict__ gain,
              const float* __restrict__ stats, half_t* __restrict__ dx, float* __restrict__ dgain, float* __restrict__ dshift,
              int rows, int n) {
  extern __shared__ float sums[];
  for (int i = threadIdx.x; i < 2 * n; i += 128) sums[i] = 0.f;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  for (int row = blockIdx.x * 4 + threadIdx.x / 32; row < rows; row += gridDim.x * 4) {
    const float mean = stats[2 * row], scale = stats[2 * row + 1];
    float s1 = 0.f, s2 = 0.f;
    for (int i = lane; i < n; i += 32) {
      float h = (widen(x[(size_t)row * n + i]) - mean) * scale, d = widen(dy[(size_t)row * n + i]);
      s1 += d * gain[i];
      s2 += d * gain[i] * h;
      atomicAdd(&sums[i], d * h);
      atomicAdd(&sums[n + i], d);
    }
    s1 = sum_lanes<32>(s1) / n;
    s2 = sum_lanes<32>(s2) / n;
    for (int i = lane; i < n; i += 32) {
      float h = (widen(x[(size_t)row * n + i]) - mean) * scale, d = widen(dy[(size_t)row * n + i]);
      dx[(size_t)row * n + i] = narrow(scale * (d * gain[i] - s1 - h * s2));
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += 128) {
    atomicAdd(&dgain[i], sums[i]);
    atomicAdd(&dshift[i], sums[n + i]);
  }
}
