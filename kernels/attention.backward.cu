// The backward pass; stands behind attention.cu, whose constants it needs, and G (type of the gradient),
// STAGES, LIMIT. PASS 1: attention_backward, where one block has a whole sequence of at most LIMIT tokens; 2:
// attention_backward_q and then attention_backward_kv, for sequences longer than that. The tokens that go by
// are in STAGES buffers.
//
// With P the probabilities, m the mask, D = rowsum(do o): dV = (P m)^T do; dS = P (m (do V^T) - D); dQ =
// scale dS K; dK = scale dS^T Q.

// A warp has sixteen keys, not queries: dK and dV of a key are sums over queries, so they stay in the warp's
// registers, and no two warps add to the same sum. Only dQ, a sum over keys, crosses warps. That is why dS
// goes through shared memory, or why, for long sequences, another kernel computes the scores again: with
// atomics the order of the sums would change from run to run.

constexpr u32 DS_ROW = TILE + 8;
DEVICE u32 long_tiles(u32 length) { return length > LIMIT ? own_tiles(length) : 0; }

// sums[r] = do_r o_r for `count` rows of one head, of which `rows` exist; the rest becomes 0. By the block or
// a warp.
template <u32 BY = THREADS> DEVICE void rowsums(float* sums, const T* dy, const T* o, u32 stride, u32 rows, u32 count) {
  constexpr u32 N = D % 8 == 0 ? 8 : 1, LANES = D > 32 ? 8 : 4;
  const u32 lane = threadIdx.x % LANES;
  for (u32 r0 = 0; r0 < count; r0 += BY / LANES) {
    const u32 row = r0 + threadIdx.x % BY / LANES;
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

// For sums with keys as rows and 8 N queries: of element (j, 2 h + e) it is bit h * 16 + e * 8 of word j.
template <u32 N> DEVICE void queries_kept(u32 (&bits)[N], const Mask& m, u32 query, u32 block) {
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  u32 mine = 0;
  if constexpr (N == 8) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) mine |= kept(m, query + g * 8 + 2 * t + i % 2, block + i / 2) << 8 * i;
  } else if constexpr (N == 4) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) mine |= kept(m, query + g % 4 * 8 + 2 * t + i, block + g / 4) << 8 * i;
  } else {
    static_assert(N == 2, "16, 32 or 64 queries");
    mine = kept(m, query + lane % 16, block + lane / 16);
    mine |= __shfl_down_sync(~0u, mine, 1) << 8;
  }
#pragma unroll
  for (u32 j = 0; j < N; j++) {
    if constexpr (N == 8) {
      bits[j] = __shfl_sync(~0u, mine, j * 4 + t) >> g;
    } else {
      const u32 from = N == 4 ? j * 4 + t : j * 8 + 2 * t;
      bits[j] = (__shfl_sync(~0u, mine, from) | __shfl_sync(~0u, mine, 16 + from) << 16) >> g;
    }
  }
}

// What 8 N queries do to the gradients of sixteen keys, of which key0 is the first; fs becomes dS. The tiles
// of keys begin at these, `norms` and `sums` (log of the softmax's sum and D) at the queries, which are
// counted from q0.
template <u32 N, class Keep>
DEVICE void keys_step(float (&dk)[2 * DEPTH][4], float (&dv)[2 * DEPTH][4], u32 (&fs)[N / 2][4], const T* tile_k,
                      const T* tile_v, const T* tile_q, const T* tile_do, const float* norms, const float* sums,
                      const Mask& mask, float scale, u32 q0, u32 key0, u32 length, Keep keep) {
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float s[N][4], dp[N][4];
  scores(s, tile_k, tile_q);
#pragma unroll
  for (u32 j = 0; j < N; j++) {
    const float2 norm = *(const float2*)(norms + 2 * t + j * 8);
#pragma unroll
    for (u32 e = 0; e < 4; e++) s[j][e] = exp2_fast(fmaf(s[j][e], scale, -LOG2E * (e % 2 ? norm.y : norm.x)));
  }
  if (key0 + 16 > length) {  // what is beyond the end has no probability
#pragma unroll
    for (u32 j = 0; j < N; j++)
#pragma unroll
      for (u32 e = 0; e < 4; e++)
        if (key0 + g + e / 2 * 8 >= length) s[j][e] = 0.f;
  }
  if (!all_see(key0, 16, q0, 8 * N)) {
#pragma unroll
    for (u32 j = 0; j < N; j++)
#pragma unroll
      for (u32 e = 0; e < 4; e++)
        if (!sees(key0 + g + e / 2 * 8, q0 + j * 8 + 2 * t + e % 2)) s[j][e] = 0.f;
  }
  u32 bits[N] = {};
  if constexpr (DROPOUT != 0) queries_kept(bits, mask, q0, key0 / 8);
  auto keeps = [&](u32 j, u32 e) { return DROPOUT == 0 || (bits[j] >> (e / 2 * 16 + e % 2 * 8) & 1) != 0; };
#pragma unroll
  for (u32 j = 0; j < N; j++)
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
      const float low = keeps(j, 2 * h) ? s[j][2 * h] : 0.f, high = keeps(j, 2 * h + 1) ? s[j][2 * h + 1] : 0.f;
      fs[j / 2][j % 2 * 2 + h] = narrow2<T>(low, high);
    }
  accumulate(dv, fs, tile_do);
  scores(dp, tile_v, tile_do);
