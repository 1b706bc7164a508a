//! Weights and model folders from outside: what is hostile or damaged is refused by a sentence, what is whole
//! is exact.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use tempfile::tempdir;
use tempra::checkpoint::{Dtype, RealFs, TensorOut, Weights, write_safetensors};
use tempra::error::{Error, Kind};
use tempra::models::source::{Env, read_json, resolve_in};

/// A safetensors file by the specification: length of the header, header, data.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn entry(name: &str, dtype: &str, shape: &str, from: usize, to: usize) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

fn open(bytes: &[u8]) -> Result<Weights, Error> {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    Weights::open(path)
}

fn one(dtype: &str, shape: &str, bytes: usize) -> Vec<u8> {
    raw(&format!("{{{}}}", entry("w", dtype, shape, 0, bytes)), &vec![0; bytes])
}

#[test]
fn files_that_are_not_as_they_should_be() {
    let two = |a: String, b: String, n: usize| raw(&format!("{{{a},{b}}}"), &vec![0; n]);
    let a = || entry("a", "F32", "[2]", 0, 8);
    let mut truncated = one("F32", "[2]", 8);
    truncated.pop();
    let mut trailing = one("F32", "[2]", 8);
    trailing.push(0);
    let many: Vec<String> = (0..10_001).map(|i| entry(&format!("t{i}"), "F32", "[0]", 0, 0)).collect();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "too short"),
        ("seven bytes", vec![1; 7], "too short"),
        ("u64::MAX header", [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat(), "header that is too long"),
        (
            "header beyond the end",
            [900u64.to_le_bytes().as_slice(), b"{}"].concat(),
            "before the end of its header",
        ),
        ("overlap", two(a(), entry("b", "F32", "[2]", 4, 12), 12), "header"),
        ("hole", two(a(), entry("b", "F32", "[2]", 12, 20), 20), "header"),
        ("shape overflow", one("F32", "[4194305,4194305,211106198978564]", 8), "header"),
        ("shape unlike offsets", one("F32", "[3]", 8), "header"),
        ("offsets backwards", raw(&format!("{{{}}}", entry("w", "F32", "[2]", 8, 0)), &[0; 8]), "header"),
        ("truncated", truncated, "is truncated"),
        ("trailing bytes", trailing, "after its last tensor"),
        ("a name twice", two(a(), a(), 8), "duplicate key `a`"),
        (
            "a key twice",
            raw(r#"{"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}"#, &[0; 4]),
            "duplicate key `dtype`",
        ),
        ("metadata twice", raw(r#"{"__metadata__":{"k":"1","k":"2"}}"#, &[]), "duplicate key `k`"),
        ("empty, absurd shape", one("F32", "[0,1099511627776]", 0), "absurd shape"),
        ("10 001 tensors", raw(&format!("{{{}}}", many.join(",")), &[]), "too many tensors"),
        ("unknown type", one("F31", "[2]", 8), "header"),
        ("negative extent", one("F32", "[-2]", 8), "header"),
        ("not JSON", raw("{oh no}", &[]), "header"),
        ("deep", raw(&format!("{{\"a\":{}", "[".repeat(5000)), &[]), "recursion"),
    ];
    for (name, bytes, say) in cases {
        let e = open(&bytes).expect_err(name);
        assert!(e.kind() == Kind::Model && e.to_string().contains(say), "{name}: {e}");
        assert!(e.file().is_some_and(|f| f.ends_with("model.safetensors")), "{name}");
    }
}

#[test]
fn headers_that_would_eat_memory() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    // 101 MB of header, all of it there (a sparse file).
    fs::write(&path, [101_000_000u64.to_le_bytes().as_slice(), b"{"].concat()).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(101_000_008).unwrap();
    assert!(Weights::open(&path).unwrap_err().to_string().contains("header that is too long"));
    // 400 000 empty tensors in some 22 MB; 5 million values in one tensor's shape; the same in nested lists.
    let many: Vec<String> = (0..400_000).map(|i| entry(&format!("t{i}"), "F32", "[0]", 0, 0)).collect();
    let long = format!("[{}1]", "0,".repeat(5_000_000));
    let nested = format!("[{}1]", "[[]],".repeat(3_000_000));
    // Reading stops at the limit, within the first megabyte: that bounds time and memory whatever the
    // machine.
    for (header, limit) in [
        (many.join(","), "more than 10001 members"),
        (entry("w", "F32", &long, 0, 0), "too many values"),
        (entry("w", "F32", &nested, 0, 0), "too many values"),
    ] {
        let said = open(&raw(&format!("{{{header}}}"), &[])).unwrap_err().to_string();
        assert!(said.contains(limit), "{said}");
        let (_, column) = said.split_once("column ").unwrap();
        let column: usize = column.split_whitespace().next().unwrap().parse().unwrap();
        assert!(column < 1_000_000, "{said}");
    }
}

#[test]
fn every_truncation_and_every_flipped_header_bit_is_refused_or_harmless() {
    let good = raw(&format!("{{{}}}", entry("w", "F32", "[2]", 0, 8)), &[0; 8]);
    for cut in 0..good.len() {
        assert!(open(&good[..cut]).is_err(), "cut at {cut}");
    }
    for bit in 0..(good.len() - 8) * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // A flip may turn the name or the type into another valid one; then the data must still fit it.
        if let Ok(w) = open(&bad) {
            let name = w.names().next().map(str::to_string);
            assert!(name.is_none_or(|n| w.get(&n).unwrap().bytes.len() == 8), "bit {bit}");
        }
    }
}

