//! Opcodes of asynchronous copies, mbarriers and matrices.

use super::parts::{Args, Decoded, Mods};
use crate::isa::{Bulk, Element, Mbarrier, Op, Operand, SINK, Shape, Wgmma};

pub(super) fn decode(stem: &str, m: &mut Mods, a: &mut Args) -> Decoded<Option<Op>> {
    Ok(Some(match stem {
        "cp" => copy(m, a)?,
        "mbarrier" => mbarrier(m, a)?,
        "ldmatrix" | "stmatrix" => {
            m.take("sync");
            m.take("aligned");
            if !m.take("m8n8") {
                return Err("only matrices of m8n8 are supported".to_owned());
            }
            let n = m.pick(&[("x1", 1), ("x2", 2), ("x4", 4)]).ok_or("it has no count")?;
            let trans = m.take("trans");
            if !m.take("shared") {
                m.take("shared::cta");
            }
            if !m.take("b16") {
                return Err("only .b16 is known".to_owned());
            }
            let right = |found: usize| {
                if found == n as usize { Ok(()) } else { Err(format!("{found} registers for {n}")) }
            };
            if stem == "ldmatrix" {
                let d = a.take_list()?;
                right(d.len())?;
                Op::Ldmatrix { n, trans, d, a: a.memory()?.0 }
            } else {
                let (address, _) = a.memory()?;
                let s = a.list()?;
                right(s.len())?;
                Op::Stmatrix { n, trans, s, a: address }
            }
        }
        "mma" => mma(m, a)?,
        "wgmma" => wgmma(m, a)?,
        _ => return Ok(None),
    }))
}

fn imm32(a: &mut Args) -> Decoded<u32> {
    u32::try_from(a.imm()?).map_err(|_| "the count is not valid".to_owned())
}

fn copy(m: &mut Mods, a: &mut Args) -> Decoded<Op> {
    if !m.take("async") {
        return Err("only cp.async is known".to_owned());
    }
    if m.take("bulk") {
        return bulk(m, a).map(Op::Bulk);
    }
    if m.take("commit_group") {
        return Ok(Op::CpCommit);
    }
    if m.take("wait_group") {
        return Ok(Op::CpWait { left: imm32(a)? });
    }
    if m.take("wait_all") {
        return Ok(Op::CpWaitAll);
    }
    if m.take("mbarrier") {
        if !m.take("arrive") {
            return Err("only .arrive is known".to_owned());
        }
        let expected = m.take("noinc");
        m.find(|p| matches!(p, "shared" | "shared::cta").then_some(()));
        m.take("b64");
        return Ok(Op::Mbarrier { f: Mbarrier::CopyArrive { expected }, a: a.memory()?.0 });
    }
    let all = m.take("cg");
    if !all && !m.take("ca") {
        return Err("expected .ca or .cg".to_owned());
    }
    if !m.take("shared") && !m.take("shared::cta") {
        return Err("expected .shared".to_owned());
    }
    m.take("global");
    m.find(|p| p.starts_with("L2::").then_some(()));
    let (to, from) = (a.memory()?.0, a.memory()?.0);
    let bytes = imm32(a)?;
    if !(bytes == 16 || (!all && matches!(bytes, 4 | 8))) {
        return Err(format!("cannot copy {bytes} bytes with this instruction"));
    }
    let size = if a.left() > 0 { Some(a.value()?) } else { None };
    Ok(Op::CpAsync { to, from, bytes, size })
}

