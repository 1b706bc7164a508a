//! Lists adapters, reads their capabilities, and opens one.
#![allow(
    unsafe_code,
    reason = "asks Vulkan for the size of its memory and its UUID, which wgpu does not tell; enables cooperative matrices"
)]

use super::{Abilities, MAX_BUFFERS};
use crate::device::Identity;
use crate::error::{Error, Result};
use wgpu::Features;

/// All adapters, GPUs first.
fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    descriptor.flags = wgpu::InstanceFlags::empty();
    let backends = descriptor.backends;
    let mut found = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends));
    found.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    found
}

fn describe(adapter: &wgpu::Adapter) -> String {
    let info = adapter.get_info();
    let software =
        if info.device_type == wgpu::DeviceType::Cpu { ", software Vulkan, not a GPU" } else { "" };
    format!("{} ({:?}{software})", info.name, info.backend)
}

/// All adapters, by the index N of `wgpu:N`.
pub(super) fn names() -> Vec<String> {
    adapters().iter().map(describe).collect()
}

fn abilities(adapter: &wgpu::Adapter) -> Abilities {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let one_size = info.subgroup_min_size == info.subgroup_max_size;
    Abilities {
        subgroup: (features.contains(Features::SUBGROUP) && one_size).then_some(info.subgroup_max_size),
        coop: coop(adapter).filter(|_| one_size),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        timestamps: features.contains(Features::TIMESTAMP_QUERY),
        software: info.device_type == wgpu::DeviceType::Cpu,
        binding_bytes: limits.max_storage_buffer_binding_size,
        shared_bytes: limits.max_compute_workgroup_storage_size,
        memory_bytes: memory(adapter),
        identity: Identity { pci_bus_id: Identity::pci(&info.device_pci_bus_id), uuid: uuid(adapter) },
        // The PCI vendor ID of NVIDIA.
        nvidia: info.vendor == 0x10de,
    }
}

/// The size of the largest square cooperative matrix with f16 operands and f32 accumulators.
fn coop(adapter: &wgpu::Adapter) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    if !adapter
        .features()
        .contains(Features::SHADER_F16 | Features::SUBGROUP | Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
    {
        return None;
    }
    let all = adapter.cooperative_matrix_properties();
    let fits = |p: &&wgpu::CooperativeMatrixProperties| {
        p.m_size == p.n_size && p.n_size == p.k_size && p.ab_type == F16 && p.cr_type == F32
    };
    // The kernel's workgroup memory, and its four subgroups.
    let (limits, lanes) = (adapter.limits(), adapter.get_info().subgroup_max_size);
    let room = |size: &u32| 96 * size * size <= limits.max_compute_workgroup_storage_size;
    let threads = 4 * lanes <= limits.max_compute_invocations_per_workgroup;
    let sizes = all.iter().filter(fits).map(|p| p.m_size).filter(|size| [8, 16].contains(size));
    sizes.filter(room).filter(|_| threads).max()
}

/// The device's own memory, from Vulkan.
#[cfg(not(target_vendor = "apple"))]
fn memory(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the handles live as long as the adapter, and only a property is read through them.
    let found = unsafe {
        let vulkan = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let instance = vulkan.shared_instance().raw_instance();
        instance.get_physical_device_memory_properties(vulkan.raw_physical_device())
    };
    let heaps = found.memory_heaps.iter().take(found.memory_heap_count as usize);
    // Bit 0 of a heap's flags: local to the device.
    let local = heaps.filter(|h| h.flags.as_raw() & 1 == 1).map(|h| h.size).max();
    local.filter(|&bytes| bytes > 0)
}
/// Metal shares the machine's memory and does not say how much of it there is.
#[cfg(target_vendor = "apple")]
fn memory(_: &wgpu::Adapter) -> Option<u64> {
    None
}

/// `VkPhysicalDeviceIDProperties`, which wgpu does not read.
#[cfg(not(target_vendor = "apple"))]
#[repr(C)]
struct IdProperties {
    kind: u32,
    next: *mut std::ffi::c_void,
    device_uuid: [u8; 16],
    driver_uuid: [u8; 16],
    device_luid: [u8; 8],
    device_node_mask: u32,
    device_luid_valid: u32,
}

/// The GPU's UUID, from Vulkan 1.1 or later. NVIDIA's driver gives the same one to CUDA.
#[cfg(not(target_vendor = "apple"))]
fn uuid(adapter: &wgpu::Adapter) -> Option<String> {
    /// `VK_API_VERSION_1_1`.
    const VULKAN_1_1: u32 = (1 << 22) | (1 << 12);
    let mut ids = IdProperties {
        // VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES
        kind: 1_000_071_004,
        next: std::ptr::null_mut(),
        device_uuid: [0; 16],
        driver_uuid: [0; 16],
        device_luid: [0; 8],
        device_node_mask: 0,
        device_luid_valid: 0,
    };
    // SAFETY: the handles live as long as the adapter, the instance and the device are of Vulkan 1.1 or
    // later, and the driver writes into a structure with the type and size that it announces.
    unsafe {
        let vulkan = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        let (instance, device) = (vulkan.shared_instance(), vulkan.raw_physical_device());
        let raw = instance.raw_instance();
        let supported = raw.get_physical_device_properties(device).api_version;
        if instance.instance_api_version().min(supported) < VULKAN_1_1 {
            return None;
        }
        let mut properties = Default::default();
        raw.get_physical_device_properties2(device, &mut properties);
        properties.p_next = (&raw mut ids).cast();
        raw.get_physical_device_properties2(device, &mut properties);
    }
    Identity::uuid(ids.device_uuid)
}
/// Metal has no UUIDs.
#[cfg(target_vendor = "apple")]
fn uuid(_: &wgpu::Adapter) -> Option<String> {
    None
}

/// An adapter that was opened.
pub(super) struct Opened {
    pub name: String,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub abilities: Abilities,
}

/// Opens an adapter by its index.
pub(super) fn open(index: usize) -> Result<Opened> {
    let found = adapters();
    let Some(adapter) = found.get(index) else {
        let names: Vec<String> = found.iter().map(describe).collect();
        return Err(match names.is_empty() {
            true => super::vulkan::no_adapter(),
            false => Error::device(format!("there is no adapter wgpu:{index}"))
                .with_expected(format!("an index below {}: {}", names.len(), names.join("; ")))
                .with_help("run `tempra devices` for a list"),
        });
    };
    let (name, limits) = (describe(adapter), adapter.limits());
    if !adapter.features().contains(Features::IMMEDIATES)
        || (limits.max_storage_buffers_per_shader_stage as usize) < MAX_BUFFERS
    {
        return Err(Error::device(format!("{name} does not support tempra's kernels"))
            .with_expected(
                "an adapter with push constants and at least eight storage buffers per shader stage",
            )
            .with_help("update the GPU's driver, or run with --device cpu"));
    }
    let found = abilities(adapter);
    let mut optional = Features::SUBGROUP | Features::TIMESTAMP_QUERY;
    let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
    if found.coop.is_some() {
        optional |= Features::SHADER_F16 | Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        // SAFETY: the only experimental feature that is used is cooperative matrices, and only by a kernel of
        // ours that the tests run against the CPU.
        experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("tempra"),
        required_features: Features::IMMEDIATES | (adapter.features() & optional),
        required_limits: limits,
        memory_hints: wgpu::MemoryHints::Performance,
        experimental_features,
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|e| {
        Error::device(format!("cannot open {name}"))
            .with_found(e.to_string())
            .with_help("update the GPU's driver, or run with --device cpu")
    })?;
    Ok(Opened { name, device, queue, abilities: found })
}
