#include "common.cuh"
// Products of single instructions, fragments read and written as the PTX ISA lays them out: C[m, 8] = A[m, k]
// B[8, k]
// + C. Operands are words in memory: two halves, four bytes or one tf32 each.
#define PRODUCT(name, instruction, M, K, EACH, A_REGS, B_REGS)                                                       \
  extern "C" __global__ void name(const u32* __restrict__ A, const u32* __restrict__ B, u32* __restrict__ C) {       \
    const int g = threadIdx.x / 4, t = threadIdx.x % 4, words = K / EACH;                                            \
    u32 a[4], b[2], c[4];                                                                                            \
    for (int i = 0; i < A_REGS; i++) a[i] = A[(g + 8 * (i % (M / 8))) * words + t + i / (M / 8) * 4];                \
    for (int i = 0; i < B_REGS; i++) b[i] = B[g * words + t + i * 4];                                                \
    for (int i = 0; i < M / 4; i++) c[i] = C[(g + i / 2 * 8) * 8 + t * 2 + i % 2];                                   \
    instruction;                                                                                                     \
    for (int i = 0; i < M / 4; i++) C[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = c[i];                                   \
  }
#define SUMS "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
#define D4 "{%0,%1,%2,%3}, "
#define A2B1(op) asm volatile(op " " D4 "{%4,%5}, {%6}, {%0,%1,%2,%3};" : SUMS : "r"(a[0]), "r"(a[1]), "r"(b[0]))
#define A4B2(op)                                                                              \
  asm volatile(op " " D4 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                             \
               : SUMS                                                                         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
PRODUCT(bf16_k8, A2B1("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32"), 16, 8, 2, 2, 1)
PRODUCT(bf16_k16, A4B2("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"), 16, 16, 2, 4, 2)
PRODUCT(tf32_k4, A2B1("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32"), 16, 4, 1, 2, 1)
PRODUCT(tf32_k8, A4B2("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"), 16, 8, 1, 4, 2)
PRODUCT(s8_k16, A2B1("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32"), 16, 16, 4, 2, 1)
PRODUCT(s8_k32, A4B2("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32"), 16, 32, 4, 4, 2)

// What lanes do together; one word each way.
extern "C" __global__ void lanes(const int* __restrict__ x, int* __restrict__ y) {
  const int lane = threadIdx.x, v = x[lane];
  y[lane] = __reduce_add_sync(~0u, v);
  y[32 + lane] = __reduce_min_sync(~0u, v);
  y[64 + lane] = __reduce_max_sync(~0u, (unsigned)v);
  y[96 + lane] = __match_any_sync(~0u, v % 3);
  y[128 + lane] = __shfl_up_sync(~0u, v, 3, 16);
  y[160 + lane] = __shfl_down_sync(~0u, v, 5);
  y[192 + lane] = __shfl_sync(~0u, v, lane * 7, 8);
  y[224 + lane] = __any_sync(~0u, v > 90) + 2 * __all_sync(~0u, v > -1000);
  y[256 + lane] = __funnelshift_l(v, 0x12345678, lane);
  y[288 + lane] = __byte_perm(v, 0x89abcdef, 0x7341);
  y[320 + lane] = __dp4a(v, 0x01fe0380, lane);
  y[352 + lane] = __brev(v) ^ __clz(v | 1) ^ __ffs(v | 256);
  y[384 + lane] = __dp2a_lo(v * 70001, 0x01fe0380, lane);
  y[416 + lane] = __dp2a_hi((unsigned)(v * 70001), 0x81fe0380u, (unsigned)lane);
}
