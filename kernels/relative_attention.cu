// o = drop(softmax(scale s)) v, s_ij = (q_i + w) k_j + (q_i + u) r[i - j] + (q_i + g) e[segments differ]: see
// src/ops/relative_attention. Stands behind attention.rows.cu. Constants: its own, T, G (gradients of qkv and
// r), P (of the biases), ORDERED (0 or 1), PASS (0 forward, 1 backward).
//
// A block owns queries, or keys. Rows of r are read from memory: neighbouring lanes want neighbouring rows,
// which stay in the first-level cache.

struct Relative : Params {
  u32 distances;  // rows of r
  u32 wanted;     // whether dq is
};
struct Inputs {
  const T* qkv;
  const u32* segments;
  const T* r;
  const T* bias;
  const u32* order;
};

// Row a by row b, both in shared memory.
DEVICE float dot(const float* a, const float* b) {
  float s = 0.f;
#pragma unroll 2
  for (u32 c = 0; c < WIDTH; c += 4) {
    const float4 x = *(const float4*)(a + c), y = *(const float4*)(b + c);
    s = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, s))));
  }
  return s;
}
// Row a in shared memory by row b elsewhere.
DEVICE float dot_far(const float* a, const T* b) {
  float s = 0.f;
#pragma unroll 4
  for (u32 c = 0; c < D; c++) s = fmaf(a[c], widen(b[c]), s);
  return s;
}
// out[r][c] += probs (EACH, TILE) b (TILE, WIDTH), column lane + 32 c, in the order of the keys.
DEVICE void accumulate_each(float (&out)[EACH][COLS], const float* probs, const float* b) {
#pragma unroll 1
  for (u32 j = 0; j < TILE; j++) {
    float y[COLS];
#pragma unroll
    for (u32 c = 0; c < COLS; c++) y[c] = b[j * LINE + threadIdx.x % 32 + 32 * c];
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const float x = probs[r * PROBS + j];
#pragma unroll
      for (u32 c = 0; c < COLS; c++) out[r][c] = fmaf(x, y[c], out[r][c]);
    }
  }
}

// ---- Who sees whom, and at what distance. Tokens are counted in the batch.

