// loss = scale sum (max(z, 0) - z t + log(1 + exp(-|z|))): see src/ops/binary_cross_entropy.rs.
// Constants: T (logits), G (dlogits). Targets, scale and losses are f32.

struct Params {
  u32 n;
  u32 add;
};

// One block. z, goal (n), scale (1) -> loss (1)
KERNEL binary_cross_entropy_forward(const T* __restrict__ z, const float* __restrict__ goal, const float* __restrict__ scale,
                                    float* __restrict__ loss, Params p) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 i = threadIdx.x; i < p.n; i += THREADS) {
    const float v = widen(z[i]);
    // The larger of zero and a NaN is zero.
    sum += v != v ? v : fmaxf(v, 0.f) - v * goal[i] + log1pf(expf(-fabsf(v)));
  }
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) loss[0] = scale[0] * sum;
}

// dz = dloss scale (sigmoid(z) - t). z, goal (n), scale, dloss (1) -> dz (n)
KERNEL binary_cross_entropy_backward(const T* __restrict__ z, const float* __restrict__ goal, const float* __restrict__ scale,
                                     const float* __restrict__ dloss, G* __restrict__ dz, Params p) {
  const u32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= p.n) return;
  const float d[1] = {scale[0] * dloss[0] * (1.f / (1.f + expf(-widen(z[i]))) - goal[i])};
  put(dz + i, d, p.add);
}
