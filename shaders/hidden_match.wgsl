// loss = scale sum_r w_r m_r, the distance of a student's rows from a teacher's: see src/ops/hidden_match.rs.
// Constants: COSINE (0: mean square, 1: 1 - cosine). One group a row.

struct Params {
    rows: u32,
    cols: u32,
    add: u32,
    inverse: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> student: array<f32>;
@group(0) @binding(1) var<storage, read_write> teacher: array<f32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;
// (3, rows) with COSINE: 1 / norm of the student's row, of the teacher's, their distance.
@group(0) @binding(4) var<storage, read_write> saved: array<f32>;
// In the backward pass: dloss.
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
// The loss of each row; in the backward pass: the student's gradient.
@group(0) @binding(6) var<storage, read_write> each: array<f32>;

const EPS: f32 = 1e-12;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let row = group.x + group.y * count.x;
    if (row >= p.rows) {
        return;
    }
    let at = row * p.cols;
    var m = 0.0;
    if (COSINE == 1u) {
        var ss = 0.0;
        var tt = 0.0;
        for (var c = li; c < p.cols; c += THREADS) {
            ss += student[at + c] * student[at + c];
            tt += teacher[at + c] * teacher[at + c];
        }
        let of_s = 1.0 / sqrt(block_sum(li, ss) + EPS);
        let of_t = 1.0 / sqrt(block_sum(li, tt) + EPS);
        for (var c = li; c < p.cols; c += THREADS) {
            let d = of_s * student[at + c] - of_t * teacher[at + c];
            m += d * d;
        }
        m = 0.5 * (block_sum(li, m) + (EPS * of_s * of_s + EPS * of_t * of_t));
        if (li == 0u) {
            saved[row] = of_s;
            saved[p.rows + row] = of_t;
            saved[2u * p.rows + row] = m;
        }
    } else {
        for (var c = li; c < p.cols; c += THREADS) {
            let d = student[at + c] - teacher[at + c];
            m += d * d;
        }
        m = p.inverse * block_sum(li, m);
    }
    if (li == 0u) {
        // Whatever a row of weight 0 holds, it does not count.
        each[row] = select(weights[row] * m, 0.0, weights[row] == 0.0);
    }
}

@compute @workgroup_size(THREADS)
fn sum_rows(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var r = li; r < p.rows; r += THREADS) {
        sum += each[r];
    }
    sum = block_sum_in_order(li, sum);
    if (li == 0u) {
        loss[0] = scale[0] * sum;
    }
}

// ds = dloss scale w 2 / d (s - t), or dloss scale w p (p s - q t - m p s).
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let row = group.x + group.y * count.x;
    if (row >= p.rows) {
        return;
    }
    let at = row * p.cols;
    let w = weights[row];
    var of_s = 1.0;
    var of_t = 1.0;
    var m = 0.0;
    var rate = scale[0] * loss[0] * w;
    if (COSINE == 1u) {
        of_s = saved[row];
        of_t = saved[p.rows + row];
        m = saved[2u * p.rows + row];
        rate *= of_s;
    } else {
        rate *= 2.0 * p.inverse;
    }
    for (var c = li; c < p.cols; c += THREADS) {
        let own = of_s * student[at + c];
        var d = rate * (own - of_t * teacher[at + c] - m * own);
        d = select(d, 0.0, w == 0.0);
        each[at + c] = select(d, each[at + c] + d, p.add == 1u);
    }
}
