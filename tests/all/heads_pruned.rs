//! Pruning of attention heads and feed-forward rows: what a mask of one switches off, and runs.

use crate::prune::{run, tensors};
use crate::support::{cpu, floats, golden, json, logits, max_difference, open, problem, whole};
use crate::tasks::{data, prepared};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use tempra::compress::prune::{PruneScope, Pruning, write_mask};
use tempra::models::{Model, Options};
use tempra::params::{MaskUnit, Masking, Param};
use tempra::train::pass::pass;

fn masked(units: &[MaskUnit], dir: &Path) -> Model {
    let masking = Masking { units: units.to_vec(), scores: None };
    open(&cpu(1), dir, &Options { training: true, masking, ..Options::default() }).0
}

/// What a head or a row reads alone: the queries, keys and values of a head, or a row of the first
/// feed-forward matrix (in a gated block of both halves), with their biases. Each parameter with its
/// elements.
fn inputs(model: &Model, unit: MaskUnit, layer: usize, which: usize) -> Vec<(&Param, Vec<Range<usize>>)> {
    let shape = model.shape().layer(layer);
    let at = |part: &str| model.architecture().tensor(&format!("encoder.layer.{layer}.{part}"));
    let (parts, units, width): (&[&str], _, _) = match unit {
        MaskUnit::Head => (&["query", "key", "value", "qkv"], shape.heads, shape.head_dim),
        _ => (&["intermediate.dense"], shape.intermediate, 1),
    };
    let mut found = Vec::new();
    for p in &model.params.layout().list {
        let own = |part: &&&str| {
            let part =
                if unit == MaskUnit::Head { format!("attention.self.{part}") } else { part.to_string() };
            [".weight", ".bias"].iter().any(|end| p.name == at(&format!("{part}{end}")))
        };
        let Some(part) = parts.iter().find(own) else { continue };
        // In memory a unit is a run of rows (out, in), of one matrix or of several that follow each other.
        let copies = match *part {
            "qkv" => 3,
            "intermediate.dense" => 1 + model.shape().gated_mlp as usize,
            _ => 1,
        };
        let row = p.len() / (units * width * copies);
        let range = |copy: usize| {
            let first = (copy * units + which) * width * row;
            first..first + width * row
        };
        found.push((p, (0..copies).map(range).collect()));
    }
    found
}

/// Adds to what a head or a row reads.
fn disturb(model: &Model, unit: MaskUnit, which: usize) {
    let device = cpu(1);
    let all = inputs(model, unit, 0, which);
    assert!(!all.is_empty(), "{unit:?}");
    for (p, ranges) in all {
        let view = model.params.value(p).expect("inside");
        let mut values = device.read::<f32>(&view).expect("values");
        ranges.into_iter().for_each(|r| values[r].iter_mut().for_each(|v| *v += 0.7));
        device.write(&view, &values).expect("written");
    }
}

/// What a masked head or row reads does not matter: the logits do not depend on its queries, keys, values and
/// first matrix, and those get no gradient. With absolute, rotary and relative positions, gated and plain.
#[test]
fn what_a_masked_unit_reads_does_not_matter() {
    for fixture in ["bert/a", "encoders/modernbert", "encoders/xlnet"] {
        let dir = golden(fixture);
        let (set, task) = problem(&json(&dir.join("fixture.json")));
        for unit in [MaskUnit::Head, MaskUnit::Row] {
            let (device, model) = (cpu(1), masked(&[unit], &dir));
            let plain = logits(&device, &model, &whole(&set));
            let m = &model.params.masks()[0];
            let count = m.mask.spec.len();
            let kept: Vec<u8> = (0..count).map(|i| (i != 1) as u8).collect();
            write_mask(&device, &m.mask, &kept).expect("a mask");
            model.params.zero_masked_weights(&device).expect("masked");
            let before = logits(&device, &model, &whole(&set));
            assert!(max_difference(&before, &plain) > 1e-5, "{fixture} {unit:?}: nothing was masked");
            disturb(&model, unit, 1);
            let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&logits(&device, &model, &whole(&set))), bits(&before), "{fixture} {unit:?}");
            disturb(&model, unit, 0);
            let other = max_difference(&logits(&device, &model, &whole(&set)), &before);
            assert!(other > 1e-5, "{fixture} {unit:?}: a unit that is kept matters, {other}");
            pass(&device, &model, &*task, &whole(&set)[0], None, 1.0, false).expect("a pass");
            for which in [0, 1] {
                for (p, ranges) in inputs(&model, unit, 0, which) {
                    let grad = floats(&device, &model.params.grad(p).expect("inside").expect("a gradient"));
                    let zero = ranges.into_iter().all(|r| grad[r].iter().all(|&g| g == 0.0));
                    // The softmax does not see a bias of the keys.
                    assert!(
                        zero == (which == 1) || p.name.contains("key.bias"),
                        "{fixture} {}: {which}",
                        p.name
                    );
                }
            }
        }
    }
}

