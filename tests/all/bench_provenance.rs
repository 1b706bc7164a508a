//! What a result of `tempra bench` says about how it was made: program, machine, settings, kernels, and the
//! clocks of an NVIDIA GPU.

use crate::schema::obeys;
use crate::support::{device, golden};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use tempra::bench::report::{Clocks, DeviceEntry, GpuState, Machine, OpRow, Phase, Report, same_gpu};
use tempra::bench::{Clock, Effort, ModelShape, Monitor, Workbench, markdown, ops};
use tempra::device::cuda::nvml::Nvml;
use tempra::device::{Device, Identity};
use tempra::error::Result;

/// Compiles the stand-in for NVML (`tests/fakes/nvml.rs`) under the name of the real one; the folder and the
/// file. `None` on systems where the real one has another name.
fn fake_nvml(cfg: &[&str]) -> Option<(tempfile::TempDir, PathBuf)> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("libnvidia-ml.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/nvml.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "--crate-type", "cdylib", "--check-cfg", "cfg(broken, old)", "-o"]);
    command.arg(&file).args(cfg.iter().flat_map(|c| ["--cfg", c])).arg(source);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((dir, file))
}

/// The emulator's GPU, as `emulator/src/driver/device.rs` makes it up.
fn emulated() -> Identity {
    let uuid = Some("656d756c-6174-6564-2064-657669636521".to_owned());
    Identity { pci_bus_id: Some("0000:c0:de.0".to_owned()), uuid }
}

fn leaked(nvml: Nvml) -> &'static Nvml {
    Box::leak(Box::new(nvml))
}

#[test]
fn nvml_is_found_by_address_and_its_values_have_their_units() {
    let Some((_dir, file)) = fake_nvml(&[]) else { return };
    let nvml = leaked(Nvml::open(&file).unwrap());
    assert_eq!((nvml.driver(), nvml.version()), ("580.65.06", "13.580.65.06"));
    let by_uuid = Identity { pci_bus_id: Some("0000:01:00.0".to_owned()), ..emulated() };
    for identity in [emulated(), Identity { uuid: None, ..emulated() }, by_uuid] {
        // FAKE_NVML_REASONS is not set.
        let expected = GpuState {
            sm_clock_mhz: Some(1755),
            memory_clock_mhz: Some(2619),
            power_w: Some(645.5),
            power_limit_w: None,
            temperature_c: Some(71),
            clock_event_reasons: Some(Vec::new()),
        };
        assert_eq!(nvml.gpu(&identity).unwrap().state(), expected, "{identity:?}");
    }
    let other = Identity { pci_bus_id: Some("0000:01:00.0".to_owned()), uuid: None };
    let why = nvml.gpu(&other).err().unwrap();
    assert!(why.contains("0000:01:00.0"), "{why}");
    assert!(nvml.gpu(&Identity::default()).is_err());
}

#[test]
fn nvml_that_cannot_be_used_is_a_reason_in_one_line() {
    let Some((dir, broken)) = fake_nvml(&["broken"]) else { return };
    let why = Nvml::open(&broken).err().unwrap();
    assert!(why.contains("Driver Not Loaded") && why.contains("error 9"), "{why}");
    let (_old_dir, old) = fake_nvml(&["old"]).unwrap();
    let gpu = leaked(Nvml::open(&old).unwrap()).gpu(&emulated()).unwrap();
    assert_eq!(gpu.reasons(), Some(Vec::new()), "under the older name");
    let missing = Nvml::open(&dir.path().join("libnothing.so.1")).err().unwrap();
    assert!(missing.starts_with("libnothing.so.1 was not found"), "{missing}");
    // No library at all under this name.
    let text = dir.path().join("text.so.1");
    std::fs::write(&text, "no library").unwrap();
    for why in [why, missing, Nvml::open(&text).err().unwrap()] {
        assert!(!why.contains('\n') && !why.contains(&*dir.path().to_string_lossy()), "{why}");
    }
}

/// A GPU that is slowed down during the measurements that `slow` names by their number, and runs at half its
/// speed then.
struct Scripted {
    slow: fn(usize) -> bool,
    state: Mutex<(usize, f64, bool)>,
}

impl Scripted {
    fn new(slow: fn(usize) -> bool) -> Scripted {
        Scripted { slow, state: Mutex::new((0, 0.0, false)) }
    }
    fn measured(&self) -> usize {
        self.state.lock().unwrap().0
    }
}

