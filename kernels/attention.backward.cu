// The backward pass; stands behind attention.cu, whose constants it needs, and G (type of the gradient), STAGES, LIMIT.
// PASS 1: attention_backward, where one block has a whole sequence of at most LIMIT tokens; 2: attention_backward_q and then
// attention_backward_kv, for sequences longer than that. The tokens that go by are in STAGES buffers.
//
// With P the probabilities, m the mask, D = rowsum(do o): dV = (P m)^T do; dS = P (m (do V^T) - D); dQ = scale dS K;
// dK = scale dS^T Q.

constexpr u32 DS_ROW = TILE + 8;

// sums[r] = do_r o_r for `count` rows of one head, of which `rows` exist; the rest becomes 0.
DEVICE void rowsums(float* sums, const T* dy, const T* o, u32 stride, u32 rows, u32 count) {
  constexpr u32 N = D % 8 == 0 ? 8 : 1, LANES = D > 32 ? 8 : 4;
  const u32 lane = threadIdx.x % LANES;
  for (u32 r0 = 0; r0 < count; r0 += THREADS / LANES) {
    const u32 row = r0 + threadIdx.x / LANES;
    float sum = 0.f;
    if (row < rows) {
#pragma unroll
      for (u32 c = lane * N; c < D; c += LANES * N) {
        float a[N], b[N];
        load(a, dy + (size_t)row * stride + c);
        load(b, o + (size_t)row * stride + c);
#pragma unroll
        for (u32 i = 0; i < N; i++) sum = fmaf(a[i], b[i], sum);
      }
    }
#pragma unroll
    for (u32 d = LANES / 2; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0 && row < count) sums[row] = sum;
  }
}

// For sums with keys as rows: of element (j, 2 h + e) it is bit h * 16 + e * 8 of word j.
DEVICE void queries_kept(u32 (&bits)[TILE / 8], const Mask& m, u32 query, u32 block) {
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  u32 mine = 0;
  if constexpr (TILE == 64) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) mine |= kept(m, query + g * 8 + 2 * t + i % 2, block + i / 2) << 8 * i;
  } else {
#pragma unroll
    for (u32 i = 0; i < 2; i++) mine |= kept(m, query + g % 4 * 8 + 2 * t + i, block + g / 4) << 8 * i;
  }
#pragma unroll
  for (u32 j = 0; j < TILE / 8; j++) {
    if constexpr (TILE == 64) {
      bits[j] = __shfl_sync(~0u, mine, j * 4 + t) >> g;
    } else {
      bits[j] = (__shfl_sync(~0u, mine, j * 4 + t) | __shfl_sync(~0u, mine, 16 + j * 4 + t) << 16) >> g;
    }
  }
}

