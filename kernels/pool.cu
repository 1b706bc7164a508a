// y[s] = x[first token of s], or the last, or the mean over its tokens: see src/ops/pool.rs. Constants: T, G
// (dx), KIND (0 first, 1 mean, 2 last).

struct Params {
  u32 tokens, cols, seqs;
  u32 add;
};

// x (tokens, cols), bounds (seqs + 1) -> y (seqs, cols)
KERNEL pool_forward(const T* __restrict__ x, const u32* __restrict__ bounds, T* __restrict__ y, Params p) {
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 s = (u32)(i / p.cols), c = (u32)(i % p.cols);
  if (s >= p.seqs) return;
  const u32 from = bounds[s], upto = bounds[s + 1];
  const u32 start = KIND == 2 && upto > from ? upto - 1 : from, end = KIND == 0 ? min(upto, start + 1) : upto;
  float sum = 0.f;
  for (u32 t = start; t < end; t++) sum += widen(x[(u64)t * p.cols + c]);
  y[i] = narrow<T>(sum / max(end - start, 1u));
}

// A token beyond the last sequence has no gradient.
// dy (seqs, cols), bounds (seqs + 1) -> dx (tokens, cols)
KERNEL pool_backward(const T* __restrict__ dy, const u32* __restrict__ bounds, G* __restrict__ dx, Params p) {
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 t = (u32)(i / p.cols), c = (u32)(i % p.cols);
  if (t >= p.tokens) return;
  const u32 s = sequence_of(bounds, p.seqs, t);
  float d[1] = {0.f};
  if (p.seqs > 0 && t < bounds[s + 1] && (KIND == 1 || t == (KIND == 0 ? bounds[s] : bounds[s + 1] - 1))) {
    d[0] = widen(dy[(u64)s * p.cols + c]);
    if (KIND == 1) d[0] /= bounds[s + 1] - bounds[s];
  }
  put(dx + i, d, p.add);
}
