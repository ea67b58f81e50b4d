use super::*;
use proptest::prelude::*;

fn rules(change: impl FnOnce(&mut traffic_policy::Retries)) -> Rules {
    let mut policy = traffic_policy::Retries::default();
    change(&mut policy);
    Rules::new(&policy)
}

fn status(status: u16) -> Failure {
    Failure::Status {
        status,
        grpc: None,
        says_when: false,
    }
}

#[test]
fn what_is_safe_by_default() {
    let rules = rules(|_| {});
    let cases = [
        (Failure::Unsent, true, true),
        (Failure::Unsent, false, true),
        (Failure::Broken, true, true),
        (Failure::Broken, false, false),
        (Failure::TimedOut, true, false),
        (status(503), true, false),
        (status(500), true, false),
    ];
    for (failure, may_repeat, again) in cases {
        assert_eq!(
            rules.again(failure, may_repeat),
            again,
            "{failure:?} {may_repeat}"
        );
    }
    assert!(!rules.looks_at_answers());
    use http::Method;
    for (method, may) in [
        (Method::GET, true),
        (Method::PUT, true),
        (Method::DELETE, true),
        (Method::POST, false),
        (Method::PATCH, false),
    ] {
        assert_eq!(may_repeat(&method), may, "{method}");
    }
}

#[test]
fn conditions_name_answers() {
    let on = |on: &[RetryOn]| rules(|policy| policy.on = on.to_vec());
    let says_when = Failure::Status {
        status: 429,
        grpc: None,
        says_when: true,
    };
    let grpc = Failure::Status {
        status: 200,
        grpc: Some(14),
        says_when: false,
    };
    let cases = [
        (RetryOn::GatewayError, status(503), true),
        (RetryOn::GatewayError, status(500), false),
        (RetryOn::ServerError, status(500), true),
        (RetryOn::RetryAfter, says_when, true),
        (RetryOn::RetryAfter, status(503), false),
        (RetryOn::GrpcUnavailable, grpc, true),
        (RetryOn::GrpcResourceExhausted, grpc, false),
        (RetryOn::Timeout, Failure::TimedOut, true),
    ];
    for (condition, failure, again) in cases {
        let rules = on(&[condition]);
        assert_eq!(
            rules.again(failure, true),
            again,
            "{condition:?} {failure:?}"
        );
        assert!(!rules.again(failure, false) || failure == Failure::Unsent);
    }
    assert!(rules(|policy| policy.unsafe_methods = true).again(Failure::Broken, false));
}

#[test]
fn the_budget_is_a_share_of_what_enters_and_a_minimum() {
    let rules = rules(|_| {});
    let mut budget = Budget::default();
    let (mut firsts, mut taken) = (0, 0);
    // A second of 1,000 requests, all of which fail: 200 retries and the minimum of 10/s over 10 s.
    budget.mark(0, 1);
    for i in 1..=1000 {
        firsts += 1;
        taken += u32::from(budget.take(firsts, i * 1000, &rules));
    }
    assert_eq!(taken, 300);
    // A long time later, with nothing in between: the minimum alone, and not again and again.
    let later_us = 3_600_000_000;
    let more = (0..1000).filter(|_| budget.take(firsts, later_us, &rules));
    assert_eq!(more.count(), 100);
}

#[test]
fn retry_after_is_followed_when_it_is_short() {
    let rules = rules(|_| {});
    assert_eq!(rules.asked_pause_us(1), Some(1_000_000));
    assert_eq!(rules.asked_pause_us(2), None);
}

proptest! {
    #[test]
    fn pauses_stay_below_their_limit(seed: u64, n in 1u32..100) {
        let rules = rules(|_| {});
        let pause_us = rules.backoff_us(n, &mut fastrand::Rng::with_seed(seed));
        let limit_us = 25_000u64.saturating_mul(1 << (n - 1).min(32));
        prop_assert!(pause_us <= limit_us.min(250_000));
    }

    /// Under any load, retries of ten seconds stay within the minimum and the share of what entered in
    /// the ten seconds before each of them.
    #[test]
    fn the_budget_holds(loads in proptest::collection::vec(0u64..300, 1..60)) {
        let rules = rules(|_| {});
        let (mut budget, mut firsts) = (Budget::default(), 0u64);
        let mut per_second: Vec<(u64, u64)> = Vec::new();
        for (second, load) in loads.iter().enumerate() {
            let now_us = second as u64 * 1_000_000 + 1;
            budget.mark(firsts, now_us);
            let mut taken = 0;
            for i in 0..*load {
                firsts += 1;
                taken += u64::from(budget.take(firsts, now_us + i, &rules));
            }
            per_second.push((*load, taken));
            let recent = per_second.iter().rev();
            let load: u64 = recent.clone().take(19).map(|second| second.0).sum();
            let taken: u64 = recent.take(10).map(|second| second.1).sum();
            prop_assert!(taken as f64 <= load as f64 * 0.2 + 100.0, "{load} {taken}");
        }
    }
}
