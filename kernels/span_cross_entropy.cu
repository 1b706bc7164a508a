// loss = scale / 2 sum_s sum_k (lse_sk - logits[target_sk, k]): see src/ops/span_cross_entropy.rs.
// Constants: T (logits), G (dlogits).

struct Params {
  u32 tokens, seqs;
  u32 add;
};

// One warp a sequence and column. logits (tokens, 2), bounds (seqs + 1), target (seqs, 2) -> lse, each
// (seqs, 2) f32
KERNEL span_cross_entropy_forward(const T* __restrict__ logits, const u32* __restrict__ bounds, const u32* __restrict__ target,
                                  float* __restrict__ lse, float* __restrict__ each, Params p) {
  const u32 item = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  const u32 s = item / 2, k = item % 2;
  if (s >= p.seqs) return;
  const u32 start = bounds[s], end = bounds[s + 1];
  float most = NEG_INF;
  bool nan = false;
  for (u32 t = start + lane; t < end; t += 32) {
    const float v = widen(logits[(u64)t * 2 + k]);
    // The larger of a number and a NaN is the number.
    nan |= v != v;
    most = fmaxf(most, v);
  }
  most = warp_max(most);
  float sum = 0.f;
  for (u32 t = start + lane; t < end; t += 32) sum += expf(widen(logits[(u64)t * 2 + k]) - most);
  const float norm = __any_sync(~0u, nan) ? NOT_A_NUMBER : most + logf(warp_sum(sum));
  if (lane == 0) {
    const u32 at = target[item];
    lse[item] = norm;
    each[item] = at < end - start ? norm - widen(logits[(u64)(start + at) * 2 + k]) : 0.f;
  }
}

// One block. each (seqs, 2), scale (1) f32 -> loss (1) f32
KERNEL span_cross_entropy_sum(const float* __restrict__ each, const float* __restrict__ scale, float* __restrict__ loss,
                              Params p) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 i = threadIdx.x; i < 2 * p.seqs; i += THREADS) sum += each[i];
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) loss[0] = scale[0] * 0.5f * sum;
}

// A token beyond the last sequence has no gradient. logits (tokens, 2), bounds (seqs + 1), target (seqs, 2),
// scale, dloss (1) f32, lse (seqs, 2) f32 -> dlogits (tokens, 2)
KERNEL span_cross_entropy_backward(const T* __restrict__ logits, const u32* __restrict__ bounds,
                                   const u32* __restrict__ target, const float* __restrict__ scale,
                                   const float* __restrict__ dloss, const float* __restrict__ lse, G* __restrict__ dlogits,
                                   Params p) {
  const u32 t = blockIdx.x * THREADS + threadIdx.x;
  if (t >= p.tokens) return;
  const u32 s = sequence_of(bounds, p.seqs, t);
  const float rate = 0.5f * scale[0] * dloss[0];
  const bool inside = p.seqs > 0 && t < bounds[s + 1];
  for (u32 k = 0; k < 2; k++) {
    const u64 i = (u64)t * 2 + k;
    float d[1] = {0.f};
    if (inside) {
      const u32 at = target[2 * s + k];
      if (at < bounds[s + 1] - bounds[s]) {
        d[0] = rate * (expf(widen(logits[i]) - lse[2 * s + k]) - (t == bounds[s] + at ? 1.f : 0.f));
      }
    }
    put(dlogits + i, d, p.add);
  }
}
