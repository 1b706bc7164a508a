// total += loss; counts a step that is not finite, and picks the factors of the update: see
// src/ops/step_guard.rs. One thread.

struct Params {
  u32 first, last;
  // Elements of control, and of history.
  u32 control, history;
};

// loss (1), sum (1), control = [norm, lr, unscale, factors], skips (1), rates, history (2 steps)
KERNEL step_guard(const float* __restrict__ loss, float* __restrict__ sum, float* __restrict__ control, u32* __restrict__ skips,
                   const float* __restrict__ rates, float* __restrict__ history, Params p) {
  if (threadIdx.x > 0) return;
  const float all = p.first ? loss[0] : sum[0] + loss[0];
  sum[0] = all;
  if (!p.last) return;
  float length = control[0] * rates[1];
  u32 skipped = skips[0];
  if (!finite(all) || !finite(length)) {
    length = NOT_A_NUMBER;
    skips[0] = ++skipped;
  }
  control[0] = length;
  control[1] = rates[0];
  control[2] = rates[1];
  const u32 factors = p.control - 3, at = 3 + factors * min(skipped, p.history / 2 - 1);
  for (u32 i = 0; i < factors; i++) control[3 + i] = rates[at + i];
  const u32 slot = 2 * (u32)rates[2];
  if (slot + 1 < p.history) {
    history[slot] = all;
    history[slot + 1] = length;
  }
}
