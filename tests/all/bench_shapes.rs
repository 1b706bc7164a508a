//! `tempra bench` at shapes and lengths of the user.

use crate::bench::{Run, run};
use crate::schema::obeys;
use crate::support::{golden, report_skipped};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tempra::bench::report::{LengthSummary, OpRow, Phase, Report};
use tempra::bench::{
    CustomShape, Effort, Job, LengthSource, ModelShape, SequenceLengths, Workbench, jobs, markdown, ops,
    shapes,
};
use tempra::device::Device;
use tempra::error::Kind;
use tempra::ops::update::UpdateRule;
use tempra::ops::{Fill, OPS};

fn jobs_at(shape: &str, op: &str, tokens: &[usize], lengths: Option<&str>) -> Vec<Job> {
    let lengths = lengths.map(|l| LengthSource::parse(l).unwrap());
    CustomShape::parse(shape).unwrap().jobs(op, tokens, lengths.as_ref()).unwrap()
}

fn inputs(job: &Job) -> Vec<Vec<usize>> {
    job.inputs.iter().map(|i| i.shape.clone()).collect()
}

fn integers(job: &Job, input: usize) -> Vec<u32> {
    match &job.inputs[input].fill {
        Fill::Ints(v) => v.clone(),
        other => panic!("{other:?}"),
    }
}

/// Bench with a small cache: few sets of operands.
fn measured(all: &[Job]) -> Report {
    let device = Device::open("cpu", 1).unwrap();
    let effort = Effort { seconds: 0.0, samples: 1, planted: None };
    let bench = Workbench::new(&device, "cpu".to_owned(), effort).with_cache_bytes(1 << 12);
    let mut report = Report::begin();
    report.devices.push(bench.entry());
    ops::run(&bench, all, &mut report, &|| false, &mut |_| ()).unwrap();
    report
}

#[test]
fn a_matmul_has_the_rows_outputs_and_inputs_that_are_written() {
    for shape in ["512,4096,1024", "m=512,n=4096,k=1024", "k=1024, m=0512, act=none, n=4096"] {
        let all = jobs_at(shape, "linear", &[], None);
        let [job] = all.as_slice() else { panic!("{}", all.len()) };
        // x (m, k), w (n, k), b (n), as in PyTorch's nn.Linear.
        assert_eq!(inputs(job), [vec![512, 1024], vec![4096, 1024], vec![4096]], "{shape}");
        assert_eq!(
            (job.role.as_str(), job.model.as_str(), job.tokens),
            ("n=4096,k=1024", "custom", 512),
            "{shape}"
        );
    }
    let swept = jobs_at("n=8,k=4,act=gelu", "linear", &[16, 32], None);
    assert_eq!(
        swept.iter().map(|j| (j.tokens, inputs(j)[0].clone())).collect::<Vec<_>>(),
        [(16, vec![16, 4]), (32, vec![32, 4])]
    );
    assert!(swept.iter().all(|j| j.role == "n=8,k=4,act=gelu"));
}

