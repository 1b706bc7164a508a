// o = drop(softmax(scale q k^T)) v over packed sequences: see src/ops/attention. For 16-bit elements, on
// tensor cores. Stands behind attention.common.cu. Constants: those, T, TILE, SHARE (1: short sequences share
// blocks), PASS (0 here; the backward pass uses this file with others).
//
// A block owns OWN tokens (queries, or keys), sixteen a warp; the tokens of the other side go by, TILE at a
// time. Fragments of one product are operands of the next without going through shared memory, except dS for
// dQ.
//
// Where sequences are short, a block has several: a warp has sixteen tokens of one and looks at no other, so
// that neighbours cannot matter. To the bit it is what a block of its own finds, which adds only zeros to it.

constexpr u32 OWN = 16 * WARPS;
constexpr u32 DEPTH = (D + 15) / 16, DP = 16 * DEPTH;  // sixteenths of a row, padded with zeros
constexpr u32 ROW = DP + 8;                            // rows of a tile in shared memory: no bank is met twice
constexpr u32 UNROLL = DEPTH > 4 ? 1 : 16;             // of what would take registers for addresses

DEVICE u32 own_tiles(u32 length) { return ceil_div(length, OWN); }

static_assert(TILE == 32 || TILE == 64, "the mask's words are shared for these");

// ---- Tiles in shared memory.

// ROWS rows of one head, of which `rows` exist; from's rows are `stride` apart. What does not exist
// becomes 0. BY threads do it, those of the block or of a warp (32).
template <u32 ROWS, u32 BY = THREADS> DEVICE void fetch(T* to, const T* from, u32 stride, u32 rows) {
  const u32 thread = BY == THREADS ? threadIdx.x : lane_unknown();
  if constexpr (D % 8 == 0) {
    constexpr u32 CHUNKS = DP / 8, COUNT = ROWS * CHUNKS;
#pragma unroll UNROLL
    for (u32 i = 0; i < ceil_div(COUNT, BY); i++) {
      const u32 c = thread + i * BY;
      if (COUNT % BY != 0 && c >= COUNT) break;
      // Along the rows if eight chunks are whole rows' parts, else down eight rows: no bank is met twice
      // either way.
      const u32 row = CHUNKS % 8 == 0 ? c / CHUNKS : c / (8 * CHUNKS) * 8 + c % 8;
      const u32 chunk = CHUNKS % 8 == 0 ? c % CHUNKS : c / 8 % CHUNKS;
      const bool in = row < rows && chunk * 8 < D;
      copy16(to + row * ROW + chunk * 8, from + (in ? row * stride + chunk * 8 : 0), in ? 16 : 0);
    }
  } else {
    for (u32 i = thread; i < ROWS * DP; i += BY) {
      const u32 row = i / DP, c = i % DP;
      to[row * ROW + c] = row < rows && c < D ? from[row * stride + c] : T{0};
    }
  }
}

// ---- Products. For fragments see multiply_add in the prelude: of sums (16 x 8), lane 4 g + t has rows g and
// g + 8, columns 2 t and 2 t + 1. s[j][e] is the sum of row g + e / 2 * 8 and column 8 j + 2 t + e % 2:
//
//              8j+2t   8j+2t+1
//   row g      s[j][0]  s[j][1]     a row's sums are in the four lanes 4 g to 4 g + 3: its maximum and its total take two
//   row g + 8  s[j][2]  s[j][3]     exchanges between lanes (1 and 2 apart), and no shared memory