DEVICE u32 place_of(const Inputs& in, u32 i, u32 first) { return ORDERED ? in.order[3 * (size_t)i] : i - first; }
DEVICE bool sees(const Inputs& in, u32 i, u32 j) {
  return !ORDERED || in.order[3 * (size_t)j + 1] < in.order[3 * (size_t)i + 2];
}
// The row of r for a query at a place and the key with this number in its sequence.
DEVICE u32 row_of(u32 distances, u32 place, u32 key) {
  return (u32)min(max((int)place - (int)key + (int)(distances / 2), 0), (int)distances - 1);
}
DEVICE const T* row_at(const Inputs& in, const Relative& p, u32 place, u32 key, u32 head) {
  return in.r + ((size_t)row_of(p.distances, place, key) * p.heads + head) * D;
}
DEVICE const T* bias_at(const Inputs& in, const Relative& p, u32 which, u32 head) {
  return in.bias + (which * p.heads + head) * D;
}
// (q + g) e of a query, for its own segment and for others; all lanes get both.
DEVICE float2 kinds_of(const Inputs& in, const Relative& p, u32 i, u32 head) {
  const T* q = in.qkv + ((size_t)i * 3 * p.heads + head) * D;
  const T *g = bias_at(in, p, 2, head), *same = bias_at(in, p, 3, head), *other = bias_at(in, p, 4, head);
  float2 s = make_float2(0.f, 0.f);
#pragma unroll
  for (u32 c = threadIdx.x % 32; c < D; c += 32) {
    const float x = widen(q[c]) + widen(g[c]);
    s.x = fmaf(x, widen(same[c]), s.x), s.y = fmaf(x, widen(other[c]), s.y);
  }
  return make_float2(warp_sum(s.x), warp_sum(s.y));
}
// qkv (tokens, 3, heads, D), bounds (seqs + 1), segments (tokens), r (distances, heads, D), bias (5, heads,
// D), order (tokens, 3), key (5) -> o (tokens, heads, D), lse (heads tokens). Grid: (tokens / OWN + seqs,
// heads). Shared: f32, (2 OWN + 64) LINE + 2 OWN PROBS.
ATTENTION relative_attention_forward(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ segments,
                                     const T* __restrict__ r, const T* __restrict__ bias, const u32* __restrict__ order,
                                     const u32* __restrict__ key, T* __restrict__ o, float* __restrict__ lse, Relative p) {
  if constexpr (PASS == 0) {
    const Inputs in{qkv, segments, r, bias, order};
    const Tile at = own_tile(bounds, p.seqs);
    if (at.length == 0) return;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, length = at.length;
    const u32 hidden = p.heads * D, stride = 3 * hidden, query = at.begin + warp * EACH;
    const u32 rows = query < length ? min(length - query, EACH) : 0;
    const T* q = qkv + (size_t)at.first * stride + head * D;
    float* tile_w = (float*)shared;
    float* tile_u = tile_w + OWN * LINE;
    float* tile_k = tile_u + OWN * LINE;
    float* tile_v = tile_k + TILE * LINE;
    float* probs = tile_v + TILE * LINE + warp * EACH * PROBS;
    const Mask mask = mask_of(p.drop, key, head, at.first);
    const float scale = p.scale * LOG2E;
    float out[EACH][COLS] = {}, top[EACH], total[EACH] = {};
    float2 kinds[EACH];
    u32 place[EACH], segment[EACH];
#pragma unroll
    for (u32 e = 0; e < EACH; e++) {
      top[e] = -3e38f;
      const u32 i = at.first + (e < rows ? query + e : 0);
      kinds[e] = kinds_of(in, p, i, head);
      place[e] = place_of(in, i, at.first), segment[e] = segments[i];
    }
    fetch<OWN>(tile_w, q + (size_t)at.begin * stride, stride, length - at.begin, bias_at(in, p, 0, head));
    fetch<OWN>(tile_u, q + (size_t)at.begin * stride, stride, length - at.begin, bias_at(in, p, 1, head));
    tile_w += warp * EACH * LINE, tile_u += warp * EACH * LINE;
    for (u32 k0 = 0; k0 < length; k0 += TILE) {
      if (k0 > 0) __syncthreads();  // keys and values are used up
      fetch<TILE>(tile_k, q + hidden + (size_t)k0 * stride, stride, length - k0);
      fetch<TILE>(tile_v, q + 2 * hidden + (size_t)k0 * stride, stride, length - k0);
      __syncthreads();
      if (rows == 0) continue;
      const u32 j = k0 + lane, theirs = j < length ? segments[at.first + j] : 0;
      const u32 bits = DROPOUT == 0 ? ~0u : queries_keep(mask, query, k0 / 8);
#pragma unroll
      for (u32 e = 0; e < EACH; e++) {
        const bool seen = j < length && e < rows && sees(in, at.first + query + e, at.first + j);
        float x = NEG_INF;
        if (seen) {
          x = dot(tile_w + e * LINE, tile_k + lane * LINE) + dot_far(tile_u + e * LINE, row_at(in, p, place[e], j, head));
          x = (x + (theirs == segment[e] ? kinds[e].x : kinds[e].y)) * scale;
        }
        const float now = fmaxf(top[e], warp_max(x)), fade = exp2_fast(top[e] - now), power = exp2_fast(x - now);
        top[e] = now;
        total[e] = fmaf(total[e], fade, warp_sum(power));
#pragma unroll
        for (u32 c = 0; c < COLS; c++) out[e][c] *= fade;
        probs[e * PROBS + lane] = (bits >> e & 1) != 0 ? power : 0.f;
      }
      __syncwarp();
      accumulate_each(out, probs, tile_v);
      __syncwarp();
    }
    if (rows == 0) return;
#pragma unroll
    for (u32 e = 0; e < EACH; e++) {
      const bool blind = total[e] == 0.f;
      if (lane == 0 && e < rows) {
        lse[(size_t)at.first * p.heads + (size_t)head * length + query + e] = blind ? 0.f : fmaf(top[e], LN2, logf(total[e]));
      }
#pragma unroll
      for (u32 c = 0; c < COLS; c++) out[e][c] = blind ? 0.f : out[e][c] / total[e];
    }
    write(o + (size_t)(at.first + query) * hidden + head * D, hidden, rows, out, mask.scale, false);
  }
}

