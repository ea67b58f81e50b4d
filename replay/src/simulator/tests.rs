use super::*;
use crate::load::Spike;
use crate::options::Synthetic;
use crate::policy::queueing::{erlang_c, mean_wait};
use crate::policy::simple::Home;

fn play(options: &Options, shape: Synthetic, seed: u64) -> Counted {
    let field = Field::grid(options, seed);
    let load = Load::Spike(Spike::new(shape, options));
    Simulator::new(options, &field, &load, seed, Home).run()
}

/// Mean latency and the part that waits are those of an M/M/c queue.
#[test]
fn home_alone_is_an_mmc_queue() {
    for (workers, base) in [(1, 0.5), (4, 0.8)] {
        let options = Options {
            grid: (8, 8),
            workers,
            base,
            service_ms: 5.0,
            ..Options::default()
        };
        let field = Field::grid(&options, 9);
        let load = Load::Spike(Spike::new(Synthetic::Calm, &options));
        let counted = Simulator::new(&options, &field, &load, 9, Home).run();
        // Of the latency distribution only its median and tail are kept; for one worker it is
        // exponential with mean S / (1 - rho).
        if workers == 1 {
            let mean_ms = 5.0 / (1.0 - base);
            let close = |got: f64, quantile: f64| {
                let expected = -mean_ms * (1.0 - quantile).ln();
                assert!((got / expected - 1.0).abs() < 0.03, "{got} for {expected}");
            };
            close(counted.figures.p50_ms, 0.5);
            close(counted.figures.p99_ms, 0.99);
        } else {
            let expected = mmc_quantile_ms(workers, base, 5.0, 0.99);
            let got = counted.figures.p99_ms;
            assert!((got / expected - 1.0).abs() < 0.03, "{got} for {expected}");
        }
        assert_eq!(counted.figures.failures, 0);
    }
}

/// The quantile of waiting plus service in an M/M/c queue, by bisection over its distribution.
fn mmc_quantile_ms(workers: u32, rho: f64, service_ms: f64, quantile: f64) -> f64 {
    let waits = erlang_c(workers, rho);
    let (mu, eta) = (
        1.0 / service_ms,
        f64::from(workers) * (1.0 - rho) / service_ms,
    );
    // Waiting is 0 with probability 1 - waits, else exponential with rate eta.
    assert!((waits / eta / service_ms - mean_wait(workers, rho)).abs() < 1e-9);
    let above = |t: f64| {
        let both = (eta * (-mu * t).exp() - mu * (-eta * t).exp()) / (eta - mu);
        (1.0 - waits) * (-mu * t).exp() + waits * both
    };
    let (mut low, mut high) = (0.0, 1e4);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if above(middle) > 1.0 - quantile {
            low = middle
        } else {
            high = middle
        }
    }
    low
}

#[test]
fn overload_sheds_what_exceeds_capacity() {
    let options = Options {
        grid: (1, 1),
        times: 5.0,
        base: 0.5,
        ..Options::default()
    };
    let counted = play(&options, Synthetic::Step, 4);
    assert_eq!(counted.entered, counted.ended);
    // 500/s enter for 30 s, 200/s are served; the queue takes 200 once.
    let expected = 30.0 * 300.0 - 200.0;
    let shed = counted.figures.shed as f64;
    assert!(
        (shed / expected - 1.0).abs() < 0.05,
        "{shed} for {expected}"
    );
    assert!(counted.figures.hot_p99_ms < 2_000.0);
}
