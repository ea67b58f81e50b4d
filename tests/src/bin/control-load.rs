//! Loads a controller with many simulated proxies; see [`isobar_tests::control_load`] for the method.

use std::process::ExitCode;

use clap::Parser;
use isobar_tests::control_load;

fn main() -> ExitCode {
    match control_load::main(control_load::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("control-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
