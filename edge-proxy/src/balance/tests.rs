use super::any;
use super::*;
use proptest::prelude::*;

const S: u64 = 1_000_000;

fn load(active: u32, workers: u32, latency_us: f64) -> Load {
    Load {
        active,
        workers,
        latency_us,
        share: 1.0,
    }
}

fn names(count: usize) -> Vec<(u64, u32)> {
    let name = |at: usize| (hash::of(format!("10.0.0.{at}:80").as_bytes()), 4);
    (0..count).map(name).collect()
}

/// How often each of `count` is chosen in many tries.
fn chosen(count: usize, mut choose: impl FnMut(u64) -> Option<usize>) -> Vec<u32> {
    let mut times = vec![0; count];
    for n in 0..30_000 {
        times[choose(n).unwrap()] += 1;
    }
    times
}

#[test]
fn turns_are_even_or_by_workers() {
    let rng = &mut fastrand::Rng::with_seed(1);
    let loads = [load(0, 1, 0.0), load(0, 2, 0.0), load(0, 3, 0.0)];
    let times = chosen(3, |n| turn(3, |at| loads[at], false, n, rng));
    assert_eq!(times, [10_000, 10_000, 10_000]);
    let times = chosen(3, |n| turn(3, |at| loads[at], true, n, rng));
    let off = times.iter().zip([5_000, 10_000, 15_000]);
    assert!(
        off.map(|(t, e): (&u32, u32)| t.abs_diff(e))
            .all(|off| off < 10),
        "{times:?}"
    );
    // Spread out: the largest never comes three times in a row.
    let row: Vec<_> = (0..60)
        .map(|n| turn(3, |at| loads[at], true, n, rng))
        .collect();
    assert!(row.windows(3).all(|w| w != [Some(2); 3]), "{row:?}");
    let full = [load(1, 1, 0.0), load(0, 1, 0.0), load(1, 1, 0.0)];
    assert_eq!(turn(3, |at| full[at], false, 2, rng), Some(1));
}

#[test]
fn two_choices_prefer_the_less_loaded_and_the_faster() {
    let rng = &mut fastrand::Rng::with_seed(1);
    // Of three, the worst is only chosen when it is drawn against itself: never.
    let loads = [load(3, 4, 0.0), load(1, 4, 0.0), load(0, 4, 0.0)];
    let times = chosen(3, |_| two(3, |at| loads[at], false, rng));
    assert_eq!(times[0], 0);
    assert!(times[2] > times[1]);
    let loads = [load(1, 4, 1000.0), load(1, 4, 9000.0)];
    let times = chosen(2, |_| two(2, |at| loads[at], true, rng));
    assert_eq!(times, [30_000, 0]);
    // Load outweighs latency at some point, and room everything.
    let loads = [load(8, 10, 1000.0), load(0, 10, 2000.0)];
    assert_eq!(
        chosen(2, |_| two(2, |at| loads[at], true, rng)),
        [0, 30_000]
    );
    let loads = [load(1, 1, 1.0), load(5, 10, 5000.0)];
    assert_eq!(
        chosen(2, |_| two(2, |at| loads[at], true, rng)),
        [0, 30_000]
    );
    assert_eq!(two(2, |_| load(1, 1, 0.0), true, rng), None);
}

#[test]
fn a_slow_start_gets_its_share() {
    let rng = &mut fastrand::Rng::with_seed(1);
    let new = Load {
        share: 0.1,
        ..load(0, 4, 0.0)
    };
    let loads = [new, load(0, 4, 0.0)];
    let times = chosen(2, |n| turn(2, |at| loads[at], false, n, rng));
    assert!((1000..2000).contains(&times[0]), "{times:?}");
    // Where all are new, nobody waits for anybody.
    let times = chosen(2, |n| turn(2, |_| new, false, n, rng));
    assert_eq!(times, [15_000, 15_000]);
}

#[test]
fn peaks_are_followed_at_once_and_forgotten_slowly() {
    let mut peak = Peak::default();
    assert_eq!(peak.at(S), 0.0);
    peak = peak.with(1000, S).with(50_000, 2 * S);
    assert_eq!(peak.at(2 * S), 50_000.0);
    // Good answers bring it down with the time constant; without any it is forgotten too.
    for tenth in 1..=100 {
        peak = peak.with(1000, 2 * S + tenth * S / 10);
    }
    assert!(
        (15_000.0..25_000.0).contains(&peak.at(12 * S)),
        "{}",
        peak.at(12 * S)
    );
    assert!(peak.at(120 * S) < 100.0);
    // Ten seconds: what is kept is within a tenth of 1/e.
    let kept = Peak::default().with(10_000, 0).at(10 * S) / 10_000.0;
    assert!((kept * std::f64::consts::E - 1.0).abs() < 0.1, "{kept}");
}