// -> dq into dqkv if there is one; the parts of dq by keys and by distances (2, tokens, heads, D) f32 and the
// sums of dS over keys of the same and of another segment, and delta = rowsum(do o), (3, heads tokens) f32.
// The same grid and shared memory, and three more rows of OWN.
ATTENTION relative_attention_backward_q(const T* __restrict__ qkv, const u32* __restrict__ bounds,
                                        const u32* __restrict__ segments, const T* __restrict__ r, const T* __restrict__ bias,
                                        const u32* __restrict__ order, const u32* __restrict__ key, const T* __restrict__ o,
                                        const float* __restrict__ lse, const T* __restrict__ dy, G* __restrict__ dqkv,
                                        float* __restrict__ parts, float* __restrict__ sums, Relative p) {
  if constexpr (PASS == 1) {
    const Inputs in{qkv, segments, r, bias, order};
    const Tile at = own_tile(bounds, p.seqs);
    if (at.length == 0) return;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, length = at.length;
    const u32 hidden = p.heads * D, stride = 3 * hidden, query = at.begin + warp * EACH;
    const u32 rows = query < length ? min(length - query, EACH) : 0;
    const T* q = qkv + (size_t)at.first * stride + head * D;
    const T* dout = dy + (size_t)at.first * hidden + head * D;
    const size_t stats = (size_t)at.first * p.heads + (size_t)head * length + query, all = (size_t)p.tokens * p.heads;
    float* tile_w = (float*)shared;
    float* tile_u = tile_w + OWN * LINE;
    float* tile_k = tile_u + OWN * LINE;
    float* tile_v = tile_k + TILE * LINE;
    float* probs = tile_v + TILE * LINE + warp * EACH * PROBS;
    float* tile_d = tile_v + TILE * LINE + OWN * PROBS;
    const Mask mask = mask_of(p.drop, key, head, at.first);
    const float scale = p.scale * LOG2E;
    float by_key[EACH][COLS] = {}, by_distance[EACH][COLS] = {}, norm[EACH], delta[EACH];
    float2 kinds[EACH], total[EACH];
    u32 place[EACH], segment[EACH];
#pragma unroll
    for (u32 e = 0; e < EACH; e++) {
      const u32 i = at.first + (e < rows ? query + e : 0);
      kinds[e] = kinds_of(in, p, i, head), total[e] = make_float2(0.f, 0.f);
      place[e] = place_of(in, i, at.first), segment[e] = segments[i];
      float sum = 0.f;
#pragma unroll
      for (u32 c = lane; c < D; c += 32) {
        const size_t n = (size_t)i * hidden + head * D + c;
        sum = fmaf(widen(dy[n]), widen(o[n]), sum);
      }
      delta[e] = warp_sum(sum);
      norm[e] = e < rows ? lse[stats + e] * LOG2E : 0.f;
      if (e < rows && lane == 0) sums[2 * all + stats + e] = delta[e];
    }
    fetch<OWN>(tile_w, q + (size_t)at.begin * stride, stride, length - at.begin, bias_at(in, p, 0, head));
    fetch<OWN>(tile_u, q + (size_t)at.begin * stride, stride, length - at.begin, bias_at(in, p, 1, head));
    fetch<OWN>(tile_d, dout + (size_t)at.begin * hidden, hidden, length - at.begin);
    tile_w += warp * EACH * LINE, tile_u += warp * EACH * LINE, tile_d += warp * EACH * LINE;
    for (u32 k0 = 0; k0 < length; k0 += TILE) {
      if (k0 > 0) __syncthreads();  // keys and values are used up
      fetch<TILE>(tile_k, q + hidden + (size_t)k0 * stride, stride, length - k0);
      fetch<TILE>(tile_v, q + 2 * hidden + (size_t)k0 * stride, stride, length - k0);
      __syncthreads();
      if (rows == 0) continue;
      const u32 j = k0 + lane, theirs = j < length ? segments[at.first + j] : 0;
      const u32 bits = DROPOUT == 0 ? ~0u : queries_keep(mask, query, k0 / 8);
#pragma unroll
      for (u32 e = 0; e < EACH; e++) {
        float ds = 0.f;
        if (j < length && e < rows && sees(in, at.first + query + e, at.first + j)) {
          float x = dot(tile_w + e * LINE, tile_k + lane * LINE) + dot_far(tile_u + e * LINE, row_at(in, p, place[e], j, head));
          x += theirs == segment[e] ? kinds[e].x : kinds[e].y;
          const float dp = (bits >> e & 1) != 0 ? dot(tile_d + e * LINE, tile_v + lane * LINE) * mask.scale : 0.f;
          ds = exp2_fast(fmaf(x, scale, -norm[e])) * (dp - delta[e]) * p.scale;
        }
        if (theirs == segment[e]) {
          total[e].x += ds;
        } else {
          total[e].y += ds;
        }
        probs[e * PROBS + lane] = ds;
      }
      __syncwarp();
      accumulate_each(by_key, probs, tile_k);
#pragma unroll 1
      for (u32 n = 0; n < min(TILE, length - k0); n++)
#pragma unroll
        for (u32 e = 0; e < EACH; e++) {
          const float ds = probs[e * PROBS + n];
          const T* row = row_at(in, p, place[e], k0 + n, head);
#pragma unroll
          for (u32 c = 0; c < COLS; c++)
            if (lane + 32 * c < D) by_distance[e][c] = fmaf(ds, widen(row[lane + 32 * c]), by_distance[e][c]);
        }
      __syncwarp();
    }
    if (rows == 0) return;
    float* to = parts + (size_t)(at.first + query) * hidden + head * D;
    write(to, hidden, rows, by_key, 1.f, false);
    write(to + (size_t)p.tokens * hidden, hidden, rows, by_distance, 1.f, false);
    const T *same = bias_at(in, p, 3, head), *other = bias_at(in, p, 4, head);
#pragma unroll
    for (u32 e = 0; e < EACH; e++) {
      const float x = warp_sum(total[e].x), y = warp_sum(total[e].y);
      if (e < rows && lane == 0) sums[stats + e] = x, sums[all + stats + e] = y;
#pragma unroll
      for (u32 c = 0; c < COLS; c++)
        if (lane + 32 * c < D) {
          by_key[e][c] += by_distance[e][c] + fmaf(x, widen(same[lane + 32 * c]), y * widen(other[lane + 32 * c]));
        }
    }
    if (p.wanted != 0) write(dqkv + (size_t)(at.first + query) * stride + head * D, stride, rows, by_key, 1.f, p.add != 0);
  }
}

