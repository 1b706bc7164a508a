// o = drop(softmax(scale q k^T)) v over packed sequences, in f32 arithmetic: see src/ops/attention. Stands
// behind attention.rows.cu. Constants: those, T (elements), G (those of the gradient), SHARE (1: short
// sequences share blocks, for which EACH is 4 or 8), PASS (0 forward, 1 backward).
//
// A block owns queries, or keys. Where sequences are short, a block has several, and a warp looks at its own
// only: see attention.cu.

DEVICE u32 own_tiles(u32 length) { return ceil_div(length, OWN); }
DEVICE Place place_of(const u32* bounds, u32 seqs) {
  if constexpr (SHARE != 0) return place_shared<EACH>(bounds, seqs, blockIdx.x, own_tiles);
  return place(bounds, seqs, blockIdx.x, own_tiles);
}

// ---- Forward.

// What a warp's queries have found so far.
struct Found {
  float out[EACH][COLS] = {}, top[EACH], total[EACH] = {};
};
// Takes in COUNT keys and values from k0 on. `probs` is the warp's.
template <u32 COUNT>
DEVICE void take(Found& to, const float* q, const float* k, const float* v, float* probs, const Mask& mask, float scale, u32 query,
                 u32 k0, u32 length) {
  const u32 lane = threadIdx.x % 32;
  float s[EACH];
  scores<COUNT>(s, q, k);
  const u32 bits = DROPOUT == 0 ? ~0u : queries_keep(mask, query, k0 / 8);
#pragma unroll
  for (u32 r = 0; r < EACH; r++) {
    const float x = k0 + lane < length && sees(query + r, k0 + lane) ? s[r] * scale : NEG_INF;
    const float now = fmaxf(to.top[r], warp_max(x));
    // Nothing may be in sight yet; infinity less infinity is no number.
    const float base = WINDOW != 0 && now == NEG_INF ? 0.f : now;
    const float fade = exp2_fast(to.top[r] - base), e = exp2_fast(x - base);
    to.top[r] = now;
    to.total[r] = fmaf(to.total[r], fade, warp_sum(e));
#pragma unroll
    for (u32 c = 0; c < COLS; c++) to.out[r][c] *= fade;
    probs[r * PROBS + lane] = (bits >> r & 1) != 0 ? e : 0.f;
  }
  __syncwarp();
  accumulate<COUNT>(to.out, probs, v);
}
DEVICE void conclude(T* o, float* lse, Found& found, const Mask& mask, const Params& p, const Place& at, u32 query) {
  const u32 lane = threadIdx.x % 32, head = blockIdx.y, hidden = p.heads * D, length = at.length;
#pragma unroll
  for (u32 r = 0; r < EACH; r++) {
    if (lane == 0 && query + r < length) {
      lse[(size_t)at.first * p.heads + (size_t)head * length + query + r] = fmaf(found.top[r], LN2, logf(found.total[r]));
    }
#pragma unroll
    for (u32 c = 0; c < COLS; c++) found.out[r][c] /= found.total[r];
  }
  write(o + (size_t)(at.first + query) * hidden + head * D, hidden, length - query, found.out, mask.scale, false);
}

// Sequences of SPAN warps at most. Shared: f32, 3 OWN LINE + OWN PROBS.
template <u32 SPAN>
DEVICE void forward_short(const T* qkv, const u32* key, T* o, float* lse, const Params& p, const Place& at) {
  const u32 warp = threadIdx.x / 32, head = blockIdx.y, hidden = p.heads * D, stride = 3 * hidden;
  const u32 mine = warp % SPAN * EACH, rows = at.length > mine ? at.length - mine : 0;
  float* tile_q = (float*)shared + warp * EACH * LINE;
  float* tile_k = tile_q + OWN * LINE;
  float* tile_v = tile_k + OWN * LINE;
  float* probs = (float*)shared + 3 * OWN * LINE + warp * EACH * PROBS;
  const T* q = qkv + (size_t)(at.first + (rows > 0 ? mine : 0)) * stride + head * D;
  fetch<EACH, 32>(tile_q, q, stride, rows);
  fetch<EACH, 32>(tile_k, q + hidden, stride, rows);
  fetch<EACH, 32>(tile_v, q + 2 * hidden, stride, rows);
  SPAN == 1 ? __syncwarp() : __syncthreads();
  if (rows == 0) return;
  const Mask mask = mask_of(p.drop, key, head, at.first);
  Found found;
#pragma unroll
  for (u32 r = 0; r < EACH; r++) found.top[r] = NEG_INF;
  const float* begin_k = tile_k - mine * LINE;
  take<SPAN * EACH>(found, tile_q, begin_k, begin_k + OWN * LINE, probs, mask, p.scale * LOG2E, mine, 0, at.length);
  conclude(o, lse, found, mask, p, at, mine);
}

