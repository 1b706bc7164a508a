//! Which physical GPU a device is, so that one GPU is recognised through CUDA and through Vulkan.

/// The addresses of a GPU, as far as the driver reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The PCI address `domain:bus:device.function` in lower-case hexadecimal digits, such as `0000:3b:00.0`.
    pub pci_bus_id: Option<String>,
    /// The driver's UUID as 32 lower-case hexadecimal digits in groups of 8-4-4-4-12, without a prefix such
    /// as `GPU-`.
    pub uuid: Option<String>,
}

impl Identity {
    /// Whether both are one GPU of the same machine. UUIDs decide if both are known, otherwise PCI addresses.
    ///
    /// ```
    /// use tempra::device::Identity;
    ///
    /// let at = |pci: &str| Identity { pci_bus_id: Identity::pci(pci), uuid: None };
    /// assert!(at("00000000:3B:00.0").is_same(&at("0000:3b:00.0")));
    /// assert!(!at("0000:3b:00.0").is_same(&at("0000:5e:00.0")));
    /// assert!(!Identity::default().is_same(&Identity::default()));
    /// ```
    pub fn is_same(&self, other: &Identity) -> bool {
        match (&self.uuid, &other.uuid, &self.pci_bus_id, &other.pci_bus_id) {
            (Some(a), Some(b), ..) => a == b,
            (_, _, Some(a), Some(b)) => a == b,
            _ => false,
        }
    }

    /// A PCI address in the form of [`Identity::pci_bus_id`]. CUDA, NVML and Vulkan write it with upper- or
    /// lower-case digits, and the domain with four or eight digits. `None` for other texts.
    pub fn pci(text: &str) -> Option<String> {
        let hex = |s: &str| u32::from_str_radix(s, 16).ok();
        let (rest, function) = text.trim().rsplit_once('.')?;
        let parts: Vec<u32> = rest.split(':').map(hex).collect::<Option<_>>()?;
        let [domain, bus, device] = parts[..] else { return None };
        Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{:x}", hex(function)?))
    }

    /// A UUID in the form of [`Identity::uuid`]. `None` for 16 zeros, which drivers write if they have none.
    pub fn uuid(bytes: [u8; 16]) -> Option<String> {
        let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
        bytes.iter().any(|&b| b != 0).then(|| groups.join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form_whoever_writes_them() {
        let same = Some("0000:3b:00.0".to_owned());
        for text in ["0000:3B:00.0", "00000000:3B:00.0", "0000:3b:00.0", "0000:3b:00.0\n"] {
            assert_eq!(Identity::pci(text), same, "{text}");
        }
        // Azure's virtual machines have domains of their own.
        assert_eq!(Identity::pci("00000001:00:00.0").as_deref(), Some("0001:00:00.0"));
        for text in ["", "3b:00.0", "0000:3b:00", "0000:3b:zz.0", "a:b:c:d.e", "PCI bus 3"] {
            assert_eq!(Identity::pci(text), None, "{text}");
        }
        // As nvidia-smi -L prints it: GPU-5a6d8a7c-f1b2-3c4d-5e6f-708192a3b4c5.
        let bytes =
            [0x5a, 0x6d, 0x8a, 0x7c, 0xf1, 0xb2, 0x3c, 0x4d, 0x5e, 0x6f, 0x70, 0x81, 0x92, 0xa3, 0xb4, 0xc5];
        assert_eq!(Identity::uuid(bytes).as_deref(), Some("5a6d8a7c-f1b2-3c4d-5e6f-708192a3b4c5"));
        assert_eq!(Identity::uuid([0; 16]), None);
    }

    #[test]
    fn the_uuid_decides_where_both_have_one() {
        let of = |pci: &str, uuid: u8| Identity {
            pci_bus_id: Identity::pci(pci),
            uuid: Identity::uuid([uuid; 16]),
        };
        let (a, b) = ("0000:01:00.0", "0000:02:00.0");
        // Two parts of one GPU (MIG) share the address; one GPU keeps its UUID in a machine that hides
        // addresses.
        assert!(!of(a, 1).is_same(&of(a, 2)));
        assert!(of(a, 1).is_same(&of(b, 1)));
        assert!(of(a, 1).is_same(&of(a, 0)), "only one has a UUID, so the address decides");
        assert!(!of(a, 0).is_same(&of(b, 1)));
        assert!(!of("", 0).is_same(&of("", 0)), "nothing is known");
    }
}
