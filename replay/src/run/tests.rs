use super::*;
use crate::options::{Capacity, Silence};

fn small(policies: &[PolicyName]) -> Options {
    Options {
        policies: policies.to_vec(),
        grid: (7, 7),
        times: 6.0,
        base: 0.5,
        service_ms: 50.0,
        ..Options::default()
    }
}

fn all() -> Vec<PolicyName> {
    PolicyName::NAMES
        .iter()
        .map(|&(_, policy)| policy)
        .collect()
}

fn replay(options: &Options) -> Report {
    run(options, &|_| {}).unwrap()
}

fn of(report: &Report, policy: PolicyName) -> &Run {
    report.runs.iter().find(|run| run.policy == policy).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_numbers_on_any_threads() {
    let options = Options {
        seeds: 2,
        threads: 1,
        report_loss: 0.1,
        ..small(&all())
    };
    let again = Options {
        threads: 3,
        ..options.clone()
    };
    let (first, second) = (replay(&options).json(), replay(&again).json());
    assert_eq!(first, second);
    let other = Options {
        seed: 77,
        ..options
    };
    assert_ne!(first, replay(&other).json());
}

#[test]
fn every_request_ends_once_whatever_fails() {
    let troubled = Options {
        report_loss: 0.3,
        controller_down: Some(6.0..14.0),
        silences: vec![Silence {
            node: 24,
            span_s: 3.0..20.0,
        }],
        capacity: Capacity::Learned(1.3),
        cloud_rtt_ms: Some(40.0),
        ..small(&all())
    };
    for options in [small(&all()), troubled] {
        let report = replay(&options);
        let entered: Vec<u64> = report.runs.iter().map(|run| run.counted.entered).collect();
        assert!(
            entered[0] > 50_000 && entered.iter().all(|&n| n == entered[0]),
            "{entered:?}"
        );
        for run in &report.runs {
            let counted = &run.counted;
            assert_eq!(counted.entered, counted.ended, "{:?}", run.policy);
            let figures = &counted.figures;
            assert!(figures.requests <= counted.entered);
            assert!(figures.shed <= figures.failures && figures.hot_requests <= figures.requests);
            assert!((0.0..=1.0).contains(&figures.moved_share), "{figures:?}");
        }
    }
}

#[test]
fn at_rest_nothing_is_moved_by_plan() {
    let options = Options {
        source: Source::Synthetic(Synthetic::Calm),
        base: 0.3,
        ..small(&[
            PolicyName::Convex,
            PolicyName::Waterfall,
            PolicyName::Threshold,
        ])
    };
    for run in &replay(&options).runs {
        assert_eq!(
            run.counted.figures.moved_by_plan_share, 0.0,
            "{:?}",
            run.policy
        );
        assert_eq!(run.counted.figures.failures, 0, "{:?}", run.policy);
    }
}

/// Where nobody has room, moving only costs, and waiting does not help: who is served is served sooner than at home
/// alone. The number refused is the same but for what home alone carries out of the surge in its queues, which hold a
/// second's capacity.
#[test]
fn a_surge_is_not_worse_than_home_alone() {
    for seed in 1..4 {
        let options = Options {
            source: Source::Synthetic(Synthetic::Surge),
            times: 2.6,
            seed,
            ..small(&[PolicyName::Home, PolicyName::Convex])
        };
        let report = replay(&options);
        let figures = |policy| &of(&report, policy).counted.figures;
        let (home, convex) = (figures(PolicyName::Home), figures(PolicyName::Convex));
        assert!(home.failures > 1000, "seed {seed}: {home:?}");
        assert!(
            home.hot_p50_ms > 500.0 && convex.hot_p50_ms < 0.3 * home.hot_p50_ms,
            "seed {seed}: {home:?} {convex:?}"
        );
        assert!(convex.p99_ms <= home.p99_ms, "seed {seed}: {convex:?}");
        let queues = 49.0 * 4.0 * 1000.0 / 50.0;
        assert!(
            convex.failures as f64 <= 1.01 * home.failures as f64 + queues,
            "seed {seed}: {} against {}",
            convex.failures,
            home.failures
        );
    }
}

#[test]
fn a_spike_is_carried_where_home_alone_fails() {
    let options = small(&[PolicyName::Home, PolicyName::Convex, PolicyName::Optimum]);
    let report = replay(&options);
    let figures = |policy| &of(&report, policy).counted.figures;
    let home = figures(PolicyName::Home);
    assert!(home.hot_failures * 2 > home.hot_requests, "{home:?}");
    assert_eq!(figures(PolicyName::Optimum).failures, 0);
    let convex = figures(PolicyName::Convex);
    assert!(convex.hot_failures * 20 < home.hot_failures, "{convex:?}");
    assert!(convex.moved_by_plan_share > 0.0 && convex.moved_by_spill_share > 0.0);
    assert!(
        convex
            .max_planned_utilisation
            .is_some_and(|u| u > 0.5 && u < 0.96),
        "{convex:?}"
    );
}

/// With the controller away from the start of the spike, spill alone still carries most of it, and
/// with it back the plan returns.
#[test]
fn without_its_controller_a_mesh_still_spills() {
    let options = Options {
        controller_down: Some(0.0..f64::INFINITY),
        ..small(&[PolicyName::Home, PolicyName::Convex])
    };
    let report = replay(&options);
    let figures = |policy| &of(&report, policy).counted.figures;
    let (home, convex) = (figures(PolicyName::Home), figures(PolicyName::Convex));
    // What little the plan of the warm-up moved, noise of a full node, holds a while and decays.
    let warm_up = convex.moved_by_plan_share;
    assert!(warm_up < 0.001, "{convex:?}");
    assert!(
        convex.hot_failures * 5 < home.hot_failures,
        "{convex:?} against {home:?}"
    );

    let back = Options {
        controller_down: Some(0.0..10.0),
        ..options
    };
    let report = replay(&back);
    let back = of(&report, PolicyName::Convex)
        .counted
        .figures
        .moved_by_plan_share;
    assert!(back > 0.01 && back > 10.0 * warm_up, "{back}");
}

/// Eight neighbours that are nearly full themselves have room for a spike only if they may move
/// their own load one step outward.
#[test]
fn displacement_makes_room() {
    let with = Options {
        base: 0.7,
        times: 8.0,
        ..small(&[PolicyName::Convex])
    };
    let without = Options {
        displacement: false,
        ..with.clone()
    };
    let planned = |options: &Options| {
        let report = replay(options);
        of(&report, PolicyName::Convex)
            .counted
            .figures
            .moved_by_plan_share
    };
    let (with, without) = (planned(&with), planned(&without));
    assert!(
        without > 0.0 && with > 1.3 * without,
        "{with} against {without}"
    );
}

#[test]
fn bad_input_is_named() {
    let bad = Options {
        times: f64::NAN,
        ..Options::default()
    };
    let error = run(&bad, &|_| {}).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("times"), "{cause}");
}

