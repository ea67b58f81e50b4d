//! How often somebody may be wrong about one secret.
//!
//! Counted by address and by the secret that was meant: who guesses locks out themselves, and from that one secret alone;
//! others behind the same address, with secrets of their own, notice nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Wrong secrets within [`WINDOW`]; further ones are not looked at.
pub const WRONG_MAX: u32 = 10;
/// How long a wrong secret counts, from the first of them.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Most pairs of address and secret that are remembered; one more takes the place of the oldest.
pub const PAIRS_MAX: usize = 4096;

/// Who was wrong about what.
#[derive(Debug, Default)]
pub struct Guesses {
    pairs: BTreeMap<(IpAddr, String), Wrong>,
}

#[derive(Debug)]
struct Wrong {
    times: u32,
    since: Duration,
}

impl Guesses {
    /// Whether a claim about the secret `id` is looked at.
    pub fn may_try(&self, address: IpAddr, id: &str, now: Duration) -> bool {
        match self.pairs.get(&(network(address), id.to_owned())) {
            Some(wrong) => wrong.times < WRONG_MAX || now >= wrong.since + WINDOW,
            None => true,
        }
    }

    /// A claim was wrong.
    pub fn on_wrong(&mut self, address: IpAddr, id: &str, now: Duration) {
        let key = (network(address), id.to_owned());
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(&key) {
            self.make_room(now);
        }
        let wrong = self.pairs.entry(key).or_insert(Wrong {
            times: 0,
            since: now,
        });
        if now >= wrong.since + WINDOW {
            *wrong = Wrong {
                times: 0,
                since: now,
            };
        }
        wrong.times += 1;
    }

    fn make_room(&mut self, now: Duration) {
        self.pairs.retain(|_, wrong| now < wrong.since + WINDOW);
        if self.pairs.len() < PAIRS_MAX {
            return;
        }
        let oldest = self.pairs.iter().min_by_key(|(_, wrong)| wrong.since);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.pairs.remove(&key);
        }
    }
}

/// What counts as one source: an IPv4 address; of IPv6 the /64, all of which one subscriber has.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn who_guesses_is_stopped_and_nobody_else() {
        let mut guesses = Guesses::default();
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..WRONG_MAX {
            assert!(guesses.may_try(one, "a", at(1)));
            guesses.on_wrong(one, "a", at(1));
        }
        assert!(!guesses.may_try(one, "a", at(60)));
        assert!(guesses.may_try(one, "b", at(60)) && guesses.may_try(other, "a", at(60)));
        assert!(guesses.may_try(one, "a", at(61)));
        guesses.on_wrong(one, "a", at(61));
        assert!(guesses.may_try(one, "a", at(62)));
    }

    #[test]
    fn addresses_of_one_subscriber_are_one_and_memory_is_bounded() {
        let mut guesses = Guesses::default();
        let host = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
        for n in 0..WRONG_MAX as u16 {
            guesses.on_wrong(host(n), "a", at(1));
        }
        assert!(!guesses.may_try(host(999), "a", at(2)));
        for n in 0..PAIRS_MAX + 10 {
            guesses.on_wrong(host(1), &n.to_string(), at(3));
        }
        assert_eq!(guesses.pairs.len(), PAIRS_MAX);
    }
}
