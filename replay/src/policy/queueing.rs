//! Queueing theory that the exact plan and the tests stand on.

/// The part of arrivals that wait in an M/M/c queue at utilisation `rho` below 1 (Erlang C,
/// through the Erlang B recursion).
pub(crate) fn erlang_c(workers: u32, rho: f64) -> f64 {
    let offered = f64::from(workers) * rho;
    let blocked = (1..=workers).fold(1.0, |blocked, n| {
        offered * blocked / (f64::from(n) + offered * blocked)
    });
    blocked / (1.0 - rho * (1.0 - blocked))
}

/// Mean wait in an M/M/c queue, in service times.
pub(crate) fn mean_wait(workers: u32, rho: f64) -> f64 {
    erlang_c(workers, rho) / (f64::from(workers) * (1.0 - rho))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // One worker waits with probability rho, for rho / (1 - rho) service times. Two workers: 2 rho² / (1 + rho).
        for rho in [0.1, 0.5, 0.9] {
            assert!((erlang_c(1, rho) - rho).abs() < 1e-12);
            assert!((mean_wait(1, rho) - rho / (1.0 - rho)).abs() < 1e-9);
            assert!((erlang_c(2, rho) - 2.0 * rho * rho / (1.0 + rho)).abs() < 1e-12);
        }
    }
}