// -> dk and dv into dqkv. The same grid and shared memory; the third tile of the other side stands where the
// others end.
ATTENTION relative_attention_backward_kv(const T* __restrict__ qkv, const u32* __restrict__ bounds,
                                         const u32* __restrict__ segments, const T* __restrict__ r, const T* __restrict__ bias,
                                         const u32* __restrict__ order, const u32* __restrict__ key, const float* __restrict__ lse,
                                         const T* __restrict__ dy, const float* __restrict__ sums, G* __restrict__ dqkv, Relative p) {
  if constexpr (PASS == 1) {
    const Inputs in{qkv, segments, r, bias, order};
    const Tile at = own_tile(bounds, p.seqs);
    if (at.length == 0) return;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, length = at.length;
    const u32 hidden = p.heads * D, stride = 3 * hidden, mine = at.begin + warp * EACH;
    const u32 rows = mine < length ? min(length - mine, EACH) : 0;
    const T* q = qkv + (size_t)at.first * stride + head * D;
    const T* dout = dy + (size_t)at.first * hidden + head * D;
    const size_t stats = (size_t)at.first * p.heads + (size_t)head * length, all = (size_t)p.tokens * p.heads;
    float* own_k = (float*)shared;
    float* own_v = own_k + OWN * LINE;
    float* tile_w = own_v + OWN * LINE;
    float* tile_d = tile_w + TILE * LINE;
    float* ds = tile_d + TILE * LINE + warp * EACH * PROBS;
    float* pm = ds + OWN * PROBS;
    float* tile_u = tile_d + TILE * LINE + 2 * OWN * PROBS;
    const Mask mask = mask_of(p.drop, key, head, at.first);
    const float scale = p.scale * LOG2E;
    float dk[EACH][COLS] = {}, dv[EACH][COLS] = {};
    fetch<OWN>(own_k, q + hidden + (size_t)at.begin * stride, stride, length - at.begin);
    fetch<OWN>(own_v, q + 2 * hidden + (size_t)at.begin * stride, stride, length - at.begin);
    own_k += warp * EACH * LINE, own_v += warp * EACH * LINE;
    for (u32 q0 = 0; q0 < length; q0 += TILE) {
      if (q0 > 0) __syncthreads();  // the queries are used up
      fetch<TILE>(tile_w, q + (size_t)q0 * stride, stride, length - q0, bias_at(in, p, 0, head));
      fetch<TILE>(tile_u, q + (size_t)q0 * stride, stride, length - q0, bias_at(in, p, 1, head));
      fetch<TILE>(tile_d, dout + (size_t)q0 * hidden, hidden, length - q0);
      __syncthreads();
      if (rows == 0) continue;
      const u32 n = q0 + lane, i = at.first + min(n, length - 1);
      const T *g = bias_at(in, p, 2, head), *same = bias_at(in, p, 3, head), *other = bias_at(in, p, 4, head);
      // The lane's query by the embeddings of the segments.
      float x = 0.f, y = 0.f;
#pragma unroll 4
      for (u32 c = 0; c < D; c++) {
        const float v = widen(qkv[(size_t)i * stride + head * D + c]) + widen(g[c]);
        x = fmaf(v, widen(same[c]), x), y = fmaf(v, widen(other[c]), y);
      }
      const u32 place = place_of(in, i, at.first), segment = segments[i];
      const float norm = lse[stats + i - at.first] * LOG2E, delta = sums[2 * all + stats + i - at.first];
      const u32 bits = DROPOUT == 0 ? ~0u : kept(mask, n, mine / 8) >> mine % 8;
#pragma unroll
      for (u32 e = 0; e < EACH; e++) {
        float gradient = 0.f, probability = 0.f;
        if (n < length && e < rows && sees(in, i, at.first + mine + e)) {
          float s = dot(own_k + e * LINE, tile_w + lane * LINE);
          s += dot_far(tile_u + lane * LINE, row_at(in, p, place, mine + e, head));
          s += segments[at.first + mine + e] == segment ? x : y;
          const bool keeps = (bits >> e & 1) != 0;
          const float power = exp2_fast(fmaf(s, scale, -norm));
          const float dp = keeps ? dot(own_v + e * LINE, tile_d + lane * LINE) * mask.scale : 0.f;
          gradient = power * (dp - delta), probability = keeps ? power : 0.f;
        }
        ds[e * PROBS + lane] = gradient, pm[e * PROBS + lane] = probability;
      }
      __syncwarp();
      accumulate_each(dk, ds, tile_w);
      accumulate_each(dv, pm, tile_d);
      __syncwarp();
    }
    if (rows == 0) return;
    G* to = dqkv + (size_t)(at.first + mine) * stride + hidden + head * D;
    write(to, stride, rows, dk, p.scale, p.add != 0);
    write(to + hidden, stride, rows, dv, mask.scale, p.add != 0);
  }
}

