//! What a metric is called, what kind it is and how its series are told apart: a row of a program's table of metrics.
//!
//! The page that a program serves and the page of the documentation are both made of the table.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only rises.
    Counter,
    /// It is as it is now.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl MetricKind {
    /// Prometheus's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

/// One metric of a program.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: MetricKind,
    /// What tells its series apart.
    pub labels: Labels,
    /// What it says, in one line.
    pub help: &'static str,
}

/// Units that end a name, before `_total`; seconds since 1970 come before seconds.
const UNITS: [(&str, &str); 5] = [
    ("_timestamp_seconds", "seconds since 1970"),
    ("_seconds", "seconds"),
    ("_bytes", "bytes"),
    ("_ratio", "ratio"),
    ("_rps", "requests per second"),
];

/// Names of labels.
type Labels = &'static [&'static str];

impl Metric {
    /// A metric that only rises.
    pub const fn counter(name: &'static str, labels: Labels, help: &'static str) -> Metric {
        Metric::new(MetricKind::Counter, name, labels, help)
    }

    /// A metric that is as it is now.
    pub const fn gauge(name: &'static str, labels: Labels, help: &'static str) -> Metric {
        Metric::new(MetricKind::Gauge, name, labels, help)
    }

    /// Counts by size.
    pub const fn histogram(name: &'static str, labels: Labels, help: &'static str) -> Metric {
        Metric::new(MetricKind::Histogram, name, labels, help)
    }

    const fn new(
        kind: MetricKind,
        name: &'static str,
        labels: Labels,
        help: &'static str,
    ) -> Metric {
        Metric {
            name,
            kind,
            labels,
            help,
        }
    }

    /// What it is measured in, by the end of its name; none for what is only counted.
    pub fn unit(&self) -> Option<&'static str> {
        let stem = self.name.strip_suffix("_total").unwrap_or(self.name);
        let unit = UNITS.iter().find(|(end, _)| stem.ends_with(end));
        unit.map(|(_, unit)| *unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_off_names() {
        let unit = |name| Metric::gauge(name, &[], "").unit();
        assert_eq!(unit("a_timestamp_seconds"), Some("seconds since 1970"));
        assert_eq!(unit("a_wait_seconds"), Some("seconds"));
        assert_eq!(unit("a_sent_bytes_total"), Some("bytes"));
        assert_eq!(unit("a_requests_total"), None);
    }
}
