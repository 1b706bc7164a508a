//! NVML (NVIDIA Management Library): clocks, power, temperature of a GPU, and why its clocks are lowered. The
//! library is part of the driver and is loaded at run time. Nothing needs it: without it these values are
//! unknown.
//!
//! Types and constants are those of `nvml.h` (NVML API Reference Guide).
#![allow(unsafe_code, reason = "loads NVML and calls it")]

use crate::device::Identity;
use libloading::Library;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;
use std::sync::OnceLock;

/// `NVML_CLOCK_SM`.
const SM: c_uint = 1;
/// `NVML_CLOCK_MEM`.
const MEMORY: c_uint = 2;
/// `NVML_TEMPERATURE_GPU`.
const GPU_SENSOR: c_uint = 0;

/// `nvmlClocksEventReasons`: the bit, its name, and whether it means that heat or the power supply slow the
/// GPU down. The power cap in software does not count: a GPU under full load usually runs at its power limit.
const REASONS: [(c_ulonglong, &str, bool); 9] = [
    (0x1, "gpu_idle", false),
    (0x2, "applications_clocks_setting", false),
    (0x4, "sw_power_cap", false),
    (0x8, "hw_slowdown", true),
    (0x10, "sync_boost", false),
    (0x20, "sw_thermal_slowdown", true),
    (0x40, "hw_thermal_slowdown", true),
    (0x80, "hw_power_brake_slowdown", true),
    (0x100, "display_clock_setting", false),
];

/// Whether a reason from [`GpuState::clock_event_reasons`] means that heat or the power supply slow the GPU
/// down.
pub fn is_slowdown(reason: &str) -> bool {
    REASONS.iter().any(|&(_, name, slow)| slow && name == reason)
}

/// The state of an NVIDIA GPU at one moment. A value is `None` if this GPU does not report it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuState {
    /// The clock of the multiprocessors, in MHz.
    pub sm_clock_mhz: Option<u32>,
    /// The memory clock, in MHz.
    pub memory_clock_mhz: Option<u32>,
    /// The power draw, in W.
    pub power_w: Option<f64>,
    /// The power limit in force, in W.
    pub power_limit_w: Option<f64>,
    /// The GPU's temperature, in degrees Celsius.
    pub temperature_c: Option<u32>,
    /// The reasons why the clocks are not at their maximum, by NVML's names in lower case: `gpu_idle`,
    /// `sw_power_cap`, `hw_thermal_slowdown` and others.
    pub clock_event_reasons: Option<Vec<String>>,
}

impl GpuState {
    /// The reasons that mean that heat or the power supply slow the GPU down ("throttling").
    pub fn slowdowns(&self) -> Vec<String> {
        let all = self.clock_event_reasons.iter().flatten();
        all.filter(|reason| is_slowdown(reason)).cloned().collect()
    }
}

type Handle = *mut c_void;
type Text = unsafe extern "C" fn(*mut c_char, c_uint) -> c_int;
type ByName = unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int;
type Number = unsafe extern "C" fn(Handle, *mut c_uint) -> c_int;
type Choice = unsafe extern "C" fn(Handle, c_uint, *mut c_uint) -> c_int;
type Bits = unsafe extern "C" fn(Handle, *mut c_ulonglong) -> c_int;

/// The loaded library. Functions that an old driver lacks are `None`.
pub struct Nvml {
    version: String,
    driver: String,
    by_pci: ByName,
    by_uuid: Option<ByName>,
    clock: Option<Choice>,
    temperature: Option<Choice>,
    power: Option<Number>,
    power_limit: Option<Number>,
    reasons: Option<Bits>,
}

/// One GPU in NVML.
#[derive(Clone, Copy)]
pub struct NvmlGpu {
    nvml: &'static Nvml,
    /// The address of NVML's handle, which may be used from any thread.
    handle: usize,
}

/// A text that a function writes.
fn written(write: Option<Text>) -> String {
    let mut text = [0 as c_char; 97];
    let Some(write) = write else { return String::new() };
    // SAFETY: the text has the length that is said, and one byte more, which stays zero.
    if unsafe { write(text.as_mut_ptr(), text.len() as c_uint - 1) } != 0 {
        return String::new();
    }
    // SAFETY: it ends with a zero.
    unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned()
}

