//! One run: find the proxies, start them, measure them in turn, show what came out.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use super::args::Args;
use super::backend::Backends;
use super::closed_loop::{self, Bounds, Exchange};
use super::grpc;
use super::h2load;
use super::memory;
use super::open_loop::{self, Load};
use super::peer::{self, Kind, Ports, Program, Running};
use super::process;
use super::report::{Missing, Report, ScenarioReport};
use super::scenario::{self, Scenario, Work};
use super::summary::{self, Figures, Samples};

/// Part of the slowest proxy's capacity at which latency is measured.
const LATENCY_LOAD: f64 = 0.3;
/// How capacity is found before that: connections of the closed loop.
const CAPACITY_CONNECTIONS: usize = 32;

/// Runs everything on this thread, which stands on the load core already.
///
/// # Errors
/// See [`super::main`].
pub fn main(args: &Args) -> Result<()> {
    let scenarios = scenario::select(&args.scenario, args.quick)?;
    if args.fetch_envoy {
        peer::fetch_envoy()?;
    }
    let (programs, missing) = find(args, &scenarios);
    let mut report = Report::new(args, &programs, missing);
    print!("{}", report.opening());
    if !report.missing.is_empty()
        && std::env::var_os("ISOBAR_TEST_REQUIRE").is_some_and(|v| v == "all")
    {
        bail!("ISOBAR_TEST_REQUIRE=all, and something is missing");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // When a signal comes, `run` is dropped and every process with it.
        tokio::select! {
            done = run(args, &programs, &scenarios, &mut report) => done,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })?;
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// What is installed of what was asked for, and what is not.
fn find(args: &Args, scenarios: &[Scenario]) -> (Vec<Program>, Vec<Missing>) {
    let (mut programs, mut missing) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        if !args.peer.is_empty() && !args.peer.contains(&kind) {
            continue;
        }
        match peer::find(kind, args) {
            Ok(program) => programs.push(program),
            Err(error) => missing.push(Missing {
                name: kind.name(),
                remedy: format!("{error:#}"),
            }),
        }
    }
    let by_h2load = scenarios.iter().any(|s| s.work.is_h2loads());
    if by_h2load && !h2load::is_installed() {
        missing.push(Missing {
            name: "h2load",
            remedy: String::from("apt-get install nghttp2-client"),
        });
    }
    (programs, missing)
}

async fn run(
    args: &Args,
    programs: &[Program],
    scenarios: &[Scenario],
    report: &mut Report,
) -> Result<()> {
    let backends = Backends::start().await?;
    let bench = Bench::start(args, programs, &backends).await;
    for scenario in scenarios {
        let started = Instant::now();
        let mut measured = ScenarioReport::new(scenario);
        let mut samples = match scenario.work {
            Work::Memory => {
                memory::run(
                    programs,
                    args.proxy_core(),
                    &backends,
                    memory::plan(args.quick),
                )
                .await
            }
            work if work.is_h2loads() && !h2load::is_installed() => {
                println!("\n{}: skipped: h2load is missing", scenario.name);
                continue;
            }
            Work::Open { .. } => {
                let rate_rps = bench.capacity_rps().await? * LATENCY_LOAD;
                measured.rate_rps = Some(rate_rps);
                bench.rounds(scenario, rate_rps).await
            }
            Work::Closed { .. } | Work::Http2 { .. } | Work::Grpc { .. } | Work::Tls { .. } => {
                bench.rounds(scenario, 0.0).await
            }
        };
        summary::compare(
            &mut samples,
            "nginx",
            "cpu_us",
            "cpu_to_nginx",
            |own, nginx| own / nginx,
        );
        summary::compare(
            &mut samples,
            "direct",
            "p50_us",
            "added_p50_us",
            |own, direct| own - direct,
        );
        summary::compare(
            &mut samples,
            "direct",
            "p99_us",
            "added_p99_us",
            |own, direct| own - direct,
        );
        measured.rows = summary::rows(samples);
        measured.took_s = started.elapsed().as_secs_f64();
        print!("{}", measured.table());
        report.scenarios.push(measured);
    }
    Ok(())
}

