// y = drop_after(gamma (z - mean) rstd + beta), z = drop_before(x) + residual: see src/ops/add_norm.rs.
// Constants: T, G (gradients of x and residual), P (gradients of gamma and beta), VEC (elements of an
// access), TEAM (threads of a row: 32 or THREADS), PER (accesses of a thread for a row), BIAS (is there a
// beta), RESIDUAL, BEFORE, AFTER (is there such a dropout), DX, DRES, DGAMMA, DBETA (which gradients are
// wanted). A row is read once and kept in registers.

struct Params {
  Drop before, after;
  u32 rows, cols;
  float eps;
  u32 add_x, add_residual, add_gamma, add_beta;
};

constexpr u32 TEAMS = THREADS / TEAM;

DEVICE float team_sum(float v, float* parts) {
  if constexpr (TEAM == 32) {
    return warp_sum(v);
  } else {
    return block_sum<THREADS>(v, parts);
  }
}

// Factors of the dropout for VEC columns from c on.
DEVICE void factors(float (&f)[VEC], const Drop& d, const u32* key, u32 row, u32 c) {
  const uint4 words = drop_words(d, key, row, c / 8);
#pragma unroll
  for (u32 e = 0; e < VEC; e++) f[e] = drop_factor(d, words, c + e);
}

// x, residual (rows, cols), gamma, beta (cols), key (5) -> y, xhat (rows, cols), rstd (rows) f32
KERNEL add_norm_forward(const T* __restrict__ x, const T* __restrict__ gamma, const T* __restrict__ beta,
                        const T* __restrict__ residual, const u32* __restrict__ key, T* __restrict__ y, T* __restrict__ xhat,
                        float* __restrict__ rstd, Params p) {
  __shared__ float parts[32];
  const u32 lane = threadIdx.x % TEAM, row = blockIdx.x * TEAMS + threadIdx.x / TEAM;
  if (row >= p.rows) return;
  const u64 start = (u64)row * p.cols;
  float z[PER][VEC] = {};
  float sum = 0.f;
#pragma unroll
  for (u32 i = 0; i < PER; i++) {
    const u32 c = (i * TEAM + lane) * VEC;
    if (c >= p.cols) continue;
    load(z[i], x + start + c);
    if constexpr (BEFORE) {
      float f[VEC];
      factors(f, p.before, key, row, c);
#pragma unroll
      for (u32 e = 0; e < VEC; e++) z[i][e] *= f[e];
    }
    if constexpr (RESIDUAL) {
      float r[VEC];
      load(r, residual + start + c);
#pragma unroll
      for (u32 e = 0; e < VEC; e++) z[i][e] += r[e];
    }
#pragma unroll
    for (u32 e = 0; e < VEC; e++) sum += z[i][e];
  }
  const float mean = team_sum(sum, parts) / p.cols;
  sum = 0.f;
#pragma unroll
  for (u32 i = 0; i < PER; i++) {
    if ((i * TEAM + lane) * VEC >= p.cols) continue;
#pragma unroll
    for (u32 e = 0; e < VEC; e++) sum += (z[i][e] - mean) * (z[i][e] - mean);
  }
  const float r = 1.f / sqrtf(team_sum(sum, parts) / p.cols + p.eps);
  if (lane == 0) rstd[row] = r;
#pragma unroll
  for (u32 i = 0; i < PER; i++) {
    const u32 c = (i * TEAM + lane) * VEC;
    if (c >= p.cols) continue;
    float g[VEC], b[VEC] = {};
    load(g, gamma + c);
    if constexpr (BIAS) load(b, beta + c);
#pragma unroll
    for (u32 e = 0; e < VEC; e++) z[i][e] = (z[i][e] - mean) * r;
    store(xhat + start + c, z[i]);
#pragma unroll
    for (u32 e = 0; e < VEC; e++) b[e] = fmaf(g[e], z[i][e], b[e]);
    if constexpr (AFTER) {
      float f[VEC];
      factors(f, p.after, key, row, c);
#pragma unroll
      for (u32 e = 0; e < VEC; e++) b[e] *= f[e];
    }
    store(y + start + c, b);
  }
}

