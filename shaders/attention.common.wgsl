// What the shaders of attention have in common; stands before them. They have `bounds` (seqs + 1), `p.seqs`
// and THREADS. It is not in the prelude, because WGSL passes no storage buffer to a function.

// Where the sequence of this group begins and ends, and the first of the group's tokens; and the sequence's
// number.
fn place(group: u32) -> vec4<u32> {
    var left = group;
    for (var s = 0u; s < p.seqs; s++) {
        let first = bounds[s];
        let end = bounds[s + 1u];
        let blocks = (end - first + THREADS - 1u) / THREADS;
        if (left < blocks) {
            return vec4<u32>(first, end, first + left * THREADS, s);
        }
        left -= blocks;
    }
    return vec4<u32>();
}

