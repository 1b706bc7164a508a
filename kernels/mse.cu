// loss = scale sum v_r (x - t)^2: see src/ops/mse.rs. Constants: T (x), G (dx), ROW_WEIGHTED (0 or 1).
// Targets, scale, weights and losses are f32.

struct Params {
  u32 n, cols, add;
};

// One block. x, goal (n), scale (1), row_weights (n / cols) -> loss (1)
KERNEL mse_forward(const T* __restrict__ x, const float* __restrict__ goal, const float* __restrict__ scale,
                   const float* __restrict__ row_weights, float* __restrict__ loss, Params p) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 i = threadIdx.x; i < p.n; i += THREADS) {
    const float d = widen(x[i]) - goal[i];
    if constexpr (ROW_WEIGHTED) {
      // Whatever the loss of a row of weight 0 is, it does not count.
      const float v = row_weights[i / p.cols];
      sum += v == 0.f ? 0.f : v * (d * d);
    } else {
      sum += d * d;
    }
  }
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) loss[0] = scale[0] * sum;
}

// dx = 2 dloss scale v (x - t). x, goal (n), scale (1), row_weights (n / cols), dloss (1) -> dx (n)
KERNEL mse_backward(const T* __restrict__ x, const float* __restrict__ goal, const float* __restrict__ scale,
                    const float* __restrict__ row_weights, const float* __restrict__ dloss, G* __restrict__ dx, Params p) {
  const u32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= p.n) return;
  float d[1] = {scale[0] * dloss[0] * 2.f * (widen(x[i]) - goal[i])};
  if constexpr (ROW_WEIGHTED) {
    const float v = row_weights[i / p.cols];
    d[0] = v == 0.f ? 0.f : v * d[0];
  }
  put(dx + i, d, p.add);
}