#[test]
fn ordinary_files_are_read_as_they_are() {
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{}}}   "#,
        entry("w", "F32", "[2,1]", 0, 8),
        entry("e", "I64", "[0]", 8, 8)
    );
    let w = open(&raw(&header, &[0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0])).unwrap();
    assert_eq!(w.names().collect::<Vec<_>>(), ["e", "w"]);
    assert_eq!(w.metadata("format"), Some("pt"));
    assert_eq!(w.f32("w").unwrap(), [1.0, -2.0]);
    let view = w.get("e").unwrap();
    assert_eq!((view.dtype, view.shape, view.bytes.len()), (Dtype::I64, [0].as_slice(), 0));
    let e = w.f32("e").unwrap_err();
    assert!(e.to_string().contains("I64") && e.to_string().contains("`e`"), "{e}");
    assert_eq!(w.f32_into("w", &mut [0.0; 3]).unwrap_err().kind(), Kind::Shape);
    assert!(w.f32("x").unwrap_err().to_string().contains("`x`"));
    // No tensors at all is a valid file, short enough to end within what is read first.
    assert!(open(&raw("{}", &[])).unwrap().is_empty());
}

/// Values by hand from the formats' definitions: IEEE 754 binary16 and bfloat16.
#[test]
fn halves_are_converted_by_their_definition() {
    let file = |dtype: &str, bits: &[u16]| {
        let data: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        raw(&format!("{{{}}}", entry("w", dtype, &format!("[{}]", bits.len()), 0, data.len())), &data)
    };
    let f16 = open(&file("F16", &[0x3C00, 0xC000, 0x7BFF, 0x0001, 0x0400, 0x3555, 0x8000, 0x03FF])).unwrap();
    let want =
        [1.0, -2.0, 65504.0, 2f32.powi(-24), 2f32.powi(-14), 0.333_251_95, -0.0, 1023.0 * 2f32.powi(-24)];
    assert_eq!(f16.f32("w").unwrap().map_bits(), want.to_vec().map_bits());
    let bf16 = open(&file("BF16", &[0x3F80, 0x4049, 0xC2F7, 0x0080, 0x8000])).unwrap();
    assert_eq!(
        bf16.f32("w").unwrap().map_bits(),
        vec![1.0, 3.140_625, -123.5, 2f32.powi(-126), -0.0].map_bits()
    );
    for (dtype, bits, say) in
        [("F16", 0x7C00, "inf"), ("F16", 0xFE01, "NaN"), ("BF16", 0xFF80, "-inf"), ("BF16", 0x7F81, "NaN")]
    {
        let e = open(&file(dtype, &[0x3C00, bits, bits])).unwrap().f32("w").unwrap_err();
        assert!(e.to_string().contains(&format!("{say} at element 1")), "{e}");
        assert!(e.to_string().contains("`w`") && e.to_string().contains("(byte "), "{e}");
    }
}

trait Bits {
    fn map_bits(&self) -> Vec<u32>;
}
impl Bits for Vec<f32> {
    fn map_bits(&self) -> Vec<u32> {
        self.iter().map(|v| v.to_bits()).collect()
    }
}