// dK and dV of OWN keys, queries going by; and dQ, if the block has the WHOLE sequence, its keys OWN at a time: then dQ of
// more than OWN keys is added up in shared memory, where each lane finds its own fragments again.
// Shared: 2 OWN ROW elements of K and V, OWN DS_ROW of dS (if WHOLE), STAGES 2 TILE ROW of q and do; f32: lse and D of the
// queries (WHOLE: LIMIT rounded up to tiles, twice; else STAGES 2 TILE); if LIMIT > OWN, as many rows of DP for dQ.
template <bool WHOLE>
DEVICE void keys_backward(const T* qkv, const u32* key, const T* o, const float* lse, const T* dy, G* dqkv,
                          const float* delta, const Params& p, u32 first, u32 length, u32 begin) {
  constexpr u32 HELD = WHOLE ? (LIMIT + TILE - 1) / TILE * TILE : STAGES * TILE;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, head = blockIdx.y;
  const u32 hidden = p.heads * D, stride = 3 * hidden;
  const T* q = qkv + (size_t)first * stride + head * D;
  const T* dout = dy + (size_t)first * hidden + head * D;
  G* dq = dqkv + (size_t)first * stride + head * D;
  const size_t stats = (size_t)first * p.heads + (size_t)head * length;
  T* tile_k = (T*)shared;
  T* tile_v = tile_k + OWN * ROW;
  T* tile_ds = tile_v + OWN * ROW;
  T* tiles_q = tile_ds + (WHOLE ? OWN * DS_ROW : 0);
  T* tiles_do = tiles_q + STAGES * TILE * ROW;
  float* held_lse = (float*)(tiles_do + STAGES * TILE * ROW);
  float* held_delta = held_lse + HELD;
  float4* held_dq = (float4*)(held_delta + HELD);

  auto fetch_queries = [&](u32 tile) {
    const u32 stage = STAGES == 1 ? 0 : tile % STAGES, q0 = tile * TILE;
    fetch<TILE>(tiles_q + stage * TILE * ROW, q + (size_t)q0 * stride, stride, length - q0);
    fetch<TILE>(tiles_do + stage * TILE * ROW, dout + (size_t)q0 * hidden, hidden, length - q0);
    if (!WHOLE && threadIdx.x < TILE) {
      const bool in = q0 + threadIdx.x < length;
      const size_t at = stats + q0 + (in ? threadIdx.x : 0);
      copy4(held_lse + stage * TILE + threadIdx.x, lse + at, in ? 4 : 0);
      copy4(held_delta + stage * TILE + threadIdx.x, delta + at, in ? 4 : 0);
    }
    copies_commit();
  };

  const Mask mask = mask_of(p.drop, key, head, first);
  const float scale = p.scale * LOG2E;
  const u32 tiles = ceil_div(length, TILE);
  for (u32 k0 = begin; k0 < (WHOLE ? length : begin + 1); k0 += OWN) {
    if (k0 != begin) __syncthreads();  // keys are used up
    fetch<OWN>(tile_k, q + hidden + (size_t)k0 * stride, stride, length - k0);
    fetch<OWN>(tile_v, q + 2 * hidden + (size_t)k0 * stride, stride, length - k0);
    fetch_queries(0);
    if (WHOLE && k0 == 0) {
      rowsums(held_delta, dout, o + (size_t)first * hidden + head * D, hidden, length, tiles * TILE);
      for (u32 i = threadIdx.x; i < tiles * TILE; i += THREADS) held_lse[i] = i < length ? lse[stats + i] : 0.f;
    }
    copies_wait<0>();
    __syncthreads();  // all have landed
    const u32 mine = k0 + warp * 16;
    const bool busy = mine < length;
    float dk[2 * DEPTH][4] = {}, dv[2 * DEPTH][4] = {};
    for (u32 i = 0; i < tiles; i++) {
      if (i > 0) {
        copies_wait<0>();
        __syncthreads();  // queries have landed, dS is used up
      }
      if (STAGES > 1 && i + 1 < tiles) fetch_queries(i + 1);
      const u32 stage = STAGES == 1 ? 0 : i % STAGES, q0 = i * TILE;
      if (busy) {
        const T* tile_q = tiles_q + stage * TILE * ROW;
        const T* tile_do = tiles_do + stage * TILE * ROW;
        float s[TILE / 8][4], dp[TILE / 8][4];
        scores(s, (const T*)tile_k + warp * 16 * ROW, tile_q);
        const u32 held = (WHOLE ? q0 : stage * TILE) + 2 * t;
#pragma unroll
        for (u32 j = 0; j < TILE / 8; j++) {
          const float2 norm = *(const float2*)(held_lse + held + j * 8);
#pragma unroll
          for (u32 e = 0; e < 4; e++) s[j][e] = exp2_fast(fmaf(s[j][e], scale, -LOG2E * (e % 2 ? norm.y : norm.x)));
        }
        if (mine + 16 > length) {  // what is beyond the end has no probability
#pragma unroll
          for (u32 j = 0; j < TILE / 8; j++)
#pragma unroll
            for (u32 e = 0; e < 4; e++)
              if (mine + g + e / 2 * 8 >= length) s[j][e] = 0.f;
        }
        u32 bits[TILE / 8] = {}, fp[TILE / 16][4];
        if constexpr (DROPOUT != 0) queries_kept(bits, mask, q0, mine / 8);
        auto keeps = [&](u32 j, u32 e) { return DROPOUT == 0 || (bits[j] >> (e / 2 * 16 + e % 2 * 8) & 1) != 0; };
#pragma unroll
        for (u32 j = 0; j < TILE / 8; j++)
#pragma unroll
          for (u32 h = 0; h < 2; h++) {
            const float low = keeps(j, 2 * h) ? s[j][2 * h] : 0.f, high = keeps(j, 2 * h + 1) ? s[j][2 * h + 1] : 0.f;
            fp[j / 2][j % 2 * 2 + h] = narrow2<T>(low, high);
          }
        accumulate(dv, fp, tile_do);
        scores(dp, (const T*)tile_v + warp * 16 * ROW, tile_do);
#pragma unroll
        for (u32 j = 0; j < TILE / 8; j++) {
          const float2 sum = *(const float2*)(held_delta + held + j * 8);
#pragma unroll
          for (u32 e = 0; e < 4; e++) {
            const float through = keeps(j, e) ? dp[j][e] * mask.scale : 0.f;
            s[j][e] *= through - (e % 2 ? sum.y : sum.x);
          }
        }
        narrow_sums(fp, s);
        if constexpr (WHOLE) {  // (keys, queries)
#pragma unroll
          for (u32 j = 0; j < TILE / 8; j++)
#pragma unroll
            for (u32 h = 0; h < 2; h++)
              *(u32*)(tile_ds + (warp * 16 + g + 8 * h) * DS_ROW + j * 8 + 2 * t) = fp[j / 2][j % 2 * 2 + h];
        }
        accumulate(dk, fp, tile_q);
      }
      if (WHOLE || STAGES == 1) __syncthreads();  // dS is complete, queries are used up
      if (STAGES == 1 && i + 1 < tiles) fetch_queries(i + 1);
      if constexpr (WHOLE) {
        // Sixteen queries and COLS times sixteen columns a warp.
        constexpr u32 SPLIT = WARPS / (TILE / 16), COLS = (DEPTH + SPLIT - 1) / SPLIT;
        static_assert(SPLIT > 0, "a warp has sixteen queries at most");
        const u32 row = q0 + warp % (TILE / 16) * 16, part = warp / (TILE / 16) * COLS;
        if (row < length && part < DEPTH) {
          float sum[2 * COLS][4] = {};
          float4* place = held_dq + (row / 16 * 2 * DEPTH + 2 * part) * 32 + lane;
          if (k0 > 0) {
#pragma unroll
            for (u32 n = 0; n < 2 * COLS; n++)
              if (DEPTH % COLS == 0 || part + n / 2 < DEPTH) {
                const float4 v = place[n * 32];
                sum[n][0] = v.x, sum[n][1] = v.y, sum[n][2] = v.z, sum[n][3] = v.w;
              }
          }
#pragma unroll
          for (u32 k = 0; k < WARPS; k++)
            if (k0 + k * 16 < length) {
              u32 fs[4], fk[4];
              const T* ds = tile_ds + (k * 16 + lane / 16 * 8 + lane % 8) * DS_ROW + (row - q0) + lane / 8 % 2 * 8;
              load_matrices_transposed(fs, ds);
#pragma unroll
              for (u32 n = 0; n < COLS; n++)
                if (DEPTH % COLS == 0 || part + n < DEPTH) {
                  load_matrices_transposed(fk, tile_k + (k * 16 + lane % 16) * ROW + (part + n) * 16 + lane / 16 * 8);
                  multiply_add<T>(sum[2 * n], fs, fk[0], fk[1]);
                  multiply_add<T>(sum[2 * n + 1], fs, fk[2], fk[3]);
                }
            }
          if (k0 + OWN >= length) {
            write(dq + (size_t)row * stride, stride, length - row, part * 16, sum, p.scale, p.scale, p.add != 0);
          } else {
#pragma unroll
            for (u32 n = 0; n < 2 * COLS; n++)
              if (DEPTH % COLS == 0 || part + n / 2 < DEPTH) {
                place[n * 32] = make_float4(sum[n][0], sum[n][1], sum[n][2], sum[n][3]);
              }
          }
        }
      }
    }
    if (busy) {
      G* to = dq + hidden + (size_t)mine * stride;
      write(to, stride, length - mine, 0, dk, p.scale, p.scale, p.add != 0);
      write(to + hidden, stride, length - mine, 0, dv, mask.scale, mask.scale, p.add != 0);
    }
  }
}

