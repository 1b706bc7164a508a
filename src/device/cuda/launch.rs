//! Loads each specialised kernel once, and launches kernels.
#![allow(unsafe_code, reason = "calls the CUDA driver")]

use super::graph::Event;
use super::{Cuda, Inspected, failed, lock};
use crate::device::{Const, Launch, TensorMap};
use crate::error::{Error, Result};
use crate::shape::DType;
use cudarc::driver::{DriverError, result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};

/// What is loaded.
#[derive(Default)]
pub(super) struct Kernels {
    modules: HashMap<ModuleKey, sys::CUmodule>,
    functions: HashMap<(ModuleKey, &'static str), Function>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Kernels {}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ModuleKey {
    /// Where the text is, and how long.
    source: (usize, usize),
    consts: Vec<(&'static str, Const)>,
    threads: u32,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it was allowed.
    shared: u32,
}

impl Kernels {
    /// # Safety
    /// Nothing is under way any more, and the context is bound.
    pub unsafe fn unload(&mut self) {
        self.functions.clear();
        for (_, module) in self.modules.drain() {
            // SAFETY: loaded once, unloaded once.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

/// Dynamic shared memory that every kernel may have.
const FREE_SHARED: u32 = 32 << 10;

impl Cuda {
    fn function(&self, launch: &Launch) -> Result<sys::CUfunction> {
        let key = ModuleKey {
            source: (launch.source.as_ptr() as usize, launch.source.len()),
            consts: launch.consts.to_vec(),
            threads: launch.threads,
        };
        let mut state = lock(&self.inner.state);
        let kernels = &mut state.kernels;
        let entry = (key, launch.entry);
        let call = |what: &str, e| failed(&self.inner.name, &format!("{what} kernel {}", launch.entry), e);
        let mut found = match kernels.functions.get(&entry) {
            Some(found) => *found,
            None => {
                let module = match kernels.modules.get(&entry.0) {
                    Some(module) => *module,
                    None => {
                        let image = self.compiler.image(
                            launch.entry,
                            launch.source,
                            launch.consts,
                            launch.threads,
                        )?;
                        // SAFETY: an image that NVRTC made; PTX ends with a zero.
                        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
                            .map_err(|e| self.unloadable(launch.entry, e))?;
                        kernels.modules.insert(entry.0.clone(), module);
                        module
                    }
                };
                let name = CString::new(launch.entry)
                    .map_err(|_| Error::shape(format!("the kernel name {:?} is not valid", launch.entry)))?;
                // SAFETY: the module is loaded.
                let handle =
                    unsafe { result::module::get_function(module, name) }.map_err(|e| call("finding", e))?;
                Function { handle, shared: FREE_SHARED }
            }
        };
        if launch.shared_bytes > found.shared {
            let what = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            unsafe {
                result::function::set_function_attribute(found.handle, what, launch.shared_bytes as i32)
            }
            .map_err(|e| call("setting the shared memory of", e))?;
            found.shared = launch.shared_bytes;
        }
        kernels.functions.insert(entry, found);
        Ok(found.handle)
    }

    /// The error for a compiled kernel that the driver does not load. Most of them mean that NVRTC and the
    /// driver do not match.
    fn unloadable(&self, entry: &str, e: DriverError) -> Error {
        use sys::CUresult as C;
        let [driver, nvrtc] = self.versions();
        let (path, older) = (self.nvrtc().display(), "`pip install \"nvidia-cuda-nvrtc<=");
        let found = format!("{:?}: NVRTC {nvrtc} ({path}), driver for CUDA {driver}", e.0);
        let refused = |what: &str| Error::device(what).at(&self.inner.name).with_found(found.clone());
        match e.0 {
            C::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => refused("the driver does not know the PTX version that NVRTC writes")
                .with_help(format!("install an NVRTC that is not newer than the driver: {older}{driver}\"`; or update the driver")),
            C::CUDA_ERROR_NO_BINARY_FOR_GPU | C::CUDA_ERROR_INVALID_IMAGE | C::CUDA_ERROR_INVALID_PTX => {
                refused("the driver does not accept the kernels that NVRTC compiles for this GPU").with_help(format!(
                    "install an NVRTC of the driver's version: {older}{driver}\"`, and delete the folder kernels in tempra's cache"
                ))
            }
            C::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => refused("the driver's PTX compiler is missing")
                .with_help("reinstall the NVIDIA driver with its library libnvidia-ptxjitcompiler.so.1"),
            _ => failed(&self.inner.name, &format!("loading kernel {entry}"), e),
        }
    }

    /// Compiles a kernel for this GPU and loads it into the driver, without launching it.
    ///
    /// # Errors
    /// [`Kind::Device`](crate::error::Kind::Device) if NVRTC does not compile it, or the driver does not load
    /// it.
    pub fn check_kernels(&self) -> Result<()> {
        self.inner.bind()?;
        let (source, entry) =
            ("extern \"C\" __global__ void check(u32* out) { if (out) out[threadIdx.x] = 1; }\n", "check");
        let launch = Launch {
            source,
            entry,
            consts: &[],
            groups: [1; 3],
            threads: 32,
            shared_bytes: 0,
            tensor_maps: &[],
            buffers: &[],
            params: &[],
        };
        self.function(&launch).map(drop)
    }

    /// Compiles a kernel and records its resources.
    pub(super) fn inspect(&self, launch: &Launch, inspected: &Inspected) -> Result<()> {
        let mut label = launch.entry.to_owned();
        for (name, value) in launch.consts {
            label += &match value {
                Const::U32(v) | Const::Matrices(v) => format!(" {name}={v}"),
                Const::Type(t) => format!(" {name}={t:?}"),
            };
        }
        label += &format!(" THREADS={}", launch.threads);
        if lock(&inspected.found).contains_key(&label) {
            return Ok(());
        }
        let (consts, known) = (launch.consts, &inspected.known);
        let found = self.compiler.resources(launch.entry, launch.source, consts, launch.threads, known)?;
        lock(&inspected.found).insert(label, found);
        Ok(())
    }

    /// The tensor map (TMA) of a matrix.
    fn map(&self, place: u64, b: &TensorMap) -> Result<sys::CUtensorMap> {
        let rows = b.t.spec.len() / b.row.max(1);
        let dtype = match b.t.spec.dtype {
            DType::BF16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        };
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let (sizes, stride) = ([b.row as u64, rows as u64], [b.row as u64 * 2]);
        // SAFETY: two sizes, one stride, two sides of the box, two steps, as the rank of 2 says.
        let made = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                dtype,
                2,
                place as *mut c_void,
                sizes.as_ptr(),
                stride.as_ptr(),
                [64u32, 64].as_ptr(),
                [1u32, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        made.result().map_err(|e| self.inner.failed("encoding a tensor map", e))?;
        Ok(map)
    }

    pub(super) fn launch_kernel(&self, launch: &Launch) -> Result<()> {
        let inner = &self.inner;
        inner.bind()?;
        if launch.groups[1] > 65535 || launch.groups[2] > 65535 {
            return Err(Error::device(format!("the grid of kernel {} is too large", launch.entry))
                .with_expected("at most 65535 blocks in y and z")
                .with_found(format!("{:?} blocks", launch.groups))
                .with_help("lower train.max_tokens (the tokens of one forward pass) or data.max_length"));
        }
        let function = self.function(launch)?;
        self.profile.launched(launch.entry);
        let mapped = launch.tensor_maps.iter().map(|b| b.t);
        let mut places = mapped
            .chain(launch.buffers.iter().copied())
            .map(|t| self.place(t))
            .collect::<Result<Vec<u64>>>()?;
        // Words, so that the driver finds them aligned.
        let mut params: Vec<u32> = bytemuck::pod_collect_to_vec(launch.params);
        let event = Event::Launch {
            function: function as usize,
            groups: launch.groups,
            places: &places,
            params: &params,
        };
        {
            let mut state = lock(&inner.state);
            if state.graphs.note(&event) {
                return Ok(());
            }
            if !state.graphs.capturing() {
                state.stats.launches += 1;
            }
        }
        let (mapped, buffers) = places.split_at_mut(launch.tensor_maps.len());
        let mut maps = mapped
            .iter()
            .zip(launch.tensor_maps)
            .map(|(&p, b)| self.map(p, b))
            .collect::<Result<Vec<_>>>()?;
        let mut arguments: Vec<*mut c_void> = maps.iter_mut().map(|m| std::ptr::from_mut(m).cast()).collect();
        arguments.extend(buffers.iter_mut().map(|p| std::ptr::from_mut(p).cast::<c_void>()));
        if !params.is_empty() {
            arguments.push(params.as_mut_ptr().cast());
        }
        let [x, y, z] = launch.groups;
        // SAFETY: our own kernel, which takes these buffers and these words; the tests run it under every
        // check.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (launch.threads, 1, 1),
                launch.shared_bytes,
                inner.stream,
                &mut arguments,
            )
        }
        .map_err(|e| failed(&inner.name, &format!("launching kernel {}", launch.entry), e))
    }
}
