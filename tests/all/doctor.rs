//! `tempra devices` and the opening of GPUs where something is wrong: driver libraries and NVRTCs that fail
//! in a known way (`tests/fakes`, compiled here by rustc), variables with unknown values, and names of
//! devices that are none.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempra::device::cuda::{BLAS_FUNCTIONS, driver_functions};

/// The folder with the compiled fakes. It is made once, and stays until the tests end.
fn fakes() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let make = |source: &str, file: &str, flags: &[&str], version: Option<&str>| {
            let to = dir.path().join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
            let mut command = Command::new(rustc);
            command.args([
                "--edition",
                "2024",
                "--crate-type",
                "cdylib",
                "--crate-name",
                "fake",
                "-C",
                "panic=abort",
            ]);
            command.args(["--cap-lints", "allow"]).args(flags).arg("-o").arg(&to);
            command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes").join(source));
            command.env_remove("RUSTFLAGS").envs(version.map(|v| ("FAKE_NVRTC_VERSION", v)));
            let made = command.output().expect("rustc");
            assert!(made.status.success(), "{file}: {}", String::from_utf8_lossy(&made.stderr));
        };
        make("driver.rs", "good/libcuda.so", &[], None);
        make("driver.rs", "incomplete/libcuda.so", &["--cfg", "incomplete"], None);
        make("driver.rs", "empty/libcuda.so", &["--cfg", "empty"], None);
        // cuBLASLt without functions, and a file that is no library.
        fs::copy(dir.path().join("empty/libcuda.so"), dir.path().join("empty/libcublasLt.so")).unwrap();
        fs::create_dir(dir.path().join("text")).unwrap();
        fs::write(dir.path().join("text/libcuda.so"), "no library\n").unwrap();
        make("nvrtc.rs", "nvrtc/libnvrtc.so.13", &[], None);
        make("nvrtc.rs", "nvrtc-12/libnvrtc.so.12", &[], Some("12.4"));
        for flaw in ["version", "function", "builtins", "source"] {
            let flag = format!("flaw=\"{flaw}\"");
            make("nvrtc.rs", &format!("nvrtc-{flaw}/libnvrtc.so.13"), &["--cfg", &flag], None);
        }
        dir
    });
    dir.path()
}

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
    cache: tempfile::TempDir,
}

/// Runs the program with these folders of fakes on the loader's path, and with nothing else of this
/// environment.
fn run(folders: &[&str], set: &[(&str, &str)], args: &[&str]) -> Run {
    let cache = tempfile::tempdir().unwrap();
    let path =
        folders.iter().map(|name| fakes().join(name).display().to_string()).collect::<Vec<_>>().join(":");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tempra"));
    command
        .env_clear()
        .env("LD_LIBRARY_PATH", path)
        .env("HOME", cache.path())
        .env("TEMPRA_CACHE", cache.path());
    let output = command.envs(set.iter().copied()).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr), cache }
}

