// o = drop(softmax(scale q k^T)) v over packed sequences, in f32 arithmetic: see src/ops/attention. Stands behind
// attention.common.cu. Constants: those, T (elements), G (those of the gradient), EACH (2, 4 or 8 rows a warp), PASS (0 forward,
// 1 backward).
//
// A block owns OWN tokens (queries, or keys), EACH a warp; the tokens of the other side go by, 32 at a time, one a lane.

constexpr u32 OWN = EACH * WARPS, TILE = 32;
constexpr u32 COLS = (D + 31) / 32, WIDTH = 32 * COLS;  // columns of a lane; a row, padded with zeros
constexpr u32 LINE = WIDTH + 4, PROBS = TILE + 4;       // rows in shared memory: no bank is met twice

DEVICE u32 own_tiles(u32 length) { return ceil_div(length, OWN); }

// Rows of one head, of which `rows` exist, `stride` apart; what does not exist becomes 0.
template <u32 ROWS> DEVICE void fetch(float* to, const T* from, u32 stride, u32 rows) {
  for (u32 i = threadIdx.x; i < ROWS * WIDTH; i += THREADS) {
    const u32 row = i / WIDTH, c = i % WIDTH;
    to[row * LINE + c] = row < rows && c < D ? widen(from[row * stride + c]) : 0.f;
  }
}
// s[r] = row r of a, by the lane's row of b.
DEVICE void scores(float (&s)[EACH], const float* a, const float* b) {
#pragma unroll
  for (u32 r = 0; r < EACH; r++) s[r] = 0.f;
#pragma unroll 2
  for (u32 c = 0; c < WIDTH; c += 4) {
    const float4 y = *(const float4*)(b + threadIdx.x % 32 * LINE + c);
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const float4 x = *(const float4*)(a + r * LINE + c);
      s[r] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, s[r]))));
    }
  }
}
// out[r][c] += probs (EACH, TILE) b (TILE, WIDTH), column lane + 32 c.
DEVICE void accumulate(float (&out)[EACH][COLS], const float* probs, const float* b) {
#pragma unroll 1
  for (u32 j = 0; j < TILE; j += 4) {
    float y[4][COLS];
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
      for (u32 c = 0; c < COLS; c++) y[i][c] = b[(j + i) * LINE + threadIdx.x % 32 + 32 * c];
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const float4 x = *(const float4*)(probs + r * PROBS + j);
#pragma unroll
      for (u32 c = 0; c < COLS; c++) {
        out[r][c] = fmaf(x.x, y[0][c], fmaf(x.y, y[1][c], fmaf(x.z, y[2][c], fmaf(x.w, y[3][c], out[r][c]))));
      }
    }
  }
}
// Which of a warp's queries keep the lane's key, a bit each; each lane draws for one query and eight keys.
DEVICE u32 queries_keep(const Mask& m, u32 query, u32 block) {
  const u32 lane = threadIdx.x % 32, mine = kept(m, query + lane / 4 % EACH, block + lane % 4);
  u32 bits = 0;
#pragma unroll
  for (u32 r = 0; r < EACH; r++) bits |= (__shfl_sync(~0u, mine, r * 4 + lane / 8) >> lane % 8 & 1) << r;
  return bits;
}
// Writes the rows of a warp, of which `rows` exist.
template <class E> DEVICE void write(E* to, u32 stride, u32 rows, const float (&v)[EACH][COLS], float factor, bool add) {
#pragma unroll
  for (u32 r = 0; r < EACH; r++)
#pragma unroll
    for (u32 c = 0; c < COLS; c++) {
      const u32 col = threadIdx.x % 32 + 32 * c;
      const float x[1] = {v[r][c] * factor};
      if (r < rows && col < D) put(to + (size_t)r * stride + col, x, add);
    }
}