#pragma unroll
  for (u32 j = 0; j < N; j++) {
    const float2 sum = *(const float2*)(sums + 2 * t + j * 8);
#pragma unroll
    for (u32 e = 0; e < 4; e++) {
      const float through = keeps(j, e) ? dp[j][e] * mask.scale : 0.f;
      s[j][e] *= through - (e % 2 ? sum.y : sum.x);
    }
  }
  narrow_sums(fs, s);
  keep(fs);
  accumulate(dk, fs, tile_q);
}
// Leaves dS of sixteen keys (16 N queries) in shared memory.
template <u32 N> DEVICE void leave(T* tile_ds, const u32 (&fs)[N][4]) {
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (u32 j = 0; j < 2 * N; j++)
#pragma unroll
    for (u32 h = 0; h < 2; h++) *(u32*)(tile_ds + (g + 8 * h) * DS_ROW + j * 8 + 2 * t) = fs[j / 2][j % 2 * 2 + h];
}
// Adds to dQ of sixteen queries what sixteen keys give, in columns 16 n to 16 COLS.
template <u32 COLS> DEVICE void queries_step(float (&sum)[2 * COLS][4], const T* tile_ds, const T* tile_k, u32 part) {
  const u32 lane = threadIdx.x % 32;
  u32 fs[4], fk[4];
  load_matrices_transposed(fs, tile_ds + (lane / 16 * 8 + lane % 8) * DS_ROW + lane / 8 % 2 * 8);
#pragma unroll
  for (u32 n = 0; n < COLS; n++)
    if (DEPTH % COLS == 0 || part + n < DEPTH) {
      load_matrices_transposed(fk, tile_k + lane % 16 * ROW + (part + n) * 16 + lane / 16 * 8);
      multiply_add<T>(sum[2 * n], fs, fk[0], fk[1]);
      multiply_add<T>(sum[2 * n + 1], fs, fk[2], fk[3]);
    }
}

// Sequences of SPAN warps at most. Shared: 4 OWN ROW elements, OWN DS_ROW; f32: 2 OWN.
template <u32 SPAN>
DEVICE void backward_short(const T* qkv, const u32* key, const T* o, const float* lse, const T* dy, G* dqkv, const Params& p,
                           const Place& at) {
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, hidden = p.heads * D, stride = 3 * hidden;
  // The warp has sixteen tokens, as queries and as keys.
  const u32 mine = warp % SPAN * 16, rows = at.length > mine ? at.length - mine : 0, begin = warp * 16 - mine;
  T* tile_k = (T*)shared;
  T* tile_v = tile_k + OWN * ROW;
  T* tile_q = tile_v + OWN * ROW;
  T* tile_do = tile_q + OWN * ROW;
  T* tile_ds = tile_do + OWN * ROW;
  float* held_lse = (float*)(tile_ds + OWN * DS_ROW);
  float* held_delta = held_lse + OWN;
  const size_t token = at.first + (rows > 0 ? mine : 0), to = warp * 16 * ROW;
  const T* q = qkv + token * stride + head * D;
  fetch<16, 32>(tile_k + to, q + hidden, stride, rows);
  fetch<16, 32>(tile_v + to, q + 2 * hidden, stride, rows);
  fetch<16, 32>(tile_q + to, q, stride, rows);
  fetch<16, 32>(tile_do + to, dy + token * hidden + head * D, hidden, rows);
  copies_commit();
  if (lane < 16) {
    const size_t stats = (size_t)at.first * p.heads + (size_t)head * at.length + mine + lane;
    held_lse[warp * 16 + lane] = lane < rows ? lse[stats] : 0.f;
  }
  rowsums<32>(held_delta + warp * 16, dy + token * hidden + head * D, o + token * hidden + head * D, hidden, rows, 16);
  copies_wait<0>();
  SPAN == 1 ? __syncwarp() : __syncthreads();  // all have landed
  // From here on the sequence's.
  tile_k += begin * ROW, tile_q += begin * ROW, tile_do += begin * ROW;
  const Mask mask = mask_of(p.drop, key, head, at.first);
  G* dq = dqkv + token * stride + head * D;
  if (rows > 0) {
    float dk[2 * DEPTH][4] = {}, dv[2 * DEPTH][4] = {};
    u32 fs[SPAN][4];
    keys_step<2 * SPAN>(dk, dv, fs, tile_k + mine * ROW, tile_v + to, tile_q, tile_do, held_lse + begin, held_delta + begin,
                        mask, p.scale * LOG2E, 0, mine, at.length,
                        [&](const u32(&fs)[SPAN][4]) { leave(tile_ds + warp * 16 * DS_ROW, fs); });
    write(dq + hidden, stride, rows, 0, dk, p.scale, p.scale, p.add != 0);
    write(dq + 2 * hidden, stride, rows, 0, dv, mask.scale, mask.scale, p.add != 0);
  }
  SPAN == 1 ? __syncwarp() : __syncthreads();  // dS is complete
  if (rows == 0) return;
  float sum[2 * DEPTH][4] = {};
#pragma unroll
  for (u32 k = 0; k < SPAN; k++)
    if (k * 16 < at.length) queries_step<DEPTH>(sum, tile_ds + (begin + k * 16) * DS_ROW + mine, tile_k + k * 16 * ROW, 0);
  write(dq, stride, rows, 0, sum, p.scale, p.scale, p.add != 0);
}

