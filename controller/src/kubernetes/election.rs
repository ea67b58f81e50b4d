//! Who leads: contenders for one Lease (`coordination.k8s.io/v1`). Pure in `now`.
//!
//! A lease is over when nothing in it has changed for as long as it lasts *by the contender's own clock*, since clocks of machines differ;
//! what is written in it as a time is for people. A leader stops leading before others may take over: it counts from when it began
//! to ask for the renewal that was granted, and gives up when two thirds of the time are over.
//!
//! **Invariant**: of writers that race for one version of the lease the API server lets one win, so two contenders never lead for the
//! same renewal.

use std::time::Duration;

/// The part of a lease's time that its holder leads for after a renewal.
const LEADS_PART: f64 = 2.0 / 3.0;
/// The part of a lease's time between two renewals.
const RENEW_PART: f64 = 1.0 / 5.0;

/// What a lease says, as far as anybody here reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty when it was given back.
    pub holder: String,
    /// How long it lasts after it was last renewed.
    pub lasts: Duration,
    /// How often it changed hands.
    pub transitions: i32,
    /// Which state of the object this is.
    pub version: String,
}

/// What a contender does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for so long; then look again.
    Wait(Duration),
    /// Create the lease.
    Create,
    /// Write its name and the time into this version of the lease; whether it holds it already.
    Write {
        /// The version that must still be there.
        version: String,
        /// How often it will have changed hands.
        transitions: i32,
        /// Whether only the time changes.
        is_renewal: bool,
    },
}

/// One contender.
#[derive(Debug)]
pub struct Election {
    me: String,
    lasts: Duration,
    /// What was last seen, and when it was first seen so.
    seen: Option<(Record, Duration)>,
    /// When the renewal began that was last granted.
    renewed_at: Option<Duration>,
    /// When the write began that is under way.
    asked_at: Option<Duration>,
}

impl Election {
    /// A contender of this name, whose leases last so long.
    pub fn new(me: &str, lasts: Duration) -> Election {
        Election {
            me: me.to_owned(),
            lasts,
            seen: None,
            renewed_at: None,
            asked_at: None,
        }
    }

    /// Until when it leads, if it is granted nothing more.
    pub fn leads_until(&self) -> Option<Duration> {
        Some(self.renewed_at? + self.lasts.mul_f64(LEADS_PART))
    }

    /// Whether it leads.
    pub fn is_leading(&self, now: Duration) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// Time between two looks or renewals.
    pub fn interval(&self) -> Duration {
        self.lasts.mul_f64(RENEW_PART)
    }

