//! Matrix products of a warp, and of four warps.

use super::access::Touch;
use crate::block::{Block, Run};
use crate::finding::Kind;
use crate::isa::{Element, Op, Operand, Round, Shape, Space, Wgmma};
use crate::number::{from_bf16, from_f16, masked, signed, to_f16};
use crate::warp::Lanes;

/// A product that was begun, by the instruction that did.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub pc: u32,
    a: u64,
    b: u64,
    add: bool,
    sign: [f64; 2],
    transposed: [bool; 2],
    /// Whether it is in a group, and in which.
    group: Option<u32>,
}

/// Where a byte lies when rows are swizzled (PTX ISA, "swizzling modes"): address bits are exclusive-ored
/// with higher ones.
pub(crate) fn swizzle(at: u64, width: usize) -> u64 {
    match width {
        128 => at ^ (at >> 3 & 0x70),
        64 => at ^ (at >> 3 & 0x30),
        32 => at ^ (at >> 3 & 0x10),
        _ => at,
    }
}

/// An element's value.
fn value(bits: u64, e: Element) -> f64 {
    match e {
        Element::F16 => from_f16(bits as u16).into(),
        Element::Bf16 => from_bf16(bits as u16).into(),
        // The tensor cores look at the upper 19 bits only.
        Element::Tf32 => f32::from_bits(bits as u32 & 0xffff_e000).into(),
        Element::F32 => f32::from_bits(bits as u32).into(),
        Element::S8 => signed(bits, 8) as f64,
        Element::U8 => (bits & 255) as f64,
        Element::S32 => signed(bits, 32) as f64,
    }
}

/// Gives the elements of a fragment register to `put`, with their numbers.
#[inline]
fn elements(word: u64, e: Element, mut put: impl FnMut(usize, f64)) {
    let each = e.bits();
    if e == Element::Bf16 {
        put(0, f32::from_bits((word as u32) << 16).into());
        put(1, f32::from_bits(word as u32 & 0xffff_0000).into());
        return;
    }
    for i in 0..32 / each {
        put(i, value(masked(word >> (i * each), each as u32), e));
    }
}

fn pack(sum: f64, e: Element) -> u64 {
    match e {
        Element::S32 => u64::from(sum as i64 as i32 as u32),
        Element::F16 => to_f16(sum, Round::Near).into(),
        _ => {
            let y = sum as f32;
            u64::from(if y.is_nan() { 0x7fff_ffff } else { y.to_bits() })
        }
    }
}

/// A sum as tensor cores form it: of eight products at a time and what there is so far, all aligned to the
/// largest, each keeps so many bits and loses the rest, as does the result beyond the 24 of f32.
fn cut_sum(start: f64, products: impl Iterator<Item = f64>, bits: u32) -> f64 {
    let exponent = |x: f64| (x.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    let cut = |x: f64, place: i32| {
        let unit = 2f64.powi(place);
        (x / unit).trunc() * unit
    };
    let products: Vec<f64> = products.collect();
    let mut sum = start;
    for part in products.chunks(8) {
        let largest = part.iter().fold(sum.abs(), |m, p| m.max(p.abs()));
        if !(largest.is_normal() && part.iter().all(|p| p.is_finite())) {
            sum += part.iter().sum::<f64>();
            continue;
        }
        let place = exponent(largest) - bits as i32 + 1;
        let all: f64 = part.iter().map(|&p| cut(p, place)).sum::<f64>() + cut(sum, place);
        sum = if all == 0.0 { all } else { cut(all, exponent(all) - 23) };
    }
    sum
}

/// Lane, register and bit of the sum in a row and a column.
fn spot(row: usize, col: usize, packed: bool) -> (usize, usize, usize) {
    let lane = row % 8 * 4 + col / 2;
    if packed { (lane, row / 8, 16 * (col % 2)) } else { (lane, row / 8 * 2 + col % 2, 0) }
}

/// Descriptor of a matrix in shared memory (PTX ISA, "matrix descriptor format" of wgmma).
struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    swizzle: usize,
}

