//! What came out.

use std::fmt::Write;

use serde::Serialize;

/// One run's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Simulated proxies.
    pub nodes: u32,
    /// Services of the mesh.
    pub services: u32,
    /// Of them, those of one node.
    pub services_per_node: u32,
    /// The control period.
    pub period_ms: u64,
    /// How long was measured.
    pub seconds: f64,
    /// Streams open at the end of it.
    pub streams: u64,
    /// Time to enrol all, and to open all streams first.
    pub enrol_s: f64,
    /// From the first connection to the last snapshot.
    pub open_s: f64,
    /// Processor time of the controller for enrolling and opening all, seconds.
    pub open_cpu_s: f64,
    /// Share of a core that the controller took.
    pub controller_cpu_ratio: f64,
    /// Share of a core that the simulated proxies took.
    pub load_cpu_ratio: f64,
    /// Share of the time in which a thread of the controller could have run and something else had its core.
    pub waited_ratio: f64,
    /// Resident memory of the controller with nobody connected.
    pub empty_resident_bytes: u64,
    /// At the end of the measurement.
    pub resident_bytes: u64,
    /// What each node added, KiB.
    pub node_kib: f64,
    /// From a report with a step to the row that answers it.
    pub plan_latency: Latency,
    /// Messages, over the measurement.
    pub messages: Messages,
    /// What went wrong over the measurement.
    pub errors: Errors,
    /// One for each time that the controller was killed.
    pub recoveries: Vec<Recovery>,
}

/// Plan latencies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// Steps that a row answered.
    pub answered: u64,
    /// Steps that were over before one did.
    pub unanswered: u64,
    /// The middle.
    pub p50_ms: f64,
    /// One in a hundred is longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// Messages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Messages {
    /// Reports sent.
    pub reports: u64,
    /// Whole snapshots received.
    pub snapshots: u64,
    /// Deltas received and applied.
    pub deltas: u64,
    /// Plans acknowledged.
    pub acks: u64,
    /// Pings received.
    pub pings: u64,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Errors {
    /// Plans refused.
    pub nacks: u64,
    /// Streams that ended.
    pub ended: u64,
    /// Connections that could not be made or broke at once.
    pub unreached: u64,
    /// Connections that took too long.
    pub slow: u64,
    /// Streams that the controller refused.
    pub refused: u64,
    /// Reports that could not be sent, because the ones before them still waited.
    pub reports_held: u64,
    /// Longest that a report was late by the load core's own fault.
    pub lag_ms_max: f64,
}

impl Errors {
    /// Connections and streams that failed.
    pub fn connections(&self) -> u64 {
        self.ended + self.unreached + self.slow + self.refused
    }
}

/// A controller was killed and started again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recovery {
    /// From the kill until the new one listened.
    pub listens_s: f64,
    /// From the kill until half of the proxies had a snapshot of the new epoch.
    pub half_s: f64,
    /// Until 99 % had.
    pub most_s: f64,
    /// Until all had.
    pub all_s: f64,
    /// Processor time of the new controller until then, seconds.
    pub cpu_s: f64,
    /// Epoch before and after.
    pub epochs: [u64; 2],
    /// Rows of the last plan before that moved load.
    pub rows_moved: u64,
    /// The largest change of a weight from one plan to the next, until some periods after all were back, parts per million.
    pub jump_ppm_max: u32,
    /// Plans that proxies refused.
    pub nacks: u64,
    /// Connections and streams that failed.
    pub failed: u64,
}

impl Measured {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let percent = |ratio: f64| ratio * 100.0;
        let (nodes, services, of) = (self.nodes, self.services, self.services_per_node);
        let (period_ms, seconds) = (self.period_ms, self.seconds);
        writeln!(
            out,
            "{nodes} nodes, {services} services ({of} a node), period {period_ms} ms, {seconds:.0} s"
        )?;
        writeln!(out, "streams held      {}", self.streams)?;
        let (cpu, waited) = (
            percent(self.controller_cpu_ratio),
            percent(self.waited_ratio),
        );
        writeln!(
            out,
            "controller        {cpu:.1} % of a core; {waited:.1} % of the time it waited for one"
        )?;
        let (cpu, lag_ms) = (percent(self.load_cpu_ratio), self.errors.lag_ms_max);
        writeln!(
            out,
            "load driver       {cpu:.1} % of a core, late by {lag_ms:.0} ms at most"
        )?;
        let (resident, empty) = (mib(self.resident_bytes), mib(self.empty_resident_bytes));
        let kib = self.node_kib;
        writeln!(
            out,
            "resident          {resident:.1} MiB (empty {empty:.1}), {kib:.1} KiB a node"
        )?;
        let l = &self.plan_latency;
        let (answered, unanswered) = (l.answered, l.unanswered);
        let (p50, p99, max) = (l.p50_ms, l.p99_ms, l.max_ms);
        writeln!(
            out,
            "plan latency      p50 {p50:.0} ms, p99 {p99:.0} ms, max {max:.0} ms ({answered} steps; {unanswered} were over before)"
        )?;
        let m = &self.messages;
        let (reports, deltas, snapshots) = (m.reports, m.deltas, m.snapshots);
        let (acks, pings) = (m.acks, m.pings);
        writeln!(
            out,
            "messages          {reports} reports, {deltas} deltas, {snapshots} snapshots, {acks} acks, {pings} pings"
        )?;
        let e = &self.errors;
        let (ended, unreached, slow) = (e.ended, e.unreached, e.slow);
        let (refused, nacks, held) = (e.refused, e.nacks, e.reports_held);
        writeln!(
            out,
            "errors            {ended} streams ended, {unreached} not reached, {slow} slow, {refused} refused, {nacks} nacks, {held} reports held"
        )?;
        let (enrol_s, open_s, cpu_s) = (self.enrol_s, self.open_s, self.open_cpu_s);
        writeln!(
            out,
            "enrolled in       {enrol_s:.1} s; all streams opened in {open_s:.1} s; {cpu_s:.1} s of the controller's time for both"
        )?;
        self.recoveries.iter().try_for_each(|r| r.write(out))
    }
}

impl Recovery {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let (listens, half) = (self.listens_s, self.half_s);
        let (most, all, cpu) = (self.most_s, self.all_s, self.cpu_s);
        writeln!(
            out,
            "killed            listens after {listens:.2} s, half back after {half:.2} s, 99 % {most:.2} s, all {all:.2} s; {cpu:.2} s of a core"
        )?;
        let ([before, after], rows, jump) = (self.epochs, self.rows_moved, self.jump_ppm_max);
        let (failed, nacks) = (self.failed, self.nacks);
        writeln!(
            out,
            "                  epoch {before} → {after}; {rows} rows moved load, their weights changed by {jump} ppm at most; {failed} attempts failed, {nacks} nacks"
        )
    }
}
