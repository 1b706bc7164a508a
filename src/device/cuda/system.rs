//! Why the NVIDIA driver does not start: what the operating system says about it, and the remedy for each
//! error of `cuInit`.

use crate::device::library::version_in_name;
use crate::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Codes of the driver (`CUresult` in cuda.h) that have a remedy of their own. They are numbers, because a
/// driver may return codes that cudarc's enumeration does not contain.
pub(super) const STUB_LIBRARY: u32 = 34;
pub(super) const DEVICE_UNAVAILABLE: u32 = 46;
pub(super) const NO_DEVICE: u32 = 100;
pub(super) const INVALID_DEVICE: u32 = 101;
pub(super) const ECC_UNCORRECTABLE: u32 = 214;
pub(super) const SYSTEM_NOT_READY: u32 = 802;
pub(super) const SYSTEM_DRIVER_MISMATCH: u32 = 803;
pub(super) const COMPAT_NOT_SUPPORTED: u32 = 804;
pub(super) const UNKNOWN: u32 = 999;

/// What the operating system says about the NVIDIA driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct System {
    /// The version of the loaded kernel module; `None` if it is not loaded.
    pub module: Option<String>,
    /// The file of the driver library.
    pub library: Option<PathBuf>,
    /// Device files that are missing or cannot be opened, with the reason.
    pub faults: Vec<(PathBuf, Fault)>,
    /// Whether this process runs in a container.
    pub container: bool,
    /// Whether this is Linux on Windows, whose driver belongs to Windows.
    pub wsl: bool,
    /// The value of CUDA_VISIBLE_DEVICES.
    pub visible: Option<String>,
}

/// What is wrong with a device file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Missing,
    /// This user may not open it; its owner and mode.
    Denied(String),
    /// Another error of the system.
    Failed(String),
}

