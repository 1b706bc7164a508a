#include "common.cuh"
// Producers and consumers: half of the warps copy, the others add up; mbarriers and named barriers between
// them. y[b] = sum of x over block b's stretch of n.
#define PART 256
DEVICE void barrier_init(u64* b, int n) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(n) : "memory");
}
DEVICE void barrier_arrive(u64* b) {
  u64 state;
  asm volatile("mbarrier.arrive.shared.b64 %0, [%1];" : "=l"(state) : "r"(shared_address(b)) : "memory");
}
DEVICE void barrier_wait(u64* b, u32 parity) {
  u32 ready;
  do {
    asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.b32 %0, 1, 0, p;\n}"
                 : "=r"(ready) : "r"(shared_address(b)), "r"(parity) : "memory");
  } while (!ready);
}
extern "C" __global__ void __launch_bounds__(128)
pipeline(const float* __restrict__ x, float* __restrict__ y, int n) {
  __shared__ __align__(16) float part[2][PART];
  __shared__ u64 full[2], empty[2];
  __shared__ float sums[2];
  const int steps = n / PART;
  x += (size_t)blockIdx.x * n;
  if (threadIdx.x == 0)
    for (int i = 0; i < 2; i++) {
      barrier_init(&full[i], 64);
      barrier_init(&empty[i], 64);
    }
  __syncthreads();
  if (threadIdx.x < 64) {
    for (int s = 0; s < steps; s++) {
      if (s >= 2) barrier_wait(&empty[s % 2], (s / 2 - 1) & 1);
      copy16(&part[s % 2][threadIdx.x * 4], x + s * PART + threadIdx.x * 4, 16);
      asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(&full[s % 2])) : "memory");
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
  } else {
    const int t = threadIdx.x - 64;
    float sum = 0.f;
    for (int s = 0; s < steps; s++) {
      barrier_wait(&full[s % 2], s / 2 & 1);
      for (int i = t; i < PART; i += 64) sum += part[s % 2][i];
      barrier_arrive(&empty[s % 2]);
    }
    sum = sum_lanes<32>(sum);
    if (t % 32 == 0) sums[t / 32] = sum;
    asm volatile("bar.sync 1, 64;" ::: "memory");
    if (t == 0) y[blockIdx.x] = sums[0] + sums[1];
  }
}
