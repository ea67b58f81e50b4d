//! Taps: single requests and TCP connections that entered here, told to an operator as they end.
//!
//! While there is one, every request that enters has a [`Story`](crate::story::Story), with the headers that some tap asks for. When it
//! ends it is compared with each tap, then told, or counted as left out. While there is none a request looks at one number.
//!
//! **Invariant**: nothing on the request path waits for a tap. What waits to be told has limits; what is beyond them is
//! counted. A tap ends by itself when nobody renews it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use http::{HeaderMap, HeaderName};
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::tap::{
    HEADERS_MAX, LINES_PER_S_MAX, MoveCause, PATH_LEN_MAX, REDACTED, TCP, Tap, Tapped, TappedLines,
    VALUE_LEN_MAX, is_secret,
};

use crate::pick::Cause;
use crate::rate_limit::{Bucket, Rate};
use crate::story::{Ended, To};

/// Most taps at once; further ones are not begun.
pub const TAPS_MAX: usize = 8;
/// Longest lifetime of a tap that is not renewed, in microseconds.
pub const LIFETIME_US_MAX: u64 = 60_000_000;
/// Most requests of one tap that wait to be told; further ones are counted.
pub const WAITING_MAX: usize = 128;

/// All taps of this proxy.
#[derive(Debug, Default)]
pub struct Taps {
    /// How many there are; what the request path looks at.
    count: AtomicU32,
    active: Mutex<Vec<Active>>,
}

#[derive(Debug)]
struct Active {
    tap: Tap,
    begun_us: u64,
    ends_us: u64,
    rate: Rate,
    bucket: Bucket,
    waiting: Vec<Tapped>,
    left_out: u64,
}

/// What is noted of a request for taps, beside its story.
#[derive(Debug)]
pub struct Tapping {
    taps: Arc<Taps>,
    /// This node.
    node: NodeId,
    at_ms: u64,
    headers: Vec<(String, String)>,
    answer_headers: Vec<(String, String)>,
    /// Names of headers that some tap asks for.
    wanted: Vec<HeaderName>,
}

impl Taps {
    /// Begins a tap, or its lifetime anew. Returns `false` when there are [`TAPS_MAX`] others.
    pub fn begin(&self, tap: Tap, now_us: u64) -> bool {
        let lifetime_us = tap.lifetime_ms.saturating_mul(1000).min(LIFETIME_US_MAX);
        let ends_us = now_us.saturating_add(lifetime_us);
        let mut active = self.lock();
        active.retain(|a| a.ends_us > now_us);
        let is_room = active.len() < TAPS_MAX;
        let known = active.iter_mut().find(|a| a.tap.tap == tap.tap);
        let is_active = match known {
            Some(known) => {
                known.ends_us = ends_us;
                true
            }
            None if is_room => {
                let per_s = tap.lines_per_s_max.clamp(1, LINES_PER_S_MAX);
                active.push(Active {
                    begun_us: now_us,
                    ends_us,
                    rate: Rate::new(f64::from(per_s), 1_000_000, per_s),
                    bucket: Bucket::default(),
                    waiting: Vec::new(),
                    left_out: 0,
                    tap,
                });
                true
            }
            None => false,
        };
        self.count.store(active.len() as u32, Relaxed);
        is_active
    }

    /// Ends a tap.
    pub fn end(&self, tap: u64) {
        let mut active = self.lock();
        active.retain(|a| a.tap.tap != tap);
        self.count.store(active.len() as u32, Relaxed);
    }

    /// Ends all: who asked for them is gone.
    pub fn clear(&self) {
        self.lock().clear();
        self.count.store(0, Relaxed);
    }

    /// Whether there is a tap: one load.
    pub fn is_any(&self) -> bool {
        self.count.load(Relaxed) != 0
    }

    /// Takes what is to be told now; taps whose time is over end.
    pub fn take(&self, now_us: u64) -> Vec<TappedLines> {
        let mut active = self.lock();
        active.retain(|a| a.ends_us > now_us);
        self.count.store(active.len() as u32, Relaxed);
        let lines = active.iter_mut().map(|a| TappedLines {
            tap: a.tap.tap,
            requests: std::mem::take(&mut a.waiting),
            left_out: std::mem::take(&mut a.left_out),
        });
        let is_news = |l: &TappedLines| !l.requests.is_empty() || l.left_out > 0;
        lines.filter(is_news).collect()
    }

    /// Notes a request whose head came.
    #[cold]
    pub(crate) fn begin_request(self: &Arc<Taps>, node: &NodeId, headers: &HeaderMap) -> Tapping {
        let mut wanted: Vec<HeaderName> = Vec::new();
        for active in self.lock().iter() {
            for name in active.tap.headers.iter().take(HEADERS_MAX) {
                let name = HeaderName::from_bytes(name.as_bytes());
                wanted.extend(name.ok().filter(|name| !wanted.contains(name)));
            }
        }
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Tapping {
            taps: Arc::clone(self),
            node: node.clone(),
            at_ms: since_1970.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            headers: named(headers, &wanted),
            answer_headers: Vec::new(),
            wanted,
        }
    }