impl Monitor for Scripted {
    fn state(&self) -> GpuState {
        GpuState::default()
    }
    fn begin(&self) {
        let mut state = self.state.lock().unwrap();
        state.2 = (self.slow)(state.0);
    }
    fn end(&self) -> Clocks {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        let slow = std::mem::take(&mut state.2);
        let slowdowns = if slow { vec!["hw_thermal_slowdown".to_owned()] } else { Vec::new() };
        Clocks { sm_mhz: Some(if slow { [900, 1800] } else { [1800; 2] }), slowdowns, repeated: false }
    }
}

impl Clock for Scripted {
    fn now(&self) -> f64 {
        self.state.lock().unwrap().1
    }
    /// Ten milliseconds, or twenty while the GPU is slowed down: long enough for samples of one run.
    fn time(&self, device: &Device, work: &mut (dyn FnMut() -> Result<()> + Send)) -> Result<f64> {
        device.run(work)?;
        let mut state = self.state.lock().unwrap();
        let seconds = if state.2 { 2e-2 } else { 1e-2 };
        state.1 += seconds;
        Ok(seconds)
    }
}

fn tiny() -> ModelShape {
    let name = "tiny".to_owned();
    ModelShape { name, hidden: 64, layers: 1, heads: 2, intermediate: 128, vocab: 512, positions: 128 }
}

/// Forward and backward of mse, and what was measured.
fn watched(slow: fn(usize) -> bool) -> (Vec<OpRow>, usize) {
    let device = Device::open("cpu", 1).unwrap();
    let gpu = Scripted::new(slow);
    let effort = Effort { seconds: 0.0, samples: 3, ..Effort::default() };
    let bench = Workbench::new(&device, "cpu".to_owned(), effort).with_clock(&gpu).with_cache_bytes(1 << 20);
    let bench = bench.with_monitor(Some(&gpu));
    let mut report = Report::begin();
    let jobs = ops::plan(&[tiny()], &[16], &|op| op == "mse");
    ops::run(&bench, &jobs, &mut report, &|| false, &mut |_| ()).unwrap();
    (report.ops, gpu.measured())
}

#[test]
fn throttled_rows_are_measured_again_and_marked_if_that_does_not_help() {
    let clocks = |row: &OpRow| {
        let c = row.clocks.clone().unwrap();
        (c.sm_mhz.unwrap(), c.slowdowns.len(), c.repeated, row.throttled())
    };
    let (rows, measured) = watched(|_| false);
    assert_eq!(measured, 2, "each pass once");
    assert!(rows.iter().all(|r| clocks(r) == ([1800; 2], 0, false, false)), "{rows:?}");
    let (rows, measured) = watched(|i| i == 0);
    assert_eq!(measured, 3, "the forward pass twice");
    assert_eq!((rows[0].pass, clocks(&rows[0])), (Phase::Forward, ([1800; 2], 0, true, false)));
    assert_eq!(clocks(&rows[1]), ([1800; 2], 0, false, false));
    let same = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
    assert!(same(rows[0].seconds.median, rows[1].seconds.median), "the second measurement counts: {rows:?}");
    let (rows, measured) = watched(|i| i < 2);
    assert_eq!(measured, 3, "the forward pass twice, and not a third time");
    assert_eq!(clocks(&rows[0]), ([900, 1800], 1, true, true));
    assert!(same(rows[0].seconds.median, 2.0 * rows[1].seconds.median), "{rows:?}");
}

#[test]
fn rounds_keep_the_marks_of_all_rounds() {
    let of = |sm: [u32; 2], slowdowns: &[&str], repeated: bool| Clocks {
        sm_mhz: Some(sm),
        slowdowns: slowdowns.iter().map(|s| (*s).to_owned()).collect(),
        repeated,
    };
    let all = [
        of([1700, 1800], &[], false),
        of([900, 1750], &["hw_slowdown"], true),
        of([1000, 1900], &["hw_slowdown", "sw_thermal_slowdown"], false),
    ];
    let together = of([900, 1900], &["hw_slowdown", "sw_thermal_slowdown"], true);
    assert_eq!(Clocks::of_all(all.iter()), Some(together));
    assert_eq!(Clocks::of_all(std::iter::empty()), None);
    // The load before is the first round's, the load after the last one's.
    let round = |load: f64| {
        let machine = Machine { load_before: Some(load), load_after: Some(load + 1.0), ..Machine::default() };
        Report { devices: vec![DeviceEntry { machine, ..DeviceEntry::default() }], ..Report::default() }
    };
    let rounds = Report::of_rounds(&[round(10.0), round(20.0), round(30.0)]);
    let machine = &rounds.devices[0].machine;
    assert_eq!((machine.load_before, machine.load_after), (Some(10.0), Some(31.0)));
}