// -> dr (distances, heads, D): a warp has one distance, and its lanes 32 queries at a time. Grid: (distances
// / WARPS, heads). Shared: f32, WARPS (TILE + LINE).
ATTENTION relative_attention_backward_r(const T* __restrict__ qkv, const u32* __restrict__ bounds,
                                        const u32* __restrict__ segments, const T* __restrict__ r, const T* __restrict__ bias,
                                        const u32* __restrict__ order, const u32* __restrict__ key, const float* __restrict__ lse,
                                        const T* __restrict__ dy, const float* __restrict__ sums, G* __restrict__ dr, Relative p) {
  if constexpr (PASS == 1) {
    const Inputs in{qkv, segments, r, bias, order};
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, row = blockIdx.x * WARPS + warp;
    if (row >= p.distances) return;
    const u32 hidden = p.heads * D, stride = 3 * hidden;
    const int far = (int)(p.distances / 2);
    const size_t all = (size_t)p.tokens * p.heads;
    float* gradients = (float*)shared + warp * TILE;
    float* mine = (float*)shared + WARPS * TILE + warp * LINE;
    const T *w = bias_at(in, p, 0, head), *u = bias_at(in, p, 1, head), *g = bias_at(in, p, 2, head);
    const T *same = bias_at(in, p, 3, head), *other = bias_at(in, p, 4, head);
    for (u32 c = lane; c < WIDTH; c += 32) mine[c] = c < D ? widen(r[((size_t)row * p.heads + head) * D + c]) : 0.f;
    __syncwarp();
    float out[COLS] = {};
    for (u32 s = 0; s < p.seqs; s++) {
      const u32 first = bounds[s], length = bounds[s + 1] - first;
      const Mask mask = mask_of(p.drop, key, head, first);
      const size_t stats = (size_t)first * p.heads + (size_t)head * length;
      for (u32 i0 = 0; i0 < length; i0 += TILE) {
        const u32 n = i0 + lane, i = first + n;
        // The key at this distance, or, at the ends of the table, it and all that are farther.
        int low = 0, high = 0;
        if (n < length) {
          low = (int)place_of(in, i, first) + far - (int)row, high = low + 1;
          if (row == 0) high = (int)length;
          if (row + 1 == p.distances) low = 0;
          low = max(low, 0), high = min(high, (int)length);
        }
        float ds = 0.f;
        for (int k = low; k < high; k++) {
          const u32 j = first + (u32)k;
          if (!sees(in, i, j)) continue;
          const T* q = qkv + (size_t)i * stride + head * D;
          const T* keys = qkv + (size_t)j * stride + hidden + head * D;
          const T* up = dy + (size_t)i * hidden + head * D;
          const T* e = segments[i] == segments[j] ? same : other;
          float score = 0.f, dp = 0.f;
#pragma unroll 4
          for (u32 c = 0; c < D; c++) {
            const float x = widen(q[c]);
            score = fmaf(x + widen(w[c]), widen(keys[c]), score);
            score = fmaf(x + widen(u[c]), mine[c], score);
            score = fmaf(x + widen(g[c]), widen(e[c]), score);
            dp = fmaf(widen(up[c]), widen(keys[hidden + c]), dp);
          }
          if constexpr (DROPOUT != 0) {
            dp = (kept(mask, n, (u32)k / 8) >> (u32)k % 8 & 1) != 0 ? dp * mask.scale : 0.f;
          }
          ds += exp2_fast((score * p.scale - lse[stats + n]) * LOG2E) * (dp - sums[2 * all + stats + n]) * p.scale;
        }
        if (!__any_sync(~0u, low < high)) continue;
        gradients[lane] = ds;
        __syncwarp();
        for (u32 k = 0; k < min(TILE, length - i0); k++) {
          const float d = gradients[k];
#pragma unroll
          for (u32 c = 0; c < COLS; c++) {
            const u32 col = lane + 32 * c;
            if (col < D) out[c] = fmaf(d, widen(qkv[(size_t)(first + i0 + k) * stride + head * D + col]) + widen(u[col]), out[c]);
          }
        }
        __syncwarp();
      }
    }
#pragma unroll
    for (u32 c = 0; c < COLS; c++) {
      const float x[1] = {out[c]};
      if (lane + 32 * c < D) put(dr + ((size_t)row * p.heads + head) * D + lane + 32 * c, x, p.add != 0);
    }
  }
}