/// One thing to measure: a proxy that runs, or the backend itself.
struct Target {
    name: &'static str,
    ports: Ports,
    /// Its processes; none for the backend, which shares ours.
    pids: Vec<u32>,
    _running: Option<Running>,
}

/// Everything started and ready.
struct Bench {
    targets: Vec<Target>,
    /// Proxies that did not start, with why.
    broken: Vec<Samples>,
    bounds: Bounds,
    round_count: u32,
    grpc: grpc::Backend,
}

impl Bench {
    async fn start(args: &Args, programs: &[Program], backends: &Backends) -> Bench {
        let direct = Target {
            name: "direct",
            ports: Ports {
                http1: backends.http1,
                http2: None,
                tls: None,
            },
            pids: Vec::new(),
            _running: None,
        };
        let mut bench = Bench {
            targets: vec![direct],
            broken: Vec::new(),
            bounds: Bounds {
                warm_up: args.warm_up(),
                window: args.window(),
                requests_max: args.requests_max,
            },
            round_count: args.round_count(),
            grpc: backends.grpc.clone(),
        };
        for program in programs {
            match Target::start(program, args.proxy_core(), backends).await {
                Ok(target) => bench.targets.push(target),
                Err(error) => bench.broken.push(Samples {
                    peer: program.kind.name(),
                    failure: Some(format!("{error:#}")),
                    ..Samples::default()
                }),
            }
        }
        bench
    }

    /// Requests/s of the slowest proxy.
    async fn capacity_rps(&self) -> Result<f64> {
        let work = Work::Closed {
            connections: CAPACITY_CONNECTIONS,
            send_len: 0,
            answer_len: 128,
        };
        let bounds = Bounds {
            window: self.bounds.window / 4,
            ..self.bounds
        };
        let mut slowest_rps = f64::INFINITY;
        for target in self.targets.iter().filter(|t| !t.pids.is_empty()) {
            // One that fails here fails in the rounds too and is reported there.
            if let Ok(figures) = target.measure(work, bounds, 0.0, 0).await {
                slowest_rps = figures
                    .get("rate_rps")
                    .map_or(slowest_rps, |rps| slowest_rps.min(*rps));
            }
        }
        if slowest_rps.is_infinite() {
            bail!("no proxy answers");
        }
        Ok(slowest_rps)
    }

    /// All rounds of one scenario over all targets, every second round backwards.
    async fn rounds(&self, scenario: &Scenario, rate_rps: f64) -> Vec<Samples> {
        let able = |t: &&Target| match scenario.work {
            Work::Http2 { .. } | Work::Grpc { .. } => t.ports.http2.is_some(),
            Work::Tls { .. } => t.ports.tls.is_some(),
            _ => true,
        };
        let targets: Vec<&Target> = self.targets.iter().filter(able).collect();
        let named = |t: &&Target| Samples {
            peer: t.name,
            ..Samples::default()
        };
        let mut samples: Vec<Samples> = targets.iter().map(named).collect();
        for round in 0..self.round_count {
            let mut order: Vec<usize> = (0..targets.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                if samples[at].failure.is_some() {
                    continue;
                }
                let served = self.grpc.served();
                let measured = targets[at]
                    .measure(scenario.work, self.bounds, rate_rps, u64::from(round))
                    .await;
                let served = self.grpc.served() - served;
                match measured.and_then(|figures| reached(scenario.work, figures, served)) {
                    Ok(figures) => samples[at].rounds.push(figures),
                    Err(error) => samples[at].failure = Some(format!("{error:#}")),
                }
            }
        }
        samples.extend(self.broken.iter().cloned());
        samples
    }
}

/// The figures, if the answers of a gRPC measurement are the endpoint's: a call that a proxy refuses has HTTP status 200 too.
fn reached(work: Work, figures: Figures, served: u64) -> Result<Figures> {
    let answers = figures.get("answers").copied().unwrap_or(0.0);
    let is_grpc = matches!(work, Work::Grpc { .. });
    ensure!(
        !is_grpc || served as f64 >= answers,
        "of {answers} calls {served} reached the endpoint"
    );
    Ok(figures)
}