/// Every op but `step_guard`, which has no sizes, runs at a shape of its own, forward and backward.
#[test]
fn every_op_with_sizes_is_measured_at_a_custom_shape() {
    for (op, _) in OPS.iter().filter(|(op, _)| *op != "step_guard") {
        let shape = match *op {
            "linear" => "5,7,3",
            "global_norm" | "cast" | "score_penalty" | "zero_masked" => "elements=1000",
            update if UpdateRule::find(update).is_some() => "elements=1000",
            "cross_entropy" | "binary_cross_entropy" | "symmetric_kl" | "soft_cross_entropy" => {
                "rows=6,classes=11"
            }
            "attention" => "tokens=12,heads=3,head_dim=10,length=4,window=2,dropout=0.5",
            "favor" => "tokens=12,heads=3,head_dim=10,length=4,features=9",
            "relation" => "tokens=12,heads=3,head_dim=10,length=4,teacher_dim=7",
            "relative_attention" | "rotary" => "tokens=12,heads=3,head_dim=10,length=4",
            "embed" => "tokens=12,columns=10,length=4,vocab=50,positions=4",
            "pool" => "tokens=12,columns=10,length=4",
            "span_cross_entropy" => "tokens=12,length=4",
            "gather" => "rows=12,columns=10,indices=5",
            "add_norm" | "residual" | "dropout" => "rows=12,columns=10,dropout=0.25",
            _ => "rows=12,columns=10",
        };
        let all = jobs_at(shape, op, &[], None);
        assert!(!all.is_empty() && all.iter().all(|j| j.op == *op), "{op}");
        let report = measured(&all);
        assert_eq!(report.skipped, [], "{op}");
        let step = ["global_norm", "cast", "score_penalty", "zero_masked"].contains(op)
            || UpdateRule::find(op).is_some();
        let passes = if step { 1 } else { 2 };
        assert_eq!(report.ops.len(), passes * all.len(), "{op}");
        assert!(report.ops.iter().all(|r| r.model == "custom" && r.seconds.median > 0.0), "{op}");
        obeys(&serde_json::to_value(&report).unwrap());
    }
}

/// An option at its default is the same shape as without it; another value is another one. No two jobs of one
/// op share a key.
#[test]
fn roles_tell_shapes_apart() {
    let role = |shape: &str| jobs_at(shape, "attention", &[24], None).remove(0).role;
    assert_eq!(role("heads=2,head_dim=8,length=12"), "heads=2,head_dim=8,length=12");
    assert_eq!(role("heads=2,head_dim=8,length=12,dropout=.10"), role("heads=2,head_dim=8,length=12"));
    assert_eq!(
        role("heads=2,head_dim=8,length=12,dropout=0,window=3"),
        "heads=2,head_dim=8,window=3,dropout=0,length=12"
    );
    let ragged = jobs_at("heads=2,head_dim=8", "attention", &[], Some("5,12,3")).remove(0);
    assert_eq!((ragged.role.as_str(), ragged.tokens), ("heads=2,head_dim=8, lengths 5,12,3", 20));
    let pooled = jobs_at("columns=8", "pool", &[], Some("5,12,3"));
    assert_eq!(
        pooled.iter().map(|j| j.role.as_str()).collect::<Vec<_>>(),
        ["mean, columns=8, lengths 5,12,3", "first token, columns=8, lengths 5,12,3"]
    );
    // Of models too: the same number of tokens in other sequences, and batches so short that a usual length
    // occurs twice.
    let m = &ModelShape::known()[0];
    let drawn = LengthSource::parse("uniform:10-90").unwrap().with_tokens(256);
    for (op, _) in OPS {
        let mut keys = Vec::new();
        for job in
            [64, 256, 300, 512].iter().flat_map(|&t| jobs(op, m, t)).chain(shapes::jobs_of(op, m, &drawn))
        {
            // The longest sequence and the number of sequences decide every shape.
            let key = (job.role.clone(), job.tokens);
            match keys.iter().find(|(k, _)| *k == key) {
                Some((_, other)) => assert_eq!(*other, inputs(&job), "{op} {key:?}"),
                None => keys.push((key, inputs(&job))),
            }
        }
        for t in [64, 256, 512] {
            let roles: Vec<String> = jobs(op, m, t).into_iter().map(|j| j.role).collect();
            assert!((1..roles.len()).all(|i| !roles[..i].contains(&roles[i])), "{op}: {roles:?}");
        }
    }
}

