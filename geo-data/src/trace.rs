//! A load trace: how much load arrived at each site in each bin of time.
//!
//! Bins have one length and follow each other without gaps; what the source did not measure is a missing value. Values
//! are whatever the source counted per bin (requests, people, traffic in arbitrary units): whoever replays a trace
//! scales them.
//!
//! **Invariant**: sites stand in the order of the site list the trace was read with, one column each, so that an index
//! into that list is an index here; values are finite and not negative.

use std::time::Duration;

use crate::bin_time::{BinTime, BinTimeError};

/// Most bins in a trace, gaps included; beyond it the trace is refused. 114 years of hours, 11 days of seconds.
pub const BINS_MAX: usize = 1_000_000;

/// Most values (bins × sites) in a trace; beyond it the trace is refused. 256 MiB.
pub const VALUES_MAX: usize = 32 << 20;

/// How a missing value is kept: no load is negative.
const MISSING: f64 = -1.0;

/// Load by bin and site.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadTrace {
    start: BinTime,
    bin_s: u32,
    sites: Vec<String>,
    /// Row-major `[bin][site]`.
    values: Vec<f64>,
}

/// Why bins do not make a trace, or a trace has no such part.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TraceError {
    /// The length of a bin cannot be told.
    #[error("{found} bins; two are needed to know how long a bin is")]
    TooFewBins {
        /// Bins there are.
        found: usize,
    },
    /// Times with and without zone.
    #[error("{label} has a time zone where the first time has none, or the other way round")]
    MixedZones {
        /// The one that differs.
        label: String,
    },
    /// Times out of order, or one twice.
    #[error("{label} is not later than {before} before it")]
    NotLater {
        /// The offending time.
        label: String,
        /// The time before it.
        before: String,
    },
    /// A time that is no whole number of bins after the one before it.
    #[error("{label} is off the grid: bins are {bin_s} s apart")]
    OffGrid {
        /// The offending time.
        label: String,
        /// The commonest step between times, seconds.
        bin_s: i64,
    },
    /// More than [`BINS_MAX`] bins, gaps included, or more than [`VALUES_MAX`] values.
    #[error(
        "{bins} bins of {sites} sites; at most {BINS_MAX} bins and {VALUES_MAX} values are taken"
    )]
    TooLarge {
        /// Bins from first to last.
        bins: u64,
        /// Sites.
        sites: usize,
    },
    /// A bin length that is not a whole number of seconds, or is longer than 136 years.
    #[error(
        "bins of {bin:?}; a bin is a whole number of seconds, 1 to {}",
        u32::MAX
    )]
    BinLength {
        /// What was asked for.
        bin: Duration,
    },
    /// Values that do not fill whole bins.
    #[error("{values} values do not make whole bins of {sites} sites")]
    Shape {
        /// Values given.
        values: usize,
        /// Sites given.
        sites: usize,
    },
    /// A load that is NaN, infinite or negative.
    #[error("the load {value} of site {site} in bin {bin} is not a finite number of at least 0")]
    BadLoad {
        /// Index of the site.
        site: usize,
        /// Index of the bin.
        bin: usize,
        /// The load.
        value: f64,
    },
    /// A label that is no time.
    #[error(transparent)]
    Label(#[from] BinTimeError),
    /// No bin begins within the slice asked for.
    #[error("no bin begins from {from} to before {to}; bins begin from {first} to {last}")]
    EmptySlice {
        /// Asked for.
        from: String,
        /// Asked for.
        to: String,
        /// Label of the first bin there is.
        first: String,
        /// Label of the last.
        last: String,
    },
}