// Sixteen rows of a tile as the left operand.
DEVICE void rows_operand(u32 (&a)[DEPTH][4], const T* tile) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (u32 k = 0; k < DEPTH; k++) load_matrices(a[k], tile + lane % 16 * ROW + k * 16 + lane / 16 * 8);
}
template <class A> constexpr bool IN_REGISTERS = false;
template <> constexpr bool IN_REGISTERS<u32[DEPTH][4]> = true;
// s (16, 8 N) = a b^T, where b (8 N, DP) is of a tile and a sixteen rows of one, there or already an operand.
template <u32 N, class A> DEVICE void scores(float (&s)[N][4], const A& a, const T* b) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (u32 j = 0; j < N; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.f;
#pragma unroll IN_REGISTERS<A> ? DEPTH : UNROLL
  for (u32 k = 0; k < DEPTH; k++) {
    u32 fa[4];
    if constexpr (IN_REGISTERS<A>) {
#pragma unroll
      for (u32 i = 0; i < 4; i++) fa[i] = a[k][i];
    } else {
      load_matrices(fa, a + lane % 16 * ROW + k * 16 + lane / 16 * 8);
    }
#pragma unroll
    for (u32 j = 0; j < N / 2; j++) {
      u32 fb[4];
      load_matrices(fb, b + (j * 16 + lane / 16 * 8 + lane % 8) * ROW + k * 16 + lane / 8 % 2 * 8);
      multiply_add<T>(s[2 * j], fa, fb[0], fb[1]);
      multiply_add<T>(s[2 * j + 1], fa, fb[2], fb[3]);
    }
  }
}
// d (16, DP) += a b, where a (16, 16 N) are narrowed sums and b (16 N, DP) is of a tile.
template <u32 N> DEVICE void accumulate(float (&d)[2 * DEPTH][4], const u32 (&a)[N][4], const T* b) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (u32 k = 0; k < N; k++)
#pragma unroll
    for (u32 j = 0; j < DEPTH; j++) {
      u32 fb[4];
      load_matrices_transposed(fb, b + (k * 16 + lane % 16) * ROW + j * 16 + lane / 16 * 8);
      multiply_add<T>(d[2 * j], a[k], fb[0], fb[1]);
      multiply_add<T>(d[2 * j + 1], a[k], fb[2], fb[3]);
    }
}
// Sums as the left operand of the next product: two tiles of eight columns make a left operand 16 deep, a[0]
// and a[1] from the first, a[2] and a[3] from the second. Every lane keeps what it has.
template <u32 N> DEVICE void narrow_sums(u32 (&a)[N][4], const float (&s)[2 * N][4]) {
#pragma unroll
  for (u32 j = 0; j < 2 * N; j++)
#pragma unroll
    for (u32 h = 0; h < 2; h++) a[j / 2][j % 2 * 2 + h] = narrow2<T>(s[j][2 * h], s[j][2 * h + 1]);
}

// Columns col0 to col0 + 8 N of sixteen rows, of which `rows` exist, times a factor for rows g and one for
// rows g + 8.
template <u32 N, class E>
DEVICE void write(E* to, u32 stride, u32 rows, u32 col0, const float (&d)[N][4], float f0, float f1, bool add) {
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const float factor[2] = {f0, f1};
  if constexpr (sizeof(E) == 2 && D % 8 == 0 && N % 4 == 0) {
    if (!add) {
      // Four neighbouring lanes have two columns each of four groups of eight; each gets one group, sixteen
      // bytes. The words of four lanes are transposed in two rounds, between lanes 2 and 1 apart; in each a
      // lane sends the half that it does not keep. Word gp is pair p of columns of group g:
      //
      //   lane 0   00 10 20 30          00 01 02 03
      //   lane 1   01 11 21 31    ->    10 11 12 13
      //   lane 2   02 12 22 32          20 21 22 23
      //   lane 3   03 13 23 33          30 31 32 33
#pragma unroll
      for (u32 j = 0; j < N; j += 4)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
          u32 w[4];
#pragma unroll
          for (u32 i = 0; i < 4; i++) w[i] = narrow2<E>(d[j + i][2 * h] * factor[h], d[j + i][2 * h + 1] * factor[h]);
          const bool upper = t & 2, odd = t & 1;
          const u32 a = __shfl_xor_sync(~0u, upper ? w[0] : w[2], 2), b = __shfl_xor_sync(~0u, upper ? w[1] : w[3], 2);
          w[0] = upper ? a : w[0], w[1] = upper ? b : w[1], w[2] = upper ? w[2] : a, w[3] = upper ? w[3] : b;
          const u32 c = __shfl_xor_sync(~0u, odd ? w[0] : w[1], 1), e = __shfl_xor_sync(~0u, odd ? w[2] : w[3], 1);
          w[0] = odd ? c : w[0], w[1] = odd ? w[1] : c, w[2] = odd ? e : w[2], w[3] = odd ? w[3] : e;
          const u32 row = g + 8 * h, col = col0 + (j + t) * 8;
          if (row < rows && col < D) store_words(to + (size_t)row * stride + col, w[0], w[1], w[2], w[3]);
        }
      return;
    }
  }