// qkv (tokens, 3, heads, D), bounds (seqs + 1), key (5) -> o (tokens, heads, D), lse (heads tokens).
// Grid: (blocks, heads), enough for all tiles. Shared: f32, (OWN + 64) LINE + OWN PROBS.
ATTENTION attention_plain_forward(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ key,
                                  T* __restrict__ o, float* __restrict__ lse, Params p) {
  if constexpr (PASS == 0) {
    const Place at = place_of(bounds, p.seqs);
    if constexpr (SHARE != 0) {
      if (at.span == 1) return forward_short<1>(qkv, key, o, lse, p, at);
      if (at.span == 2) return forward_short<2>(qkv, key, o, lse, p, at);
    }
    if (at.length == 0) return;
    const u32 warp = threadIdx.x / 32, head = blockIdx.y, length = at.length, begin = at.tile * OWN;
    const u32 hidden = p.heads * D, stride = 3 * hidden, query = begin + warp * EACH;
    const bool busy = query < length;
    const T* q = qkv + (size_t)at.first * stride + head * D;
    float* tile_q = (float*)shared;
    float* tile_k = tile_q + OWN * LINE;
    float* tile_v = tile_k + TILE * LINE;
    float* probs = tile_v + TILE * LINE + warp * EACH * PROBS;
    const Mask mask = mask_of(p.drop, key, head, at.first);
    Found found;
#pragma unroll
    for (u32 r = 0; r < EACH; r++) found.top[r] = NEG_INF;
    fetch<OWN>(tile_q, q + (size_t)begin * stride, stride, length - begin);
    const u32 from = seen_from(begin, TILE), upto = seen_upto(begin + OWN, length);
    for (u32 k0 = from; k0 < upto; k0 += TILE) {
      if (k0 > from) __syncthreads();  // keys and values are used up
      fetch<TILE>(tile_k, q + hidden + (size_t)k0 * stride, stride, length - k0);
      fetch<TILE>(tile_v, q + 2 * hidden + (size_t)k0 * stride, stride, length - k0);
      __syncthreads();
      if (busy) take<TILE>(found, tile_q + warp * EACH * LINE, tile_k, tile_v, probs, mask, p.scale * LOG2E, query, k0, length);
    }
    if (busy) conclude(o, lse, found, mask, p, at, query);
  }
}

// ---- Backward. With P the probabilities, m the mask, D = rowsum(do o): dS = P (m (do V^T) - D). Own
// queries: dQ = scale dS K; own keys (KV): dV = (P m)^T do, dK = scale dS^T Q. Both products of scores take
// the own tokens' rows by the other side's.

// What a warp's tokens have been given so far, and what of its queries is known: the logarithm of the
// softmax's sum, and D.
struct Given {
  float out0[EACH][COLS] = {}, out1[EACH][COLS] = {}, norm[EACH], sums[EACH];
};
// The gradient of `at.length` tokens of one head, where it is read and written.
struct Side {
  const float* lse;
  float* delta;
  u32 length;
};
// Reads what is known of the warp's queries, and leaves D for who owns the keys. o is read here only.
DEVICE void know(Given& to, const T* dout, const T* o, const Side& side, u32 hidden, u32 mine) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (u32 r = 0; r < EACH; r++) {
    const bool in = mine + r < side.length;
    const size_t from = (size_t)(mine + r) * hidden + lane;
    float sum = 0.f;
#pragma unroll
    for (u32 c = 0; c < COLS; c++)
      if (in && lane + 32 * c < D) sum = fmaf(widen(dout[from + 32 * c]), widen(o[from + 32 * c]), sum);
    to.sums[r] = warp_sum(sum);
    to.norm[r] = in ? side.lse[mine + r] * LOG2E : 0.f;
    if (in && lane == 0) side.delta[mine + r] = to.sums[r];
  }
}
// What COUNT tokens of the other side from j0 on give. `ds` is the warp's, with room for P m behind it.
template <bool KV, u32 COUNT>
DEVICE void give(Given& to, const float* own0, const float* own1, const float* other0, const float* other1, float* ds,
                 const Side& side, const Mask& mask, float scale, u32 mine, u32 j0) {
  const u32 lane = threadIdx.x % 32;
  float* pm = ds + OWN * PROBS;
  float s[EACH], dp[EACH];
  scores<COUNT>(s, own0, other0);
  scores<COUNT>(dp, own1, other1);
  const bool in = j0 + lane < side.length;
  const float norm_lane = KV && in ? side.lse[j0 + lane] * LOG2E : 0.f, sum_lane = KV && in ? side.delta[j0 + lane] : 0.f;
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
    const bool keeps = (bits >> r & 1) != 0, there = in && mine + r < side.length && sees(mine + r, j0 + lane);
    const float e = there ? exp2_fast(fmaf(s[r], scale, -(KV ? norm_lane : to.norm[r]))) : 0.f;
    ds[r * PROBS + lane] = e * ((keeps ? dp[r] * mask.scale : 0.f) - (KV ? sum_lane : to.sums[r]));
    if (KV) pm[r * PROBS + lane] = keeps ? e : 0.f;
  }
  __syncwarp();
  accumulate<COUNT>(to.out0, ds, other0);
  if (KV) accumulate<COUNT>(to.out1, pm, other1);
}
template <bool KV>
DEVICE void write_given(G* dqkv, const Given& given, const Mask& mask, const Params& p, const Place& at, u32 mine) {
  const u32 hidden = p.heads * D, stride = 3 * hidden;
  G* to = dqkv + (size_t)(at.first + mine) * stride + blockIdx.y * D;
  write(KV ? to + hidden : to, stride, at.length - mine, given.out0, p.scale, p.add != 0);
  if (KV) write(to + 2 * hidden, stride, at.length - mine, given.out1, mask.scale, p.add != 0);
}

