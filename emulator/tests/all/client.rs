//! A plain program of `cudarc` on libcuda.so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The folder that cargo builds into.
fn target() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().to_owned()
}

/// Runs the program with the emulator as libcuda.so; `None` without NVRTC.
fn client(name: &str, argument: &str, settings: &[(&str, &str)]) -> Option<Output> {
    let nvrtc = std::env::var("EMULATOR_NVRTC").ok().filter(|_| !crate::nvrtc::all().is_empty())?;
    let nvrtc = nvrtc.split(':').next().unwrap().to_owned();
    let folder = std::env::temp_dir().join(format!("emulator-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let library = [target().join("libemulator.so"), target().join("deps/libemulator.so")];
    let library = library.iter().find(|l| l.exists()).expect("cargo builds libemulator.so with the library");
    std::fs::copy(library, folder.join("libcuda.so")).unwrap();
    // The program is a test of its own, which does nothing unless it is asked for.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["client::program", "--exact", "--nocapture"]).env("EMULATOR_PROGRAM", argument);
    command.env("LD_LIBRARY_PATH", format!("{}:{nvrtc}", folder.display())).envs(settings.iter().copied());
    let out = command.output().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    Some(out)
}

fn texts(out: &Output) -> (String, String) {
    (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn program() {
    let Ok(argument) = std::env::var("EMULATOR_PROGRAM") else { return };
    if let Err(e) = crate::program::main(argument == "wrong") {
        panic!("{e:?}");
    }
}

#[test]
fn a_plain_program_runs_unchanged() {
    let settings = [("EMULATOR_DEVICE", "Test GPU"), ("EMULATOR_SM", "86"), ("EMULATOR_MEMORY", "1048576")];
    let Some(out) = client("plain", "", &settings) else { return };
    let (text, errors) = texts(&out);
    assert!(out.status.success(), "{errors}");
    assert!(text.contains("device: Test GPU, 8.6, 1048576 bytes\nright\n"), "{text}");
}

#[test]
fn a_fault_arrives_as_the_error_of_a_gpu_and_is_explained() {
    let Some(out) = client("wrong", "wrong", &[]) else { return };
    let (_, errors) = texts(&out);
    assert!(!out.status.success());
    assert!(errors.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{errors}");
    assert!(errors.contains("emulator: axpy: out of bounds at") && errors.contains(":4 (PTX"), "{errors}");
}

#[test]
fn memory_ends_where_it_is_told_to() {
    for setting in [("EMULATOR_FAIL_ALLOC", "2"), ("EMULATOR_MEMORY", "5000")] {
        let Some(out) = client(setting.0, "", &[setting]) else { return };
        let (_, errors) = texts(&out);
        assert!(!out.status.success());
        assert!(errors.contains("CUDA_ERROR_OUT_OF_MEMORY"), "{errors}");
    }
}

#[test]
fn a_module_for_a_newer_card_is_refused() {
    let Some(out) = client("old", "", &[("EMULATOR_SM", "75")]) else { return };
    let (_, errors) = texts(&out);
    assert!(errors.contains("CUDA_ERROR_NO_BINARY_FOR_GPU") && errors.contains("sm_75"), "{errors}");
}
