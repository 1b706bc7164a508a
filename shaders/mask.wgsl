// y = m w, where an element of m belongs to a block of w: see src/ops/mask.rs.

struct Params {
    // Rows and columns of w; columns of the mask; rows and columns of a block.
    rows: u32,
    cols: u32,
    across: u32,
    block_rows: u32,
    block_cols: u32,
    add: u32,
}
var<immediate> p: Params;

// In the backward pass: dy for dw, w for dm.
@group(0) @binding(0) var<storage, read_write> w: array<f32>;
// In the backward pass for dm: dy.
@group(0) @binding(1) var<storage, read_write> m: array<f32>;
// In the backward pass: dw or dm.
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    if (i >= p.rows * p.cols) {
        return;
    }
    let mask = m[i / p.cols / p.block_rows * p.across + i % p.cols / p.block_cols];
    let v = mask * w[i];
    y[i] = select(v, y[i] + v, p.add == 1u);
}

// Where element e of block i is.
fn place(i: u32, e: u32) -> u32 {
    let row = i / p.across * p.block_rows + e / p.block_cols;
    return row * p.cols + i % p.across * p.block_cols + e % p.block_cols;
}

// dm = sum of w dy over a block; one invocation a block.
@compute @workgroup_size(THREADS)
fn sum_few(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    if (i / p.across * p.block_rows >= p.rows) {
        return;
    }
    var sum = 0.0;
    for (var e = 0u; e < p.block_rows * p.block_cols; e++) {
        let at = place(i, e);
        sum += w[at] * m[at];
    }
    y[i] = select(sum, y[i] + sum, p.add == 1u);
}

// The same with one group a block, whose elements its invocations take in turn.
@compute @workgroup_size(THREADS)
fn sum_block(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
             @builtin(local_invocation_index) li: u32) {
    let i = group.x + group.y * count.x;
    if (i / p.across * p.block_rows >= p.rows) {
        return;
    }
    var sum = 0.0;
    for (var e = li; e < p.block_rows * p.block_cols; e += THREADS) {
        let at = place(i, e);
        sum += w[at] * m[at];
    }
    sum = block_sum_in_order(li, sum);
    if (li == 0u) {
        y[i] = select(sum, y[i] + sum, p.add == 1u);
    }
}
