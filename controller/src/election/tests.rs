use super::*;

const S: Duration = Duration::from_secs(1);

fn timing() -> Timing {
    Timing::new(S, 2 * S)
}

fn other() -> Leader {
    Leader {
        name: "b".to_owned(),
        address: "b:7401".to_owned(),
    }
}

#[test]
fn a_lease_is_two_periods_in_whole_seconds() {
    let lease = |period_ms| Timing::new(Duration::from_millis(period_ms), 2 * S).lease;
    assert_eq!(
        [lease(50), lease(1_000), lease(1_200)],
        [2 * S, 2 * S, 3 * S]
    );
}

#[test]
fn a_lease_counts_from_before_it_was_asked_for_and_ends_unless_kept() {
    let mut election = Election::new(timing(), S);
    assert_eq!(election.next(), (S, Step::Lead));
    election.on_tried(S, 2 * S, Some(Tried::Won));
    let until = S + timing().believed();
    assert_eq!(election.until(), Some(until));
    assert_eq!(election.next().1, Step::Keep);
    assert_eq!(
        election.standing(until - Duration::from_millis(1)),
        Standing::Leading
    );
    // Stopped for longer than the lease: nothing is done, whatever is asked next.
    assert_eq!(election.standing(until), Standing::Suspended);
    // The service has it still: this one leads on.
    election.on_kept(5 * S, 5 * S, Some(true));
    assert_eq!(election.standing(6 * S), Standing::Leading);
    // It has not: another may lead.
    election.on_kept(9 * S, 9 * S, Some(false));
    assert_eq!(election.standing(9 * S), Standing::Following(None));
    assert_eq!(election.until(), None);
}

#[test]
fn without_an_answer_who_leads_is_suspended_and_who_follows_forgets() {
    let mut leading = Election::new(timing(), S);
    leading.on_tried(S, S, Some(Tried::Won));
    let mut following = Election::new(timing(), S);
    following.on_tried(S, S, Some(Tried::Lost(other())));
    for turn in 1..40 {
        let now = S + Duration::from_millis(250 * turn);
        leading.on_kept(now, now, None);
        following.on_tried(now, now, None);
        assert!(leading.next().0 > now && following.next().0 > now);
    }
    let now = 12 * S;
    assert_eq!(leading.standing(now), Standing::Suspended);
    assert_eq!(following.standing(now), Standing::Following(None));
}

#[test]
fn who_stands_down_lets_others_go_first() {
    let mut election = Election::new(timing(), S);
    election.on_tried(S, S, Some(Tried::Won));
    election.stand_down(2 * S);
    assert_eq!(election.standing(2 * S), Standing::Following(None));
    assert!(election.next().0 >= 2 * S + timing().look * 2);
}

/// A service with one lease, and a cluster of controllers that are stopped, cut off and resumed by chance: at no moment
/// do two of them believe that they lead.
#[test]
fn of_many_at_most_one_leads_at_any_moment() {
    let terms: usize = (0..256).map(simulate).sum();
    assert!(
        terms > 1_000,
        "{terms} terms: nobody was ever followed by another"
    );
}

struct Service {
    holder: Option<usize>,
    until: Duration,
}

/// Returns how many terms began.
fn simulate(seed: u64) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let timing = timing();
    let mut service = Service {
        holder: None,
        until: Duration::ZERO,
    };
    let mut all: Vec<Election> = (0..3)
        .map(|_| Election::new(timing, Duration::ZERO))
        .collect();
    let mut stopped_until = [Duration::ZERO; 3];
    let mut cut_until = [Duration::ZERO; 3];
    let (mut terms, mut now) = (0, Duration::ZERO);
    while now < 120 * S {
        now += Duration::from_millis(10);
        if service.holder.is_some() && now >= service.until {
            service.holder = None;
        }
        for at in 0..3 {
            if random.u32(..2000) == 0 {
                stopped_until[at] = now + Duration::from_millis(random.u64(..6000));
            }
            if random.u32(..2000) == 0 {
                cut_until[at] = now + Duration::from_millis(random.u64(..6000));
            }
            if now < stopped_until[at] || all[at].next().0 > now {
                continue;
            }
            let is_cut = now < cut_until[at];
            // The answer, or the question, may be late.
            let asked = now.saturating_sub(Duration::from_millis(random.u64(..10)));
            match all[at].next().1 {
                Step::Lead => {
                    let is_free = service.holder.is_none_or(|holder| holder == at);
                    let is_lost = random.u32(..20) == 0;
                    if !is_cut && is_free {
                        terms += usize::from(service.holder.is_none());
                        service.holder = Some(at);
                        service.until = now + timing.lease;
                    }
                    let answer = match is_free {
                        true => Tried::Won,
                        false => Tried::Lost(other()),
                    };
                    all[at].on_tried(asked, now, (!is_cut && !is_lost).then_some(answer));
                }
                Step::Keep => {
                    let is_ours = service.holder == Some(at);
                    if !is_cut && is_ours {
                        service.until = now + timing.lease;
                    }
                    all[at].on_kept(asked, now, (!is_cut).then_some(is_ours));
                }
            }
        }
        // Who is stopped believes nothing, and when it goes on it looks at the clock first.
        let leading = all
            .iter()
            .filter(|one| one.standing(now) == Standing::Leading);
        assert!(leading.count() <= 1, "two lead at {now:?}, seed {seed}");
    }
    terms
}
