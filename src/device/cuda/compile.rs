//! Compiles kernels with NVRTC, and caches the machine code.

use super::library;
use super::nvrtc::Nvrtc;
use crate::device::Const;
use crate::device::logs::{first_errors, save_log};
use crate::error::{Error, Result};
use crate::shape::DType;
use std::collections::HashMap;
use std::ffi::CString;
use std::path::PathBuf;

/// Definitions that every kernel may use, compiled before its own source.
pub const PRELUDE: &str = include_str!("../../../kernels/prelude.cuh");

/// The resources that a kernel uses on a multiprocessor, as reported by the assembler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers per thread.
    pub registers: u32,
    /// Static shared memory per block, in bytes.
    pub shared: u32,
    /// Stack frame per thread (local memory, which is slow), in bytes.
    pub stack: u32,
    /// Register spills per thread, stores and loads, in bytes.
    pub spills: u32,
    /// Whether the assembler serialized the wgmma instructions, which is correct but slow.
    pub serialized: bool,
}

/// Compiles for one architecture.
pub struct Compiler {
    /// The target architecture: 75, 80, 90 and so on.
    target: u32,
    /// Whether the GPU is newer than NVRTC. Then NVRTC compiles PTX for the newest architecture that it
    /// supports, and the driver compiles that for the GPU.
    pub older: bool,
    /// NVRTC's version: major and minor.
    pub version: (i32, i32),
    /// Whether to compile PTX instead of machine code, for the emulator.
    pub ptx: bool,
    nvrtc: &'static Nvrtc,
    /// The folder of cached machine code.
    cache: Option<PathBuf>,
}

/// The text that is compiled for a kernel: the prelude, its constants, its own source.
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
    /// A compiler for a GPU of this compute capability, with a driver for this version of CUDA (13000 for
    /// 13.0). Architectures above `newest` count as unknown to NVRTC.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if there is no NVRTC that the driver supports.
    pub fn new(
        capability: u32,
        driver: i32,
        newest: Option<u32>,
        ptx: bool,
        cache: Option<PathBuf>,
    ) -> Result<Compiler> {
        let nvrtc = library::nvrtc(driver / 1000)?;
        let mut known = nvrtc.architectures();
        known.retain(|&a| newest.is_none_or(|newest| a <= newest));
        let (target, older) = target(capability, &known);
        Ok(Compiler { target, older, version: nvrtc.version, ptx, nvrtc, cache })
    }
    /// The file of NVRTC, or the name by which the loader found it.
    pub fn library(&self) -> &std::path::Path {
        &self.nvrtc.path
    }
    /// Whether kernels may use Hopper's instructions (wgmma, TMA).
    pub fn hopper(&self) -> bool {
        self.target == 90 && !self.older
    }
    /// The target architecture, such as 90.
    pub fn target(&self) -> u32 {
        self.target
    }
    /// Whether the image is PTX.
    fn makes_ptx(&self) -> bool {
        self.ptx || self.older
    }

    /// The target's name for NVRTC; for Hopper `sm_90a`, with its architecture-specific instructions.
    fn architecture(&self) -> String {
        let kind = if self.makes_ptx() { "compute" } else { "sm" };
        format!("{kind}_{}{}", self.target, suffix(self.target, self.older))
    }

    /// A module's image: a CUBIN, or PTX with a terminating zero.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if the kernel does not compile.
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
            let _ = crate::files::replace(&path, &sealed(&image));
        }
        Ok(image)
    }

    /// The resources of a kernel compiled to machine code, and a digest of everything that they depend on. A
    /// kernel whose digest is in `known` is not compiled.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if the kernel does not compile.
    pub fn resources(
        &self,
        name: &str,
        source: &str,
        consts: &[(&'static str, Const)],
        threads: u32,
        known: &HashMap<String, Resources>,
    ) -> Result<(Resources, String)> {
        let text = specialised(name, source, consts, threads);
        let machine = Compiler { ptx: false, older: false, cache: None, ..*self };
        let options = [
            format!("--gpu-architecture={}", machine.architecture()),
            "--std=c++17".into(),
            "--ptxas-options=-v".into(),
        ];
        let all = format!("{:?}\0{}\0{text}", self.version, options.join("\0"));
        let digest = blake3::hash(all.as_bytes()).to_hex()[..16].to_owned();
        if let Some(found) = known.get(&digest) {
            return Ok((found.clone(), digest));
        }
        let (_, log) = machine.compile(name, &text, &options)?;
        let found = told(&log, name).ok_or_else(|| {
            Error::device(format!("the assembler's output does not mention kernel {name}")).with_found(log)
        })?;
        Ok((found, digest))
    }

    fn compile(&self, name: &str, text: &str, options: &[String]) -> Result<(Vec<u8>, String)> {
        let refused = |what: &str, code: &str, log: &str| {
            let whole = format!(
                "kernel {name}, NVRTC {}.{} ({}), options {}\n--- the compiler's output\n{code}\n{log}\n--- the compiled source\n{text}",
                self.version.0,
                self.version.1,
                self.nvrtc.path.display(),
                options.join(" ")
            );
            let place = save_log(name, &whole);
            let reason = first_errors(log);
            Error::device(format!("kernel {name} {what} for {}", self.architecture()))
                .with_expected(format!("a kernel that NVRTC {}.{} accepts", self.version.0, self.version.1))
                .with_found(format!("{}{place}", if reason.is_empty() { code } else { reason.as_str() }))
                .with_help(
                    "this is a bug in tempra: report it with that file; until it is fixed, run with --device wgpu or --device cpu",
                )
        };
        let (Ok(source), Ok(file)) = (CString::new(text), CString::new(format!("{name}.cu"))) else {
            return Err(refused("cannot be compiled", "a zero byte in its source", ""));
        };
        let compiled = self.nvrtc.compile(&source, &file, options, self.makes_ptx());
        match compiled.image {
            Ok(image) => Ok((image, compiled.log)),
            Err(code) => Err(refused("does not compile", &code, &compiled.log)),
        }
    }
}

/// The suffix of an architecture: `a` for Hopper's own instructions. PTX with this suffix would not run on
/// newer GPUs.
fn suffix(target: u32, older: bool) -> &'static str {
    if target == 90 && !older { "a" } else { "" }
}

/// The architecture to compile for, given the supported ones, and whether it is older than the GPU's.
fn target(capability: u32, known: &[u32]) -> (u32, bool) {
    match known.iter().copied().filter(|&a| a <= capability).max() {
        Some(a) => (a, a != capability),
        None => (capability, false),
    }
}

/// A kernel's resources in the assembler's output.
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
        serialized: log.contains("wgmma.mma_async instructions are serialized"),
    })
}

/// The image in a cached file, if it is intact.
fn unsealed(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (hash, image) = bytes.split_at_checked(32)?;
    (blake3::hash(image).as_bytes() == hash).then(|| image.to_vec())
}

/// The contents of a file for the cache: the hash of the image, then the image.
fn sealed(image: &[u8]) -> Vec<u8> {
    [blake3::hash(image).as_bytes().as_slice(), image].concat()
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
        // An architecture that NVRTC no longer supports, and an NVRTC without a list: the target is the GPU's
        // own architecture.
        assert_eq!(target(70, &known_to_it), (70, false));
        assert_eq!(target(80, &[]), (80, false));
        // The name has the letter of what only Hopper has for Hopper alone.
        assert_eq!([suffix(90, false), suffix(90, true), suffix(120, false)], ["a", "", ""]);
    }
}
