//! `isobar replay`: a spike under several policies, simulated or on real processes.

use std::path::Path;

use anyhow::{Context, anyhow};
use isobar_replay::cluster::ClusterError;
use isobar_replay::cluster::replay::{self as on_processes, ClusterOptions, ClusterReplayError};
use isobar_replay::regions::{RegionOptions, compare};
use isobar_replay::{Options, Report};

use crate::arguments::ReplayArguments;
use crate::terminal::{self, Status};
use crate::{Failure, Outcome};

/// Replays what the arguments say.
///
/// # Errors
/// [`Failure::Input`] for wrong options and files, [`Failure::Run`] for the rest.
pub fn run(arguments: &ReplayArguments) -> Outcome {
    let options = arguments.options();
    for file in [&arguments.json, &arguments.html].into_iter().flatten() {
        check_writable(file).map_err(Failure::Input)?;
    }
    if let Some(regions) = arguments.regions {
        return compare_regions(arguments, regions);
    }
    if !arguments.overflow.is_empty() {
        return overflow(arguments, &options);
    }
    let report = match arguments.cluster {
        true => real(arguments, &options)?,
        false => simulated(&options)?,
    };
    print!("{}", report.table());
    if let Some(file) = &arguments.json {
        write(file, &report.json()).map_err(Failure::Run)?;
    }
    if let Some(file) = &arguments.html {
        write(file, &report.html()).map_err(Failure::Run)?;
    }
    Ok(())
}

/// A mesh in regions beside the whole.
fn compare_regions(arguments: &ReplayArguments, regions: u32) -> Outcome {
    let status = Status::new();
    status.say("planning");
    let lines = compare(&RegionOptions {
        nodes: arguments.nodes,
        regions,
        rounds: arguments.rounds,
        base: arguments.base,
        seed: arguments.seed,
    });
    status.clear();
    let lines = lines.map_err(|error| Failure::Input(error.into()))?;
    println!(
        "{:9} {:>12} {:>11} {:>14} {:>9} {:>9} {:>8}",
        "plan", "unplaced rps", "moved rps", "over a border", "delay ms", "solve ms", "numbers"
    );
    for line in &lines {
        println!(
            "{:9} {:>12.0} {:>11.0} {:>14.0} {:>9.3} {:>9.1} {:>8}",
            line.plan,
            line.unplaced_rps,
            line.moved_rps,
            line.crossing_rps,
            line.delay_ms,
            line.solve_ms,
            line.told
        );
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&lines).context("writing the figures");
        write(file, &text.map_err(Failure::Run)?).map_err(Failure::Run)?;
    }
    Ok(())
}

/// What plans could place at best.
fn overflow(arguments: &ReplayArguments, options: &Options) -> Outcome {
    let wrong = |km: &&f64| !km.is_finite() || **km < 0.0;
    if let Some(km) = arguments.overflow.iter().find(wrong) {
        let text = anyhow!("--overflow: {km} is not a finite number of kilometres, 0 or more");
        return Err(Failure::Input(text));
    }
    let status = Status::new();
    let progress = |done, total| status.say(&format!("placing {done}/{total}"));
    let lines = isobar_replay::overflow::lines(options, &arguments.overflow, &progress);
    status.clear();
    let lines = lines.map_err(|error| Failure::Input(error.into()))?;
    println!(
        "{:20} {:>9} {:>5} {:>9} {:>9} {:>16} {:>16}",
        "bin", "radius km", "sites", "overflow", "unplaced", "with displacing", "moved displacing"
    );
    for line in &lines {
        let figures = &line.overflow;
        println!(
            "{:20} {:>9} {:>5} {:>9.0} {:>9.0} {:>16.0} {:>16.0}",
            line.start,
            line.radius_km,
            figures.full_sites,
            figures.overflow,
            figures.unplaced,
            figures.unplaced_displacing,
            figures.moved_displacing
        );
    }
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&lines).context("writing the figures");
        write(file, &text.map_err(Failure::Run)?).map_err(Failure::Run)?;
    }
    Ok(())
}

fn simulated(options: &Options) -> Result<Report, Failure> {
    let status = Status::new();
    status.say("replaying");
    let progress = |progress: isobar_replay::Progress| {
        status.say(&format!(
            "{}/{} replayed, last {} with seed {}",
            progress.done,
            progress.total,
            progress.policy.name(),
            progress.seed
        ));
    };
    let report = isobar_replay::run(options, &progress);
    status.clear();
    // Whatever stops the simulator is in the options or in a file they name.
    report.map_err(|error| Failure::Input(error.into()))
}

fn real(arguments: &ReplayArguments, options: &Options) -> Result<Report, Failure> {
    let program = std::env::current_exe()
        .context("finding this program")
        .map_err(Failure::Run)?;
    let cluster = ClusterOptions {
        proxy_down: arguments.proxy_down.clone(),
    };
    let status = Status::new();
    let say = |text: &str| status.say(text);
    let mut watch = |moment: &on_processes::ClusterMoment<'_>| {
        let now = moment.moment;
        status.say(&format!(
            "{}/{} {}, seed {}: {:.0} of {:.0} s, {} requests, {} failed, p99 {:.0} ms",
            moment.done + 1,
            moment.total,
            moment.policy.name(),
            moment.seed,
            now.at_s.clamp(0.0, now.duration_s),
            now.duration_s,
            now.record.counted().requests,
            now.record.counted().failures,
            now.record.total_ms(0.99),
        ));
    };
    let work = terminal::until_stopped(async |stop| {
        on_processes::run(&program, options, &cluster, &stop, &say, &mut watch).await
    });
    status.clear();
    work.map_err(Failure::Run)?.map_err(|error| match error {
        ClusterReplayError::Cluster(ClusterError::Stopped) => Failure::Run(anyhow!("stopped")),
        ClusterReplayError::Cluster(ClusterError::Nodes(_)) => Failure::Input(
            anyhow!(error).context("choose a smaller --grid, or leave out --cluster"),
        ),
        ClusterReplayError::Cluster(_) => Failure::Run(error.into()),
        _ => Failure::Input(error.into()),
    })
}

/// Whether a file can be written later: its directory must be there now.
pub(crate) fn check_writable(file: &Path) -> anyhow::Result<()> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if file.is_dir() {
        return Err(anyhow!("{} is a directory", file.display()));
    }
    match directory.is_dir() {
        true => Ok(()),
        false => Err(anyhow!(
            "there is no directory {} to write {} in",
            directory.display(),
            file.display()
        )),
    }
}

pub(crate) fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}