#[test]
fn lengths_become_boundaries_positions_and_facts() {
    let given = LengthSource::parse("12,40,128").unwrap();
    let s = given.list().unwrap();
    assert_eq!((s.all(), s.cu_seqlens()), (&[12, 40, 128][..], vec![0, 12, 52, 180]));
    assert_eq!(s.positions()[10..14], [10, 11, 0, 1]);
    // 144 + 1,600 + 16,384.
    let facts = LengthSummary { sequences: 3, tokens: 180, longest: 128, sum_of_squares: 18_128 };
    assert_eq!((s.summary(), s.label()), (facts, "lengths 12,40,128".to_owned()));
    let m = &ModelShape::known()[0];
    let job = shapes::jobs_of("attention", m, s).remove(0);
    assert_eq!((integers(&job, 1), job.tokens), (vec![0, 12, 52, 180], 180));
    assert_eq!(inputs(&job)[0], [180, 3 * 384]);
    // The mean of an embedding model: a row for each sequence.
    let vectors = shapes::jobs_of("normalize", m, s).remove(0);
    assert_eq!((inputs(&vectors)[0].clone(), vectors.role.as_str()), (vec![3, 384], "vectors, 3 sequences"));
    assert_eq!(SequenceLengths::equal(4, 32).label(), "length 32");
    let long = LengthSource::parse("1,2,3,4,5,6,7").unwrap();
    assert_eq!(long.list().unwrap().label(), "7 lengths up to 7 (sum of squares 140)");
}

/// Draws stay within their bounds, have the mean that is written, and are the same in every run.
#[test]
fn drawn_lengths_follow_their_distribution() {
    let drawn = |text: &str, n: usize| LengthSource::parse(text).unwrap().with_sequences(n);
    let mean = |s: &SequenceLengths| s.tokens() as f64 / s.sequences() as f64;
    assert_eq!(drawn("constant:7", 3).all(), [7, 7, 7]);
    let uniform = drawn("uniform:3-6", 4000);
    assert_eq!((uniform.longest(), uniform.all().iter().min()), (6, Some(&3)));
    // The standard deviation of a mean of 4,000 is 1.118 / sqrt(4000) = 0.018.
    assert!((mean(&uniform) - 4.5).abs() < 0.08, "{}", mean(&uniform));
    let normal = drawn("lognormal:40,0.6:1000000", 20_000);
    // 40 sqrt(exp(0.36) - 1) / sqrt(20000) = 0.19.
    assert!((mean(&normal) - 40.0).abs() < 0.9, "{}", mean(&normal));
    let logs: Vec<f64> = normal.all().iter().map(|&l| (l as f64).ln()).collect();
    let center = logs.iter().sum::<f64>() / logs.len() as f64;
    let sigma = (logs.iter().map(|l| (l - center).powi(2)).sum::<f64>() / logs.len() as f64).sqrt();
    assert!((sigma - 0.6).abs() < 0.02, "{sigma}");
    assert_eq!(drawn("lognormal:40,0.6:64", 500).longest(), 64);
    // A batch has exactly the tokens asked for, and begins with the same sequences as a smaller one.
    let source = LengthSource::parse("lognormal:40,0.6:512").unwrap();
    let (small, large) = (source.with_tokens(300), source.with_tokens(4096));
    assert_eq!((small.tokens(), large.tokens()), (300, 4096));
    let whole = small.sequences() - 1;
    assert_eq!(small.all()[..whole], large.all()[..whole]);
    assert_eq!(source.with_tokens(300), small);
}