#[test]
fn wide_and_nonfinite_values() {
    let file = |values: &[f64]| {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        raw(&format!("{{{}}}", entry("w", "F64", &format!("[{}]", values.len()), 0, data.len())), &data)
    };
    assert_eq!(open(&file(&[0.1, -1e-300, 3e38])).unwrap().f32("w").unwrap(), [0.1f32, -0.0, 3e38]);
    let e = open(&file(&[0.0, 0.0, 1e39])).unwrap().f32("w").unwrap_err().to_string();
    assert!(e.contains("element 2") && e.contains(&format!("{}", 1e39)), "{e}");
    // Past the size from which threads share the work; the first of several is named, wherever it lies.
    const N: usize = 300_001;
    for at in [0, 65_535, 65_536, 131_072, 299_999, N - 1] {
        let mut values = vec![1.0f32; N];
        values[at..].iter_mut().step_by(7).for_each(|v| *v = f32::INFINITY);
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let bytes = raw(&format!("{{{}}}", entry("w", "F32", &format!("[{N}]"), 0, N * 4)), &data);
        let w = open(&bytes).unwrap();
        let e = w.f32("w").unwrap_err();
        assert!(e.to_string().contains(&format!("inf at element {at},")), "{e}");
        let byte = bytes.len() - (N - at) * 4;
        assert!(e.to_string().contains(&format!("(byte {byte})")), "{e}");
        assert_eq!(w.allow_nonfinite(true).f32("w").unwrap(), values);
    }
}

#[test]
fn written_as_the_safetensors_crate_writes() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("out.safetensors");
    let (a, b, c) = ([1u8; 24], [2u8; 6], [3u8; 16]);
    let list = [
        ("z", Dtype::F32, vec![2, 3], &a[..]),
        ("h", Dtype::F16, vec![3], &b),
        ("a\"é", Dtype::F64, vec![2], &c),
    ];
    let out = |(name, dtype, shape, bytes): &(&str, Dtype, Vec<usize>, &'static [u8])| TensorOut {
        name: name.to_string(),
        dtype: *dtype,
        shape: shape.clone(),
        bytes: Cow::Borrowed(*bytes),
    };
    let list: Vec<_> = list.iter().map(|(n, d, s, b)| (*n, *d, s.clone(), &*b.to_vec().leak())).collect();
    let mut tensors: Vec<_> = list.iter().map(out).collect();
    let written = write_safetensors(&RealFs, &path, &tensors, &[]).unwrap();
    let bytes = fs::read(&path).unwrap();
    let views = list.iter().map(|(n, d, s, b)| (n.to_string(), TensorView::new(*d, s.clone(), b).unwrap()));
    let meta = HashMap::from([("format".to_string(), "pt".to_string())]);
    assert_eq!(bytes, safetensors::serialize(views, Some(meta)).unwrap());
    assert_eq!((written.bytes, written.blake3), (bytes.len() as u64, blake3::hash(&bytes)));
    tensors.reverse();
    write_safetensors(&RealFs, &path, &tensors, &[]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "the order given does not matter");
    let w = Weights::open(&path).unwrap();
    assert_eq!(w.get("a\"é").unwrap().bytes, c);

    tensors[0].shape = vec![5];
    assert_eq!(write_safetensors(&RealFs, &path, &tensors, &[]).unwrap_err().kind(), Kind::Shape);
    tensors[0] = tensors[1].clone();
    assert!(write_safetensors(&RealFs, &path, &tensors, &[]).unwrap_err().to_string().contains("twice"));
}

/// Two shards beside an index whose weight map is given.
fn sharded(map: &str) -> (tempfile::TempDir, Result<Weights, Error>) {
    let dir = tempdir().unwrap();
    let model = dir.path().join("m");
    fs::create_dir(&model).unwrap();
    let shard =
        |name: &str, v: f32| raw(&format!("{{{}}}", entry(name, "F32", "[1]", 0, 4)), &v.to_le_bytes());
    fs::write(model.join("model-00001-of-00002.safetensors"), shard("a", 1.0)).unwrap();
    fs::write(model.join("model-00002-of-00002.safetensors"), shard("b", 2.0)).unwrap();
    fs::write(dir.path().join("outside.safetensors"), shard("b", 3.0)).unwrap();
    let index = format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{map}}}"#);
    fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    let opened = Weights::open(&model);
    (dir, opened)
}