/// What `tempra devices` says of a device, and of the libraries by their names. Its exit code is always 0,
/// and it never says that it has a bug.
fn devices(folders: &[&str], set: &[(&str, &str)]) -> (Value, BTreeMap<String, Value>) {
    let Run { code, out, err, .. } = run(folders, set, &["devices", "--json", "--timeout", "120"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let all = found["devices"].as_array().unwrap();
    assert_eq!(all[0]["name"], "cpu");
    assert_eq!(all[0]["available"], true);
    let cuda = all.iter().find(|d| d["name"].as_str().unwrap().starts_with("cuda")).unwrap().clone();
    let libraries = found["libraries"].as_array().unwrap().iter();
    (cuda, libraries.map(|l| (l["name"].as_str().unwrap().to_owned(), l.clone())).collect())
}

/// The message of a command that cannot open a CUDA device.
fn refused(folders: &[&str], set: &[(&str, &str)], code: i32) -> String {
    let Run { code: found, out, err, .. } = run(folders, set, &["verify", "--device", "cuda"]);
    assert_eq!(found, Some(code), "{out}{err}");
    assert!(err.starts_with("error: ") && err.contains("help: "), "{err}");
    assert!(!err.contains("bug in tempra") && !err.contains("same command again"), "{err}");
    err
}

fn has(value: &Value, parts: &[&str]) {
    let text = value.to_string().replace("\\\"", "\"");
    assert!(parts.iter().all(|p| text.contains(p)), "{parts:?} in {text}");
}

#[test]
fn a_whole_driver_with_nvrtc_opens() {
    let (cuda, libraries) = devices(&["good", "nvrtc"], &[]);
    assert_eq!((&cuda["name"], &cuda["available"]), (&"cuda:0".into(), &true.into()), "{cuda}");
    assert_eq!(cuda["compute_capability"], "8.0");
    let path = |name: &str| PathBuf::from(libraries[name]["path"].as_str().unwrap());
    let real = |name: &str| fakes().join(name).canonicalize().unwrap();
    assert_eq!(path("libcuda"), real("good/libcuda.so"));
    assert_eq!(libraries["libcuda"]["version"], "CUDA 13.0");
    assert_eq!(path("NVRTC").canonicalize().unwrap(), real("nvrtc/libnvrtc.so.13"));
    assert!(libraries["NVRTC"]["usable"] == true && libraries["nvrtc-builtins"]["usable"] == true);
    let Run { out, .. } = run(&["good", "nvrtc"], &[], &["devices"]);
    let libcuda = "\nlibraries\n  libcuda        yes CUDA 13.0  /";
    for part in ["cuda:0 yes  fake GPU", libcuda, "\n  NVRTC          yes 13.0  /", "\nenvironment\n"] {
        assert!(out.contains(part), "{part:?} in\n{out}");
    }
}

#[test]
fn a_driver_without_functions_is_no_panic() {
    let (cuda, libraries) = devices(&["empty", "nvrtc"], &[]);
    assert_eq!(cuda["available"], false);
    has(
        &cuda,
        &["is not NVIDIA's", "lacks 5 of its functions, such as cuInit", "reinstall the NVIDIA driver"],
    );
    has(&libraries["libcuda"], &["\"usable\":false", "empty/libcuda.so", "lacks 5 of its functions"]);
    assert!(refused(&["empty"], &[], 5).contains("such as cuInit"));
    assert!(refused(&["incomplete"], &[], 5).contains("lacks 1 of its functions, such as cuGraphLaunch"));
    let e = refused(&["text"], &[], 5);
    assert!(e.contains("a library that cannot be loaded: ") && e.contains("text/libcuda.so: "), "{e}");
    // People who compute on the CPU do not notice.
    for device in ["cpu", "auto"] {
        let args = ["predict", "tests/golden/bert/a", "--sentence", "A fine film.", "--device", device];
        let Run { code, err, .. } = run(&["empty"], &[], &args);
        assert_eq!(code, Some(0), "{err}");
    }
}

#[test]
fn a_cublaslt_without_functions_is_not_used() {
    let (cuda, libraries) = devices(&["good", "nvrtc", "empty"], &[]);
    assert_eq!((&cuda["available"], &cuda["cublaslt"]), (&true.into(), &false.into()), "{cuda}");
    has(
        &libraries["cuBLASLt"],
        &["lacks 14 of its functions, such as cublasLtCreate", "empty/libcublasLt.so"],
    );
    let e = refused(&["good", "nvrtc", "empty"], &[("TEMPRA_CUDA_MATMUL", "cublaslt")], 5);
    assert!(e.contains("no matmul kernels \"cublaslt\"") && e.contains("lacks 14 of its functions"), "{e}");
    let e = refused(&["good", "nvrtc"], &[("TEMPRA_CUDA_MATMUL", "wgmma")], 5);
    assert!(e.contains("compute capability 8.0") && e.contains("Hopper"), "{e}");
}

/// The codes of cuda.h, each with its own remedy.
#[test]
fn errors_of_cu_init_are_told_apart() {
    let cases = [
        (34, "stub", "from LD_LIBRARY_PATH"),
        (100, "no GPU", "`"),
        (802, "not ready", "nvidia-fabricmanager"),
        (803, "different versions", "kernel module"),
        (804, "forward compatibility", "cuda-compat"),
        (999, "cannot start", "`"),
    ];
    let mut helps = BTreeSet::new();
    for (code, what, remedy) in cases {
        let told = format!("cuInit={code}");
        let e = refused(&["good", "nvrtc"], &[("FAKE_CUDA", &told)], 5);
        assert!(
            e.contains(&format!("cuInit returned {code} (")) && e.contains(what) && e.contains(remedy),
            "{e}"
        );
        let (cuda, libraries) = devices(&["good", "nvrtc"], &[("FAKE_CUDA", &told)]);
        has(&cuda, &[what, "\"available\":false"]);
        has(&libraries["libcuda"], &[what, "\"usable\":false"]);
        // The driver is broken; NVRTC is not.
        assert_eq!(libraries["NVRTC"]["usable"], true);
        helps.insert(format!("{} {}", cuda["reason"], cuda["help"]));
    }
    assert_eq!(helps.len(), cases.len(), "{helps:?}");
    let e = refused(&["good"], &[("FAKE_CUDA", "cuInit=100"), ("CUDA_VISIBLE_DEVICES", "")], 5);
    assert!(e.contains("hides every GPU") && e.contains("unset CUDA_VISIBLE_DEVICES"), "{e}");
    let e = refused(&["good"], &[("FAKE_CUDA_VERSION", "11080")], 5);
    assert!(e.contains("too old") && e.contains("CUDA 11.8"), "{e}");
}

/// A context that does not exist yet cannot be lost: whatever call fails, the exit code is 5 and not 75,
/// which scripts repeat.
#[test]
fn no_call_that_opens_a_gpu_loses_it() {
    let calls = [
        "cuInit",
        "cuDriverGetVersion",
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDeviceGetName",
        "cuDeviceGetAttribute",
        "cuDeviceTotalMem_v2",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuMemGetInfo_v2",
        "cuStreamCreate",
    ];
    for call in calls {
        // Launch failed, and unknown: lost, if they came later.
        for code in ["719", "999"] {
            let e = refused(&["good", "nvrtc"], &[("FAKE_CUDA", &format!("{call}={code}"))], 5);
            assert!(e.contains(&format!("{code} (")), "{call}: {e}");
        }
    }
    let e = refused(&["good", "nvrtc"], &[("FAKE_CUDA", "cuDevicePrimaryCtxRetain=2")], 6);
    assert!(e.contains("not enough memory") && e.contains("nvidia-smi"), "{e}");
    let e = refused(&["good", "nvrtc"], &[("FAKE_CUDA", "cuDevicePrimaryCtxRetain=46")], 5);
    assert!(e.contains("compute mode"), "{e}");
}

#[test]
fn a_driver_that_hangs_or_crashes_is_reported() {
    for (does, limit, why) in
        [("hang", "2", "does not answer"), ("crash", "120", "crashed (signal 6, SIGABRT)")]
    {
        let args = ["devices", "--json", "--timeout", limit];
        let Run { code, out, err, .. } = run(&["good"], &[("FAKE_CUDA", &format!("cuInit={does}"))], &args);
        assert_eq!(code, Some(0), "{err}");
        let found: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(found["devices"][0]["available"], true);
        has(&found["devices"][1], &["\"name\":\"cuda\"", "\"available\":false", why, "nvidia-smi"]);
    }
}

#[test]
fn a_broken_nvrtc_is_passed_over() {
    let folders = ["good", "nvrtc-version", "nvrtc-function", "nvrtc-builtins", "nvrtc"];
    let expected = [
        ("nvrtc-version", "nvrtcVersion failed with code 11"),
        ("nvrtc-function", "lacks the function nvrtcDestroyProgram"),
        ("nvrtc-builtins", "failed to open libnvrtc-builtins.so.13.0"),
    ];
    let named =
        folders[1..].iter().map(|f| fakes().join(f).display().to_string()).collect::<Vec<_>>().join(":");
    // On the loader's path, and in folders that the user names.
    for (path, set) in [(&folders[..], vec![]), (&folders[..1], vec![("TEMPRA_CUDA_LIB", named.as_str())])] {
        let (cuda, libraries) = devices(path, &set);
        assert_eq!(cuda["available"], true, "{cuda}");
        assert_eq!(cuda["nvrtc_file"], fakes().join("nvrtc/libnvrtc.so.13").display().to_string());
        let passed = libraries["NVRTC"]["passed_over"].as_array().unwrap();
        assert_eq!(passed.len(), 3, "{passed:?}");
        for (file, (folder, why)) in passed.iter().zip(expected) {
            has(file, &[folder, why]);
        }
    }
}

#[test]
fn failures_of_nvrtc_have_their_own_remedies() {
    let of = |folder: &str, version: &str| {
        let lib = fakes().join(folder).display().to_string();
        devices(&["good"], &[("TEMPRA_CUDA_LIB", &lib), ("FAKE_CUDA_VERSION", version)])
    };
    // A machine may have another NVRTC that works; what is wrong with this one is said all the same.
    for (folder, version, why, remedy) in [
        ("nvrtc-builtins", "13000", "failed to open libnvrtc-builtins", "builtins together"),
        ("nvrtc-function", "13000", "lacks the function", "reinstall it"),
        ("nvrtc", "12040", "it is for CUDA 13, the driver for CUDA 12", "nvidia-cuda-nvrtc-cu12"),
    ] {
        let (cuda, libraries) = of(folder, version);
        has(&libraries["NVRTC"]["passed_over"], &[folder, why]);
        if cuda["available"] == false {
            has(&cuda, &[why, remedy, "\"help\""]);
            has(&libraries["NVRTC"], &[remedy]);
        }
    }
    let (cuda, _) = of("nvrtc-12", "12040");
    assert_eq!((&cuda["available"], &cuda["nvrtc"]), (&true.into(), &"12.4".into()), "{cuda}");
    // The driver does not load what NVRTC compiles.
    for (code, what, remedy) in [
        ("222", "does not know the PTX version", "nvidia-cuda-nvrtc<=13.0"),
        ("209", "does not accept the kernels", "delete the folder kernels"),
        ("221", "PTX compiler is missing", "libnvidia-ptxjitcompiler"),
    ] {
        let told = format!("cuModuleLoadData={code}");
        let (cuda, _) = devices(&["good", "nvrtc"], &[("FAKE_CUDA", &told)]);
        has(&cuda, &["\"available\":false", what, remedy]);
    }
}

#[test]
fn a_compiler_writes_its_output_to_a_file() {
    let Run { code, out, err, cache } = run(&["good", "nvrtc-source"], &[], &["devices", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let cuda = &found["devices"][1];
    let text = cuda["found"].as_str().unwrap();
    assert!(text.starts_with("check.cu(2): error: identifier \"nonsense\" is undefined; "), "{text}");
    assert!(!text.contains("warning") && !text.contains("#line") && text.len() < 600, "{text}");
    let logs: Vec<PathBuf> =
        fs::read_dir(cache.path().join("logs")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(logs.len(), 1);
    assert!(text.contains(&logs[0].display().to_string()), "{text}");
    let log = fs::read_to_string(&logs[0]).unwrap();
    for part in ["warning #177-D", "--gpu-architecture=sm_80", "#line 1 \"prelude.cuh\"", "void check("] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[test]
fn unknown_values_of_variables_are_refused() {
    for (name, value, word) in [
        ("TEMPRA_CUDA_MATMUL", "fast", "own, mma, wgmma, cublaslt, fastest"),
        ("TEMPRA_CUDA_GRAPHS", "off", "0 or 1"),
        ("TEMPRA_CUDA_EXACT", "yes", "0 or 1"),
        ("TEMPRA_CUDA_PTX", "true", "0 or 1"),
        ("TEMPRA_CUDA_MEMORY", "8GiB", "whole number (bytes)"),
        ("TEMPRA_CUDA_LOSE_AFTER", "-1", "whole number"),
        ("TEMPRA_CUDA_TARGET", "sm_80", "whole number (an architecture)"),
        ("TEMPRA_CUDA_LIB", "/nowhere/at/all", "does not exist"),
    ] {
        let e = refused(&["good", "nvrtc"], &[(name, value)], 2);
        assert!([name, value, word].iter().all(|part| e.contains(part)), "{e}");
        // `devices` lists the variable, and goes on.
        let Run { code, out, .. } = run(&["good", "nvrtc"], &[(name, value)], &["devices"]);
        assert!(code == Some(0) && out.contains(&format!("\n  {name}={value}\n")), "{out}");
    }
    let Run { code, err, .. } = run(&[], &[("TEMPRA_WGPU_CHECKED", "on")], &["verify", "--device", "wgpu"]);
    if cfg!(feature = "wgpu") {
        assert!(code == Some(2) && err.contains("TEMPRA_WGPU_CHECKED=on") && err.contains("0 or 1"), "{err}");
    }
    for plant in ["linear", "linear:0", "linear:x", "nothing:3"] {
        let args = ["bench", "ops", "--device", "cpu", "--op", "linear"];
        let Run { code, err, .. } = run(&[], &[("TEMPRA_BENCH_PLANT", plant)], &args);
        assert!(code == Some(2) && err.contains(&format!("TEMPRA_BENCH_PLANT={plant}")), "{err}");
    }
    let Run { out, .. } = run(&[], &[("TEMPRA_CUDA_GRAPH", "0")], &["devices"]);
    assert!(out.contains("did you mean TEMPRA_CUDA_GRAPHS?"), "{out}");
}

#[test]
fn one_device_under_two_names_is_refused() {
    for (names, id, both) in [
        ("cuda,cuda:0", "cuda:0", "cuda and cuda:0"),
        ("wgpu:0,wgpu", "wgpu:0", "wgpu:0 and wgpu"),
        ("cpu,auto", "cpu", "cpu and auto"),
    ] {
        let Run { code, err, .. } = run(&["good", "nvrtc"], &[], &["bench", "ops", "--device", names]);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(&format!("the device {id} is named twice: {both}")), "{err}");
    }
    for name in ["cuda:00", "cuda:+1", "wgpu:01"] {
        let Run { code, err, .. } = run(&["good", "nvrtc"], &[], &["bench", "ops", "--device", name]);
        assert!(code == Some(2) && err.contains("is not the number of a device"), "{err}");
    }
    let Run { code, err, .. } = run(&[], &[], &["verify", "--device", "vulkan"]);
    assert!(code == Some(2) && err.contains("help: use wgpu: it drives GPUs of all vendors"), "{err}");
}

#[cfg(feature = "wgpu")]
#[test]
fn vulkan_manifests_that_lead_nowhere_are_named() {
    for variable in ["VK_ICD_FILENAMES", "VK_DRIVER_FILES"] {
        let set = [(variable, "/nowhere/driver.json")];
        let (_, libraries) = devices(&[], &set);
        let problem = format!("{variable} names /nowhere/driver.json, which does not exist");
        has(&libraries["Vulkan driver"], &["\"usable\":false", &problem, &format!("unset {variable}")]);
        let Run { code, err, .. } = run(&[], &set, &["verify", "--device", "wgpu"]);
        assert_eq!(code, Some(5), "{err}");
        // Without the loader nothing reads the variable, and its absence is the reason.
        let loader = libraries["Vulkan loader"]["usable"] == true;
        assert!(err.contains(if loader { &problem } else { "libvulkan.so.1" }), "{err}");
    }
}

/// Every variable that the sources read is in the list, so that a misspelt one is told from it.
#[test]
fn all_variables_are_listed() {
    fn walk(dir: &Path, found: &mut BTreeSet<String>) {
        for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                walk(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            for line in text.lines().filter(|l| {
                l.contains("env::var")
                    || l.contains("flag_of(\"")
                    || l.contains("var(\"")
                    || l.contains("(read, \"")
                    || l.contains("let name = \"")
            }) {
                let names = line.split('"').filter(|word| word.starts_with("TEMPRA_"));
                found.extend(names.map(str::to_owned));
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let listed: BTreeSet<String> =
        tempra::device::settings::VARIABLES.iter().map(|v| (*v).to_owned()).collect();
    // Read through a list of the folders to search.
    found.extend(["TEMPRA_CUDA_LIB".to_owned()]);
    assert_eq!(found, listed);
}

/// The driver functions that each function of cudarc's `result` modules calls, by its path below `result`;
/// from cudarc's source.
fn called(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let (mut module, mut current) = (String::new(), String::new());
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("pub mod ") {
            module = format!("{}::", name.trim_end_matches(" {"));
        } else if line == "}" {
            module.clear();
        }
        let code = line.trim();
        let function = code.strip_prefix("pub unsafe fn ").or(code.strip_prefix("pub fn "));
        if let Some(rest) = function {
            let name = rest.split(['(', '<']).next().unwrap();
            current = format!("{module}{name}");
        }
        all.entry(current.clone()).or_default().extend(symbols(code, "sys::"));
    }
    all
}

/// The names of C functions that are called behind a prefix.
fn symbols(code: &str, prefix: &str) -> BTreeSet<String> {
    let names = code.split(prefix).skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        let name = &rest[..end];
        let of_library =
            |rest: &str| rest.starts_with(|c: char| c.is_ascii_uppercase()) || rest.starts_with("blasLt");
        (rest[end..].starts_with('(') && name.strip_prefix("cu").is_some_and(of_library))
            .then(|| name.to_owned())
    });
    names.collect()
}

/// cudarc panics at a function that the library lacks, so tempra looks all of them up first: the lists hold
/// what is called, and nothing else, since a driver without a function that nobody calls is good enough.
#[test]
fn every_function_that_is_called_is_looked_up_first() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(rustc).arg("-vV").output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let host = told.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // Only what this machine has downloaded to build tempra.
    let args = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let found = Command::new(cargo).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    let package = found["packages"].as_array().unwrap().iter().find(|p| p["name"] == "cudarc").unwrap();
    let cudarc = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap().join("src");
    let driver = called(&cudarc.join("driver/result.rs"));
    let blas = called(&cudarc.join("cublaslt/result.rs"));
    let mut used: [BTreeSet<String>; 2] = Default::default();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/device/cuda")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let of_blas = text.contains("use cudarc::cublaslt::{result");
        for code in text.lines().map(str::trim).filter(|l| !l.starts_with("//")) {
            let direct = symbols(code, "sys::");
            used[1].extend(direct.iter().filter(|s| s.starts_with("cublasLt")).cloned());
            used[0].extend(direct.into_iter().filter(|s| !s.starts_with("cublasLt")));
            for rest in code.split("result::").skip(1) {
                let end = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
                    .unwrap_or(rest.len());
                if !rest[end..].starts_with('(') {
                    continue;
                }
                let (table, into) = if of_blas { (&blas, 1) } else { (&driver, 0) };
                let calls =
                    table.get(&rest[..end]).unwrap_or_else(|| panic!("cudarc has no {}", &rest[..end]));
                used[into].extend(calls.iter().cloned());
            }
        }
    }
    // Errors in words; and the first calls, which are made without cudarc.
    let first = ["cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString"];
    used[0].extend(first.map(str::to_owned));
    // Only drivers since CUDA 12.8 have it; tempra asks before it calls it.
    for optional in ["cuEventElapsedTime", "cuEventElapsedTime_v2"] {
        used[0].remove(optional);
    }
    let listed =
        |all: &mut dyn Iterator<Item = &'static str>| all.map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(used[0], listed(&mut driver_functions()));
    assert_eq!(used[1], listed(&mut BLAS_FUNCTIONS.iter().copied()));
}