fn machine(cpu: &str) -> Machine {
    Machine { cpu: cpu.to_owned(), cpus: 8, os: "linux x86_64".to_owned(), ..Machine::default() }
}

#[test]
fn results_of_two_machines_keep_both() {
    let on = |cpu: &str| {
        let entry = DeviceEntry { id: "cpu".to_owned(), machine: machine(cpu), ..DeviceEntry::default() };
        Report { schema: 2, devices: vec![entry], ..Report::default() }
    };
    let both = Report::merge(vec![("a".to_owned(), on("EPYC")), ("b".to_owned(), on("Xeon"))]);
    let found: Vec<(&str, &str)> =
        both.devices.iter().map(|d| (d.id.as_str(), d.machine.cpu.as_str())).collect();
    assert_eq!(found, [("cpu (a)", "EPYC"), ("cpu (b)", "Xeon")]);
}

#[test]
fn one_gpu_is_recognised_through_two_apis() {
    let of = |cpu: &str, pci: Option<&str>, uuid: Option<&str>| DeviceEntry {
        machine: machine(cpu),
        pci_bus_id: pci.map(str::to_owned),
        uuid: uuid.map(str::to_owned),
        ..DeviceEntry::default()
    };
    let (here, there) = (Some("0000:3b:00.0"), Some("0000:5e:00.0"));
    let (one, other) =
        (Some("5a6d8a7c-f1b2-3c4d-5e6f-708192a3b4c5"), Some("00000000-0000-0000-0000-000000000001"));
    let base = of("EPYC", here, one);
    for (entry, same, why) in [
        (of("EPYC", here, one), true, "both addresses"),
        (of("EPYC", here, None), true, "the PCI address"),
        (of("EPYC", None, one), true, "the UUID"),
        (of("Xeon", None, one), true, "the UUID, wherever the GPU is"),
        (of("Xeon", here, None), false, "the same slot of another machine"),
        (of("EPYC", there, None), false, "another slot"),
        (of("EPYC", here, other), false, "another UUID"),
        (of("EPYC", None, None), false, "nothing is known"),
    ] {
        assert_eq!(same_gpu(&base, &entry), same, "{why}");
        assert_eq!(same_gpu(&entry, &base), same, "{why}");
    }
    let mut busy = of("EPYC", here, None);
    (busy.machine.load_before, busy.machine.load_after) = (Some(3.0), Some(7.0));
    assert!(same_gpu(&base, &busy), "the load does not make another machine");
}

