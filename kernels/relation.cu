// loss = scale sum_i c_i KL(softmax_j(t_i t_j / sqrt(d_t)) || softmax_j(s_i s_j / sqrt(d_s))) for q, k and v:
// see src/ops/relation.rs. Stands behind attention.common.cu. Constants: its own, T (teacher and student), G
// (gradient of the student), DT, DS (columns of a relation head of each). Arithmetic is in f32.
//
// A block owns OWN tokens of one sequence, relation head and plane (q, k or v), EACH a warp; all tokens of
// the sequence go by, TILE at a time, one a lane. Grid: (tokens / OWN + seqs, heads, 3).

struct Relation {
  u32 tokens, heads, seqs;
  u32 parts;  // of the loss, one for each block
  float teacher_scale, student_scale;
  u32 add;
};

constexpr u32 EACH = 4, OWN = EACH * WARPS, TILE = 32;
// Columns of a row in shared memory: padded with zeros to groups of four; an odd number of groups from row to
// row, so that no bank is met twice.
constexpr u32 WIDTH_T = (DT + 3) / 4 * 4, LINE_T = 4 * (WIDTH_T / 4 | 1);
constexpr u32 WIDTH_S = (DS + 3) / 4 * 4, LINE_S = 4 * (WIDTH_S / 4 | 1);
constexpr u32 LINE_W = TILE + 4, COLS = (DS + 31) / 32;

// Shared memory: the block's own rows, then those that go by, of teacher and student; then W (OWN, LINE_W).
struct Rows {
  float *own_t, *own_s, *tile_t, *tile_s, *w;
};
DEVICE Rows rows_of_block() {
  Rows at;
  at.own_t = (float*)shared;
  at.own_s = at.own_t + OWN * LINE_T;
  at.tile_t = at.own_s + OWN * LINE_S;
  at.tile_s = at.tile_t + TILE * LINE_T;
  at.w = at.tile_s + TILE * LINE_S;
  return at;
}
// COUNT rows of one relation head, of which `rows` exist, `stride` elements apart; what does not exist
// becomes 0. By the block.
template <u32 COUNT, u32 D, u32 WIDTH, u32 LINE> DEVICE void fetch(float* to, const T* from, u32 stride, u32 rows) {
  for (u32 i = threadIdx.x; i < COUNT * WIDTH; i += THREADS) {
    const u32 row = i / WIDTH, c = i % WIDTH;
    to[row * LINE + c] = row < rows && c < D ? widen(from[(size_t)row * stride + c]) : 0.f;
  }
}
// s[r] = the warp's row r by the lane's row.
template <u32 WIDTH, u32 LINE> DEVICE void scores(float (&s)[EACH], const float* own, const float* tile, float scale) {
  own += threadIdx.x / 32 * EACH * LINE, tile += threadIdx.x % 32 * LINE;
#pragma unroll
  for (u32 r = 0; r < EACH; r++) s[r] = 0.f;
#pragma unroll 4
  for (u32 c = 0; c < WIDTH; c += 4) {
    const float4 y = *(const float4*)(tile + c);
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const float4 x = *(const float4*)(own + r * LINE + c);
      s[r] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, s[r]))));
    }
  }
#pragma unroll
  for (u32 r = 0; r < EACH; r++) s[r] *= scale;
}
DEVICE float exp_of(float x) { return exp2_fast(x * LOG2E); }

// Where a block works: its sequence, its first token in it, and the pointers to that sequence's rows.
struct Task {
  u32 first, length, begin, head, plane;
  u32 stride_t, stride_s;
  const T *t, *s;
};
DEVICE Task task_of(const T* teacher, const T* student, const u32* bounds, const Relation& p) {
  const Place at = place(bounds, p.seqs, blockIdx.x, [](u32 length) { return ceil_div(length, OWN); });
  Task task{at.first, at.length, at.tile * OWN, blockIdx.y, blockIdx.z, 3 * p.heads * DT, 3 * p.heads * DS};
  const u32 head = task.plane * p.heads + task.head;
  task.t = teacher + (size_t)at.first * task.stride_t + head * DT;
  task.s = student + (size_t)at.first * task.stride_s + head * DS;
  return task;
}
// The block's own rows into shared memory.
DEVICE void fetch_own(const Rows& to, const Task& at) {
  const u32 rows = at.length - at.begin;
  fetch<OWN, DT, WIDTH_T, LINE_T>(to.own_t, at.t + (size_t)at.begin * at.stride_t, at.stride_t, rows);
  fetch<OWN, DS, WIDTH_S, LINE_S>(to.own_s, at.s + (size_t)at.begin * at.stride_s, at.stride_s, rows);
}
// The next tile; all threads wait for those that still read the one before.
DEVICE void fetch_tile(const Rows& to, const Task& at, u32 j0) {
  __syncthreads();
  fetch<TILE, DT, WIDTH_T, LINE_T>(to.tile_t, at.t + (size_t)j0 * at.stride_t, at.stride_t, at.length - j0);
  fetch<TILE, DS, WIDTH_S, LINE_S>(to.tile_s, at.s + (size_t)j0 * at.stride_s, at.stride_s, at.length - j0);
  __syncthreads();
}

