//! `isobar-proxy`: the edge proxy of Isobar.

use std::process::ExitCode;

fn main() -> ExitCode {
    isobar_edge_proxy::cli::main(std::env::args_os())
}