#pragma unroll
  for (u32 j = 0; j < N; j++)
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
      const u32 row = g + 8 * h, col = col0 + j * 8 + 2 * t;
      const float v[2] = {d[j][2 * h] * factor[h], d[j][2 * h + 1] * factor[h]};
      if (row >= rows || col >= D) continue;
      E* at = to + (size_t)row * stride + col;
      if constexpr (D % 2 == 0) {
        put(at, v, add);
      } else {
        const float v0[1] = {v[0]}, v1[1] = {v[1]};
        put(at, v0, add);
        if (col + 1 < D) put(at + 1, v1, add);
      }
    }
}

// For sums with queries as rows and 16 N keys: all that four neighbouring lanes need, each drawing a quarter
// of it. Of element (j, 2 h + e) it is bit j % 2 * 16 + h * 8 + e of word j / 2.
template <u32 N> DEVICE void keys_kept(u32 (&bits)[N], const Mask& m, u32 query, u32 block) {
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  u32 mine = 0;
  if constexpr (N == 4) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) mine |= kept(m, query + g + i % 2 * 8, block + 2 * t + i / 2) << 8 * i;
  } else if constexpr (N == 2) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) mine |= kept(m, query + g + i * 8, block + t) << 8 * i;
  } else {
    static_assert(N == 1, "16, 32 or 64 keys");
    mine = kept(m, query + g + t % 2 * 8, block + t / 2) << 8 * t;
    mine |= __shfl_xor_sync(~0u, mine, 1);
    mine |= __shfl_xor_sync(~0u, mine, 2);
  }
#pragma unroll
  for (u32 i = 0; i < N; i++) {
    if constexpr (N == 4) {
      bits[i] = __shfl_sync(~0u, mine, i, 4) >> 2 * t;
    } else if constexpr (N == 2) {
      bits[i] = (__shfl_sync(~0u, mine, 2 * i, 4) | __shfl_sync(~0u, mine, 2 * i + 1, 4) << 16) >> 2 * t;
    } else {
      bits[i] = mine >> 2 * t;
    }
  }
}

// ---- Forward: OWN queries, keys and values going by, the softmax kept up to date (Milakov and Gimelshein
// 2018).

