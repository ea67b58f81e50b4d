//! Which endpoint is so much worse than its siblings that it is left alone.
//!
//! Compared over one interval, each with the others together: an endpoint whose
//! share of errors exceeds theirs by so much, or whose mean latency is so many
//! times theirs, is an outlier. A fault that all of them share is nobody's: a
//! service whose every endpoint answers 500 keeps them all. One that gives many
//! errors in a row is an outlier at once, without comparing.
//!
//! **Invariant**: never more than a share of the endpoints is out at once, and
//! never the last one.
//!
//! Pure.

use isobar_mesh_api::resource::traffic_policy;

/// When an endpoint is an outlier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// How often they are compared, in microseconds; `u64::MAX` = never.
    pub interval_us: u64,
    requests_min: u64,
    error_excess: f64,
    latency_ratio: f64,
    ejected_max: f64,
    /// First ejection, in microseconds.
    pub ejection_base_us: u64,
    /// Longest ejection, in microseconds.
    pub ejection_max_us: u64,
    /// Errors in a row that make it a suspect; 0 = they do not.
    pub errors_in_row: u32,
    /// Failures in a row that do; 0 = they do not.
    pub failures_in_row: u32,
}

impl Rules {
    /// As a policy says.
    pub fn new(policy: &traffic_policy::Outlier) -> Rules {
        Rules {
            interval_us: match policy.interval.is_zero() {
                true => u64::MAX,
                false => policy.interval.as_micros(),
            },
            requests_min: u64::from(policy.requests_min.max(1)),
            error_excess: policy.error_excess,
            latency_ratio: policy.latency_ratio,
            ejected_max: policy.ejected_max,
            ejection_base_us: policy.ejection_base.as_micros(),
            ejection_max_us: policy.ejection_max.as_micros(),
            errors_in_row: policy.consecutive_errors,
            failures_in_row: policy.consecutive_gateway_errors,
        }
    }
}

/// One endpoint in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// Requests that ended.
    pub ended: u64,
    /// Of these, in an error.
    pub errors: u64,
    /// Answers that ended as they should …
    pub completed: u64,
    /// … and their time, summed, in microseconds.
    pub latency_sum_us: u64,
    /// Whether it gave so many errors in a row that it need not be compared.
    pub is_suspect: bool,
    /// Whether it is left alone already, for whatever reason.
    pub is_out: bool,
}

impl Seen {
    fn error_ratio(&self) -> f64 {
        self.errors as f64 / self.ended.max(1) as f64
    }

    fn latency_us(&self) -> f64 {
        self.latency_sum_us as f64 / self.completed.max(1) as f64
    }

    fn and(self, other: &Seen) -> Seen {
        Seen {
            ended: self.ended + other.ended,
            errors: self.errors + other.errors,
            completed: self.completed + other.completed,
            latency_sum_us: self.latency_sum_us + other.latency_sum_us,
            is_suspect: false,
            is_out: false,
        }
    }
}

/// What came of a look at a service's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The endpoints to leave alone from now on, by place, the worst first.
    pub out: Vec<usize>,
    /// Outliers that keep their traffic because too many are out already.
    pub spared: usize,
}

/// Those that gave too many errors in a row.
pub fn suspects(seen: &[Seen], rules: &Rules) -> Found {
    let suspected = |s: &Seen| s.is_suspect.then_some(s.error_ratio());
    limited(seen, rules, |at| suspected(&seen[at]))
}

/// Those that are much worse than their siblings.
pub fn outliers(seen: &[Seen], rules: &Rules) -> Found {
    limited(seen, rules, |at| badness(seen, at, rules))
}

/// The worst ones that there is room for; `badness` is `None` for those that are not bad.
fn limited(seen: &[Seen], rules: &Rules, badness: impl Fn(usize) -> Option<f64>) -> Found {
    let inside = (0..seen.len()).filter(|&at| !seen[at].is_out);
    let mut found: Vec<(f64, usize)> = inside.filter_map(|at| Some((badness(at)?, at))).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let room = room(seen, rules).min(found.len());
    Found {
        spared: found.len() - room,
        out: found[..room].iter().map(|f| f.1).collect(),
    }
}