/// The scripts of the peers draw the same lengths and give rows the same roles, or the rows of both programs
/// do not match.
#[test]
fn peers_draw_the_same_lengths() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/shapes.py");
    let Ok(version) = Command::new("python3").arg("--version").output() else {
        report_skipped("not run: benches/peers/shapes.py; there is no python3");
        return;
    };
    assert!(version.status.success());
    for (text, option, n) in [
        ("lognormal:40,0.6:512", "--tokens", 4096),
        ("lognormal:200,1.5:8192", "--sequences", 300),
        ("uniform:16-129", "--tokens", 4096),
        ("constant:48", "--tokens", 100),
        ("9,1,4", "--sequences", 2),
    ] {
        let out = Command::new("python3")
            .arg("-B")
            .arg(&script)
            .args([text, option, &n.to_string()])
            .output()
            .unwrap();
        let text_out = String::from_utf8(out.stdout).unwrap();
        let theirs: Vec<usize> = text_out.lines().map(|l| l.parse().unwrap()).collect();
        let source = LengthSource::parse(text).unwrap();
        let ours = if option == "--tokens" { source.with_tokens(n) } else { source.with_sequences(n) };
        assert_eq!(theirs, ours.all(), "{text}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let role = |shape: &str, op: &str, lengths: &[usize]| {
        let code = "import sys; sys.path.insert(0, sys.argv[1]); import shapes; \
                    print(shapes.Shape(sys.argv[2]).role(sys.argv[3], [int(n) for n in sys.argv[4:]] or None))";
        let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
        let folder = script.parent().unwrap();
        let out = Command::new("python3")
            .args(["-B", "-c", code])
            .arg(folder)
            .args([shape, op])
            .args(lengths)
            .output();
        String::from_utf8(out.unwrap().stdout).unwrap().trim_end().to_owned()
    };
    for (shape, op, lengths) in [
        ("512,4096,1024", "linear", None),
        ("m=4,n=8,k=16,act=relu", "linear", None),
        ("heads=2,head_dim=8,dropout=0,window=3", "attention", Some("8,8,8")),
        ("dropout=0.10,head_dim=8,heads=2", "attention", Some("8,9,8")),
        ("heads=2,head_dim=8,dropout=0.25", "attention", Some("1,2,3,4,5,6,7")),
        ("columns=768,vocab=1000", "embed", Some("4,5")),
        ("rows=7,classes=5", "cross_entropy", None),
    ] {
        let job = jobs_at(shape, op, &[], lengths).remove(0);
        let list = lengths.map(|l| LengthSource::parse(l).unwrap());
        let list = list.as_ref().and_then(|l| l.list()).map_or(&[][..], |l| l.all());
        assert_eq!(role(shape, op, list), job.role);
    }
}

