// o = sum_j p_qj C_j, p_qj the softmax over features of w_j q' + L_j; C_j, L_j the softmax over keys of w_j
// k' - |k'|^2 / 2: see src/ops/favor. Stands behind attention.rows.cu. Constants: its own, T, G (gradients),
// M (features), PASS (0 forward, 1 backward). A block owns features, queries or keys.

constexpr u32 BLOCKS_OF_FEATURES = (M + OWN - 1) / OWN;

// The squared length of a row.
DEVICE float square(const float* row) {
  float s = 0.f;
#pragma unroll 2
  for (u32 c = 0; c < WIDTH; c += 4) {
    const float4 x = *(const float4*)(row + c);
    s = fmaf(x.x, x.x, fmaf(x.y, x.y, fmaf(x.z, x.z, fmaf(x.w, x.w, s))));
  }
  return s;
}

// The other side of a block's rows: two matrices with `count` rows, and what is added to a row's scores, in
// powers of two.
template <class X, class Y> struct Others {
  const X* first;
  const Y* second;
  u32 first_stride, second_stride, count;
};

// out = softmax(factor own first^T + bias) second over the other side's rows, top and total as they were at
// the end. `bias` gets a row's number and the row itself. Shared: f32, (OWN + 64) LINE + OWN PROBS, the first
// OWN LINE filled.
template <class X, class Y, class Bias>
DEVICE void softmax_rows(float (&out)[EACH][COLS], float (&top)[EACH], float (&total)[EACH], float* own, bool busy, float factor,
                         const Others<X, Y>& other, Bias bias) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float* first = own + OWN * LINE;
  float* second = first + TILE * LINE;
  float* probs = second + TILE * LINE + warp * EACH * PROBS;
#pragma unroll
  for (u32 r = 0; r < EACH; r++) top[r] = NEG_INF, total[r] = 0.f;
  for (u32 j0 = 0; j0 < other.count; j0 += TILE) {
    if (j0 > 0) __syncthreads();  // the other side is used up
    fetch<TILE>(first, other.first + (size_t)j0 * other.first_stride, other.first_stride, other.count - j0);
    fetch<TILE>(second, other.second + (size_t)j0 * other.second_stride, other.second_stride, other.count - j0);
    __syncthreads();
    if (!busy) continue;
    float s[EACH];
    scores<TILE>(s, own + warp * EACH * LINE, first);
    const bool in = j0 + lane < other.count;
    const float plus = in ? bias(j0 + lane, first + lane * LINE) : 0.f;
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const float x = in ? fmaf(s[r], factor, plus) : NEG_INF;
      const float now = fmaxf(top[r], warp_max(x)), fade = exp2_fast(top[r] - now), e = exp2_fast(x - now);
      top[r] = now;
      total[r] = fmaf(total[r], fade, warp_sum(e));
#pragma unroll
      for (u32 c = 0; c < COLS; c++) out[r][c] *= fade;
      probs[r * PROBS + lane] = e;
    }
    __syncwarp();
    accumulate<TILE>(out, probs, second);
    __syncwarp();
  }
#pragma unroll
  for (u32 r = 0; r < EACH; r++)
#pragma unroll
    for (u32 c = 0; c < COLS; c++) out[r][c] /= total[r];
}

// With e = 2^(factor own0 first^T + own bias + other's bias) and g = e (own1 second^T + own addend + other's
// addend): out0 = g first, out1 = e second if wanted, sums = rowsum(g). Shared: f32, (2 OWN + 64) LINE + 2
// OWN PROBS, the first 2 OWN LINE filled.
template <bool ZERO, bool ONE, class X, class Y, class Bias>
DEVICE void gradient_rows(float (&out0)[EACH][COLS], float (&out1)[EACH][COLS], float (&sums)[EACH], float* own, u32 rows,
                          float factor, const float (&bias)[EACH], const float (&addend)[EACH], const Others<X, Y>& other,
                          Bias of_other) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float* own0 = own + warp * EACH * LINE;
  const float* own1 = own0 + OWN * LINE;
  float* first = own + 2 * OWN * LINE;
  float* second = first + TILE * LINE;
  float* gs = second + TILE * LINE + warp * EACH * PROBS;
  float* es = gs + OWN * PROBS;
