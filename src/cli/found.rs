//! Predictions that are not columns of a table: tags of words, answers to questions.

use super::input::Input;
use super::options::text;
use super::output::Destination;
use super::predict::{Form, counted};
use super::readable::{SHOWN, aligned, one_line, probability};
use super::style::Voice;
use crate::checkpoint::{NamedFile, RealFs, write_dir};
use crate::data::{Span, TagFormat};
use crate::error::{Error, Result};
use crate::predict::{Answered, SentenceTags, Session};
use crate::tasks::{Candidate, Finding};
use clap::ArgMatches;
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::path::Path;

/// Characters of the context that are shown on each side of an answer.
const AROUND: usize = 40;

/// Tags every word of every sentence, also beyond the longest input: long sentences are read in windows.
pub fn tags(
    input: &Input,
    session: &Session,
    names: &[String],
    (form, destination): (Form, &Destination),
    voice: &Voice,
) -> Result<String> {
    let (format, _) = session.tag_format();
    session.odd_labels().into_iter().for_each(|odd| voice.warn(odd));
    let sentences = input.sentences(session, names)?;
    let tagged: Vec<SentenceTags> = session.tags(sentences.into_iter().map(Ok)).collect::<Result<_>>()?;
    destination.write(|out| {
        for (i, one) in tagged.iter().enumerate() {
            match form {
                Form::Jsonl => writeln!(out, "{}", of_sentence(one))?,
                Form::Csv => {
                    for (word, (tag, _)) in one.sentence.sentence.words.iter().zip(&one.tags) {
                        writeln!(out, "{word}\t{tag}")?;
                    }
                    writeln!(out)?;
                }
                Form::Text => {
                    let apart = if i > 0 { "\n" } else { "" };
                    write!(out, "{apart}{}", shown_sentence(one, format))?;
                }
            }
        }
        Ok(())
    })?;
    let found: usize = tagged.iter().map(|one| one.spans.len()).sum();
    let what = match (format, found) {
        (TagFormat::Words, _) => format!("{} with a tag other than O", counted(found, "word")),
        (_, 1) => "1 entity".to_owned(),
        _ => format!("{found} entities"),
    };
    Ok(format!("{}: {what}", counted(tagged.len(), "sentence")))
}

/// A sentence for a person: its text, then a line for each entity or, of tags that are no spans, for each
/// word.
fn shown_sentence(tagged: &SentenceTags, format: TagFormat) -> String {
    let SentenceTags { sentence, tags, spans } = tagged;
    let words = &sentence.sentence.words;
    let text = sentence.text.as_ref().map(|(text, _)| text.text.as_str());
    let inside = |s: &Span| words.get(s.start..s.end).unwrap_or_default().join(" ");
    let entity = |s: &Span| {
        let mut row = vec![format!("  {}", s.label), probability(f64::from(tagged.probability(s)))];
        match tagged.bytes(s).zip(text) {
            Some((Range { start, end }, text)) => {
                row.push(one_line(text.get(start..end).unwrap_or_default()));
                row.push(format!("({}-{})", code_points(text, start), code_points(text, end)));
            }
            None => row.push(one_line(&inside(s))),
        }
        row
    };
    let word = |(word, (tag, p)): (&String, &(String, f32))| {
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

/// A sentence as a line: words, tags and entities, these in words and, of a text, in characters (Unicode code
/// points). Of tags that are no spans every word whose tag is not `O` is an entity.
fn of_sentence(tagged: &SentenceTags) -> Value {
    let SentenceTags { sentence, tags, spans } = tagged;
    let words = &sentence.sentence.words;
    let one = |s: &Span| {
        let inside = words.get(s.start..s.end).unwrap_or_default().join(" ");
        let least = tagged.probability(s);
        let mut entity =
            json!({ "type": s.label, "words": [s.start, s.end], "text": inside, "probability": least });
        if let (Some((text, _)), Some(Range { start, end })) = (&sentence.text, tagged.bytes(s)) {
            let text = &text.text;
            entity["text"] = text.get(start..end).unwrap_or_default().into();
            entity["start"] = code_points(text, start).into();
            entity["end"] = code_points(text, end).into();
        }
        entity
    };
    let entities: Vec<Value> = spans.iter().map(one).collect();
    match &sentence.text {
        Some((text, _)) => json!({ "text": text.text, "entities": entities }),
        None => {
            let tags: Vec<&str> = tags.iter().map(|t| t.0.as_str()).collect();
            json!({ "words": words, "tags": tags, "entities": entities })
        }
    }
}

/// The number of Unicode code points before a byte of a text: the index in Python.
fn code_points(text: &str, byte: usize) -> usize {
    text.get(..byte).map_or(0, |t| t.chars().count())
}

/// Finds the answer to every question. Written as CSV, which answers are not: with `-o FOLDER`
/// `predictions.json`, `nbest_predictions.json` and `null_odds.json` there, as SQuAD's scripts read them
/// (`start` and `end` in Unicode code points of the context); otherwise the first of them to standard output.
pub fn answers(
    input: &Input,
    session: &Session,
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
    super::model::warn_uncertain(session, matches, voice);
    let answered: Vec<Answered> = session.answers(questions.into_iter().map(Ok)).collect::<Result<_>>()?;
    match (form, output.filter(|o| *o != "-")) {
        (Form::Text, _) => destination.write(|out| {
            answered.iter().enumerate().try_for_each(|(i, one)| {
                let apart = if i > 0 { "\n" } else { "" };
                write!(out, "{apart}{}", shown_answer(one))
            })
        })?,
        (Form::Jsonl, _) => destination
            .write(|out| answered.iter().try_for_each(|one| writeln!(out, "{}", of_question(one))))?,
        (Form::Csv, None) => {
            let [best, ..] = files(&answered);
            Destination::Stdout.write(|out| writeln!(out, "{best:#}"))?
        }
        (Form::Csv, Some(folder)) => {
            let bytes = |v: &Value| format!("{v:#}\n").into_bytes();
            let [best, n_best, odds] = files(&answered);
            let files = [
                NamedFile::bytes("predictions.json", bytes(&best)),
                NamedFile::bytes("nbest_predictions.json", bytes(&n_best)),
                NamedFile::bytes("null_odds.json", bytes(&odds)),
            ];
            write_dir(&RealFs, Path::new(folder), &files)?;
        }
    }
    let given = answered.iter().filter(|one| !one.finding.answer.is_empty()).count();
    Ok(format!("{}: {given} answered", counted(answered.len(), "question")))
}

/// The candidates of a question, the answer that is given first.
fn ranked(finding: &Finding) -> Vec<&Candidate> {
    let given = |c: &&&Candidate| c.text == finding.answer;
    let first = finding.candidates.iter().find(|c| given(&c)).into_iter();
    let is_first = |c: &&Candidate| first.clone().any(|f| std::ptr::eq(f, *c));
    first.clone().chain(finding.candidates.iter().filter(|c| !is_first(c))).collect()
}

/// An answer as a line of JSON; one that is empty has no place.
fn of_question(Answered { question, finding }: &Answered) -> Value {
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
fn shown_answer(Answered { question, finding }: &Answered) -> String {
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

fn files(answered: &[Answered]) -> [Value; 3] {
    let mut all = [Map::new(), Map::new(), Map::new()];
    for Answered { question: q, finding: f } in answered {
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