/// What is wrong, and what to do, for each value that is refused.
#[test]
fn bad_shapes_and_lengths_are_refused_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (words, empty) = (file("words.txt", "12\n\n# a comment\nforty\n"), file("empty.txt", "# none\n"));
    let heads = "tokens=4096,heads=12,head_dim=64";
    for (args, code, said) in [
        (vec!["--shape", "512,4096"], 2, vec!["2 numbers where a matmul has 3", "m,n,k"]),
        (vec!["--shape", "512,0,64"], 2, vec!["n is 0"]),
        (vec!["--shape", "512,-1,64"], 2, vec!["n is \"-1\", which is no number"]),
        (vec!["--shape", "512,n=4,k=8"], 2, vec!["\"512\" has no name"]),
        (vec!["--shape", "99999999999999999999999,4,8"], 2, vec!["exceeds"]),
        (vec!["--shape", "16777216,16777216,64"], 2, vec!["y is too large", "16777216 x 16777216"]),
        (vec!["--shape", "m=4,n=4,k=4,m=5"], 2, vec!["m is given twice"]),
        (vec!["--shape", "m=4,n=4"], 2, vec!["fits no op"]),
        (vec!["--op", "linear", "--shape", "m=4,n=4"], 2, vec!["k is missing", "m, n, k [act]"]),
        (
            vec!["--op", "linear", "--shape", "m=4,n=4,k=4,act=swish"],
            2,
            vec!["act is \"swish\"", "gelu_tanh"],
        ),
        (vec!["--op", "linear", "--shape", "n=4,k=4"], 2, vec!["m is missing", "--tokens"]),
        (
            vec!["--op", "linear", "--shape", "4,4,4", "--tokens", "8"],
            2,
            vec!["m is given, and so is --tokens"],
        ),
        (vec!["--op", "linear", "--shape", heads], 2, vec!["linear has no size tokens", "m, n, k"]),
        (vec!["--shape", heads], 2, vec!["fits several ops", "attention, favor", "--op"]),
        (
            vec!["--op", "attention", "--shape", "tokens=64,haeds=2,head_dim=8"],
            2,
            vec!["no size \"haeds\"", "did you mean \"heads\""],
        ),
        (
            vec!["--op", "attention", "--shape", "tokens=64,heads=2,head_dim=8,length=48"],
            2,
            vec!["64 tokens are not a multiple", "(48)", "--lengths"],
        ),
        (
            vec!["--op", "attention", "--shape", "tokens=16777216,heads=65536,head_dim=1024"],
            2,
            vec!["q, k and v is too large"],
        ),
        (
            vec!["--op", "attention", "--shape", heads, "--lengths", "64,64"],
            2,
            vec!["tokens is given, and --lengths lists"],
        ),
        (
            vec![
                "--op",
                "attention",
                "--shape",
                "heads=2,head_dim=8,length=4",
                "--tokens",
                "8",
                "--lengths",
                "constant:4",
            ],
            2,
            vec!["length is given, and so is --lengths"],
        ),
        (
            vec!["--op", "attention", "--shape", "tokens=8,heads=2,head_dim=8,dropout=1"],
            2,
            vec!["dropout is \"1\"", "probability"],
        ),
        (
            vec!["--op", "embed", "--shape", "tokens=64,columns=8,length=64,positions=32"],
            2,
            vec!["exceeds the position table (32 rows)"],
        ),
        (
            vec!["--op", "gather", "--shape", "rows=8,columns=8,indices=9"],
            2,
            vec!["indices (9) exceed the rows (8)"],
        ),
        (vec!["--op", "step_guard", "--shape", "rows=8,columns=8"], 2, vec!["step_guard has no sizes"]),
        (vec!["--op", "linear,mse", "--shape", "4,4,4"], 2, vec!["--op mse has no --shape"]),
        (vec!["--op", "mse,dot", "--shape", "4,4,4"], 2, vec!["fits none of the ops", "linear"]),
        (vec!["--shape", "4,4,4", "--shape", "m=4,k=4,n=4"], 2, vec!["is named twice"]),
        (vec!["--shape", "4,4,4", "--lengths", "4"], 2, vec!["--lengths has no effect on linear"]),
        (vec!["--lengths", "12,0,7"], 2, vec!["length 0"]),
        (vec!["--lengths", ""], 2, vec!["--lengths has no value"]),
        (vec!["--lengths", "12,,7"], 2, vec!["\"\" is not a length"]),
        (vec!["--lengths", "12", "--tokens", "64"], 2, vec!["--tokens is given, and --lengths lists"]),
        (vec!["--lengths", "uniform:9-3"], 2, vec!["smallest length (9) exceeds the largest (3)"]),
        (vec!["--lengths", "lognormal:40"], 2, vec!["lognormal:MEAN,SIGMA:LONGEST"]),
        (vec!["--lengths", "lognormal:40,-1:64"], 2, vec!["sigma (-1) is not a number above 0"]),
        (vec!["--lengths", "lognormal:nan,1:64"], 2, vec!["the mean (nan) is not a number above 0"]),
        (vec!["--lengths", "lognormal:400,1:64"], 2, vec!["exceeds the longest (64)"]),
        (vec!["--lengths", "lognromal:40,1:64"], 2, vec!["did you mean \"lognormal\""]),
        (vec!["--lengths", "1048577"], 2, vec!["exceeds 1048576 tokens"]),
        (
            vec!["--lengths", "/nowhere/lengths.txt"],
            3,
            vec!["cannot read the lengths", "one length on each line"],
        ),
        (vec!["--lengths", &words], 3, vec!["words.txt:4", "\"forty\" is not a length"]),
        (vec!["--lengths", &empty], 3, vec!["empty.txt", "there is no length"]),
    ] {
        let Run { code: got, out, err } =
            run(&[&["bench", "ops", "--device", "cpu"], args.as_slice()].concat());
        assert_eq!((got, out.as_str()), (code, ""), "{args:?}: {err}");
        for word in said {
            assert!(err.contains(word), "{args:?}: {word:?} is not in: {err}");
        }
    }
    let e = CustomShape::parse("1,2").unwrap_err();
    assert_eq!(e.kind(), Kind::Usage);
    // Both builds would refuse it: it is known before one is started.
    let refused = run(&["bench", "compare", "--against", "/bin/false", "--shape", "4,4"]);
    assert!(refused.code == 2 && refused.err.contains("a matmul has 3"), "{}", refused.err);
}

