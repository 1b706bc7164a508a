#include "common.cuh"
// AdamW (Loshchilov and Hutter 2019) on bf16 parameters that are rounded at random, with f32 moments.
DEVICE half_t narrow_at_random(float x, u32 bits) { return (half_t)((__float_as_uint(x) + (bits & 0xffffu)) >> 16); }
extern "C" __global__ void __launch_bounds__(256)
adamw(half_t* __restrict__ p, const half_t* __restrict__ g, float* __restrict__ m, float* __restrict__ v, int n, float lr,
      float beta1, float beta2, float eps, float decay, float fix1, float fix2, int step) {
  const int stride = gridDim.x * blockDim.x;
  for (int q = blockIdx.x * blockDim.x + threadIdx.x; q * 4 < n; q += stride) {
    const uint4 r = philox(7u, 11u, make_uint4(q, 0u, step, 0u));
    const u32 bits[4] = {r.x, r.y, r.z, r.w};
    if (q * 4 + 4 <= n) {
      const uint2 gs = ((const uint2*)g)[q], ps = ((const uint2*)p)[q];
      float4 ms = ((const float4*)m)[q], vs = ((const float4*)v)[q];
      const float2 g0 = widen2(gs.x), g1 = widen2(gs.y), p0 = widen2(ps.x), p1 = widen2(ps.y);
      const float gi[4] = {g0.x, g0.y, g1.x, g1.y}, pi[4] = {p0.x, p0.y, p1.x, p1.y};
      float mi[4] = {ms.x, ms.y, ms.z, ms.w}, vi[4] = {vs.x, vs.y, vs.z, vs.w};
      u32 out[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        mi[i] = beta1 * mi[i] + (1.f - beta1) * gi[i];
        vi[i] = beta2 * vi[i] + (1.f - beta2) * gi[i] * gi[i];
        const float move = mi[i] * fix1 / (sqrtf(vi[i] * fix2) + eps);
        out[i] = narrow_at_random(pi[i] - lr * (move + decay * pi[i]), bits[i]);
      }
      ((float4*)m)[q] = make_float4(mi[0], mi[1], mi[2], mi[3]);
      ((float4*)v)[q] = make_float4(vi[0], vi[1], vi[2], vi[3]);
      ((uint2*)p)[q] = make_uint2(out[0] | out[1] << 16, out[2] | out[3] << 16);
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int at = q * 4 + i;
        if (at >= n) break;
        const float gi = widen(g[at]), pi = widen(p[at]);
        const float mi = beta1 * m[at] + (1.f - beta1) * gi, vi = beta2 * v[at] + (1.f - beta2) * gi * gi;
        m[at] = mi;
        v[at] = vi;
        p[at] = narrow_at_random(pi - lr * (mi * fix1 / (sqrtf(vi * fix2) + eps) + decay * pi), bits[i]);
      }
    }
  }
}
