// total += loss; counts a step that is not finite, and picks the bias corrections: see src/ops/gate.rs. One thread.

struct Params {
  u32 first, last;
  // Elements of rates, and of history.
  u32 rates, history;
};

// loss (1), sum (1), norm (1), skips (1), rates, hyper (4), history (2 steps)
KERNEL gate_decide(const float* __restrict__ loss, float* __restrict__ sum, float* __restrict__ norm, u32* __restrict__ skips,
                   const float* __restrict__ rates, float* __restrict__ hyper, float* __restrict__ history, Params p) {
  if (threadIdx.x > 0) return;
  const float all = p.first ? loss[0] : sum[0] + loss[0];
  sum[0] = all;
  if (!p.last) return;
  float length = norm[0] * rates[1];
  u32 skipped = skips[0];
  if (!finite(all) || !finite(length)) {
    length = NOT_A_NUMBER;
    skips[0] = ++skipped;
  }
  norm[0] = length;
  const u32 at = 3 + 2 * min(skipped, (p.rates - 3) / 2 - 1);
  hyper[0] = rates[0];
  hyper[1] = rates[at];
  hyper[2] = rates[at + 1];
  hyper[3] = rates[1];
  const u32 slot = 2 * (u32)rates[2];
  if (slot + 1 < p.history) {
    history[slot] = all;
    history[slot + 1] = length;
  }
}
