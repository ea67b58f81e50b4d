use super::*;
use proptest::prelude::*;

fn of(priority: i32, workers: f64, need: f64) -> Claim {
    Claim {
        priority,
        workers,
        need,
    }
}

fn alone(busiest: f64) -> Used {
    Used {
        busiest,
        mean: None,
    }
}

#[test]
fn services_shrink_together_above_the_processors_ceiling() {
    // Two services, each good for 200 alone, share one processor that is full at 100 + 100.
    let mut share = CpuShare::default();
    let mut cpu_ratio = 1.0;
    for _ in 0..30 {
        let planned_rps = (0.95 * 200.0 * share.factor()).min(100.0);
        cpu_ratio = planned_rps / 100.0;
        share.observe(Some(cpu_ratio), alone(planned_rps / 200.0));
    }
    assert!((0.44..=0.5).contains(&share.factor()), "{}", share.factor());
    assert!(cpu_ratio <= 0.92, "{cpu_ratio}");
    // A full processor with all capacity in use shrinks no further than to its ceiling.
    let mut share = CpuShare::default();
    for _ in 0..30 {
        share.observe(Some(1.0), alone(1.0));
    }
    assert_eq!(share.factor(), CPU_CEILING);
    for _ in 0..30 {
        share.observe(Some(0.3), alone(0.3));
    }
    assert_eq!(share.factor(), 1.0);
}

/// The law before there were priorities, as it stood.
fn together(factor: f64, cpu_ratio: f64, utilisation: f64) -> f64 {
    if cpu_ratio > 0.9 {
        let over = 0.9 / cpu_ratio;
        let served = (utilisation * over).min(1.0);
        let shrunk = factor * over.max(1.0 - 0.1);
        shrunk.max(served).min(factor).max(0.01)
    } else if cpu_ratio < 0.85 {
        (factor * (1.0 + 0.1 / 2.0)).min(1.0)
    } else {
        factor
    }
}

#[test]
fn the_important_is_served_first_and_the_other_has_what_it_leaves() {
    let cases = [
        // Enough for the important one's whole capacity; the other has what that one does not need.
        (0.5, [of(9, 4.0, 0.25), of(0, 4.0, 1.0)], [0.95, 0.75]),
        (0.5, [of(9, 4.0, 0.95), of(0, 4.0, 1.0)], [0.95, 0.05]),
        (0.75, [of(9, 4.0, 1.0), of(0, 4.0, 1.0)], [1.0, 0.5]),
        // Both are idle: either could have the budget.
        (0.5, [of(9, 4.0, 0.0), of(0, 4.0, 0.0)], [0.95, 0.95]),
        // Not even enough for the important one.
        (0.25, [of(9, 4.0, 1.0), of(0, 4.0, 1.0)], [0.45, 0.05]),
        // Less than the least share: it is everybody's.
        (0.02, [of(9, 4.0, 1.0), of(0, 4.0, 1.0)], [0.02, 0.02]),
        // Few workers are soon served.
        (0.5, [of(9, 1.0, 1.0), of(-9, 9.0, 1.0)], [1.0, 4.0 / 9.0]),
    ];
    for (factor, claims, expected) in cases {
        let given = divide(factor, &claims);
        for (given, expected) in given.iter().zip(expected) {
            assert!(
                (given.1 - expected).abs() < 1e-9,
                "{factor} {claims:?}: {given:?}"
            );
        }
        assert_eq!(given.len(), 2, "{factor} {claims:?}");
        let turned: Vec<Claim> = claims.into_iter().rev().collect();
        assert_eq!(divide(factor, &turned), given);
    }
}

#[test]
fn the_budget_is_found_in_a_few_windows_and_does_not_swing() {
    // One processor, full when four workers of the eight are busy. The important service asks for a part of its own,
    // the other for all it may have; what it may not have goes elsewhere.
    for (important, expected) in [(0.2, 0.7), (0.5, 0.4), (0.75, 0.15)] {
        let mut share = CpuShare::default();
        let (mut cpu_ratio, mut least, mut most) = (0.0_f64, f64::INFINITY, 0.0_f64);
        for window in 0..60 {
            share.divide(&[of(1, 4.0, important), of(0, 4.0, 0.9)]);
            assert!(share.factor_of(1) >= important, "window {window}");
            let other = 0.9_f64.min(0.95 * share.factor_of(0));
            cpu_ratio = (important + other).min(1.0);
            let used = Used {
                busiest: important.max(other),
                mean: Some(cpu_ratio / 2.0),
            };
            share.observe(Some(cpu_ratio), used);
            if window > 6 {
                assert!(cpu_ratio <= 0.97, "window {window}: {cpu_ratio}");
            }
            if window > 20 {
                (least, most) = (least.min(other), most.max(other));
            }
        }
        assert!(most - least < 0.12, "{important}: {least} to {most}");
        assert!((least..=most + 0.1).contains(&expected), "{least} {most}");
        assert!(cpu_ratio > 0.8, "{cpu_ratio}");
    }
}

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let claim = (-2..3_i32, 0.0..64.0_f64, 0.0..1.0_f64).prop_map(|(p, w, n)| of(p, w.round(), n));
    proptest::collection::vec(claim, 0..8)
}

