// loss = scale sum_i w_i (KL(p_i || q_i) + KL(q_i || p_i)) / 2: see src/ops/symmetric_kl.rs. Constants: T
// (logits), G (gradient of logits). One warp a row. Weights, scale, statistics and losses are f32.

struct Params {
  u32 rows, classes, own, add;
};

// x y, and 0 for x = 0 also where y is infinite: the limit of p ln p.
DEVICE float times(float x, float y) { return x == 0.f ? 0.f : x * y; }

// log sum exp of a row, in every lane of its warp.
DEVICE float lse(const T* z, u32 classes, u32 lane) {
  float most = NEG_INF;
  for (u32 c = lane; c < classes; c += 32) most = fmaxf(most, widen(z[c]));
  most = warp_max(most);
  float sum = 0.f;
  // A NaN, which the maximum passes over, is in this sum.
  for (u32 c = lane; c < classes; c += 32) sum += expf(widen(z[c]) - most);
  return most + logf(warp_sum(sum));
}

// a, b (rows, classes), weights (rows) -> saved (4, rows): lse of a, lse of b, KL(p || q), KL(q || p); each
// (rows)
KERNEL symmetric_kl_forward(const T* __restrict__ a, const T* __restrict__ b, const float* __restrict__ weights,
                            float* __restrict__ saved, float* __restrict__ each, Params p) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  a += (u64)row * p.classes;
  b += (u64)row * p.classes;
  const float la = lse(a, p.classes, lane), lb = lse(b, p.classes, lane);
  float sum = 0.f, ab = 0.f, ba = 0.f;
  for (u32 c = lane; c < p.classes; c += 32) {
    const float lp = widen(a[c]) - la, lq = widen(b[c]) - lb, prob = expf(lp), other = expf(lq), d = lp - lq;
    sum += times(prob - other, d);
    ab += times(prob, d);
    ba += times(other, -d);
  }
  sum = warp_sum(sum);
  ab = warp_sum(ab);
  ba = warp_sum(ba);
  if (lane == 0) {
    saved[row] = la;
    saved[p.rows + row] = lb;
    saved[2 * p.rows + row] = ab;
    saved[3 * p.rows + row] = ba;
    each[row] = times(weights[row], 0.5f * sum);
  }
}

// One block. each (rows), scale (1) -> loss (1)
KERNEL symmetric_kl_sum(const float* __restrict__ each, const float* __restrict__ scale, float* __restrict__ loss, Params p) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 r = threadIdx.x; r < p.rows; r += THREADS) sum += each[r];
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) loss[0] = scale[0] * sum;
}

// da_c = dloss scale w / 2 (p_c (d_c - KL(p || q)) + p_c - q_c), a being the logits of number `own` and b the
// others. a, b (rows, classes), weights (rows), scale, dloss (1), saved (4, rows) -> da (rows, classes)
KERNEL symmetric_kl_backward(const T* __restrict__ a, const T* __restrict__ b, const float* __restrict__ weights,
                             const float* __restrict__ scale, const float* __restrict__ dloss, const float* __restrict__ saved,
                             G* __restrict__ da, Params p) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  const u64 start = (u64)row * p.classes;
  const float la = saved[p.own * p.rows + row], lb = saved[(1 - p.own) * p.rows + row], kl = saved[(2 + p.own) * p.rows + row];
  const float rate = scale[0] * dloss[0] * 0.5f * weights[row];
  for (u32 c = lane; c < p.classes; c += 32) {
    const float lp = widen(a[start + c]) - la, lq = widen(b[start + c]) - lb, prob = expf(lp), other = expf(lq);
    const float d[1] = {times(rate, times(prob, lp - lq - kl) + (prob - other))};
    put(da + start + c, d, p.add);
  }
}
