//! Proves that a device computes correctly: runs every case of [`OPS`] on it and compares with the CPU in
//! f64.

use crate::device::{Device, Tensor};
use crate::device::{cuda, wgpu};
use crate::error::{Error, Kind, Result};
use crate::ops::{
    BOUNDS, Backward, Case, Forward, Grad, HALF_BOUNDS, KERNELS, OPS, Op, SHADERS, Subject, max_error, reals,
    relative_l2, rounded, unit_roundoff,
};
use crate::rng::Rng;
use crate::shape::{DType, Spec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// One case on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The op's stem.
    pub op: String,
    /// The label of the case.
    pub case: String,
    /// The compute type.
    pub dtype: String,
    /// The largest error of the forward pass or step: absolute for values up to 1, relative above. `None` if
    /// it is NaN.
    pub forward: Option<f64>,
    /// The largest error of the gradients; `None` for a step, or if it is NaN.
    pub backward: Option<f64>,
    /// The largest errors allowed.
    pub bounds: [f64; 2],
    /// Why the case could not run, if it could not.
    pub failure: Option<String>,
    /// Whether the case passed.
    pub passed: bool,
}

/// All cases on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The version of tempra.
    pub tempra: String,
    /// Hash of the kernels' source.
    pub kernels: String,
    /// The device's own name.
    pub device: String,
    /// Every case of every op.
    pub rows: Vec<Row>,
}

impl Certificate {
    /// Runs every case on a device, and calls `each` with the result of each case.
    ///
    /// # Errors
    /// Those of the device.
    pub fn issue(device: &Device, mut each: impl FnMut(&Row)) -> Result<Certificate> {
        // The truth is the CPU's f64, whose gradients the tests prove by finite differences.
        let truth = Device::open("cpu", 1)?;
        let mut rows = Vec::new();
        for (name, cases) in OPS {
            for case in cases() {
                let row = judge(name, &case, &truth, device);
                each(&row);
                rows.push(row);
            }
        }
        let tempra = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Certificate { tempra, kernels: kernels(), device: device.caps().label(), rows })
    }
    /// Whether all cases passed.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|r| r.passed)
    }
    /// A hash of this certificate, which run folders record.
    pub fn digest(&self) -> String {
        blake3::hash(json!(self).to_string().as_bytes()).to_hex().to_string()
    }
    /// The certificate as JSON, as in its file.
    pub fn to_json(&self) -> Value {
        let mut all = json!(self);
        all["passed"] = self.passed().into();
        all["digest"] = self.digest().into();
        all
    }
    /// Keeps the certificate for later runs on this device.
    ///
    /// # Errors
    /// [`Kind::Disk`] if it cannot be written.
    pub fn keep(&self, cache: &Path) -> Result<PathBuf> {
        let path = place(cache, &self.device);
        crate::files::replace(&path, format!("{:#}\n", self.to_json()).as_bytes()).map_err(|e| {
            Error::io(Kind::Disk, "cannot keep the certificate", &path, &e)
                .with_help("check the free space and the permissions of the cache folder")
        })?;
        Ok(path)
    }
    /// The certificate kept for a device, if it is intact and of these kernels.
    pub fn kept(cache: &Path, device: &Device) -> Option<Certificate> {
        let name = device.caps().label();
        let value: Value = serde_json::from_slice(&std::fs::read(place(cache, &name)).ok()?).ok()?;
        let digest = value["digest"].as_str()?.to_owned();
        let found: Certificate = serde_json::from_value(value).ok()?;
        (found.digest() == digest && found.kernels == kernels() && found.device == name).then_some(found)
    }
}

/// The file of a device's certificate: one for each version of the kernels.
fn place(cache: &Path, device: &str) -> PathBuf {
    let key = blake3::hash(format!("{device}\0{}", kernels()).as_bytes()).to_hex();
    cache.join("certificates").join(format!("{}.json", &key[..16]))
}

fn kernels() -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    let cuda = KERNELS.iter().map(|(_, text)| text).chain([&cuda::PRELUDE]);
    for text in SHADERS.iter().chain([&wgpu::PRELUDE]).chain(cuda) {
        hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hash.finalize().to_hex()[..16].to_owned()
}