impl System {
    /// Asks the system. `root` is the folder that holds `dev`, `proc` and `sys`: `/`, or another one in
    /// tests.
    pub fn read(root: &Path, library: Option<PathBuf>) -> System {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).ok();
        let module = text("sys/module/nvidia/version")
            .or_else(|| text("proc/driver/nvidia/version").as_deref().and_then(version_in))
            .map(|v| v.trim().to_owned());
        let wsl = root.join("dev/dxg").exists();
        let mut nodes = vec![root.join("dev/nvidiactl"), root.join("dev/nvidia-uvm")];
        let numbered = std::fs::read_dir(root.join("dev")).into_iter().flatten().flatten().filter(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            name.strip_prefix("nvidia")
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        });
        let mut numbered: Vec<PathBuf> = numbered.map(|e| e.path()).collect();
        numbered.sort();
        nodes.extend(if numbered.is_empty() { vec![root.join("dev/nvidia0")] } else { numbered });
        let faults = if wsl || cfg!(not(target_os = "linux")) {
            Vec::new()
        } else {
            nodes.into_iter().filter_map(|node| Some((node.clone(), fault(&node)?))).collect()
        };
        System {
            module,
            library,
            faults,
            container: ["run/.containerenv", ".dockerenv"].iter().any(|f| root.join(f).exists()),
            wsl,
            visible: std::env::var_os("CUDA_VISIBLE_DEVICES").map(|v| v.to_string_lossy().into_owned()),
        }
    }

    /// The cause that keeps the driver from starting, and its remedy; `None` if module and device files look
    /// right.
    fn cause(&self) -> Option<(String, String)> {
        let missing = |name: &str| self.faults.iter().any(|(p, f)| *f == Fault::Missing && p.ends_with(name));
        if self.wsl || cfg!(not(target_os = "linux")) {
            return None;
        }
        if self.container && missing("nvidiactl") {
            let found = "this container has no NVIDIA device files (/dev/nvidiactl is missing)";
            return Some((
                found.into(),
                "start the container with access to the GPU, such as `docker run --gpus all`".into(),
            ));
        }
        if self.module.is_none() {
            let found = "the kernel module nvidia is not loaded";
            return Some((
                found.into(),
                "load it with `sudo modprobe nvidia`, then check that `nvidia-smi` lists the GPU; if modprobe fails, reinstall the \
                 driver and reboot"
                    .into(),
            ));
        }
        let (path, fault) = self.faults.first()?;
        let name = path.display();
        Some(match fault {
            Fault::Denied(mode) => (
                format!("this user may not open {name} ({mode})"),
                format!(
                    "allow this user to read and write {name}: join its group, or ask the administrator for mode 666"
                ),
            ),
            Fault::Missing if path.ends_with("nvidia-uvm") => (
                format!("{name} is missing: the kernel module nvidia_uvm is not loaded"),
                "load it with `sudo modprobe nvidia-uvm` and run `sudo nvidia-modprobe -u -c 0`".into(),
            ),
            Fault::Missing => (
                format!("{name} is missing"),
                "run `sudo nvidia-smi`, which creates the device files, or `sudo nvidia-modprobe -c 0`"
                    .into(),
            ),
            Fault::Failed(why) => (
                format!("{name} cannot be opened: {why}"),
                "run `nvidia-smi`; if it fails too, reboot".into(),
            ),
        })
    }

    /// The error for a driver that returned `code` (`name` in words) from `call` before any work had started.
    /// It is never [`Kind::Lost`](crate::error::Kind::Lost): the same command would fail again.
    pub fn explain(&self, call: &str, code: u32, name: &str) -> Error {
        let returned = format!("{call} returned {code} ({name})");
        let library = self.library.as_ref().map_or("libcuda".to_owned(), |p| p.display().to_string());
        let folder = self
            .library
            .as_ref()
            .and_then(|p| p.parent())
            .map_or("its folder".to_owned(), |p| p.display().to_string());
        let general = |what: &str| Error::device(what).with_found(returned.clone());
        let nvidia_smi = "run `nvidia-smi`: it must list the GPU. If it fails too, reboot; if it works, run `tempra devices`";
        match code {
            STUB_LIBRARY => Error::device("the loaded CUDA driver library is a stub, which is only for linking")
                .with_found(format!("{library}; {returned}"))
                .with_help(format!("remove {folder} from LD_LIBRARY_PATH, so that the driver's own libcuda.so.1 is loaded")),
            NO_DEVICE | INVALID_DEVICE if self.visible.is_some() => {
                let visible = self.visible.as_deref().unwrap_or_default();
                let hides = match visible.trim() {
                    "" | "-1" | "NoDevFiles" => "hides every GPU",
                    _ => "may select no GPU of this machine",
                };
                Error::device("the NVIDIA driver offers no GPU")
                    .with_found(format!("CUDA_VISIBLE_DEVICES={visible}, which {hides}; {returned}"))
                    .with_help("unset CUDA_VISIBLE_DEVICES, or name GPUs that `nvidia-smi -L` lists")
            }
            NO_DEVICE => match self.cause() {
                Some((found, help)) => {
                    Error::device("the NVIDIA driver found no GPU").with_found(format!("{found}; {returned}")).with_help(help)
                }
                None => general("the NVIDIA driver found no GPU").with_help(
                    "check that `nvidia-smi -L` lists a GPU; if it does not, `lspci` shows whether the machine has one",
                ),
            },
            SYSTEM_NOT_READY => general("the GPUs of this machine are not ready").with_help(
                "start the fabric manager: `sudo systemctl start nvidia-fabricmanager`; its version must be the driver's",
            ),
            SYSTEM_DRIVER_MISMATCH => {
                let version = self.library.as_ref().and_then(|p| version_in_name(p)).map_or(String::new(), |v| format!(" ({v})"));
                let module = self.module.as_deref().unwrap_or("unknown");
                Error::device("the CUDA driver library and the kernel module have different versions")
                    .with_found(format!("library {library}{version}, kernel module {module}; {returned}"))
                    .with_help(match self.container {
                        true => "restart the container, so that it gets the library of the host's driver",
                        false => "reboot: the driver was updated while the old kernel module was loaded",
                    })
            }
            COMPAT_NOT_SUPPORTED => Error::device("CUDA's forward compatibility package does not support this GPU")
                .with_found(format!("{library}; {returned}"))
                .with_help(format!(
                    "remove {folder} (package cuda-compat, for data-center GPUs only) from LD_LIBRARY_PATH, or update the driver"
                )),
            DEVICE_UNAVAILABLE => general("the GPU is not available: another program uses it exclusively, or it is being reset")
                .with_help("run `nvidia-smi` to see its processes and its compute mode"),
            ECC_UNCORRECTABLE => general("the GPU has an uncorrectable memory error")
                .with_help("reset the GPU with `sudo nvidia-smi -r`, or reboot; if this happens again, replace the GPU"),
            UNKNOWN if self.wsl => general("the NVIDIA driver cannot start")
                .with_help("update the NVIDIA driver of Windows, then restart WSL"),
            _ => match self.cause() {
                Some((found, help)) => {
                    Error::device("the NVIDIA driver cannot start").with_found(format!("{found}; {returned}")).with_help(help)
                }
                None => general("the NVIDIA driver cannot start").with_help(nvidia_smi),
            },
        }
    }
}

/// Whether a device file cannot be opened, and why.
fn fault(node: &Path) -> Option<Fault> {
    let e = std::fs::OpenOptions::new().read(true).write(true).open(node).err()?;
    Some(match e.kind() {
        ErrorKind::NotFound => Fault::Missing,
        ErrorKind::PermissionDenied => Fault::Denied(mode(node)),
        _ => Fault::Failed(e.to_string()),
    })
}

