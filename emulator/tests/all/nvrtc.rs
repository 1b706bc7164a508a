//! NVRTC, bound by hand: two versions of it are used in one process.
#![allow(unsafe_code, reason = "calls a C library")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

type Program = *mut c_void;
type GetSize = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type GetText = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

pub struct Nvrtc {
    pub name: String,
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log: (GetSize, GetText),
    ptx: (GetSize, GetText),
    cubin: (GetSize, GetText),
}

fn open(path: &Path) -> *mut c_void {
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name ends with a zero; 2 is RTLD_NOW, 0x100 RTLD_GLOBAL where the library asks for its
    // builtins by name.
    unsafe { dlopen(name.as_ptr(), 2) }
}

fn find(folder: &Path, stem: &str) -> Option<PathBuf> {
    let all = std::fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path()));
    let named = |p: &PathBuf| {
        p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(stem) && !n.contains("alt"))
    };
    all.filter(named).min()
}

impl Nvrtc {
    fn load(folder: &Path) -> Option<Nvrtc> {
        let builtins = find(folder, "libnvrtc-builtins.so.")?;
        assert!(!open(&builtins).is_null(), "{} does not load", builtins.display());
        let path = find(folder, "libnvrtc.so.")?;
        let library = open(&path);
        assert!(!library.is_null(), "{} does not load", path.display());
        macro_rules! get {
            ($name:literal) => {{
                // SAFETY: the name ends with a zero, and the library stays loaded.
                let f = unsafe { dlsym(library, concat!($name, "\0").as_ptr().cast()) };
                assert!(!f.is_null(), concat!($name, " is missing"));
                // SAFETY: the types are those of nvrtc.h, and a pointer is as large as a function.
                unsafe { std::mem::transmute_copy(&f) }
            }};
        }
        let mut n = Nvrtc {
            name: String::new(),
            version: get!("nvrtcVersion"),
            create: get!("nvrtcCreateProgram"),
            compile: get!("nvrtcCompileProgram"),
            destroy: get!("nvrtcDestroyProgram"),
            log: (get!("nvrtcGetProgramLogSize"), get!("nvrtcGetProgramLog")),
            ptx: (get!("nvrtcGetPTXSize"), get!("nvrtcGetPTX")),
            cubin: (get!("nvrtcGetCUBINSize"), get!("nvrtcGetCUBIN")),
        };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to integers.
        unsafe { (n.version)(&mut major, &mut minor) };
        n.name = format!("{major}.{minor}");
        Some(n)
    }

    fn text(program: Program, (size, get): (GetSize, GetText)) -> Vec<u8> {
        let mut n = 0;
        // SAFETY: the program lives, and the buffer is as large as it says.
        unsafe {
            size(program, &mut n);
            let mut text = vec![0u8; n.max(1)];
            get(program, text.as_mut_ptr().cast());
            text
        }
    }

    /// PTX (for `compute_..`) or a CUBIN (for `sm_..`), and the log.
    pub fn build(
        &self,
        name: &str,
        source: &str,
        arch: &str,
        options: &[&str],
    ) -> Result<(Vec<u8>, String), String> {
        let c = |s: &str| CString::new(s).unwrap();
        let header = (c(include_str!("../kernels/common.cuh")), c("common.cuh"));
        let mut all = vec![c(&format!("--gpu-architecture={arch}")), c("-lineinfo"), c("--std=c++17")];
        all.extend(options.iter().map(|o| c(o)));
        let pointers: Vec<*const c_char> = all.iter().map(|o| o.as_ptr()).collect();
        let mut program = std::ptr::null_mut();
        let (source, name) = (c(source), c(name));
        // SAFETY: all texts end with a zero and outlive the calls.
        unsafe {
            let (text, file) = ([header.0.as_ptr()], [header.1.as_ptr()]);
            (self.create)(&mut program, source.as_ptr(), name.as_ptr(), 1, text.as_ptr(), file.as_ptr());
            let failed = (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) != 0;
            let log =
                String::from_utf8_lossy(&Self::text(program, self.log)).trim_end_matches('\0').to_owned();
            let out = Self::text(program, if arch.starts_with("sm_") { self.cubin } else { self.ptx });
            (self.destroy)(&mut program);
            if failed { Err(log) } else { Ok((out, log)) }
        }
    }

    pub fn ptx(&self, name: &str, source: &str, arch: &str) -> String {
        match self.build(name, source, arch, &[]) {
            Ok((text, _)) => String::from_utf8(text).unwrap().trim_end_matches('\0').to_owned(),
            Err(log) => panic!("{name} for {arch}: {log}"),
        }
    }
}

/// All that `EMULATOR_NVRTC` names: folders, with colons between them. Its absence is a failure if
/// `TEMPRA_REQUIRE` says so.
pub fn all() -> &'static [Nvrtc] {
    static ALL: OnceLock<Vec<Nvrtc>> = OnceLock::new();
    ALL.get_or_init(|| {
        let folders = std::env::var("EMULATOR_NVRTC").unwrap_or_default();
        let found: Vec<Nvrtc> = folders.split(':').filter_map(|f| Nvrtc::load(Path::new(f))).collect();
        let required = std::env::var("TEMPRA_REQUIRE").is_ok_and(|r| r.split(',').any(|r| r == "nvrtc"));
        assert!(!required || !found.is_empty(), "no NVRTC in '{folders}' (EMULATOR_NVRTC)");
        if found.is_empty() {
            eprintln!("not here: NVRTC (EMULATOR_NVRTC names the folders)");
        }
        found
    })
}

// SAFETY: NVRTC may be called from several threads.
unsafe impl Sync for Nvrtc {}
// SAFETY: the same.
unsafe impl Send for Nvrtc {}
