// copy = value: see src/ops/cast.rs. There is one element type here.

struct Params {
    n: u32,
}
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read_write> value: array<f32>;
@group(0) @binding(1) var<storage, read_write> rounded: array<f32>;

@compute @workgroup_size(THREADS)
fn copy(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>,
        @builtin(local_invocation_index) li: u32) {
    let i = flat(group, count, li);
    if (i < p.n) {
        rounded[i] = value[i];
    }
}
