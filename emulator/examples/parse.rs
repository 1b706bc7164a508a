fn main() {
    for f in std::env::args().skip(1) {
        match emulator::parse(&std::fs::read_to_string(&f).unwrap()) {
            Ok(m) => println!(
                "{f}: {:?}",
                m.kernels.iter().map(|k| (k.name.as_str(), k.code.len())).collect::<Vec<_>>()
            ),
            Err(e) => println!("{f}: {e}"),
        }
    }
}
