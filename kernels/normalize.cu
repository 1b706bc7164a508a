// y = scale x / max(|x|, eps): see src/ops/normalize.rs. Constants: T (x, y), G (dx). One warp a row.

struct Params {
  u32 rows, cols;
  float scale;
  u32 add;
};

constexpr float EPS = 1e-12f;

// x (rows, cols) -> inverse (rows) f32, y (rows, cols)
KERNEL normalize_forward(const T* __restrict__ x, float* __restrict__ inverse, T* __restrict__ y, Params p) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  const u64 start = (u64)row * p.cols;
  float sum = 0.f;
  for (u32 c = lane; c < p.cols; c += 32) {
    const float v = widen(x[start + c]);
    sum += v * v;
  }
  const float norm = sqrtf(warp_sum(sum));
  // The larger of a number and a NaN is the number.
  const float r = norm != norm ? norm : 1.f / fmaxf(norm, EPS);
  if (lane == 0) inverse[row] = r;
  for (u32 c = lane; c < p.cols; c += 32) y[start + c] = narrow<T>(p.scale * r * widen(x[start + c]));
}

// dx = scale r (dy - x (x dy) r^2). x, dy (rows, cols), inverse (rows) -> dx (rows, cols)
KERNEL normalize_backward(const T* __restrict__ x, const float* __restrict__ inverse, const T* __restrict__ dy,
                          G* __restrict__ dx, Params p) {
  const u32 row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= p.rows) return;
  const u64 start = (u64)row * p.cols;
  const float r = inverse[row];
  float along = 0.f;
  for (u32 c = lane; c < p.cols; c += 32) along += widen(x[start + c]) * r * widen(dy[start + c]);
  // A row shorter than eps is only scaled.
  along = warp_sum(along) * (r < 1.f / EPS ? 1.f : 0.f);
  for (u32 c = lane; c < p.cols; c += 32) {
    const float d[1] = {p.scale * r * (widen(dy[start + c]) - widen(x[start + c]) * r * along)};
    put(dx + start + c, d, p.add);
  }
}
