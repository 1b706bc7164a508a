//! The loss of a teacher's outputs, for each kind of outputs: value and gradient against the formulas.

use crate::support::*;
use tempra::data::{Batch, IGNORED, TagFormat, Targets};
use tempra::device::Device;
use tempra::shape::DType;
use tempra::tape::{Leaf, Tape, Var};
use tempra::tasks::{
    Answer, Classify, Multilabel, Regress, Search, Similar, SimilarityLoss, SoftKind, Tag, Task,
};

/// log sum exp.
pub fn lse(z: &[f64]) -> f64 {
    let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + z.iter().map(|z| (z - most).exp()).sum::<f64>().ln()
}

/// T^2 KL(softmax(t / T) || softmax(s / T)).
fn divergence(s: &[f64], t: &[f64], temperature: f64) -> f64 {
    let logs = |z: &[f64]| -> Vec<f64> {
        let z: Vec<f64> = z.iter().map(|z| z / temperature).collect();
        let all = lse(&z);
        z.iter().map(|z| z - all).collect()
    };
    let (q, p) = (logs(s), logs(t));
    temperature * temperature * p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
}

/// The measure of one example from its rows, as the formulas of `tasks/soft.rs` say. A decision is a choice
/// of two classes whose logits are z and 0. `weights`: those of the rows.
pub fn measure(
    kind: &SoftKind,
    [s, t]: [&[f64]; 2],
    (rows, weights): (usize, &[f64]),
    temperature: f64,
) -> f64 {
    let width = s.len() / rows;
    let pairs = s.chunks(width).zip(t.chunks(width)).zip(weights);
    match kind {
        SoftKind::Classes | SoftKind::Tags => {
            pairs.map(|((s, t), w)| w * divergence(s, t, temperature)).sum()
        }
        SoftKind::Labels(of_labels) => {
            let one = |i: usize| {
                let of_label = of_labels.as_ref().map_or(1.0, |w| f64::from(w[i % width]));
                of_label * weights[i / width] * divergence(&[s[i], 0.0], &[t[i], 0.0], temperature)
            };
            (0..s.len()).map(one).sum()
        }
        SoftKind::Number { shift, scale, unit } => {
            pairs.map(|((s, t), w)| w * ((shift + scale * s[0] - t[0]) / unit).powi(2)).sum()
        }
        SoftKind::Span => {
            let column =
                |of: &[f64], k: usize| -> Vec<f64> { of.iter().skip(k).step_by(2).copied().collect() };
            (0..2).map(|k| divergence(&column(s, k), &column(t, k), temperature) / 2.0).sum()
        }
        SoftKind::Vectors => {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            pairs.map(|((s, t), _)| (1.0 - dot(s, t) / (dot(s, s) * dot(t, t)).sqrt()) / 2.0).sum()
        }
    }
}

/// Numbers without a pattern, from -2 to 2.
fn spread(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 37 + seed * 101) as f64 * 0.618).sin() * 2.0).collect()
}

/// A task with a batch of outputs.
struct Case {
    task: Box<dyn Task>,
    batch: Batch,
    /// Columns of the outputs.
    width: usize,
    /// Weights of the rows.
    weights: Vec<f64>,
    /// The sizes in rows of what is measured alone.
    sizes: Vec<usize>,
}

fn cases() -> Vec<Case> {
    let names = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
    let mut batch = Batch { cu_seqlens: vec![0], ..Batch::default() };
    for (example, n) in [3u32, 1, 5, 2].into_iter().enumerate() {
        batch.ids.extend((0..n).map(|i| 5 + i));
        batch.positions.extend(0..n);
        batch.types.extend((0..n).map(|_| 0));
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.examples.push(example as u32);
    }
    let of_rows = vec![0.5, 0.0, 2.0, 1.0];
    let weighted = Batch { weights: of_rows.iter().map(|w| *w as f32).collect(), ..batch.clone() };
    let tags = Targets::Tags(vec![2, 0, 1, IGNORED, 1, 2, 0, 1, 1, 2, IGNORED]);
    let of_tags = vec![0.5, 1.0, 3.0, 0.0, 3.0, 0.5, 1.0, 3.0, 3.0, 0.5, 0.0];
    let labels = Targets::Class(vec![0, 1, 2, 1]);
    let (classes, label_smoothing, gamma) = (names(3), 0.0, 0.0);
    let class_weights = Some(vec![1.0, 2.0, 0.5]);
    let classify = Classify { classes, label_smoothing: 0.1, class_weights, gamma };
    let (classes, class_weights) = (names(3), Some(vec![1.0, 3.0, 0.5]));
    let tag = Tag { classes, label_smoothing, class_weights, gamma, format: TagFormat::Words, strict: false };
    let multilabel = Multilabel { class_weights: Some(vec![0.5, 1.0, 4.0]), ..Multilabel::new(names(3)) };
    let similar = Similar { loss: SimilarityLoss::Cosine { label_scale: 1.0 } };
    let case = |task: Box<dyn Task>, batch: Batch, width: usize, weights: Vec<f64>, sizes: &[usize]| Case {
        task,
        batch,
        width,
        weights,
        sizes: sizes.to_vec(),
    };
    vec![
        case(
            Box::new(classify),
            Batch { targets: labels, ..weighted.clone() },
            3,
            vec![0.5, 0.0, 1.0, 2.0],
            &[4],
        ),
        case(Box::new(tag), Batch { targets: tags, ..batch.clone() }, 3, of_tags, &[11]),
        case(Box::new(multilabel), weighted.clone(), 3, of_rows.clone(), &[4]),
        case(Box::new(Regress { shift: 3.0, scale: 2.0, unit: 0.5 }), weighted, 1, of_rows, &[4]),
        case(Box::new(Answer { search: Search::default() }), batch.clone(), 2, vec![1.0; 11], &[3, 1, 5, 2]),
        case(Box::new(similar), Batch { examples: vec![0, 1], ..batch }, 6, vec![1.0; 4], &[4]),
    ]
}