#pragma unroll
  for (u32 r = 0; r < EACH; r++) sums[r] = 0.f;
  for (u32 j0 = 0; j0 < other.count; j0 += TILE) {
    if (j0 > 0) __syncthreads();  // the other side is used up
    fetch<TILE>(first, other.first + (size_t)j0 * other.first_stride, other.first_stride, other.count - j0);
    fetch<TILE>(second, other.second + (size_t)j0 * other.second_stride, other.second_stride, other.count - j0);
    __syncthreads();
    if (rows == 0) continue;
    float s[EACH], dp[EACH];
    scores<TILE>(s, own0, first);
    scores<TILE>(dp, own1, second);
    const bool in = j0 + lane < other.count;
    const float2 theirs = in ? of_other(j0 + lane) : make_float2(0.f, 0.f);
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const float e = in && r < rows ? exp2_fast(fmaf(s[r], factor, bias[r] + theirs.x)) : 0.f;
      const float g = e * (dp[r] + addend[r] + theirs.y);
      sums[r] += g;
      if (ZERO) gs[r * PROBS + lane] = g;
      if (ONE) es[r * PROBS + lane] = e;
    }
    __syncwarp();
    if (ZERO) accumulate<TILE>(out0, gs, first);
    if (ONE) accumulate<TILE>(out1, es, second);
    __syncwarp();
  }
#pragma unroll
  for (u32 r = 0; r < EACH; r++) sums[r] = warp_sum(sums[r]);
}

