// norm = sqrt(sum g^2): see src/ops/global_norm.rs. Sums of chunks first, then their sum; one order.
// Constant: ZERO_BLOCKS (is it there?).

constexpr u32 CHUNK = 8192;
// Elements of a bit of `zero_blocks`, which is set where they are all zero.
constexpr u32 LIVE = 512;

struct Params {
  // Elements of grad; low and high word.
  u32 n_low, n_high;
  u32 chunks;
};

// grad (n), zero_blocks (n / 16384) -> sums (chunks)
KERNEL global_norm_chunks(const float* __restrict__ grad, float* __restrict__ sums, const u32* __restrict__ zero_blocks, Params p) {
  __shared__ float parts[32];
  const u64 n = p.n_low | (u64)p.n_high << 32, first = (u64)blockIdx.x * CHUNK;
  float sum = 0.f;
  // A chunk is half a word's.
  const u32 zeros = ZERO_BLOCKS ? zero_blocks[blockIdx.x / 2] >> (blockIdx.x % 2 * 16) : 0;
  if (first + CHUNK <= n) {
#pragma unroll 4
    for (u32 i = threadIdx.x * 4; i < CHUNK; i += THREADS * 4) {
      // The same for a whole warp.
      if (zeros >> (i / LIVE) & 1) continue;
      float g[4];
      load(g, grad + first + i);
#pragma unroll
      for (u32 e = 0; e < 4; e++) sum = fmaf(g[e], g[e], sum);
    }
  } else {
    for (u64 i = first + threadIdx.x; i < n; i += THREADS) {
      if (!(zeros >> ((i - first) / LIVE) & 1)) sum = fmaf(grad[i], grad[i], sum);
    }
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