/// The part of keys that go elsewhere when one of `count` goes, and the largest part that one has, times `count`.
fn remapped(order: impl Fn(&[(u64, u32)], u64) -> usize, count: usize) -> (f64, f64) {
    let all = names(count);
    let without: Vec<_> = all[..count - 1].to_vec();
    let keys: Vec<u64> = (0..10_000_u32)
        .map(|key| hash::of(&key.to_le_bytes()))
        .collect();
    let mut times = vec![0; count];
    let mut moved = 0;
    for &key in &keys {
        let before = order(&all, key);
        times[before] += 1;
        moved += u32::from(order(&without, key) != before);
    }
    let most = f64::from(*times.iter().max().unwrap());
    let parts = keys.len() as f64;
    (f64::from(moved) / parts, most / parts * count as f64)
}

#[test]
fn when_one_goes_few_keys_move() {
    for count in [2, 5, 10, 50] {
        let part = 1.0 / count as f64;
        let (full, less) = (names(count), names(count - 1));
        let (rings, maglevs) = (
            [Ring::new(&full), Ring::new(&less)],
            [Maglev::new(&full), Maglev::new(&less)],
        );
        let at = |endpoints: &[(u64, u32)]| usize::from(endpoints.len() < count);
        let ring = |e: &[(u64, u32)], key| rings[at(e)].order(key).next().unwrap();
        let (moved, most) = remapped(ring, count);
        assert!(
            moved <= 1.35 * part && most <= 1.5,
            "ring {count}: {moved} {most}"
        );
        let maglev = |e: &[(u64, u32)], key| maglevs[at(e)].order(key).next().unwrap();
        let (moved, most) = remapped(maglev, count);
        assert!(
            moved <= 1.5 * part && most <= 1.25,
            "maglev {count}: {moved} {most}"
        );
        let lowest = |e: &[(u64, u32)], key| rendezvous::choose(e.iter().copied(), key).unwrap();
        let (moved, most) = remapped(lowest, count);
        assert!(
            moved <= 1.2 * part && most <= 1.25,
            "rendezvous {count}: {moved} {most}"
        );
    }
}

use super::maglev::Maglev;
use super::ring::Ring;

#[test]
fn a_change_of_weights_moves_only_what_it_must() {
    let (home, a, b) = (hash::of(b"home"), hash::of(b"a"), hash::of(b"b"));
    let before = [(home, 700_000), (a, 200_000), (b, 100_000)];
    let after = [(home, 600_000), (a, 300_000), (b, 100_000)];
    let keys = (0..20_000_u32).map(|key| hash::of(&key.to_le_bytes()));
    let (mut moved, mut at_home) = (0, 0);
    for key in keys {
        let choose = |row: &[(u64, u32)]| rendezvous::choose(row.iter().copied(), key).unwrap();
        let (was, is) = (choose(&before), choose(&after));
        at_home += u32::from(was == 0);
        moved += u32::from(was != is);
        // Nobody goes to where the weight fell, nobody leaves where it rose.
        assert!(was == is || (was != 1 && is != 0), "{was} {is}");
    }
    assert!((f64::from(at_home) / 20_000.0 - 0.7).abs() < 0.02);
    assert!((f64::from(moved) / 20_000.0 - 0.1).abs() < 0.02, "{moved}");
    assert_eq!(rendezvous::choose([(a, 0)].into_iter(), 1), None);
}

proptest! {
    /// Whatever the load: who is chosen has room, and every order names everybody in the end.
    #[test]
    fn only_who_has_room_is_chosen(
        loads in proptest::collection::vec((0u32..6, 1u32..6), 1..12), seed: u64, key: u64,
    ) {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let loads: Vec<Load> = loads.iter().map(|&(a, w)| load(a, w, f64::from(a))).collect();
        let at = |place: usize| loads[place];
        for choice in [
            two(loads.len(), at, true, rng),
            any(loads.len(), at, rng),
            turn(loads.len(), at, true, seed, rng),
            turn(loads.len(), at, false, seed, rng),
        ] {
            prop_assert!(choice.is_none_or(|place| loads[place].has_room()));
        }
        prop_assert_eq!(
            turn(loads.len(), at, false, seed, rng).is_some(),
            loads.iter().any(Load::has_room)
        );
        let endpoints = names(loads.len());
        let (ring, maglev) = (Ring::new(&endpoints), Maglev::new(&endpoints));
        let everybody = |order: &mut dyn Iterator<Item = usize>| {
            order.collect::<std::collections::BTreeSet<_>>().len() == endpoints.len()
        };
        prop_assert!(everybody(&mut ring.order(key)) && everybody(&mut maglev.order(key)));
    }
}
