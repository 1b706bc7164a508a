//! Predictions that are not columns of a table: tags of words, answers to questions.

use super::input::Input;
use super::model::Prepared;
use super::options::text;
use super::output::Destination;
use super::predict::{Form, counted};
use super::readable::{SHOWN, aligned, one_line, probability};
use super::style::Voice;
use crate::checkpoint::{NamedFile, RealFs, write_dir};
use crate::data::{Contexts, Question, Span, TagFormat, TaggedText, Words};
use crate::error::{Error, Result};
use crate::models::Model;
use crate::tasks::{Candidate, Finding, Found, Meter, Tagged};
use clap::ArgMatches;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Characters of the context that are shown on each side of an answer.
const AROUND: usize = 40;

/// Tags every word of every sentence, also beyond the longest input: long sentences are read in windows.
pub fn tags(
    input: &Input,
    prepared: &Prepared,
    model: &Model,
    names: &[String],
    (form, destination): (Form, &Destination),
    voice: &Voice,
) -> Result<String> {
    let (format, strict, _) = prepared.tag_format(names);
    prepared.odd_labels(names).into_iter().for_each(|odd| voice.warn(odd));
    let sentences = input.sentences(prepared, names, (format, strict))?;
    let words: Vec<Vec<String>> = sentences.iter().map(|s| s.sentence.words.clone()).collect();
    let set = Words::build(prepared.tokenizer(), &words, None, prepared.max_length, prepared.stride())?;
    let (head, _) = prepared.head(model)?;
    let mut tagged = Tagged::new(names, format, strict, &set);
    let batches = prepared.batches(&set, head)?;
    prepared.outputs(model, &batches, voice, |batch, outputs| tagged.add(outputs, batch))?;
    let name = |c: u32| names.get(c as usize).map_or("O", String::as_str);
    let read = |tags: &Vec<(u32, f32)>| tagged.spans(&tags.iter().map(|t| name(t.0)).collect::<Vec<_>>());
    let spans: Vec<Vec<Span>> = tagged.tags.iter().map(read).collect::<Result<_>>()?;
    destination.write(|out| {
        for (i, ((sentence, tags), spans)) in sentences.iter().zip(&tagged.tags).zip(&spans).enumerate() {
            let tags: Vec<(&str, f32)> = tags.iter().map(|&(c, p)| (name(c), p)).collect();
            match form {
                Form::Jsonl => writeln!(out, "{}", of_sentence(sentence, &tags, spans))?,
                Form::Csv => {
                    for (word, (tag, _)) in sentence.sentence.words.iter().zip(&tags) {
                        writeln!(out, "{word}\t{tag}")?;
                    }
                    writeln!(out)?;
                }
                Form::Text => {
                    let apart = if i > 0 { "\n" } else { "" };
                    write!(out, "{apart}{}", shown_sentence(sentence, &tags, spans, format))?;
                }
            }
        }
        Ok(())
    })?;
    let found: usize = spans.iter().map(Vec::len).sum();
    let what = match (format, found) {
        (TagFormat::Words, _) => format!("{} with a tag other than O", counted(found, "word")),
        (_, 1) => "1 entity".to_owned(),
        _ => format!("{found} entities"),
    };
    Ok(format!("{}: {what}", counted(sentences.len(), "sentence")))
}

/// The least probability of the tags of a span, which is that of the entity.
fn least(tags: &[(&str, f32)], span: &Span) -> f32 {
    tags.get(span.start..span.end).unwrap_or_default().iter().map(|t| t.1).fold(1.0, f32::min)
}

/// Where an entity stands in its text: the bytes.
fn bytes(tagged: &TaggedText, span: &Span) -> Option<(usize, usize)> {
    let (_, ranges) = tagged.text.as_ref()?;
    Some((ranges.get(span.start)?.start, ranges.get(span.end.checked_sub(1)?)?.end))
}

