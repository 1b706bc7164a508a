//! Data files, labels, splits and the report. Places (line, byte) are counted by hand.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tempra::data::*;
use tempra::error::{Kind, Result};
use tempra::rng::Rng;
use tempra::text::Tokenizer;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name)
}

fn columns() -> Columns {
    Columns { text: "text".into(), pair: None, label: Some("label".into()), weight: None }
}

fn file(name: &str, bytes: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn read_as(name: &str, bytes: impl AsRef<[u8]>, on_bad: OnBadRow) -> Result<Table> {
    let (_dir, path) = file(name, bytes);
    read(&path, &columns(), on_bad)
}

/// (text, label, line) of each row.
fn rows(name: &str, bytes: impl AsRef<[u8]>) -> Vec<(String, String, u64)> {
    let table = read_as(name, bytes, OnBadRow::Stop).unwrap_or_else(|e| panic!("{e}"));
    table.rows.into_iter().map(|r| (r.text, r.label.unwrap(), r.line)).collect()
}

fn row(text: &str, label: &str, line: u64) -> (String, String, u64) {
    (text.into(), label.into(), line)
}

/// The message of the data error, without the folder.
fn refused(name: &str, bytes: impl AsRef<[u8]>) -> String {
    let e = read_as(name, bytes, OnBadRow::Stop).expect_err("accepted");
    assert_eq!(e.kind(), Kind::Data, "{e}");
    let message = e.to_string();
    message[message.find(name).expect("the file is named")..].to_string()
}

#[test]
fn separated_files_are_read() {
    let two = vec![row("a", "x", 2), row("b", "y", 3)];
    assert_eq!(rows("d.csv", "text,label\na,x\nb,y\n"), two);
    assert_eq!(rows("d.csv", "text,label\r\na,x\r\nb,y"), two);
    assert_eq!(rows("d.csv", "\u{feff}text,label\na,x\nb,y\n"), two);
    assert_eq!(rows("D.TSV", "label\ttext\nx\ta\ny\tb\n"), two);
    assert_eq!(rows("d.csv", "id,\"text\",label\n1,\"a\",x\n2,b,\"y\"\n"), two);
    // RFC 4180: quoted commas, quotes and line ends; a quote inside a plain field is a character.
    assert_eq!(
        rows("d.csv", "text,label\n\"a, \"\"b\"\"\r\nc\",x\n\n5\" pipe,y\n,x\n\"\",y\n"),
        [row("a, \"b\"\r\nc", "x", 2), row("5\" pipe", "y", 5), row("", "x", 6), row("", "y", 7)]
    );
    // TSV knows no quotes (GLUE's files open fields with them), unless its header has them.
    assert_eq!(rows("d.tsv", "text\tlabel\n\"Stop\tx\n"), [row("\"Stop", "x", 2)]);
    assert_eq!(rows("d.tsv", "\"text\"\t\"label\"\n\"a\tb\"\t\"x\"\n"), [row("a\tb", "x", 2)]);
    let columns = Columns { text: "b".into(), pair: Some("a".into()), label: None, weight: None };
    let (_dir, path) = file("d.csv", "a,b,c\n1,2,3\n");
    let table = read(&path, &columns, OnBadRow::Stop).unwrap();
    assert_eq!(table.rows, [Row { text: "2".into(), pair: Some("1".into()), label: None, line: 2 }]);
    assert_eq!(table.hash, blake3::hash(b"a,b,c\n1,2,3\n").to_hex().to_string());
}

/// Random fields, written by the csv crate, come back as they were.
#[test]
fn what_another_program_writes_is_read() {
    let mut random = Rng::new(7, "csv", 0);
    for _ in 0..200 {
        let field = |random: &mut Rng| -> String {
            (0..random.below(6))
                .map(|_| ['a', ',', '"', '\n', '\r', ' ', 'é', '\t'][random.below(8) as usize])
                .collect()
        };
        let expected: Vec<[String; 2]> = (0..1 + random.below(4))
            .map(|_| [field(&mut random), format!("l{}", field(&mut random))])
            .collect();
        let mut writer =
            csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Necessary).from_writer(Vec::new());
        writer.write_record(["text", "label"]).unwrap();
        expected.iter().for_each(|r| writer.write_record(r).unwrap());
        let bytes = writer.into_inner().unwrap();
        let got: Vec<[String; 2]> =
            rows("d.csv", &bytes).into_iter().map(|(text, label, _)| [text, label]).collect();
        assert_eq!(got, expected, "{}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn json_lines_are_read() {
    let text = "{\"text\": \"a\", \"label\": 1, \"more\": [1, {}]}\n\n{\"label\": true, \"text\": \"\\ud83d\\ude00\"}\r\n{\"text\":\"c\",\"label\":\"1.50\"}";
    let expected = [row("a", "1", 1), row("😀", "true", 3), row("c", "1.50", 4)];
    assert_eq!(rows("d.jsonl", text), expected);
    assert_eq!(rows("d.ndjson", format!("\u{feff}{text}")), expected);
}

#[test]
fn bad_csv_is_placed() {
    // "text,label\n" has 11 bytes, "a,x\n" 4.
    let ragged = refused("d.csv", "text,label\na,x\nb,y,z\n");
    assert!(ragged.starts_with("d.csv:3 (byte 15): the row has 3 fields"), "{ragged}");
    assert!(ragged.contains("expected: 2, as in the header (text, label)"), "{ragged}");
    assert!(
        refused("d.csv", "text,label\r\na,x\r\nb\r\n")
            .starts_with("d.csv:3 (byte 17): the row has 1 field\n")
    );
    assert!(
        refused("d.csv", "\u{feff}text,label\nb\n").starts_with("d.csv:2 (byte 14): the row has 1 field\n")
    );
    // é in Latin-1: after "text,label\na,x\n" and "caf".
    assert!(
        refused("d.csv", b"text,label\na,x\ncaf\xE9,y\n")
            .starts_with("d.csv:3 (byte 18): the file is not UTF-8")
    );
    // In a field of several lines the line is that of the byte, not of the row.
    assert!(
        refused("d.csv", b"text,label\n\"a\nb\xFF\",x\n")
            .starts_with("d.csv:3 (byte 15): the file is not UTF-8")
    );
    assert!(
        refused("d.csv", b"text,label\na\0b,x\n").starts_with("d.csv:2 (byte 12): the file holds a NUL byte")
    );
    let after = refused("d.csv", "text,label\n\"a\" b,x\n");
    assert!(
        after.starts_with("d.csv:2 (byte 14): there is text after a closing quote")
            && after.contains("found:  b,x"),
        "{after}"
    );
    let open = refused("d.csv", "text,label\na,x\n\"b,y\nc,z\n");
    assert!(open.starts_with("d.csv:3 (byte 15): the quote that opens a field is not closed"), "{open}");
    assert!(refused("d.csv", "text,label\na, \n").starts_with("d.csv:2 (byte 11): the label is empty"));
    let long = format!("text,label\n{},x\n", "a".repeat(9 << 20));
    assert!(refused("d.csv", &long).starts_with("d.csv:2 (byte 11): the row is too long"));
}

#[test]
fn bad_headers_are_explained() {
    let near = refused("d.csv", "Text,lable\na,x\n");
    assert!(
        near.contains("there is no column \"text\"") && near.contains("did you mean \"Text\"?"),
        "{near}"
    );
    assert!(refused("d.csv", "text,lable\na,x\n").contains("did you mean \"lable\"?"));
    let far = refused("d.csv", "sentence,sentiment\na,x\n");
    assert!(far.contains("found: sentence, sentiment") && !far.contains("did you mean"), "{far}");
    assert!(refused("d.csv", "phrase;mood\na;x\n").contains("semicolons"));
    assert!(refused("d.csv", "phrase\tmood\na\tx\n").contains("rename the file to .tsv"));
    assert!(refused("d.csv", "text,label,text\na,x,b\n").contains("two columns are named \"text\""));
    assert!(refused("d.csv", "text,label\ra,x\rb,y\r").contains("carriage return alone"));
    assert!(refused("d.csv", "").contains("the file is empty"));
    assert!(refused("d.csv", "\n\n").contains("header line is blank"));
    assert!(refused("d.csv", "text,label\n").contains("the file has no rows"));
    assert!(refused("d.jsonl", "\n").contains("the file has no rows"));
    let many: Vec<String> = (0..100_000).map(|i| format!("c{i}")).collect();
    assert!(refused("d.csv", many.join(",") + "\n").contains("and 99980 more"));
}

#[test]
fn other_encodings_are_named() {
    let utf16 = |text: &str, little: bool| -> Vec<u8> {
        text.encode_utf16().flat_map(|u| if little { u.to_le_bytes() } else { u.to_be_bytes() }).collect()
    };
    for (bytes, name, remedy) in [
        (utf16("\u{feff}text,label\na,x\n", true), "UTF-16", "iconv -f UTF-16 "),
        (utf16("\u{feff}text,label\na,x\n", false), "UTF-16", "iconv -f UTF-16 "),
        (utf16("text,label\na,x\n", true), "UTF-16", "iconv -f UTF-16LE "),
        (utf16("text,label\na,x\n", false), "UTF-16", "iconv -f UTF-16BE "),
        (b"\xFF\xFE\0\0t\0\0\0".to_vec(), "UTF-32", "iconv -f UTF-32 "),
        (b"\x1F\x8B\x08\0".to_vec(), "gzip", "gunzip"),
        (b"PK\x03\x04abc".to_vec(), "zip", "unzip"),
    ] {
        for file in ["d.csv", "d.jsonl"] {
            let message = refused(file, &bytes);
            assert!(message.contains(name) && message.contains(remedy), "{message}");
        }
    }
    let (_dir, path) = file("d.csv.gz", "x");
    let e = read(&path, &columns(), OnBadRow::Stop).unwrap_err().to_string();
    assert!(e.contains(".jsonl") && e.contains("decompress"), "{e}");
}

#[test]
fn bad_json_is_placed() {
    // The first line has 28 bytes with its line end.
    let good = "{\"text\":\"a\", \"label\":\"xyz\"}\n";
    assert_eq!(good.len(), 28);
    let second = |line: &str| refused("d.jsonl", format!("{good}{line}\n"));
    // The "}" where a value should stand is the 22nd byte of its line.
    let bad = second("{\"text\":\"a\", \"label\":}");
    assert!(
        bad.starts_with("d.jsonl:2 (byte 49): the line is not valid JSON\n")
            && bad.contains("\n  found: expected value"),
        "{bad}"
    );
    assert!(second("{\"text\":\"a\"}").starts_with("d.jsonl:2 (byte 28): there is no key \"label\""));
    let near = second("{\"text\":\"a\",\"lebel\":1}");
    assert!(near.contains("found: text, lebel") && near.contains("did you mean \"lebel\"?"), "{near}");
    let null = second("{\"text\":null,\"label\":1}");
    assert!(
        null.starts_with("d.jsonl:2 (byte 28): \"text\" is not a text") && null.contains("found: null"),
        "{null}"
    );
    assert!(second("{\"text\":5,\"label\":1}").contains("found: a number"));
    assert!(second("{\"text\":\"a\",\"label\":null}").contains("\"label\" is not a label"));
    assert!(second("{\"text\":\"a\",\"label\":[1]}").contains("found: an array"));
    assert!(
        second("{\"text\":\"a\",\"label\":1,\"text\":\"b\"}").contains("the key \"text\" is given twice")
    );
    assert!(second("[1]").contains("rename the file to .json"));
    assert!(second("{\"text\":\"\\ud800\",\"label\":1}").contains("not valid JSON"));
    assert!(second("{\"text\":\"\\u0000\",\"label\":1}").contains("NUL"));
    assert!(second(&"[".repeat(100_000)).contains("d.jsonl:2"));
    let latin = [good.as_bytes(), b"{\"text\":\"caf\xE9\",\"label\":1}\n"].concat();
    assert!(refused("d.jsonl", latin).starts_with("d.jsonl:2 (byte 40): the file is not UTF-8"));
    let long = format!("{{\"text\":\"{}\"}}", "a".repeat(9 << 20));
    assert!(second(&long).starts_with("d.jsonl:2 (byte 28): the line is too long"));
}

#[test]
fn bad_rows_are_skipped_up_to_one_percent() {
    let csv = |n: usize, bad: &[usize]| {
        let line =
            |i| if bad.contains(&i) { "only one field\n".to_string() } else { format!("text {i},x\n") };
        "text,label\n".to_string() + &(0..n).map(line).collect::<String>()
    };
    let table = read_as("d.csv", csv(1000, &[3, 500, 999]), OnBadRow::Skip).unwrap();
    assert_eq!((table.rows.len(), table.bad_count), (997, 3));
    assert_eq!(table.bad.iter().map(|b| b.line).collect::<Vec<_>>(), [5, 502, 1001]);
    assert!(table.bad[0].what.contains("1 field"));
    // One is always allowed, 10 of 1,000 are one percent, 11 are more.
    assert_eq!(read_as("d.csv", csv(5, &[2]), OnBadRow::Skip).unwrap().rows.len(), 4);
    assert_eq!(
        read_as("d.csv", csv(1000, &(0..10).collect::<Vec<_>>()), OnBadRow::Skip).unwrap().bad_count,
        10
    );
    let e =
        read_as("d.csv", csv(1000, &(0..11).collect::<Vec<_>>()), OnBadRow::Skip).unwrap_err().to_string();
    assert!(e.contains("d.csv:2 (byte 11): 11 of 1000 rows cannot be read"), "{e}");
    assert!(read_as("d.csv", csv(1, &[0]), OnBadRow::Skip).unwrap_err().to_string().contains("no rows"));
    // A quote left open has eaten rows: it is never skipped.
    let eaten = csv(1000, &[]).replace("text 500,", "\"text 500,");
    assert!(read_as("d.csv", eaten, OnBadRow::Skip).unwrap_err().to_string().contains("not closed"));
    let eaten = csv(1000, &[]).replace("text 500,", "\"text 500,").replace("text 600,", "a \" b");
    assert!(
        read_as("d.csv", eaten, OnBadRow::Skip)
            .unwrap_err()
            .to_string()
            .contains("in line 502, where this row begins")
    );
    let long =
        format!("{{\"text\":\"a\",\"label\":1}}\n{}\n{{\"text\":\"b\",\"label\":1}}\n", "x".repeat(9 << 20));
    let table = read_as("d.jsonl", long, OnBadRow::Skip).unwrap();
    assert_eq!((table.rows.len(), table.rows[1].line, table.bad_count), (2, 3, 1));
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_is_read() {
    // Written by pyarrow: tests/golden/make_parquet.py.
    let read = |name: &str, text: &str, label: &str| {
        let columns = Columns { text: text.into(), pair: None, label: Some(label.into()), weight: None };
        read(&golden(name), &columns, OnBadRow::Stop)
    };
    let table = read("good.parquet", "text", "label").unwrap();
    assert_eq!(table.rows.len(), 2500);
    for (i, row) in table.rows.iter().enumerate() {
        let expected = Row {
            text: format!("text {i} é"),
            pair: None,
            label: Some((i % 3).to_string()),
            line: i as u64 + 1,
        };
        assert_eq!(row, &expected);
    }
    assert_eq!(table.hash, blake3::hash(&fs::read(golden("good.parquet")).unwrap()).to_hex().to_string());
    let scores = read("good.parquet", "text", "score").unwrap();
    let label = |i: usize| scores.rows[i].label.as_ref().unwrap().parse::<f64>().unwrap();
    assert!((0..2500).all(|i| label(i) == i as f64 / 8.0));
    assert_eq!(read("good.parquet", "text", "flag").unwrap().rows[1].label.as_deref(), Some("false"));
    for (name, text, label, part) in [
        ("good.parquet", "words", "label", "holds lists"),
        ("good.parquet", "txt", "label", "did you mean \"text\"?"),
        ("good.parquet", "id", "label", "parquet:1: \"id\" is not a text"),
        ("null.parquet", "text", "label", "parquet:2: \"label\" is not a label"),
        ("date.parquet", "text", "label", "date"),
    ] {
        let e = read(name, text, label).unwrap_err();
        assert!(e.kind() == Kind::Data && e.to_string().contains(part), "{e}");
    }
    let records = read_texts(golden("good.parquet").to_str().unwrap(), None, &columns()).unwrap();
    assert_eq!(records.header, ["id", "text", "label", "score", "flag"]);
    assert_eq!(records.rows[2499], ["2499", "text 2499 é", "0", "312.375", "false"]);
}

#[cfg(feature = "parquet")]
#[test]
fn damaged_parquet_never_panics() {
    let whole = fs::read(golden("good.parquet")).unwrap();
    let mut random = Rng::new(3, "damage", 0);
    let mut errors = 0;
    for i in 0..300 {
        let mut bytes = whole.clone();
        if i % 3 == 0 {
            bytes.truncate(random.below(whole.len() as u32) as usize);
        } else {
            (0..=random.below(4))
                .for_each(|_| bytes[random.below(whole.len() as u32) as usize] ^= 1 << random.below(8));
        }
        match read_as("d.parquet", &bytes, OnBadRow::Skip) {
            Ok(_) => {}
            Err(e) => {
                assert_eq!(e.kind(), Kind::Data, "{e}");
                errors += 1;
            }
        }
    }
    // A third were cut short, and none of those can be read.
    assert!(errors >= 100);
}

#[test]
fn all_columns_are_kept_for_predictions() {
    let columns = Columns { text: "text".into(), pair: None, label: Some("label".into()), weight: None };
    let from = |bytes: &str, format| {
        Records::from_reader(bytes.as_bytes(), Path::new("standard input"), format, &columns)
    };
    let csv = from("id,text\n1,\"a,b\"\n2,c\n", Format::Csv).unwrap();
    assert_eq!((csv.header.clone(), csv.lines.clone()), (vec!["id".to_string(), "text".into()], vec![2, 3]));
    assert_eq!(csv.rows, [["1", "a,b"], ["2", "c"]]);
    assert_eq!(csv.inputs(), [("a,b", None), ("c", None)]);
    let json =
        from("{\"text\":\"a\",\"n\":1}\n{\"z\":null,\"text\":\"b\",\"m\":[1]}\n", Format::Jsonl).unwrap();
    assert_eq!(json.header, ["text", "n", "z", "m"]);
    assert_eq!(json.rows, [["a", "1", "", ""], ["b", "", "", "[1]"]]);
    assert_eq!(json.inputs(), [("a", None), ("b", None)]);
    let e = from("id,txt\n1,a\n", Format::Csv).unwrap_err().to_string();
    assert!(e.starts_with("standard input") && e.contains("did you mean \"txt\"?"), "{e}");
    assert!(from("{\"text\":null}\n", Format::Jsonl).unwrap_err().to_string().contains("found: null"));
    let (_dir, path) = file("d.tsv", "text\tpair\na\tb\n");
    let columns = Columns { pair: Some("pair".into()), ..columns };
    let tsv = read_texts(path.to_str().unwrap(), None, &columns).unwrap();
    assert_eq!(tsv.inputs(), [("a", Some("b"))]);
}

fn table(labels: &[&str]) -> Table {
    let row = |(i, l): (usize, &&str)| Row {
        text: format!("text {i}"),
        pair: None,
        label: Some(l.to_string()),
        line: i as u64 + 2,
    };
    Table {
        path: "t.csv".into(),
        rows: labels.iter().enumerate().map(row).collect(),
        weights: vec![],
        bad: vec![],
        bad_count: 0,
        places: Places::Lines,
        hash: String::new(),
    }
}

#[test]
fn labels_become_classes_or_values() {
    let classes = |labels: &[&str]| match Target::classes(&table(labels), None).unwrap() {
        Target::Classify { classes } => classes,
        Target::Regress => unreachable!("classes were asked for"),
    };
    assert_eq!(classes(&["10", "9", "-1", "9"]), ["-1", "9", "10"]);
    assert_eq!(classes(&["10", "9", "x", "9"]), ["10", "9", "x"]);
    let target = Target::classes(&table(&["pos", "neg"]), None).unwrap();
    assert_eq!(target.labels(&table(&["neg", "pos"])).unwrap(), [Label::Class(0), Label::Class(1)]);
    let e = target.labels(&table(&["neg", "Pos"])).unwrap_err().to_string();
    for part in ["t.csv:3", "\"Pos\"", "expected: neg, pos", "did you mean \"pos\"?"] {
        assert!(e.contains(part), "{e}");
    }
    let given = |names: &[&str], labels: &[&str]| {
        Target::classes(&table(labels), Some(&names.iter().map(|s| s.to_string()).collect::<Vec<_>>()))
    };
    let order = given(&["pos", "neg", "none"], &["neg", "pos"]).unwrap();
    assert_eq!(order.labels(&table(&["neg"])).unwrap(), [Label::Class(1)]);
    assert!(given(&["pos", "neg"], &["neg", "other"]).unwrap_err().to_string().contains("t.csv:3"));
    assert!(given(&["a", "a"], &["a"]).is_err() && given(&["a"], &["a"]).is_err());
    let one = Target::classes(&table(&["a", "a"]), None).unwrap_err();
    assert!(one.kind() == Kind::Data && one.to_string().contains("the same label"), "{one}");
    let floats: Vec<String> = (0..300).map(|i| format!("{}.5", i)).collect();
    let e =
        Target::classes(&table(&floats.iter().map(String::as_str).collect::<Vec<_>>()), None).unwrap_err();
    for part in ["300 different labels", "task = \"regress\""] {
        assert!(e.to_string().contains(part), "{e}");
    }

    let values = Target::Regress.labels(&table(&["1.5", " -2e3 "])).unwrap();
    assert_eq!(values, [Label::Value(1.5), Label::Value(-2000.0)]);
    for (bad, fault) in [
        ("NaN", "not a finite number"),
        ("inf", "not a finite number"),
        ("1,5", "not a finite number"),
        ("good", "not a finite number"),
        ("1e39", "too large for a 32-bit float"),
    ] {
        let e = Target::Regress.labels(&table(&["1", bad])).unwrap_err();
        let fault = format!("t.csv:3: the label is {fault}");
        assert!(e.kind() == Kind::Data && e.to_string().contains(&fault), "{e}");
    }
}

#[test]
fn a_split_is_stratified_and_keeps_duplicates_together() {
    for seed in 0..20 {
        let mut random = Rng::new(seed, "rows", 0);
        let n = 400 + random.below(200) as usize;
        let mut rows: Vec<Row> = (0..n)
            .map(|i| Row {
                text: format!("text {i}"),
                pair: Some(format!("{}", i % 2)),
                label: None,
                line: 0,
            })
            .collect();
        let mut labels: Vec<Label> = (0..n)
            .map(|_| Label::Class(if random.below(10) == 0 { 1 } else { random.below(2) * 2 }))
            .collect();
        // One in ten repeats an earlier row but for white space at its ends.
        for i in 1..n {
            if random.below(10) == 0 {
                let j = random.below(i as u32) as usize;
                (rows[i].text, rows[i].pair) = (format!(" {}\n", rows[j].text), rows[j].pair.clone());
                labels[i] = labels[j];
            }
        }
        let fractions = [0.7, 0.2, 0.1];
        let parts = split(&rows, &fractions, Some(&labels), seed).unwrap();
        assert_eq!(parts, split(&rows, &fractions, Some(&labels), seed).unwrap());
        assert_ne!(parts, split(&rows, &fractions, Some(&labels), seed + 1).unwrap());
        let mut all: Vec<usize> = parts.concat();
        all.sort_unstable();
        assert_eq!(all, (0..n).collect::<Vec<_>>());
        let mut seen = HashSet::new();
        for (part, fraction) in parts.iter().zip(fractions) {
            let keys: HashSet<(&str, Option<&str>)> =
                part.iter().map(|i| (rows[*i].text.trim(), rows[*i].pair.as_deref())).collect();
            assert!(keys.iter().all(|k| seen.insert(*k)), "a duplicate on two sides");
            assert!((part.len() as f64 - fraction * n as f64).abs() < 3.0);
            for class in 0..3 {
                let count = |rows: &mut dyn Iterator<Item = usize>| {
                    rows.filter(|i| labels[*i] == Label::Class(class)).count() as f64
                };
                let (here, there) = (count(&mut part.iter().copied()), count(&mut (0..n)));
                assert!(
                    (here - fraction * there).abs() < 4.0,
                    "class {class}: {here} of {there} for {fraction}"
                );
            }
        }
    }
    let rows = table(&["a"; 10]).rows;
    for bad in [vec![0.5, 0.4], vec![1.5, -0.5], vec![f64::NAN, 1.0], vec![]] {
        assert_eq!(split(&rows, &bad, None, 0).unwrap_err().kind(), Kind::Usage);
    }
    assert_eq!(split(&rows[..1], &[0.5, 0.5], None, 0).unwrap_err().kind(), Kind::Data);
}

#[test]
fn the_report_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (train, test) = (dir.path().join("train.csv"), dir.path().join("test.csv"));
    // Line 4 repeats line 2; lines 3 and 5 disagree; line 6 is empty; line 8 has one field; 9 has another
    // spelling.
    let text = "text,label\ngood movie,pos\nbad movie,neg\n good movie,pos\nbad movie,pos\n,neg\nzyx dog,pos\nbroken\nthe a of,Pos\n";
    fs::write(&train, text).unwrap();
    fs::write(&test, "text,label\nGOOD  Movie,pos\nnew film,neutral\nfox,neg\n").unwrap();
    let tokenizer = Tokenizer::from_dir(&golden("bert"), 1000).unwrap();
    let report =
        check(&[("train", &train), ("test", &test)], &columns(), &[], Some((&tokenizer, 4))).unwrap();
    let [a, b] = report.files.as_slice() else { panic!("two files") };
    assert_eq!((a.rows, a.bad_rows, a.empty_texts, a.duplicates, a.conflicts), (7, 1, 1, 2, 1));
    let bad = a.first_bad.as_ref().unwrap();
    // The lines before have 11, 15, 14, 16, 14, 5 and 12 bytes.
    assert_eq!((bad.line, bad.byte), (8, Some(87)));
    assert_eq!(a.labels, [("pos".to_string(), 4), ("neg".into(), 2), ("Pos".into(), 1)]);
    assert_eq!(a.first_duplicate, Some((2, 4)));
    assert_eq!(
        (a.first_conflicts[0].lines.as_slice(), a.first_conflicts[0].labels.as_slice()),
        (&[3, 5][..], &["neg".to_string(), "pos".into()][..])
    );
    assert_eq!((b.rows, b.bad_rows, b.unseen_labels.as_slice()), (3, 0, &["neutral".to_string()][..]));
    let [leak] = report.leaks.as_slice() else { panic!("one leak") };
    assert_eq!(
        (leak.earlier.as_str(), leak.later.as_str(), leak.rows, leak.lines.as_slice()),
        ("train", "test", 1, &[(2, 2)][..])
    );
    assert_eq!(report.typos[0].spellings, [("Pos".to_string(), 1), ("pos".into(), 5)]);
    // Lengths with [CLS] and [SEP]: 4 4 4 4 2 ? 5; "zyx" is spelt out in letters: z ##y ##x dog.
    let l = a.lengths.as_ref().unwrap();
    assert_eq!((l.p50, l.p90, l.max, l.tokens), (4, 6, 6, 4 * 4 + 2 + 6 + 5));
    assert_eq!((l.rows_cut, l.tokens_cut, l.unknown), (2, 3, 0));
    assert!(report.has_errors());
    let shown = report.to_string();
    for part in [
        "train.csv (7 rows)",
        "(byte 87)",
        "pos 4 (57.1 %)",
        "at 4: 3 tokens",
        "neutral",
        "leak: 1 row of test",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(serde_json::to_string(&report).unwrap().contains("\"tokens_cut\":3"));

    let clean = check(&[("test", &test)], &columns(), &[], None).unwrap();
    assert!(!clean.has_errors() && clean.files[0].lengths.is_none());
    let wrong = Columns { label: Some("lebel".into()), ..columns() };
    assert_eq!(check(&[("test", &test)], &wrong, &[], None).unwrap_err().kind(), Kind::Data);
    // What cannot be read to its end is reported with what was read.
    fs::write(&test, "text,label\na,x\n\"b,y\n").unwrap();
    let open = check(&[("test", &test)], &columns(), &[], None).unwrap();
    assert!(open.files[0].rows == 1 && open.files[0].stopped.as_ref().unwrap().contains("not closed"));
}

/// The data set of the examples: the report says what its README says, and what a count by the csv crate
/// says.
#[test]
fn the_example_data_is_as_its_readme_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sentiment");
    let (train, test) = (folder.join("train.csv"), folder.join("test.csv"));
    let report = check(&[("train", &train), ("test", &test)], &columns(), &[], None).unwrap();
    let texts = |path: &Path| -> Vec<String> {
        let mut rows = csv::Reader::from_path(path).unwrap();
        rows.records().map(|r| r.unwrap()[0].to_string()).collect()
    };
    let (a, b) = (texts(&train), texts(&test));
    let distinct = |texts: &[String]| texts.iter().cloned().collect::<HashSet<String>>();
    // Word for word: 10 repeats within train, none within test, 7 rows of test in train.
    assert_eq!((a.len() - distinct(&a).len(), b.len() - distinct(&b).len()), (10, 0));
    let in_train = distinct(&a);
    assert_eq!(b.iter().filter(|t| in_train.contains(*t)).count(), 7);

    let [train, test] = report.files.as_slice() else { panic!("two files") };
    assert_eq!((train.rows, train.duplicates), (2400, 10));
    assert_eq!(train.labels, [("positive".to_string(), 1210), ("negative".into(), 1190)]);
    assert_eq!((test.rows, test.duplicates), (600, 0));
    assert_eq!(test.labels, [("negative".to_string(), 310), ("positive".into(), 290)]);
    for file in [train, test] {
        let nothing = (file.bad_rows, file.empty_texts, file.conflicts, file.unseen_labels.len());
        assert_eq!((nothing, &file.stopped), ((0, 0, 0, 0), &None), "{report}");
    }
    // With case and spacing ignored, as a leak is counted, it is 8 rows.
    let [leak] = report.leaks.as_slice() else { panic!("{:?}", report.leaks) };
    assert_eq!((leak.rows, leak.earlier.as_str(), leak.later.as_str()), (8, "train", "test"));
    assert!(report.typos.is_empty() && report.has_errors(), "{report}");
}
