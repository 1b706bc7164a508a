//! Kernels as text to kernels as machine code: NVRTC, and a cache of what it made.
#![allow(unsafe_code, reason = "calls NVRTC")]

use super::library;
use crate::device::Const;
use crate::error::{Error, Result};
use crate::shape::DType;
use cudarc::nvrtc::{result, sys};
use std::ffi::{CString, c_char};
use std::path::PathBuf;

/// What every kernel may use; put before its own source.
pub const PRELUDE: &str = include_str!("../../../kernels/prelude.cuh");

/// What a kernel takes of a multiprocessor, as the assembler says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u32,
    /// Bytes of a thread's stack: local memory, which is slow.
    pub stack: u32,
    /// Bytes that are spilled there for want of registers, stored and loaded.
    pub spills: u32,
}

/// Compiles for one architecture.
pub struct Compiler {
    /// The architecture that is compiled for: 75, 80, 90 and so on.
    target: u32,
    /// NVRTC does not know the card, which is newer: what it makes is PTX of the newest architecture before, and the driver
    /// compiles that.
    pub older: bool,
    /// NVRTC's version.
    pub version: (i32, i32),
    /// Makes PTX instead of machine code: for the emulator, which runs that.
    pub ptx: bool,
    /// Where machine code is kept between runs.
    cache: Option<PathBuf>,
}

/// What a kernel's text becomes before it is compiled: the prelude, what specialises it, its own source.
pub fn specialised(name: &str, source: &str, consts: &[(&str, Const)], threads: u32) -> String {
    let mut text = format!(
        "#line 1 \"prelude.cuh\"\n{PRELUDE}\n#line 1 \"constants\"\nconstexpr u32 THREADS = {threads}u;\n"
    );
    for (name, value) in consts {
        text += &match value {
            Const::U32(v) => format!("constexpr u32 {name} = {v}u;\n"),
            Const::Type(DType::U32) => format!("using {name} = u32;\n"),
            Const::Type(DType::F32) => format!("using {name} = float;\n"),
            Const::Type(DType::BF16) => format!("using {name} = bf16;\n"),
            Const::Type(DType::F16) => format!("using {name} = f16;\n"),
            Const::Type(DType::F64) => format!("using {name} = double;\n"),
            Const::Matrices(n) => format!("constexpr u32 {name} = {n}u;\n"),
        };
    }
    text + &format!("#line 1 \"{name}.cu\"\n{source}")
}

impl Compiler {
    /// For a card of this compute capability. Fails with `Device` where NVRTC is missing.
    pub fn new(capability: u32, ptx: bool, cache: Option<PathBuf>) -> Result<Compiler> {
        library::nvrtc()?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the library is there, and both point to integers.
        unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
        let (target, older) = target(capability, &known());
        Ok(Compiler { target, older, version: (major, minor), ptx, cache })
    }
    /// The architecture that is compiled for, such as 90.
    pub fn target(&self) -> u32 {
        self.target
    }
    /// Whether the image is PTX.
    fn makes_ptx(&self) -> bool {
        self.ptx || self.older
    }

    /// The architecture as NVRTC names it; Hopper with what only it has.
    fn architecture(&self) -> String {
        let kind = if self.makes_ptx() { "compute" } else { "sm" };
        // PTX with it would run on no other card.
        let own = if self.target == 90 && !self.older { "a" } else { "" };
        format!("{kind}_{}{own}", self.target)
    }