// The softmax of sixteen rows, as far as it has come: the highest score and the sum of rows g and g + 8.
struct Softmax {
  float top[2] = {NEG_INF, NEG_INF}, total[2] = {0.f, 0.f};
};
// Takes in 8 N scores a row and makes probabilities of them, less those dropped; what was summed up so far
// fades to match. Keys are counted from k0.
template <u32 N>
DEVICE void take(Softmax& to, float (&out)[2 * DEPTH][4], float (&s)[N][4], const Mask& mask, float scale, u32 query, u32 k0) {
#pragma unroll
  for (u32 h = 0; h < 2; h++) {
    float now = s[0][2 * h];
#pragma unroll
    for (u32 j = 0; j < N; j++) now = fmaxf(now, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
    now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
    now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
    now = fmaxf(to.top[h], now * scale);
    // With a window nothing may be in sight yet; infinity less infinity is no number.
    const float base = WINDOW != 0 && now == NEG_INF ? 0.f : now, fade = exp2_fast(to.top[h] - base);
    to.top[h] = now;
    // The total is the lane's own part. It is added up over the four lanes of a row only once, in `conclude`:
    // the factors that it fades by are the same for all four.
    to.total[h] *= fade;
#pragma unroll
    for (u32 j = 0; j < 2 * DEPTH; j++) out[j][2 * h] *= fade, out[j][2 * h + 1] *= fade;
#pragma unroll
    for (u32 j = 0; j < N; j++)
#pragma unroll
      for (u32 e = 2 * h; e < 2 * h + 2; e++) {
        s[j][e] = exp2_fast(fmaf(s[j][e], scale, -base));
        to.total[h] += s[j][e];
      }
  }
  if constexpr (DROPOUT != 0) {
    u32 bits[N / 2];
    keys_kept(bits, mask, query, k0 / 8);
#pragma unroll
    for (u32 j = 0; j < N; j++)
#pragma unroll
      for (u32 e = 0; e < 4; e++)
        if ((bits[j / 2] >> (j % 2 * 16 + e / 2 * 8 + e % 2) & 1) == 0) s[j][e] = 0.f;
  }
}
// Keys from `length` on have no probability.
template <u32 N> DEVICE void end_keys(float (&s)[N][4], u32 k0, u32 length) {
#pragma unroll
  for (u32 j = 0; j < N; j++)
#pragma unroll
    for (u32 e = 0; e < 4; e++)
      if (k0 + j * 8 + 2 * (threadIdx.x % 4) + e % 2 >= length) s[j][e] = NEG_INF;
}
// What a query does not see becomes `hidden`; sums with keys as columns.
template <u32 N> DEVICE void hide(float (&s)[N][4], u32 query, u32 k0, float hidden) {
  if (all_see(query, 16, k0, 8 * N)) return;
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (u32 j = 0; j < N; j++)
#pragma unroll
    for (u32 e = 0; e < 4; e++)
      if (!sees(query + g + e / 2 * 8, k0 + j * 8 + 2 * t + e % 2)) s[j][e] = hidden;
}
// Writes what sixteen queries found.
DEVICE void conclude(T* o, float* lse, Softmax& softmax, const float (&out)[2 * DEPTH][4], const Mask& mask, const Params& p,
                     const Place& at, u32 query) {
  const u32 lane = threadIdx.x % 32, head = blockIdx.y, hidden = p.heads * D;
#pragma unroll
  for (u32 h = 0; h < 2; h++) {
    softmax.total[h] += __shfl_xor_sync(~0u, softmax.total[h], 1);
    softmax.total[h] += __shfl_xor_sync(~0u, softmax.total[h], 2);
    const u32 row = query + lane / 4 + 8 * h;
    if (lane % 4 == 0 && row < at.length) {
      lse[(size_t)at.first * p.heads + (size_t)head * at.length + row] = fmaf(softmax.top[h], LN2, logf(softmax.total[h]));
    }
  }
  write(o + (size_t)(at.first + query) * hidden + head * D, hidden, at.length - query, 0, out, mask.scale / softmax.total[0],
        mask.scale / softmax.total[1], false);
}

// Sequences of SPAN warps at most. Shared: 3 OWN ROW elements.
template <u32 SPAN>
DEVICE void forward_short(const T* qkv, const u32* key, T* o, float* lse, const Params& p, const Place& at) {
  const u32 warp = threadIdx.x / 32, head = blockIdx.y, hidden = p.heads * D, stride = 3 * hidden;
  const u32 query = warp % SPAN * 16, rows = at.length > query ? at.length - query : 0;
  T* tile_q = (T*)shared + warp * 16 * ROW;
  T* tile_k = (T*)shared + (OWN + warp * 16) * ROW;
  T* tile_v = (T*)shared + (2 * OWN + warp * 16) * ROW;
  const T* q = qkv + (size_t)(at.first + (rows > 0 ? query : 0)) * stride + head * D;
  fetch<16, 32>(tile_q, q, stride, rows);
  fetch<16, 32>(tile_k, q + hidden, stride, rows);
  copies_commit();
  fetch<16, 32>(tile_v, q + 2 * hidden, stride, rows);
  copies_commit();
  // From here on the sequence's.
  tile_k -= query * ROW, tile_v -= query * ROW;
  const Mask mask = mask_of(p.drop, key, head, at.first);
  Softmax softmax;
  float out[2 * DEPTH][4] = {}, s[2 * SPAN][4];
  u32 fp[SPAN][4];
  copies_wait<1>();
  SPAN == 1 ? __syncwarp() : __syncthreads();  // keys have landed
  if (rows > 0) {
    u32 fq[DEPTH][4];
    rows_operand(fq, tile_q);
    scores(s, fq, tile_k);
    end_keys(s, 0, at.length);
    hide(s, query, 0, NEG_INF);
    take(softmax, out, s, mask, p.scale * LOG2E, query, 0);
    narrow_sums(fp, s);
  }
  copies_wait<0>();
  SPAN == 1 ? __syncwarp() : __syncthreads();  // values have landed
  if (rows == 0) return;
  accumulate(out, fp, tile_v);
  conclude(o, lse, softmax, out, mask, p, at, query);
}

// qkv (tokens, 3, heads, D), bounds (seqs + 1), key (5) -> o (tokens, heads, D), lse (heads tokens). Grid:
// (blocks, heads), enough for all tiles. Shared: (OWN + 2 TILE) ROW elements; if SHARE, 3 OWN ROW at least.
ATTENTION attention_forward(const T* __restrict__ qkv, const u32* __restrict__ bounds, const u32* __restrict__ key,
                         T* __restrict__ o, float* __restrict__ lse, Params p) {
  if constexpr (PASS == 0) {
    const Place at = SHARE != 0 ? place_shared<16>(bounds, p.seqs, blockIdx.x, own_tiles) : place(bounds, p.seqs, blockIdx.x, own_tiles);
    if constexpr (SHARE != 0) {
      if (at.span == 1) return forward_short<1>(qkv, key, o, lse, p, at);
      if (at.span == 2) return forward_short<2>(qkv, key, o, lse, p, at);
    }
    if (at.length == 0) return;
    const u32 warp = threadIdx.x / 32, head = blockIdx.y, hidden = p.heads * D, stride = 3 * hidden;
    const u32 begin = at.tile * OWN, query = begin + warp * 16, length = at.length;  // the warp's first
    const bool busy = query < length;
    const u32 from = seen_from(begin, TILE), upto = seen_upto(begin + OWN, length);
    const T* q = qkv + (size_t)at.first * stride + head * D;
    T* tile_q = (T*)shared;
    T* tile_k = tile_q + OWN * ROW;
    T* tile_v = tile_k + TILE * ROW;
    fetch<OWN>(tile_q, q + (size_t)begin * stride, stride, length - begin);
    fetch<TILE>(tile_k, q + hidden + (size_t)from * stride, stride, length - from);
    copies_commit();
    fetch<TILE>(tile_v, q + 2 * hidden + (size_t)from * stride, stride, length - from);
    copies_commit();
    const Mask mask = mask_of(p.drop, key, head, at.first);
    Softmax softmax;
    float out[2 * DEPTH][4] = {};
    u32 fq[DEPTH][4];
    for (u32 k0 = from; k0 < upto; k0 += TILE) {
      const bool more = k0 + TILE < upto;
      float s[TILE / 8][4];
      // Groups of copies are committed keys, values, keys, values, so waiting for all but the newest leaves
      // the other kind under way: values arrive while scores are computed, the next keys during the softmax
      // and the sum over values.
      copies_wait<1>();
      __syncthreads();  // keys have landed
      if (busy) {
        if (k0 == from) rows_operand(fq, tile_q + warp * 16 * ROW);
        scores(s, fq, tile_k);
      }
      __syncthreads();  // keys are used up
      if (more) fetch<TILE>(tile_k, q + hidden + (size_t)(k0 + TILE) * stride, stride, length - k0 - TILE);
      copies_commit();
      u32 fp[TILE / 16][4];
      if (busy) {
        if (!more) end_keys(s, k0, length);
        hide(s, query, k0, NEG_INF);
        take(softmax, out, s, mask, p.scale * LOG2E, query, k0);
        narrow_sums(fp, s);
      }
      copies_wait<1>();
      __syncthreads();  // values have landed
      if (busy) accumulate(out, fp, tile_v);
      if (!more) break;
      __syncthreads();  // values are used up
      fetch<TILE>(tile_v, q + 2 * hidden + (size_t)(k0 + TILE) * stride, stride, length - k0 - TILE);
      copies_commit();
    }
    copies_wait<0>();
    if (busy) conclude(o, lse, softmax, out, mask, p, at, query);
  }
}
