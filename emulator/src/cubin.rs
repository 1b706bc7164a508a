//! What a CUBIN says of its kernels: registers, shared memory. It is an ELF file; no tool is needed.

/// What a kernel takes of a multiprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The kernel.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u64,
}

fn number<const N: usize>(b: &[u8], at: usize) -> Option<u64> {
    let mut word = [0; 8];
    word[..N].copy_from_slice(b.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(word))
}

/// Reads a CUBIN. `None` if it is none.
pub fn resources(cubin: &[u8]) -> Option<Vec<Resources>> {
    if !cubin.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size) = (number::<8>(cubin, 40)? as usize, number::<2>(cubin, 58)? as usize);
    let (count, names) = (number::<2>(cubin, 60)? as usize, number::<2>(cubin, 62)? as usize);
    let field = |i: usize, at: usize| table.checked_add(i.checked_mul(size)?)?.checked_add(at);
    let names = number::<8>(cubin, field(names, 24)?)? as usize;
    let name = |i: usize| {
        let at = names.checked_add(number::<4>(cubin, field(i, 0)?)? as usize)?;
        let text = cubin.get(at..)?;
        let end = text.iter().position(|&b| b == 0)?;
        std::str::from_utf8(&text[..end]).ok().map(str::to_owned)
    };
    let sections: Vec<String> = (0..count).map(name).collect::<Option<_>>()?;
    let registers = registers(cubin, &sections, field)?;
    let mut all = Vec::new();
    for (kernel, registers) in registers {
        if !sections.iter().any(|s| s.strip_prefix(".text.") == Some(&kernel)) {
            continue;
        }
        let shared = sections.iter().position(|s| s.strip_prefix(".nv.shared.") == Some(&kernel));
        let shared = match shared {
            Some(s) => number::<8>(cubin, field(s, 32)?)?,
            None => 0,
        };
        all.push(Resources { kernel, registers, shared });
    }
    all.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    Some(all)
}

/// Registers of each function, from `.nv.info`: entries of a format, an attribute and a size; 0x2f counts
/// registers.
fn registers(
    b: &[u8],
    sections: &[String],
    field: impl Fn(usize, usize) -> Option<usize>,
) -> Option<Vec<(String, u32)>> {
    let whole = |i: usize| {
        let (at, size) = (number::<8>(b, field(i, 24)?)? as usize, number::<8>(b, field(i, 32)?)? as usize);
        b.get(at..at.checked_add(size)?)
    };
    let find = |name: &str| sections.iter().position(|s| s == name);
    let (info, symbols) = (whole(find(".nv.info")?)?, find(".symtab")?);
    let names = whole(number::<4>(b, field(symbols, 40)?)? as usize)?;
    let symbols = whole(symbols)?;
    let (mut at, mut all) = (0, Vec::new());
    while let Some(size) = number::<2>(info, at + 2) {
        let long = info[at] == 4;
        if long && info[at + 1] == 0x2f {
            let symbol = number::<4>(info, at + 4)? as usize;
            let text = names.get(number::<4>(symbols, symbol.checked_mul(24)?)? as usize..)?;
            let end = text.iter().position(|&c| c == 0)?;
            all.push((String::from_utf8_lossy(&text[..end]).into_owned(), number::<4>(info, at + 8)? as u32));
        }
        at += 4 + if long { size as usize } else { 0 };
    }
    Some(all)
}