/// A sentence for a person: its text, then a line for each entity or, of tags that are no spans, for each word.
fn shown_sentence(tagged: &TaggedText, tags: &[(&str, f32)], spans: &[Span], format: TagFormat) -> String {
    let words = &tagged.sentence.words;
    let text = tagged.text.as_ref().map(|(text, _)| text.text.as_str());
    let inside = |s: &Span| words.get(s.start..s.end).unwrap_or_default().join(" ");
    let entity = |s: &Span| {
        let mut row = vec![format!("  {}", s.label), probability(f64::from(least(tags, s)))];
        match bytes(tagged, s).zip(text) {
            Some(((start, end), text)) => {
                row.push(one_line(text.get(start..end).unwrap_or_default()));
                row.push(format!("({}-{})", code_points(text, start), code_points(text, end)));
            }
            None => row.push(one_line(&inside(s))),
        }
        row
    };
    let word = |(word, (tag, p)): (&String, &(&str, f32))| {
        vec![format!("  {tag}"), probability(f64::from(*p)), one_line(word)]
    };
    let rows: Vec<Vec<String>> = match format {
        TagFormat::Words => words.iter().zip(tags).map(word).collect(),
        _ => spans.iter().map(entity).collect(),
    };
    let mut lines = vec![one_line(&text.map_or_else(|| words.join(" "), str::to_owned))];
    match rows.is_empty() {
        true => lines.push("  no entities".to_owned()),
        false => lines.extend(aligned(&rows, 1)),
    }
    lines.join("\n") + "\n"
}

