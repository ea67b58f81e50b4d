//! What a receiver grants each home that may move load to it: the plan's flow plus a share of its headroom.
//!
//! The flow is what the home will send once the plan is in force. The share is for what no plan knows yet: a spike's
//! first second, which spill carries. A lonely hot home must then get most of what each neighbour has, but nobody knows
//! beforehand which home it will be; so every home is granted the same share, and together they are granted far more than there is.
//! That is safe because credit is only the first of two doors: a receiver also refuses what exceeds its own in-flight
//! limit, and serves its own traffic first.

/// Credit beyond the plan's flow, as a multiple of the receiver's headroom. Headroom ends at the target utilisation;
/// a receiver at 60 % with a target of 75 % can lend 40 % of its capacity for the second until a plan exists, and
/// queue some more: 4 × 15 %.
pub const OVERCOMMIT: f64 = 4.0;

/// How many standard deviations of Poisson arrivals in one second a planned flow may exceed its mean. A plan's flow is a
/// mean; without this half of all seconds would be refused something.
pub const FLOW_DEVIATIONS: f64 = 2.0;

/// Change that is pushed, as a share of what was pushed.
pub const PUSH_SHARE: f64 = 0.3;

/// Change below which nothing is pushed, as a share of the receiver's capacity.
pub const PUSH_CAPACITY_SHARE: f64 = 0.05;

/// Credit for a home whose planned flow is `flow_rps`, by a receiver with `headroom_rps` left below its target.
pub fn credit_rps(flow_rps: f64, headroom_rps: f64) -> f64 {
    flow_rps + FLOW_DEVIATIONS * flow_rps.sqrt() + OVERCOMMIT * headroom_rps
}

/// Whether a credit must be pushed: the planned flow no longer fits in what was pushed, or it is off by more than
/// noise. `capacity_rps` is the receiver's.
pub fn is_due(flow_rps: f64, credit_rps: f64, pushed_rps: f64, capacity_rps: f64) -> bool {
    let noise_rps = (PUSH_SHARE * pushed_rps).max(PUSH_CAPACITY_SHARE * capacity_rps);
    flow_rps > pushed_rps || (credit_rps - pushed_rps).abs() > noise_rps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_is_always_covered_and_noise_is_not_pushed() {
        assert_eq!(credit_rps(0.0, 0.0), 0.0);
        assert_eq!(credit_rps(0.0, 30.0), 120.0);
        assert!(credit_rps(64.0, 0.0) >= 80.0);
        assert!(!is_due(64.0, 80.0, 75.0, 200.0));
        assert!(is_due(64.0, 80.0, 60.0, 200.0));
        assert!(is_due(0.0, 0.0, 120.0, 200.0));
        assert!(!is_due(0.0, 130.0, 120.0, 200.0));
    }
}
