enable f16;
enable wgpu_cooperative_matrix;
// The product of linear.wgsl on cooperative matrices, behind that file's text: operands are rounded to f16 on
// their way into workgroup memory, sums are f32. Constants besides: SZ (rows, columns and depth of a matrix),
// SUBGROUP; the types MatA, MatB, MatC. Four subgroups, each with two by two matrices.

const WIDE = 4u * SZ;
const DEEP = 2u * SZ;

var<workgroup> half_a: array<f16, WIDE * DEEP>;
var<workgroup> half_b: array<f16, DEEP * WIDE>;
var<workgroup> tile: array<f32, WIDE * WIDE>;

@compute @workgroup_size(THREADS)
fn matmul_coop(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row0 = group.y * WIDE;
    let col0 = group.x * WIDE;
    let down = li / SUBGROUP / 2u * 2u * SZ;
    let across = li / SUBGROUP % 2u * 2u * SZ;
    var c00 = MatC();
    var c01 = MatC();
    var c10 = MatC();
    var c11 = MatC();
    for (var k0 = 0u; k0 < p.k; k0 += DEEP) {
        for (var e = li; e < WIDE * DEEP; e += THREADS) {
            // Neighbours in memory are read by neighbours.
            var r = e % WIDE;
            var q = e / WIDE;
            if (A_DOWN == 1u) {
                r = e / DEEP;
                q = e % DEEP;
            }
            var v = 0.0;
            if (row0 + r < p.m && k0 + q < p.k) {
                v = a[(row0 + r) * p.a_row + (k0 + q) * p.a_col];
            }
            half_a[r * DEEP + q] = f16(v);
            r = e % WIDE;
            q = e / WIDE;
            if (B_DOWN == 1u) {
                r = e / DEEP;
                q = e % DEEP;
            }
            v = 0.0;
            if (col0 + r < p.n && k0 + q < p.k) {
                v = b[(k0 + q) * p.b_row + (col0 + r) * p.b_col];
            }
            half_b[q * WIDE + r] = f16(v);
        }
        workgroupBarrier();
        for (var q = 0u; q < DEEP; q += SZ) {
            let a0 = coopLoadT<MatA>(&half_a[down * DEEP + q], DEEP);
            let a1 = coopLoadT<MatA>(&half_a[(down + SZ) * DEEP + q], DEEP);
            let b0 = coopLoadT<MatB>(&half_b[q * WIDE + across], WIDE);
            let b1 = coopLoadT<MatB>(&half_b[q * WIDE + across + SZ], WIDE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
        }
        workgroupBarrier();
    }
    let at = down * WIDE + across;
    let s00 = c00;
    coopStoreT(s00, &tile[at], WIDE);
    let s01 = c01;
    coopStoreT(s01, &tile[at + SZ], WIDE);
    let s10 = c10;
    coopStoreT(s10, &tile[at + SZ * WIDE], WIDE);
    let s11 = c11;
    coopStoreT(s11, &tile[at + SZ * WIDE + SZ], WIDE);
    workgroupBarrier();
    for (var e = li; e < WIDE * WIDE; e += THREADS) {
        put(row0 + e / WIDE, col0 + e % WIDE, tile[e]);
    }
}
