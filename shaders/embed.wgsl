// y[t] = word[ids[t]] + position[positions[t] + first] + kind[types[t]]: see src/ops/embed.rs.
// Constant: TABLES (how many of the three there are; the rest of the bindings stands for nothing).

struct Params {
    tokens: u32,
    cols: u32,
    rows: u32,
    // Row of the position table for position 0; in the backward pass what is added to the indices into the
    // current table.
    first: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> positions: array<u32>;
@group(0) @binding(2) var<storage, read_write> types: array<u32>;
@group(0) @binding(3) var<storage, read_write> word: array<f32>;
@group(0) @binding(4) var<storage, read_write> position: array<f32>;
@group(0) @binding(5) var<storage, read_write> kind: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
           @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    let t = i / p.cols;
    let c = i % p.cols;
    if (t < p.tokens) {
        // An index without a row shows: it makes the loss no number, and the step is skipped and reported.
        let most = vec3<u32>(arrayLength(&word), arrayLength(&position), arrayLength(&kind)) / p.cols;
        var fits = ids[t] < most.x;
        if (TABLES > 1u) {
            // Of the position, not of its row: a sum that overflows must not pass.
            fits = fits && p.first < most.y && positions[t] < most.y - p.first;
        }
        if (TABLES > 2u) {
            fits = fits && types[t] < most.z;
        }
        if (!fits) {
            y[i] = nan(t);
        } else {
            var sum = word[ids[t] * p.cols + c];
            if (TABLES > 1u) {
                sum += position[(positions[t] + p.first) * p.cols + c];
            }
            if (TABLES > 2u) {
                sum += kind[types[t] * p.cols + c];
            }
            y[i] = sum;
        }
    }
}

// The gradient of one table, in three kernels. ids are the indices into it, positions the tokens sorted by
// row (order), word is the table's gradient, position is dy, kind the parts of rows that go beyond a chunk:
// no atomics, one order.

// A token's place among the sorted ones is how many stand before it: those of a lower row, and earlier ones
// of its own.
@compute @workgroup_size(THREADS)
fn rank(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
        @builtin(local_invocation_index) li: u32) {
    let t = flat(group, count, li);
    let mine = ids[min(t, p.tokens - 1u)];
    var before = 0u;
    for (var i = 0u; i < p.tokens; i++) {
        let other = ids[i];
        before += select(0u, 1u, other < mine || (other == mine && i < t));
    }
    if (t < p.tokens) {
        positions[before] = t;
    }
}

fn row_at(place: u32) -> u32 {
    return ids[positions[place]];
}

fn put_row(row: u32, c: u32, sum: f32) {
    // The table was cleared, or is added to.
    if (row < p.rows - p.first) {
        word[(row + p.first) * p.cols + c] += sum;
    }
}

// Sorted tokens that one group adds up, an invocation for a column. A run of tokens of one row that lies
// within the chunk goes to the table; of a run that goes beyond, each chunk keeps its part: the first of its
// two rows of parts if the run began before, the second if it begins here.
const CHUNK = 32u;

@compute @workgroup_size(THREADS)
fn sum_runs(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
            @builtin(local_invocation_index) li: u32) {
    let chunk = group.x + group.y * count.x;
    let c = group.z * THREADS + li;
    let first = chunk * CHUNK;
    if (c >= p.cols || first >= p.tokens) {
        return;
    }
    let end = min(first + CHUNK, p.tokens);
    var sum = 0.0;
    var began_before = false;
    if (first > 0u) {
        began_before = row_at(first - 1u) == row_at(first);
    }
    for (var j = first; j < end; j++) {
        let t = positions[j];
        let row = ids[t];
        sum += position[t * p.cols + c];
        var goes_on = false;
        if (j + 1u < p.tokens) {
            goes_on = row_at(j + 1u) == row;
        }
        if (goes_on && j + 1u < end) {
            continue;
        }
        if (began_before) {
            kind[chunk * 2u * p.cols + c] = sum;
        } else if (goes_on) {
            kind[(chunk * 2u + 1u) * p.cols + c] = sum;
        } else {
            put_row(row, c, sum);
        }
        began_before = false;
        sum = 0.0;
    }
}

// The chunk where a run begins that goes beyond it adds the parts of those after it, in order.
@compute @workgroup_size(THREADS)
fn carry_runs(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
              @builtin(local_invocation_index) li: u32) {
    let chunk = group.x + group.y * count.x;
    let c = group.z * THREADS + li;
    let first = chunk * CHUNK;
    let end = first + CHUNK;
    if (c >= p.cols || end >= p.tokens) {
        return;
    }
    let row = row_at(end - 1u);
    var begins_here = true;
    if (first > 0u) {
        begins_here = row_at(first - 1u) != row;
    }
    if (row_at(end) != row || !begins_here) {
        return;
    }
    var sum = kind[(chunk * 2u + 1u) * p.cols + c];
    var next = chunk + 1u;
    var goes_on = true;
    while (goes_on) {
        sum += kind[next * 2u * p.cols + c];
        next += 1u;
        goes_on = false;
        if (next * CHUNK < p.tokens) {
            goes_on = row_at(next * CHUNK - 1u) == row && row_at(next * CHUNK) == row;
        }
    }
    put_row(row, c, sum);
}
