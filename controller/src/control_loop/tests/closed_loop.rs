//! The whole law against Poisson demand, with reports late by up to five periods.

use super::*;

/// Counts changes of direction larger than `swing_ppm` in one weight's history.
fn reversals(history: &[u32], swing_ppm: u32) -> usize {
    let (mut low, mut high) = (history[0], history[0]);
    let (mut rising, mut count) = (None, 0);
    for &weight in history {
        if rising != Some(true) && weight > low + swing_ppm {
            count += usize::from(rising.is_some());
            (rising, high) = (Some(true), weight);
        } else if rising != Some(false) && weight + swing_ppm < high {
            count += usize::from(rising.is_some());
            (rising, low) = (Some(false), weight);
        }
        match rising {
            Some(true) => {
                high = high.max(weight);
                low = high;
            }
            Some(false) => {
                low = low.min(weight);
                high = low;
            }
            None => {
                high = high.max(weight);
                low = low.min(weight);
            }
        }
    }
    count
}

#[test]
fn reversals_are_counted() {
    assert_eq!(reversals(&[0, 100, 200, 300], 40), 0);
    assert_eq!(reversals(&[0, 100, 50, 100], 40), 2);
    assert_eq!(reversals(&[0, 100, 90, 110, 95, 120], 40), 0);
    assert_eq!(reversals(&[500, 500, 400, 300, 310, 200], 40), 0);
}

#[test]
fn weights_do_not_swing_in_steady_overload() {
    let mut worst = Vec::new();
    for seed in 0..16 {
        for lag_periods in 0..=5 {
            let mut grid = Grid::new(9, seed, lag_periods);
            let (calm, hot) = (grid.hot(1.0), grid.hot(10.0));
            (0..8 + lag_periods).for_each(|_| _ = grid.period(&calm));
            // Two periods to settle from when the first report of the overload is in.
            (0..2 + lag_periods).for_each(|_| _ = grid.period(&hot));
            let mut history: BTreeMap<(usize, String), Vec<u32>> = BTreeMap::new();
            for second in 0..30 {
                grid.period(&hot);
                for index in 0..81 {
                    let row = grid.row(index);
                    let home = ("home".to_owned(), row.home_ppm);
                    let moves = row.moves.iter().map(|m| (m.to.to_string(), m.weight_ppm));
                    for (to, weight_ppm) in moves.chain([home]) {
                        let weights = history
                            .entry((index, to))
                            .or_insert_with(|| vec![0; second]);
                        weights.push(weight_ppm);
                    }
                }
                history.values_mut().for_each(|h| h.resize(second + 1, 0));
            }
            for ((index, to), weights) in history {
                let count = reversals(&weights, 40_000);
                if count > 0 {
                    worst.push(format!(
                        "seed {seed}, lag {lag_periods}: {count} in {index} → {to}: {weights:?}"
                    ));
                }
            }
            let busiest = (0..81)
                .map(|index| grid.load_rps(index, &hot))
                .fold(0.0, f64::max);
            assert!(
                busiest < 200.0,
                "seed {seed}, lag {lag_periods}: {busiest} requests/s on one node"
            );
        }
    }
    assert!(
        worst.is_empty(),
        "{} weights swung:\n{}",
        worst.len(),
        worst.join("\n")
    );
}
