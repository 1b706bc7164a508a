// Lion over a flat arena: see src/ops/lion.rs. Stands behind kernels/update.cu.

struct Params {
  float beta1, beta2, max_norm;
  u32 origin;
};

struct Rates {
  float keep, lr;
};

DEVICE Rates rates(const Params&, float lr, float decay, const float*) {
  return {1.f - lr * decay, lr};
}

DEVICE float update(float value, float g, float (&s)[STATE_COUNT], const Rates& r, const Params& p) {
  const float u = p.beta1 * s[0] + (1.f - p.beta1) * g;
  s[0] = p.beta2 * s[0] + (1.f - p.beta2) * g;
  // The sign of zero is zero: an element that never had a gradient only decays.
  const float sign = u > 0.f ? 1.f : u < 0.f ? -1.f : 0.f;
  return value * r.keep - r.lr * sign;
}

// Buffers as kernels/update.cu names them; m (n).
KERNEL lion_update(float* value, const float* grad, const float* control, u32* live, const Task* table, C* copy, const u32* zero_blocks,
                   float* m, Params p) {
  float* const states[] = {m};
  walk(value, grad, control, live, table, copy, zero_blocks, states, p);
}
