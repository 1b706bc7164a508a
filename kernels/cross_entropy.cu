// loss = scale sum_i v_i sum_c q_ic (1 - p_ic)^gamma (lse_i - logits_ic): see src/ops/cross_entropy.rs.
// Constants: T (logits), G (dlogits), HARD, WEIGHTED, FOCAL, ROW_WEIGHTED (0 or 1). One warp a row.

struct Params {
  u32 rows, classes, ignore;
  float smoothing, gamma;
  u32 add;
};

struct Targets {
  const u32* hard;
  const float* soft;
  const float* weights;
};

DEVICE float q(const Targets& targets, const Params& p, u32 row, u32 c) {
  float t;
  if constexpr (HARD) {
    const u32 label = targets.hard[row];
    if (label == p.ignore) return 0.f;
    t = label == c ? 1.f : 0.f;
  } else {
    t = targets.soft[(u64)row * p.classes + c];
  }
  const float v = (1.f - p.smoothing) * t + p.smoothing / p.classes;
  return WEIGHTED ? v * targets.weights[c] : v;
}

DEVICE Targets targets_of(const u32* target, const float* weights) {
  return Targets{target, (const float*)target, weights};
}

// (1 - p)^gamma of a class with p and rest = 1 - p; rounding may put p above 1, of which there is no power.
DEVICE float focus(float rest, float gamma) { return rest <= 0.f ? 0.f : expf(gamma * logf(rest)); }

// -p dloss/dp of a class with -ln p = l: q, with a focus q (1 - p)^gamma (1 + gamma p l / (1 - p)).
DEVICE float pull(const Targets& targets, const Params& p, u32 row, u32 c, float l) {
  const float v = q(targets, p, row, c);
  if constexpr (FOCAL) {
    if (v == 0.f) return v;
    const float prob = expf(-l), rest = 1.f - prob, power = focus(rest, p.gamma);
    // The second factor has its limits where it is 0 / 0 or 0 times infinity.
    return power == 0.f || prob == 0.f ? v * power : v * power * (1.f + p.gamma * prob * l / rest);
  }
  return v;
}

// logits (rows, classes), target u32 (rows) or f32 (rows, classes), weights (classes), row_weights (rows) f32
// -> lse, each (rows) f32
KERNEL cross_entropy_forward(const T* __restrict__ logits, const u32* __restrict__ target, const float* __restrict__ weights,
                             const float* __restrict__ row_weights, float* __restrict__ lse, float* __restrict__ each,
                             Params p) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  const Targets targets = targets_of(target, weights);
  const T* z = logits + (u64)row * p.classes;
  float most = NEG_INF;
  bool nan = false;
  for (u32 c = lane; c < p.classes; c += 32) {
    const float v = widen(z[c]);
    // The larger of a number and a NaN is the number.
    nan |= v != v;
    most = fmaxf(most, v);
  }
  most = warp_max(most);
  float sum = 0.f;
  for (u32 c = lane; c < p.classes; c += 32) sum += expf(widen(z[c]) - most);
  const float norm = __any_sync(~0u, nan) ? NOT_A_NUMBER : most + logf(warp_sum(sum));
  sum = 0.f;
  for (u32 c = lane; c < p.classes; c += 32) {
    const float v = q(targets, p, row, c);
    // An infinite logit of a class that does not count is no NaN.
    if (v != 0.f) {
      const float l = norm - widen(z[c]);
      sum += FOCAL ? v * focus(1.f - expf(-l), p.gamma) * l : v * l;
    }
  }
  sum = warp_sum(sum);
  if (lane == 0) {
    if constexpr (ROW_WEIGHTED) {
      // Whatever the loss of a row of weight 0 is, it does not count.
      const float v = row_weights[row];
      sum = v == 0.f ? 0.f : v * sum;
    }
    if (HARD && target[row] >= p.classes && target[row] != p.ignore) sum = NOT_A_NUMBER;
    lse[row] = norm;
    each[row] = sum;
  }
}

// One block. each (rows), scale (1) f32 -> loss (1) f32
KERNEL cross_entropy_sum(const float* __restrict__ each, const float* __restrict__ scale, float* __restrict__ loss, Params p) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 r = threadIdx.x; r < p.rows; r += THREADS) sum += each[r];
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) loss[0] = scale[0] * sum;
}

// dlogits_ic = dloss scale v_i (p_ic sum_k h_ik - h_ic), h what a class pulls with. logits (rows, classes),
// target, weights, row_weights, scale, dloss (1) f32, lse (rows) f32 -> dlogits (rows, classes)
KERNEL cross_entropy_backward(const T* __restrict__ logits, const u32* __restrict__ target, const float* __restrict__ weights,
                              const float* __restrict__ row_weights, const float* __restrict__ scale,
                              const float* __restrict__ dloss, const float* __restrict__ lse, G* __restrict__ dlogits, Params p) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  const Targets targets = targets_of(target, weights);
  const u64 start = (u64)row * p.classes;
  const float norm = lse[row];
  float rate = scale[0] * dloss[0];
  if constexpr (ROW_WEIGHTED) {
    const float v = row_weights[row];
    if (v == 0.f) {
      const float none[1] = {0.f};
      for (u32 c = lane; c < p.classes; c += 32) put(dlogits + start + c, none, p.add);
      return;
    }
    rate *= v;
  }
  float sum = 0.f;
  for (u32 c = lane; c < p.classes; c += 32) sum += pull(targets, p, row, c, FOCAL ? norm - widen(logits[start + c]) : 0.f);
  sum = warp_sum(sum);
  for (u32 c = lane; c < p.classes; c += 32) {
    const float l = norm - widen(logits[start + c]);
    const float d[1] = {rate * (expf(-l) * sum - pull(targets, p, row, c, l))};
    put(dlogits + start + c, d, p.add);
  }
}
