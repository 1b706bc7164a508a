// loss = scale sum_i w_i T^2 KL(p_i || q_i), p = softmax(t / T), q = softmax(s / T): see
// src/ops/soft_cross_entropy.rs.

struct Params {
    rows: u32,
    classes: u32,
    add: u32,
    temperature: f32,
    inverse: f32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> student: array<f32>;
@group(0) @binding(1) var<storage, read_write> teacher: array<f32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> scale: array<f32>;
// (2, rows): log sum exp of the teacher's and of the student's logits over T.
@group(0) @binding(4) var<storage, read_write> saved: array<f32>;
// In the backward pass: dloss.
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
// The loss of each row; in the backward pass: the gradient of the student's logits.
@group(0) @binding(6) var<storage, read_write> each: array<f32>;

// x y, and 0 for x = 0 also where y is infinite: the limit of p ln p.
fn times(x: f32, y: f32) -> f32 {
    if (x == 0.0) {
        return 0.0;
    }
    return x * y;
}

// The largest number so far, and the sum of exp(z - most), with another number.
fn online(o: vec2<f32>, z: f32) -> vec2<f32> {
    if (z > o.x) {
        return vec2<f32>(z, o.y * exp(o.x - z) + 1.0);
    }
    return vec2<f32>(o.x, o.y + exp(z - o.x));
}

// p d - p + q = p (d + exp(-d) - 1) of a class, by the series where d = ln p - ln q is small.
fn term(lp: f32, lq: f32) -> f32 {
    let prob = exp(lp);
    let d = lp - lq;
    if (abs(d) < 0.125) {
        let tail = 1.0 / 24.0 - d * (1.0 / 120.0 - d * (1.0 / 720.0 - d * (1.0 / 5040.0)));
        return prob * (d * d * (0.5 - d * (1.0 / 6.0 - d * tail)));
    }
    return times(prob, d) - prob + exp(lq);
}

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.classes;
    var of_t = vec2<f32>(-3.0e38, 0.0);
    var of_s = of_t;
    for (var c = 0u; c < p.classes; c++) {
        of_t = online(of_t, teacher[at + c] * p.inverse);
        of_s = online(of_s, student[at + c] * p.inverse);
    }
    let lt = of_t.x + log(of_t.y);
    let ls = of_s.x + log(of_s.y);
    var sum = 0.0;
    for (var c = 0u; c < p.classes; c++) {
        sum += term(teacher[at + c] * p.inverse - lt, student[at + c] * p.inverse - ls);
    }
    saved[row] = lt;
    saved[p.rows + row] = ls;
    each[row] = times(weights[row], sum);
}

@compute @workgroup_size(THREADS)
fn sum_rows(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var r = li; r < p.rows; r += THREADS) {
        sum += each[r];
    }
    sum = block_sum_in_order(li, sum);
    if (li == 0u) {
        loss[0] = p.temperature * p.temperature * scale[0] * sum;
    }
}

// T (q - p) times dloss scale w.
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let row = flat(group, count, li);
    if (row >= p.rows) {
        return;
    }
    let at = row * p.classes;
    let rate = scale[0] * loss[0] * p.temperature * weights[row];
    for (var c = 0u; c < p.classes; c++) {
        let q = exp(student[at + c] * p.inverse - saved[p.rows + row]);
        let d = times(rate, q - exp(teacher[at + c] * p.inverse - saved[row]));
        each[at + c] = select(d, each[at + c] + d, p.add == 1u);
    }
}
