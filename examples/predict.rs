//! Predicts a line of standard input at a time with a model folder:
//! `cargo run --example predict -- runs/reviews/model`.

use tempra::device::Device;
use tempra::error::Result;
use tempra::predict::{Session, Settings};

fn main() -> Result<()> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "runs/reviews/model".to_owned());
    // Each line is answered before the next is read.
    let settings = Settings { chunk: 1, ..Settings::default() };
    let session = Session::open(&model, Device::open("auto", 0)?, settings)?;
    for prediction in session.predict(std::io::stdin().lines().map_while(std::io::Result::ok)) {
        println!("{}", prediction?);
    }
    Ok(())
}
