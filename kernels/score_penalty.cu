// grad += lambda share s'(score), the derivative of the sigmoid: see src/ops/score_penalty.rs.

struct Params {
  u32 n;
  float share;
};

// score (n), grad (n), lambda (1) -> grad
KERNEL score_penalty(const float* __restrict__ score, float* __restrict__ grad, const float* __restrict__ lambda, Params p) {
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  if (i >= p.n) return;
  // Of -|s|, whose exponential does not overflow.
  const float e = expf(-fabsf(score[i]));
  const float g[1] = {lambda[0] * p.share * (e / ((1.f + e) * (1.f + e)))};
  put(grad + i, g, 1);
}
