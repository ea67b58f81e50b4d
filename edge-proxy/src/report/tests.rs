use super::*;
use crate::clock::Clock;
use crate::routes::{Local, Table};
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::snapshot::Endpoint;

fn table() -> Table {
    let local = LocalService {
        service: ServiceName::new("shop/cart").unwrap(),
        hosts: Vec::new(),
        endpoints: vec![Endpoint {
            address: "127.0.0.1:1".into(),
            workers: 4,
        }],
        capacity_rps: None,
    };
    let node = NodeId::new("a").unwrap();
    let local = Local {
        services: vec![local],
        ..Local::default()
    };
    Table::new(node, 2, Clock::start(), local)
}

fn draft(book: &mut ReportBook, table: &Table, now_us: u64) -> Option<Draft> {
    book.draft(&table.services(), &table.load(), now_us, 0, None)
}

#[test]
fn what_was_not_sent_is_told_again() {
    let table = table();
    let mut book = ReportBook::default();
    let live = &table.services()[0];
    let enter = |worker: usize| live.worker(worker).counters.entered.fetch_add(5, Relaxed);
    let out = live.moved_out(&NodeId::new("b").unwrap());

    enter(0);
    enter(1);
    out.spill.fetch_add(2, Relaxed);
    live.worker(1)
        .counters
        .latency_min_us
        .fetch_min(700, Relaxed);
    let first = draft(&mut book, &table, 1_000_000).unwrap();
    assert_eq!(first.report.services[0].entered, 10);
    assert_eq!(first.report.services[0].latency_min_us, 700);

    enter(1);
    live.worker(0)
        .counters
        .latency_min_us
        .fetch_min(900, Relaxed);
    let second = draft(&mut book, &table, 2_000_000).unwrap();
    let entry = &second.report.services[0];
    assert_eq!((entry.entered, second.report.window_us), (15, 2_000_000));
    assert_eq!(entry.latency_min_us, 700);
    assert_eq!(entry.moved_out[0].spill, 2);
    assert_eq!(second.report.check(), Ok(()));
    book.sent(second);

    let third = draft(&mut book, &table, 3_000_000).unwrap();
    let idle = ServiceReport::idle(live.service.clone());
    assert_eq!(third.report.services[0], idle);
    assert_eq!((third.report.seq, third.report.window_us), (1, 1_000_000));
}

#[test]
fn windows_too_short_or_too_long_are_not_told() {
    let table = table();
    let mut book = ReportBook::default();
    assert!(draft(&mut book, &table, 9_000).is_none());
    let live = &table.services()[0];
    live.worker(0).counters.entered.fetch_add(5, Relaxed);
    assert!(draft(&mut book, &table, 60_000_001).is_none());
    let after = draft(&mut book, &table, 60_500_000).unwrap();
    assert_eq!(after.report.window_us, 499_999);
    assert_eq!(after.report.services[0].entered, 0);
}

#[test]
fn requests_in_flight_are_averaged_over_the_window() {
    let table = table();
    let mut book = ReportBook::default();
    let live = &table.services()[0];
    let begin = |worker: usize, at_us: u64| {
        let counters = &live.worker(worker).counters;
        counters.begun.fetch_add(1, Relaxed);
        counters.begun_us_sum.fetch_add(at_us, Relaxed);
    };
    let end = |worker: usize, at_us: u64| {
        let counters = &live.worker(worker).counters;
        counters.ended.fetch_add(1, Relaxed);
        counters.ended_us_sum.fetch_add(at_us, Relaxed);
    };
    // Half of the window two, then one.
    begin(0, 0);
    begin(1, 0);
    end(1, 500_000);
    let first = draft(&mut book, &table, 1_000_000).unwrap();
    assert_eq!(first.report.services[0].in_flight_mean_milli, 1500);
    book.sent(first);
    // A quarter of the next.
    end(0, 1_250_000);
    let second = draft(&mut book, &table, 2_000_000).unwrap();
    assert_eq!(second.report.services[0].in_flight_mean_milli, 250);
}

#[test]
fn processors() {
    let mut meter = CpuMeter::default();
    let cases = [
        ("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1", None),
        ("cpu  60 0 10 130 0 0 0 0 0 0\n", Some(0.5)),
        ("cpu  60 0 10 130 0 0 0 0 0 0\n", None),
        ("nothing", None),
        ("", None),
    ];
    for (stat, expected) in cases {
        assert_eq!(meter.ratio_of(stat), expected, "{stat:?}");
    }
}