#[test]
fn shards() {
    let map = |b: &str| format!(r#"{{"a":"model-00001-of-00002.safetensors","b":{b}}}"#);
    let (dir, w) = sharded(&map("\"model-00002-of-00002.safetensors\""));
    let w = w.unwrap();
    assert_eq!((w.f32("a").unwrap(), w.f32("b").unwrap()), (vec![1.0], vec![2.0]));
    assert!(w.file("b").unwrap().ends_with("model-00002-of-00002.safetensors"));
    assert_eq!(Weights::open(dir.path().join("m/model.safetensors.index.json")).unwrap().len(), 2);

    let outside = dir.path().join("outside.safetensors").display().to_string();
    for bad in [
        "../outside.safetensors",
        "./../outside.safetensors",
        "..",
        ".",
        "",
        "a/../../outside.safetensors",
        "..\\\\outside.safetensors",
        &outside,
    ] {
        let e = sharded(&map(&format!("\"{bad}\""))).1.unwrap_err().to_string();
        assert!(e.contains("not in the model folder") && e.contains("`b`"), "{bad}: {e}");
    }
    let says = |map: String, say: &str| {
        let e = sharded(&map).1.unwrap_err();
        assert!(e.kind() == Kind::Model && e.to_string().contains(say), "{e}");
    };
    says(map("\"model-00003-of-00002.safetensors\""), "model-00003-of-00002.safetensors");
    says(map("7"), "not in the model folder");
    says(map("\"model-00001-of-00002.safetensors\""), "`b` is not in the shard that the index names");
    says(r#"{"a":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}"#.into(), "`c`");
    says(r#"{"a":"model-00001-of-00002.safetensors","a":"x"}"#.into(), "duplicate key `a`");
    says("[]".into(), "weight_map");
}

#[test]
fn pickles_are_refused_by_their_content() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    for (magic, say) in [
        (b"PK\x03\x04\0\0\x08\x08model/data.pkl".as_slice(), "zip"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle"),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}", "pickle"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "HDF5"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
        (b"\x7fELF\x02\x01\x01\0", "program"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!doctype html><html>", "web page"),
    ] {
        fs::write(&path, magic).unwrap();
        for at in [path.as_path(), dir.path()] {
            let e = Weights::open(at).unwrap_err();
            assert!(e.kind() == Kind::Model && e.to_string().contains(say), "{say}: {e}");
            assert!(!say.contains("zip") || e.to_string().contains("python -c"), "{e}");
        }
    }
    fs::rename(&path, dir.path().join("pytorch_model.bin")).unwrap();
    let e = Weights::open(dir.path()).unwrap_err().to_string();
    assert!(
        e.contains("pytorch_model.bin") && e.contains("python -c") && e.contains("safe_serialization=True"),
        "{e}"
    );
    // A header of 0x280 bytes starts with a pickle's first two bytes, and is none.
    let header = format!("{:<640}", format!("{{{}}}", entry("w", "F32", "[1]", 0, 4)));
    assert_eq!(open(&raw(&header, &[0; 4])).unwrap().len(), 1);
    assert!(Weights::open(dir.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
}

#[cfg(unix)]
#[test]
fn pipes_and_links_in_a_circle_are_no_files() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::os::unix::fs::symlink(&path, &path).unwrap();
    assert_eq!(Weights::open(dir.path()).unwrap_err().kind(), Kind::Model);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(Weights::open(dir.path()).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn json_within_limits() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("config.json");
    let read = |text: &str, max: u64| {
        fs::write(&path, text).unwrap();
        read_json(&path, max)
    };
    let value = read("{\"a\": {\"x\": 1}, \"b\": {\"x\": [null, true, 2.5, \"s\"]}}", 1000).unwrap();
    assert_eq!(value, serde_json::json!({"a": {"x": 1}, "b": {"x": [null, true, 2.5, "s"]}}));
    let says = |text: &str, max: u64, say: &str| {
        let e = read(text, max).unwrap_err();
        assert!(e.kind() == Kind::Model && e.to_string().contains(say), "{e}");
    };
    says("{\n  \"hidden\": 1,\n  \"hidden\": 2\n}", 1000, "config.json:3:");
    says("{\"a\":{\"b\":1,\"b\":1}}", 1000, "duplicate key `b`");
    // The same key, spelt by an escape.
    says("{\"a\":1,\"\\u0061\":2}", 1000, "duplicate key `a`");
    says("{\"a\":\n nope}", 1000, "config.json:2:");
    says("{} {}", 1000, "trailing");
    says("", 1000, "EOF");
    says("[1, 2, 3]", 8, "too large");
    assert!(read("[1, 2, 3]", 9).is_ok());
    let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(read(&deep(120), 1 << 20).is_ok());
    says(&deep(129), 1 << 20, "recursion limit");
    says(&deep(100_000), 1 << 20, "recursion limit");
    says(&format!("[{}0]", "0,".repeat(4_000_000)), 16 << 20, "too many values");
    assert!(read_json(dir.path(), 10).is_err());
}

const COMMIT: &str = "8b3219a92973c328a8e22fadcfa821b5dc75636a";

fn env(cache: &Path) -> Env {
    let cache = cache.display().to_string();
    // Offline, so that the test asks no network even where downloading is built in.
    Env::from(|name| match name {
        "HF_HUB_CACHE" => Some(cache.clone()),
        "HF_HUB_OFFLINE" => Some("1".into()),
        _ => None,
    })
}

#[test]
fn models_are_found_in_the_cache() {
    let dir = tempdir().unwrap();
    let env = env(dir.path());
    let repo = dir.path().join("models--org--name");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("refs/pr")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    fs::write(repo.join("refs/pr/1"), format!("{COMMIT}\n")).unwrap();
    fs::write(repo.join("refs/bad"), "../../..").unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    let e = resolve_in("org/name", &env).unwrap_err().to_string();
    assert!(e.contains("incomplete") && e.contains("hf download org/name"), "{e}");
    fs::write(snapshot.join("model.safetensors"), "").unwrap();
    for name in ["org/name", "org/name@main", "org/name@pr/1", &format!("org/name@{COMMIT}")] {
        assert_eq!(resolve_in(name, &env).unwrap(), snapshot, "{name}");
    }
    assert!(resolve_in("org/name@bad", &env).unwrap_err().to_string().contains("refs/bad"));
    let e = resolve_in("org/name@v2", &env).unwrap_err();
    assert!(e.kind() == Kind::Model && e.to_string().contains("--revision v2"), "{e}");
    let e = resolve_in("org/other", &env).unwrap_err().to_string();
    assert!(e.contains("models--org--other") && e.contains("hf download org/other"), "{e}");
    for name in
        ["../name", "org/../..", "org/name@../../x", "a/b/c", "", "/no/such/folder", "or g/name", "org/name@"]
    {
        let e = resolve_in(name, &env).unwrap_err();
        assert!(e.to_string().contains("there is no model"), "{name}: {e}");
    }
    // A folder that is there wins, and a file is not a model.
    let folder = dir.path().display().to_string();
    assert_eq!(resolve_in(&folder, &env).unwrap(), PathBuf::from(&folder));
    let file = repo.join("refs/main").display().to_string();
    assert!(resolve_in(&file, &env).unwrap_err().to_string().contains("is a file"));
}

#[test]
fn where_the_cache_is() {
    let cache = |vars: &[(&str, &str)]| {
        Env::from(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string())).cache
    };
    let (hub, hf, xdg, home) =
        (("HF_HUB_CACHE", "/hub"), ("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/me"));
    assert_eq!(cache(&[hub, hf, xdg, home]), Some("/hub".into()));
    assert_eq!(cache(&[("HF_HUB_CACHE", ""), hf, xdg, home]), Some("/hf/hub".into()));
    assert_eq!(cache(&[xdg, home]), Some("/xdg/huggingface/hub".into()));
    assert_eq!(cache(&[home]), Some("/me/.cache/huggingface/hub".into()));
    assert_eq!(cache(&[]), None);
    let env = Env::from(|name| (name == "HF_ENDPOINT").then(|| "http://localhost:1/".into()));
    assert_eq!((env.endpoint.as_str(), env.offline), ("http://localhost:1", false));
    assert!(resolve_in("org/name", &Env { cache: None, ..env }).unwrap_err().to_string().contains("HF_HOME"));
}