// The first row of C of a sequence's head, and where L begins.
DEVICE size_t row_of(const Params& p, u32 seq, u32 head) { return ((size_t)seq * p.heads + head) * M; }
DEVICE size_t norms(const Params& p) { return (size_t)p.seqs * p.heads * M * D; }
// The number of the sequence that begins at a token and is not empty.
DEVICE u32 number_of(const u32* bounds, u32 seqs, u32 first) {
  u32 low = 0, high = seqs;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (bounds[middle] <= first) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// qkv (tokens, 3, heads, D), bounds (seqs + 1), w (M, D) -> table: C (seqs, heads, M, D), L (seqs, heads, M).
// Grid: (seqs BLOCKS_OF_FEATURES, heads).
ATTENTION favor_keys(const T* __restrict__ qkv, const u32* __restrict__ bounds, const float* __restrict__ w,
                     float* __restrict__ table, Params p) {
  if constexpr (PASS == 0) {
    const u32 seq = blockIdx.x / BLOCKS_OF_FEATURES, begin = blockIdx.x % BLOCKS_OF_FEATURES * OWN, head = blockIdx.y;
    const u32 start = bounds[seq], length = bounds[seq + 1] - start;
    if (length == 0) return;
    const u32 hidden = p.heads * D, stride = 3 * hidden, mine = begin + threadIdx.x / 32 * EACH;
    float* own = (float*)shared;
    fetch<OWN>(own, w + (size_t)begin * D, D, M - begin);
    const T* k = qkv + (size_t)start * stride + hidden + head * D;
    const float half = -0.5f * p.scale * LOG2E;
    float out[EACH][COLS] = {}, top[EACH], total[EACH];
    softmax_rows(out, top, total, own, mine < M, sqrtf(p.scale) * LOG2E, Others<T, T>{k, k + hidden, stride, stride, length},
                 [&](u32, const float* row) { return half * square(row); });
    if (mine >= M) return;
    const size_t row = row_of(p, seq, head) + mine;
    write(table + row * D, D, M - mine, out, 1.f, false);
#pragma unroll
    for (u32 r = 0; r < EACH; r++)
      if (threadIdx.x % 32 == 0 && mine + r < M) table[norms(p) + row + r] = fmaf(top[r], LN2, logf(total[r]));
  }
}

// The same and the table -> o (tokens, heads, D), lse (heads tokens). Grid: (tokens / OWN + seqs, heads).
ATTENTION favor_queries(const T* __restrict__ qkv, const u32* __restrict__ bounds, const float* __restrict__ w,
                        const float* __restrict__ table, T* __restrict__ o, float* __restrict__ lse, Params p) {
  if constexpr (PASS == 0) {
    const Tile at = own_tile(bounds, p.seqs);
    if (at.length == 0) return;
    const u32 head = blockIdx.y, hidden = p.heads * D, stride = 3 * hidden, mine = at.begin + threadIdx.x / 32 * EACH;
    const size_t row = row_of(p, number_of(bounds, p.seqs, at.first), head);
    float* own = (float*)shared;
    fetch<OWN>(own, qkv + (size_t)(at.first + at.begin) * stride + head * D, stride, at.length - at.begin);
    const float* l = table + norms(p) + row;
    float out[EACH][COLS] = {}, top[EACH], total[EACH];
    softmax_rows(out, top, total, own, mine < at.length, sqrtf(p.scale) * LOG2E,
                 Others<float, float>{w, table + row * D, D, D, M}, [&](u32 j, const float*) { return l[j] * LOG2E; });
    if (mine >= at.length) return;
    write(o + (size_t)(at.first + mine) * hidden + head * D, hidden, at.length - mine, out, 1.f, false);
#pragma unroll
    for (u32 r = 0; r < EACH; r++)
      if (threadIdx.x % 32 == 0 && mine + r < at.length) {
        lse[(size_t)at.first * p.heads + (size_t)head * at.length + mine + r] = fmaf(top[r], LN2, logf(total[r]));
      }
  }
}

// Those and o, dy (tokens, heads, D) -> dq into dqkv (tokens, 3, heads, D), delta = rowsum(do o) (heads
// tokens). The same grid.
ATTENTION favor_backward_q(const T* __restrict__ qkv, const u32* __restrict__ bounds, const float* __restrict__ w,
                           const float* __restrict__ table, const T* __restrict__ o, const float* __restrict__ lse,
                           const T* __restrict__ dy, G* __restrict__ dqkv, float* __restrict__ delta, Params p) {
  if constexpr (PASS == 1) {
    const Tile at = own_tile(bounds, p.seqs);
    if (at.length == 0) return;
    const u32 lane = threadIdx.x % 32, head = blockIdx.y, hidden = p.heads * D, stride = 3 * hidden;
    const u32 mine = at.begin + threadIdx.x / 32 * EACH, rows = mine < at.length ? min(at.length - mine, EACH) : 0;
    const size_t row = row_of(p, number_of(bounds, p.seqs, at.first), head);
    const size_t stats = (size_t)at.first * p.heads + (size_t)head * at.length + mine;
    const size_t from = (size_t)(at.first + mine) * hidden + head * D + lane;
    float* own = (float*)shared;
    fetch<OWN>(own, qkv + (size_t)(at.first + at.begin) * stride + head * D, stride, at.length - at.begin);
    fetch<OWN>(own + OWN * LINE, dy + (size_t)(at.first + at.begin) * hidden + head * D, hidden, at.length - at.begin);
    float bias[EACH], addend[EACH];
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      float sum = 0.f;
#pragma unroll
      for (u32 c = 0; c < COLS; c++) {
        const size_t i = from + (size_t)r * hidden + 32 * c;
        if (r < rows && lane + 32 * c < D) sum = fmaf(widen(dy[i]), widen(o[i]), sum);
      }
      addend[r] = -warp_sum(sum);
      bias[r] = r < rows ? -lse[stats + r] * LOG2E : 0.f;
      if (r < rows && lane == 0) delta[stats + r] = -addend[r];
    }
    const float* l = table + norms(p) + row;
    const float root = sqrtf(p.scale);
    float dq[EACH][COLS] = {}, none[EACH][COLS] = {}, sums[EACH];
    gradient_rows<true, false>(dq, none, sums, own, rows, root * LOG2E, bias, addend,
                               Others<float, float>{w, table + row * D, D, D, M},
                               [&](u32 j) { return make_float2(l[j] * LOG2E, 0.f); });
#pragma unroll
    for (u32 r = 0; r < EACH; r++)
#pragma unroll
      for (u32 c = 0; c < COLS; c++) dq[r][c] *= root;
    write(dqkv + (size_t)(at.first + mine) * stride + head * D, stride, rows, dq, 1.f, p.add != 0);
  }
}

