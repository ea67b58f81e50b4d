//! From the figures of rounds to what is shown of them.

use std::collections::BTreeMap;

use serde::Serialize;

/// Figures of one measurement by name; the name ends in the unit.
pub type Figures = BTreeMap<&'static str, f64>;

/// A figure over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// Its median.
    pub median: f64,
    /// Its lowest value.
    pub low: f64,
    /// Its highest value.
    pub high: f64,
    /// All values, in the order of the rounds.
    pub rounds: Vec<f64>,
}

impl Spread {
    /// Of at least one value.
    pub fn of(rounds: Vec<f64>) -> Option<Spread> {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Spread {
            median,
            low,
            high,
            rounds,
        })
    }
}

/// What one proxy did in one scenario.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// The proxy, or `direct`.
    pub peer: &'static str,
    /// One entry a round.
    pub rounds: Vec<Figures>,
    /// Why there are no more rounds.
    pub failure: Option<String>,
}

/// One line of a scenario's report.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The proxy, or `direct`.
    pub peer: &'static str,
    /// Why figures are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Every figure over its rounds.
    pub figures: BTreeMap<&'static str, Spread>,
}

/// Adds to every round what follows from comparing it with the same round of `reference`:
/// `to(figure, figure of the reference)` under `name`.
pub fn compare(
    samples: &mut [Samples],
    reference: &str,
    figure: &str,
    name: &'static str,
    to: impl Fn(f64, f64) -> f64,
) {
    let Some(found) = samples.iter().find(|s| s.peer == reference) else {
        return;
    };
    let base: Vec<Option<f64>> = found
        .rounds
        .iter()
        .map(|r| r.get(figure).copied())
        .collect();
    for sample in samples {
        for (round, base) in sample.rounds.iter_mut().zip(&base) {
            if let (Some(own), Some(base)) = (round.get(figure).copied(), base) {
                round.insert(name, to(own, *base));
            }
        }
    }
}

/// Rounds become spreads.
pub fn rows(samples: Vec<Samples>) -> Vec<Row> {
    samples.into_iter().map(row).collect()
}

fn row(samples: Samples) -> Row {
    let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for round in &samples.rounds {
        for (&name, &value) in round {
            values.entry(name).or_default().push(value);
        }
    }
    let spreads = values
        .into_iter()
        .filter_map(|(name, values)| Some((name, Spread::of(values)?)));
    Row {
        peer: samples.peer,
        failure: samples.failure,
        figures: spreads.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(vec![]), None);
        for (values, median) in [
            (vec![4.0], 4.0),
            (vec![3.0, 1.0, 2.0], 2.0),
            (vec![4.0, 1.0, 2.0, 3.0], 2.5),
        ] {
            let spread = Spread::of(values.clone()).unwrap();
            assert_eq!((spread.median, &spread.rounds), (median, &values));
        }
    }

    #[test]
    fn ratios_are_formed_within_a_round() {
        let samples = |peer, values: &[f64]| Samples {
            peer,
            rounds: values
                .iter()
                .map(|&v| Figures::from([("cpu_us", v)]))
                .collect(),
            failure: None,
        };
        let mut all = [
            samples("nginx", &[10.0, 20.0]),
            samples("raw", &[5.0, 15.0, 1.0]),
        ];
        compare(&mut all, "nginx", "cpu_us", "ratio", |own, base| own / base);
        let rows = rows(all.to_vec());
        assert_eq!(rows[0].figures["ratio"].rounds, [1.0, 1.0]);
        assert_eq!(rows[1].figures["ratio"].rounds, [0.5, 0.75]);
        assert_eq!(rows[1].figures["cpu_us"].rounds.len(), 3);
    }
}
