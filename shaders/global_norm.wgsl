// norm = sqrt(sum g^2): see src/ops/global_norm.rs. Sums of chunks first, then their sum; one order.

const CHUNK = 8192u;

struct Params {
    n: u32,
    // Where this launch's sums go.
    first: u32,
    chunks: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> grad: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(0) @binding(2) var<storage, read_write> norm: array<f32>;

@compute @workgroup_size(THREADS)
fn sum_chunk(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let end = min(p.n, (group.x + 1u) * CHUNK);
    var sum = 0.0;
    for (var i = group.x * CHUNK + li; i < end; i += THREADS) {
        sum = fma(grad[i], grad[i], sum);
    }
    let all = block_sum(li, sum);
    if (li == 0u) {
        sums[p.first + group.x] = all;
    }
}

// One group.
@compute @workgroup_size(THREADS)
fn finish(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var i = li; i < p.chunks; i += THREADS) {
        sum += sums[i];
    }
    let all = block_sum(li, sum);
    if (li == 0u) {
        norm[0] = sqrt(all);
    }
}
