//! One simulated proxy, from its first connection to the end of the run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::StatusCode;
use isobar_edge_proxy::control::backoff::Backoff;
use isobar_edge_proxy::control::lines::OpenError;
use isobar_mesh_api::message::{Down, Nack, Up};
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::report::REPORT_WINDOW_US;
use isobar_mesh_api::snapshot::{Neighbour, PlanId, Row, ServicePlan};
use isobar_mesh_api::weight::WHOLE_PPM;
use rustls::sign::CertifiedKey;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use super::figures::{Figures, count};
use super::link::{Door, Link, LinkError};
use super::world::{self, World};

/// Reports that a step lasts for.
const STEP_REPORTS: u32 = 5;
/// A row that moves this much of the demand answers a step.
const ANSWER_PPM: u32 = 50_000;
/// One node in so many is hot for good.
const HOT_EVERY: u32 = 20;

/// What all simulated proxies share.
pub(super) struct Shared {
    pub world: World,
    pub door: Door,
    pub figures: Figures,
    pub steps_ppm: u32,
    /// Paces first connections.
    pub pace: Semaphore,
}

struct Node {
    shared: Arc<Shared>,
    number: u32,
    certified: Arc<CertifiedKey>,
    services: Vec<ServiceName>,
    rng: fastrand::Rng,
    seq: u64,
    plan: Option<PlanId>,
    rows: BTreeMap<ServiceName, Row>,
    neighbours: Vec<(NodeId, u64)>,
    step: Step,
}

/// A step of demand.
#[derive(Default)]
struct Step {
    /// Reports that it still lasts for.
    left: u32,
    /// When it was first told, until a row answers.
    told: Option<Instant>,
}

/// Lives until the task is aborted.
pub(super) async fn live(shared: Arc<Shared>, number: u32, certified: Arc<CertifiedKey>) {
    let mut node = Node {
        services: shared.world.services(number),
        rng: fastrand::Rng::with_seed(u64::from(number)),
        shared: shared.clone(),
        number,
        certified,
        seq: 0,
        plan: None,
        rows: BTreeMap::new(),
        neighbours: Vec::new(),
        step: Step::default(),
    };
    let mut backoff = Backoff::default();
    loop {
        let begun = Instant::now();
        let error = match node.connect().await {
            Ok(link) => {
                count(&shared.figures.streams);
                let Err(error) = node.session(link).await;
                shared.figures.streams.fetch_sub(1, Ordering::Relaxed);
                count(&shared.figures.ended);
                error
            }
            Err(error) => {
                let figures = &shared.figures;
                count(match error {
                    LinkError::Slow | LinkError::Open(OpenError::Silent) => &figures.slow,
                    LinkError::Open(OpenError::Refused(..)) => &figures.refused,
                    _ => &figures.unreached,
                });
                error
            }
        };
        let hint = match error {
            LinkError::Open(OpenError::Refused(StatusCode::SERVICE_UNAVAILABLE, hint)) => hint,
            _ => None,
        };
        let pause = backoff.pause(begun.elapsed(), hint, &mut node.rng);
        tokio::time::sleep(pause).await;
    }
}

/// What never comes.
enum Never {}

impl Node {
    async fn connect(&self) -> Result<Link, LinkError> {
        // Closed when the first connections are made: from then on everybody is on their own.
        let _turn = self.shared.pace.acquire().await;
        let hello = self.shared.world.hello(self.number, self.plan);
        Link::open(
            &self.shared.door,
            self.number,
            self.certified.clone(),
            hello,
        )
        .await
    }

    async fn session(&mut self, mut link: Link) -> Result<Never, LinkError> {
        let period = Duration::from_micros(self.shared.world.period_us);
        // Proxies of a real mesh were not all started in the same instant.
        let first = Instant::now() + period.mul_f64(self.rng.f64());
        let mut due = tokio::time::interval_at(first.into(), period);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = Instant::now();
        loop {
            tokio::select! {
                message = link.next() => {
                    if let Some(answer) = self.obey(message?) {
                        link.send(&answer)?;
                    }
                }
                at = due.tick() => {
                    let lag = Instant::now().saturating_duration_since(at.into_std());
                    let lag_us = lag.as_micros() as u64;
                    self.shared.figures.lag_us_max.fetch_max(lag_us, Ordering::Relaxed);
                    self.report(&link, &mut reported)?;
                }
            }
        }
    }

