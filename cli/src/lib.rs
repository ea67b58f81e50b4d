//! `isobar`, the operator's tool: thin over the programs of the mesh and over replays.
//!
//! In reading order:
//!
//! - [`arguments`]: what may be written on the command line;
//! - [`demo`]: one night, twice, on real processes, with a verdict;
//! - [`replay`]: a spike under several policies, simulated or real;
//! - [`mesh`]: a running mesh, seen and steered;
//! - [`install`], [`upgrade`], [`check`], [`inject`]: the manifests for Kubernetes, what they would change, whether a cluster can have them
//!   and works, the proxy in an application's own; [`kubectl`]: how the cluster is asked;
//! - [`program`]: the programs themselves, as children of a replay or by hand;
//! - [`terminal`]: what a person sees meanwhile.
//!
//! Exit status: 0 = done, 1 = failed, or the demo's verdict is a fail,
//! 2 = wrong usage or input; [`mesh`] has some more.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

pub mod arguments;
pub mod check;
pub mod demo;
pub mod inject;
pub mod install;
pub mod kubectl;
pub mod mesh;
pub mod program;
pub mod replay;
pub mod terminal;
pub mod upgrade;

use arguments::{Arguments, Command};

/// Exit status for wrong usage or input.
const EXIT_USAGE: u8 = 2;

/// Why a command ends.
#[derive(Debug)]
pub enum Failure {
    /// What was written, or a file it names, is wrong.
    Input(anyhow::Error),
    /// Something that should have worked did not.
    Run(anyhow::Error),
    /// It ran and the answer is no; everything has been said.
    Verdict,
    /// Something that should have worked did not, in a way that has an exit status of its own.
    Exit(u8, anyhow::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Input(error) | Failure::Run(error) | Failure::Exit(_, error) => {
                write!(f, "{error:#}")
            }
            Failure::Verdict => f.write_str("no"),
        }
    }
}

/// What a command ends with.
pub type Outcome = Result<(), Failure>;

/// Reads the command line, does what it says.
pub fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Verdict) => ExitCode::FAILURE,
        Err(Failure::Run(error)) => {
            eprintln!("isobar: {error:#}");
            ExitCode::FAILURE
        }
        Err(Failure::Input(error)) => {
            eprintln!("isobar: {error:#}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Exit(code, error)) => {
            eprintln!("isobar: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Install(arguments) => install::install(&arguments),
        Command::Upgrade(arguments) => upgrade::run(&arguments),
        Command::Inject(arguments) => inject::run(&arguments),
        Command::Uninstall(arguments) => install::uninstall(&arguments),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "isobar", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { directory } => {
            let pages = || -> anyhow::Result<()> {
                std::fs::create_dir_all(&directory)?;
                Ok(clap_mangen::generate_to(Arguments::command(), &directory)?)
            };
            let shown = directory.display();
            pages().map_err(|error| Failure::Run(error.context(format!("cannot write to {shown}"))))
        }
        Command::Mesh(command) => mesh::run(&command),
        Command::Controller(arguments) => program::controller(&arguments),
        Command::Proxy(arguments) => program::proxy(&arguments),
        Command::Places(arguments) => program::places(&arguments),
    }
}