impl LoadTrace {
    /// A trace from numbers: `values` row by row, `[bin][site]`, `None` where nothing is known; bins of `bin` from
    /// `start` on (a label as [`BinTime::parse`] reads it).
    ///
    /// # Errors
    /// [`TraceError::Label`], [`TraceError::BinLength`], [`TraceError::Shape`], [`TraceError::BadLoad`],
    /// [`TraceError::TooLarge`].
    pub fn new(
        start: &str,
        bin: Duration,
        sites: Vec<String>,
        values: &[Option<f64>],
    ) -> Result<Self, TraceError> {
        let start = BinTime::parse(start)?;
        let bin_s = u32::try_from(bin.as_secs()).unwrap_or(0);
        if bin_s == 0 || bin.subsec_nanos() != 0 {
            return Err(TraceError::BinLength { bin });
        }
        if sites.is_empty() || !values.len().is_multiple_of(sites.len()) || values.is_empty() {
            return Err(TraceError::Shape {
                values: values.len(),
                sites: sites.len(),
            });
        }
        check_size((values.len() / sites.len()) as u64, sites.len())?;
        for (at, value) in values.iter().enumerate() {
            if let Some(value) = *value
                && !(value.is_finite() && value >= 0.0)
            {
                let (bin, site) = (at / sites.len(), at % sites.len());
                return Err(TraceError::BadLoad { site, bin, value });
            }
        }
        let values = values
            .iter()
            .map(|value| value.unwrap_or(MISSING))
            .collect();
        Ok(Self {
            start,
            bin_s,
            sites,
            values,
        })
    }

    /// Ids of the sites, in the order of their indices.
    #[must_use]
    pub fn sites(&self) -> &[String] {
        &self.sites
    }

    /// How many bins there are; at least one.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.values.len() / self.sites.len()
    }

    /// Length of a bin, whole seconds.
    #[must_use]
    pub fn bin(&self) -> Duration {
        Duration::from_secs(self.bin_s.into())
    }

    /// From the start of the first bin to the end of the last.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs(u64::from(self.bin_s) * self.bins() as u64)
    }

    /// When bin number `bin` begins; also beyond the last, by the same step. Displays as its label.
    #[must_use]
    pub fn bin_start(&self, bin: usize) -> BinTime {
        let bins = i64::try_from(bin).unwrap_or(i64::MAX);
        self.start.plus_s(bins.saturating_mul(self.bin_s.into()))
    }

    /// Load of a site in a bin, in the source's unit per bin; `None` when the source has none, or there is no such site
    /// or bin.
    #[must_use]
    pub fn value(&self, site: usize, bin: usize) -> Option<f64> {
        if site >= self.sites.len() {
            return None;
        }
        let at = bin.checked_mul(self.sites.len())?.checked_add(site)?;
        self.values.get(at).copied().filter(|value| *value >= 0.0)
    }

    /// Load of a site at `t` after the start of the first bin, still per bin, linearly between bins.
    ///
    /// A bin's value is a mean over the bin, so it stands for the bin's middle: there `rate` equals
    /// [`value`](Self::value), and at the border of two bins it is the mean of both. Before the first middle and after
    /// the last, and beside a missing bin, the bin's own value holds. `None` within a missing bin and outside the trace.
    #[must_use]
    pub fn rate(&self, site: usize, t: Duration) -> Option<f64> {
        let at = t.as_secs_f64() / f64::from(self.bin_s);
        // Saturates; a bin beyond the last has no value.
        let bin = at as usize;
        let own = self.value(site, bin)?;
        let from_middle = at - bin as f64 - 0.5;
        let beside = if from_middle < 0.0 {
            bin.checked_sub(1)
        } else {
            bin.checked_add(1)
        };
        let other = beside.and_then(|bin| self.value(site, bin)).unwrap_or(own);
        Some(own + (other - own) * from_middle.abs())
    }

    /// The bins that begin at `from` or later and before `to` (labels as [`BinTime::parse`] reads them), as a trace of
    /// its own. Parts beyond the trace are left out.
    ///
    /// # Errors
    /// [`TraceError::Label`] for a label that is no time, [`TraceError::MixedZones`] for one with a zone when the trace
    /// has none or the reverse, [`TraceError::EmptySlice`] when no bin begins there.
    pub fn slice(&self, from: &str, to: &str) -> Result<Self, TraceError> {
        let first = self.first_bin_from(from)?;
        let end = self.first_bin_from(to)?.min(self.bins());
        if first >= end {
            return Err(TraceError::EmptySlice {
                from: from.to_owned(),
                to: to.to_owned(),
                first: self.bin_start(0).to_string(),
                last: self.bin_start(self.bins() - 1).to_string(),
            });
        }
        Ok(Self {
            start: self.bin_start(first),
            bin_s: self.bin_s,
            sites: self.sites.clone(),
            values: self.values[first * self.sites.len()..end * self.sites.len()].to_vec(),
        })
    }

    /// The first bin that begins at `label` or later; may be beyond the last.
    fn first_bin_from(&self, label: &str) -> Result<usize, TraceError> {
        let time = BinTime::parse(label)?;
        if time.is_utc() != self.start.is_utc() {
            return Err(TraceError::MixedZones {
                label: label.to_owned(),
            });
        }
        let after_s = (time.unix_s() - self.start.unix_s()).max(0);
        Ok(usize::try_from(after_s)
            .unwrap_or(usize::MAX)
            .div_ceil(self.bin_s as usize))
    }
}

