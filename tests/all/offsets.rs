//! Where answers and entities stand: in Unicode code points, as Python indexes strings.

use crate::no_answer::predict;
use crate::support::golden;
use crate::tasks::{ok, prepared, recipe, tempra};
use serde_json::{Value, json};

/// Contexts with accents, combining marks and characters beyond the basic plane; offsets are those of
/// Python's slices.
#[test]
fn offsets_count_code_points() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepared(dir, &golden("bert/a"));
    let contexts = [
        "Zoe\u{308} Ångström 🎉🎉 went to São Paulo 👩\u{200D}👩\u{200D}👧 and Bob saw 𝒳 Paris",
        "日本語 の Alice ran e\u{301}\u{323} to 🏳\u{FE0F}\u{200D}🌈 the house",
        "plain Alice sat on the mat",
    ];
    // Offsets of "Bob" and "Alice", by Python: contexts[0].index("Bob") == 45, contexts[1].index("Alice") ==
    // 6, then 6.
    let answers = [("Bob", 45), ("Alice", 6), ("Alice", 6)];
    let paragraphs: Vec<Value> = (0..24)
        .map(|i| {
            let (text, start) = answers[i % 3];
            json!({ "context": contexts[i % 3], "qas": [{ "id": format!("q{i}"), "question": "who went to Paris",
                "answers": [{ "text": text, "answer_start": start }] }] })
        })
        .collect();
    let file = json!({ "version": "1.1", "data": [{ "title": "t", "paragraphs": paragraphs }] });
    std::fs::write(dir.join("q.json"), file.to_string()).unwrap();
    let text = recipe("answer", "q.json", "stride = 2\nvalidation = \"q.json\"\n", "answer");
    std::fs::write(dir.join("answer.toml"), text).unwrap();
    ok("answer", tempra(dir, &["train", "answer.toml", "-q"]));
    let ([_, n_best, _], _) = predict(dir, "answer", "q.json", &[]);
    let mut beyond = 0;
    for (i, context) in contexts.iter().enumerate() {
        let chars: Vec<char> = context.chars().collect();
        for c in n_best[&format!("q{i}")].as_array().unwrap() {
            let [start, end] = ["start", "end"].map(|k| c[k].as_u64().unwrap() as usize);
            let slice: String = chars[start..end].iter().collect();
            assert_eq!(c["text"], slice, "{context} {start} to {end}");
            beyond += usize::from(start != context.find(&slice).unwrap());
        }
    }
    assert!(beyond > 10, "{beyond}");

    // Spans of characters in, entities out. By Python "Bob" is [45:48] of the first text.
    let row = |text: &str, spans: Value| json!({ "text": text, "label": spans }).to_string() + "\n";
    let at = |text: &str, part: &str| {
        let byte = text.find(part).unwrap();
        let start = text[..byte].chars().count();
        json!([start, start + part.chars().count(), "X"])
    };
    assert_eq!(at(contexts[0], "Bob")[0], 45);
    let rows: String = (0..24)
        .map(|i| row(contexts[i % 2], json!([at(contexts[i % 2], ["Bob", "Alice"][i % 2])])))
        .collect();
    std::fs::write(dir.join("s.jsonl"), rows).unwrap();
    let text = recipe("tag", "s.jsonl", "stride = 2\nvalidation = \"s.jsonl\"\n", "tag")
        .replace("lr = 1e-3", "lr = 3e-3\nwarmup_steps = 10")
        .replace("./base\"", "./base\"\ndropout = 0.0\nattention_dropout = 0.0\nclassifier_dropout = 0.0")
        .replace("batch_size = 4", "batch_size = 8")
        .replace("max_steps = 3", "max_steps = 120")
        .replace("every = 3", "every = 120");
    std::fs::write(dir.join("tag.toml"), text).unwrap();
    ok("tag", tempra(dir, &["train", "tag.toml", "-q"]));
    let said = ok("tag", tempra(dir, &["predict", "tag/model", "s.jsonl", "--format", "jsonl", "-q"]));
    for (line, (context, name)) in said.lines().zip([(contexts[0], "Bob"), (contexts[1], "Alice")]) {
        let found: Value = serde_json::from_str(line).unwrap();
        let (entity, expected) = (&found["entities"][0], at(context, name));
        assert_eq!(json!([entity["start"], entity["end"], entity["type"]]), expected, "{found}");
        assert_eq!(entity["text"], name);
    }
    // A byte offset in a file is refused, with the place in code points.
    let broken = row(contexts[1], json!([[6, 200, "X"]]));
    std::fs::write(dir.join("broken.jsonl"), broken).unwrap();
    let out = tempra(dir, &["eval", "tag/model", "broken.jsonl"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let n = contexts[1].chars().count();
    assert!(said.contains(&format!("end <= {n}")) && said.contains("code points"), "{said}");
}