// teacher (tokens, 3, heads, DT), student (tokens, 3, heads, DS), bounds (seqs + 1), weights (tokens) ->
// stats (2, 3, heads, tokens): LT, LS; parts (3, heads, blocks)
KERNEL relation_forward(const T* __restrict__ teacher, const T* __restrict__ student, const u32* __restrict__ bounds,
                        const float* __restrict__ weights, float* __restrict__ stats, float* __restrict__ parts, Relation p) {
  __shared__ float sums[32];
  const Task at = task_of(teacher, student, bounds, p);
  const u32 lane = threadIdx.x % 32, mine = at.begin + threadIdx.x / 32 * EACH, head = at.plane * p.heads + at.head;
  const Rows rows = rows_of_block();
  float total = 0.f;
  if (at.length > 0) {
    fetch_own(rows, at);
    // Each lane has maxima and sums of its own keys: of exp(a - most), exp(b - most), exp(a - most) (a - b).
    float most_t[EACH], most_s[EACH], sum_t[EACH] = {}, sum_s[EACH] = {}, gaps[EACH] = {};
#pragma unroll
    for (u32 r = 0; r < EACH; r++) most_t[r] = most_s[r] = NEG_INF;
    for (u32 j0 = 0; j0 < at.length; j0 += TILE) {
      fetch_tile(rows, at, j0);
      float x[EACH], y[EACH];
      scores<WIDTH_T, LINE_T>(x, rows.own_t, rows.tile_t, p.teacher_scale);
      scores<WIDTH_S, LINE_S>(y, rows.own_s, rows.tile_s, p.student_scale);
      if (j0 + lane >= at.length) continue;
#pragma unroll
      for (u32 r = 0; r < EACH; r++) {
        // One of exp(x - new maximum) and exp(old maximum - new maximum) is 1; e is the other one.
        const float d = x[r] - most_t[r], e = exp_of(-fabsf(d)), gap = x[r] - y[r];
        gaps[r] = d > 0.f ? fmaf(gaps[r], e, gap) : fmaf(e, gap, gaps[r]);
        sum_t[r] = d > 0.f ? fmaf(sum_t[r], e, 1.f) : sum_t[r] + e;
        most_t[r] = fmaxf(most_t[r], x[r]);
        const float d_s = y[r] - most_s[r], e_s = exp_of(-fabsf(d_s));
        sum_s[r] = d_s > 0.f ? fmaf(sum_s[r], e_s, 1.f) : sum_s[r] + e_s;
        most_s[r] = fmaxf(most_s[r], y[r]);
      }
    }
    // The lanes together. A lane without keys has a maximum of -infinity and so a factor of 0.
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const float most = warp_max(most_t[r]), other = warp_max(most_s[r]);
      const float e = exp_of(most_t[r] - most), e_s = exp_of(most_s[r] - other);
      const float z = warp_sum(sum_t[r] * e), gap = warp_sum(gaps[r] * e), log_t = logf(z);
      const float log_s = logf(warp_sum(sum_s[r] * e_s));
      const u32 i = at.first + mine + r;
      if (lane == 0 && mine + r < at.length) {
        stats[(size_t)head * p.tokens + i] = most + log_t;
        stats[(size_t)(3 * p.heads + head) * p.tokens + i] = other + log_s;
        total += weights[i] * ((other - most) + (log_s - log_t) + gap / z);
      }
    }
  }
  total = block_sum<THREADS>(total, sums);
  if (threadIdx.x == 0) parts[(size_t)head * gridDim.x + blockIdx.x] = total;
}

