//! Names of devices, as `--device` and the recipe's key `device` take them.

use super::Wgpu;
use crate::error::{Error, Result};
use crate::suggest::nearest;
use std::fmt;

/// One device of this machine. `cuda` and `cuda:0` are the same one, and so are `auto` and `cpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceId {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU through CUDA, by its index.
    Cuda(usize),
    /// A GPU through Vulkan, Metal or DX12, by its index.
    Wgpu(usize),
}

/// What a device name may be.
const NAMES: &str = "auto, cpu, cuda, cuda:N, wgpu or wgpu:N";

/// Words for any GPU, or for an NVIDIA GPU.
const ANY_GPU: [&str; 4] = ["gpu", "nvidia", "geforce", "rtx"];
/// Words for what wgpu can use: graphics interfaces, and the compute stacks of other vendors.
const THROUGH_WGPU: [&str; 21] = [
    "vulkan", "vk", "metal", "mps", "apple", "dx12", "dx", "d3d12", "directx", "directml", "dml", "webgpu",
    "rocm", "hip", "amd", "radeon", "intel", "xpu", "opencl", "oneapi", "sycl",
];

impl DeviceId {
    /// The device of a name: `auto`, `cpu`, `cuda`, `cuda:N`, `wgpu` or `wgpu:N`. `auto` is the CPU, and N
    /// defaults to 0.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for another name, with the name that was probably meant.
    ///
    /// ```
    /// use tempra::device::DeviceId;
    ///
    /// assert_eq!(DeviceId::parse("cuda")?, DeviceId::parse("cuda:0")?);
    /// assert!(DeviceId::parse("cuda:00").is_err());
    /// # Ok::<(), tempra::error::Error>(())
    /// ```
    pub fn parse(name: &str) -> Result<DeviceId> {
        let (kind, number) = match name.split_once(':') {
            Some((kind, number)) => (kind, Some(number)),
            None => (name, None),
        };
        match (kind, number, number.map_or(Some(0), index)) {
            ("cpu" | "auto", None, _) => Ok(DeviceId::Cpu),
            ("cuda", _, Some(index)) => Ok(DeviceId::Cuda(index)),
            ("wgpu", _, Some(index)) => Ok(DeviceId::Wgpu(index)),
            ("cpu" | "auto", Some(_), _) => Err(Error::usage(format!("there is no device {name:?}"))
                .with_expected(format!("{kind}, without a number"))
                .with_help("--threads N sets the number of CPU threads")),
            ("cuda" | "wgpu", Some(number), None) => {
                Err(Error::usage(format!("{number:?} is not the number of a device"))
                    .with_expected(format!("{kind}:N with a whole number N, without sign or leading zeros"))
                    .with_found(name)
                    .with_help("run `tempra devices` for a list"))
            }
            _ => {
                let help = suggestion(name).unwrap_or_else(|| "run `tempra devices` for a list".to_owned());
                Err(Error::usage(format!("there is no device {name:?}")).with_expected(NAMES).with_help(help))
            }
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceId::Cpu => write!(f, "cpu"),
            DeviceId::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceId::Wgpu(n) => write!(f, "wgpu:{n}"),
        }
    }
}

/// The index that follows the colon: digits only, and no leading zeros, so that each device has one spelling.
pub(crate) fn index(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    // The drivers' own indices are 32-bit integers.
    text.parse::<usize>().ok().filter(|&n| canonical && i32::try_from(n).is_ok())
}

/// What was probably meant by a name that no device has.
pub(crate) fn suggestion(name: &str) -> Option<String> {
    let folded = name.to_lowercase();
    let (kind, number) = folded.split_once(':').map_or((folded.as_str(), None), |(k, n)| (k, Some(n)));
    if ANY_GPU.contains(&kind) {
        return Some("use cuda for an NVIDIA GPU, or wgpu for any GPU with Vulkan, Metal or DX12".to_owned());
    }
    if THROUGH_WGPU.contains(&kind) {
        let device = number.and_then(index).map_or("wgpu".to_owned(), |n| format!("wgpu:{n}"));
        let build =
            if Wgpu::BUILT { "" } else { "; this build lacks it: cargo build --release --features wgpu" };
        return Some(format!(
            "use {device}: it drives GPUs of all vendors through Vulkan, Metal and DX12{build}"
        ));
    }
    // cuda0, wgpu1
    let letters = kind.trim_end_matches(|c: char| c.is_ascii_digit());
    if ["cuda", "wgpu"].contains(&letters) && number.is_none() && letters.len() < kind.len() {
        return index(&kind[letters.len()..]).map(|n| format!("did you mean \"{letters}:{n}\"?"));
    }
    let near = nearest(kind, ["auto", "cpu", "cuda", "wgpu"])?;
    (near != name).then(|| format!("did you mean {near:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn each_device_has_one_id() {
        let id = |name| DeviceId::parse(name).unwrap();
        assert_eq!(
            [id("cuda"), id("cuda:0"), id("cuda:12")],
            [DeviceId::Cuda(0), DeviceId::Cuda(0), DeviceId::Cuda(12)]
        );
        assert_eq!([id("wgpu"), id("wgpu:1")], [DeviceId::Wgpu(0), DeviceId::Wgpu(1)]);
        assert_eq!([id("auto"), id("cpu")], [DeviceId::Cpu, DeviceId::Cpu]);
        assert_eq!(id("cuda:3").to_string(), "cuda:3");
    }

    #[test]
    fn other_spellings_of_a_number_are_refused() {
        for name in [
            "cuda:00",
            "cuda:+1",
            "cuda:-1",
            "cuda:",
            "cuda: 1",
            "cuda:1 ",
            "cuda:0x1",
            "wgpu:01",
            "cuda:4294967296",
            "cuda:1:2",
        ] {
            let e = DeviceId::parse(name).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{name}");
            assert!(e.to_string().contains("without sign or leading zeros"), "{e}");
        }
        assert!(DeviceId::parse("cpu:0").unwrap_err().to_string().contains("without a number"));
    }

    #[test]
    fn other_words_for_gpus_lead_to_the_right_name() {
        for (name, word) in [
            ("gpu", "use cuda for an NVIDIA GPU, or wgpu"),
            ("nvidia", "use cuda for an NVIDIA GPU, or wgpu"),
            ("vulkan", "use wgpu:"),
            ("Vulkan", "use wgpu:"),
            ("metal", "use wgpu:"),
            ("mps", "use wgpu:"),
            ("dx12", "use wgpu:"),
            ("rocm", "use wgpu:"),
            ("vulkan:1", "use wgpu:1:"),
            ("cuda1", "did you mean \"cuda:1\"?"),
            ("CUDA", "did you mean \"cuda\"?"),
            ("cdua", "did you mean \"cuda\"?"),
            ("abacus", "tempra devices"),
        ] {
            let e = DeviceId::parse(name).unwrap_err();
            assert!(e.help().is_some_and(|h| h.contains(word)), "{name}: {e}");
        }
    }
}
