// t = 0 where a pruning mask is 0: see src/ops/zero_masked.rs.

struct Params {
    // Rows and columns of t; columns of the mask; rows and columns of a block.
    rows: u32,
    cols: u32,
    across: u32,
    block_rows: u32,
    block_cols: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> t: array<f32>;
@group(0) @binding(1) var<storage, read_write> m: array<f32>;

@compute @workgroup_size(THREADS)
fn zero_masked(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
               @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    if (i >= p.rows * p.cols) {
        return;
    }
    if (m[i / p.cols / p.block_rows * p.across + i % p.cols / p.block_cols] == 0.0) {
        t[i] = 0.0;
    }
}
