//! `tempra embed`: writes a vector for each text.

use super::idle;
use super::model::{self, settings, with_model};
use super::options::{open_device, text};
use super::output::Destination;
use super::style::Voice;
use crate::data::{Columns, Row, read_texts};
use crate::error::{Error, Result};
use crate::models::Outputs;
use crate::predict::{Folder, TextVector};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::path::Path;
use std::time::Instant;

pub fn define() -> Command {
    with_model(Command::new("embed"))
        .about("Write a vector for each text of a table")
        .long_about(
            "Writes a vector for each text of a table.\n\n\
             MODEL is any encoder. After training with task = \"similar\", the cosine of two vectors tells how similar two \
             texts are; `tempra predict MODEL --sentence A --pair B` prints it.\n\n\
             The pooling is that of training, else the mean over the tokens of a text (--pooling cls: its first token). Each \
             vector is divided by its length, unless --raw is given. A folder of sentence-transformers sets pooling, lower \
             case, default prompt, maximum length and normalization by its files. tempra refuses a folder with a setting \
             that it does not support.\n\n\
             The output is JSON Lines with a list `embedding` in each row. With a name that ends in .npy it is a NumPy file: \
             f32, shape (rows, width).",
        )
        .after_help(
            "Examples:\n  \
             tempra embed models/all-MiniLM-L6-v2 texts.csv -o vectors.npy\n  \
             tempra embed runs/alike/model --text title papers.jsonl -o vectors.jsonl",
        )
        .arg(Arg::new("input").value_name("INPUT").required(true).help("Table of texts: .csv, .tsv, .jsonl or .parquet; - is CSV on standard input"))
        .arg(
            Arg::new("output")
                .short('o')
                .long("output")
                .value_name("FILE")
                .help("File to write, .jsonl or .npy [default: JSON Lines to standard output]"),
        )
        .arg(Arg::new("pooling").long("pooling").value_name("HOW").value_parser(["mean", "cls"]).help(
            "Pooling of the tokens' vectors: their mean, or the first token [default: as in training, else mean]",
        ))
        .arg(
            Arg::new("raw")
                .long("raw")
                .action(ArgAction::SetTrue)
                .help("Do not divide the vectors by their length"),
        )
        .arg(
            Arg::new("normalize").long("normalize").action(ArgAction::SetTrue).conflicts_with("raw").help(
                "Divide the vectors by their length, even if a sentence-transformers folder has no module for it",
            ),
        )
}

pub fn run(matches: &ArgMatches) -> Result<i32> {
    let (voice, start) = (Voice::of(matches), Instant::now());
    let input = text(matches, "input").unwrap_or_default();
    let output = text(matches, "output");
    let numpy = numpy_file(output)?;
    let destination = Destination::of(output)?;
    destination.spare([Path::new(input)])?;
    let device = open_device(matches)?;
    let folder = Folder::for_vectors(text(matches, "model").unwrap_or_default(), settings(matches))?;
    model::warn(&folder, &voice);
    destination.spare([folder.dir.as_path()])?;
    idle::warn("embed", matches, (&Outputs::Embedding, folder.several), false, &voice);
    let columns = Columns { pair: None, label: None, ..folder.columns.clone() };
    let records = read_texts(input, None, &columns)?;
    let session = model::load(folder, device, matches, &voice)?;
    let rows = records.inputs().into_iter().zip(&records.lines);
    let rows = rows.map(|((text, _), &line)| Row { line, ..text.into() });
    let vectors: Vec<TextVector> = session.embed(rows).collect::<Result<_>>()?;
    let width = session.width();
    destination.write(|out| {
        if numpy {
            out.write_all(&npy_header(vectors.len(), width))?;
            return vectors.iter().flat_map(|v| &v.values).try_for_each(|x| out.write_all(&x.to_le_bytes()));
        }
        vectors.iter().try_for_each(|v| writeln!(out, "{}", serde_json::json!({ "embedding": v.values })))
    })?;
    voice.note(format!(
        "{} vectors of width {width} in {:.1} s on {}",
        vectors.len(),
        start.elapsed().as_secs_f64(),
        session.device().caps().label()
    ));
    model::warn_cut(&session, vectors.iter().filter(|v| v.lost > 0).count(), vectors.len(), &voice);
    Ok(0)
}

/// Whether the output is NumPy's file format, by its name.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for the name of another format.
fn numpy_file(output: Option<&str>) -> Result<bool> {
    let Some(output) = output else { return Ok(false) };
    let extension = Path::new(output).extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        Some("npy") => Ok(true),
        Some(other @ ("csv" | "tsv" | "json" | "parquet" | "npz" | "txt" | "safetensors")) => {
            Err(Error::usage(format!("vectors are not written as .{other}"))
                .at(output)
                .with_expected("a name that ends in .npy (NumPy) or .jsonl (JSON Lines)")
                .with_help("choose one of these with -o"))
        }
        _ => Ok(false),
    }
}

/// The header of NumPy's file format 1.0: f32, little endian, row-major. Its length is a multiple of 64
/// bytes.
fn npy_header(rows: usize, width: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text += &" ".repeat(length - text.len() - 1);
    text.push('\n');
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend((length as u16).to_le_bytes());
    head.extend(text.into_bytes());
    head
}