// Sequences of at most LIMIT tokens; grid: (seqs, heads).
ATTENTION attention_backward(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ key,
                          const T* __restrict__ o, const float* __restrict__ lse, const T* __restrict__ dy,
                          G* __restrict__ dqkv, Params p) {
  if constexpr (PASS == 1) {
    const u32 first = bounds[blockIdx.x], length = bounds[blockIdx.x + 1] - first;
    if (length == 0 || length > LIMIT) return;
    keys_backward<true>(qkv, key, o, lse, dy, dqkv, nullptr, p, first, length, 0);
  }
}

// Longer ones: keys. Grid: (tokens / OWN + seqs, heads). delta (heads tokens), from attention_backward_q.
ATTENTION attention_backward_kv(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ key,
                             const T* __restrict__ o, const float* __restrict__ lse, const T* __restrict__ dy,
                             G* __restrict__ dqkv, const float* __restrict__ delta, Params p) {
  if constexpr (PASS == 2) {
    const Place at = place<OWN>(bounds, p.seqs, LIMIT, blockIdx.x);
    if (at.length == 0) return;
    keys_backward<false>(qkv, key, o, lse, dy, dqkv, delta, p, at.first, at.length, at.begin);
  }
}

// Longer ones: queries, keys and values going by. Writes delta = rowsum(do o) as well. The same grid.
// Shared: (2 OWN + STAGES 2 TILE) ROW elements, OWN f32.
ATTENTION attention_backward_q(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ key,
                            const T* __restrict__ o, const float* __restrict__ lse, const T* __restrict__ dy,
                            G* __restrict__ dqkv, float* __restrict__ delta, Params p) {
  if constexpr (PASS == 2) {
    const Place at = place<OWN>(bounds, p.seqs, LIMIT, blockIdx.x);
    if (at.length == 0) return;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, head = blockIdx.y;
    const u32 hidden = p.heads * D, stride = 3 * hidden, length = at.length, query = at.begin + warp * 16;
    const bool busy = query < length;
    const T* q = qkv + (size_t)at.first * stride + head * D;
    const size_t from = (size_t)(at.first + at.begin) * hidden + head * D;
    const size_t stats = (size_t)at.first * p.heads + (size_t)head * length + at.begin;
    T* tile_q = (T*)shared;
    T* tile_do = tile_q + OWN * ROW;
    T* tiles_k = tile_do + OWN * ROW;
    T* tiles_v = tiles_k + STAGES * TILE * ROW;
    float* held_delta = (float*)(tiles_v + STAGES * TILE * ROW);
    auto fetch_keys = [&](u32 tile) {
      const u32 stage = STAGES == 1 ? 0 : tile % STAGES, k0 = tile * TILE;
      fetch<TILE>(tiles_k + stage * TILE * ROW, q + hidden + (size_t)k0 * stride, stride, length - k0);
      fetch<TILE>(tiles_v + stage * TILE * ROW, q + 2 * hidden + (size_t)k0 * stride, stride, length - k0);
      copies_commit();
    };
    fetch<OWN>(tile_q, q + (size_t)at.begin * stride, stride, length - at.begin);
    fetch<OWN>(tile_do, dy + from, hidden, length - at.begin);
    fetch_keys(0);
    rowsums(held_delta, dy + from, o + from, hidden, length - at.begin, OWN);
    const Mask mask = mask_of(p.drop, key, head, at.first);
    const float scale = p.scale * LOG2E;
    const u32 tiles = ceil_div(length, TILE);
    float dq[2 * DEPTH][4] = {}, norm[2], sums[2];
    // The block's operands: in registers where there is room.
    constexpr bool HOLD = DEPTH <= 4;
    u32 fq[DEPTH][4], fdo[DEPTH][4];
    for (u32 i = 0; i < tiles; i++) {
      copies_wait<0>();
      __syncthreads();  // keys have landed
      if (STAGES > 1 && i + 1 < tiles) fetch_keys(i + 1);
      const u32 stage = STAGES == 1 ? 0 : i % STAGES, k0 = i * TILE;
      if (i == 0) {
        if constexpr (HOLD) rows_operand(fq, tile_q + warp * 16 * ROW), rows_operand(fdo, tile_do + warp * 16 * ROW);
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
          const u32 row = warp * 16 + g + 8 * h;
          const bool in = at.begin + row < length;
          norm[h] = in ? LOG2E * lse[stats + row] : 0.f;
          sums[h] = held_delta[row];
          if (in && t == 0) delta[stats + row] = sums[h];
        }
      }
      if (busy) {
        float s[TILE / 8][4], dp[TILE / 8][4];
        if constexpr (HOLD) {
          scores(s, fq, tiles_k + stage * TILE * ROW);
          scores(dp, fdo, tiles_v + stage * TILE * ROW);
        } else {
          scores(s, (const T*)tile_q + warp * 16 * ROW, tiles_k + stage * TILE * ROW);
          scores(dp, (const T*)tile_do + warp * 16 * ROW, tiles_v + stage * TILE * ROW);
        }
        u32 bits[TILE / 16] = {}, fs[TILE / 16][4];
        if constexpr (DROPOUT != 0) keys_kept(bits, mask, query, k0 / 8);
#pragma unroll
        for (u32 j = 0; j < TILE / 8; j++)
#pragma unroll
          for (u32 e = 0; e < 4; e++) {
            const bool keeps = DROPOUT == 0 || (bits[j / 2] >> (j % 2 * 16 + e / 2 * 8 + e % 2) & 1) != 0;
            const float through = keeps ? dp[j][e] * mask.scale : 0.f;
            s[j][e] = exp2_fast(fmaf(s[j][e], scale, -norm[e / 2])) * (through - sums[e / 2]);
          }
        if (k0 + TILE > length) {
#pragma unroll
          for (u32 j = 0; j < TILE / 8; j++)
#pragma unroll
            for (u32 e = 0; e < 4; e++)
              if (k0 + j * 8 + 2 * t + e % 2 >= length) s[j][e] = 0.f;
        }
        narrow_sums(fs, s);
        accumulate(dq, fs, tiles_k + stage * TILE * ROW);
      }
      if (STAGES == 1) {
        __syncthreads();  // keys are used up
        if (i + 1 < tiles) fetch_keys(i + 1);
      }
    }
    if (!busy) return;
    write(dqkv + (size_t)(at.first + query) * stride + head * D, stride, length - query, 0, dq, p.scale, p.scale, p.add != 0);
  }
}