/// A sentence as a line: words, tags and entities, these in words and, of a text, in characters (Unicode code points). Of tags
/// that are no spans every word whose tag is not `O` is an entity.
fn of_sentence(tagged: &TaggedText, tags: &[(&str, f32)], spans: &[Span]) -> Value {
    let words = &tagged.sentence.words;
    let one = |s: &Span| {
        let inside = words.get(s.start..s.end).unwrap_or_default().join(" ");
        let least = least(tags, s);
        let mut entity =
            json!({ "type": s.label, "words": [s.start, s.end], "text": inside, "probability": least });
        if let (Some((text, _)), Some((start, end))) = (&tagged.text, bytes(tagged, s)) {
            let text = &text.text;
            entity["text"] = text.get(start..end).unwrap_or_default().into();
            entity["start"] = code_points(text, start).into();
            entity["end"] = code_points(text, end).into();
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

/// The number of Unicode code points before a byte of a text: the index in Python.
fn code_points(text: &str, byte: usize) -> usize {
    text.get(..byte).map_or(0, |t| t.chars().count())
}

/// Finds the answer to every question. Written as CSV, which answers are not: with `-o FOLDER` `predictions.json`,
/// `nbest_predictions.json` and `null_odds.json` there, as SQuAD's scripts read them (`start` and `end` in Unicode code points of
/// the context); otherwise the first of them to standard output.
pub fn answers(
    input: &Input,
    prepared: &Prepared,
    model: &Model,
    (form, matches): (Form, &ArgMatches),
    voice: &Voice,
) -> Result<String> {
    let output = text(matches, "output");
    let destination = Destination::of(output)?;
    if let (Form::Csv, Destination::File(output)) = (form, &destination)
        && output.exists()
    {
        return Err(Error::usage("the output is a file that exists")
            .at(output)
            .with_expected("the name of a new folder, for three files of answers")
            .with_help("give -o the name of a new folder, or add --format jsonl"));
    }
    let questions = input.questions()?;
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
    )
    .map_err(Prepared::window_error)?;
    let (head, _) = prepared.head(model)?;
    let mut found = Found::new(search, &set);
    let batches = prepared.batches(&set, head)?;
    prepared.outputs(model, &batches, voice, |batch, outputs| found.add(outputs, batch))?;
    let findings = found.findings();
    let all = || questions.iter().zip(&findings);
    match (form, output.filter(|o| *o != "-")) {
        (Form::Text, _) => destination.write(|out| {
            all().enumerate().try_for_each(|(i, (question, finding))| {
                let apart = if i > 0 { "\n" } else { "" };
                write!(out, "{apart}{}", shown_answer(question, finding))
            })
        })?,
        (Form::Jsonl, _) => destination.write(|out| {
            all().try_for_each(|(question, finding)| writeln!(out, "{}", of_question(question, finding)))
        })?,
        (Form::Csv, None) => {
            let [best, ..] = files(&questions, &findings);
            Destination::Stdout.write(|out| writeln!(out, "{best:#}"))?
        }
        (Form::Csv, Some(folder)) => {
            let bytes = |v: &Value| format!("{v:#}\n").into_bytes();
            let [best, n_best, odds] = files(&questions, &findings);
            let files = [
                NamedFile::bytes("predictions.json", bytes(&best)),
                NamedFile::bytes("nbest_predictions.json", bytes(&n_best)),
                NamedFile::bytes("null_odds.json", bytes(&odds)),
            ];
            write_dir(&RealFs, Path::new(folder), &files)?;
        }
    }
    let answered = findings.iter().filter(|f| !f.answer.is_empty()).count();
    Ok(format!("{}: {answered} answered", counted(questions.len(), "question")))
}

/// The candidates of a question, the answer that is given first.
fn ranked(finding: &Finding) -> Vec<&Candidate> {
    let given = |c: &&&Candidate| c.text == finding.answer;
    let first = finding.candidates.iter().find(|c| given(&c)).into_iter();
    let is_first = |c: &&Candidate| first.clone().any(|f| std::ptr::eq(f, *c));
    first.clone().chain(finding.candidates.iter().filter(|c| !is_first(c))).collect()
}

/// An answer as a line of JSON; one that is empty has no place.
fn of_question(question: &Question, finding: &Finding) -> Value {
    let best = ranked(finding).first().copied();
    let place = best.filter(|c| !c.text.is_empty()).map(|c| &c.bytes);
    let point = |byte: usize| code_points(&question.context, byte);
    json!({
        "id": question.id, "question": question.question, "answer": finding.answer,
        "probability": best.map(|c| c.probability),
        "start": place.map(|b| point(b.start)), "end": place.map(|b| point(b.end)),
    })
}

/// A question for a person: the likeliest answers, and the first of them in its context.
fn shown_answer(question: &Question, finding: &Finding) -> String {
    let context = &question.context;
    let ranked = ranked(finding);
    let row = |c: &&Candidate| match c.text.is_empty() {
        true => vec!["  no answer".to_owned(), probability(c.probability)],
        false => {
            let (start, end) = (code_points(context, c.bytes.start), code_points(context, c.bytes.end));
            vec![format!("  {}", one_line(&c.text)), probability(c.probability), format!("({start}-{end})")]
        }
    };
    let rows: Vec<Vec<String>> = ranked.iter().take(SHOWN).map(row).collect();
    let mut lines = vec![one_line(&question.question)];
    lines.extend(aligned(&rows, 1));
    if let Some(best) = ranked.first().filter(|c| !c.text.is_empty()) {
        let before = context.get(..best.bytes.start).unwrap_or_default();
        let after = context.get(best.bytes.end..).unwrap_or_default();
        // Cut between words where there is a space.
        let cut = before.char_indices().rev().nth(AROUND - 1).map_or(0, |(i, _)| i);
        let space = before[cut..].find(char::is_whitespace).filter(|_| cut > 0);
        let cut = cut + space.unwrap_or(0);
        let end = after.char_indices().nth(AROUND).map_or(after.len(), |(i, _)| i);
        let space = after[..end].rfind(char::is_whitespace).filter(|_| end < after.len());
        let end = space.unwrap_or(end);
        let dots = |cut: bool| if cut { "..." } else { "" };
        lines.push(format!(
            "  {}{}",
            dots(cut > 0),
            one_line(&format!("{}[{}]{}", &before[cut..], best.text, &after[..end]))
                + dots(end < after.len())
        ));
    }
    lines.join("\n") + "\n"
}

fn files(questions: &[Question], findings: &[Finding]) -> [Value; 3] {
    let mut all = [Map::new(), Map::new(), Map::new()];
    for (q, f) in questions.iter().zip(findings) {
        all[0].insert(q.id.clone(), f.answer.as_str().into());
        let one = |c: &Candidate| {
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
