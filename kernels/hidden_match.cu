// loss = scale sum_r w_r m_r, the distance of a student's rows from a teacher's: see src/ops/hidden_match.rs.
// Constants: T (student, teacher), G (gradient), COSINE (0: mean square, 1: 1 - cosine). One warp a row.
// Weights, scale, statistics and losses are f32.

struct Params {
  u32 rows, cols, add;
  float inverse;
};

constexpr float EPS = 1e-12f;

// student, teacher (rows, cols), weights (rows) -> saved (3, rows) with COSINE: p, q, m; each (rows)
KERNEL hidden_match_forward(const T* __restrict__ student, const T* __restrict__ teacher, const float* __restrict__ weights,
                            float* __restrict__ saved, float* __restrict__ each, Params a) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= a.rows) return;
  const T* s = student + (u64)row * a.cols;
  const T* t = teacher + (u64)row * a.cols;
  float m = 0.f;
  if constexpr (COSINE) {
    float ss = 0.f, tt = 0.f;
    for (u32 c = lane; c < a.cols; c += 32) {
      const float x = widen(s[c]), y = widen(t[c]);
      ss += x * x;
      tt += y * y;
    }
    const float p = 1.f / sqrtf(warp_sum(ss) + EPS), q = 1.f / sqrtf(warp_sum(tt) + EPS);
    for (u32 c = lane; c < a.cols; c += 32) {
      const float d = p * widen(s[c]) - q * widen(t[c]);
      m += d * d;
    }
    m = 0.5f * (warp_sum(m) + (EPS * p * p + EPS * q * q));
    if (lane == 0) {
      saved[row] = p;
      saved[a.rows + row] = q;
      saved[2 * (u64)a.rows + row] = m;
    }
  } else {
    for (u32 c = lane; c < a.cols; c += 32) {
      const float d = widen(s[c]) - widen(t[c]);
      m += d * d;
    }
    m = a.inverse * warp_sum(m);
  }
  // Whatever a row of weight 0 holds, it does not count.
  if (lane == 0) each[row] = weights[row] == 0.f ? 0.f : weights[row] * m;
}

// One block. each (rows), scale (1) -> loss (1)
KERNEL hidden_match_sum(const float* __restrict__ each, const float* __restrict__ scale, float* __restrict__ loss,
                        Params a) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 r = threadIdx.x; r < a.rows; r += THREADS) sum += each[r];
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) loss[0] = scale[0] * sum;
}

// ds = dloss scale w 2 / d (s - t), or dloss scale w p (p s - q t - m p s). student, teacher (rows, cols),
// weights (rows), scale, dloss (1), saved (3, rows) -> ds (rows, cols)
KERNEL hidden_match_backward(const T* __restrict__ student, const T* __restrict__ teacher, const float* __restrict__ weights,
                             const float* __restrict__ scale, const float* __restrict__ dloss,
                             const float* __restrict__ saved, G* __restrict__ ds, Params a) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= a.rows) return;
  const u64 start = (u64)row * a.cols;
  const float w = weights[row];
  float p = 1.f, q = 1.f, m = 0.f, rate = scale[0] * dloss[0];
  if constexpr (COSINE) {
    p = saved[row];
    q = saved[a.rows + row];
    m = saved[2 * (u64)a.rows + row];
    rate *= p * w;
  } else {
    rate *= 2.f * a.inverse * w;
  }
  for (u32 c = lane; c < a.cols; c += 32) {
    const float own = p * widen(student[start + c]), other = q * widen(teacher[start + c]);
    const float d[1] = {w == 0.f ? 0.f : rate * (own - other - m * own)};
    put(ds + start + c, d, a.add);
  }
}