// The gradients of the biases, first by blocks of 64 tokens: qkv, bounds, bias, parts (2, tokens, heads, D),
// sums (3, heads tokens) -> blocks (tokens / 64, 5, heads D) f32, a thread a column. Grid: (heads D /
// THREADS, tokens / 64).
ATTENTION relative_attention_sum_rows(const T* __restrict__ qkv, const u32* __restrict__ bounds, const T* __restrict__ bias,
                                      const float* __restrict__ parts, const float* __restrict__ sums, float* __restrict__ blocks,
                                      Relative p) {
  if constexpr (PASS == 1) {
    const u32 hidden = p.heads * D, c = blockIdx.x * THREADS + threadIdx.x, head = c / D;
    if (c >= hidden) return;
    const u32 begin = blockIdx.y * 64, end = min(begin + 64, p.tokens);
    const size_t all = (size_t)p.tokens * p.heads;
    // The sequence of the first token; then along with the tokens.
    u32 s = sequence_of(bounds, p.seqs, begin);
    const float g = widen(bias[2 * hidden + c]), same = widen(bias[3 * hidden + c]), other = widen(bias[4 * hidden + c]);
    float total[5] = {};
    for (u32 t = begin; t < end; t++) {
      while (bounds[s + 1] <= t) s++;
      const u32 first = bounds[s], length = bounds[s + 1] - first;
      const size_t at = (size_t)first * p.heads + (size_t)head * length + t - first, n = (size_t)t * hidden + c;
      const float x = sums[at], y = sums[all + at], q = widen(qkv[(size_t)t * 3 * hidden + c]) + g;
      total[0] += parts[n];
      total[1] += parts[(size_t)p.tokens * hidden + n];
      total[2] += fmaf(x, same, y * other);
      total[3] = fmaf(x, q, total[3]);
      total[4] = fmaf(y, q, total[4]);
    }
#pragma unroll
    for (u32 which = 0; which < 5; which++) blocks[((size_t)blockIdx.y * 5 + which) * hidden + c] = total[which];
  }
}
// blocks (tokens / 64, 5 heads D) f32 -> dbias (5, heads D). Grid: (5 heads D / THREADS).
ATTENTION relative_attention_sum_blocks(const float* __restrict__ blocks, P* __restrict__ dbias, Relative p) {
  if constexpr (PASS == 1) {
    const u32 n = blockIdx.x * THREADS + threadIdx.x, cols = 5 * p.heads * D;
    if (n >= cols) return;
    float total[1] = {};
    for (u32 b = 0; b < ceil_div(p.tokens, 64); b++) total[0] += blocks[(size_t)b * cols + n];
    put(dbias + n, total, p.add != 0);
  }
}
