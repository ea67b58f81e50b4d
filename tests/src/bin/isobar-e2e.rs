//! The three programs, built beside the suites so that they can start them: `isobar`, or the one whose name this one is started by.

use std::process::ExitCode;

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&called).file_name();
    match name.and_then(std::ffi::OsStr::to_str) {
        Some("isobar-controller") => isobar_controller::cli::main(),
        Some("isobar-proxy") => isobar_edge_proxy::cli::main(std::env::args_os()),
        _ => isobar_cli::main(),
    }
}
