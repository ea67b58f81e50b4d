use super::*;
use proptest::prelude::*;

const S: u64 = 1_000_000;

fn rules() -> Rules {
    Rules::new(&traffic_policy::Circuit::default())
}

/// A circuit with the requests that went through it.
#[derive(Default)]
struct Endpoint {
    circuit: Circuit,
    tally: Tally,
}

impl Endpoint {
    fn ask(&mut self, ok: bool, now_us: u64) -> Admit {
        let admit = self.circuit.admit(now_us, &rules());
        let is_probe = admit == Admit::Probe;
        match (admit, ok) {
            (Admit::No, _) => return admit,
            (_, true) => {
                self.tally.ended += 1;
                self.circuit.succeeded(is_probe, now_us, &rules());
            }
            (_, false) => {
                self.tally.ended += 1;
                self.tally.failed += 1;
                self.circuit.failed(is_probe, self.tally, now_us, &rules());
            }
        }
        admit
    }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_does_not_count_on() {
    let mut endpoint = Endpoint::default();
    for at in 0..4 {
        endpoint.ask(false, at);
    }
    endpoint.ask(true, 4);
    for at in 5..9 {
        endpoint.ask(false, at);
        assert_eq!(endpoint.circuit.state(), State::Closed);
    }
    endpoint.ask(false, 9);
    assert_eq!(endpoint.circuit.state(), State::Open);
    assert_eq!(endpoint.circuit.cause(), Some(Cause::Consecutive));
    assert_eq!(endpoint.ask(true, 10), Admit::No);
}

#[test]
fn a_share_of_failures_opens_it_only_with_enough_requests() {
    let mut endpoint = Endpoint::default();
    endpoint.circuit.mark(endpoint.tally, 1);
    // Every other one fails: never five in a row.
    for at in 2..21 {
        endpoint.ask(at % 2 == 0, at);
        assert_eq!(endpoint.circuit.state(), State::Closed, "{at}");
    }
    endpoint.ask(false, 22);
    assert_eq!(endpoint.circuit.cause(), Some(Cause::Ratio));
}

#[test]
fn what_is_older_than_the_window_is_forgotten() {
    let mut endpoint = Endpoint::default();
    for second in 0..30 {
        endpoint.circuit.mark(endpoint.tally, second * S + 1);
        // Much success, long ago; then half fails.
        let n = if second < 15 { 100 } else { 4 };
        for i in 0..n {
            if endpoint.circuit.state() == State::Closed {
                endpoint.ask(second < 15 || i % 2 == 0, second * S + 2 + i);
            }
        }
    }
    assert_eq!(endpoint.circuit.cause(), Some(Cause::Ratio));
}

#[test]
fn probes_close_it_or_keep_it_open_twice_as_long() {
    let mut endpoint = Endpoint::default();
    for at in 0..5 {
        endpoint.ask(false, at);
    }
    let mut now_us = 4;
    // The first opening lasts 1 s, then 2, 4, … up to 60.
    for open_s in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(endpoint.ask(true, now_us + open_s * S - 1), Admit::No);
        now_us += open_s * S;
        assert_eq!(endpoint.ask(false, now_us), Admit::Probe);
        assert_eq!(endpoint.circuit.state(), State::Open);
    }
    now_us += 60 * S;
    assert_eq!(endpoint.circuit.admit(now_us, &rules()), Admit::Probe);
    assert_eq!(
        endpoint.circuit.admit(now_us, &rules()),
        Admit::No,
        "one at a time"
    );
    endpoint.circuit.abandoned(true);
    assert_eq!(endpoint.ask(true, now_us), Admit::Probe);
    assert_eq!(endpoint.circuit.state(), State::HalfOpen);
    assert_eq!(endpoint.ask(true, now_us), Admit::Probe);
    assert_eq!(endpoint.circuit.state(), State::Closed);
    // It fails again soon: as long as before. After a rest: as the first time.
    for _ in 0..5 {
        endpoint.ask(false, now_us + S);
    }
    assert_eq!(endpoint.circuit.wait_us(now_us + S), 60 * S);
    now_us += 61 * S;
    endpoint.ask(true, now_us);
    endpoint.ask(true, now_us);
    for _ in 0..5 {
        endpoint.ask(false, now_us + 61 * S);
    }
    assert_eq!(endpoint.circuit.wait_us(now_us + 61 * S), S);
}

#[test]
fn the_health_check_holds_it_open() {
    let mut circuit = Circuit::default();
    circuit.set_healthy(false, S);
    assert_eq!(circuit.admit(1000 * S, &rules()), Admit::No);
    circuit.set_healthy(true, 1001 * S);
    assert_eq!(circuit.admit(1001 * S, &rules()), Admit::Flow);
}

proptest! {
    /// Whatever happens: one probe at a time, none while Open before its time, and it always comes back.
    #[test]
    fn it_never_sticks(steps in proptest::collection::vec((0u64..3_000_000, 0u8..4), 1..200)) {
        let (mut endpoint, mut now_us) = (Endpoint::default(), 0);
        for (pause_us, what) in steps {
            now_us += pause_us;
            let before = endpoint.circuit.clone();
            let admit = endpoint.circuit.admit(now_us, &rules());
            match admit {
                Admit::Flow => prop_assert_eq!(before.state(), State::Closed),
                Admit::Probe => {
                    prop_assert!(before.wait_us(now_us) == 0);
                }
                Admit::No => continue,
            }
            let is_probe = admit == Admit::Probe;
            endpoint.tally.ended += 1;
            match what {
                0 => endpoint.circuit.succeeded(is_probe, now_us, &rules()),
                1 => endpoint.circuit.abandoned(is_probe),
                // Its end is never told.
                2 if is_probe => {
                    prop_assert_eq!(endpoint.circuit.admit(now_us, &rules()), Admit::No);
                    break;
                }
                _ => {
                    endpoint.tally.failed += 1;
                    endpoint.circuit.failed(is_probe, endpoint.tally, now_us, &rules());
                }
            }
            endpoint.circuit.mark(endpoint.tally, now_us);
        }
        // An hour later good probes close it, whatever was before.
        now_us += 3600 * S;
        for _ in 0..2 {
            endpoint.ask(true, now_us);
        }
        prop_assert_eq!(endpoint.circuit.state(), State::Closed);
    }
}
