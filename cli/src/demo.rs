//! `isobar demo`: one night, twice, on real processes, with a verdict.
//!
//! The same arrivals, to the microsecond, meet the same servers: first
//! home-only, as if there were no mesh, then with Isobar.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use isobar_mesh_api::resource::Algorithm;
use isobar_replay::cluster::ClusterError;
use isobar_replay::cluster::record::Record;
use isobar_replay::cluster::run::{Experiment, Moment, Seen};
use tokio_util::sync::CancellationToken;

use crate::arguments::DemoArguments;
use crate::replay::{check_writable, write};
use crate::terminal::{self, Picture, Status};
use crate::{Failure, Outcome};

pub mod night;
pub mod page;
pub mod verdict;
pub mod view;

use night::{Night, WARM_UP_S};
use verdict::Verdict;
use view::View;

/// Seconds that the night takes.
const REPLAYED_S: f64 = 60.0;
/// The same with `--quick`.
const REPLAYED_QUICK_S: f64 = 20.0;

/// One of the two runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Everything is served where it enters.
    HomeOnly,
    /// Neighbours carry each other's peaks.
    Isobar,
}

impl Act {
    /// What a person reads.
    pub fn title(self) -> &'static str {
        match self {
            Act::HomeOnly => "home-only",
            Act::Isobar => "Isobar",
        }
    }

    /// What the JSON says, as in a replay.
    pub fn policy(self) -> &'static str {
        match self {
            Act::HomeOnly => "home",
            Act::Isobar => "convex",
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Act::HomeOnly => Algorithm::Off,
            Act::Isobar => Algorithm::Convex,
        }
    }
}

/// Shows the night.
///
/// # Errors
/// [`Failure::Verdict`] when the verdict is a fail; see [`Failure`].
pub fn run(arguments: &DemoArguments) -> Outcome {
    for file in [Some(&arguments.html), arguments.json.as_ref()]
        .into_iter()
        .flatten()
    {
        check_writable(file).map_err(Failure::Input)?;
    }
    let replayed_s = if arguments.quick {
        REPLAYED_QUICK_S
    } else {
        REPLAYED_S
    };
    let night = Night::new(replayed_s)
        .context("reading the night")
        .map_err(Failure::Run)?;
    let night = Arc::new(night);
    introduce(&night);
    let runs = terminal::until_stopped(async |stop| both(&night, arguments.seed, &stop).await);
    let (home, isobar) = runs.and_then(|runs| runs).map_err(Failure::Run)?;

    let verdict = Verdict::new(&home, &isobar);
    println!("\n{}", verdict.table());
    let page = page::page(&night, &home, &isobar, &verdict);
    write(&arguments.html, &page).map_err(Failure::Run)?;
    if let Some(file) = &arguments.json {
        write(file, &verdict.json(arguments.seed)).map_err(Failure::Run)?;
    }
    println!("Report: {}", shown(&arguments.html));
    match verdict.passed() {
        true => Ok(()),
        false => Err(Failure::Verdict),
    }
}

fn introduce(night: &Night) {
    let capacity_rps: f64 = (0..night.sites())
        .map(|site| night.capacity_rps(site))
        .sum();
    println!(
        "New Year's Eve in the centre of Auckland: {} sites, each with an edge server built for its \
         busiest ordinary\nevening. {:.0} requests/s at midnight, the city can do {capacity_rps:.0}; \
         9 hours in {:.0} s, first home-only, then with\nIsobar. Load: pedestrian counts of Heart of the \
         City Auckland (CC BY 4.0).\n",
        night.sites(),
        night::PEAK_RPS,
        night.replayed_s,
    );
}

async fn both(
    night: &Arc<Night>,
    seed: u64,
    stop: &CancellationToken,
) -> anyhow::Result<(Seen, Seen)> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut picture = Picture::new();
    let home = act(
        &program,
        night,
        Act::HomeOnly,
        seed,
        None,
        &mut picture,
        stop,
    )
    .await?;
    picture.keep();
    let before = Some(&home.record);
    let isobar = act(
        &program,
        night,
        Act::Isobar,
        seed,
        before,
        &mut picture,
        stop,
    )
    .await?;
    Ok((home, isobar))
}

async fn act(
    program: &Path,
    night: &Arc<Night>,
    act: Act,
    seed: u64,
    before: Option<&Record>,
    picture: &mut Picture,
    stop: &CancellationToken,
) -> anyhow::Result<Seen> {
    let (rate, hot) = (Arc::clone(night), Arc::clone(night));
    let experiment = Experiment {
        spec: night.cluster(act.algorithm(), seed),
        rate: Arc::new(move |site, at_s| rate.rate_rps(site, at_s)),
        hot: Arc::new(move |site, at_s| hot.is_hot(site, at_s)),
        duration_s: night.duration_s(),
        measure_from_s: WARM_UP_S,
        seed,
        faults: Vec::new(),
    };
    let status = Status::new();
    let say = |text: &str| status.say(&format!("{}: {text}", act.title()));
    let view = View {
        night,
        title: act.title(),
        before: before.map(|record| (Act::HomeOnly.title(), record)),
    };
    let mut watch = |moment: &Moment<'_>| {
        status.clear();
        picture.draw(|size| view.picture(moment, size), || view.line(moment));
    };
    let seen = isobar_replay::cluster::run::run(program, &experiment, stop, &say, &mut watch).await;
    status.clear();
    seen.map_err(|error| match error {
        ClusterError::Stopped => anyhow!("stopped"),
        error => error.into(),
    })
}

/// A path as a person can open it.
fn shown(file: &Path) -> String {
    let whole = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    whole.display().to_string()
}
