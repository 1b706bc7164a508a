// norm = sqrt(sum g^2): see src/ops/global_norm.rs. Sums of chunks first, then their sum; one order.

constexpr u32 CHUNK = 8192;

struct Params {
  // Elements of grad; low and high word.
  u32 n_low, n_high;
  u32 chunks;
};

// grad (n) -> sums (chunks)
KERNEL global_norm_chunks(const float* __restrict__ grad, float* __restrict__ sums, Params p) {
  __shared__ float parts[32];
  const u64 n = p.n_low | (u64)p.n_high << 32, first = (u64)blockIdx.x * CHUNK;
  float sum = 0.f;
  if (first + CHUNK <= n) {
#pragma unroll 4
    for (u32 i = threadIdx.x * 4; i < CHUNK; i += THREADS * 4) {
      float g[4];
      load(g, grad + first + i);
#pragma unroll
      for (u32 e = 0; e < 4; e++) sum = fmaf(g[e], g[e], sum);
    }
  } else {
    for (u64 i = first + threadIdx.x; i < n; i += THREADS) sum = fmaf(grad[i], grad[i], sum);
  }
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block. sums (chunks) -> norm (1)
KERNEL global_norm_finish(const float* __restrict__ sums, float* __restrict__ norm, Params p) {
  __shared__ float parts[32];
  float sum = 0.f;
  for (u32 i = threadIdx.x; i < p.chunks; i += THREADS) sum += sums[i];
  sum = block_sum<THREADS>(sum, parts);
  if (threadIdx.x == 0) norm[0] = sqrtf(sum);
}