/// Value and gradient of given outputs, where the batch is padded as for a CUDA graph too, against the
/// formula and its central differences in f64.
fn each_measure_is_its_formula(device: &Device, dtype: DType, most: f64) {
    let scale = 0.3;
    for Case { task, batch, width, weights, sizes } in cases() {
        let soft = task.soft().expect("it can be distilled");
        for (temperature, fill) in [(1.0, false), (2.5, true), (7.0, false)] {
            let mut batch = batch.clone();
            if fill {
                batch.fill_up();
            }
            let rows: usize = sizes.iter().sum();
            let padded = matches!(soft.kind, SoftKind::Tags | SoftKind::Span);
            let all = if padded { batch.ids.len() } else { rows };
            let (mut student, teacher) = (spread(all * width, 1), spread(rows * width, 2));
            let truth = |student: &[f64]| -> f64 {
                let (mut sum, mut at) = (0.0, 0);
                for n in &sizes {
                    let of = |v: &[f64]| v[at * width..(at + n) * width].to_vec();
                    let (s, t) = (of(student), of(&teacher));
                    sum += measure(&soft.kind, [&s, &t], (*n, &weights[at..at + n]), temperature);
                    at += n;
                }
                scale * sum
            };
            let put = |v: &[f64]| device.upload_reals(dtype, &[all, width], v).expect("memory");
            let loss = |tape: &mut Tape, student: Var, teacher: &[f64]| {
                soft.loss(tape, &*task, &[student], &batch, (teacher, temperature), scale)
            };
            let gradient = device.zeros(dtype, &[all, width]).expect("memory");
            let mut tape = Tape::new(device);
            let leaf = tape.leaf(Leaf::new(put(&student), gradient.clone(), false));
            let root = loss(&mut tape, leaf, &teacher).expect("a loss");
            let (found, expected) = (floats(device, root.value())[0], truth(&student));
            assert!((found - expected).abs() < most * (1.0 + expected), "{soft:?}: {found}, {expected}");
            let one = device.upload_reals(root.value().spec.dtype, &[1], &[1.0]).expect("memory");
            tape.backward(root, one).expect("backward");
            let found = floats(device, &gradient);
            for i in 0..student.len() {
                let (at, h) = (student[i], 1e-5);
                let [up, down] = [at + h, at - h].map(|v| {
                    student[i] = v;
                    truth(&student)
                });
                student[i] = at;
                let slope = (up - down) / (2.0 * h);
                let off = (found[i] - slope).abs();
                assert!(off < most * (1.0 + slope.abs()), "{soft:?} {i}: {}, {slope}", found[i]);
            }
            // Outputs that agree have no loss.
            let own = |t: &f64| match &soft.kind {
                SoftKind::Number { shift, scale, .. } => (t - shift) / scale,
                _ => *t,
            };
            let own: Vec<f64> =
                teacher.iter().map(own).chain(std::iter::repeat(0.5)).take(all * width).collect();
            let mut tape = Tape::new(device);
            let own = tape.constant(put(&own));
            let root = loss(&mut tape, own, &teacher).expect("a loss");
            assert!(floats(device, root.value())[0].abs() < most, "{soft:?}");
            let mut tape = Tape::new(device);
            let leaf = tape.constant(put(&student));
            let more = [teacher.clone(), vec![0.0; all * width]].concat();
            let e = loss(&mut tape, leaf, &more).expect_err("refused").to_string();
            assert!(e.contains("do not fit"), "{e}");
        }
    }
}

/// The temperature of an op is an f32.
#[test]
fn each_measure_is_its_formula_in_f64() {
    each_measure_is_its_formula(&cpu(1), DType::F64, 1e-7);
}

#[test]
fn each_measure_is_its_formula_on_wgpu_and_cuda() {
    for kind in ["wgpu", "cuda"] {
        if let Some(device) = device(kind) {
            each_measure_is_its_formula(&device, DType::F32, 2e-5);
        }
    }
}