fn bulk(m: &mut Mods, a: &mut Args) -> Decoded<Bulk> {
    if m.take("commit_group") {
        return Ok(Bulk::Commit);
    }
    if m.take("wait_group") {
        let read = m.take("read");
        return Ok(Bulk::Wait { left: imm32(a)?, read });
    }
    let tensor = m.take("tensor");
    let rank = m.pick(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)]);
    m.take("tile");
    let to_shared = m.take("shared::cluster") && m.take("global");
    if to_shared {
        if !(m.take("mbarrier") || m.take("mbarrier::complete_tx::bytes")) {
            return Err("a load without an mbarrier is not supported".to_owned());
        }
    } else {
        let known = m.take("global") && m.take("shared::cta") && m.take("bulk_group");
        if !known {
            return Err("only copies between global and shared memory are supported".to_owned());
        }
    }
    let right = |at: &[Operand]| match rank {
        Some(n) if n == at.len() => Ok(()),
        _ => Err(format!("{} coordinates", at.len())),
    };
    Ok(match (tensor, to_shared) {
        (false, true) => {
            let (to, from) = (a.memory()?.0, a.memory()?.0);
            Bulk::Load { to, from, bytes: a.value()?, barrier: a.memory()?.0 }
        }
        (false, false) => {
            let (to, from) = (a.memory()?.0, a.memory()?.0);
            Bulk::Store { to, from, bytes: a.value()? }
        }
        (true, true) => {
            let to = a.memory()?.0;
            let (map, at) = a.box_at()?;
            right(&at)?;
            Bulk::TensorLoad { to, map, at, barrier: a.memory()?.0 }
        }
        (true, false) => {
            let (map, at) = a.box_at()?;
            right(&at)?;
            Bulk::TensorStore { map, at, from: a.memory()?.0 }
        }
    })
}

fn mbarrier(m: &mut Mods, a: &mut Args) -> Decoded<Op> {
    // Orders and scopes: all are as strong as acquire and release in the block.
    m.find(|p| matches!(p, "relaxed" | "acquire" | "release").then_some(()));
    m.find(|p| matches!(p, "cta" | "cluster").then_some(()));
    m.find(|p| matches!(p, "shared" | "shared::cta").then_some(()));
    let parity = m.take("parity");
    let expect = m.take("expect_tx");
    let state = |a: &mut Args| a.taker();
    if !m.take("b64") && !expect {
        return Err("only .b64 is known".to_owned());
    }
    m.take("b64");
    if m.take("init") {
        let (address, _) = a.memory()?;
        return Ok(Op::Mbarrier { f: Mbarrier::Init { count: a.value()? }, a: address });
    }
    if m.take("inval") {
        return Ok(Op::Mbarrier { f: Mbarrier::Inval, a: a.memory()?.0 });
    }
    if m.take("test_wait") || m.take("try_wait") {
        let d = match a.one()? {
            Operand::Pred(p, false) => p,
            _ => return Err("expected a predicate".to_owned()),
        };
        let (address, _) = a.memory()?;
        let phase = a.value()?;
        if a.left() > 0 {
            a.value()?; // how long the hardware may sleep
        }
        return Ok(Op::Mbarrier { f: Mbarrier::Wait { d, phase, parity }, a: address });
    }
    let drop = m.take("arrive_drop");
    let arrive = drop || m.take("arrive");
    m.take("noComplete");
    if expect && !arrive {
        let (address, _) = a.memory()?;
        return Ok(Op::Mbarrier { f: Mbarrier::Expect { bytes: a.value()? }, a: address });
    }
    if !arrive {
        return Err("this operation is not supported".to_owned());
    }
    let d = state(a)?;
    let (address, _) = a.memory()?;
    let f = if expect {
        Mbarrier::ArriveExpect { d, bytes: a.value()? }
    } else {
        let count = if a.left() > 0 { a.value()? } else { Operand::Imm(1) };
        Mbarrier::Arrive { d, count, drop }
    };
    Ok(Op::Mbarrier { f, a: address })
}

fn element(p: &str) -> Option<Element> {
    Some(match p {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "s8" => Element::S8,
        "u8" => Element::U8,
        "f32" => Element::F32,
        "s32" => Element::S32,
        _ => return None,
    })
}

fn sizes(p: &str) -> Option<[usize; 3]> {
    let rest = p.strip_prefix('m')?;
    let (m, rest) = rest.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
}