impl Target {
    async fn start(program: &Program, core: usize, backends: &Backends) -> Result<Target> {
        let running = program.start(core, backends).await?;
        Ok(Target {
            name: program.kind.name(),
            ports: running.ports,
            pids: running.process.tree()?,
            _running: Some(running),
        })
    }

    /// One measurement of this target alone.
    async fn measure(
        &self,
        work: Work,
        bounds: Bounds,
        rate_rps: f64,
        seed: u64,
    ) -> Result<Figures> {
        match work {
            Work::Closed {
                connections,
                send_len,
                answer_len,
            } => {
                let exchange = Exchange::new(send_len, answer_len);
                let gauge = || process::cpu(&self.pids);
                let window =
                    closed_loop::run(self.ports.http1, connections, &exchange, bounds, gauge)
                        .await?;
                let mut figures =
                    self.figures(window.requests, window.elapsed, window.before, window.after);
                if let (true, Some(cpu_us)) = (work.is_bulk(), figures.get("cpu_us").copied()) {
                    // Bytes per microsecond are megabytes per second.
                    figures.insert("mb_per_cpu_s", (send_len + answer_len) as f64 / cpu_us);
                }
                Ok(figures)
            }
            Work::Http2 {
                connections,
                streams,
            } => {
                let address = self.ports.http2.context("does no HTTP/2")?;
                let load = h2load::Load::Http2 { streams };
                self.by_h2load(address, load, connections, bounds.window)
                    .await
            }
            Work::Grpc {
                connections,
                streams,
            } => {
                let address = self.ports.http2.context("does no HTTP/2")?;
                let load = h2load::Load::Grpc { streams };
                self.by_h2load(address, load, connections, bounds.window)
                    .await
            }
            Work::Tls { connections } => {
                let address = self.ports.tls.context("does no TLS")?;
                self.by_h2load(address, h2load::Load::Tls, connections, bounds.window)
                    .await
            }
            Work::Open { connections } => {
                let load = Load {
                    exchange: Exchange::new(0, 128),
                    rate_rps,
                    connections,
                    warm_up: bounds.warm_up,
                    window: bounds.window,
                    seed,
                };
                let (start, before) = (Instant::now(), process::cpu(&self.pids)?);
                let latency = open_loop::run(self.ports.http1, &load).await?;
                let after = process::cpu(&self.pids)?;
                let mut figures = self.figures(latency.answered, start.elapsed(), before, after);
                figures.insert("p50_us", latency.p50_us);
                figures.insert("p99_us", latency.p99_us);
                figures.insert("latencies", latency.counted as f64);
                Ok(figures)
            }
            Work::Memory => bail!("memory is measured on fresh processes"),
        }
    }

    async fn by_h2load(
        &self,
        address: SocketAddr,
        load: h2load::Load,
        connections: usize,
        window: Duration,
    ) -> Result<Figures> {
        let (start, before) = (Instant::now(), process::cpu(&self.pids)?);
        let requests = h2load::run(address, load, connections, window).await?;
        Ok(self.figures(requests, start.elapsed(), before, process::cpu(&self.pids)?))
    }

    fn figures(
        &self,
        requests: u64,
        elapsed: Duration,
        before: process::Cpu,
        after: process::Cpu,
    ) -> Figures {
        let requests = requests as f64;
        let mut figures = Figures::from([("rate_rps", requests / elapsed.as_secs_f64())]);
        figures.insert("answers", requests);
        if !self.pids.is_empty() {
            let each_us = |spent: Duration| spent.as_secs_f64() * 1e6 / requests;
            figures.insert("cpu_us", each_us(after.total.saturating_sub(before.total)));
            figures.insert("user_us", each_us(after.user.saturating_sub(before.user)));
        }
        figures
    }
}