/// How much worse an endpoint is than its siblings together; `None` when it is not, or nobody can tell.
fn badness(seen: &[Seen], at: usize, rules: &Rules) -> Option<f64> {
    let compared = |s: &&Seen| !s.is_out && s.ended >= rules.requests_min;
    let one = Some(&seen[at]).filter(compared)?;
    let siblings = seen.iter().enumerate().filter(|(other, _)| *other != at);
    let siblings = siblings.map(|(_, s)| s).filter(compared);
    let rest = siblings.fold(None, |sum: Option<Seen>, s| {
        Some(sum.unwrap_or_default().and(s))
    })?;
    let excess = one.error_ratio() - rest.error_ratio();
    let slower = one.latency_us() / rest.latency_us().max(1.0);
    let by_errors = rules.error_excess > 0.0 && excess >= rules.error_excess;
    let by_latency = rules.latency_ratio > 0.0
        && one.completed > 0
        && rest.completed > 0
        && slower >= rules.latency_ratio;
    (by_errors || by_latency).then_some(excess.max(0.0) + slower / 1e6)
}

/// How many more may be left alone.
fn room(seen: &[Seen], rules: &Rules) -> usize {
    let out = seen.iter().filter(|s| s.is_out).count();
    let share = (seen.len() as f64 * rules.ejected_max) as usize;
    // One always may, the last one never.
    let most = share.max(1).min(seen.len().saturating_sub(1));
    most.saturating_sub(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(change: impl FnOnce(&mut traffic_policy::Outlier)) -> Rules {
        let mut policy = traffic_policy::Outlier::default();
        change(&mut policy);
        Rules::new(&policy)
    }

    fn seen(ended: u64, errors: u64, latency_us: u64) -> Seen {
        let completed = ended - errors;
        Seen {
            ended,
            errors,
            completed,
            latency_sum_us: completed * latency_us,
            is_suspect: false,
            is_out: false,
        }
    }

    #[test]
    fn who_is_much_worse_is_left_alone() {
        let out = |s: Seen| Seen { is_out: true, ..s };
        let good = seen(100, 0, 1000);
        let bad = seen(100, 60, 1000);
        let cases: [(&[Seen], &[usize]); 8] = [
            (&[good, bad, good, good], &[1]),
            // Everybody's fault is nobody's.
            (&[bad, bad, bad], &[]),
            (&[bad], &[]),
            // Too few to say.
            (&[good, seen(10, 10, 0)], &[]),
            (&[seen(10, 0, 0), bad], &[]),
            // At most three tenths, at least one.
            (
                &[good, bad, bad, good, good, good, good, good, good, good],
                &[1, 2],
            ),
            (&[good, good, bad, seen(100, 90, 0)], &[3]),
            (&[out(bad), bad, good, good], &[]),
        ];
        for (endpoints, expected) in cases {
            let found = outliers(endpoints, &rules(|_| {}));
            assert_eq!(found.out, expected, "{endpoints:?}");
        }
        let slow = [good, seen(100, 0, 5000), good];
        assert_eq!(outliers(&slow, &rules(|_| {})), Found::default());
        assert_eq!(outliers(&slow, &rules(|p| p.latency_ratio = 3.0)).out, [1]);
    }

    #[test]
    fn who_gives_many_errors_in_a_row_need_not_be_compared() {
        let suspect = Seen {
            is_suspect: true,
            ..seen(3, 3, 0)
        };
        let good = seen(100, 0, 1000);
        let found = suspects(&[good, suspect, good], &rules(|_| {}));
        assert_eq!((found.out, found.spared), (vec![1], 0));
        // One of three; the other two are spared, and an only one always is.
        let found = suspects(&[suspect, suspect, suspect], &rules(|_| {}));
        assert_eq!((found.out, found.spared), (vec![0], 2));
        let found = suspects(&[suspect], &rules(|_| {}));
        assert_eq!((found.out, found.spared), (vec![], 1));
    }

    proptest! {
        /// Whatever was seen, the ceiling holds and somebody is left.
        #[test]
        fn the_ceiling_holds(
            seen_ in proptest::collection::vec((0u64..200, 0u64..200, any::<bool>()), 0..20),
            ejected_max in 0.0f64..1.0,
        ) {
            let endpoints: Vec<Seen> = seen_
                .iter()
                .map(|&(ended, errors, is_out)| Seen { is_out, ..seen(ended, errors.min(ended), 10) })
                .collect();
            let rules = rules(|p| (p.ejected_max, p.latency_ratio) = (ejected_max, 2.0));
            let new = outliers(&endpoints, &rules).out;
            let was = endpoints.iter().filter(|s| s.is_out).count();
            let most = ((endpoints.len() as f64 * ejected_max) as usize).max(1);
            prop_assert!(new.is_empty() || was + new.len() <= most);
            prop_assert!(new.is_empty() || was + new.len() < endpoints.len());
            prop_assert!(new.iter().all(|&at| !endpoints[at].is_out));
        }
    }
}
