// loss = scale sum (x - t)^2: see src/ops/mse.rs. Constants: T (x), G (dx). Targets, scale and losses are
// f32.

struct Params {
  u32 n;
  u32 add;
};

// One block. x, goal (n), scale (1) -> loss (1)
KERNEL mse_forward(const T* __restrict__ x, const float* __restrict__ goal, const float* __restrict__ scale,
                   float* __restrict__ loss, Params p) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 i = threadIdx.x; i < p.n; i += THREADS) {
    const float d = widen(x[i]) - goal[i];
    sum += d * d;
  }
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) loss[0] = scale[0] * sum;
}

// dx = 2 dloss scale (x - t). x, goal (n), scale, dloss (1) -> dx (n)
KERNEL mse_backward(const T* __restrict__ x, const float* __restrict__ goal, const float* __restrict__ scale,
                    const float* __restrict__ dloss, G* __restrict__ dx, Params p) {
  const u32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= p.n) return;
  const float d[1] = {scale[0] * dloss[0] * 2.f * (widen(x[i]) - goal[i])};
  put(dx + i, d, p.add);
}