// dz = rstd (g - mean(g) - xhat mean(g xhat)), g = drop_after(dy) gamma; dresidual = dz, dx =
// drop_before(dz). A block has every gridDim.x-th group of rows, and keeps its part of dgamma and dbeta.
// gamma (cols), key (5), dy, xhat (rows, cols), rstd (rows) -> dx, dresidual (rows, cols), sums (blocks, 2,
// cols) f32
KERNEL add_norm_backward(const T* __restrict__ gamma, const u32* __restrict__ key, const T* __restrict__ dy,
                         const T* __restrict__ xhat, const float* __restrict__ rstd, G* __restrict__ dx,
                         G* __restrict__ dresidual, float* __restrict__ sums, Params p) {
  __shared__ float parts[32];
  extern __shared__ __align__(16) float gathered[];  // (TEAMS, cols) if TEAMS > 1
  const u32 lane = threadIdx.x % TEAM, team = threadIdx.x / TEAM;
  float scaled[PER][VEC] = {}, plain[PER][VEC] = {};
  for (u32 row = blockIdx.x * TEAMS + team; row < p.rows; row += gridDim.x * TEAMS) {
    const u64 start = (u64)row * p.cols;
    float d[PER][VEC] = {}, n[PER][VEC] = {};
    float sum = 0.f, along = 0.f;
#pragma unroll
    for (u32 i = 0; i < PER; i++) {
      const u32 c = (i * TEAM + lane) * VEC;
      if (c >= p.cols) continue;
      load(d[i], dy + start + c);
      load(n[i], xhat + start + c);
      if constexpr (AFTER) {
        float f[VEC];
        factors(f, p.after, key, row, c);
#pragma unroll
        for (u32 e = 0; e < VEC; e++) d[i][e] *= f[e];
      }
      float g[VEC];
      load(g, gamma + c);
#pragma unroll
      for (u32 e = 0; e < VEC; e++) {
        if constexpr (DGAMMA) scaled[i][e] += d[i][e] * n[i][e];
        if constexpr (DBETA) plain[i][e] += d[i][e];
        d[i][e] *= g[e];
        sum += d[i][e];
        along += d[i][e] * n[i][e];
      }
    }
    if constexpr (!DX && !DRES) continue;
    const float mean = team_sum(sum, parts) / p.cols, tilt = team_sum(along, parts) / p.cols;
    const float r = rstd[row];
#pragma unroll
    for (u32 i = 0; i < PER; i++) {
      const u32 c = (i * TEAM + lane) * VEC;
      if (c >= p.cols) continue;
#pragma unroll
      for (u32 e = 0; e < VEC; e++) d[i][e] = (d[i][e] - mean - n[i][e] * tilt) * r;
      if constexpr (DRES) put(dresidual + start + c, d[i], p.add_residual);
      if constexpr (DX) {
        if constexpr (BEFORE) {
          float f[VEC];
          factors(f, p.before, key, row, c);
#pragma unroll
          for (u32 e = 0; e < VEC; e++) d[i][e] *= f[e];
        }
        put(dx + start + c, d[i], p.add_x);
      }
    }
  }
  if constexpr (!DGAMMA && !DBETA) return;
  float* mine = sums + (u64)blockIdx.x * 2 * p.cols;
#pragma unroll
  for (u32 which = 0; which < 2; which++) {
    if constexpr (TEAMS > 1) {
      __syncthreads();
#pragma unroll
      for (u32 i = 0; i < PER; i++) {
        const u32 c = (i * TEAM + lane) * VEC;
        if (c >= p.cols) continue;
        float* to = gathered + team * p.cols + c;
        if constexpr (VEC % 4 == 0) {
#pragma unroll
          for (u32 e = 0; e < VEC; e += 4) {
            const float four[4] = {which == 0 ? scaled[i][e] : plain[i][e], which == 0 ? scaled[i][e + 1] : plain[i][e + 1],
                                   which == 0 ? scaled[i][e + 2] : plain[i][e + 2], which == 0 ? scaled[i][e + 3] : plain[i][e + 3]};
            store_shared(to + e, four);
          }
        } else {
#pragma unroll
          for (u32 e = 0; e < VEC; e++) to[e] = which == 0 ? scaled[i][e] : plain[i][e];
        }
      }
      __syncthreads();
      for (u32 c = threadIdx.x; c < p.cols; c += THREADS) {
        float sum = 0.f;
#pragma unroll
        for (u32 w = 0; w < TEAMS; w++) sum += gathered[w * p.cols + c];
        mine[which * p.cols + c] = sum;
      }
    } else {
#pragma unroll
      for (u32 i = 0; i < PER; i++) {
        const u32 c = (i * TEAM + lane) * VEC;
        if (c < p.cols) store(mine + which * p.cols + c, which == 0 ? scaled[i] : plain[i]);
      }
    }
  }
}

// dgamma and dbeta from the parts of all blocks (p.rows of them): a block has 32 columns, its warps share out
// the parts. sums (blocks, 2, cols) f32 -> dgamma, dbeta (cols)
KERNEL add_norm_sum(const float* __restrict__ sums, P* __restrict__ dgamma, P* __restrict__ dbeta, Params p) {
  constexpr u32 WARPS = THREADS / 32;
  __shared__ float parts[2][WARPS][32];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
  float scaled = 0.f, plain = 0.f;
  if (c < p.cols)
    for (u32 b = warp; b < p.rows; b += WARPS) {
      scaled += sums[(u64)b * 2 * p.cols + c];
      plain += sums[((u64)b * 2 + 1) * p.cols + c];
    }
  parts[0][warp][lane] = scaled;
  parts[1][warp][lane] = plain;
  __syncthreads();
  if (warp > 0 || c >= p.cols) return;
  float all[2][1] = {};
#pragma unroll
  for (u32 w = 0; w < WARPS; w++) {
    all[0][0] += parts[0][w][lane];
    all[1][0] += parts[1][w][lane];
  }
  if constexpr (DGAMMA) put(dgamma + c, all[0], p.add_gamma);
  if constexpr (DBETA) put(dbeta + c, all[1], p.add_beta);
}