// Sequences of SPAN warps at most. Shared: f32, 4 OWN LINE + 2 OWN PROBS.
template <bool KV, u32 SPAN>
DEVICE void backward_short(const T* q, const u32* key, const T* o, const T* dout, G* dqkv, const Side& side, const Params& p,
                           const Place& at) {
  const u32 warp = threadIdx.x / 32, head = blockIdx.y, hidden = p.heads * D, stride = 3 * hidden;
  const u32 mine = warp % SPAN * EACH, rows = at.length > mine ? at.length - mine : 0, from = rows > 0 ? mine : 0;
  float* tile_q = (float*)shared + warp * EACH * LINE;
  float* tile_do = tile_q + OWN * LINE;
  float* tile_k = tile_do + OWN * LINE;
  float* tile_v = tile_k + OWN * LINE;
  float* ds = (float*)shared + 4 * OWN * LINE + warp * EACH * PROBS;
  fetch<EACH, 32>(tile_q, q + (size_t)from * stride, stride, rows);
  fetch<EACH, 32>(tile_k, q + hidden + (size_t)from * stride, stride, rows);
  fetch<EACH, 32>(tile_v, q + 2 * hidden + (size_t)from * stride, stride, rows);
  fetch<EACH, 32>(tile_do, dout + (size_t)from * hidden, hidden, rows);
  SPAN == 1 ? __syncwarp() : __syncthreads();
  if (rows == 0) return;
  const Mask mask = mask_of(p.drop, key, head, at.first);
  Given given;
  if (!KV) know(given, dout, o, side, hidden, mine);
  const u32 before = mine * LINE;
  if constexpr (KV) {
    give<KV, SPAN * EACH>(given, tile_k, tile_v, tile_q - before, tile_do - before, ds, side, mask, p.scale * LOG2E, mine, 0);
  } else {
    give<KV, SPAN * EACH>(given, tile_q, tile_do, tile_k - before, tile_v - before, ds, side, mask, p.scale * LOG2E, mine, 0);
  }
  write_given<KV>(dqkv, given, mask, p, at, mine);
}

// Shared: f32, (2 OWN + 64) LINE + 2 OWN PROBS.
template <bool KV>
DEVICE void backward_rows(const T* qkv, const u32* bounds, const u32* key, const T* o, const float* lse, const T* dy, G* dqkv,
                          float* delta, const Params& p) {
  const Place at = place_of(bounds, p.seqs);
  const u32 warp = threadIdx.x / 32, head = blockIdx.y, length = at.length;
  const u32 hidden = p.heads * D, stride = 3 * hidden;
  const T* q = qkv + (size_t)at.first * stride + head * D;
  const size_t first = (size_t)at.first * hidden + head * D, stats = (size_t)at.first * p.heads + (size_t)head * length;
  const T* dout = dy + first;
  const Side side = {lse + stats, delta + stats, length};
  if constexpr (SHARE != 0) {
    if (at.span == 1) return backward_short<KV, 1>(q, key, o + first, dout, dqkv, side, p, at);
    if (at.span == 2) return backward_short<KV, 2>(q, key, o + first, dout, dqkv, side, p, at);
  }
  if (length == 0) return;
  const u32 begin = at.tile * OWN, mine = begin + warp * EACH;
  const bool busy = mine < length;
  float* own0 = (float*)shared;
  float* own1 = own0 + OWN * LINE;
  float* other0 = own1 + OWN * LINE;
  float* other1 = other0 + TILE * LINE;
  float* ds = other1 + TILE * LINE + warp * EACH * PROBS;
  if constexpr (KV) {
    fetch<OWN>(own0, q + hidden + (size_t)begin * stride, stride, length - begin);
    fetch<OWN>(own1, q + 2 * hidden + (size_t)begin * stride, stride, length - begin);
  } else {
    fetch<OWN>(own0, q + (size_t)begin * stride, stride, length - begin);
    fetch<OWN>(own1, dout + (size_t)begin * hidden, hidden, length - begin);
  }
  own0 += warp * EACH * LINE, own1 += warp * EACH * LINE;
  const Mask mask = mask_of(p.drop, key, head, at.first);
  Given given;
  if (!KV) know(given, dout, o + first, side, hidden, mine);
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
    if (busy) give<KV, TILE>(given, own0, own1, other0, other1, ds, side, mask, p.scale * LOG2E, mine, j0);
  }
  if (busy) write_given<KV>(dqkv, given, mask, p, at, mine);
}

// The same grid. dy (tokens, heads, D) -> dqkv (tokens, 3, heads, D); delta = rowsum(do o) (heads tokens) for
// the next.
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
