//! Failures made on purpose.

use std::time::Duration;

use http::StatusCode;
use isobar_mesh_api::resource::route::{self, share_ppm};
use isobar_mesh_api::weight::WHOLE_PPM;

/// Delays and failures of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    delay: Option<(u32, Duration)>,
    failure: Option<(u32, Failure)>,
}

/// An answer instead of a backend's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The status.
    pub status: StatusCode,
    /// The status that a gRPC call gets; `None` = what fits `status`.
    pub grpc: Option<u8>,
}

impl Fault {
    pub(super) fn new(fault: &route::Fault) -> Fault {
        let delay = fault.delay.map(|delay| {
            let share = share_ppm(delay.percent, delay.fraction);
            (
                share,
                delay.duration.as_duration().min(route::FAULT_DELAY_MAX),
            )
        });
        let failure = fault.abort.map(|abort| {
            let status = StatusCode::from_u16(abort.http_status);
            let failure = Failure {
                status: status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                grpc: abort.grpc_status,
            };
            (share_ppm(abort.percent, abort.fraction), failure)
        });
        Fault { delay, failure }
    }

    /// Whether this request waits, and how long. Independent of everything else, so that faults meet every kind of
    /// request.
    pub(super) fn delay(&self, rng: &mut fastrand::Rng) -> Option<Duration> {
        let (share, delay) = self.delay?;
        (rng.u32(..WHOLE_PPM) < share).then_some(delay)
    }

    /// Whether this request fails, and how.
    pub(super) fn failure(&self, rng: &mut fastrand::Rng) -> Option<Failure> {
        let (share, failure) = self.failure?;
        (rng.u32(..WHOLE_PPM) < share).then_some(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_hold_on_average_and_at_both_ends() {
        let check = |percent: u32, low: usize, high: usize| {
            let text = format!(r#"{{"abort": {{"percent": {percent}}}}}"#);
            let fault = Fault::new(&serde_json::from_str(&text).unwrap());
            let mut rng = fastrand::Rng::with_seed(7);
            let failed = (0..10_000)
                .filter(|_| fault.failure(&mut rng).is_some())
                .count();
            assert!((low..=high).contains(&failed), "{percent}: {failed}");
            assert_eq!(fault.delay(&mut rng), None);
        };
        check(0, 0, 0);
        check(100, 10_000, 10_000);
        check(10, 850, 1150);
    }
}
