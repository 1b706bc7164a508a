// y = act(x w^T + b) and its gradients: see src/ops/linear. Constants: BIAS and KEEP (0 or 1), ACT (see the
// prelude), A_DOWN and B_DOWN (whether neighbours in memory are neighbours along the summed dimension),
// THREADS.

const TILE = 64u;
const DEPTH = 16u;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    a_row: u32,
    a_col: u32,
    b_row: u32,
    b_col: u32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<storage, read_write> bias: array<f32>;
// What the backward pass needs: the sum before the activation.
@group(0) @binding(4) var<storage, read_write> kept: array<f32>;

fn put(row: u32, col: u32, sum: f32) {
    if (row < p.m && col < p.n) {
        var z = sum;
        if (BIAS == 1u) {
            z += bias[col];
        }
        let to = row * p.n + col;
        if (KEEP == 1u) {
            kept[to] = z;
        }
        z = activation(ACT, z);
        if (p.add == 1u) {
            z += c[to];
        }
        c[to] = z;
    }
}
fn put4(row: u32, col: u32, v: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        put(row, col + i, v[i]);
    }
}

var<workgroup> sa: array<f32, 1024>;
var<workgroup> sb: array<f32, 1024>;

fn columns(at: u32) -> vec4<f32> {
    return vec4<f32>(sb[at], sb[at + 1u], sb[at + 2u], sb[at + 3u]);
}

// A tile of 64 x 64 by 64 invocations, each with eight rows and two times four columns; the sum goes on in
// steps of 16.
@compute @workgroup_size(64)
fn matmul(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row0 = group.y * TILE;
    let col0 = group.x * TILE;
    let tx = (li & 7u) * 4u;
    let ty = (li >> 3u) * 8u;
    var l0 = vec4<f32>(); var l1 = vec4<f32>(); var l2 = vec4<f32>(); var l3 = vec4<f32>();
    var l4 = vec4<f32>(); var l5 = vec4<f32>(); var l6 = vec4<f32>(); var l7 = vec4<f32>();
    var h0 = vec4<f32>(); var h1 = vec4<f32>(); var h2 = vec4<f32>(); var h3 = vec4<f32>();
    var h4 = vec4<f32>(); var h5 = vec4<f32>(); var h6 = vec4<f32>(); var h7 = vec4<f32>();
    for (var k0 = 0u; k0 < p.k; k0 += DEPTH) {
        for (var i = 0u; i < 16u; i++) {
            let e = li + i * 64u;
            var r = e & 63u;
            var q = e >> 6u;
            if (A_DOWN == 1u) {
                r = e >> 4u;
                q = e & 15u;
            }
            var v = 0.0;
            if (row0 + r < p.m && k0 + q < p.k) {
                v = a[(row0 + r) * p.a_row + (k0 + q) * p.a_col];
            }
            sa[q * TILE + r] = v;
            r = e & 63u;
            q = e >> 6u;
            if (B_DOWN == 1u) {
                r = e >> 4u;
                q = e & 15u;
            }
            v = 0.0;
            if (col0 + r < p.n && k0 + q < p.k) {
                v = b[(k0 + q) * p.b_row + (col0 + r) * p.b_col];
            }
            sb[q * TILE + r] = v;
        }
        workgroupBarrier();
        for (var q = 0u; q < DEPTH; q++) {
            let at = q * TILE + ty;
            let low = columns(q * TILE + tx);
            let high = columns(q * TILE + 32u + tx);
            let a0 = vec4<f32>(sa[at]); l0 = fma(a0, low, l0); h0 = fma(a0, high, h0);
            let a1 = vec4<f32>(sa[at + 1u]); l1 = fma(a1, low, l1); h1 = fma(a1, high, h1);
            let a2 = vec4<f32>(sa[at + 2u]); l2 = fma(a2, low, l2); h2 = fma(a2, high, h2);
            let a3 = vec4<f32>(sa[at + 3u]); l3 = fma(a3, low, l3); h3 = fma(a3, high, h3);
            let a4 = vec4<f32>(sa[at + 4u]); l4 = fma(a4, low, l4); h4 = fma(a4, high, h4);
            let a5 = vec4<f32>(sa[at + 5u]); l5 = fma(a5, low, l5); h5 = fma(a5, high, h5);
            let a6 = vec4<f32>(sa[at + 6u]); l6 = fma(a6, low, l6); h6 = fma(a6, high, h6);
            let a7 = vec4<f32>(sa[at + 7u]); l7 = fma(a7, low, l7); h7 = fma(a7, high, h7);
        }
        workgroupBarrier();
    }
    let row = row0 + ty;
    let col = col0 + tx;
    put4(row, col, l0); put4(row, col + 32u, h0);
    put4(row + 1u, col, l1); put4(row + 1u, col + 32u, h1);
    put4(row + 2u, col, l2); put4(row + 2u, col + 32u, h2);
    put4(row + 3u, col, l3); put4(row + 3u, col + 32u, h3);
    put4(row + 4u, col, l4); put4(row + 4u, col + 32u, h4);
    put4(row + 5u, col, l5); put4(row + 5u, col + 32u, h5);
    put4(row + 6u, col, l6); put4(row + 6u, col + 32u, h6);
    put4(row + 7u, col, l7); put4(row + 7u, col + 32u, h7);
}

