//! Measures edge proxies beside each other; see [`isobar_tests::peers`] for the method.

use std::process::ExitCode;

use clap::Parser;
use isobar_tests::peers;

fn main() -> ExitCode {
    match peers::main(peers::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}
