//! Predictions that are no columns of a table: tags of words, answers to questions.

use super::model::Prepared;
use super::options::text;
use super::output::Destination;
use super::style::Voice;
use crate::checkpoint::{NamedFile, RealFs, write_dir};
use crate::data::{Contexts, OnBadRow, Question, Span, TagFormat, TaggedText, Words, read_questions};
use crate::error::{Error, Result};
use crate::models::Model;
use crate::tasks::{Finding, Found, Meter, Tagged};
use clap::ArgMatches;
use serde_json::{Map, Value, json};
use std::path::Path;

fn file(input: &str) -> Result<&Path> {
    if input == "-" {
        return Err(Error::usage("this task reads a file, not standard input").with_help("name a file"));
    }
    Ok(Path::new(input))
}

/// Tags every word of every sentence, also beyond the longest input: long sentences are read in windows.
pub fn tags(
    matches: &ArgMatches,
    prepared: &Prepared,
    model: &Model,
    names: &[String],
    json: bool,
) -> Result<String> {
    let path = file(text(matches, "input").unwrap_or_default())?;
    let destination = Destination::of(text(matches, "output"))?;
    let (format, strict, _) = prepared.tag_format(names);
    let voice = Voice::of(matches);
    prepared.odd_labels(names).into_iter().for_each(|odd| voice.warn(odd));
    let sentences = prepared.sentences(path, None, (format, strict))?;
    let words: Vec<Vec<String>> = sentences.iter().map(|s| s.sentence.words.clone()).collect();
    let set = Words::build(prepared.tokenizer(), &words, None, prepared.max_length, prepared.stride())?;
    let (head, _) = prepared.head(model)?;
    let mut tagged = Tagged::new(names, format, strict, &set);
    let batches = prepared.batches(&set, head)?;
    prepared.outputs(model, &batches, &voice, |batch, outputs| tagged.add(outputs, batch))?;
    let name = |c: u32| names.get(c as usize).map_or("O", String::as_str);
    let read = |tags: &Vec<(u32, f32)>| tagged.spans(&tags.iter().map(|t| name(t.0)).collect::<Vec<_>>());
    let spans: Vec<Vec<Span>> = tagged.tags.iter().map(read).collect::<Result<_>>()?;
    destination.write(|out| {
        for ((sentence, tags), spans) in sentences.iter().zip(&tagged.tags).zip(&spans) {
            if json {
                let tags: Vec<(&str, f32)> = tags.iter().map(|&(c, p)| (name(c), p)).collect();
                writeln!(out, "{}", of_sentence(sentence, &tags, spans))?;
                continue;
            }
            for (word, &(c, _)) in sentence.sentence.words.iter().zip(tags) {
                writeln!(out, "{word}\t{}", name(c))?;
            }
            writeln!(out)?;
        }
        Ok(())
    })?;
    let found: usize = spans.iter().map(Vec::len).sum();
    let what = if format == TagFormat::Words { "words with a tag other than O" } else { "entities" };
    Ok(format!("{} sentences: {found} {what}", sentences.len()))
}

/// A sentence as a line: words, tags and entities, these in words and, of a text, in characters (Unicode code points). Of tags
/// that are no spans every word whose tag is not `O` is an entity.
fn of_sentence(tagged: &TaggedText, tags: &[(&str, f32)], spans: &[Span]) -> Value {
    let words = &tagged.sentence.words;
    let one = |s: &Span| {
        let inside = words.get(s.start..s.end).unwrap_or_default().join(" ");
        let least = tags.get(s.start..s.end).unwrap_or_default().iter().map(|t| t.1).fold(1.0, f32::min);
        let mut entity =
            json!({ "type": s.label, "words": [s.start, s.end], "text": inside, "probability": least });
        if let Some((text, ranges)) = &tagged.text
            && let (Some(first), Some(last)) = (ranges.get(s.start), ranges.get(s.end - 1))
        {
            let text = &text.text;
            entity["text"] = text.get(first.start..last.end).unwrap_or_default().into();
            entity["start"] = code_points(text, first.start).into();
            entity["end"] = code_points(text, last.end).into();
        }
        entity
    };
    let entities: Vec<Value> = spans.iter().map(one).collect();
    match &tagged.text {
        Some((text, _)) => json!({ "text": text.text, "entities": entities }),
        None => {
            let tags: Vec<&str> = tags.iter().map(|t| t.0).collect();
            json!({ "words": words, "tags": tags, "entities": entities })
        }
    }
}

/// How many Unicode code points stand before a byte of a text: the index in Python.
fn code_points(text: &str, byte: usize) -> usize {
    text.get(..byte).map_or(0, |t| t.chars().count())
}

/// Finds the answer to every question. With `-o FOLDER` writes `predictions.json`, `nbest_predictions.json` and
/// `null_odds.json` there, as SQuAD's scripts read them (`start` and `end` in Unicode code points of the context); otherwise the first of them to standard output.
pub fn answers(matches: &ArgMatches, prepared: &Prepared, model: &Model) -> Result<String> {
    let path = file(text(matches, "input").unwrap_or_default())?;
    if let Destination::File(output) = Destination::of(text(matches, "output"))?
        && output.exists()
    {
        return Err(Error::usage("is a file")
            .at(output)
            .with_expected("-o FOLDER, the name of a new folder"));
    }
    let questions = read_questions(path, false, OnBadRow::Stop)?.items;
    let voice = Voice::of(matches);
    if let Some(unsure) = prepared.abstains().1 {
        voice.note(unsure);
    }
    let search = prepared.search();
    let set = Contexts::build(
        prepared.tokenizer(),
        questions.clone(),
        prepared.max_length,
        prepared.stride(),
        false,
    )?;
    let (head, _) = prepared.head(model)?;
    let mut found = Found::new(search, &set);
    let batches = prepared.batches(&set, head)?;
    prepared.outputs(model, &batches, &voice, |batch, outputs| found.add(outputs, batch))?;
    let findings = found.findings();
    let [best, n_best, odds] = files(&questions, &findings);
    match text(matches, "output").filter(|o| *o != "-") {
        None => Destination::Stdout.write(|out| writeln!(out, "{best:#}"))?,
        Some(folder) => {
            let bytes = |v: &Value| format!("{v:#}\n").into_bytes();
            let files = [
                NamedFile::bytes("predictions.json", bytes(&best)),
                NamedFile::bytes("nbest_predictions.json", bytes(&n_best)),
                NamedFile::bytes("null_odds.json", bytes(&odds)),
            ];
            write_dir(&RealFs, Path::new(folder), &files)?;
        }
    }
    let none = findings.iter().filter(|f| f.answer.is_empty()).count();
    Ok(format!("{} questions: {none} without an answer", questions.len()))
}

fn files(questions: &[Question], findings: &[Finding]) -> [Value; 3] {
    let mut all = [Map::new(), Map::new(), Map::new()];
    for (q, f) in questions.iter().zip(findings) {
        all[0].insert(q.id.clone(), f.answer.as_str().into());
        let one = |c: &crate::tasks::Candidate| {
            json!({ "text": c.text, "probability": c.probability, "start_logit": c.start_logit, "end_logit": c.end_logit,
                "start": code_points(&q.context, c.bytes.start), "end": code_points(&q.context, c.bytes.end) })
        };
        all[1].insert(q.id.clone(), f.candidates.iter().map(one).collect());
        if let Some(odds) = f.null_odds.filter(|o| o.is_finite()) {
            all[2].insert(q.id.clone(), odds.into());
        }
    }
    all.map(Value::Object)
}
