// AdamW over a flat arena: see src/ops/adamw.rs. Stands behind kernels/update.cu.

struct Params {
  float beta1, beta2, eps, max_norm;
  u32 origin;
};

struct Rates {
  // `scale` is the reciprocal of the root of the second moment's correction.
  float keep, rate, scale;
};

DEVICE Rates rates(const Params& p, float lr, float decay, const float* factors) {
  return {1.f - lr * decay, lr / factors[0], 1.f / sqrtf(factors[1])};
}

DEVICE float update(float value, float g, float (&s)[STATE_COUNT], const Rates& r, const Params& p) {
  float &m = s[0], &v = s[1];
  m += (1.f - p.beta1) * (g - m);
  v = p.beta2 * v + (1.f - p.beta2) * g * g;
  return value * r.keep - r.rate * m / (sqrtf(v) * r.scale + p.eps);
}

// Buffers as kernels/update.cu names them; m, v (n).
KERNEL adamw_update(float* value, const float* grad, const float* control, u32* live, const Task* table, C* copy, const u32* zero_blocks,
                    float* m, float* v, Params p) {
  float* const states[] = {m, v};
  walk(value, grad, control, live, table, copy, zero_blocks, states, p);
}
