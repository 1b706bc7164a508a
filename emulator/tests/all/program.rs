//! An ordinary program of `cudarc`: compile, load, launch, copy back, record a graph and launch it again. It
//! knows nothing of the emulator; what stands in for the driver is decided by the path that libcuda.so is
//! found on.

#![allow(unsafe_code, reason = "starts a kernel")]
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use std::error::Error;

const SOURCE: &str = r#"
extern "C" __global__ void axpy(const float* __restrict__ x, float* __restrict__ y, float a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
"#;

pub fn main(wrong: bool) -> Result<(), Box<dyn Error>> {
    let context = CudaContext::new(0)?;
    let (major, minor) = context.compute_capability()?;
    println!("device: {}, {major}.{minor}, {} bytes", context.name()?, context.total_mem()?);
    let source = if wrong { SOURCE.replace("if (i < n) ", "") } else { SOURCE.to_owned() };
    let options = ["--gpu-architecture=compute_80", "-lineinfo"].map(str::to_owned).to_vec();
    let ptx = compile_ptx_with_opts(source, CompileOptions { options, ..CompileOptions::default() })?;
    let axpy = context.load_module(ptx)?.load_function("axpy")?;
    let stream = context.new_stream()?;
    let n = 1000;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let device_x = stream.clone_htod(&x)?;
    let mut device_y = stream.alloc_zeros::<f32>(n as usize)?;
    let config = LaunchConfig { grid_dim: (8, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
    let mut run = |a: f32| -> Result<(), Box<dyn Error>> {
        let mut launch = stream.launch_builder(&axpy);
        launch.arg(&device_x).arg(&mut device_y).arg(&a).arg(&n);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(config)? };
        Ok(())
    };
    run(1.0)?;
    stream.synchronize()?;
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    run(2.0)?;
    run(3.0)?;
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags)?.ok_or("no graph")?;
    // Recorded, not run.
    let before = stream.clone_dtoh(&device_y)?;
    graph.launch()?;
    graph.launch()?;
    stream.synchronize()?;
    let after = stream.clone_dtoh(&device_y)?;
    let right = (0..n as usize).all(|i| before[i] == x[i] && after[i] == 11.0 * x[i]);
    println!("{}", if right { "right" } else { "WRONG" });
    Ok(())
}
