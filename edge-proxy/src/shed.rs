//! How long a queue may be when the plan says that nobody has room.
//!
//! A long queue bridges moments: it is worth waiting in when room comes soon. When demand exceeds what the whole
//! neighbourhood can serve, none will come, and a queue of a second only makes everybody a second late before the same
//! number is refused. Then the queue needs to be just long enough that no worker ever idles: with excess demand `e`
//! (demand over capacity, minus one) an M/M/c queue of `K` places is empty with a probability that falls like
//! `(1 + e)^-K` (Kleinrock, Queueing Systems I, 3.6), so `K = 3 / e` loses next to nothing.

use isobar_mesh_api::snapshot::{QueueLimits, Row};
use isobar_mesh_api::weight::WHOLE_PPM;

/// Places in the queue, times the excess.
const PLACES: f64 = 6.0;
/// Waiting requests per worker that are allowed in any case.
pub const PER_WORKER_MIN: u32 = 2;

/// The queue's limits while `row` is in force, for a node that works on `workers` requests at once. They are the
/// service's own while the plan sheds nothing.
pub fn limits(limits: QueueLimits, row: &Row, workers: u32) -> QueueLimits {
    if row.shed_ppm == 0 || workers == 0 {
        return limits;
    }
    let shed = f64::from(row.shed_ppm.min(WHOLE_PPM)) / f64::from(WHOLE_PPM);
    let places = PLACES * (1.0 - shed) / shed;
    let per_worker = (places / f64::from(workers)).ceil() as u32;
    QueueLimits {
        per_worker_max: limits.per_worker_max.min(per_worker.max(PER_WORKER_MIN)),
        ..limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_shed_the_shorter_the_queue() {
        let per_worker = |shed_ppm, workers| {
            let row = Row {
                shed_ppm,
                ..Row::home()
            };
            limits(QueueLimits::default(), &row, workers).per_worker_max
        };
        let cases = [
            (0, 4, 50),
            (1, 4, 50),
            (50_000, 4, 29),
            (500_000, 4, 2),
            (1_000_000, 4, 2),
            (50_000, 1, 50),
            (50_000, 0, 50),
            (50_000, 1000, 2),
        ];
        for (shed_ppm, workers, expected) in cases {
            assert_eq!(
                per_worker(shed_ppm, workers),
                expected,
                "{shed_ppm} {workers}"
            );
        }
    }
}