/// Magnitudes are the norms of the columns; a layer may lose all its heads, and its attention is then the
/// bias of its output.
#[test]
fn a_layer_may_lose_all_heads() {
    let dir = golden("bert/a");
    let (set, _) = problem(&json(&dir.join("fixture.json")));
    let (device, model) = (cpu(1), masked(&[MaskUnit::Head], &dir));
    // The second layer's heads are the smallest.
    let name = |layer: usize| format!("bert.encoder.layer.{layer}.attention.output.dense.weight");
    let weight = |layer: usize| {
        let list = &model.params.layout().list;
        model.params.value(list.iter().find(|p| p.name == name(layer)).expect("a weight")).expect("inside")
    };
    let small: Vec<f32> = floats(&device, &weight(1)).iter().map(|&w| w as f32 * 1e-3).collect();
    device.write(&weight(1), &small).expect("written");
    let heads: Vec<usize> = model.params.masks().iter().map(|m| m.mask.spec.len()).collect();
    let all: usize = heads.iter().sum();
    let share = (heads[1] as f64 + 0.5) / all as f64;
    let pruning = Pruning { heads: share, ..Pruning::magnitude(0.0, PruneScope::Global) };
    pruning.choose_masks(&device, &model.params, 1.0).expect("masks");
    let kept: Vec<Vec<f64>> = model.params.masks().iter().map(|m| floats(&device, &m.mask)).collect();
    assert!(kept[1].iter().all(|&k| k == 0.0) && [0, 2].iter().all(|&i| kept[i].iter().all(|&k| k == 1.0)));
    let found = logits(&device, &model, &whole(&set));
    // The same by zeros in place of the mask.
    let plain = masked(&[], &dir);
    let list = &plain.params.layout().list;
    let view =
        plain.params.value(list.iter().find(|p| p.name == name(1)).expect("a weight")).expect("inside");
    device.write(&view, &vec![0f32; small.len()]).expect("written");
    assert!(max_difference(&found, &logits(&device, &plain, &whole(&set))) < 1e-6);
    assert!(found.iter().all(|v| v.is_finite()));
}

/// Runs with heads and rows end with whole zero columns, as many as asked for, beside masked weights, by
/// magnitudes and by scores. A stopped run ends with the same bits.
#[test]
fn runs_prune_heads_and_rows_together() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = prepared(dir.path(), &golden("bert/a"));
    data(dir.path());
    let heads = config["num_attention_heads"].as_u64().expect("heads") as usize;
    for (name, method, more) in
        [("size", "magnitude", "sparsity = 0.2"), ("moved", "movement", ""), ("soft", "soft_movement", "")]
    {
        let prune = format!("method = \"{method}\"\nheads = 0.5\nffn = 0.25\nevery = 3\n{more}");
        let read = |output: &str| tensors(&dir.path().join(output).join("model/model.safetensors"));
        run(dir.path(), name, &prune, 0).unwrap_or_else(|e| panic!("{e}"));
        let cut = format!("{name}-cut");
        assert!(run(dir.path(), &cut, &prune, 7).unwrap_or_else(|e| panic!("{e}")).stopped_by.is_some());
        run(dir.path(), &cut, &prune, 0).unwrap_or_else(|e| panic!("{e}"));
        let bits = |all: BTreeMap<String, Vec<f32>>| -> Vec<Vec<u32>> {
            all.into_values().map(|v| v.into_iter().map(f32::to_bits).collect()).collect()
        };
        let found = read(name);
        assert!(bits(read(&cut)) == bits(found.clone()), "{name}: resumed, the weights differ");
        let hidden = config["hidden_size"].as_u64().expect("a size") as usize;
        let mut looked = 0;
        for (tensor, values) in &found {
            let (units, share) = match tensor {
                t if t.ends_with("attention.output.dense.weight") => (heads, 0.5),
                t if t.ends_with("output.dense.weight") => (values.len() / hidden, 0.25),
                _ => continue,
            };
            let (cols, mut zero) = (values.len() / hidden, 0);
            let width = cols / units;
            for unit in 0..units {
                let column = |row: &[f32]| row[unit * width..][..width].iter().all(|&w| w == 0.0);
                zero += values.chunks(cols).all(column) as usize;
            }
            assert_eq!(zero, (share * units as f64) as usize, "{name}: {tensor}");
            looked += 1;
        }
        assert_eq!(looked, 6, "two matrices in each of three layers");
    }
}