/// The elements of a and b have to be of one kind, and the sum one that they can be added up in.
fn paired(shape: &Shape) -> bool {
    use Element::{Bf16, F16, F32, S8, S32, Tf32, U8};
    matches!(
        (shape.a, shape.b, shape.sum),
        (F16, F16, F16 | F32) | (Bf16, Bf16, F32) | (Tf32, Tf32, F32) | (S8 | U8, S8 | U8, S32)
    )
}

fn mma(m: &mut Mods, a: &mut Args) -> Decoded<Op> {
    m.take("sync");
    m.take("aligned");
    let [sm, n, k] = m.find(sizes).ok_or("it has no shape")?;
    if !(m.take("row") && m.take("col")) {
        return Err("only .row.col is known".to_owned());
    }
    m.take("satfinite");
    let mut next = || m.find(element).ok_or("it has too few types");
    let (d, x, y, c) = (next()?, next()?, next()?, next()?);
    let shape = Shape { m: sm, n, k, a: x, b: y, sum: d };
    let bits = x.bits();
    let known = match (sm, n, k) {
        (16, 8, 16) => matches!(bits, 16 | 8),
        (16, 8, 8) => matches!(bits, 16 | 32),
        (16, 8, 4) => bits == 32,
        (16, 8, 32) | (8, 8, 16) => bits == 8,
        _ => false,
    };
    if !known || c != d || !paired(&shape) {
        return Err("this shape is not supported with these types".to_owned());
    }
    let (d, x, y, c) = (a.take_list()?, a.list()?, a.list()?, a.list()?);
    let regs = |rows: usize, cols: usize, bits: usize| rows * cols * bits / 32 / 32;
    let expected = [regs(sm, n, shape.sum.bits()), regs(sm, k, bits), regs(k, n, bits)];
    if [d.len(), x.len(), y.len()] != expected || c.len() != d.len() {
        return Err(format!("{} {} {} registers for {expected:?}", d.len(), x.len(), y.len()));
    }
    Ok(Op::Mma { shape, d, a: x, b: y, c })
}

fn wgmma(m: &mut Mods, a: &mut Args) -> Decoded<Op> {
    m.take("sync");
    m.take("aligned");
    if m.take("fence") {
        return Ok(Op::WgmmaFence);
    }
    if m.take("commit_group") {
        return Ok(Op::WgmmaCommit);
    }
    if m.take("wait_group") {
        return Ok(Op::WgmmaWait { left: imm32(a)? });
    }
    if !m.take("mma_async") {
        return Err("this operation is not supported".to_owned());
    }
    let [sm, n, k] = m.find(sizes).ok_or("it has no shape")?;
    let mut next = || m.find(element).ok_or("it has too few types");
    let (sum, x, y) = (next()?, next()?, next()?);
    let shape = Shape { m: sm, n, k, a: x, b: y, sum };
    let deep = matches!((x, k), (Element::F16 | Element::Bf16, 16) | (Element::Tf32, 8));
    if sm != 64
        || n == 0
        || !n.is_multiple_of(8)
        || n > 256
        || !deep
        || sum != Element::F32
        || !paired(&shape)
    {
        return Err("this shape is not supported with these types".to_owned());
    }
    let d = a.take_list()?;
    if d.len() != n / 2 || d.contains(&SINK) {
        return Err(format!("{} accumulators for {}", d.len(), n / 2));
    }
    let fragment = a.list()?;
    if !matches!(fragment.len(), 1 | 4) {
        return Err("expected a descriptor or four registers".to_owned());
    }
    let b = a.value()?;
    let add = a.predicate()?;
    let sign = [a.value()?, a.value()?];
    let mut transposed = [Operand::Imm(0); 2];
    if x.bits() == 16 {
        let b_only = fragment.len() == 4;
        for place in &mut transposed[b_only as usize..] {
            *place = a.value()?;
        }
    }
    Ok(Op::Wgmma(Box::new(Wgmma { shape, d, a: fragment, b, add, sign, transposed })))
}