fn sum(claims: &[Claim], share: impl Fn(&Claim) -> f64) -> f64 {
    claims.iter().map(|c| c.workers * share(c)).sum()
}

proptest! {
    #[test]
    fn alike_is_as_it_was(seen in proptest::collection::vec((0.0..1.0_f64, 0.0..1.2_f64), 1..80), priority in -9..9_i32) {
        let (mut share, mut factor) = (CpuShare::default(), 1.0);
        for (cpu_ratio, utilisation) in seen {
            share.observe(Some(cpu_ratio), alone(utilisation));
            factor = together(factor, cpu_ratio, utilisation);
            share.divide(&[of(priority, 4.0, 0.3), of(priority, 9.0, 0.9), of(priority, 1.0, 0.0)]);
            prop_assert_eq!(share.factor().to_bits(), factor.to_bits());
            prop_assert_eq!(share.factor_of(priority).to_bits(), factor.to_bits());
        }
    }

    #[test]
    fn what_is_given_is_what_is_there(claims in claims(), factor in 0.01..1.0_f64, more in 0.0..0.5_f64) {
        let mut share = CpuShare { factor, classes: Vec::new() };
        share.divide(&claims);
        let given = |c: &Claim| share.factor_of(c.priority);
        // Bounded.
        for claim in &claims {
            let least = factor.min(LEAST_SHARE);
            prop_assert!((least..=1.0).contains(&given(claim)), "{} of {:?}", given(claim), claim);
        }
        // What all need of what they are given fits the budget, up to the least shares.
        let budget = factor * sum(&claims, |_| 1.0);
        let used = sum(&claims, |c| given(c).min(c.need));
        let least = sum(&claims, |_| factor.min(LEAST_SHARE));
        prop_assert!(used <= budget + least + 1e-6, "{used} of {budget}");
        // When all need everything, all of it is given and no more.
        let eager: Vec<Claim> = claims.iter().map(|c| Claim { need: 1.0, ..*c }).collect();
        let mut all = share.clone();
        all.divide(&eager);
        let total = sum(&eager, |c| all.factor_of(c.priority));
        prop_assert!((total - budget).abs() < 1e-6, "{total} of {budget}");
        // Then nobody has less than somebody who is less important, and who is short has nobody below with more than the least.
        for a in &eager {
            for b in eager.iter().filter(|b| b.priority < a.priority && a.workers * b.workers > 0.0) {
                let (above, below) = (all.factor_of(a.priority), all.factor_of(b.priority));
                prop_assert!(above >= below - 1e-9);
                prop_assert!(above >= 1.0 - 1e-9 || below <= factor.min(LEAST_SHARE) + 1e-9);
            }
        }
        // More processors take nothing from anybody.
        let mut richer = CpuShare { factor: (factor + more).min(0.999_999), classes: Vec::new() };
        richer.divide(&eager);
        for claim in &eager {
            prop_assert!(factor > 0.999_998 || richer.factor_of(claim.priority) >= all.factor_of(claim.priority) - 1e-9);
        }
    }

    #[test]
    fn nobody_feels_who_is_less_important(claims in claims(), factor in 0.1..1.0_f64, need in 0.0..1.0_f64) {
        let Some(lowest) = claims.iter().map(|c| c.priority).min() else { return Ok(()); };
        let changed: Vec<Claim> = claims
            .iter()
            .map(|c| if c.priority == lowest { Claim { need, ..*c } } else { *c })
            .collect();
        let (mut before, mut after) = (CpuShare { factor, classes: Vec::new() }, CpuShare { factor, classes: Vec::new() });
        before.divide(&claims);
        after.divide(&changed);
        for claim in &claims {
            prop_assert_eq!(before.factor_of(claim.priority), after.factor_of(claim.priority));
        }
    }
}