// qkv (tokens, 3, heads, D), bounds (seqs + 1), key (5) -> o (tokens, heads, D), lse (heads tokens).
// Grid: (tokens / OWN + seqs, heads). Shared: f32, (OWN + 64) LINE + OWN PROBS.
ATTENTION attention_plain_forward(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ key,
                                  T* __restrict__ o, float* __restrict__ lse, Params p) {
  if constexpr (PASS == 0) {
    const Place at = place(bounds, p.seqs, blockIdx.x, own_tiles);
    if (at.length == 0) return;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, length = at.length, begin = at.tile * OWN;
    const u32 hidden = p.heads * D, stride = 3 * hidden, query = begin + warp * EACH;
    const bool busy = query < length;
    const T* q = qkv + (size_t)at.first * stride + head * D;
    float* tile_q = (float*)shared;
    float* tile_k = tile_q + OWN * LINE;
    float* tile_v = tile_k + TILE * LINE;
    float* probs = tile_v + TILE * LINE + warp * EACH * PROBS;
    const Mask mask = mask_of(p.drop, key, head, at.first);
    const float scale = p.scale * LOG2E;
    float out[EACH][COLS] = {}, top[EACH], total[EACH] = {};
#pragma unroll
    for (u32 r = 0; r < EACH; r++) top[r] = NEG_INF;
    fetch<OWN>(tile_q, q + (size_t)begin * stride, stride, length - begin);
    const u32 from = seen_from(begin, TILE), upto = seen_upto(begin + OWN, length);
    for (u32 k0 = from; k0 < upto; k0 += TILE) {
      if (k0 > from) __syncthreads();  // keys and values are used up
      fetch<TILE>(tile_k, q + hidden + (size_t)k0 * stride, stride, length - k0);
      fetch<TILE>(tile_v, q + 2 * hidden + (size_t)k0 * stride, stride, length - k0);
      __syncthreads();
      if (!busy) continue;
      float s[EACH];
      scores(s, tile_q + warp * EACH * LINE, tile_k);
      const u32 bits = DROPOUT == 0 ? ~0u : queries_keep(mask, query, k0 / 8);
#pragma unroll
      for (u32 r = 0; r < EACH; r++) {
        const float x = k0 + lane < length && sees(query + r, k0 + lane) ? s[r] * scale : NEG_INF;
        const float now = fmaxf(top[r], warp_max(x));
        // Nothing may be in sight yet; infinity less infinity is no number.
        const float base = WINDOW != 0 && now == NEG_INF ? 0.f : now;
        const float fade = exp2_fast(top[r] - base), e = exp2_fast(x - base);
        top[r] = now;
        total[r] = fmaf(total[r], fade, warp_sum(e));
#pragma unroll
        for (u32 c = 0; c < COLS; c++) out[r][c] *= fade;
        probs[r * PROBS + lane] = (bits >> r & 1) != 0 ? e : 0.f;
      }
      __syncwarp();
      accumulate(out, probs, tile_v);
    }
    if (!busy) return;
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      if (lane == 0 && query + r < length) {
        lse[(size_t)at.first * p.heads + (size_t)head * length + query + r] = fmaf(top[r], LN2, logf(total[r]));
      }
#pragma unroll
      for (u32 c = 0; c < COLS; c++) out[r][c] /= total[r];
    }
    write(o + (size_t)(at.first + query) * hidden + head * D, hidden, length - query, out, mask.scale, false);
  }
}

