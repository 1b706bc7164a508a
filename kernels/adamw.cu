// AdamW over a flat arena: see src/ops/adamw.rs. Constants: COPY (is there a copy in type C), C, BLANK (is it there). One block a
// task of the table.

struct Params {
  float beta1, beta2, eps, max_norm;
  // Where this part of the arena begins, in 64 elements.
  u32 origin;
};

struct Task {
  // Where it begins in the arena, and how many elements it has (none if frozen).
  u32 start, len;
  // Weight decay and the factor on the learning rate.
  float decay, rate;
};

// Elements of one bit of `live`: a warp has one such block at a time, a lane VEC of them beside each other in each of its turns.
constexpr u32 LIVE = 512, VEC = 4, TURNS = LIVE / (32 * VEC);

struct Rates {
  // `scale` is the reciprocal of the root of the second moment's correction.
  float keep, rate, scale, clip;
};

DEVICE float update(float& m, float& v, float value, float grad, const Rates& r, const Params& p) {
  const float g = grad * r.clip;
  m += (1.f - p.beta1) * (g - m);
  v = p.beta2 * v + (1.f - p.beta2) * g * g;
  return value * r.keep - r.rate * m / (sqrtf(v) * r.scale + p.eps);
}

// Whether the gradients of a block from element `at` of the arena on are known to be zero: those of two of its blocks at most.
DEVICE bool is_blank(const u32* blank, u64 at, u32 count) {
  const u64 a = at / LIVE, b = (at + count - 1) / LIVE;
  return BLANK && blank[a / 32] >> (a % 32) & blank[b / 32] >> (b % 32) & 1;
}

// value, grad, m, v (n), hyper (4) = [lr, c1, c2, unscale], norm (1), live (tasks), table (tasks), blank (arena / 16384)
// -> value, m, v, live, copy (n)
KERNEL adamw_update(float* __restrict__ value, const float* __restrict__ grad, float* __restrict__ m, float* __restrict__ v,
                    const float* __restrict__ hyper, const float* __restrict__ norm, u32* __restrict__ live,
                    const Task* __restrict__ table, C* __restrict__ copy, const u32* __restrict__ blank, Params p) {
  __shared__ u32 touched;
  const Task task = table[blockIdx.x];
  const float length = norm[0];
  if (task.len == 0 || !finite(length)) return;
  if (threadIdx.x == 0) touched = live[blockIdx.x];
  __syncthreads();
  const u32 before = touched;
  __syncthreads();
  Rates r;
  r.clip = hyper[3] * (p.max_norm > 0.f ? fminf(1.f, p.max_norm / (length + 1e-6f)) : 1.f);
  const float lr = hyper[0] * task.rate;
  r.keep = 1.f - lr * task.decay;
  r.rate = lr / hyper[1];
  r.scale = 1.f / sqrtf(hyper[2]);
  const u32 lane = threadIdx.x % 32;
  const bool aligned = task.start % VEC == 0;
  for (u32 block = threadIdx.x / 32; block * LIVE < task.len; block += THREADS / 32) {
    const u32 first = block * LIVE, count = min(LIVE, task.len - first);
    const u64 at = (u64)task.start + first;
    const bool zeros = is_blank(blank, (u64)p.origin * 64 + at, count);
    if (aligned && count == LIVE) {
      bool some = false;
#pragma unroll
      for (u32 i = 0; i < TURNS; i++) {
        if (zeros) break;
        float g[VEC];
        load(g, grad + at + (i * 32 + lane) * VEC);
#pragma unroll
        for (u32 e = 0; e < VEC; e++) some |= g[e] != 0.f;
      }
      some = __any_sync(~0u, some);
      // Without any gradient ever, m and v are zero and stay so: they need not be read. Most rows of a vocabulary are like that.
      const bool dead = !some && !(before >> block & 1);
      if (dead && r.keep == 1.f) continue;
      if (some && lane == 0) atomicOr(&touched, 1u << block);
      // Turn by turn, with the gradients from the cache: kept all at once they would not fit the registers.
#pragma unroll 1
      for (u32 i = 0; i < TURNS; i++) {
        const u64 here = at + (i * 32 + lane) * VEC;
        float w[VEC];
        load(w, value + here);
        if (dead) {
#pragma unroll
          for (u32 e = 0; e < VEC; e++) w[e] *= r.keep;
        } else {
          float g[VEC] = {}, a[VEC], b[VEC];
          if (!zeros) load(g, grad + here);
          load(a, m + here);
          load(b, v + here);
#pragma unroll
          for (u32 e = 0; e < VEC; e++) w[e] = update(a[e], b[e], w[e], g[e], r, p);
          store(m + here, a);
          store(v + here, b);
        }
        store(value + here, w);
        if constexpr (COPY) store(copy + here, w);
      }
    } else {
      for (u32 e = lane; e < count; e += 32) {
        const float g = zeros ? 0.f : grad[at + e];
        if (g != 0.f) atomicOr(&touched, 1u << block);
        float a = m[at + e], b = v[at + e];
        const float w = update(a, b, value[at + e], g, r, p);
        m[at + e] = a;
        v[at + e] = b;
        value[at + e] = w;
        if constexpr (COPY) copy[at + e] = narrow<C>(w);
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0 && touched != before) live[blockIdx.x] = touched;
}
