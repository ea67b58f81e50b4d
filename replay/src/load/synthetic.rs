//! Made-up spikes on a grid.

use crate::options::{Options, SPIKE_S, Synthetic, WARM_UP_S};

/// A made-up spike: every node at its base, some of them above it for [`SPIKE_S`].
#[derive(Debug, Clone)]
pub struct Spike {
    shape: Synthetic,
    base_rps: f64,
    times: f64,
    columns: u32,
    rows: u32,
    period_s: f64,
}

impl Spike {
    /// The spike that the options describe.
    pub fn new(shape: Synthetic, options: &Options) -> Spike {
        Spike {
            shape,
            base_rps: options.base * options.capacity_rps(),
            times: options.times,
            columns: options.grid.0,
            rows: options.grid.1,
            period_s: options.period_ms as f64 / 1000.0,
        }
    }

    /// Requests/s that enter at `node` at `at_s`.
    pub fn rate_rps(&self, node: u32, at_s: f64) -> f64 {
        self.base_rps * (1.0 + (self.times - 1.0) * self.height(node, at_s))
    }

    /// Whether `node` is above its base at `at_s`.
    pub fn is_hot(&self, node: u32, at_s: f64) -> bool {
        self.height(node, at_s) > 0.0
    }

    /// How much of the spike stands at a node, 0 to 1.
    fn height(&self, node: u32, at_s: f64) -> f64 {
        // Progress of the spike, 0 to 1.
        let progress = (at_s - WARM_UP_S) / SPIKE_S;
        if !(0.0..1.0).contains(&progress) {
            return 0.0;
        }
        let centre = (self.columns / 2, self.rows / 2);
        let here = (node % self.columns, node / self.columns);
        let at_centre = f64::from(u8::from(here == centre));
        match self.shape {
            Synthetic::Calm => 0.0,
            Synthetic::Step => at_centre,
            Synthetic::Ramp => at_centre * progress,
            Synthetic::Trapezoid => at_centre * (3.0 * progress.min(1.0 - progress)).min(1.0),
            Synthetic::Platoon => self.platoon(here, progress),
            Synthetic::Overlap => {
                let left = (centre.0.saturating_sub(1), centre.1);
                let right = ((centre.0 + 1).min(self.columns - 1), centre.1);
                f64::from(u8::from(here == left || here == right))
            }
            Synthetic::Square => {
                let half_period = ((at_s - WARM_UP_S) / self.period_s) as u64;
                at_centre * f64::from(u8::from(half_period.is_multiple_of(2)))
            }
            Synthetic::Surge => 1.0,
        }
    }

    /// A hot spot that crosses the middle three fifths of the middle row. Between two nodes it
    /// stands on both, in proportion to how near it is.
    fn platoon(&self, here: (u32, u32), progress: f64) -> f64 {
        if here.1 != self.rows / 2 {
            return 0.0;
        }
        let way = f64::from(self.columns.saturating_sub(1));
        let spot = way * (0.2 + 0.6 * progress);
        (1.0 - (f64::from(here.0) - spot).abs()).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spike(shape: Synthetic) -> Spike {
        Spike::new(
            shape,
            &Options {
                grid: (11, 11),
                ..Options::default()
            },
        )
    }

    fn total_over_base(spike: &Spike, at_s: f64) -> f64 {
        let total: f64 = (0..121).map(|node| spike.rate_rps(node, at_s)).sum();
        total / 120.0 - 121.0
    }

    #[test]
    fn every_shape_stands_where_it_should() {
        let mid_s = WARM_UP_S + SPIKE_S / 2.0;
        // Demand above the base, in bases.
        let cases = [
            (Synthetic::Calm, mid_s, 0.0),
            (Synthetic::Step, WARM_UP_S - 0.1, 0.0),
            (Synthetic::Step, WARM_UP_S, 9.0),
            (Synthetic::Step, WARM_UP_S + SPIKE_S, 0.0),
            (Synthetic::Ramp, mid_s, 4.5),
            (Synthetic::Trapezoid, mid_s, 9.0),
            (Synthetic::Trapezoid, WARM_UP_S + SPIKE_S / 6.0, 4.5),
            (Synthetic::Platoon, mid_s, 9.0),
            (Synthetic::Platoon, WARM_UP_S + 1.0, 9.0),
            (Synthetic::Overlap, mid_s, 18.0),
            (Synthetic::Square, WARM_UP_S + 0.5, 9.0),
            (Synthetic::Square, WARM_UP_S + 1.5, 0.0),
            (Synthetic::Surge, mid_s, 121.0 * 9.0),
        ];
        for (shape, at_s, expected) in cases {
            let got = total_over_base(&spike(shape), at_s);
            assert!((got - expected).abs() < 1e-6, "{shape:?} at {at_s}: {got}");
        }
    }
}
