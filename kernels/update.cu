// What the updates of all optimizers share; stands before each of them: see src/ops/update.rs. Constants:
// STATES (states of the update), COPY (is there a copy in type C), C, ZERO_BLOCKS (is it there). One block a
// task of the table.
//
// An update declares
//   struct Params { its settings; float max_norm; u32 origin; };   origin: where this part of the arena begins, in 64 elements
//   Rates rates(const Params&, float lr, float decay, const float* factors);
//   float update(float value, float grad, float (&states)[STATES], const Rates&, const Params&);   the new value; grad is clipped

struct Task {
  // Where it begins in the arena, and how many elements it has (none if frozen).
  u32 start, len;
  // Weight decay and the factor on the learning rate.
  float decay, rate;
};

// Elements of one bit of `live`: a warp has one such block at a time, a lane VEC of them beside each other in
// each of its turns.
constexpr u32 LIVE = 512, VEC = 4, TURNS = LIVE / (32 * VEC);
// C++ has no arrays without elements.
constexpr u32 STATE_COUNT = STATES ? STATES : 1;

// Whether the gradients of a block from element `at` of the arena on are known to be zero: those of two of
// its blocks at most.
DEVICE bool is_zero_block(const u32* zero_blocks, u64 at, u32 count) {
  const u64 a = at / LIVE, b = (at + count - 1) / LIVE;
  return ZERO_BLOCKS && zero_blocks[a / 32] >> (a % 32) & zero_blocks[b / 32] >> (b % 32) & 1;
}

// value, grad, states (n each), control = [norm, lr, unscale, factors], live (tasks), table (tasks),
// zero_blocks (arena / 16384) -> value, states, live, copy (n)
template <class P>
DEVICE void walk(float* __restrict__ value, const float* __restrict__ grad, const float* __restrict__ control,
                 u32* __restrict__ live, const Task* __restrict__ table, C* __restrict__ copy, const u32* __restrict__ zero_blocks,
                 float* const (&states)[STATE_COUNT], const P& p) {
  __shared__ u32 touched;
  const Task task = table[blockIdx.x];
  const float length = control[0];
  if (task.len == 0 || !finite(length)) return;
  if (threadIdx.x == 0) touched = live[blockIdx.x];
  __syncthreads();
  const u32 before = touched;
  __syncthreads();
  const float clip = control[2] * (p.max_norm > 0.f ? fminf(1.f, p.max_norm / (length + 1e-6f)) : 1.f);
  const float lr = control[1] * task.rate, keep = 1.f - lr * task.decay;
  const auto r = rates(p, lr, task.decay, control + 3);
  const u32 lane = threadIdx.x % 32;
  const bool aligned = task.start % VEC == 0;
  for (u32 block = threadIdx.x / 32; block * LIVE < task.len; block += THREADS / 32) {
    const u32 first = block * LIVE, count = min(LIVE, task.len - first);
    const u64 at = (u64)task.start + first;
    const bool zeros = is_zero_block(zero_blocks, (u64)p.origin * 64 + at, count);
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
      // Without any gradient ever, the states are zero and stay so: they need not be read. Most rows of a
      // vocabulary are like that.
      const bool dead = !some && !(before >> block & 1);
      if (dead && keep == 1.f) continue;
      if (some && lane == 0) atomicOr(&touched, 1u << block);
      // Turn by turn, with the gradients from the cache: kept all at once they would not fit the registers.
#pragma unroll 1
      for (u32 i = 0; i < TURNS; i++) {
        const u64 here = at + (i * 32 + lane) * VEC;
        float w[VEC];
        load(w, value + here);
        if (dead) {
#pragma unroll
          for (u32 e = 0; e < VEC; e++) w[e] *= keep;
        } else {
          float g[VEC] = {}, s[STATE_COUNT][VEC] = {};
          if (!zeros) load(g, grad + here);
#pragma unroll
          for (u32 k = 0; k < STATES; k++) load(s[k], states[k] + here);
#pragma unroll
          for (u32 e = 0; e < VEC; e++) {
            float own[STATE_COUNT];
#pragma unroll
            for (u32 k = 0; k < STATE_COUNT; k++) own[k] = s[k][e];
            w[e] = update(w[e], g[e] * clip, own, r, p);
#pragma unroll
            for (u32 k = 0; k < STATE_COUNT; k++) s[k][e] = own[k];
          }
#pragma unroll
          for (u32 k = 0; k < STATES; k++) store(states[k] + here, s[k]);
        }
        store(value + here, w);
        if constexpr (COPY) store(copy + here, w);
      }
    } else {
      for (u32 e = lane; e < count; e += 32) {
        const float g = zeros ? 0.f : grad[at + e];
        if (g != 0.f) atomicOr(&touched, 1u << block);
        float own[STATE_COUNT] = {};
#pragma unroll
        for (u32 k = 0; k < STATES; k++) own[k] = states[k][at + e];
        const float w = update(value[at + e], g * clip, own, r, p);
#pragma unroll
        for (u32 k = 0; k < STATES; k++) states[k][at + e] = own[k];
        value[at + e] = w;
        if constexpr (COPY) copy[at + e] = narrow<C>(w);
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0 && touched != before) live[blockIdx.x] = touched;
}
