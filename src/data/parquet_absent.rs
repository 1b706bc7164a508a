//! The stand-in where Parquet was left out.

use std::path::Path;

use super::record::Rows;
use crate::error::{Error, Result};

pub(super) fn open(path: &Path, _columns: Option<&[&str]>) -> Result<Box<dyn Rows>> {
    Err(Error::data("this build of tempra does not read Parquet")
        .at(path)
        .with_help("build tempra with `cargo build --release --features parquet`, or convert the file to CSV or JSON Lines"))
}