fn judge(op: &str, case: &Case, truth: &Device, device: &Device) -> Row {
    let slack = case.slack;
    let found = match &case.subject {
        Subject::Op(op) => compare(&**op, case, truth, device).map(|(f, b)| (f, Some(b))),
        Subject::Step(..) => compare_step(case, device).map(|e| (e, None)),
    };
    // On wgpu only matmuls have a path in f16, and only where it was asked for.
    let matmuls = op == "linear" && matches!(device, Device::Wgpu(gpu) if gpu.half().is_some());
    let dtype = match case.subject {
        Subject::Op(_) if matmuls => DType::F16,
        Subject::Op(_) => device.caps().compute,
        Subject::Step(..) => DType::F32,
    };
    let bounds = match case.subject {
        _ if matmuls => case.matmul_bounds(),
        Subject::Op(_) if dtype.size() == 2 => {
            HALF_BOUNDS.map(|b| b * slack * case.half_slack * unit_roundoff(dtype))
        }
        Subject::Op(_) => [BOUNDS[0] * slack, BOUNDS[1] * slack],
        Subject::Step(..) => [BOUNDS[2] * slack; 2],
    };
    let (failure, forward, backward) = match found {
        Ok((f, b)) => (None, f, b),
        Err(e) => (Some(e.to_string()), f64::INFINITY, None),
    };
    Row {
        op: op.to_owned(),
        case: case.label.to_owned(),
        dtype: dtype.to_string(),
        passed: forward <= bounds[0] && backward.is_none_or(|b| b <= bounds[1]),
        forward: Some(forward).filter(|e| e.is_finite()),
        backward: backward.filter(|e| e.is_finite()),
        bounds,
        failure,
    }
}

fn put(device: &Device, spec: &Spec, v: &[f64]) -> Result<Tensor> {
    device.upload_reals(spec.dtype, &spec.shape, v)
}

/// The first output, and the gradients of all inputs that have one.
fn both_passes(
    op: &dyn Op,
    case: &Case,
    device: &Device,
    dtype: DType,
    x: &[Vec<f64>],
    dy: &[f64],
) -> Result<(Vec<f64>, Vec<Vec<f64>>)> {
    let specs = case.specs(dtype);
    let plan = op.plan(&device.caps(), &specs.iter().collect::<Vec<_>>())?;
    let tensors = specs.iter().zip(x).map(|(s, v)| put(device, s, v)).collect::<Result<Vec<_>>>()?;
    let blank = |s: &Spec| put(device, s, &vec![f64::NAN; s.len()]);
    let y = plan.outputs.iter().chain(&plan.saved).map(blank).collect::<Result<Vec<_>>>()?;
    let (xr, yr): (Vec<&Tensor>, Vec<&Tensor>) = (tensors.iter().collect(), y.iter().collect());
    device.forward(op, Forward { x: &xr, y: &yr })?;
    let dy = put(device, &plan.outputs[0], dy)?;
    let real = |i: usize| matches!(case.inputs[i].fill, crate::ops::Fill::Real(..));
    let blank = |(i, s): (usize, &Spec)| if real(i) { blank(s).map(Some) } else { Ok(None) };
    let grads = specs.iter().enumerate().map(blank).collect::<Result<Vec<_>>>()?;
    let dx: Vec<_> = grads.iter().map(|g| g.as_ref().map(|t| Grad::new(t, false))).collect();
    device.backward(op, Backward { x: &xr, y: &yr, dy: &[Some(&dy)], dx: &dx })?;
    let dx = grads.iter().flatten().map(|g| device.read_reals(g)).collect::<Result<_>>()?;
    Ok((device.read_reals(&y[0])?, dx))
}

fn compare(op: &dyn Op, case: &Case, truth: &Device, device: &Device) -> Result<(f64, f64)> {
    let mut rng = Rng::new(7, "ops", 0);
    let dtype = device.caps().compute;
    let x = case.values_in(dtype, &mut rng);
    let specs = case.specs(DType::F64);
    let plan = op.plan(&truth.caps(), &specs.iter().collect::<Vec<_>>())?;
    let mut dy = reals(&mut rng, plan.outputs[0].len(), -1.0, 1.0);
    dy.iter_mut().for_each(|v| *v = rounded(dtype, *v));
    let (y, dx) = both_passes(op, case, truth, DType::F64, &x, &dy)?;
    let (found, grads) = both_passes(op, case, device, dtype, &x, &dy)?;
    let error = if dtype.size() == 2 { relative_l2 } else { max_error };
    let backward = grads.iter().zip(&dx).map(|(a, b)| error(a, b)).fold(0.0, f64::max);
    Ok((error(&found, &y), backward))
}

fn compare_step(case: &Case, device: &Device) -> Result<f64> {
    let Subject::Step(step, textbook) = &case.subject else { return Ok(0.0) };
    let x = case.values(&mut Rng::new(7, "ops", 0));
    let specs = case.specs(DType::F32);
    let tensors = specs.iter().zip(&x).map(|(s, v)| put(device, s, v)).collect::<Result<Vec<_>>>()?;
    device.step(&**step, &tensors.iter().collect::<Vec<_>>())?;
    let mut error = 0f64;
    for (t, expected) in tensors.iter().zip(textbook(step, &x)) {
        error = error.max(max_error(&device.read_reals(t)?, &expected));
    }
    Ok(error)
}
