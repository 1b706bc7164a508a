// What attention in f32 arithmetic has in common, whatever the tensors are stored in: attention.plain.cu,
// favor.cu and relative_attention.cu stand behind this, and this behind attention.common.cu. Constants:
// those, EACH (2, 4 or 8 rows a warp).
//
// A block owns OWN rows, EACH a warp; the rows of the other side go by, 32 at a time, one a lane.

constexpr u32 OWN = EACH * WARPS, TILE = 32;
constexpr u32 COLS = (D + 31) / 32, WIDTH = 32 * COLS;  // columns of a lane; a row, padded with zeros
constexpr u32 LINE = WIDTH + 4, PROBS = TILE + 4;       // rows in shared memory: no bank is met twice

// The block's tile of OWN tokens: where its sequence begins in the batch, its length, and the first token of
// the tile in it.
struct Tile {
  u32 first, length, begin;
};
DEVICE Tile own_tile(const u32* bounds, u32 seqs) {
  const Place at = place(bounds, seqs, blockIdx.x, [](u32 length) { return ceil_div(length, OWN); });
  return Tile{at.first, at.length, at.tile * OWN};
}

// Rows of one head, of which `rows` exist, `stride` apart, plus a bias if there is one; what does not exist
// becomes 0. By the block or a warp (32).
template <u32 ROWS, u32 BY = THREADS, class E>
DEVICE void fetch(float* to, const E* from, u32 stride, u32 rows, const E* plus = nullptr) {
  for (u32 i = threadIdx.x % BY; i < ROWS * WIDTH; i += BY) {
    const u32 row = i / WIDTH, c = i % WIDTH;
    float v = 0.f;
    if (row < rows && c < D) {
      v = widen(from[(size_t)row * stride + c]);
      if (plus != nullptr) v += widen(plus[c]);
    }
    to[row * LINE + c] = v;
  }
}
// s[r] = row r of a, by the lane's row of b, of whose rows there are COUNT.
template <u32 COUNT> DEVICE void scores(float (&s)[EACH], const float* a, const float* b) {
  b += min(threadIdx.x % 32, COUNT - 1) * LINE;
#pragma unroll
  for (u32 r = 0; r < EACH; r++) s[r] = 0.f;
#pragma unroll 2
  for (u32 c = 0; c < WIDTH; c += 4) {
    const float4 y = *(const float4*)(b + c);
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const float4 x = *(const float4*)(a + r * LINE + c);
      s[r] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, s[r]))));
    }
  }
}
// out[r][c] += probs (EACH, COUNT) b (COUNT, WIDTH), column lane + 32 c.
template <u32 COUNT> DEVICE void accumulate(float (&out)[EACH][COLS], const float* probs, const float* b) {
#pragma unroll 1
  for (u32 j = 0; j < COUNT; j += 4) {
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