    fn ended(&self, tapping: &Tapping, seen: &Tapped, ended: &Ended<'_>) {
        let service = ended.notes.service.as_ref().map(|live| &live.service);
        let (arrived_us, now_us) = (ended.arrived_us, ended.now_us);
        // Of a request that was there before a tap it is not known what that asks for.
        let sees = |a: &&mut Active| a.begun_us <= arrived_us && a.ends_us > now_us;
        for active in self.lock().iter_mut().filter(sees) {
            if !active.tap.filter.holds(service, seen) {
                continue;
            }
            let has_room = active.waiting.len() < WAITING_MAX
                && active.bucket.take(&active.rate, now_us).is_ok();
            if !has_room {
                active.left_out += 1;
                continue;
            }
            let own = |told: &[(String, String)]| {
                let own = |(name, _): &&(String, String)| active.tap.headers.contains(name);
                told.iter().filter(own).cloned().collect::<Vec<_>>()
            };
            active.waiting.push(Tapped {
                headers: own(&tapping.headers),
                answer_headers: own(&tapping.answer_headers),
                ..seen.clone()
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tapping {
    /// The answer's head.
    pub(crate) fn answered(&mut self, headers: &HeaderMap) {
        self.answer_headers = named(headers, &self.wanted);
    }

    /// The request is over.
    pub(crate) fn hear(&self, ended: &Ended<'_>) {
        let (served, moved) = self.server(ended);
        let head = ended.asked.head.as_ref();
        let of_connection = |len| head.is_none().then_some(len);
        let seen = Tapped {
            at_ms: self.at_ms,
            served,
            moved,
            method: head.map_or(TCP, |head| head.method.as_str()).to_owned(),
            path: head.map_or_else(String::new, |head| cut(head.uri.path(), PATH_LEN_MAX)),
            received_len: of_connection(ended.received_len),
            sent_len: of_connection(ended.sent_len),
            status: ended.notes.status.map_or(0, |status| status.as_u16()),
            latency_us: ended.took_us,
            headers: Vec::new(),
            answer_headers: Vec::new(),
        };
        self.taps.ended(self, &seen, ended);
    }

    /// Who answered in the end, and why not this node; nobody where the answer is the proxy's own.
    fn server(&self, ended: &Ended<'_>) -> (Option<NodeId>, Option<MoveCause>) {
        let notes = ended.notes;
        let is_answered = notes.status.is_some() || ended.asked.head.is_none();
        if notes.answer.is_some() || notes.refused.is_some() || !is_answered {
            return (None, None);
        }
        match notes.tries.last().map(|last| &last.to) {
            None => (None, None),
            Some(To::Endpoint(..)) => (Some(self.node.clone()), None),
            Some(To::Cloud(_)) => (None, Some(MoveCause::Cloud)),
            Some(To::Node(neighbour, Cause::Plan)) => {
                (Some(neighbour.node.clone()), Some(MoveCause::Plan))
            }
            Some(To::Node(neighbour, Cause::Spill)) => {
                (Some(neighbour.node.clone()), Some(MoveCause::Spill))
            }
        }
    }
}

/// The named headers with what may be told of their values.
fn named(headers: &HeaderMap, wanted: &[HeaderName]) -> Vec<(String, String)> {
    let value = |name: &HeaderName| {
        let value = headers.get(name)?;
        let value = match is_secret(name.as_str()) {
            true => REDACTED.to_owned(),
            false => cut(&String::from_utf8_lossy(value.as_bytes()), VALUE_LEN_MAX),
        };
        Some((name.as_str().to_owned(), value))
    };
    wanted.iter().filter_map(value).collect()
}

fn cut(text: &str, len_max: usize) -> String {
    text[..text.floor_char_boundary(len_max.min(text.len()))].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_mesh_api::names::ServiceName;
    use isobar_mesh_api::tap::Filter;

    fn tap(number: u64) -> Tap {
        let filter = Filter {
            service: ServiceName::new("shop/cart").ok(),
            method: None,
            path: None,
            status: None,
            moved: false,
            to: None,
        };
        Tap {
            tap: number,
            lifetime_ms: 1000,
            lines_per_s_max: 5,
            filter,
            headers: Vec::new(),
        }
    }

    #[test]
    fn taps_end_when_nobody_renews_them_and_are_few() {
        let taps = Taps::default();
        assert!(!taps.is_any());
        assert!(taps.begin(tap(1), 0) && taps.is_any());
        assert!(taps.begin(tap(1), 900_000));
        assert!(taps.take(1_500_000).is_empty() && taps.is_any());
        assert!(taps.take(1_900_000).is_empty() && !taps.is_any());
        for number in 0..TAPS_MAX as u64 {
            assert!(taps.begin(tap(number), 2_000_000));
        }
        assert!(!taps.begin(tap(99), 2_000_000));
        assert!(taps.begin(tap(99), 9_000_000), "the others are over");
        taps.end(99);
        assert!(!taps.is_any());
    }

    #[test]
    fn secrets_are_not_told_and_values_are_cut() {
        let mut headers = HeaderMap::new();
        let long = "é".repeat(VALUE_LEN_MAX);
        for (name, value) in [("authorization", "Bearer x"), ("x-plain", "1")] {
            headers.insert(name, value.parse().unwrap());
        }
        headers.insert("x-long", long.parse().unwrap());
        let wanted = ["authorization", "x-plain", "x-long", "x-none"];
        let told = named(&headers, &wanted.map(HeaderName::from_static));
        assert_eq!(told[0], ("authorization".into(), REDACTED.into()));
        assert_eq!(told[1], ("x-plain".into(), "1".into()));
        assert_eq!((told[2].1.len(), told.len()), (VALUE_LEN_MAX, 3));
    }
}
