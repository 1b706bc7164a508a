// What every kernel may use: element types, loads and stores, sums, random numbers, and the wrappers of all
// inline PTX. The host puts this before a kernel's own source, then the constants that specialise it.
// Includes nothing, so that NVRTC needs no folder of headers.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
// The first bound is the host's THREADS, which differs from launch to launch.
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

// ---- Elements. Arithmetic is done in f32; 16-bit types are for storage and for the operands of matrix
// instructions.

struct __align__(2) bf16 {
  u16 bits;
};
struct __align__(2) f16 {
  u16 bits;
};

DEVICE float widen(float x) { return x; }
DEVICE float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
DEVICE float widen(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

// The nearest value of the type, ties to even; what f16 cannot hold is infinite, and a NaN stays one.
template <class E> DEVICE E narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) {
#if __CUDA_ARCH__ >= 800
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bf16{bits};
#else
  u32 u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{0x7fff};
  return bf16{(u16)((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
#endif
}
template <> __device__ __forceinline__ f16 narrow<f16>(float x) {
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return f16{bits};
}
// Two values in one word, the first in the low half.
template <class E> DEVICE u32 narrow2(float low, float high);
template <> __device__ __forceinline__ u32 narrow2<bf16>(float low, float high) {
#if __CUDA_ARCH__ >= 800
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return (u32)narrow<bf16>(low).bits | (u32)narrow<bf16>(high).bits << 16;
#endif
}
template <> __device__ __forceinline__ u32 narrow2<f16>(float low, float high) {
#if __CUDA_ARCH__ >= 800
  u32 pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return (u32)narrow<f16>(low).bits | (u32)narrow<f16>(high).bits << 16;
#endif
}
template <class E> DEVICE void widen2(float& low, float& high, u32 pair);
template <> __device__ __forceinline__ void widen2<bf16>(float& low, float& high, u32 pair) {
  low = __uint_as_float(pair << 16);
  high = __uint_as_float(pair & 0xffff0000u);
}
template <> __device__ __forceinline__ void widen2<f16>(float& low, float& high, u32 pair) {
  low = widen(f16{(u16)pair});
  high = widen(f16{(u16)(pair >> 16)});
}

// N elements at an address that is a multiple of their size: 1, or 2, 4, 8 in the widest accesses there are.
template <u32 N, class E> DEVICE void load(float (&v)[N], const E* p) {
  if constexpr (N == 1) {
    v[0] = widen(*p);
  } else if constexpr (sizeof(E) == 4 && N == 2) {
    const float2 a = *(const float2*)p;
    v[0] = a.x, v[1] = a.y;
  } else if constexpr (sizeof(E) == 4) {
#pragma unroll
    for (u32 i = 0; i < N; i += 4) {
      const float4 a = *(const float4*)(p + i);
      v[i] = a.x, v[i + 1] = a.y, v[i + 2] = a.z, v[i + 3] = a.w;
    }
  } else if constexpr (N == 2) {
    widen2<E>(v[0], v[1], *(const u32*)p);
  } else if constexpr (N == 4) {
    const uint2 a = *(const uint2*)p;
    widen2<E>(v[0], v[1], a.x), widen2<E>(v[2], v[3], a.y);
  } else {
    static_assert(N == 8, "1, 2, 4 or 8 elements");
    const uint4 a = *(const uint4*)p;
    widen2<E>(v[0], v[1], a.x), widen2<E>(v[2], v[3], a.y), widen2<E>(v[4], v[5], a.z), widen2<E>(v[6], v[7], a.w);
  }
}
// Words at once to global memory, at a multiple of their size. The compiler tears most stores of a float4 or
// uint4 into words, each an access of its own to as many sectors; loads it leaves whole.
DEVICE void store_words(void* p, u32 a, u32 b) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(a), "r"(b) : "memory");
}
DEVICE void store_words(void* p, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}
// To global memory.
template <u32 N, class E> DEVICE void store(E* p, const float (&v)[N]) {
  if constexpr (N == 1) {
    *p = narrow<E>(v[0]);
  } else if constexpr (sizeof(E) == 4 && N == 2) {
    store_words(p, __float_as_uint(v[0]), __float_as_uint(v[1]));
  } else if constexpr (sizeof(E) == 4) {
#pragma unroll
    for (u32 i = 0; i < N; i += 4) {
      store_words(p + i, __float_as_uint(v[i]), __float_as_uint(v[i + 1]), __float_as_uint(v[i + 2]), __float_as_uint(v[i + 3]));
    }
  } else if constexpr (N == 2) {
    *(u32*)p = narrow2<E>(v[0], v[1]);
  } else if constexpr (N == 4) {
    store_words(p, narrow2<E>(v[0], v[1]), narrow2<E>(v[2], v[3]));
  } else {
    static_assert(N == 8, "1, 2, 4 or 8 elements");
    store_words(p, narrow2<E>(v[0], v[1]), narrow2<E>(v[2], v[3]), narrow2<E>(v[4], v[5]), narrow2<E>(v[6], v[7]));
  }
}
// Writes a gradient, or adds it to what is there.
template <u32 N, class E> DEVICE void put(E* p, const float (&v)[N], bool add) {
  if (add) {
    float sum[N];
    load(sum, p);
#pragma unroll
    for (u32 i = 0; i < N; i++) sum[i] += v[i];
    store(p, sum);
  } else {
    store(p, v);
  }
}

// ---- Numbers.

#define NEG_INF __int_as_float(0xff800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

DEVICE bool finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
// 2^x within 2 ulp; 0 of -infinity.
DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// The error function, by the CPU's polynomials (src/device/cpu/real.rs), within 2e-7. A NaN takes the near
// branch and stays one.
DEVICE float erf_of(float x) {
  const float t = fabsf(x), s = x * x, c = fminf(t, 4.f);
  float near = fmaf(s, -0.0005953897f, 0.004985977f);
  near = fmaf(s, fmaf(s, fmaf(s, fmaf(s, near, -0.026761752f), 0.11281684f), -0.3761248f), 0.12837915f);
  float far = fmaf(c, 1.1523134e-5f, -0.0003256631f);
  far = fmaf(c, fmaf(c, fmaf(c, fmaf(c, far, 0.0036538133f), -0.023785464f), 0.106263295f), 0.6351358f);
  far = fmaf(c, fmaf(c, far, 0.12865219f), c);
  // exp(-far), the base changed to 2: it is below 0.2 here, so that exp2's error hardly counts.
  far = 1.f - exp2_fast(-1.4426950408889634f * far);
  return t > 0.92f ? copysignf(far, x) : fmaf(x, near, x);
}
// Both forms of GELU and their derivatives: see src/ops/activation.rs.
DEVICE float gelu_erf(float z) { return 0.5f * z * (1.f + erf_of(z * 0.7071067811865476f)); }
DEVICE float gelu_erf_gradient(float z) {
  // exp(-z^2 / 2) / sqrt(2 pi), the base changed to 2.
  const float density = 0.3989422804014327f * exp2_fast(-0.7213475204444817f * z * z);
  return 0.5f * (1.f + erf_of(z * 0.7071067811865476f)) + z * density;
}
#define SQRT_2_PI 0.7978845608028654f
DEVICE float gelu_tanh(float z) { return 0.5f * z * (1.f + tanhf(SQRT_2_PI * (z + 0.044715f * z * z * z))); }
DEVICE float gelu_tanh_gradient(float z) {
  const float t = tanhf(SQRT_2_PI * (z + 0.044715f * z * z * z));
  return 0.5f * (1.f + t + z * SQRT_2_PI * (1.f + 0.134145f * z * z) * (1.f - t * t));
}
// The activations, by their numbers in src/ops/activation.rs: 0 none, 1 GELU by erf, 2 GELU by tanh, 3 ReLU,
// 4 tanh.
template <u32 ACT> DEVICE float activation(float z) {
  if constexpr (ACT == 1) return gelu_erf(z);
  if constexpr (ACT == 2) return gelu_tanh(z);
  if constexpr (ACT == 3) return z < 0.f ? 0.f : z;  // keeps a NaN
  if constexpr (ACT == 4) return tanhf(z);
  return z;
}
// The derivative at z, where y = activation(z). GELU reads z only, ReLU and tanh y only: a caller that keeps
// one of the two gives it for both.
template <u32 ACT> DEVICE float activation_gradient(float z, float y) {
  if constexpr (ACT == 1) return gelu_erf_gradient(z);
  if constexpr (ACT == 2) return gelu_tanh_gradient(z);
  if constexpr (ACT == 3) return y > 0.f ? 1.f : 0.f;
  if constexpr (ACT == 4) return 1.f - y * y;
  return 1.f;
}
// threadIdx.x % 32, but the compiler does not know how large it can be: where it does, it may make dp2a of a
// product of small numbers, with bytes that nobody has given a value and that do not count, which no checker
// can tell from a mistake.
DEVICE u32 lane_unknown() {
  u32 lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
DEVICE u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }
// The sequence that token t of a batch belongs to, by halving; the last one for a token beyond it. bounds
// (seqs + 1), seqs > 0.
DEVICE u32 sequence_of(const u32* bounds, u32 seqs, u32 t) {
  u32 low = 0, high = seqs;
  while (high - low > 1) {
    const u32 middle = (low + high) / 2;
    if (bounds[middle] <= t) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// ---- Sums over a warp and over a block, in one order.

DEVICE float warp_sum(float v) {
#pragma unroll
  for (u32 d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}
DEVICE float warp_max(float v) {
#pragma unroll
  for (u32 d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
  return v;
}
// Every thread of the block gets the sum. `parts` has 32 places in shared memory, free again after the call.
template <u32 WIDTH> DEVICE float block_sum(float v, float* parts) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  v = 0.f;
#pragma unroll
  for (u32 w = 0; w < WIDTH / 32; w++) v += parts[w];
  __syncthreads();
  return v;
}

// ---- Random numbers.

// Philox4x32-10 (Salmon et al. 2011), the CPU's bits.
DEVICE uint4 philox(uint4 c, u32 k0, u32 k1) {
#pragma unroll
  for (u32 round = 0; round < 10; round++) {
    const u32 h0 = __umulhi(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x;
    const u32 h1 = __umulhi(0xCD9E8D57u, c.z), l1 = 0xCD9E8D57u * c.z;
    c = make_uint4(h1 ^ c.y ^ k0, l1, h0 ^ c.w ^ k1, l0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// One dropout: what a kernel's Params say of it. `row` is the key's entry that rows are counted from.
struct Drop {
  u32 threshold, dropout_id, row;
  float scale;
};
// The random words of a block of eight columns of a row. `key` is seed low, seed high, step, first token,
// first sequence.
DEVICE uint4 drop_words(const Drop& d, const u32* key, u32 row, u32 block) {
  return philox(make_uint4(key[d.row] + row, block, d.dropout_id, key[2]), key[0], key[1]);
}
// 0 or 1 / (1 - p) for column c of that block, from its sixteen bits.
DEVICE float drop_factor(const Drop& d, const uint4& words, u32 c) {
  const u32 word = (c & 4u) ? ((c & 2u) ? words.w : words.z) : ((c & 2u) ? words.y : words.x);
  return (c & 1u ? word >> 16 : word & 0xffffu) < d.threshold ? 0.f : d.scale;
}

// ---- Shared memory and matrices.

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Neighbours in shared memory at once, for the reason above.
DEVICE void store_shared(float* p, float low, float high) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(shared_address(p)), "f"(low), "f"(high) : "memory");
}
DEVICE void store_shared(void* p, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(p)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
DEVICE void store_shared(void* p, const float (&v)[4]) {
  store_shared(p, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3])));
}
// Sixteen bytes from global to shared memory; what is beyond the first `bytes` becomes zero. Asynchronous
// from sm_80 on.
DEVICE void copy16(void* to, const void* from, u32 bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
#else
  store_shared(to, bytes == 16 ? *(const uint4*)from : make_uint4(0, 0, 0, 0));
#endif
}
// Four bytes likewise: what begins at no multiple of sixteen.
DEVICE void copy4(void* to, const void* from, u32 bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
#else
  *(u32*)to = bytes == 4 ? *(const u32*)from : 0;
#endif
}
DEVICE void copies_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most LEFT groups of copies are under way.
template <u32 LEFT> DEVICE void copies_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

// Four 8 x 8 matrices of 16-bit elements; lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i, 16
// bytes each. Lane 4 g + t gets, in r[i], two neighbours of matrix i, the first in the low half (PTX ISA,
// ldmatrix):
//
//   load_matrices              row g, columns 2 t and 2 t + 1
//   load_matrices_transposed   column g, rows 2 t and 2 t + 1
//
// so that a tile serves as an operand whichever way it is stored, and no lane has to exchange elements with
// another.
DEVICE void load_matrices(u32 (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}
DEVICE void load_matrices_transposed(u32 (&r)[4], const void* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(p))
               : "memory");
}

// d (16 x 8) += a (16 x 16) b (16 x 8): operands of type E, sums in f32. Lane 4 g + t (g 0 to 7, t 0 to 3)
// holds these elements (PTX ISA, m16n8k16), two to a register, the first in the low half:
//
//   a         columns 2t 2t+1   2t+8 2t+9       b      column g        d        columns 2t 2t+1
//   row g            a[0]         a[2]          rows 2t   2t+1   b0    row g         d[0] d[1]
//   row g + 8        a[1]         a[3]          rows 2t+8 2t+9   b1    row g + 8     d[2] d[3]
//
// The places in d are those of two registers of a: narrow2(d[0], d[1]) is a[0] of the next matmul,
// narrow2(d[2], d[3]) its a[1]. Attention multiplies scores by values that way, without shared memory.
template <class E> DEVICE void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <> __device__ __forceinline__ void multiply_add<bf16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
template <> __device__ __forceinline__ void multiply_add<f16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  // Turing has half the depth: a[0], a[1] and b0 hold the first eight of the sum, a[2], a[3] and b1 the rest.
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// ---- Hopper (sm_90a): copies of boxes that tell a barrier when they are there, and matmuls of a warpgroup,
// whose operands are in shared memory. On other architectures these do nothing, so that a kernel which uses
// them begins with hopper_only().

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HOPPER(...) asm volatile(__VA_ARGS__)
DEVICE void hopper_only() {}
#else
#define HOPPER(...)
DEVICE void hopper_only() { asm volatile("trap;"); }
#endif

// What cuTensorMapEncodeTiled makes; a kernel takes it as a __grid_constant__.
struct __align__(64) TensorMap {
  u64 words[16];
};

// A barrier has phases. A phase ends when all its arrivals have come and all bytes that were announced have
// landed; then the next one begins. A thread waits for the end of a phase by its parity, so nobody
// may fall two phases behind.
DEVICE void barrier_init(u64* b, u32 arrivals) {
  HOPPER("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
// To be called by the thread that initialised barriers, before a barrier of the block.
DEVICE void barriers_ready() { HOPPER("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(u64* b) {
  HOPPER("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// Arrives, and makes the phase wait for so many bytes of copies.
DEVICE void barrier_expect(u64* b, u32 bytes) {
  HOPPER("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
// Waits for the end of a phase: the first has parity 0, the next 1, and so on in turn.
DEVICE void barrier_wait(u64* b, u32 parity) {
  HOPPER("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(
             shared_address(b)),
         "r"(parity)
         : "memory");
}
// A barrier of the first `threads` threads of the block, by number.
DEVICE void barrier_part(u32 number, u32 threads) {
  HOPPER("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
// Brings the box at column x and row y; what is beyond the matrix becomes zero, and counts as brought.
DEVICE void load_box(void* to, const TensorMap& map, u64* b, u32 x, u32 y) {
  HOPPER("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
             shared_address(to)),
         "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y)
         : "memory");
}
// Makes what this thread wrote to shared memory visible to the products below, after a barrier. They read it
// through another path than loads and stores (the async proxy), which a barrier alone does not order.
DEVICE void wgmma_see() { HOPPER("fence.proxy.async.shared::cta;" ::: "memory"); }
// Before the first product, and after any other access to its sums: orders registers between threads' code
// and products.
DEVICE void wgmma_fence() { HOPPER("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { HOPPER("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <u32 LEFT> DEVICE void wgmma_wait() { HOPPER("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// Keeps the compiler from reading a sum before the wait that this follows.
DEVICE void hold(float& x) { HOPPER("" : "+f"(x)::"memory"); }

template <class E> constexpr bool BRAIN = false;
template <> constexpr bool BRAIN<bf16> = true;

#define SUMS_0 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SUMS_32 \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SUMS_64 \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79," \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define SUMS_96 \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define SUM_4(d) "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3])
#define SUM_32(d) \
  SUM_4((d)[0]), SUM_4((d)[1]), SUM_4((d)[2]), SUM_4((d)[3]), SUM_4((d)[4]), SUM_4((d)[5]), SUM_4((d)[6]), SUM_4((d)[7])
#define PRODUCT(N, TYPE, SUMS, REST) \
  "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" SUMS "}, " REST ";"

// d (64 x 8, 128 or 256) += a (64 x 16) b, for four warps together; warp w has rows 16 w to 16 w + 15. As
// with mma above, lane 4 g + t has in d[..][j] rows g and g + 8 of columns 8 j + 2 t and 8 j + 2 t + 1:
//
//   d[j / 8][j % 8]       columns 8j+2t  8j+2t+1
//   row 16w + g                  [0]      [1]
//   row 16w + g + 8              [2]      [3]
//
// a and b are in shared memory, each told by a descriptor (PTX ISA, wgmma "matrix descriptor format"), all
// addresses and distances in units of 16 bytes:
//
//   bits  0-13  where the operand begins
//        16-29  the leading distance       (linear.hopper.cu says what each of the two leads to)
//        32-45  the stride distance
//        62-63  swizzle: 0 none, 1 over 128 bytes
//
// A_ACROSS, B_ACROSS: 1 if neighbours in memory are neighbours across k. Ends with `wgmma_wait`.
template <class E, u32 A_ACROSS, u32 B_ACROSS> DEVICE void multiply_async(float (&d)[4], u64 a, u64 b) {
  if constexpr (BRAIN<E>) {
    HOPPER(PRODUCT("8", "bf16", "%0,%1,%2,%3", "%4, %5, 1, 1, 1, %6, %7") : SUM_4(d) : "l"(a), "l"(b), "n"(A_ACROSS), "n"(B_ACROSS));
  } else {
    HOPPER(PRODUCT("8", "f16", "%0,%1,%2,%3", "%4, %5, 1, 1, 1, %6, %7") : SUM_4(d) : "l"(a), "l"(b), "n"(A_ACROSS), "n"(B_ACROSS));
  }
}
template <class E, u32 A_ACROSS, u32 B_ACROSS> DEVICE void multiply_async(float (&d)[2][8][4], u64 a, u64 b) {
  if constexpr (BRAIN<E>) {
    HOPPER(PRODUCT("128", "bf16", SUMS_0 "," SUMS_32, "%64, %65, 1, 1, 1, %66, %67")
           : SUM_32(d[0]), SUM_32(d[1])
           : "l"(a), "l"(b), "n"(A_ACROSS), "n"(B_ACROSS));
  } else {
    HOPPER(PRODUCT("128", "f16", SUMS_0 "," SUMS_32, "%64, %65, 1, 1, 1, %66, %67")
           : SUM_32(d[0]), SUM_32(d[1])
           : "l"(a), "l"(b), "n"(A_ACROSS), "n"(B_ACROSS));
  }
}
template <class E, u32 A_ACROSS, u32 B_ACROSS> DEVICE void multiply_async(float (&d)[4][8][4], u64 a, u64 b) {
  if constexpr (BRAIN<E>) {
    HOPPER(PRODUCT("256", "bf16", SUMS_0 "," SUMS_32 "," SUMS_64 "," SUMS_96, "%128, %129, 1, 1, 1, %130, %131")
           : SUM_32(d[0]), SUM_32(d[1]), SUM_32(d[2]), SUM_32(d[3])
           : "l"(a), "l"(b), "n"(A_ACROSS), "n"(B_ACROSS));
  } else {
    HOPPER(PRODUCT("256", "f16", SUMS_0 "," SUMS_32 "," SUMS_64 "," SUMS_96, "%128, %129, 1, 1, 1, %130, %131")
           : SUM_32(d[0]), SUM_32(d[1]), SUM_32(d[2]), SUM_32(d[3])
           : "l"(a), "l"(b), "n"(A_ACROSS), "n"(B_ACROSS));
  }
}
