use super::*;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Two sites, hourly from 2024-12-31T22:00; site 0 is 10, 20, missing, 40, 40.
fn night() -> LoadTrace {
    let values = [
        (Some(10.0), Some(1.0)),
        (Some(20.0), None),
        (None, None),
        (Some(40.0), Some(0.0)),
        (Some(40.0), Some(5.0)),
    ];
    let values: Vec<_> = values.into_iter().flat_map(|(a, b)| [a, b]).collect();
    let sites = vec!["a".to_owned(), "b".to_owned()];
    LoadTrace::new("2024-12-31T22:00", HOUR, sites, &values).unwrap()
}

#[test]
fn values_and_labels() {
    let night = night();
    assert_eq!(
        (night.bins(), night.bin(), night.duration()),
        (5, HOUR, 5 * HOUR)
    );
    assert_eq!(night.bin_start(0).to_string(), "2024-12-31T22:00");
    assert_eq!(night.bin_start(2).to_string(), "2025-01-01T00:00");
    assert_eq!(night.value(0, 1), Some(20.0));
    assert_eq!(night.value(1, 3), Some(0.0));
    for (site, bin) in [
        (0, 2),
        (1, 1),
        (2, 0),
        (0, 5),
        (0, usize::MAX),
        (usize::MAX, 0),
    ] {
        assert_eq!(night.value(site, bin), None, "{site} {bin}");
    }
}

#[test]
fn rate_is_linear_between_the_middles_of_bins() {
    let night = night();
    let check = |site: usize, hours: f64, expected: Option<f64>| {
        let rate = night.rate(site, HOUR.mul_f64(hours));
        match (rate, expected) {
            (Some(rate), Some(expected)) => {
                assert!((rate - expected).abs() < 1e-9, "{hours} h: {rate}")
            }
            _ => assert_eq!(rate, expected, "{hours} h"),
        }
    };
    check(0, 0.0, Some(10.0));
    check(0, 0.5, Some(10.0));
    check(0, 0.75, Some(12.5));
    check(0, 1.0, Some(15.0));
    check(0, 1.5, Some(20.0));
    // Beside the missing bin the bin's own value holds, within it there is none.
    check(0, 1.99, Some(20.0));
    check(0, 2.0, None);
    check(0, 2.99, None);
    check(0, 3.0, Some(40.0));
    check(0, 4.999, Some(40.0));
    check(1, 4.0, Some(2.5));
    check(0, 5.0, None);
    check(2, 0.0, None);
    assert_eq!(night.rate(0, Duration::MAX), None);
}

#[test]
fn slices_are_half_open() {
    let night = night();
    let part = night.slice("2024-12-31T23:00", "2025-01-01T02:00").unwrap();
    assert_eq!(part.bins(), 3);
    assert_eq!(part.bin_start(0).to_string(), "2024-12-31T23:00");
    assert_eq!(
        [0, 1, 2].map(|bin| part.value(0, bin)),
        [Some(20.0), None, Some(40.0)]
    );
    // A label between bins means the next one; labels beyond the trace mean its ends.
    let part = night.slice("2024-12-31T22:10", "2025-01-01T00:30").unwrap();
    assert_eq!(
        (part.bin_start(0).to_string(), part.bins()),
        ("2024-12-31T23:00".to_owned(), 2)
    );
    assert_eq!(
        night.slice("0000-01-01T00:00", "9999-12-31T23:59").unwrap(),
        night
    );

    let check = |from: &str, to: &str, expected: &str| {
        assert_eq!(night.slice(from, to).unwrap_err().to_string(), expected);
    };
    check(
        "2025-01-02T00:00",
        "2025-01-03T00:00",
        "no bin begins from 2025-01-02T00:00 to before 2025-01-03T00:00; \
         bins begin from 2024-12-31T22:00 to 2025-01-01T02:00",
    );
    check(
        "2025-01-01T01:00",
        "2025-01-01T01:00",
        "no bin begins from 2025-01-01T01:00 to before 2025-01-01T01:00; \
         bins begin from 2024-12-31T22:00 to 2025-01-01T02:00",
    );
    check(
        "2025-01-01T01:00Z",
        "2025-01-01T02:00Z",
        "2025-01-01T01:00Z has a time zone where the first time has none, or the other way round",
    );
    assert!(matches!(
        night.slice("now", "then"),
        Err(TraceError::Label(_))
    ));
}

#[test]
fn numbers_that_make_no_trace() {
    let check =
        |start: &str, bin: Duration, sites: usize, values: &[Option<f64>], expected: &str| {
            let sites = (0..sites).map(|site| site.to_string()).collect();
            let error = LoadTrace::new(start, bin, sites, values).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
    let start = "2024-01-01T00:00Z";
    let one = [Some(1.0)];
    check(
        start,
        Duration::ZERO,
        1,
        &one,
        "bins of 0ns; a bin is a whole number of seconds, 1 to 4294967295",
    );
    check(
        start,
        Duration::from_millis(1500),
        1,
        &one,
        "bins of 1.5s; a bin is a whole number of seconds, 1 to 4294967295",
    );
    check(
        start,
        HOUR,
        0,
        &one,
        "1 values do not make whole bins of 0 sites",
    );
    check(
        start,
        HOUR,
        2,
        &one,
        "1 values do not make whole bins of 2 sites",
    );
    check(
        start,
        HOUR,
        1,
        &[],
        "0 values do not make whole bins of 1 sites",
    );
    for (bad, written) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (-1.0, "-1")] {
        check(
            start,
            HOUR,
            2,
            &[None, Some(1.0), Some(2.0), Some(bad)],
            &format!("the load {written} of site 1 in bin 1 is not a finite number of at least 0"),
        );
    }
    assert!(matches!(
        LoadTrace::new("1.1.2024", HOUR, vec!["a".to_owned()], &one),
        Err(TraceError::Label(_))
    ));
}

proptest! {
    /// Between the middles of two bins that have values, the rate lies between both values.
    #[test]
    fn rate_stays_between_its_bins(values in proptest::collection::vec(0.0..1e6, 2..50), share in 0.0..1.0) {
        let count = values.len();
        let values: Vec<_> = values.into_iter().map(Some).collect();
        let trace = LoadTrace::new("2024-01-01T00:00", HOUR, vec!["a".to_owned()], &values).unwrap();
        let t = trace.duration().mul_f64(share);
        let after_first_middle = (t.as_secs_f64() / 3600.0 - 0.5).max(0.0) as usize;
        let next = (after_first_middle + 1).min(count - 1);
        let (a, b) = (values[after_first_middle].unwrap(), values[next].unwrap());
        let rate = trace.rate(0, t).unwrap();
        prop_assert!(rate >= a.min(b) - 1e-6 && rate <= a.max(b) + 1e-6);
    }
}