/// The bins that a list of times means: their start, length and number, gaps included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bins {
    start: BinTime,
    bin_s: u32,
    pub count: usize,
}

impl Bins {
    /// Finds the bins behind increasing `times`, of which some may be missing: the commonest step is the length of a
    /// bin, and all steps must be whole multiples of it.
    ///
    /// # Errors
    /// With the index of the offending time: too few, not increasing, off the grid, too many for `sites` sites.
    pub fn of_times(times: &[BinTime], sites: usize) -> Result<Self, (usize, TraceError)> {
        let [start, .., last] = times else {
            return Err((0, TraceError::TooFewBins { found: times.len() }));
        };
        let mut steps_s = Vec::with_capacity(times.len() - 1);
        for (at, pair) in (1..).zip(times.windows(2)) {
            let label = pair[1].to_string();
            if pair[1].is_utc() != start.is_utc() {
                return Err((at, TraceError::MixedZones { label }));
            }
            let step_s = pair[1].unix_s() - pair[0].unix_s();
            if step_s <= 0 {
                let before = pair[0].to_string();
                return Err((at, TraceError::NotLater { label, before }));
            }
            steps_s.push(step_s);
        }
        let bin_s = commonest(&steps_s);
        if let Some(at) = steps_s.iter().position(|step_s| step_s % bin_s != 0) {
            let label = times[at + 1].to_string();
            return Err((at + 1, TraceError::OffGrid { label, bin_s }));
        }
        let length = u32::try_from(bin_s).map_err(|_| {
            let bin = Duration::from_secs(bin_s.unsigned_abs());
            (1, TraceError::BinLength { bin })
        })?;
        let count = (last.unix_s() - start.unix_s()) / bin_s + 1;
        check_size(count.unsigned_abs(), sites).map_err(|error| (times.len() - 1, error))?;
        Ok(Self {
            start: *start,
            bin_s: length,
            count: usize::try_from(count).unwrap_or(usize::MAX),
        })
    }

    /// The bin that begins at `time`, one of the times given.
    pub fn index_of(&self, time: BinTime) -> usize {
        let after_s = time.unix_s() - self.start.unix_s();
        usize::try_from(after_s / i64::from(self.bin_s)).unwrap_or(0)
    }
}

/// The most frequent of some numbers, the smallest of those when several are; 1 for none.
fn commonest(numbers: &[i64]) -> i64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let runs = sorted.chunk_by(|a, b| a == b);
    runs.map(|run| (run.len(), run[0]))
        .reduce(|best, run| if run.0 > best.0 { run } else { best })
        .map_or(1, |(_, number)| number)
}

fn check_size(bins: u64, sites: usize) -> Result<(), TraceError> {
    let values = bins.saturating_mul(sites as u64);
    if bins > BINS_MAX as u64 || values > VALUES_MAX as u64 {
        return Err(TraceError::TooLarge { bins, sites });
    }
    Ok(())
}

/// Values as they are read: every one missing until added to.
pub(crate) struct Filling {
    sites: usize,
    values: Vec<f64>,
}

impl Filling {
    pub fn new(bins: Bins, sites: usize) -> Self {
        Self {
            sites,
            values: vec![MISSING; bins.count * sites],
        }
    }

    /// Adds to what is there; several rows joined to one site sum up, to the largest number at most.
    pub fn add(&mut self, bin: usize, site: usize, load: f64) {
        let value = &mut self.values[bin * self.sites + site];
        *value = (value.max(0.0) + load).min(f64::MAX);
    }

    pub fn into_trace(self, bins: Bins, sites: Vec<String>) -> LoadTrace {
        LoadTrace {
            start: bins.start,
            bin_s: bins.bin_s,
            sites,
            values: self.values,
        }
    }
}

#[cfg(test)]
mod tests;
