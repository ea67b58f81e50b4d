//! What load costs a node, as the convex planner sees it.
//!
//! The cost of a load Λ is Λ times the time that its requests wait beyond their bare service, so that its slope is what
//! one more request costs all of them. Waiting follows Sakasegawa's approximation of M/M/c,
//!
//! ```text
//!     Wq(ρ) / S  =  ρ^(√(2(c+1)) − 1) / (c · (1 − ρ))
//! ```
//!
//! (H. Sakasegawa, "An approximation formula L_q ≃ α·ρ^β/(1−ρ)", Annals of the Institute of Statistical Mathematics 29
//! (1977), 67–75), and the slope at utilisation ρ is `d(ρ·Wq)/dρ = Wq + ρ·Wq'`, in service times. Up to the target the
//! policy wants nothing moved, so load is free there; from the target to the ceiling [`SEGMENTS`] steps of equal width
//! each have the slope of their middle; beyond the ceiling nothing is planned.

use super::flow::{Curve, FlowError};

/// Steps between target and ceiling. With eight, one step of a node at 200 requests/s is 5 requests/s wide: less than
/// the noise of its demand.
pub const SEGMENTS: u32 = 8;

/// Workers per node that the curve is drawn for. It only shapes how load above the target is shared out; 4 and 64
/// workers differ by a factor that all nodes have in common.
pub const WORKERS: f64 = 4.0;

/// Largest slope, in millionths of the service time: 1000 service times.
const SLOPE_PPM_MAX: f64 = 1e9;

/// Time a request waits at utilisation `rho` (0 to below 1), in service times.
fn wait(rho: f64) -> f64 {
    rho.powf(exponent()) / (WORKERS * (1.0 - rho))
}

/// Waiting that one more request adds at utilisation `rho`, its own and that which it causes, in service times.
pub fn marginal_wait(rho: f64) -> f64 {
    let growth = exponent() / rho + 1.0 / (1.0 - rho);
    wait(rho) * (1.0 + rho * growth)
}

fn exponent() -> f64 {
    (2.0 * (WORKERS + 1.0)).sqrt() - 1.0
}

/// The curve from target to ceiling, both in parts per million, `1 ≤ target ≤ ceiling ≤ 1 000 000`.
///
/// # Errors
/// A target of 0 or above the ceiling, as the solver says it.
pub fn curve(target_ppm: u32, ceiling_ppm: u32) -> Result<Curve, FlowError> {
    let mut upto_ppm = vec![target_ppm];
    let mut excess_ppm = vec![0];
    let width_ppm = ceiling_ppm.saturating_sub(target_ppm);
    for step in 0..SEGMENTS {
        let from_ppm = target_ppm + width_ppm * step / SEGMENTS;
        let end_ppm = target_ppm + width_ppm * (step + 1) / SEGMENTS;
        if end_ppm > from_ppm {
            let middle = f64::from(from_ppm + end_ppm) / 2e6;
            upto_ppm.push(end_ppm);
            excess_ppm.push((marginal_wait(middle) * 1e6).min(SLOPE_PPM_MAX) as u32);
        }
    }
    Curve::new(upto_ppm, excess_ppm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_the_derivative_of_load_times_wait() {
        for rho in [0.3, 0.75, 0.9, 0.97] {
            let cost = |rho: f64| rho * wait(rho);
            let slope = (cost(rho + 1e-6) - cost(rho - 1e-6)) / 2e-6;
            assert!((marginal_wait(rho) / slope - 1.0).abs() < 1e-5, "{rho}");
        }
        // Erlang's C gives 0.51 · S / (4 · 0.25) = 0.51 S for four workers at 75 %.
        assert!((wait(0.75) - 0.51).abs() < 0.04, "{}", wait(0.75));
    }

    #[test]
    fn every_allowed_policy_makes_a_curve() {
        for (target, ceiling) in [
            (750_000, 950_000),
            (50_000, 1_000_000),
            (1_000_000, 1_000_000),
            (500_000, 500_003),
        ] {
            assert!(curve(target, ceiling).is_ok(), "{target} {ceiling}");
        }
    }
}