    fn report(&mut self, link: &Link, reported: &mut Instant) -> Result<(), LinkError> {
        let begins = self.begin_step();
        let hot = self.step.left > 0 || self.number.is_multiple_of(HOT_EVERY);
        let now = Instant::now();
        let window_us = now.duration_since(*reported).as_micros() as u64;
        let window_us = window_us.clamp(*REPORT_WINDOW_US.start(), *REPORT_WINDOW_US.end());
        let world = self.shared.world;
        let counters = |(at, service): (usize, &ServiceName)| {
            let row = self.rows.get(service);
            world.counters(service, row, hot && at == 0, window_us, &mut self.rng)
        };
        let services = self.services.iter().enumerate().map(counters).collect();
        let report = world::report(
            self.seq,
            window_us,
            services,
            &self.neighbours,
            &mut self.rng,
        );
        let figures = &self.shared.figures;
        if !link.send(&Up::Report(report))? {
            count(&figures.reports_held);
            return Ok(());
        }
        count(&figures.reports);
        *reported = now;
        self.seq += 1;
        if begins {
            self.step.told = Some(now);
        } else if self.step.left == 0 && self.step.told.take().is_some() {
            count(&figures.unanswered);
        }
        self.step.left = self.step.left.saturating_sub(1);
        Ok(())
    }

    /// Whether a step begins with this report.
    fn begin_step(&mut self) -> bool {
        let begins = self.shared.figures.stepping.load(Ordering::Relaxed)
            && !self.number.is_multiple_of(HOT_EVERY)
            && self.step.left == 0
            && self.step.told.is_none()
            && self.rng.u32(0..WHOLE_PPM) < self.shared.steps_ppm
            // A row that still comes home from the last step would answer before it was asked.
            && self.services.first().and_then(|s| self.rows.get(s)).is_some_and(|row| row.moves.is_empty());
        if begins {
            self.step.left = STEP_REPORTS;
        }
        begins
    }

    /// Does what a message says; what to answer.
    fn obey(&mut self, message: Down) -> Option<Up> {
        let shared = self.shared.clone();
        let figures = &shared.figures;
        match message {
            Down::Snapshot(snapshot) => {
                count(&figures.snapshots);
                count(&figures.acks);
                let moved = self.rows.values().filter(|row| !row.moves.is_empty());
                let moved = moved.count() as u64;
                self.plan = Some(snapshot.plan);
                self.take(Some(snapshot.neighbours), snapshot.services);
                figures.on_back(self.number, snapshot.plan.epoch, moved);
                Some(Up::Ack(snapshot.plan))
            }
            Down::Delta(delta) if self.plan == Some(delta.base) => {
                count(&figures.deltas);
                count(&figures.acks);
                self.plan = Some(delta.plan);
                self.take(delta.neighbours, delta.services);
                Some(Up::Ack(delta.plan))
            }
            Down::Delta(delta) => {
                count(&figures.nacks);
                let reason = "another plan is in force".to_owned();
                Some(Up::Nack(Nack {
                    plan: delta.plan,
                    reason,
                }))
            }
            Down::Trust(trust) => Some(Up::Trusted {
                version: trust.version,
            }),
            Down::Ping { .. } => {
                count(&figures.pings);
                None
            }
            Down::Certificate(_)
            | Down::Tap(_)
            | Down::Untap { .. }
            | Down::Errand(_)
            | Down::Unknown => None,
        }
    }

    fn take(&mut self, neighbours: Option<Vec<Neighbour>>, services: Vec<ServicePlan>) {
        if let Some(neighbours) = neighbours {
            let measured = |n: Neighbour| (n.node, n.rtt_us);
            self.neighbours = neighbours.into_iter().map(measured).collect();
        }
        for plan in services {
            let answers = plan.row.home_ppm <= WHOLE_PPM - ANSWER_PPM;
            if answers
                && self.services.first() == Some(&plan.service)
                && let Some(told) = self.step.told.take()
            {
                self.shared.figures.on_answer(told.elapsed());
            }
            if let Some(before) = self.rows.get(&plan.service) {
                self.shared.figures.on_rows(jump_ppm(before, &plan.row));
            }
            self.rows.insert(plan.service, plan.row);
        }
    }
}

/// The largest change of a weight from one row to the next, parts per million.
fn jump_ppm(before: &Row, after: &Row) -> u32 {
    let to = before.moves.iter().chain(&after.moves).map(|m| &m.to);
    let differ = |to| before.weight_ppm(to).abs_diff(after.weight_ppm(to));
    let moves = to.map(differ).max().unwrap_or(0);
    moves.max(before.home_ppm.abs_diff(after.home_ppm))
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_mesh_api::snapshot::Move;

    #[test]
    fn the_largest_change_of_a_row_counts() {
        let row = |home_ppm, to: &str| Row {
            home_ppm,
            cloud_ppm: 0,
            moves: vec![Move {
                to: NodeId::new(to).unwrap(),
                weight_ppm: WHOLE_PPM - home_ppm,
            }],
            shed_ppm: 0,
        };
        let before = row(600_000, "a");
        let cases = [
            (row(600_000, "a"), 0),
            (row(550_000, "a"), 50_000),
            (row(600_000, "b"), 400_000),
        ];
        for (after, expected) in cases {
            assert_eq!(jump_ppm(&before, &after), expected);
        }
    }
}
