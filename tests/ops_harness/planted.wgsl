// y[s] = mean of exp(x) over sequence s, with one mistake: the numbers are those of `Mistake` in planted.rs.

struct Params {
    rows: u32,
    cols: u32,
    seqs: u32,
    add: u32,
    runs: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> bounds: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> dy: array<f32>;

@compute @workgroup_size(64)
fn forward(@builtin(local_invocation_index) li: u32) {
    for (var i = li; i < p.seqs * p.cols; i += 64u) {
        let s = i / p.cols;
        var sum = 0.0;
        for (var t = bounds[s]; t < bounds[s + 1u]; t++) {
            sum += exp(x[t * p.cols + i % p.cols]);
        }
        y[i] = sum / f32(max(bounds[s + 1u] - bounds[s], 1u));
    }
    workgroupBarrier();
    if (li == 0u) {
        switch MISTAKE {
            case 9u: { y[0] *= 1.0 + 2e-7 * f32(p.runs); }
            case 10u: { y[0] = round(y[0] * 100.0) / 100.0; }
            case 11u: { x[0] = 0.0; }
            case 12u: { y[0] = bitcast<f32>(0x7fc00000u + (p.rows & 1u)); }
            default: {}
        }
    }
}

// y is dx.
@compute @workgroup_size(64)
fn backward(@builtin(local_invocation_index) li: u32) {
    for (var i = li; i < p.rows * p.cols; i += 64u) {
        let t = i / p.cols;
        let c = i % p.cols;
        if (MISTAKE == 2u && t + 1u == p.rows) {
            continue;
        }
        var s = 0u;
        for (var q = 0u; q < p.seqs; q++) {
            if (bounds[q + 1u] <= t) {
                s = q + 1u;
            }
        }
        let len = f32(bounds[s + 1u] - bounds[s]);
        if (MISTAKE == 1u && t + 1u == bounds[s + 1u]) {
            s = min(s + 1u, p.seqs - 1u);
        }
        let column = select(c, 1u - c, MISTAKE == 4u && c < 2u);
        var d = select(dy[s * p.cols + column], 1.0, MISTAKE == 7u);
        d *= select(1.0 / len, 1.0, MISTAKE == 3u) * exp(x[i]);
        if (MISTAKE == 8u) {
            d = 0.0;
        }
        let add = (p.add == 1u || MISTAKE == 6u) && MISTAKE != 5u;
        y[i] = select(d, y[i] + d, add);
    }
}
