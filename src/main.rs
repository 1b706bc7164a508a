//! The program: everything is in the library.

fn main() {
    tempra::train::started();
    std::process::exit(tempra::cli::main())
}
