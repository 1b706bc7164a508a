// SGD with momentum over a flat arena: see src/ops/sgd.rs. Stands behind kernels/update.cu. Constant:
// NESTEROV. Without momentum STATES is 0.

struct Params {
  float momentum, max_norm;
  u32 origin;
};

struct Rates {
  float keep, lr, decay;
};

DEVICE Rates rates(const Params&, float lr, float decay, const float*) {
  return {1.f - lr * decay, lr, decay};
}

DEVICE float update(float value, float g, float (&s)[STATE_COUNT], const Rates& r, const Params& p) {
  // Decay by keep, so that a block without gradients has the same bits whether or not the walk skips it.
  if constexpr (STATES == 0) {
    return value * r.keep - r.lr * g;
  } else {
    const float d = g + r.decay * value;
    s[0] = p.momentum * s[0] + d;
    return value - r.lr * (NESTEROV ? d + p.momentum * s[0] : s[0]);
  }
}

// Buffers as kernels/update.cu names them; buf (n), the values in its place without momentum.
KERNEL sgd_update(float* value, const float* grad, const float* control, u32* live, const Task* table, C* copy, const u32* zero_blocks,
                  float* buf, Params p) {
  float* const states[] = {buf};
  walk(value, grad, control, live, table, copy, zero_blocks, states, p);
}
