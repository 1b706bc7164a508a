// y = drop_after(gamma (z - mean) rstd + beta), z = drop_before(x) + residual: see src/ops/add_norm.rs.
// Constants: RESIDUAL, BIAS (is there a beta), DX, DRES (0 or 1), THREADS. One group a row; an invocation
// owns blocks of eight columns.

struct Params {
    before: Drop,
    after: Drop,
    rows: u32,
    cols: u32,
    eps: f32,
    add_x: u32,
    add_residual: u32,
    add_gamma: u32,
    add_beta: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> gamma: array<f32>;
@group(0) @binding(2) var<storage, read_write> beta: array<f32>;
@group(0) @binding(3) var<storage, read_write> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> key: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> xhat: array<f32>;
@group(0) @binding(7) var<storage, read_write> rstd: array<f32>;

fn words(d: Drop, row: u32, block: u32) -> vec4<u32> {
    return philox(vec4<u32>(key[d.row] + row, block, d.dropout_id, key[2]), vec2<u32>(key[0], key[1]));
}

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let row = group.x + group.y * count.x;
    let real = row < p.rows;
    let start = row * p.cols;
    let blocks = select(0u, (p.cols + 7u) / 8u, real);
    var sum = 0.0;
    for (var b = li; b < blocks; b += THREADS) {
        var w = vec4<u32>();
        if (p.before.threshold > 0u) {
            w = words(p.before, row, b);
        }
        for (var c = b * 8u; c < min(p.cols, b * 8u + 8u); c++) {
            var z = x[start + c];
            if (p.before.threshold > 0u) {
                z *= factor(p.before, w, c);
            }
            if (RESIDUAL == 1u) {
                z += residual[start + c];
            }
            xhat[start + c] = z;
            sum += z;
        }
    }
    let mean = block_sum(li, sum) / f32(p.cols);
    sum = 0.0;
    for (var b = li; b < blocks; b += THREADS) {
        for (var c = b * 8u; c < min(p.cols, b * 8u + 8u); c++) {
            let d = xhat[start + c] - mean;
            sum += d * d;
        }
    }
    let r = 1.0 / sqrt(block_sum(li, sum) / f32(p.cols) + p.eps);
    if (real && li == 0u) {
        rstd[row] = r;
    }
    for (var b = li; b < blocks; b += THREADS) {
        var w = vec4<u32>();
        if (p.after.threshold > 0u) {
            w = words(p.after, row, b);
        }
        for (var c = b * 8u; c < min(p.cols, b * 8u + 8u); c++) {
            let z = (xhat[start + c] - mean) * r;
            xhat[start + c] = z;
            var v = gamma[c] * z;
            if (BIAS == 1u) {
                v = fma(gamma[c], z, beta[c]);
            }
            if (p.after.threshold > 0u) {
                v *= factor(p.after, w, c);
            }
            y[start + c] = v;
        }
    }
}

// dz = rstd (g - mean(g) - xhat mean(g xhat)), g = drop_after(dy) gamma. x is dx, residual is dresidual, y is
// dy.
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let row = group.x + group.y * count.x;
    let real = row < p.rows;
    let start = row * p.cols;
    let blocks = select(0u, (p.cols + 7u) / 8u, real);
    var sum = 0.0;
    var along = 0.0;
    for (var b = li; b < blocks; b += THREADS) {
        var w = vec4<u32>();
        if (p.after.threshold > 0u) {
            w = words(p.after, row, b);
        }
        for (var c = b * 8u; c < min(p.cols, b * 8u + 8u); c++) {
            var g = y[start + c] * gamma[c];
            if (p.after.threshold > 0u) {
                g *= factor(p.after, w, c);
            }
            sum += g;
            along += g * xhat[start + c];
        }
    }
    let mean = block_sum(li, sum) / f32(p.cols);
    let tilt = block_sum(li, along) / f32(p.cols);
    for (var b = li; b < blocks; b += THREADS) {
        var w = vec4<u32>();
        if (p.after.threshold > 0u) {
            w = words(p.after, row, b);
        }
        var v = vec4<u32>();
        if (p.before.threshold > 0u) {
            v = words(p.before, row, b);
        }
        for (var c = b * 8u; c < min(p.cols, b * 8u + 8u); c++) {
            let at = start + c;
            var g = y[at] * gamma[c];
            if (p.after.threshold > 0u) {
                g *= factor(p.after, w, c);
            }
            let dz = (g - mean - xhat[at] * tilt) * rstd[row];
            if (DRES == 1u) {
                residual[at] = select(dz, residual[at] + dz, p.add_residual == 1u);
            }
            if (DX == 1u) {
                var d = dz;
                if (p.before.threshold > 0u) {
                    d *= factor(p.before, v, c);
                }
                x[at] = select(d, x[at] + d, p.add_x == 1u);
            }
        }
    }
}

// dgamma = sum drop_after(dy) xhat, dbeta = sum drop_after(dy): first by blocks of 64 rows into x (blocks, 2
// cols), an invocation for eight columns; then over the blocks.
@compute @workgroup_size(THREADS)
fn sum_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let block = group.x * THREADS + li;
    let first = block * 8u;
    if (first >= p.cols) {
        return;
    }
    let cols = min(8u, p.cols - first);
    var scaled: array<f32, 8>;
    var plain: array<f32, 8>;
    for (var r = group.y * 64u; r < min(p.rows, group.y * 64u + 64u); r++) {
        var w = vec4<u32>();
        if (p.after.threshold > 0u) {
            w = words(p.after, r, block);
        }
        for (var i = 0u; i < cols; i++) {
            let at = r * p.cols + first + i;
            var d = y[at];
            if (p.after.threshold > 0u) {
                d *= factor(p.after, w, first + i);
            }
            scaled[i] += d * xhat[at];
            plain[i] += d;
        }
    }
    for (var i = 0u; i < cols; i++) {
        x[group.y * 2u * p.cols + first + i] = scaled[i];
        x[(group.y * 2u + 1u) * p.cols + first + i] = plain[i];
    }
}
// gamma is dgamma where DX is 1, beta is dbeta where DRES is 1.
@compute @workgroup_size(THREADS)
fn sum_parts(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let c = group.x * THREADS + li;
    if (c >= p.cols) {
        return;
    }
    var scaled = 0.0;
    var plain = 0.0;
    for (var b = 0u; b < (p.rows + 63u) / 64u; b++) {
        scaled += x[b * 2u * p.cols + c];
        plain += x[(b * 2u + 1u) * p.cols + c];
    }
    if (DX == 1u) {
        gamma[c] = select(scaled, gamma[c] + scaled, p.add_gamma == 1u);
    }
    if (DRES == 1u) {
        beta[c] = select(plain, beta[c] + plain, p.add_beta == 1u);
    }
}
