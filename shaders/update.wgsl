// What the updates of all optimizers share; stands before each of them: see src/ops/update.rs. One group a
// task of the table; 512 elements a bit of `live`. Constant: STATES (states of the update).
//
// An update declares
//   struct Params { its settings, max_norm: f32 }
//   var<immediate> p: Params;
//   its states from binding 5 on
//   struct Rates { keep: f32, ... }
//   fn rates(lr: f32, decay: f32) -> Rates
//   fn update_element(i: u32, g: f32, r: Rates)   g is the clipped gradient

struct Task {
    start: u32,
    len: u32,
    // Weight decay and the factor on the learning rate.
    decay: f32,
    rate: f32,
}

@group(0) @binding(0) var<storage, read_write> value: array<f32>;
@group(0) @binding(1) var<storage, read_write> grad: array<f32>;
// norm, lr, unscale, the factors of the update.
@group(0) @binding(2) var<storage, read_write> control: array<f32>;
@group(0) @binding(3) var<storage, read_write> live: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> table: array<Task>;

@compute @workgroup_size(THREADS)
fn update(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
        @builtin(local_invocation_index) li: u32) {
    let index = group.x + group.y * count.x;
    let length = control[0];
    if (index >= arrayLength(&table) || !finite(bitcast<u32>(length))) {
        return;
    }
    let task = table[index];
    var clip = 1.0;
    if (p.max_norm > 0.0) {
        clip = min(1.0, p.max_norm / (length + 1e-6));
    }
    clip *= control[2];
    let r = rates(control[1] * task.rate, task.decay);
    var touched = 0u;
    for (var e = li; e < task.len; e += THREADS) {
        let i = task.start + e;
        let g = grad[i];
        if (g != 0.0) {
            touched |= 1u << (e / 512u);
        }
        update_element(i, g * clip, r);
    }
    if (touched != 0u) {
        atomicOr(&live[index], touched);
    }
}
