//! `isobar`, the operator's tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    isobar_cli::main()
}
