#include "common.cuh"
// Cross-entropy of rows of logits, and its gradient; a block a row. A negative target counts for nothing.
DEVICE float over_block(float v, bool largest, float* parts) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  v = largest ? max_lanes<32>(v) : sum_lanes<32>(v);
  if (lane == 0) parts[warp] = v;
  __syncthreads();
  v = lane < blockDim.x / 32 ? parts[lane] : (largest ? NEG_INF : 0.f);
  v = largest ? max_lanes<32>(v) : sum_lanes<32>(v);
  __syncthreads();
  return v;
}
extern "C" __global__ void __launch_bounds__(256)
cross_entropy(const half_t* __restrict__ logits, const int* __restrict__ targets, float* __restrict__ loss,
              half_t* __restrict__ dlogits, int classes, float weight) {
  __shared__ float parts[8];
  const int row = blockIdx.x, target = targets[row];
  const half_t* x = logits + (size_t)row * classes;
  half_t* dx = dlogits + (size_t)row * classes;
  if (target < 0) {
    for (int i = threadIdx.x; i < classes; i += blockDim.x) dx[i] = 0;
    if (threadIdx.x == 0) loss[row] = 0.f;
    return;
  }
  float top = NEG_INF;
  for (int i = threadIdx.x; i < classes; i += blockDim.x) top = fmaxf(top, widen(x[i]));
  top = over_block(top, true, parts);
  float total = 0.f;
  for (int i = threadIdx.x; i < classes; i += blockDim.x) total += __expf(widen(x[i]) - top);
  total = over_block(total, false, parts);
  if (threadIdx.x == 0) loss[row] = logf(total) + top - widen(x[target]);
  for (int i = threadIdx.x; i < classes; i += blockDim.x)
    dx[i] = narrow((__expf(widen(x[i]) - top) / total - (i == target ? 1.f : 0.f)) * weight);
}