// One block. parts (parts), scale (1) -> loss (1)
KERNEL relation_sum(const float* __restrict__ parts, const float* __restrict__ scale, float* __restrict__ loss, Relation p) {
  __shared__ float sums[32];
  float sum = 0.f;
  for (u32 i = threadIdx.x; i < p.parts; i += THREADS) sum += parts[i];
  sum = block_sum<THREADS>(sum, sums);
  if (threadIdx.x == 0) loss[0] = scale[0] * sum;
}

// As forward, and scale (1), stats (2, 3, heads, tokens), dloss (1) -> dstudent (tokens, 3, heads, DS)
KERNEL relation_backward(const T* __restrict__ teacher, const T* __restrict__ student, const u32* __restrict__ bounds,
                         const float* __restrict__ weights, const float* __restrict__ scale, const float* __restrict__ stats,
                         const float* __restrict__ dloss, G* __restrict__ dstudent, Relation p) {
  const Task at = task_of(teacher, student, bounds, p);
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, mine = at.begin + warp * EACH, head = at.plane * p.heads + at.head;
  if (p.add == 0) {
    // Tokens beyond the last sequence have no gradient. There are at least as many blocks as tiles of them.
    const float zero[1] = {0.f};
    for (u32 i = threadIdx.x; i < OWN * DS; i += THREADS) {
      const u32 t = bounds[p.seqs] + blockIdx.x * OWN + i / DS;
      if (t < p.tokens) store(dstudent + (size_t)t * at.stride_s + head * DS + i % DS, zero);
    }
  }
  if (at.length == 0) return;
  const Rows rows = rows_of_block();
  fetch_own(rows, at);
  const float* lt = stats + (size_t)head * p.tokens + at.first;
  const float* ls = stats + (size_t)(3 * p.heads + head) * p.tokens + at.first;
  weights += at.first;
  float own_lt[EACH], own_ls[EACH], own_c[EACH], sum[EACH][COLS] = {};
#pragma unroll
  for (u32 r = 0; r < EACH; r++) {
    const u32 i = min(mine + r, at.length - 1);
    own_lt[r] = lt[i], own_ls[r] = ls[i], own_c[r] = weights[i];
  }
  float* w = rows.w + warp * EACH * LINE_W;
  for (u32 j0 = 0; j0 < at.length; j0 += TILE) {
    fetch_tile(rows, at, j0);
    float x[EACH], y[EACH];
    scores<WIDTH_T, LINE_T>(x, rows.own_t, rows.tile_t, p.teacher_scale);
    scores<WIDTH_S, LINE_S>(y, rows.own_s, rows.tile_s, p.student_scale);
    const u32 j = j0 + lane;
    const bool exists = j < at.length;
    const float lt_j = exists ? lt[j] : 0.f, ls_j = exists ? ls[j] : 0.f, c_j = exists ? weights[j] : 0.f;
#pragma unroll
    for (u32 r = 0; r < EACH; r++) {
      const float row = exp_of(y[r] - own_ls[r]) - exp_of(x[r] - own_lt[r]);
      const float column = exp_of(y[r] - ls_j) - exp_of(x[r] - lt_j);
      w[r * LINE_W + lane] = exists ? fmaf(own_c[r], row, c_j * column) : 0.f;
    }
    __syncwarp();
    // Rows of the tile that do not exist are 0, as is their W.
#pragma unroll 1
    for (u32 k = 0; k < TILE; k += 4) {
      float s[4][COLS];
#pragma unroll
      for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 c = 0; c < COLS; c++) s[i][c] = lane + 32 * c < DS ? rows.tile_s[(k + i) * LINE_S + lane + 32 * c] : 0.f;
#pragma unroll
      for (u32 r = 0; r < EACH; r++) {
        const float4 v = *(const float4*)(w + r * LINE_W + k);
#pragma unroll
        for (u32 c = 0; c < COLS; c++) {
          sum[r][c] = fmaf(v.x, s[0][c], fmaf(v.y, s[1][c], fmaf(v.z, s[2][c], fmaf(v.w, s[3][c], sum[r][c]))));
        }
      }
    }
  }
  const float rate = scale[0] * dloss[0] * p.student_scale;
  G* to = dstudent + (size_t)(at.first + mine) * at.stride_s + head * DS;
#pragma unroll
  for (u32 r = 0; r < EACH; r++)
#pragma unroll
    for (u32 c = 0; c < COLS; c++) {
      const float d[1] = {sum[r][c] * rate};
      if (mine + r < at.length && lane + 32 * c < DS) put(to + (size_t)r * at.stride_s + lane + 32 * c, d, p.add != 0);
    }
}