/// A device and an effort for tests of the command line.
const QUICK: [&str; 7] = ["--device", "cpu", "--seconds", "0.001", "--samples", "1", "--threads"];

pub fn quick(args: &[&str]) -> Run {
    run(&[&["bench"], args, &QUICK, &["1"]].concat())
}

#[test]
fn the_program_measures_shapes_lengths_and_a_sweep_over_tokens() {
    let Run { code, out, err } = quick(&["ops", "--shape", "6,10,4", "--shape", "m=8,n=10,k=4", "--json"]);
    assert_eq!(code, 0, "{err}");
    // Nothing of a model is used, so nothing is said about default models and numbers of tokens.
    assert!(!err.contains("default shapes"), "{err}");
    obeys(&serde_json::from_str(&out).unwrap());
    let report = Report::parse(&out).unwrap();
    let rows: Vec<(usize, Phase)> = report.ops.iter().map(|r| (r.tokens, r.pass)).collect();
    assert_eq!(rows, [(6, Phase::Forward), (6, Phase::Backward), (8, Phase::Forward), (8, Phase::Backward)]);
    // 2 m n k.
    assert_eq!((report.ops[0].flops, report.ops[2].flops), (480.0, 640.0));

    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("lengths.txt");
    std::fs::write(&list, "# of a corpus\n5\n12\n\n3\n").unwrap();
    let lengths = list.to_string_lossy();
    let shape = ["ops", "--op", "attention", "--shape", "heads=2,head_dim=8", "--lengths"];
    let Run { code, out, err } = quick(&[&shape[..], &[&lengths, "--json"]].concat());
    assert_eq!(code, 0, "{err}");
    let report = Report::parse(&out).unwrap();
    let facts = LengthSummary { sequences: 3, tokens: 20, longest: 12, sum_of_squares: 25 + 144 + 9 };
    assert!(report.ops.len() == 2 && report.ops.iter().all(|r| r.lengths == Some(facts)), "{:?}", report.ops);
    assert_eq!(report.ops[0].role, "heads=2,head_dim=8, lengths 5,12,3");

    let sweep = [&shape[..], &["uniform:2-9", "--tokens", "16,48", "--json"]].concat();
    let report = Report::parse(&quick(&sweep).out).unwrap();
    let tokens: Vec<usize> = report.ops.iter().map(|r| r.tokens).collect();
    assert_eq!(tokens, [16, 16, 48, 48]);
    assert!(report.ops.iter().all(|r| r.lengths.is_some_and(|l| l.tokens == r.tokens && l.longest <= 9)));
}