// The same without workgroup memory, for software drivers, where that is slow and a load that is the same for
// the whole group is cheap: each invocation has 16 rows, and of the columns every THREADS-th, two in all.
// Groups that follow each other share columns. b's columns lie side by side (b_col is 1).
const ROWS = 16u;
const COLS = 2u;
const STEP = 4u;

@compute @workgroup_size(THREADS)
fn matmul_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row0 = group.x * ROWS;
    let col0 = group.y * THREADS * COLS + li;
    var rows: array<u32, ROWS>;
    var cols: array<u32, COLS>;
    var sums: array<f32, ROWS * COLS>;
    for (var r = 0u; r < ROWS; r++) {
        rows[r] = min(row0 + r, p.m - 1u) * p.a_row;
    }
    for (var i = 0u; i < COLS; i++) {
        cols[i] = min(col0 + i * THREADS, p.n - 1u);
    }
    let whole = p.k - p.k % STEP;
    for (var k0 = 0u; k0 < whole; k0 += STEP) {
        for (var u = 0u; u < STEP; u++) {
            let k = k0 + u;
            var x: array<f32, COLS>;
            for (var i = 0u; i < COLS; i++) {
                x[i] = b[k * p.b_row + cols[i]];
            }
            for (var r = 0u; r < ROWS; r++) {
                let y = a[rows[r] + k * p.a_col];
                for (var i = 0u; i < COLS; i++) {
                    sums[r * COLS + i] = fma(y, x[i], sums[r * COLS + i]);
                }
            }
        }
    }
    for (var k = whole; k < p.k; k++) {
        for (var r = 0u; r < ROWS; r++) {
            let y = a[rows[r] + k * p.a_col];
            for (var i = 0u; i < COLS; i++) {
                sums[r * COLS + i] = fma(y, b[k * p.b_row + cols[i]], sums[r * COLS + i]);
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        for (var i = 0u; i < COLS; i++) {
            put(row0 + r, col0 + i * THREADS, sums[r * COLS + i]);
        }
    }
}

// c (k, n) = b, with the columns side by side; a row of groups a row of c.
@compute @workgroup_size(THREADS)
fn transpose(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let col = group.x * THREADS + li;
    if (col < p.n) {
        for (var k = group.y; k < p.k; k += 65535u) {
            c[k * p.n + col] = b[k * p.b_row + col * p.b_col];
        }
    }
}

// dz = dy act'(z): a is dy, b what was kept, c dz; m n elements.
@compute @workgroup_size(THREADS)
fn derive(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
          @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    if (i < p.m * p.n) {
        c[i] = a[i] * activation_gradient(ACT, b[i], b[i]);
    }
}

// db = column sums of dz: a is dz (m, n), c is db (n), b holds the partial sums (ceil(m / 64), n) in between.
@compute @workgroup_size(THREADS)
fn sum_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let col = group.x * THREADS + li;
    if (col < p.n) {
        let end = min(p.m, (group.y + 1u) * 64u);
        var sum = 0.0;
        for (var r = group.y * 64u; r < end; r++) {
            sum += a[r * p.n + col];
        }
        b[group.y * p.n + col] = sum;
    }
}
@compute @workgroup_size(THREADS)
fn sum_parts(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let col = group.x * THREADS + li;
    if (col < p.n) {
        var sum = 0.0;
        for (var r = 0u; r < (p.m + 63u) / 64u; r++) {
            sum += b[r * p.n + col];
        }
        if (p.add == 1u) {
            sum += c[col];
        }
        c[col] = sum;
    }
}
