//! Means over seeds and how far they can be trusted.

/// A mean with the half width of its 95 % confidence interval (Student's t).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the interval's width; 0 for a single value, of which nothing can be said.
    pub half_width: f64,
}

/// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// Beyond 30 degrees of freedom: 1.96 and the first term of its expansion.
fn t_95(degrees: usize) -> f64 {
    let beyond = || 1.96 + 2.372 / degrees as f64;
    T_95.get(degrees.wrapping_sub(1))
        .copied()
        .unwrap_or_else(beyond)
}

impl Estimate {
    /// The estimate from independent values; zeros from none.
    pub fn of(values: &[f64]) -> Estimate {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n.max(1) as f64;
        if n < 2 {
            return Estimate {
                mean,
                half_width: 0.0,
            };
        }
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let error = (squares / (n - 1) as f64 / n as f64).sqrt();
        Estimate {
            mean,
            half_width: t_95(n - 1) * error,
        }
    }

    /// Mean and half width times `factor`, with that many decimals; `12.3 ± 0.4`.
    pub fn text(&self, factor: f64, decimals: usize) -> String {
        let mean = self.mean * factor;
        if self.half_width == 0.0 {
            return format!("{mean:.decimals$}");
        }
        format!(
            "{mean:.decimals$} ± {:.decimals$}",
            self.half_width * factor
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_intervals() {
        let cases: [(&[f64], f64, f64); 4] = [
            (&[], 0.0, 0.0),
            (&[3.0], 3.0, 0.0),
            // s = 1, n = 3: 4.303 / √3.
            (&[1.0, 2.0, 3.0], 2.0, 2.4843),
            (&[5.0, 5.0, 5.0, 5.0], 5.0, 0.0),
        ];
        for (values, mean, half_width) in cases {
            let got = Estimate::of(values);
            assert!((got.mean - mean).abs() < 1e-9, "{values:?}");
            assert!((got.half_width - half_width).abs() < 1e-3, "{got:?}");
        }
        assert!((t_95(31) - 2.0395).abs() < 5e-3 && (t_95(1000) - 1.962).abs() < 1e-3);
    }
}