// dK and dV of OWN keys, queries going by; and dQ, if the block has the WHOLE sequence, its keys OWN at a
// time: then dQ of more than OWN keys is added up in shared memory, where each lane finds its own fragments
// again. Shared: 2 OWN ROW elements of K and V, OWN DS_ROW of dS (if WHOLE), STAGES 2 TILE ROW of q and do;
// f32: lse and D of the queries (WHOLE: LIMIT rounded up to tiles, twice; else STAGES 2 TILE); if LIMIT >
// OWN, as many rows of DP for dQ.
template <bool WHOLE>
DEVICE void keys_backward(const T* qkv, const u32* key, const T* o, const float* lse, const T* dy, G* dqkv,
                          const float* delta, const Params& p, u32 first, u32 length, u32 begin) {
  constexpr u32 QUERIES = WHOLE ? (LIMIT + TILE - 1) / TILE * TILE : STAGES * TILE;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y;
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
  float* held_delta = held_lse + QUERIES;
  float4* held_dq = (float4*)(held_delta + QUERIES);

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
  for (u32 k0 = begin; k0 < (WHOLE ? length : begin + 1); k0 += OWN) {
    // The tiles of queries that see these keys.
    const u32 from = seen_from(k0, TILE) / TILE, tiles = ceil_div(seen_upto(k0 + OWN, length), TILE);
    if (k0 != begin) __syncthreads();  // keys are used up
    fetch<OWN>(tile_k, q + hidden + (size_t)k0 * stride, stride, length - k0);
    fetch<OWN>(tile_v, q + 2 * hidden + (size_t)k0 * stride, stride, length - k0);
    fetch_queries(from);
    if (WHOLE && k0 == 0) {
      const u32 all = ceil_div(length, TILE) * TILE;
      rowsums(held_delta, dout, o + (size_t)first * hidden + head * D, hidden, length, all);
      for (u32 i = threadIdx.x; i < all; i += THREADS) held_lse[i] = i < length ? lse[stats + i] : 0.f;
    }
    copies_wait<0>();
    __syncthreads();  // all have landed
    const u32 mine = k0 + warp * 16;
    const bool busy = mine < length;
    float dk[2 * DEPTH][4] = {}, dv[2 * DEPTH][4] = {};
    for (u32 i = from; i < tiles; i++) {
      if (i > from) {
        copies_wait<0>();
        __syncthreads();  // queries have landed, dS is used up
      }
      if (STAGES > 1 && i + 1 < tiles) fetch_queries(i + 1);
      const u32 stage = STAGES == 1 ? 0 : i % STAGES, q0 = i * TILE;
      if (busy) {
        const T* tile_q = tiles_q + stage * TILE * ROW;
        const T* tile_do = tiles_do + stage * TILE * ROW;
        const u32 held = WHOLE ? q0 : stage * TILE;
        u32 fs[TILE / 16][4];
        keys_step<TILE / 8>(dk, dv, fs, tile_k + warp * 16 * ROW, tile_v + warp * 16 * ROW, tile_q, tile_do, held_lse + held,
                            held_delta + held, mask, p.scale * LOG2E, q0, mine, length, [&](const u32(&fs)[TILE / 16][4]) {
                              if constexpr (WHOLE) leave(tile_ds + warp * 16 * DS_ROW, fs);
                            });
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
          // Unless these keys are the first, or the last, that a query of the tile sees.
          if (k0 > 0 && q0 < seen_upto(k0, length)) {
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
              queries_step<COLS>(sum, tile_ds + k * 16 * DS_ROW + (row - q0), tile_k + k * 16 * ROW, part);
            }
          if (k0 + OWN >= length || q0 < seen_from(k0 + OWN, TILE)) {
            write(dq + (size_t)row * stride, stride, length - row, part * 16, sum, p.scale, p.scale, p.add != 0);
          } else {
#pragma unroll
            for (u32 n = 0; n < 2 * COLS; n++)
              if (DEPTH % COLS == 0 || part + n / 2 < DEPTH) {
                store_shared(place + n * 32, sum[n]);
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

// Sequences of at most LIMIT tokens; grid: (seqs, heads), or enough blocks if they share them.
ATTENTION attention_backward(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ key,
                          const T* __restrict__ o, const float* __restrict__ lse, const T* __restrict__ dy,
                          G* __restrict__ dqkv, Params p) {
  if constexpr (PASS == 1) {
    if constexpr (SHARE != 0) {
      const Place at = place_shared<16>(bounds, p.seqs, blockIdx.x, [](u32 length) { return length <= LIMIT ? 1u : 0u; });
      if (at.span == 1) return backward_short<1>(qkv, key, o, lse, dy, dqkv, p, at);
      if (at.span == 2) return backward_short<2>(qkv, key, o, lse, dy, dqkv, p, at);
      if (at.length == 0) return;
      keys_backward<true>(qkv, key, o, lse, dy, dqkv, nullptr, p, at.first, at.length, 0);
    } else {
      const u32 first = bounds[blockIdx.x], length = bounds[blockIdx.x + 1] - first;
      if (length == 0 || length > LIMIT) return;
      keys_backward<true>(qkv, key, o, lse, dy, dqkv, nullptr, p, first, length, 0);
    }
  }
}

// Longer ones: keys. Grid: (tokens / OWN + seqs, heads). delta (heads tokens), from attention_backward_q.
ATTENTION attention_backward_kv(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ key,
                             const T* __restrict__ o, const float* __restrict__ lse, const T* __restrict__ dy,
                             G* __restrict__ dqkv, const float* __restrict__ delta, Params p) {
  if constexpr (PASS == 2) {
    const Place at = place(bounds, p.seqs, blockIdx.x, long_tiles);
    if (at.length == 0) return;
    keys_backward<false>(qkv, key, o, lse, dy, dqkv, delta, p, at.first, at.length, at.tile * OWN);
  }
}

// Longer ones: queries, keys and values going by. Writes delta = rowsum(do o) as well. The same grid.
// Shared: (2 OWN + STAGES 2 TILE) ROW elements, OWN f32.
ATTENTION attention_backward_q(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ key,
                            const T* __restrict__ o, const float* __restrict__ lse, const T* __restrict__ dy,
                            G* __restrict__ dqkv, float* __restrict__ delta, Params p) {
  if constexpr (PASS == 2) {
    const Place at = place(bounds, p.seqs, blockIdx.x, long_tiles);
    if (at.length == 0) return;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4, head = blockIdx.y;
    const u32 hidden = p.heads * D, stride = 3 * hidden, length = at.length, begin = at.tile * OWN;
    const u32 query = begin + warp * 16;
    const bool busy = query < length;
    const T* q = qkv + (size_t)at.first * stride + head * D;
    const size_t from = (size_t)(at.first + begin) * hidden + head * D;
    const size_t stats = (size_t)at.first * p.heads + (size_t)head * length + begin;
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
    fetch<OWN>(tile_q, q + (size_t)begin * stride, stride, length - begin);
    fetch<OWN>(tile_do, dy + from, hidden, length - begin);
    const u32 seen = seen_from(begin, TILE) / TILE, tiles = ceil_div(seen_upto(begin + OWN, length), TILE);
    fetch_keys(seen);
    rowsums(held_delta, dy + from, o + from, hidden, length - begin, OWN);
    const Mask mask = mask_of(p.drop, key, head, at.first);
    const float scale = p.scale * LOG2E;
    float dq[2 * DEPTH][4] = {}, norm[2], sums[2];
    // The block's operands: in registers where there is room.
    constexpr bool HOLD = DEPTH <= 4;
    u32 fq[DEPTH][4], fdo[DEPTH][4];
    for (u32 i = seen; i < tiles; i++) {
      copies_wait<0>();
      __syncthreads();  // keys have landed
      if (STAGES > 1 && i + 1 < tiles) fetch_keys(i + 1);
      const u32 stage = STAGES == 1 ? 0 : i % STAGES, k0 = i * TILE;
      if (i == seen) {
        if constexpr (HOLD) rows_operand(fq, tile_q + warp * 16 * ROW), rows_operand(fdo, tile_do + warp * 16 * ROW);
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
          const u32 row = warp * 16 + g + 8 * h;
          const bool in = begin + row < length;
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
        hide(s, query, k0, 0.f);
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
