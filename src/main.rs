//! The program `erisfs`; everything is in the library.

fn main() -> std::process::ExitCode {
    erisfs::cli::main()
}
