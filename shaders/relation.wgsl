// loss = scale sum_i c_i KL(softmax_j(t_i t_j / sqrt(d_t)) || softmax_j(s_i s_j / sqrt(d_s))) for q, k and v:
// see src/ops/relation.rs. Stands behind attention.common.wgsl. Constants: DT, DS (columns of a relation head
// of teacher and student), THREADS. A group has THREADS tokens of one sequence, relation head and plane (q, k
// or v), an invocation one of them; all tokens of the sequence go by, the same for the whole group.

struct Params {
    tokens: u32,
    heads: u32,
    seqs: u32,
    // Parts of the loss, one for each group.
    parts: u32,
    teacher_scale: f32,
    student_scale: f32,
    add: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> teacher: array<f32>;  // (tokens, 3, heads, DT)
@group(0) @binding(1) var<storage, read_write> student: array<f32>;  // (tokens, 3, heads, DS)
@group(0) @binding(2) var<storage, read_write> bounds: array<u32>;   // (seqs + 1)
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;    // (2, 3, heads, tokens): LT, LS
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;  // (tokens)
@group(0) @binding(5) var<storage, read_write> scale: array<f32>;    // (1)
@group(0) @binding(6) var<storage, read_write> loss: array<f32>;     // (1); dloss in the backward pass
@group(0) @binding(7) var<storage, read_write> parts: array<f32>;    // (parts); dstudent in the backward pass

// Where the statistics of a token are: LT; LS is as many elements further as there are of LT.
fn stat(head: u32, plane: u32, t: u32) -> u32 {
    return (plane * p.heads + head) * p.tokens + t;
}
fn stats_of(head: u32, plane: u32, t: u32) -> vec2<f32> {
    let at = stat(head, plane, t);
    return vec2<f32>(stats[at], stats[3u * p.heads * p.tokens + at]);
}

// The invocation's own rows.
var<private> own_teacher: array<f32, DT>;
var<private> own_student: array<f32, DS>;

fn load_own(head: u32, plane: u32, i: u32) {
    let row = (i * 3u + plane) * p.heads + head;
    for (var c = 0u; c < DT; c++) {
        own_teacher[c] = teacher[row * DT + c];
    }
    for (var c = 0u; c < DS; c++) {
        own_student[c] = student[row * DS + c];
    }
}
// The scores of that token and token j: of the teacher, of the student.
fn scores(head: u32, plane: u32, j: u32) -> vec2<f32> {
    let row = (j * 3u + plane) * p.heads + head;
    var s = vec2<f32>();
    for (var c = 0u; c < DT; c++) {
        s.x = fma(own_teacher[c], teacher[row * DT + c], s.x);
    }
    for (var c = 0u; c < DS; c++) {
        s.y = fma(own_student[c], student[row * DS + c], s.y);
    }
    return s * vec2<f32>(p.teacher_scale, p.student_scale);
}

// Statistics, and the part of the loss of each group.
@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let plane = group.z;
    let i = seq.z + li;
    var kl = 0.0;
    if (i < seq.y) {
        load_own(head, plane, i);
        // The maxima so far; the sums of exp(score - maximum), and that of exp(a - maximum) (a - b).
        var most = vec2<f32>(-3.0e38);
        var sums = vec2<f32>();
        var gaps = 0.0;
        for (var j = seq.x; j < seq.y; j++) {
            let s = scores(head, plane, j);
            let d = s - most;
            // One of exp(s - new maximum) and exp(old maximum - new maximum) is 1; this is the other one.
            let e = exp(-abs(d));
            let gap = s.x - s.y;
            sums = select(sums + e, fma(sums, e, vec2<f32>(1.0)), d > vec2<f32>());
            gaps = select(fma(e.x, gap, gaps), fma(gaps, e.x, gap), d.x > 0.0);
            most = max(most, s);
        }
        let logs = log(sums);
        let at = stat(head, plane, i);
        stats[at] = most.x + logs.x;
        stats[3u * p.heads * p.tokens + at] = most.y + logs.y;
        kl = weights[i] * ((most.y - most.x) + (logs.y - logs.x) + gaps / sums.x);
    }
    let sum = block_sum_in_order(li, kl);
    if (li == 0u) {
        parts[(plane * p.heads + head) * count.x + group.x] = sum;
    }
}

// The loss from its parts, by one group.
@compute @workgroup_size(THREADS)
fn sum_parts(@builtin(local_invocation_index) li: u32) {
    var sum = 0.0;
    for (var i = li; i < p.parts; i += THREADS) {
        sum += parts[i];
    }
    sum = block_sum_in_order(li, sum);
    if (li == 0u) {
        loss[0] = scale[0] * sum;
    }
}

// dstudent (parts).
@compute @workgroup_size(THREADS)
fn backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let seq = place(group.x);
    let head = group.y;
    let plane = group.z;
    // Tokens beyond the last sequence have no gradient. There are at least as many groups as blocks of them.
    let beyond = bounds[p.seqs] + group.x * THREADS + li;
    if (beyond < p.tokens && p.add == 0u) {
        for (var c = 0u; c < DS; c++) {
            parts[((beyond * 3u + plane) * p.heads + head) * DS + c] = 0.0;
        }
    }
    let i = seq.z + li;
    if (i >= seq.y) {
        return;
    }
    load_own(head, plane, i);
    let own = stats_of(head, plane, i);
    let rate = scale[0] * loss[0];
    var d: array<f32, DS>;
    for (var j = seq.x; j < seq.y; j++) {
        let s = scores(head, plane, j);
        let row = exp(s - own);
        let column = exp(s - stats_of(head, plane, j));
        let w = weights[i] * (row.y - row.x) + weights[j] * (column.y - column.x);
        let at = ((j * 3u + plane) * p.heads + head) * DS;
        for (var c = 0u; c < DS; c++) {
            d[c] = fma(w, student[at + c], d[c]);
        }
    }
    let to = ((i * 3u + plane) * p.heads + head) * DS;
    for (var c = 0u; c < DS; c++) {
        let v = d[c] * (rate * p.student_scale);
        parts[to + c] = select(v, parts[to + c] + v, p.add == 1u);
    }
}