// With P the probabilities, m the mask, D = rowsum(do o): dS = P (m (do V^T) - D). Own queries: dQ = scale dS K; own keys (KV):
// dV = (P m)^T do, dK = scale dS^T Q. Both products of scores take the own tokens' rows by the other side's.
// Shared: f32, (2 OWN + 64) LINE + 2 OWN PROBS.
template <bool KV>
DEVICE void backward_rows(const T* qkv, const u32* bounds, const u32* key, const T* o, const float* lse, const T* dy, G* dqkv,
                          float* delta, const Params& p) {
  const Place at = place(bounds, p.seqs, blockIdx.x, own_tiles);
  if (at.length == 0) return;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, length = at.length, begin = at.tile * OWN;
  const u32 hidden = p.heads * D, stride = 3 * hidden, mine = begin + warp * EACH;
  const bool busy = mine < length;
  const T* q = qkv + (size_t)at.first * stride + head * D;
  const T* dout = dy + (size_t)at.first * hidden + head * D;
  const size_t stats = (size_t)at.first * p.heads + (size_t)head * length;
  float* own0 = (float*)shared;
  float* own1 = own0 + OWN * LINE;
  float* other0 = own1 + OWN * LINE;
  float* other1 = other0 + TILE * LINE;
  float* ds = other1 + TILE * LINE + warp * EACH * PROBS;
  float* pm = ds + OWN * PROBS;
  if constexpr (KV) {
    fetch<OWN>(own0, q + hidden + (size_t)begin * stride, stride, length - begin);
    fetch<OWN>(own1, q + 2 * hidden + (size_t)begin * stride, stride, length - begin);
  } else {
    fetch<OWN>(own0, q + (size_t)begin * stride, stride, length - begin);
    fetch<OWN>(own1, dout + (size_t)begin * hidden, hidden, length - begin);
  }
  own0 += warp * EACH * LINE, own1 += warp * EACH * LINE;
  const Mask mask = mask_of(p.drop, key, head, at.first);
  const float scale = p.scale * LOG2E;
  float out0[EACH][COLS] = {}, out1[EACH][COLS] = {}, norm[EACH], sums[EACH];
  if (!KV) {
    // o is read here only.
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const bool in = mine + r < length;
      const size_t from = (size_t)(mine + r) * hidden + lane;
      float sum = 0.f;
#pragma unroll
      for (u32 c = 0; c < COLS; c++)
        if (in && lane + 32 * c < D) {
          sum = fmaf(widen(dout[from + 32 * c]), widen(o[(size_t)at.first * hidden + head * D + from + 32 * c]), sum);
        }
      sums[r] = warp_sum(sum);
      norm[r] = in ? lse[stats + mine + r] * LOG2E : 0.f;
      if (in && lane == 0) delta[stats + mine + r] = sums[r];
    }
  }
  const u32 from = seen_from(begin, TILE), upto = seen_upto(begin + OWN, length);
  for (u32 j0 = from; j0 < upto; j0 += TILE) {
    if (j0 > from) __syncthreads();  // the other side is used up
    if constexpr (KV) {
      fetch<TILE>(other0, q + (size_t)j0 * stride, stride, length - j0);
      fetch<TILE>(other1, dout + (size_t)j0 * hidden, hidden, length - j0);
    } else {
      fetch<TILE>(other0, q + hidden + (size_t)j0 * stride, stride, length - j0);
      fetch<TILE>(other1, q + 2 * hidden + (size_t)j0 * stride, stride, length - j0);
    }
    __syncthreads();
    if (!busy) continue;
    float s[EACH], dp[EACH];
    scores(s, own0, other0);
    scores(dp, own1, other1);
    const bool in = j0 + lane < length;
    const float norm_lane = KV && in ? lse[stats + j0 + lane] * LOG2E : 0.f, sum_lane = KV && in ? delta[stats + j0 + lane] : 0.f;
    u32 bits = ~0u;
    if constexpr (DROPOUT != 0) {
      if constexpr (KV) {
        bits = kept(mask, j0 + lane, mine / 8) >> mine % 8;
      } else {
        bits = queries_keep(mask, mine, j0 / 8);
      }
    }
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const bool keeps = (bits >> r & 1) != 0;
      const float e = in && mine + r < length && sees(mine + r, j0 + lane) ? exp2_fast(fmaf(s[r], scale, -(KV ? norm_lane : norm[r]))) : 0.f;
      ds[r * PROBS + lane] = e * ((keeps ? dp[r] * mask.scale : 0.f) - (KV ? sum_lane : sums[r]));
      if (KV) pm[r * PROBS + lane] = keeps ? e : 0.f;
    }
    __syncwarp();
    accumulate(out0, ds, other0);
    if (KV) accumulate(out1, pm, other1);
  }
  if (!busy) return;
  G* to = dqkv + (size_t)(at.first + mine) * stride + head * D;
  write(KV ? to + hidden : to, stride, length - mine, out0, p.scale, p.add != 0);
  if (KV) write(to + 2 * hidden, stride, length - mine, out1, mask.scale, p.add != 0);
}

// The same grid. dy (tokens, heads, D) -> dqkv (tokens, 3, heads, D); delta = rowsum(do o) (heads tokens) for the next.
ATTENTION attention_plain_backward_q(const T* __restrict__ qkv, const u32* __restrict__ bounds,
                                     const u32* __restrict__ key, const T* __restrict__ o, const float* __restrict__ lse,
                                     const T* __restrict__ dy, G* __restrict__ dqkv, float* __restrict__ delta, Params p) {
  if constexpr (PASS == 1) backward_rows<false>(qkv, bounds, key, o, lse, dy, dqkv, delta, p);
}
ATTENTION attention_plain_backward_kv(const T* __restrict__ qkv, const u32* __restrict__ bounds,
                                     const u32* __restrict__ key, const T* __restrict__ o, const float* __restrict__ lse,
                                     const T* __restrict__ dy, G* __restrict__ dqkv, float* __restrict__ delta, Params p) {
  if constexpr (PASS == 1) backward_rows<true>(qkv, bounds, key, o, lse, dy, dqkv, delta, p);
}
