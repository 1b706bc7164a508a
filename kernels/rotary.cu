// Queries and keys turned by their positions: see src/ops/rotary.rs.
// Constants: T (x), G (y), VEC (pairs of an access, 8 or 1).

struct Params {
  u32 tokens, heads, half;
  float sign;
  u32 add;
  u32 first;
  u32 s1, s2, s4, s8, s16, s32, s64;
};

// Sine and cosine of a fraction of a turn in 2^32nds, within 6e-8: an eighth of a turn at most, by Taylor's
// series.
DEVICE void sine_cosine(u32 turn, float& s, float& c) {
  const u32 quarter = (turn + 0x20000000u) >> 30;
  const float x = (float)(int)(turn - (quarter << 30)) * 1.4629180792671596e-9f;  // 2 pi / 2^32
  const float q = x * x;
  const float a = x + x * q * (-0.16666667f + q * (8.333334e-3f + q * (-1.984127e-4f + q * 2.7557319e-6f)));
  const float b = 1.f + q * (-0.5f + q * (0.041666668f + q * (-1.3888889e-3f + q * 2.4801587e-5f)));
  s = quarter & 1 ? b : a;
  c = quarter & 1 ? a : b;
  if (quarter & 2) s = -s;
  if (quarter == 1 || quarter == 2) c = -c;
}

// Pair i's fraction of a turn a position.
DEVICE u32 frequency(const Params& p, u32 i) {
  u32 f = p.first;
  if (i & 1) f = __umulhi(f, p.s1);
  if (i & 2) f = __umulhi(f, p.s2);
  if (i & 4) f = __umulhi(f, p.s4);
  if (i & 8) f = __umulhi(f, p.s8);
  if (i & 16) f = __umulhi(f, p.s16);
  if (i & 32) f = __umulhi(f, p.s32);
  if (i & 64) f = __umulhi(f, p.s64);
  return f;
}

// One thread VEC pairs of one head of a token. x (tokens, 3, heads, 2 half), positions (tokens) -> y like x
KERNEL rotary_turn(const T* __restrict__ x, const u32* __restrict__ positions, G* __restrict__ y, Params p) {
  const u32 wide = p.half / VEC;
  const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
  const u32 t = (u32)(i / wide), first = (u32)(i % wide) * VEC;
  if (t >= p.tokens) return;
  const u32 at = positions[t];
  float s[VEC], c[VEC];
#pragma unroll
  for (u32 e = 0; e < VEC; e++) {
    sine_cosine(at * frequency(p, first + e), s[e], c[e]);
    s[e] *= p.sign;
  }
  const u64 hidden = (u64)p.heads * 2 * p.half;
  const u64 start = t * 3 * hidden + (u64)blockIdx.y * 2 * p.half + first;
#pragma unroll
  for (u32 which = 0; which < 3; which++) {
    const u64 low = start + which * hidden, high = low + p.half;
    float a[VEC], b[VEC];
    load(a, x + low);
    load(b, x + high);
    if (which < 2) {
#pragma unroll
      for (u32 e = 0; e < VEC; e++) {
        const float v = a[e];
        a[e] = v * c[e] - b[e] * s[e];
        b[e] = b[e] * c[e] + v * s[e];
      }
    }
    put(y + low, a, p.add);
    put(y + high, b, p.add);
  }
}