// -> dtable: dC (seqs, heads, M, D), E (seqs, heads, M). Grid: (seqs BLOCKS_OF_FEATURES, heads).
ATTENTION favor_backward_features(const T* __restrict__ qkv, const u32* __restrict__ bounds, const float* __restrict__ w,
                                  const float* __restrict__ table, const float* __restrict__ lse, const T* __restrict__ dy,
                                  const float* __restrict__ delta, float* __restrict__ dtable, Params p) {
  if constexpr (PASS == 1) {
    const u32 seq = blockIdx.x / BLOCKS_OF_FEATURES, begin = blockIdx.x % BLOCKS_OF_FEATURES * OWN, head = blockIdx.y;
    const u32 start = bounds[seq], length = bounds[seq + 1] - start;
    if (length == 0) return;
    const u32 lane = threadIdx.x % 32, hidden = p.heads * D, stride = 3 * hidden;
    const u32 mine = begin + threadIdx.x / 32 * EACH, rows = mine < M ? min(M - mine, EACH) : 0;
    const size_t row = row_of(p, seq, head) + mine, stats = (size_t)start * p.heads + (size_t)head * length;
    float* own = (float*)shared;
    fetch<OWN>(own, w + (size_t)begin * D, D, M - begin);
    fetch<OWN>(own + OWN * LINE, table + (row_of(p, seq, head) + begin) * D, D, M - begin);
    float bias[EACH], addend[EACH];
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      bias[r] = r < rows ? table[norms(p) + row + r] * LOG2E : 0.f;
      addend[r] = 0.f;
    }
    const float root = sqrtf(p.scale);
    float none[EACH][COLS] = {}, dc[EACH][COLS] = {}, e[EACH];
    gradient_rows<false, true>(none, dc, e, own, rows, root * LOG2E, bias, addend,
                               Others<T, T>{qkv + (size_t)start * stride + head * D, dy + (size_t)start * hidden + head * D, stride,
                                            hidden, length},
                               [&](u32 j) { return make_float2(-lse[stats + j] * LOG2E, -delta[stats + j]); });
    const float* c_of = own + (OWN + threadIdx.x / 32 * EACH) * LINE;
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      float along = 0.f;
#pragma unroll
      for (u32 c = 0; c < COLS; c++) along = fmaf(dc[r][c], c_of[r * LINE + lane + 32 * c], along);
      along = warp_sum(along);
      if (r < rows && lane == 0) dtable[norms(p) + row + r] = e[r] - along;
    }
    write(dtable + row * D, D, rows, dc, 1.f, false);
  }
}

// -> dk and dv into dqkv. Grid: (tokens / OWN + seqs, heads).
ATTENTION favor_backward_kv(const T* __restrict__ qkv, const u32* __restrict__ bounds, const float* __restrict__ w,
                            const float* __restrict__ table, const float* __restrict__ dtable, G* __restrict__ dqkv, Params p) {
  if constexpr (PASS == 1) {
    const Tile at = own_tile(bounds, p.seqs);
    if (at.length == 0) return;
    const u32 lane = threadIdx.x % 32, head = blockIdx.y, hidden = p.heads * D, stride = 3 * hidden;
    const u32 mine = at.begin + threadIdx.x / 32 * EACH, rows = mine < at.length ? min(at.length - mine, EACH) : 0;
    const size_t row = row_of(p, number_of(bounds, p.seqs, at.first), head);
    const T* k = qkv + (size_t)(at.first + at.begin) * stride + hidden + head * D;
    float* own = (float*)shared;
    fetch<OWN>(own, k, stride, at.length - at.begin);
    fetch<OWN>(own + OWN * LINE, k + hidden, stride, at.length - at.begin);
    __syncthreads();
    const float* k_of = own + threadIdx.x / 32 * EACH * LINE;
    float bias[EACH], addend[EACH];
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      bias[r] = -0.5f * p.scale * LOG2E * square(k_of + r * LINE);
      addend[r] = 0.f;
    }
    const float* l = table + norms(p) + row;
    const float* e = dtable + norms(p) + row;
    const float root = sqrtf(p.scale);
    float dk[EACH][COLS] = {}, dv[EACH][COLS] = {}, sums[EACH];
    gradient_rows<true, true>(dk, dv, sums, own, rows, root * LOG2E, bias, addend,
                              Others<float, float>{w, dtable + row * D, D, D, M},
                              [&](u32 j) { return make_float2(-l[j] * LOG2E, e[j]); });
#pragma unroll
    for (u32 r = 0; r < EACH; r++)
#pragma unroll
      for (u32 c = 0; c < COLS; c++) dk[r][c] = fmaf(-p.scale * sums[r], k_of[r * LINE + lane + 32 * c], dk[r][c] * root);
    G* to = dqkv + (size_t)(at.first + mine) * stride + hidden + head * D;
    write(to, stride, rows, dk, 1.f, p.add != 0);
    write(to + hidden, stride, rows, dv, 1.f, p.add != 0);
  }
}