impl Nvml {
    /// The system's NVML, loaded once per process.
    ///
    /// # Errors
    /// A reason in one line.
    pub fn get() -> Result<&'static Nvml, String> {
        static FOUND: OnceLock<Result<Nvml, String>> = OnceLock::new();
        let load = || {
            let names =
                if cfg!(windows) { &["nvml.dll"][..] } else { &["libnvidia-ml.so.1", "libnvidia-ml.so"] };
            let mut all = names.iter().map(|name| Nvml::open(Path::new(name)));
            let first = all.next().unwrap_or_else(|| Err("not found".to_owned()));
            first.or_else(|why| all.find_map(Result::ok).ok_or(why))
        };
        FOUND.get_or_init(load).as_ref().map_err(Clone::clone)
    }

    /// Loads the library from a file, or by a name that the system's loader searches.
    ///
    /// # Errors
    /// A reason in one line: the library is not there, lacks functions, or cannot be initialised.
    pub fn open(path: &Path) -> Result<Nvml, String> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        // SAFETY: its initialisers are the vendor's.
        let library =
            unsafe { Library::new(path) }.map_err(|_| format!("{name} was not found or cannot be loaded"))?;
        macro_rules! find {
            ($kind:ty, $($name:literal),+) => {{
                let found: Option<$kind> = None;
                // SAFETY: nvml.h declares the function with this type.
                $(let found = found.or_else(|| unsafe { library.get::<$kind>($name) }.ok().map(|f| *f));)+
                found
            }};
        }
        let lacks = |what: &str| format!("{name} has no function {what}");
        let start =
            find!(unsafe extern "C" fn() -> c_int, b"nvmlInit_v2\0").ok_or_else(|| lacks("nvmlInit_v2"))?;
        let by_pci = find!(ByName, b"nvmlDeviceGetHandleByPciBusId_v2\0")
            .ok_or_else(|| lacks("nvmlDeviceGetHandleByPciBusId_v2"))?;
        let explain = find!(unsafe extern "C" fn(c_int) -> *const c_char, b"nvmlErrorString\0");
        // SAFETY: it takes nothing, and may be called by any thread.
        let code = unsafe { start() };
        if code != 0 {
            let text = explain.map(|explain| {
                // SAFETY: it returns a constant text for every code, or null.
                let text = unsafe { explain(code) };
                if text.is_null() {
                    String::new()
                } else {
                    // SAFETY: not null, and it ends with a zero.
                    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
                }
            });
            return Err(format!("{name} cannot be initialised: {} (error {code})", text.unwrap_or_default()));
        }
        let found = Nvml {
            version: written(find!(Text, b"nvmlSystemGetNVMLVersion\0")),
            driver: written(find!(Text, b"nvmlSystemGetDriverVersion\0")),
            by_pci,
            by_uuid: find!(ByName, b"nvmlDeviceGetHandleByUUID\0"),
            clock: find!(Choice, b"nvmlDeviceGetClockInfo\0"),
            temperature: find!(Choice, b"nvmlDeviceGetTemperature\0"),
            power: find!(Number, b"nvmlDeviceGetPowerUsage\0"),
            power_limit: find!(Number, b"nvmlDeviceGetEnforcedPowerLimit\0"),
            // Renamed in the driver 535.
            reasons: find!(
                Bits,
                b"nvmlDeviceGetCurrentClocksEventReasons\0",
                b"nvmlDeviceGetCurrentClocksThrottleReasons\0"
            ),
        };
        // The functions are used as long as the program runs.
        std::mem::forget(library);
        Ok(found)
    }

    /// NVML's version, such as `12.580.65.06`; empty if unknown.
    pub fn version(&self) -> &str {
        &self.version
    }
    /// The driver's version, such as `580.65.06`; empty if unknown.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The GPU with this PCI address or, if NVML knows no such address, with this UUID. Not by its index:
    /// `CUDA_VISIBLE_DEVICES` and the order of devices give CUDA and NVML different ones.
    ///
    /// # Errors
    /// A reason in one line.
    pub fn gpu(&'static self, identity: &Identity) -> Result<NvmlGpu, String> {
        let find = |get: ByName, name: String| -> Option<NvmlGpu> {
            let (name, mut handle) = (CString::new(name).ok()?, std::ptr::null_mut());
            // SAFETY: the name ends with a zero, and there is room for a handle.
            let code = unsafe { get(name.as_ptr(), &mut handle) };
            (code == 0).then_some(NvmlGpu { nvml: self, handle: handle as usize })
        };
        let by_pci = identity.pci_bus_id.clone().and_then(|id| find(self.by_pci, id));
        let by_uuid = || {
            let (get, id) = (self.by_uuid?, identity.uuid.as_ref()?);
            ["GPU", "MIG"].iter().find_map(|kind| find(get, format!("{kind}-{id}")))
        };
        by_pci.or_else(by_uuid).ok_or_else(|| match (&identity.pci_bus_id, &identity.uuid) {
            (None, None) => "the driver reports neither a PCI address nor a UUID of this GPU".to_owned(),
            (pci, uuid) => {
                let known: Vec<&str> = [pci, uuid].into_iter().flatten().map(String::as_str).collect();
                format!("NVML does not know this GPU ({})", known.join(", "))
            }
        })
    }
}

impl NvmlGpu {
    fn number(self, get: Option<Number>) -> Option<u32> {
        let mut value = 0;
        // SAFETY: the handle is NVML's, and there is room for the number.
        (unsafe { get?(self.handle as Handle, &mut value) } == 0).then_some(value)
    }
    fn chosen(self, get: Option<Choice>, which: c_uint) -> Option<u32> {
        let mut value = 0;
        // SAFETY: the handle is NVML's, and there is room for the number.
        (unsafe { get?(self.handle as Handle, which, &mut value) } == 0).then_some(value)
    }

    /// Its state now.
    pub fn state(self) -> GpuState {
        let watts = |get| self.number(get).map(|milliwatts| f64::from(milliwatts) / 1000.0);
        GpuState {
            sm_clock_mhz: self.sm_clock_mhz(),
            memory_clock_mhz: self.chosen(self.nvml.clock, MEMORY),
            power_w: watts(self.nvml.power),
            power_limit_w: watts(self.nvml.power_limit),
            temperature_c: self.chosen(self.nvml.temperature, GPU_SENSOR),
            clock_event_reasons: self.reasons().map(|all| all.into_iter().map(str::to_owned).collect()),
        }
    }

    /// The clock of the multiprocessors now, in MHz.
    pub fn sm_clock_mhz(self) -> Option<u32> {
        self.chosen(self.nvml.clock, SM)
    }

    /// The reasons now why the clocks are not at their maximum, as in [`GpuState::clock_event_reasons`].
    pub fn reasons(self) -> Option<Vec<&'static str>> {
        let mut bits = 0;
        // SAFETY: the handle is NVML's, and there is room for the bits.
        if unsafe { (self.nvml.reasons?)(self.handle as Handle, &mut bits) } != 0 {
            return None;
        }
        Some(REASONS.iter().filter(|(bit, ..)| bits & bit != 0).map(|(_, name, _)| *name).collect())
    }
}
