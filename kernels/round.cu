// copy = value, rounded to type C: see src/ops/round.rs. Constants: C.

struct Params {
  // Elements; low and high word.
  u32 n_low, n_high;
};

// value (n) f32 -> copy (n)
KERNEL round_copy(const float* __restrict__ value, C* __restrict__ copy, Params p) {
  const u64 n = p.n_low | (u64)p.n_high << 32, i = ((u64)blockIdx.x * THREADS + threadIdx.x) * 8;
  if (i + 8 <= n) {
    float v[8];
    load(v, value + i);
    store(copy + i, v);
  } else {
    for (u64 e = i; e < n; e++) copy[e] = narrow<C>(value[e]);
  }
}
