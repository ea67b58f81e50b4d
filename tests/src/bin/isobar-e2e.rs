//! `isobar` itself, built beside the suites so that they can start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    isobar_cli::main()
}
