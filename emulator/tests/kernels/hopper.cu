#include "common.cuh"
// C[m, n] = sum_k A[m, k] B[n, k] on Hopper: TMA brings tiles of 64 x 64 and 128 x 64 (swizzled over 128
// bytes), a warp produces, four consume with wgmma; the result goes out through shared memory and TMA.
struct __align__(64) Map {
  u64 words[16];
};
#define STAGES 3
#define TILE_A (64 * 64 * 2)
#define TILE_B (128 * 64 * 2)
DEVICE void expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void wait(u32 barrier, u32 parity) {
  asm volatile("{\n.reg .pred done;\nAGAIN: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(barrier),
               "r"(parity)
               : "memory");
}
DEVICE void load_tile(u32 to, const Map* map, u32 barrier, int k, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(k), "r"(row)
      : "memory");
}
// Rows of 128 bytes, swizzled; groups of eight rows are 1,024 bytes apart.
DEVICE u64 describe(u32 at) { return (u64)(at >> 4 & 0x3fff) | 1ull << 16 | 64ull << 32 | 1ull << 62; }
DEVICE void wgmma_64(float d[32], u64 a, u64 b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31},"
      " %32, %33, 1, 1, 1, 0, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
        "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]),
        "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b));
}
extern "C" __global__ void __launch_bounds__(160)
hopper(const __grid_constant__ Map map_a, const __grid_constant__ Map map_b, const __grid_constant__ Map map_c, int K) {
  extern __shared__ __align__(1024) u8 tiles[];
  __shared__ u64 full[STAGES], empty[STAGES];
  const u32 base = shared_address(tiles), out = base + STAGES * (TILE_A + TILE_B);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, steps = (K + 63) / 64;
  const int m0 = blockIdx.y * 64, n0 = blockIdx.x * 128;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&full[i])) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 4;" ::"r"(shared_address(&empty[i])) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (warp == 4) {
    if (lane == 0)
      for (int s = 0; s < steps; s++) {
        const int stage = s % STAGES;
        if (s >= STAGES) wait(shared_address(&empty[stage]), (s / STAGES - 1) & 1);
        const u32 bar = shared_address(&full[stage]), at = base + stage * (TILE_A + TILE_B);
        expect(bar, TILE_A + TILE_B);
        load_tile(at, &map_a, bar, s * 64, m0);
        load_tile(at + TILE_A, &map_b, bar, s * 64, n0);
      }
    return;
  }
  float sum[2][32] = {};
  for (int s = 0; s < steps; s++) {
    const int stage = s % STAGES;
    wait(shared_address(&full[stage]), s / STAGES & 1);
    const u32 a = base + stage * (TILE_A + TILE_B), b = a + TILE_A;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int k = 0; k < 4; k++) {
      wgmma_64(sum[0], describe(a + k * 32), describe(b + k * 32));
      wgmma_64(sum[1], describe(a + k * 32), describe(b + 64 * 128 + k * 32));
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    if (lane == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&empty[stage])) : "memory");
  }
  half_t* tile = (half_t*)(tiles + STAGES * (TILE_A + TILE_B));
#pragma unroll
  for (int part = 0; part < 2; part++)
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = warp * 16 + lane / 4 + h * 8, col = part * 64 + j * 8 + lane % 4 * 2;
        *(u32*)(tile + row * 128 + col) = narrow2(sum[part][j * 4 + h * 2], sum[part][j * 4 + h * 2 + 1]);
      }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  asm volatile("bar.sync 1, 128;" ::: "memory");
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map_c), "r"(out), "r"(n0), "r"(m0)
                 : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}
