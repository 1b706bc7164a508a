// y[i] = x[index[i]]: see src/ops/gather.rs. Constants: T (from), G (to).

struct Params {
  u32 rows, cols, n;
  u32 add;
};

// x (rows, cols), index (n) -> y (n, cols)
KERNEL gather_forward(const T* __restrict__ x, const u32* __restrict__ index, G* __restrict__ y, Params p) {
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 k = (u32)(i / p.cols), c = (u32)(i % p.cols);
  if (k >= p.n) return;
  const u32 row = index[k];
  y[i] = narrow<G>(row < p.rows ? widen(x[(u64)row * p.cols + c]) : 0.f);
}

// The entry of a row is found by halving: the index rises, padding is larger than any row.
// dy (n, cols), index (n) -> dx (rows, cols)
KERNEL gather_backward(const T* __restrict__ dy, const u32* __restrict__ index, G* __restrict__ dx, Params p) {
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 row = (u32)(i / p.cols), c = (u32)(i % p.cols);
  if (row >= p.rows) return;
  u32 low = 0, high = p.n;
  while (low < high) {
    const u32 middle = (low + high) / 2;
    if (index[middle] < row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  float d[1] = {0.f};
  if (low < p.n && index[low] == row) d[0] = widen(dy[(u64)low * p.cols + c]);
  put(dx + i, d, p.add);
}
