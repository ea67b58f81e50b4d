//! The programs of the mesh, run from this one: as children of a replay, or by hand.
//!
//! A replay's children run with `--with-parent`: they end when their standard
//! input does, so nothing outlives the replay.

use std::time::Duration;

use anyhow::{Context, anyhow};
use isobar_replay::cluster::lifeline;
use isobar_replay::cluster::places;
use tokio_util::sync::CancellationToken;

use crate::arguments::ProgramArguments;
use crate::{Failure, Outcome, terminal};

/// A program that should have ended by itself this long after it was told to is ended.
const END_MAX: Duration = Duration::from_secs(15);

/// Runs a controller until it is told to end.
///
/// # Errors
/// [`Failure::Input`] for a wrong configuration, [`Failure::Run`] for the rest.
pub fn controller(arguments: &ProgramArguments) -> Outcome {
    let config = isobar_controller::config::Config::read(&arguments.config)
        .map_err(|error| Failure::Input(error.into()))?;
    run(arguments, async |shutdown| {
        let ran = isobar_controller::program::run(config, shutdown).await;
        ran.map_err(anyhow::Error::from)
    })
}

/// Runs an edge proxy until it is told to end.
///
/// # Errors
/// [`Failure::Input`] for a wrong configuration, [`Failure::Run`] for the rest.
pub fn proxy(arguments: &ProgramArguments) -> Outcome {
    let config = isobar_edge_proxy::config::Config::read(&arguments.config)
        .map_err(|error| Failure::Input(error.into()))?;
    run(arguments, async |shutdown| {
        let ran = isobar_edge_proxy::program::run(config, shutdown).await;
        ran.map_err(anyhow::Error::from)
    })
}

/// Runs the endpoints and links of a replay until told to end.
///
/// # Errors
/// [`Failure::Input`] for a wrong configuration, [`Failure::Run`] for the rest.
pub fn places(arguments: &ProgramArguments) -> Outcome {
    let config =
        places::read_config(&arguments.config).map_err(|error| Failure::Input(error.into()))?;
    run(arguments, async |shutdown| {
        places::run(config, shutdown)
            .await
            .map_err(anyhow::Error::from)
    })
}

/// Runs one program with its log, its signals and, if it has one, its parent.
fn run(
    arguments: &ProgramArguments,
    program: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> Outcome {
    isobar_mesh_api::log_level::install(None, false)
        .map_err(|error| Failure::Input(error.into()))?;
    let with_parent = arguments.with_parent;
    let ran = terminal::until_stopped(async |shutdown| {
        if with_parent {
            lifeline::watch_parent(shutdown.clone()).context("watching the parent")?;
        }
        let told = shutdown.clone();
        tokio::select! {
            ended = program(shutdown) => ended,
            () = overdue(&told) => {
                Err(anyhow!("did not end within {} s of being told to", END_MAX.as_secs()))
            }
        }
    });
    ran.and_then(|ended| ended).map_err(Failure::Run)
}

async fn overdue(told: &CancellationToken) {
    told.cancelled().await;
    tokio::time::sleep(END_MAX).await;
}
