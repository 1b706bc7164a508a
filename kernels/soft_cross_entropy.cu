// loss = scale sum_i w_i T^2 KL(p_i || q_i), p = softmax(t / T), q = softmax(s / T): see
// src/ops/soft_cross_entropy.rs. Constants: T (student's logits), U (teacher's), G (the student's
// gradient). One warp a row. Weights, scale, statistics and losses are f32.

struct Params {
  u32 rows, classes, add;
  float temperature, inverse;
};

// x y, and 0 for x = 0 also where y is infinite: the limit of p ln p.
DEVICE float times(float x, float y) { return x == 0.f ? 0.f : x * y; }

// The largest number so far, and the sum of exp(z - most). It starts below all finite numbers, not at
// -infinity, whose difference with itself is no number.
struct Online {
  float most, sum;
};

// A NaN is not larger, so that it goes into the sum.
DEVICE void add(Online& o, float z) {
  if (z > o.most) {
    o.sum = o.sum * expf(o.most - z) + 1.f;
    o.most = z;
  } else {
    o.sum += expf(z - o.most);
  }
}

// log sum exp, in every lane of the warp. Lanes without elements have the sum 0.
DEVICE float lse(const Online& o) {
  const float most = warp_max(o.most);
  return most + logf(warp_sum(o.sum * expf(o.most - most)));
}

// p d - p + q = p (d + exp(-d) - 1) of a class, by the series where d = ln p - ln q is small.
DEVICE float term(float lp, float lq) {
  const float p = expf(lp), q = expf(lq), d = lp - lq;
  if (fabsf(d) < 0.125f) {
    return p * (d * d * (1.f / 2 - d * (1.f / 6 - d * (1.f / 24 - d * (1.f / 120 - d * (1.f / 720 - d * (1.f / 5040)))))));
  }
  return times(p, d) - p + q;
}

// s, t (rows, classes), weights (rows) -> saved (2, rows): lse of t / T, lse of s / T; each (rows)
KERNEL soft_cross_entropy_forward(const T* __restrict__ s, const U* __restrict__ t, const float* __restrict__ weights,
                                  float* __restrict__ saved, float* __restrict__ each, Params p) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  s += (u64)row * p.classes;
  t += (u64)row * p.classes;
  Online student{-3.0e38f, 0.f}, teacher{-3.0e38f, 0.f};
  for (u32 c = lane; c < p.classes; c += 32) {
    add(student, widen(s[c]) * p.inverse);
    add(teacher, widen(t[c]) * p.inverse);
  }
  const float lt = lse(teacher), ls = lse(student);
  float sum = 0.f;
  for (u32 c = lane; c < p.classes; c += 32) sum += term(widen(t[c]) * p.inverse - lt, widen(s[c]) * p.inverse - ls);
  sum = warp_sum(sum);
  if (lane == 0) {
    saved[row] = lt;
    saved[p.rows + row] = ls;
    each[row] = times(weights[row], sum);
  }
}

// One block. each (rows), scale (1) -> loss (1)
KERNEL soft_cross_entropy_sum(const float* __restrict__ each, const float* __restrict__ scale, float* __restrict__ loss,
                              Params p) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 r = threadIdx.x; r < p.rows; r += THREADS) sum += each[r];
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) loss[0] = p.temperature * p.temperature * scale[0] * sum;
}

// ds_c = dloss scale w T (q_c - p_c). s, t (rows, classes), weights (rows), scale, dloss (1), saved (2, rows)
// -> ds (rows, classes)
KERNEL soft_cross_entropy_backward(const T* __restrict__ s, const U* __restrict__ t, const float* __restrict__ weights,
                                   const float* __restrict__ scale, const float* __restrict__ dloss,
                                   const float* __restrict__ saved, G* __restrict__ ds, Params p) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  const u64 start = (u64)row * p.classes;
  const float lt = saved[row], ls = saved[p.rows + row];
  const float rate = scale[0] * dloss[0] * p.temperature * weights[row];
  for (u32 c = lane; c < p.classes; c += 32) {
    const float q = expf(widen(s[start + c]) * p.inverse - ls), of_t = expf(widen(t[start + c]) * p.inverse - lt);
    const float d[1] = {times(rate, q - of_t)};
    put(ds + start + c, d, p.add);
  }
}