#[test]
fn the_report_speaks_three_ways() {
    let options = Options {
        seeds: 2,
        ..small(&[PolicyName::Convex, PolicyName::Ll])
    };
    let progress = Mutex::new(Vec::new());
    let report = run(&options, &|p| {
        progress.lock().unwrap().push((p.done, p.total))
    })
    .unwrap();
    let mut progress = progress.into_inner().unwrap();
    progress.sort_unstable();
    assert_eq!(progress, [(1, 4), (2, 4), (3, 4), (4, 4)]);

    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    let runs = json.as_array().unwrap();
    assert_eq!(runs.len(), 4);
    for field in [
        "policy",
        "seed",
        "requests",
        "failures",
        "shed",
        "p50_ms",
        "p99_ms",
        "hot_p50_ms",
        "hot_p99_ms",
        "moved_share",
        "cloud_requests",
        "reversals",
        "settle_s",
        "max_planned_utilisation",
    ] {
        assert!(runs.iter().all(|run| run.get(field).is_some()), "{field}");
    }

    let table = report.table();
    assert!(
        table.contains("convex (Isobar)") && table.contains("±"),
        "{table}"
    );
    let html = report.html();
    for forbidden in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    assert!(html.contains("viewport") && html.contains("prefers-color-scheme:dark"));
}
