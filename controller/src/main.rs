//! `isobar-controller`: see [`isobar_controller::cli`].

fn main() -> std::process::ExitCode {
    isobar_controller::cli::main()
}