#[test]
fn steps_take_lengths_packed_and_padded() {
    let model = golden("bert/a");
    let model = model.to_str().unwrap();
    let Run { code, out, err } = quick(&[
        "step",
        "--shape-of",
        model,
        "--lengths",
        "5,12,3",
        "--length",
        "9",
        "--no-sweep",
        "--tokens",
        "8",
        "--json",
    ]);
    assert_eq!(code, 0, "{err}");
    for said in
        ["--length has no effect", "--no-sweep has no effect", "--tokens has no effect", "help: leave it out"]
    {
        assert!(err.contains(said), "{said:?}: {err}");
    }
    obeys_steps(&out);
    let report = Report::parse(&out).unwrap();
    let facts = Some(LengthSummary { sequences: 3, tokens: 20, longest: 12, sum_of_squares: 178 });
    let rows: Vec<_> =
        report.steps.iter().map(|s| (s.part.as_str(), s.tokens, s.computed_tokens, s.lengths)).collect();
    assert_eq!(rows, [("packed", 20, 20, facts), ("padded", 20, 36, facts)]);
    // The text has the times by op of a step, though there is no base step.
    let text = markdown::report(&report);
    assert!(text.contains("The packed step of") && !text.contains("The base step"), "{text}");

    // The model has 40 positions: what does not fit is listed, also among the defaults.
    // A run that measures nothing writes its reasons and fails.
    let Run { code, out, err } = quick(&["step", "--shape-of", model, "--lengths", "41,3", "--json"]);
    assert!(code == 5 && err.contains("nothing was measured"), "{code}: {err}");
    let report = Report::parse(&out).unwrap();
    assert!(report.steps.is_empty() && report.skipped.len() == 2, "{report:?}");
    assert!(report.skipped.iter().all(|s| s.why.contains("(41 tokens) exceeds the model's positions (40)")));
    let Run { out, err, .. } =
        quick(&["step", "--shape-of", model, "--lengths", "uniform:2-9", "--sequences", "5", "--json"]);
    assert!(!err.contains("no effect"), "{err}");
    let report = Report::parse(&out).unwrap();
    assert!(report.steps.iter().all(|s| s.sequences == 5 && s.length <= 9), "{err}");
}

/// The schema's check needs a row of an op to damage.
fn obeys_steps(out: &str) {
    let mut value: Value = serde_json::from_str(out).unwrap();
    let row = serde_json::to_value(OpRow::default()).unwrap();
    value["ops"] = Value::Array(vec![row]);
    obeys(&value);
}

/// An embedding whose sequences are longer than the position table reads beyond it: no device runs it.
#[test]
fn sequences_longer_than_the_position_table_are_skipped_with_the_reason() {
    let m = ModelShape { positions: 30, ..ModelShape::known().remove(0) };
    let report = measured(&shapes::jobs_of("embed", &m, &SequenceLengths::equal(1, 31)));
    assert!(report.ops.is_empty());
    assert!(
        report.skipped[0].why.contains("(31 tokens) exceeds the position table (30 rows)"),
        "{:?}",
        report.skipped
    );
    assert_eq!(measured(&shapes::jobs_of("embed", &m, &SequenceLengths::equal(1, 30))).skipped, []);
}

#[test]
fn equal_jobs_occur_once() {
    let models = &ModelShape::known()[..1];
    let linear = |op: &str| op == "linear";
    let count = |tokens: &[usize]| ops::plan(models, tokens, &linear).len();
    assert_eq!(count(&[256, 256]), count(&[256]));
    assert_eq!(count(&[300, 256]), 2 * count(&[256]));
}

/// Batches have as many tokens as asked for: the last sequence is shorter. 300 tokens are 128, 128 and 44.
#[test]
fn numbers_of_tokens_are_not_rounded() {
    let model = &ModelShape::known()[0];
    for (op, _) in OPS {
        for job in jobs(op, model, 300) {
            assert!([0, 300].contains(&job.tokens), "{op}: {}", job.label());
        }
    }
    let linear = &jobs("linear", model, 300)[0];
    assert_eq!(linear.inputs[0].shape, [300, 384]);
    let attention = &jobs("attention", model, 300)[0];
    assert_eq!(attention.lengths, Some(SequenceLengths::of(vec![128, 128, 44])));
    // Batches of other sequences have other names, wherever lengths matter.
    let roles = |op: &str, lengths: &[usize]| {
        let batch = SequenceLengths::of(lengths.to_vec());
        shapes::jobs_of(op, model, &batch)[0].role.to_string()
    };
    for op in ["embed", "rotary", "attention", "pool"] {
        assert_ne!(roles(op, &[16; 4]), roles(op, &[32; 2]), "{op}");
    }
}
