//! Weights without a controller: they hold for a while, then go home.
//!
//! A plan made for a spike is wrong after it. When the controller has been
//! silent for [`SILENT_PERIODS`] periods, what moves by plan halves every
//! [`HALF_LIFE`]; spill alone carries the peaks then.

use std::time::Duration;

use isobar_mesh_api::snapshot::Row;
use isobar_mesh_api::weight::WHOLE_PPM;

/// Periods without a word from the controller after which weights decay.
pub const SILENT_PERIODS: u32 = 5;
/// In this time what moves by plan halves.
pub const HALF_LIFE: Duration = Duration::from_secs(2);
/// Below this share a decayed row is all home.
const GONE: f64 = 0.005;

/// The share of the plan's moves that still holds after `silent` without the controller, 1 to 0.
pub fn share_left(silent: Duration, period: Duration) -> f64 {
    let over = silent.saturating_sub(period * SILENT_PERIODS);
    let share = 0.5_f64.powf(over.as_secs_f64() / HALF_LIFE.as_secs_f64());
    if share < GONE { 0.0 } else { share }
}

/// The row with its moves scaled by `share_left` (0 to 1); the rest is home's. Nothing is shed
/// by a plan that is out of date. The sum stays exactly one million.
pub fn decay(row: &Row, share_left: f64) -> Row {
    if share_left >= 1.0 {
        return row.clone();
    }
    let scale = |ppm: u32| (f64::from(ppm) * share_left.max(0.0)) as u32;
    let mut decayed = Row {
        home_ppm: 0,
        cloud_ppm: scale(row.cloud_ppm),
        moves: row.moves.clone(),
        shed_ppm: 0,
    };
    for to in &mut decayed.moves {
        to.weight_ppm = scale(to.weight_ppm);
    }
    decayed.moves.retain(|to| to.weight_ppm > 0);
    let away = decayed.sum_ppm() as u32;
    decayed.home_ppm = WHOLE_PPM - away.min(WHOLE_PPM);
    decayed
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_mesh_api::names::NodeId;
    use isobar_mesh_api::snapshot::Move;

    #[test]
    fn holds_then_halves_then_ends() {
        let period = Duration::from_secs(1);
        let cases = [(0, 1.0), (5, 1.0), (7, 0.5), (9, 0.25), (60, 0.0)];
        for (silent_s, share) in cases {
            let got = share_left(Duration::from_secs(silent_s), period);
            assert!((got - share).abs() < 1e-9, "{silent_s} s: {got}");
        }
    }

    #[test]
    fn rows_keep_their_sum() {
        let row = Row {
            home_ppm: 100_000,
            cloud_ppm: 100_001,
            moves: vec![Move {
                to: NodeId::new("b").unwrap(),
                weight_ppm: 799_999,
            }],
            shed_ppm: 5,
        };
        for share in [1.0, 0.7, 0.333, 1e-9, 0.0] {
            let decayed = decay(&row, share);
            assert_eq!(decayed.sum_ppm(), u64::from(WHOLE_PPM), "{share}");
            assert!(decayed.home_ppm >= row.home_ppm);
        }
        assert_eq!(decay(&row, 0.0), Row::home());
    }
}
