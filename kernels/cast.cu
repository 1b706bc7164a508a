// copy = value, rounded to type C: see src/ops/cast.rs. Constants: C.

struct Params {
  // Elements; low and high word.
  u32 n_low, n_high;
};

// value (n) f32 -> copy (n)
KERNEL cast_copy(const float* __restrict__ value, C* __restrict__ copy, Params p) {
  const u64 n = p.n_low | (u64)p.n_high << 32, first = (u64)blockIdx.x * THREADS * 8;
  // Four and four, each beside its neighbour's, so that an access of a warp is of whole sectors.
#pragma unroll
  for (u32 half = 0; half < 2; half++) {
    const u64 i = first + (half * THREADS + threadIdx.x) * 4;
    if (i + 4 <= n) {
      float v[4];
      load(v, value + i);
      store(copy + i, v);
    } else {
      for (u64 e = i; e < n; e++) copy[e] = narrow<C>(value[e]);
    }
  }
}