    /// What the API server shows: none when there is no lease.
    pub fn on_read(&mut self, now: Duration, lease: Option<Record>) -> Step {
        let Some(record) = lease else {
            (self.seen, self.renewed_at) = (None, None);
            self.asked_at = Some(now);
            return Step::Create;
        };
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => now,
        };
        let is_mine = record.holder == self.me;
        if !is_mine {
            self.renewed_at = None;
        }
        let is_over = record.holder.is_empty() || now >= since + record.lasts;
        let step = match is_mine || is_over {
            false => Step::Wait(self.interval().min(since + record.lasts - now)),
            true => {
                self.asked_at = Some(now);
                Step::Write {
                    version: record.version.clone(),
                    transitions: record.transitions + i32::from(!is_mine),
                    is_renewal: is_mine,
                }
            }
        };
        self.seen = Some((record, since));
        step
    }

    /// The write that was asked for was granted. Returns how long to wait before the next look.
    pub fn on_granted(&mut self) -> Duration {
        self.renewed_at = self.asked_at.take();
        self.interval()
    }

    /// It was not: somebody else was first, or the API server did not take it. Who led leads on while its time lasts.
    pub fn on_refused(&mut self) {
        self.asked_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(15);

    fn record(holder: &str, version: u32) -> Record {
        Record {
            holder: holder.to_owned(),
            lasts: LASTS,
            transitions: 3,
            version: version.to_string(),
        }
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_is_over_by_ones_own_clock_alone() {
        let mut b = Election::new("b", LASTS);
        assert_eq!(b.on_read(s(100), Some(record("a", 1))), Step::Wait(s(3)));
        assert_eq!(b.on_read(s(114), Some(record("a", 1))), Step::Wait(s(1)));
        // Renewed: counted anew.
        assert_eq!(b.on_read(s(114), Some(record("a", 2))), Step::Wait(s(3)));
        assert!(matches!(
            b.on_read(s(128), Some(record("a", 2))),
            Step::Wait(_)
        ));
        let step = b.on_read(s(129), Some(record("a", 2)));
        let wanted = Step::Write {
            version: "2".to_owned(),
            transitions: 4,
            is_renewal: false,
        };
        assert_eq!(step, wanted);
        assert!(!b.is_leading(s(129)));
        b.on_refused();
        assert!(!b.is_leading(s(129)));
        assert!(matches!(
            b.on_read(s(129), Some(record("c", 3))),
            Step::Wait(_)
        ));
    }

    #[test]
    fn who_leads_gives_up_before_others_may_take_over() {
        let mut a = Election::new("a", LASTS);
        assert_eq!(a.on_read(s(10), None), Step::Create);
        assert_eq!(a.on_granted(), s(3));
        assert!(a.is_leading(s(19)) && !a.is_leading(s(20)));
        let step = a.on_read(s(13), Some(record("a", 1)));
        assert!(matches!(
            step,
            Step::Write {
                is_renewal: true,
                transitions: 3,
                ..
            }
        ));
        // The API server is away.
        a.on_refused();
        assert!(a.is_leading(s(19)) && !a.is_leading(s(20)));
        // It comes back, and the lease is still there in its name: it may be renewed.
        assert!(matches!(
            a.on_read(s(22), Some(record("a", 1))),
            Step::Write { .. }
        ));
        a.on_granted();
        assert!(a.is_leading(s(31)));
        // Or somebody else has it.
        assert!(matches!(
            a.on_read(s(25), Some(record("b", 2))),
            Step::Wait(_)
        ));
        assert!(!a.is_leading(s(25)));
    }

    #[test]
    fn what_was_given_back_is_free_at_once() {
        let mut b = Election::new("b", LASTS);
        assert!(matches!(
            b.on_read(s(0), Some(record("", 1))),
            Step::Write { transitions: 4, .. }
        ));
    }

    /// A thousand orders of events: never two leaders.
    #[test]
    fn two_never_lead() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut contenders: Vec<Election> = (0..5)
                .map(|n| Election::new(&n.to_string(), LASTS))
                .collect();
            let mut lease: Option<Record> = None;
            let mut now = Duration::ZERO;
            for _ in 0..400 {
                now += Duration::from_millis(rng.u64(1..2_000));
                let who = rng.usize(0..contenders.len());
                // A reader may be told of a state that is past by the time it writes.
                let read = lease.clone();
                let step = contenders[who].on_read(now, read);
                let began = now;
                now += Duration::from_millis(rng.u64(0..3_000));
                if rng.f64() < 0.3 {
                    contenders[who].on_refused();
                    continue;
                }
                let (version, transitions) = match step {
                    Step::Wait(_) => continue,
                    Step::Create => (None, 0),
                    Step::Write {
                        version,
                        transitions,
                        ..
                    } => (Some(version), transitions),
                };
                if lease.as_ref().map(|l| l.version.clone()) != version {
                    contenders[who].on_refused();
                    continue;
                }
                let next = version.map_or(1, |v| v.parse::<u64>().unwrap() + 1);
                lease = Some(Record {
                    holder: who.to_string(),
                    lasts: LASTS,
                    transitions,
                    version: next.to_string(),
                });
                contenders[who].on_granted();
                assert!(contenders[who].leads_until().unwrap() > began);
                let leading = contenders.iter().filter(|c| c.is_leading(now)).count();
                assert!(leading <= 1, "seed {seed}: {leading} lead at {now:?}");
            }
        }
    }
}