    /// A module's image: a CUBIN, or PTX with a zero at its end.
    pub fn image(
        &self,
        name: &str,
        source: &str,
        consts: &[(&'static str, Const)],
        threads: u32,
    ) -> Result<Vec<u8>> {
        let text = specialised(name, source, consts, threads);
        let options =
            [format!("--gpu-architecture={}", self.architecture()), "--std=c++17".into(), "-lineinfo".into()];
        let key =
            blake3::hash(format!("{:?}\0{}\0{text}", self.version, options.join("\0")).as_bytes()).to_hex();
        let path = self.cache.as_ref().map(|dir| dir.join(format!("{}.bin", &key[..32])));
        if let Some(found) = path.as_ref().and_then(|p| std::fs::read(p).ok()).and_then(unsealed) {
            return Ok(found);
        }
        let (image, _) = self.compile(name, &text, &options)?;
        if let Some(path) = path {
            // A cache that cannot be written only costs time.
            let _ = keep(&path, &image);
        }
        Ok(image)
    }

    /// What a kernel takes when it is compiled to machine code.
    pub fn resources(
        &self,
        name: &str,
        source: &str,
        consts: &[(&'static str, Const)],
        threads: u32,
    ) -> Result<Resources> {
        let text = specialised(name, source, consts, threads);
        let machine = Compiler { ptx: false, older: false, cache: None, ..*self };
        let options = [
            format!("--gpu-architecture={}", machine.architecture()),
            "--std=c++17".into(),
            "--ptxas-options=-v".into(),
        ];
        let (_, log) = machine.compile(name, &text, &options)?;
        told(&log, name)
            .ok_or_else(|| Error::device(format!("the assembler says nothing of kernel {name}")).found(log))
    }

    fn compile(&self, name: &str, text: &str, options: &[String]) -> Result<(Vec<u8>, String)> {
        let refused = |what: &str, log: String| {
            Error::device(format!("kernel {name} {what} for {}", self.architecture()))
                .expected(format!("NVRTC {}.{} to compile it", self.version.0, self.version.1))
                .found(format!("{log}\n--- the source as it was compiled\n{text}"))
        };
        let (Ok(source), Ok(file)) = (CString::new(text), CString::new(format!("{name}.cu"))) else {
            return Err(refused("has a zero in its text", String::new()));
        };
        let program = result::create_program(&source, Some(&file))
            .map_err(|e| refused("is no program", e.to_string()))?;
        // SAFETY: the program was just made, and is destroyed once, at the end.
        unsafe {
            let compiled = result::compile_program(program, options);
            let log = || {
                let log = result::get_program_log(program).unwrap_or_default();
                String::from_utf8_lossy(&log.iter().map(|&c| c as u8).collect::<Vec<_>>())
                    .trim_end_matches('\0')
                    .to_owned()
            };
            let image = match compiled {
                Err(_) => Err(refused("does not compile", log())),
                Ok(()) if self.makes_ptx() => result::get_ptx(program)
                    .map(|text| text.iter().map(|&c| c as u8).collect())
                    .map_err(|e| refused("gave no PTX", e.to_string())),
                Ok(()) => cubin(program).map_err(|e| refused("gave no machine code", e.to_string())),
            };
            let log = log();
            let _ = result::destroy_program(program);
            Ok((image?, log))
        }
    }
}

/// The architectures that NVRTC knows, in order; none if it does not say.
fn known() -> Vec<u32> {
    let mut count = 0;
    // SAFETY: the library is there; it fills as many integers as it said that there are.
    unsafe {
        if sys::nvrtcGetNumSupportedArchs(&mut count).result().is_err() {
            return Vec::new();
        }
        let mut list = vec![0; count.max(0) as usize];
        match sys::nvrtcGetSupportedArchs(list.as_mut_ptr()).result() {
            Ok(()) => list.into_iter().map(|a| a as u32).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// What to compile for where these architectures are known, and whether it is an older one than the card's.
fn target(capability: u32, known: &[u32]) -> (u32, bool) {
    match known.iter().copied().filter(|&a| a <= capability).max() {
        Some(a) => (a, a != capability),
        None => (capability, false),
    }
}

/// What the assembler's report says of a kernel.
fn told(log: &str, name: &str) -> Option<Resources> {
    let (_, about) = log.split_once(&format!("entry function '{name}'"))?;
    let about = about.split("Compiling entry function").next()?;
    // The number that stands before some words.
    let before = |words: &str| -> u32 {
        let number =
            about.split_once(words).and_then(|(b, _)| b.split_whitespace().next_back()?.parse().ok());
        number.unwrap_or(0)
    };
    let used = about.split_once("Used ")?.1.split_whitespace().next()?.parse().ok()?;
    let spills = before(" bytes spill stores") + before(" bytes spill loads");
    Some(Resources {
        registers: used,
        shared: before(" bytes smem"),
        stack: before(" bytes stack frame"),
        spills,
    })
}

/// The machine code of a compiled program.
///
/// # Safety
/// The program was compiled and not destroyed.
unsafe fn cubin(program: sys::nvrtcProgram) -> std::result::Result<Vec<u8>, result::NvrtcError> {
    let mut size = 0;
    // SAFETY: the caller's word; the buffer is as large as NVRTC says.
    unsafe {
        sys::nvrtcGetCUBINSize(program, &mut size).result()?;
        let mut image = vec![0u8; size];
        sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast::<c_char>()).result()?;
        Ok(image)
    }
}

/// The content of a cached file, if it is whole: the hash of the rest stands first.
fn unsealed(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (hash, image) = bytes.split_at_checked(32)?;
    (blake3::hash(image).as_bytes() == hash).then(|| image.to_vec())
}

fn keep(path: &std::path::Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    std::fs::write(&temporary, [blake3::hash(image).as_bytes().as_slice(), image].concat())?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_that_nvrtc_does_not_know_get_the_newest_that_it_knows() {
        let known_to_it = [75, 80, 86, 89, 90, 100, 120];
        assert_eq!(target(90, &known_to_it), (90, false));
        assert_eq!(target(110, &known_to_it), (100, true));
        assert_eq!(target(130, &known_to_it), (120, true));
        // An architecture that was dropped, and an NVRTC that does not say: it is asked for what the card is.
        assert_eq!(target(70, &known_to_it), (70, false));
        assert_eq!(target(80, &[]), (80, false));
        // The name has the letter of what only Hopper has for Hopper alone.
        let name = |target, older| {
            Compiler { target, older, version: (13, 0), ptx: false, cache: None }.architecture()
        };
        assert_eq!(
            [name(90, false), name(90, true), name(120, false), name(120, true)],
            ["sm_90a", "compute_90", "sm_120", "compute_120"]
        );
    }
}
