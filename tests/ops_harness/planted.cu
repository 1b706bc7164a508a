// y[s] = mean of exp(x) over sequence s, with one mistake: the numbers are those of `Mistake` in planted.rs.
// Constants: T, G, MISTAKE.

struct Params {
  u32 rows, cols, seqs, add, runs;
};

KERNEL planted_forward(T* x, const u32* bounds, T* y, Params p) {
  for (u32 i = threadIdx.x; i < p.seqs * p.cols; i += THREADS) {
    const u32 s = i / p.cols;
    float sum = 0.f;
    for (u32 t = bounds[s]; t < bounds[s + 1]; t++) sum += expf(widen(x[t * p.cols + i % p.cols]));
    y[i] = narrow<T>(sum / max(bounds[s + 1] - bounds[s], 1u));
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  const float first = widen(y[0]);
  if (MISTAKE == 9) y[0] = narrow<T>(first * (1.f + 2e-7f * p.runs));
  if (MISTAKE == 10) y[0] = narrow<T>(roundf(first * 100.f) / 100.f);
  if (MISTAKE == 11) x[0] = narrow<T>(0.f);
  if (MISTAKE == 12) y[0] = narrow<T>(NOT_A_NUMBER);
}

KERNEL planted_backward(const T* x, const u32* bounds, G* dx, const T* dy, Params p) {
  for (u32 i = threadIdx.x; i < p.rows * p.cols; i += THREADS) {
    const u32 t = i / p.cols, c = i % p.cols;
    if (MISTAKE == 2 && t + 1 == p.rows) continue;
    u32 s = 0;
    for (u32 q = 0; q < p.seqs; q++)
      if (bounds[q + 1] <= t) s = q + 1;
    const float len = bounds[s + 1] - bounds[s];
    if (MISTAKE == 1 && t + 1 == bounds[s + 1]) s = min(s + 1, p.seqs - 1);
    const u32 column = MISTAKE == 4 && c < 2 ? 1 - c : c;
    float d[1] = {MISTAKE == 7 ? 1.f : widen(dy[s * p.cols + column])};
    d[0] *= (MISTAKE == 3 ? 1.f : 1.f / len) * expf(widen(x[i]));
    if (MISTAKE == 8) d[0] = 0.f;
    put(dx + i, d, (p.add || MISTAKE == 6) && MISTAKE != 5);
  }
}
