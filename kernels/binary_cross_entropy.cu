// loss = scale sum_rc v_r w_c (t (1 - p)^gamma a + (1 - t) p^gamma b), a = -ln p, b = -ln (1 - p).
// See src/ops/binary_cross_entropy.rs.
// Constants: T (logits), G (dlogits), WEIGHTED, FOCAL, ROW_WEIGHTED (0 or 1). Targets, scale, weights and
// losses are f32.

struct Params {
  u32 n, classes, add;
  float gamma;
};

struct Surprises {
  float a, b;
};

DEVICE Surprises surprises(float v) {
  const float both = log1pf(expf(-fabsf(v)));
  return Surprises{fmaxf(-v, 0.f) + both, fmaxf(v, 0.f) + both};
}

DEVICE float weight(const float* weights, const Params& p, u32 i) { return WEIGHTED ? weights[i % p.classes] : 1.f; }

DEVICE float row_weight(const float* row_weights, const Params& p, u32 i) {
  return ROW_WEIGHTED ? row_weights[i / p.classes] : 1.f;
}

// One block. z, goal (n), scale (1), weights (classes), row_weights (n / classes) -> loss (1)
KERNEL binary_cross_entropy_forward(const T* __restrict__ z, const float* __restrict__ goal, const float* __restrict__ scale,
                                    const float* __restrict__ weights, const float* __restrict__ row_weights,
                                    float* __restrict__ loss, Params p) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 i = threadIdx.x; i < p.n; i += THREADS) {
    const float of_row = row_weight(row_weights, p, i);
    // Whatever the loss of a row of weight 0 is, it does not count.
    if (ROW_WEIGHTED && of_row == 0.f) continue;
    const float v = widen(z[i]), t = goal[i];
    float one;
    if constexpr (FOCAL) {
      const Surprises s = surprises(v);
      one = t * expf(-p.gamma * s.b) * s.a + (1.f - t) * expf(-p.gamma * s.a) * s.b;
    } else {
      one = fmaxf(v, 0.f) - v * t + log1pf(expf(-fabsf(v)));
    }
    // The larger of zero and a NaN is zero.
    const float w = ROW_WEIGHTED ? of_row * weight(weights, p, i) : weight(weights, p, i);
    sum += v != v ? v : w * one;
  }
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) loss[0] = scale[0] * sum;
}

// dz = dloss scale v w ((1 - t) p^gamma (p + gamma (1 - p) b) - t (1 - p)^gamma (1 - p + gamma p a)), p - t
// without a focus. z, goal (n), scale (1), weights (classes), row_weights (n / classes), dloss (1) -> dz (n)
KERNEL binary_cross_entropy_backward(const T* __restrict__ z, const float* __restrict__ goal, const float* __restrict__ scale,
                                     const float* __restrict__ weights, const float* __restrict__ row_weights,
                                     const float* __restrict__ dloss, G* __restrict__ dz, Params p) {
  const u32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= p.n) return;
  const float v = widen(z[i]), t = goal[i];
  float gradient;
  if constexpr (FOCAL) {
    const Surprises s = surprises(v);
    const float q = expf(-s.a), rest = expf(-s.b);
    gradient = (1.f - t) * expf(-p.gamma * s.a) * (q + p.gamma * rest * s.b) - t * expf(-p.gamma * s.b) * (rest + p.gamma * q * s.a);
    // The larger of zero and a NaN is zero.
    if (v != v) gradient = v;
  } else {
    gradient = 1.f / (1.f + expf(-v)) - t;
  }
  float rate = scale[0] * dloss[0] * weight(weights, p, i);
  if constexpr (ROW_WEIGHTED) {
    const float of_row = row_weight(row_weights, p, i);
    rate *= of_row;
    if (of_row == 0.f) rate = gradient = 0.f;
  }
  const float d[1] = {rate * gradient};
  put(dz + i, d, p.add);
}
