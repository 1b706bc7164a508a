//! Where the results of a benchmark go: the terminal, JSON, CSV, an HTML page.

use crate::bench::{self, Report, csv, markdown, page};
use crate::checkpoint::real_path;
use crate::cli::options::{flag, json_arg, text};
use crate::cli::output::{Destination, say, say_json};
use crate::error::{Error, Result};
use clap::{Arg, ArgMatches};
use std::path::Path;

/// The options that this module reads.
pub fn args() -> [Arg; 3] {
    let file = |name, help| Arg::new(name).long(name).value_name("FILE").help(help);
    [
        json_arg(),
        file(
            "csv",
            "Also write the result as CSV, one row for each measurement; - writes it to standard output",
        ),
        file("html", "Also write the result as an HTML page with charts; - writes it to standard output"),
    ]
}

/// The destinations of a result. At most one of them is standard output; without one, a table for people goes
/// there.
pub struct Destinations {
    json: bool,
    csv: Option<Destination>,
    html: Option<Destination>,
}

impl Destinations {
    /// Reads the command line, before anything is measured.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if two results would go to the same place; those of
    /// [`Destination::of`].
    pub fn of(matches: &ArgMatches) -> Result<Destinations> {
        let named = |name| text(matches, name).map(|path| Destination::of(Some(path))).transpose();
        let all = Destinations { json: flag(matches, "json"), csv: named("csv")?, html: named("html")? };
        let printed = [
            ("--json", all.json),
            ("--csv -", all.csv == Some(Destination::Stdout)),
            ("--html -", all.html == Some(Destination::Stdout)),
        ];
        let printed: Vec<&str> = printed.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
        if printed.len() > 1 {
            return Err(Error::usage("several results would be written to standard output")
                .with_expected("at most one of --json, --csv - and --html -")
                .with_found(printed.join(" and "))
                .with_help("write the others to files: --csv FILE, --html FILE"));
        }
        if let (Some(csv), Some(html)) = (file(&all.csv), file(&all.html))
            && real_path(csv) == real_path(html)
        {
            return Err(Error::usage("--csv and --html name the same file")
                .at(csv)
                .with_help("give each a file of its own"));
        }
        Ok(all)
    }
    /// Refuses to overwrite files that the command reads.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage), naming the file.
    pub fn spare(&self, inputs: &[&Path]) -> Result<()> {
        let files = self.csv.iter().chain(&self.html);
        files.into_iter().try_for_each(|to| to.spare(inputs.iter().copied()))
    }
    /// Writes a result: `page` is the HTML, `table` the CSV. Each is made if it is wanted.
    ///
    /// # Errors
    /// [`Kind::Disk`](crate::error::Kind::Disk) if it cannot be written.
    pub fn write(
        &self,
        page: impl Fn() -> String,
        table: impl Fn() -> Result<String>,
        json: impl FnOnce() -> Result<serde_json::Value>,
        markdown: impl FnOnce() -> String,
    ) -> Result<()> {
        let put = |to: &Option<Destination>, text: &mut dyn FnMut() -> Result<String>| match to {
            Some(to) => text().and_then(|text| to.write(|out| out.write_all(text.as_bytes()))),
            None => Ok(()),
        };
        // A measurement takes long: a file that cannot be written does not keep the others from being
        // written.
        let csv = put(&self.csv, &mut || table());
        let html = put(&self.html, &mut || Ok(page()));
        let taken = [&self.csv, &self.html].contains(&&Some(Destination::Stdout));
        let printed = match (self.json, taken) {
            (true, _) => json().and_then(|json| say_json(&json)),
            (false, true) => Ok(()),
            (false, false) => say(markdown()),
        };
        csv.and(html).and(printed)
    }
    /// Writes the measurements of a report; the page also has the comparisons of its devices.
    ///
    /// # Errors
    /// As [`Destinations::write`].
    pub fn write_report(&self, report: &Report) -> Result<()> {
        let comparisons = match report.devices.len() {
            0 | 1 => Vec::new(),
            _ => bench::compare(report).unwrap_or_default(),
        };
        let json = || {
            serde_json::to_value(report)
                .map_err(|e| Error::data("a result is no JSON").with_found(e.to_string()))
        };
        let page = || page::page(report, &comparisons);
        self.write(page, || csv::report(report), json, || markdown::report(report))
    }
}

fn file(to: &Option<Destination>) -> Option<&Path> {
    match to {
        Some(Destination::File(path) | Destination::Special(path)) => Some(path),
        _ => None,
    }
}