#[cfg(unix)]
fn mode(node: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata(node) {
        Ok(m) => format!("mode {:o}, owner {}, group {}", m.mode() & 0o777, m.uid(), m.gid()),
        Err(_) => "permission denied".to_owned(),
    }
}

#[cfg(not(unix))]
fn mode(_: &Path) -> String {
    "permission denied".to_owned()
}

/// The module's version in /proc/driver/nvidia/version, whose first line is for example
/// "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023".
fn version_in(text: &str) -> Option<String> {
    let number = |word: &&str| {
        let parts: Vec<&str> = word.split('.').collect();
        parts.len() >= 2 && parts.iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
    };
    text.lines().next()?.split_whitespace().find(number).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn healthy() -> System {
        System {
            module: Some("580.65.06".to_owned()),
            library: Some("/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06".into()),
            ..System::default()
        }
    }

    fn help(system: &System, code: u32) -> String {
        let e = system.explain("cuInit", code, "CUDA_ERROR");
        assert_eq!((e.kind(), e.exit_code()), (Kind::Device, 5), "{e}");
        assert!(e.to_string().contains(&format!("returned {code} (CUDA_ERROR)")), "{e}");
        let help = e.help().expect("a remedy").to_owned();
        assert!(!help.contains("same command again"), "{e}");
        format!("{e}")
    }

    /// Every code has its own remedy, and no two say the same.
    #[test]
    fn codes_are_told_apart() {
        let remedies = [
            (STUB_LIBRARY, "from LD_LIBRARY_PATH, so that the driver's own"),
            (DEVICE_UNAVAILABLE, "compute mode"),
            (NO_DEVICE, "nvidia-smi -L"),
            (ECC_UNCORRECTABLE, "nvidia-smi -r"),
            (SYSTEM_NOT_READY, "nvidia-fabricmanager"),
            (SYSTEM_DRIVER_MISMATCH, "reboot: the driver was updated"),
            (COMPAT_NOT_SUPPORTED, "cuda-compat"),
            (UNKNOWN, "run `nvidia-smi`: it must list the GPU"),
        ];
        for (code, word) in remedies {
            let said = help(&healthy(), code);
            assert!(said.contains(word), "{code}: {said}");
            let others = remedies.iter().filter(|(other, _)| *other != code);
            assert!(others.into_iter().all(|(_, w)| !said.contains(w)), "{code}: {said}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_system_says_decides_the_remedy() {
        let node = |name: &str, fault: Fault| vec![(PathBuf::from("/dev").join(name), fault)];
        let unloaded = System { module: None, ..healthy() };
        let denied = System {
            faults: node("nvidia0", Fault::Denied("mode 660, owner 0, group 44".into())),
            ..healthy()
        };
        let no_uvm = System { faults: node("nvidia-uvm", Fault::Missing), ..healthy() };
        let boxed =
            System { container: true, module: None, faults: node("nvidiactl", Fault::Missing), ..healthy() };
        for code in [UNKNOWN, NO_DEVICE] {
            assert!(help(&unloaded, code).contains("sudo modprobe nvidia`"), "{code}");
            assert!(help(&denied, code).contains("/dev/nvidia0 (mode 660, owner 0, group 44)"), "{code}");
            assert!(help(&no_uvm, code).contains("modprobe nvidia-uvm"), "{code}");
            assert!(help(&boxed, code).contains("docker run"), "{code}");
        }
        let versions = System { module: Some("570.12".into()), ..healthy() };
        let said = help(&versions, SYSTEM_DRIVER_MISMATCH);
        assert!(said.contains("(580.65.06), kernel module 570.12"), "{said}");
        let said = help(&System { container: true, ..versions }, SYSTEM_DRIVER_MISMATCH);
        assert!(said.contains("restart the container"), "{said}");
        for (visible, word) in
            [("", "hides every GPU"), ("-1", "hides every GPU"), ("7", "may select no GPU")]
        {
            let said = help(&System { visible: Some(visible.into()), ..healthy() }, NO_DEVICE);
            assert!(said.contains(word) && said.contains("unset CUDA_VISIBLE_DEVICES"), "{said}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_is_read_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let of = || System::read(root.path(), None);
        assert_eq!(of().module, None);
        assert_eq!(of().faults.len(), 3);
        let line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\nGCC version: 12\n";
        write("proc/driver/nvidia/version", line);
        write("dev/nvidiactl", "");
        write("dev/nvidia1", "");
        assert_eq!(of().module.as_deref(), Some("580.65.06"));
        assert_eq!(of().faults, [(root.path().join("dev/nvidia-uvm"), Fault::Missing)]);
        write("dev/nvidia-uvm", "");
        write("sys/module/nvidia/version", "575.1.2\n");
        write(".dockerenv", "");
        assert_eq!((of().module.as_deref(), of().faults.len(), of().container), (Some("575.1.2"), 0, true));
    }
}
