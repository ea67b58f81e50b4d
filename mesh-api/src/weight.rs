//! Weights in parts per million.
//!
//! **Invariant**: the weights of a row sum to exactly [`WHOLE_PPM`]. Fractions
//! are rounded by largest remainder (Hamilton's method), ties to the lower
//! index, so the same shares give the same weights everywhere.

/// The whole of a home's demand, in parts per million.
pub const WHOLE_PPM: u32 = 1_000_000;

/// Rounds non-negative shares to weights that sum to exactly [`WHOLE_PPM`].
///
/// Shares need no common scale. When their sum is zero, or any of them is
/// negative or not finite, the first entry (the home, by convention) gets
/// everything; an empty slice gives an empty row.
pub fn apportion_ppm(shares: &[f64]) -> Vec<u32> {
    if shares.is_empty() {
        return Vec::new();
    }
    let sum: f64 = shares.iter().sum();
    let sound = sum.is_finite() && sum > 0.0 && shares.iter().all(|&s| s >= 0.0 && s.is_finite());
    if !sound {
        let mut row = vec![0; shares.len()];
        row[0] = WHOLE_PPM;
        return row;
    }
    let exact: Vec<f64> = shares
        .iter()
        .map(|s| s / sum * f64::from(WHOLE_PPM))
        .collect();
    let mut row: Vec<u32> = exact.iter().map(|&w| w as u32).collect();
    let given: u32 = row.iter().sum();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    let remainder = |i: usize| exact[i] - exact[i].floor();
    order.sort_by(|&a, &b| remainder(b).total_cmp(&remainder(a)).then(a.cmp(&b)));
    let missing = WHOLE_PPM.saturating_sub(given) as usize;
    for &i in order.iter().cycle().take(missing) {
        row[i] += 1;
    }
    // Floating error can leave the floors one too many in total.
    let mut over = row.iter().sum::<u32>().saturating_sub(WHOLE_PPM);
    for w in row.iter_mut().rev() {
        let cut = over.min(*w);
        *w -= cut;
        over -= cut;
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edge_cases() {
        let cases: [(&[f64], &[u32]); 6] = [
            (&[], &[]),
            (&[0.0, 0.0], &[WHOLE_PPM, 0]),
            (&[1.0], &[WHOLE_PPM]),
            (&[1.0, 1.0, 1.0], &[333_334, 333_333, 333_333]),
            (&[f64::NAN, 1.0], &[WHOLE_PPM, 0]),
            (&[-1.0, 2.0], &[WHOLE_PPM, 0]),
        ];
        for (shares, row) in cases {
            assert_eq!(apportion_ppm(shares), row, "{shares:?}");
        }
    }

    proptest! {
        #[test]
        fn rows_sum_to_a_million(shares in prop::collection::vec(0.0_f64..1e12, 1..40)) {
            let row = apportion_ppm(&shares);
            prop_assert_eq!(row.iter().sum::<u32>(), WHOLE_PPM);
            let sum: f64 = shares.iter().sum();
            if sum > 0.0 {
                for (w, s) in row.iter().zip(&shares) {
                    prop_assert!((f64::from(*w) - s / sum * 1e6).abs() <= 1.0 + 1e-6);
                }
            }
        }
    }
}
