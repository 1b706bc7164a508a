//! Launches the kernels of shaders/linear.wgsl and shaders/linear.coop.wgsl.

use super::{Linear, TILE};
use crate::device::wgpu::TileLayout;
use crate::device::{Const, Tensor, Wgpu};
use crate::error::Result;
use crate::ops::{Activation, Backward, Forward, On, THREADS, groups_for, launch, launch_with, words};

const SHADER: &str = include_str!("../../../shaders/linear.wgsl");
/// The kernels of linear.wgsl, and the matmul on cooperative matrices, which not every adapter can compile.
pub(in crate::ops) const COOP: &str =
    concat!(include_str!("../../../shaders/linear.wgsl"), include_str!("../../../shaders/linear.coop.wgsl"));

/// A matrix of a kernel: element (i, j) is at `i * row + j * col`.
struct Strided<'a> {
    t: &'a Tensor,
    row: usize,
    col: usize,
}

/// The epilogue of a matmul: bias, activation, where to write the activation's inputs, whether to add to C.
struct Epilogue<'a> {
    bias: Option<&'a Tensor>,
    act: Activation,
    keep: Option<&'a Tensor>,
    add: bool,
}

fn matmul_gpu(
    device: &Wgpu,
    [m, n, k]: [usize; 3],
    a: Strided,
    b: Strided,
    c: &Tensor,
    epilogue: Epilogue,
) -> Result<()> {
    let consts = [
        ("BIAS", epilogue.bias.is_some() as u32),
        ("KEEP", epilogue.keep.is_some() as u32),
        ("ACT", epilogue.act.code()),
        ("A_DOWN", (a.col == 1) as u32),
        ("B_DOWN", (b.row == 1) as u32),
    ];
    let params = |b: &Strided| [m, n, k, a.row, a.col, b.row, b.col, epilogue.add as usize].map(|v| v as u32);
    let buffers = |b: &Strided| {
        [a.t, b.t, c, epilogue.bias.unwrap_or(c), epilogue.keep.unwrap_or(c)].map(Tensor::clone)
    };
    if let Some((size, subgroup)) = device.half() {
        let mut consts = words(&consts);
        consts.extend([("SUBGROUP", Const::U32(subgroup)), ("MATRICES", Const::Matrices(size))]);
        let wide = 4 * size as usize;
        let groups = [n.div_ceil(wide) as u32, m.div_ceil(wide) as u32, 1];
        let buffers = buffers(&b);
        let kernel = (COOP, "matmul_coop");
        return launch_with(device, 4 * subgroup, kernel, &consts, groups, &buffers.each_ref(), &params(&b));
    }
    if device.tiles() == TileLayout::Workgroup {
        let groups = [n.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, 1];
        let buffers = buffers(&b);
        return launch(device, (SHADER, "matmul"), &consts, groups, &buffers.each_ref(), &params(&b));
    }
    // The kernel needs contiguous columns: a transposed B is copied first, which costs 1/m of the matmul.
    let scratch;
    let b = if b.col == 1 {
        b
    } else {
        scratch = device.scratch(c.spec.dtype, &[k, n])?;
        let groups = [n.div_ceil(THREADS as usize) as u32, k.min(65535) as u32, 1];
        launch(device, (SHADER, "transpose"), &consts, groups, &[b.t, b.t, &scratch, c, c], &params(&b))?;
        Strided { t: &scratch, row: n, col: 1 }
    };
    let lanes = device.lanes();
    let groups = [m.div_ceil(16) as u32, n.div_ceil(2 * lanes as usize) as u32, 1];
    launch_with(
        device,
        lanes,
        (SHADER, "matmul_rows"),
        &words(&consts),
        groups,
        &buffers(&b).each_ref(),
        &params(&b),
    )
}

impl On<Wgpu> for Linear {
    fn forward(&self, device: &Wgpu, io: Forward) -> Result<()> {
        let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
        let x = Strided { t: io.x[0], row: k, col: 1 };
        let w = Strided { t: io.x[1], row: 1, col: k };
        let keep = self.act.needs_input().then(|| io.y[1]);
        let epilogue = Epilogue { bias: io.x.get(2).copied(), act: self.act, keep, add: false };
        matmul_gpu(device, [rows, n, k], x, w, io.y[0], epilogue)
    }
    fn backward(&self, device: &Wgpu, io: Backward) -> Result<()> {
        let ((rows, k), (n, _)) = (io.x[0].spec.rows_cols(), io.x[1].spec.rows_cols());
        let (x, w, dy) = (io.x[0], io.x[1], io.dy()?);
        let consts = [("BIAS", 0), ("KEEP", 0), ("ACT", self.act.code()), ("A_DOWN", 0), ("B_DOWN", 0)];
        let sizes = |add: bool| [rows, n, 0, 0, 0, 0, 0, add as usize].map(|v| v as u32);
        let scratch;
        let dz = if self.act == Activation::None {
            dy
        } else {
            scratch = device.scratch(dy.spec.dtype, &[rows, n])?;
            let kept = io.y[self.act.needs_input() as usize];
            let buffers = [dy, kept, &scratch];
            launch(device, (SHADER, "derive"), &consts, groups_for(rows * n), &buffers, &sizes(false))?;
            &scratch
        };
        let plain = |add| Epilogue { bias: None, act: Activation::None, keep: None, add };
        if let Some(g) = io.dx(0) {
            let (a, b) = (Strided { t: dz, row: n, col: 1 }, Strided { t: w, row: k, col: 1 });
            matmul_gpu(device, [rows, k, n], a, b, g.t, plain(g.add))?;
        }
        if let Some(g) = io.dx(1) {
            let (a, b) = (Strided { t: dz, row: 1, col: n }, Strided { t: x, row: k, col: 1 });
            matmul_gpu(device, [n, k, rows], a, b, g.t, plain(g.add))?;
        }
        if let Some(g) = io.dx(2) {
            let parts = device.scratch(dy.spec.dtype, &[rows.div_ceil(TILE), n])?;
            let columns = groups_for(n)[0];
            let buffers = [dz, &parts, g.t];
            let by_block = [columns, rows.div_ceil(TILE) as u32, 1];
            launch(device, (SHADER, "sum_rows"), &consts, by_block, &buffers, &sizes(g.add))?;
            launch(device, (SHADER, "sum_parts"), &consts, [columns, 1, 1], &buffers, &sizes(g.add))?;
        }
        Ok(())
    }
}