/// Runs the program. Under the loader of the emulator or of software Vulkan if `loaded` and if tests run
/// under one.
fn bench(args: &[&str], loaded: bool, env: &[(&str, &str)]) -> (i32, String, String) {
    let cache = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_tempra");
    let mut command = match std::env::var_os("TEMPRA_RUNNER").filter(|_| loaded) {
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(program);
            command
        }
        None => Command::new(program),
    };
    command
        .arg("bench")
        .args(args)
        .env("TEMPRA_CACHE", cache.path())
        .env("TEMPRA_BENCH_QUICK_CEILINGS", "1")
        .envs(env.iter().copied());
    let output = command.env("HF_HUB_OFFLINE", "1").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn a_result_says_how_it_was_made() {
    let home = tempfile::tempdir().unwrap();
    let page = home.path().join("page.html");
    let args =
        ["ops", "--op", "mse", "--tokens", "16", "--seconds", "0.001", "--samples", "3", "--threads", "1"];
    let more = ["--json", "--html", page.to_str().unwrap()];
    let home = home.path().to_str().unwrap();
    let env = [("HOME", home), ("RAYON_NUM_THREADS", "7"), ("SECRET", "x")];
    let (code, out, err) = bench(&[&args[..], &more].concat(), false, &env);
    assert_eq!(code, 0, "{err}");
    assert!(!out.contains(home), "the home folder is told");
    let value: Value = serde_json::from_str(&out).unwrap();
    obeys(&value);
    let device = &value["devices"][0];
    let p = &device["provenance"];
    let settings = serde_json::json!({ "threads": 1, "seconds": 0.001, "samples": 3, "dtype": "f32" });
    assert_eq!(p["settings"], settings);
    let command: Vec<&str> = p["command"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(command[..4], ["tempra", "bench", "ops", "--op"]);
    assert_eq!(command.last(), Some(&"~/page.html"));
    assert_eq!(
        (&p["environment"]["RAYON_NUM_THREADS"], &p["environment"]["SECRET"]),
        (&"7".into(), &Value::Null)
    );
    assert_eq!(p["version"], env!("CARGO_PKG_VERSION"));
    let features: Vec<&str> = p["features"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(features.contains(&"wgpu"), cfg!(feature = "wgpu"));
    assert_eq!(features.contains(&"hub"), cfg!(feature = "hub"));
    // The processor's instructions, by the standard library.
    #[cfg(target_arch = "x86_64")]
    {
        let (wide, fma) = (is_x86_feature_detected!("avx512dq"), is_x86_feature_detected!("fma"));
        let expected = if wide {
            "tempra, AVX-512"
        } else if fma {
            "tempra, AVX2"
        } else {
            "tempra, baseline"
        };
        // What multiplies bf16 follows.
        let rest = p["matmul"].as_str().and_then(|all| all.strip_prefix(expected));
        assert!(rest.is_some_and(|r| ["", ", AMX", " with bf16"].contains(&r)), "{}", p["matmul"]);
    }
    // A CPU has no driver, no address and no NVML.
    for name in ["nvml", "gpu_before", "gpu_after", "compute_capability", "nvrtc", "cublaslt"] {
        assert_eq!(p[name], Value::Null, "{name}");
    }
    assert_eq!((&device["driver"], &device["pci_bus_id"]), (&Value::Null, &Value::Null));
    if let Ok(cpuinfo) = std::fs::read_to_string("/proc/cpuinfo") {
        let name = cpuinfo.lines().find(|l| l.starts_with("model name")).unwrap();
        assert_eq!(device["machine"]["cpu"].as_str(), name.split_once(": ").map(|n| n.1));
        for load in ["load_before", "load_after"] {
            assert!(device["machine"][load].as_f64().is_some_and(|v| v >= 0.0), "{load}: {device}");
        }
    }
    let (_, text, _) = bench(&args, false, &env);
    for part in ["machine: ", "load average ", "matmul: tempra", "RAYON_NUM_THREADS=7"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The result of `tempra bench ops` on the emulator for one op of a small model.
fn on_emulator(op: &str, env: &[(&str, &str)]) -> Report {
    let model = golden("bert/a");
    let model = model.to_str().unwrap();
    let args = ["ops", "--device", "cuda", "--op", op, "--tokens", "16", "--shape-of", model, "--json"];
    // Little memory: the emulator copies slowly.
    let env = [env, &[("EMULATOR_MEMORY", "134217728")]].concat();
    let (code, out, err) =
        bench(&[&args[..], &["--seconds", "0.001", "--samples", "3"]].concat(), true, &env);
    assert_eq!(code, 0, "{err}");
    obeys(&serde_json::from_str(&out).unwrap());
    Report::parse(&out).unwrap()
}

/// On the emulator, with the stand-in for NVML in front of a real one.
#[test]
fn cuda_results_have_clocks_and_mark_rows_under_throttling() {
    if device("cuda").is_none() {
        return;
    }
    let Some((folder, _)) = fake_nvml(&[]) else { return };
    let path = folder.path().to_str().unwrap();
    let result = |reasons: &str| -> Report {
        on_emulator("dropout", &[("LD_LIBRARY_PATH", path), ("FAKE_NVML_REASONS", reasons)])
    };
    // The power cap in software, 4: usual under load.
    let usual = result("4");
    let device = &usual.devices[0];
    assert_eq!(device.driver.as_deref(), Some("NVIDIA 580.65.06, CUDA 13.0"));
    let identity = Identity { pci_bus_id: device.pci_bus_id.clone(), uuid: device.uuid.clone() };
    assert_eq!(identity, emulated());
    let p = device.provenance.as_ref().unwrap();
    let sm = std::env::var("EMULATOR_SM").unwrap_or("90".to_owned());
    let (major, minor) = sm.split_at(sm.len() - 1);
    assert_eq!(p.compute_capability, Some(format!("{major}.{minor}")));
    assert!(p.nvrtc.as_ref().is_some_and(|v| v.starts_with('1')), "{p:?}");
    assert_eq!(p.nvml.as_deref(), Some("NVML 13.580.65.06"));
    for state in [&p.gpu_before, &p.gpu_after] {
        let expected = GpuState {
            sm_clock_mhz: Some(1755),
            memory_clock_mhz: Some(2619),
            power_w: Some(645.5),
            power_limit_w: None,
            temperature_c: Some(71),
            clock_event_reasons: Some(vec!["sw_power_cap".to_owned()]),
        };
        assert_eq!(*state, Some(expected));
    }
    let clocks = |report: &Report| -> Vec<Clocks> {
        assert_eq!(report.ops.len(), 2, "{report:?}");
        report.ops.iter().map(|row| row.clocks.clone().unwrap()).collect()
    };
    let of = |slowdowns: &[&str], repeated: bool| {
        let slowdowns = slowdowns.iter().map(|s| (*s).to_owned()).collect();
        Clocks { sm_mhz: Some([1755; 2]), slowdowns, repeated }
    };
    assert_eq!(clocks(&usual), vec![of(&[], false); 2]);
    assert!(!markdown::report(&usual).contains("(throttled)"));
    // 4 + 64: the hardware is too hot.
    let hot = result("68");
    assert_eq!(clocks(&hot), vec![of(&["hw_thermal_slowdown"], true); 2]);
    let text = markdown::report(&hot);
    assert!(text.contains("(throttled)") && text.contains("SM clock 1755 MHz before"), "{text}");
}

#[test]
fn cuda_results_without_nvml_say_so() {
    if device("cuda").is_none() {
        return;
    }
    // A real NVML does not know the emulated GPU.
    let report = on_emulator("dropout", &[]);
    let p = report.devices[0].provenance.as_ref().unwrap();
    assert!(p.nvml.as_ref().is_some_and(|v| v.starts_with("none: ")), "{p:?}");
    assert_eq!((&p.gpu_before, &p.gpu_after), (&None, &None));
    assert!(report.ops.iter().all(|row| row.clocks.is_none()));
    assert!(markdown::report(&report).contains("GPU clocks: none: "));
}

/// Which kernels ran, by the names in kernels/linear*.cu, and which library.
#[test]
fn cuda_rows_name_the_kernels_that_ran() {
    if device("cuda").is_none() {
        return;
    }
    let kernels = |matmul: &str| -> Vec<Vec<String>> {
        let report = on_emulator("linear", &[("TEMPRA_CUDA_MATMUL", matmul)]);
        report.ops.into_iter().map(|row| row.kernels).collect()
    };
    let own = kernels("own");
    assert!(own.len() >= 2 && own.iter().all(|k| k.contains(&"linear_matmul_plain".to_owned())), "{own:?}");
    assert!(!own.iter().flatten().any(|k| k == "cublasLtMatmul"), "{own:?}");
    let library = kernels("cublaslt");
    assert!(library.iter().flatten().any(|k| k == "cublasLtMatmul"), "{library:?}");
}

/// Which shaders ran, by the names in shaders/linear.wgsl.
#[test]
fn wgpu_rows_name_the_shaders_that_ran() {
    if device("wgpu").is_none() {
        return;
    }
    let model = golden("bert/a");
    let model = model.to_str().unwrap();
    let args = [
        "ops",
        "--device",
        "wgpu",
        "--op",
        "linear",
        "--tokens",
        "16",
        "--shape-of",
        model,
        "--seconds",
        "0.001",
    ];
    let (code, out, err) = bench(&[&args[..], &["--samples", "3", "--json"]].concat(), true, &[]);
    assert_eq!(code, 0, "{err}");
    obeys(&serde_json::from_str(&out).unwrap());
    let report = Report::parse(&out).unwrap();
    let known = ["matmul", "matmul_rows", "matmul_coop"];
    for row in &report.ops {
        assert!(row.kernels.iter().any(|k| known.contains(&k.as_str())), "{row:?}");
    }
    let device = &report.devices[0];
    assert!(device.driver.as_ref().is_some_and(|d| !d.is_empty()), "{device:?}");
    // Mesa's software driver has a UUID and no PCI address; a GPU has both.
    let Some(Device::Wgpu(gpu)) = crate::support::adapter() else { return };
    assert_eq!(device.pci_bus_id.is_none(), gpu.abilities().software, "{device:?}");
    assert!(device.uuid.as_ref().is_some_and(|uuid| uuid.len() == 36), "{device:?}");
}