impl Descriptor {
    fn new(d: u64) -> Descriptor {
        Descriptor {
            start: (d & 0x3fff) << 4,
            leading: (d >> 16 & 0x3fff) << 4,
            stride: (d >> 32 & 0x3fff) << 4,
            swizzle: [0, 128, 64, 32][(d >> 62) as usize],
        }
    }
    /// Where element (row, k) begins; nothing if the layout is not supported.
    fn at(&self, row: usize, k: usize, bytes: usize, transposed: bool) -> Option<u64> {
        let (row, k, bytes) = (row as u64, k as u64, bytes as u64);
        let width = self.swizzle as u64;
        let offset = match (transposed, width) {
            (false, 0) => {
                row / 8 * self.stride + k * bytes / 16 * self.leading + row % 8 * 16 + k * bytes % 16
            }
            (false, _) => row / 8 * self.stride + row % 8 * width + k * bytes,
            (true, 0) => return None,
            (true, _) => {
                let across = width / bytes;
                row / across * self.leading + k / 8 * self.stride + k % 8 * width + row % across * bytes
            }
        };
        Some(swizzle(self.start + offset, self.swizzle))
    }
}

impl Block<'_> {
    pub(crate) fn matrix(&mut self, w: usize, op: &Op, m: u32, pc: u32) -> Run<()> {
        match op {
            Op::Ldmatrix { n, trans, d, a } => {
                let rows = self.rows(w, *a, *n, m, pc)?;
                let mut words = vec![[0u8; 16]; rows.len()];
                for (r, &at) in rows.iter().enumerate() {
                    let me = self.me(w, r, pc);
                    let place = &mut words[r];
                    self.with((w, r, pc), Space::Shared, at, 16, Touch::Read, me, |b| {
                        place.copy_from_slice(b)
                    })?;
                }
                for (i, &r) in d.iter().enumerate() {
                    let half = |row: usize, col: usize| {
                        let bytes = &words[8 * i + row][2 * col..2 * col + 2];
                        u64::from(u16::from_le_bytes([bytes[0], bytes[1]]))
                    };
                    let v = std::array::from_fn(|l| match trans {
                        false => half(l / 4, l % 4 * 2) | half(l / 4, l % 4 * 2 + 1) << 16,
                        true => half(l % 4 * 2, l / 4) | half(l % 4 * 2 + 1, l / 4) << 16,
                    });
                    self.warps[w].write(r, m, &v);
                }
            }
            Op::Stmatrix { n, trans, s, a } => {
                let rows = self.rows(w, *a, *n, m, pc)?;
                let values: Vec<Lanes> = s.iter().map(|&o| self.value(w, o, m)).collect();
                for (r, &at) in rows.iter().enumerate() {
                    let v = &values[r / 8];
                    let row = r % 8;
                    let half = |col: usize| {
                        let (lane, odd) =
                            if *trans { (col * 4 + row / 2, row % 2) } else { (row * 4 + col / 2, col % 2) };
                        (v[lane] >> (16 * odd)) as u16
                    };
                    let me = self.me(w, r, pc);
                    self.with((w, r, pc), Space::Shared, at, 16, Touch::Write, me, |b| {
                        for (col, place) in b.chunks_exact_mut(2).enumerate() {
                            place.copy_from_slice(&half(col).to_le_bytes());
                        }
                    })?;
                }
            }
            Op::Mma { shape, d, a, b, c } => {
                let a = self.fragment(w, a, shape.m, shape.k, shape.a, m);
                let b = self.fragment_b(w, b, *shape, m);
                let packed = shape.sum == Element::F16;
                let c: Vec<Lanes> = c.iter().map(|&o| self.value(w, o, m)).collect();
                let mut out = vec![[0u64; 32]; d.len()];
                for i in 0..shape.m {
                    // A row of eight sums at once.
                    let mut sums = [0f64; 8];
                    for (col, sum) in sums.iter_mut().enumerate() {
                        let (lane, reg, shift) = spot(i, col, packed);
                        *sum = value(c[reg][lane] >> shift, shape.sum);
                    }
                    let row = &a[i * shape.k..(i + 1) * shape.k];
                    match self.c.options.tensor_bits {
                        bits @ 1.. if shape.sum != Element::S32 => {
                            for (col, sum) in sums.iter_mut().enumerate() {
                                let products = row.iter().zip(b.chunks_exact(8)).map(|(x, y)| x * y[col]);
                                *sum = cut_sum(*sum, products, bits);
                            }
                        }
                        _ => {
                            for (x, row) in row.iter().zip(b.chunks_exact(8)) {
                                for (sum, y) in sums.iter_mut().zip(row) {
                                    *sum += x * y;
                                }
                            }
                        }
                    }
                    for (col, sum) in sums.into_iter().enumerate() {
                        let (lane, reg, shift) = spot(i, col, packed);
                        out[reg][lane] |= pack(sum, shape.sum) << shift;
                    }
                }
                for (&r, v) in d.iter().zip(&out) {
                    self.warps[w].write(r, m, v);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Addresses of the rows of ldmatrix: lanes 8 i to 8 i + 7 give those of matrix i.
    fn rows(&mut self, w: usize, a: crate::isa::Address, n: u32, m: u32, pc: u32) -> Run<Vec<u64>> {
        let used = if n == 4 { m } else { m & ((1 << (8 * n)) - 1) };
        let at = self.addresses(w, a, used).map(|a| super::access::space_of(a).1);
        if m != u32::MAX {
            let lane = (!m).trailing_zeros() as usize;
            return self.stop(
                Kind::Divergence,
                w,
                lane.min(31),
                pc,
                format!("only lanes {m:08x} of the warp execute this"),
            );
        }
        // Eight rows of 16 bytes are served at a time.
        for i in 0..n as usize {
            let mut part = [0; 32];
            part[..8].copy_from_slice(&at[8 * i..8 * i + 8]);
            self.measure(Space::Shared, &part, 0xff, 16);
        }
        Ok(at[..8 * n as usize].to_vec())
    }

    /// Operand A, rows of k: register i holds rows from 8 (i mod 2) and columns from 4 e (i / 2), e elements
    /// a lane.
    fn fragment(
        &mut self,
        w: usize,
        regs: &[Operand],
        rows: usize,
        k: usize,
        e: Element,
        m: u32,
    ) -> Vec<f64> {
        let mut all = vec![0.0; rows * k];
        let each = 32 / e.bits();
        let halves = rows / 8;
        for (i, &o) in regs.iter().enumerate() {
            let v = self.value(w, o, m);
            for (l, &word) in v.iter().enumerate() {
                let (row, col) = (l / 4 + 8 * (i % halves), l % 4 * each + i / halves * 4 * each);
                elements(word, e, |j, x| all[row * k + col + j] = x);
            }
        }
        all
    }

    /// Operand B, rows of eight.
    fn fragment_b(&mut self, w: usize, regs: &[Operand], s: Shape, m: u32) -> [f64; 8 * 32] {
        let mut all = [0.0; 8 * 32];
        let each = 32 / s.b.bits();
        for (i, &o) in regs.iter().enumerate() {
            let v = self.value(w, o, m);
            for (l, &word) in v.iter().enumerate() {
                let at = l % 4 * each + i * 4 * each;
                elements(word, s.b, |j, x| all[(at + j) * 8 + l / 4] = x);
            }
        }
        all
    }

    pub(crate) fn wgmma(&mut self, w: usize, op: &Op, m: u32, pc: u32) -> Run<()> {
        match op {
            Op::WgmmaFence => self.warps[w].fenced = self.warps[w].ticks,
            Op::WgmmaCommit => {
                let warp = &mut self.warps[w];
                warp.product_groups += 1;
                let group = warp.product_groups;
                warp.products.iter_mut().filter(|p| p.group.is_none()).for_each(|p| p.group = Some(group));
            }
            Op::WgmmaWait { left } => {
                let newest = self.warps[w].product_groups;
                let due = |p: &mut Product| p.group.is_some_and(|g| g + left <= newest);
                let due: Vec<Product> = self.warps[w].products.extract_if(.., due).collect();
                due.into_iter().try_for_each(|p| self.end_product(w, &p))?;
            }
            Op::Wgmma(g) => self.begin_product(w, g, m, pc)?,
            _ => {}
        }
        Ok(())
    }

    /// Stretches of shared memory that a warp's part of a product reads: starts of 16 bytes each.
    fn stretches(&self, w: usize, g: &Wgmma, p: &Product) -> Option<Vec<u64>> {
        let bytes = g.shape.a.bits() / 8;
        let mut all = Vec::new();
        let mut add = |d: u64, rows: std::ops::Range<usize>, transposed: bool| {
            let d = Descriptor::new(d);
            for row in rows {
                for k in 0..g.shape.k {
                    all.push(d.at(row, k, bytes, transposed)? & !15);
                }
            }
            Some(())
        };
        if g.a.len() == 1 {
            let first = 16 * (w % 4);
            add(p.a, first..first + 16, p.transposed[0])?;
        }
        add(p.b, 0..g.shape.n, p.transposed[1])?;
        all.sort_unstable();
        all.dedup();
        Some(all)
    }

    fn begin_product(&mut self, w: usize, g: &Wgmma, m: u32, pc: u32) -> Run<()> {
        let place = (w, 0, pc);
        let first = |b: &mut Self, o: Operand| b.value(w, o, m)[0];
        let sign = g.sign.map(|o| signed(first(self, o), 32) as f64);
        let transposed = g.transposed.map(|o| first(self, o) & 1 == 1);
        let (a, b) = (if g.a.len() == 1 { first(self, g.a[0]) } else { 0 }, first(self, g.b));
        let add = self.warps[w].pred(g.add) & 1 == 1;
        let p = Product { pc, a, b, add, sign, transposed, group: None };
        let chained = |r: &u32| self.warps[w].products.iter().any(|p| self.accumulates(p, *r));
        let fragment = g.a.iter().filter_map(|o| if let Operand::Reg(r) = o { Some(*r) } else { None });
        let used: Vec<u32> = g.d.iter().copied().chain(fragment.filter(|_| g.a.len() == 4)).collect();
        // Registers that others wrote since the last fence; those of a product under way follow by
        // themselves.
        let late =
            used.iter().find(|&r| !chained(r) && self.warps[w].touched[*r as usize] > self.warps[w].fenced);
        if late.is_some() || self.warps[w].fenced == 0 {
            let what = "registers were written since the last wgmma.fence".to_owned();
            self.note(Kind::MissingFence, w, 0, pc, what, None);
        }
        if add && g.d.iter().any(|&r| self.warps[w].written[r as usize] & m != m) {
            self.note(Kind::Uninitialised, w, 0, pc, "accumulators without a value".to_owned(), None);
        }
        let Some(stretches) = self.stretches(w, g, &p) else {
            return self.stop(
                Kind::Invalid,
                w,
                0,
                pc,
                "the descriptor's layout is not supported: transposed without swizzle".to_owned(),
            );
        };
        let (me, size) = (self.me(w, 0, pc), self.shared.len());
        for at in stretches {
            let at = self.check_shared(at, 16, place)?;
            self.watch_shared(at, 16, me, Touch::Read, place);
            self.check_proxy(at, 16, place);
            self.flights.read(at, 16, Some(me), size);
        }
        let warp = &mut self.warps[w];
        for r in used {
            if !warp.busy.contains(&(r, pc)) {
                warp.busy.push((r, pc));
            }
        }
        warp.products.push(p);
        Ok(())
    }

    fn accumulates(&self, p: &Product, r: u32) -> bool {
        matches!(&self.c.kernel.code[p.pc as usize].op, Op::Wgmma(g) if g.d.contains(&r))
    }

    fn end_product(&mut self, w: usize, p: &Product) -> Run<()> {
        let c = self.c;
        let Op::Wgmma(g) = &c.kernel.code[p.pc as usize].op else { return Ok(()) };
        let (s, m) = (g.shape, u32::MAX);
        let size = self.shared.len();
        self.warps[w].busy.retain(|b| b.1 != p.pc);
        let still = std::mem::take(&mut self.warps[w].busy);
        for at in self.stretches(w, g, p).unwrap_or_default() {
            self.flights.read(at as usize, 16, None, size);
            if self.state[at as usize..at as usize + 16].contains(&0) {
                let what = format!("{} was never written", self.shared_name(at as usize));
                self.note(Kind::Uninitialised, w, 0, p.pc, what, None);
            }
        }
        let bytes = s.a.bits() / 8;
        let load = |b: &Self, d: u64, row: usize, k: usize, transposed: bool, e: Element| {
            let at = Descriptor::new(d).at(row, k, bytes, transposed).unwrap_or(0) as usize;
            let mut word = [0; 8];
            word[..bytes].copy_from_slice(&b.shared[at..at + bytes]);
            value(u64::from_le_bytes(word), e)
        };
        let a: Vec<f64> = if g.a.len() == 4 {
            self.fragment(w, &g.a, 16, s.k, s.a, m).to_vec()
        } else {
            let first = 16 * (w % 4);
            (0..16 * s.k).map(|i| load(self, p.a, first + i / s.k, i % s.k, p.transposed[0], s.a)).collect()
        };
        let b: Vec<f64> =
            (0..s.n * s.k).map(|i| load(self, p.b, i / s.k, i % s.k, p.transposed[1], s.b)).collect();
        for (j, &r) in g.d.iter().enumerate() {
            let old = self.warps[w].regs[r as usize];
            let v = std::array::from_fn(|l| {
                let (row, col) = (l / 4 + 8 * (j / 2 % 2), j / 4 * 8 + l % 4 * 2 + j % 2);
                let start = if p.add { value(old[l], s.sum) } else { 0.0 };
                let row = &a[row * s.k..(row + 1) * s.k];
                let col = &b[col * s.k..(col + 1) * s.k];
                let products = row.iter().zip(col).map(|(x, y)| p.sign[0] * p.sign[1] * x * y);
                let sum = match c.options.tensor_bits {
                    0 => start + products.sum::<f64>(),
                    bits => cut_sum(start, products, bits),
                };
                pack(sum, s.sum)
            });
            let before = self.warps[w].touched[r as usize];
            self.warps[w].write(r, m, &v);
            self.warps[w].touched[r as usize] = before;
        }
        self.warps[w].busy = still;
        self.events += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::cut_sum;

    #[test]
    fn what_tensor_cores_cut_off() {
        let small = 2f64.powi(-24);
        // Half a unit in the last place of the sum so far: a sum that is rounded once keeps eight of them.
        assert_eq!(cut_sum(1.0, [small; 8].into_iter(), 24), 1.0);
        assert_eq!(cut_sum(1.0, [small; 8].into_iter(), 25), 1.0 + 8.0 * small);
        // Towards zero, whatever the sign.
        assert_eq!(cut_sum(-1.0, [-1.75 * 2.0 * small].into_iter(), 24), -1.0 - 2.0 * small);
        // Eight at a time: the second eight find a larger sum.
        let sixteen = [1.0; 16].map(|x: f64| x + 2.0 * small);
        assert!(cut_sum(0.0, sixteen.into_iter(), 24) < 16.0 * (1.0 + 2.0 * small));
        assert_eq!(cut_sum(0.0, [3.0, -3.0].into_iter(), 24), 0.0);
        assert!(cut_sum(0.0, [f64::INFINITY, 1.0].into_iter(), 24).is_infinite());
    }
}
