//! The rate limits of a service at this node.
//!
//! [`crate::rate_limit`] says whether there is a token; here buckets live on while snapshots come and go. A limit of the
//! whole service is one word that workers share without a lock; one by key has a lock, held for one look-up.
//!
//! A limit of the whole mesh is kept by each node for its part, which the controller divides anew by what was asked. While
//! the controller is away the last part holds.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, request};
use isobar_mesh_api::identity::SpiffeId;
use isobar_mesh_api::resource::traffic_policy::{RateLimit, RateOf, RateScope};
use isobar_mesh_api::snapshot::RateShare;
use isobar_mesh_api::weight::WHOLE_PPM;

use crate::answer::Answer;
use crate::balance::hash;
use crate::body::ResponseBody;
use crate::limit::Limit;
use crate::rate_limit::{Bucket, Buckets, Rate};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// All limits of one service, as one snapshot has them.
#[derive(Debug, Default)]
pub struct Rates(Vec<Limited>);

#[derive(Debug)]
struct Limited {
    name: String,
    by: By,
    path_prefix: String,
    rate: Rate,
    /// What a refused client is told of it.
    policy: Option<HeaderValue>,
    live: Arc<RateLive>,
}

#[derive(Debug)]
enum By {
    Service,
    Route,
    Source,
    Identity,
    Header(HeaderName),
}

/// One limit's buckets and counts; they outlive snapshots.
#[derive(Debug, Default)]
pub struct RateLive {
    /// Of the whole service: a [`Bucket`].
    one: AtomicU64,
    by_key: Mutex<Buckets>,
    /// Requests let in.
    pub passed: AtomicU64,
    /// Requests refused.
    pub refused: AtomicU64,
    /// This node's part of it, in parts per million; 0 = it is not divided.
    pub share_ppm: AtomicU64,
}

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The request, as the service gets it.
    pub head: &'a request::Parts,
    /// The client's address.
    pub source: IpAddr,
    /// The workload that it comes from, when that is known.
    pub identity: Option<&'a SpiffeId>,
    /// Which rule of which route it followed, as a hash; 0 = none.
    pub rule: u64,
    /// The clock, in microseconds.
    pub now_us: u64,
}

/// A request is one too many.
#[derive(Debug)]
pub struct Refused<'a> {
    limit: &'a Limited,
    wait_us: u64,
}

impl Rates {
    /// As a checked policy says, with this node's parts; `live` finds a limit's buckets by its name.
    pub fn new(
        policy: &[RateLimit],
        shares: &[RateShare],
        mut live: impl FnMut(&str) -> Arc<RateLive>,
    ) -> Rates {
        let limited = |limit: &RateLimit| {
            let share = shares.iter().find(|s| s.limit == limit.name);
            let share = share.filter(|_| limit.scope == RateScope::Mesh);
            let live = live(&limit.name);
            let told_ppm = share.map_or(0, |s| u64::from(s.share_ppm));
            live.share_ppm.store(told_ppm, Relaxed);
            let part = share.map_or(1.0, |s| f64::from(s.share_ppm) / f64::from(WHOLE_PPM));
            let burst = if limit.burst == 0 {
                limit.requests
            } else {
                limit.burst
            };
            let burst = (f64::from(burst) * part).ceil() as u32;
            let per_us = limit.per.as_micros();
            Limited {
                by: By::new(limit),
                path_prefix: limit.path_prefix.clone(),
                rate: Rate::new(f64::from(limit.requests) * part, per_us, burst),
                policy: HeaderValue::from_str(&format!(
                    "\"{}\";q={};w={}",
                    limit.name,
                    limit.requests,
                    per_us.div_ceil(1_000_000)
                ))
                .ok(),
                name: limit.name.clone(),
                live,
            }
        };
        Rates(policy.iter().map(limited).collect())
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// It is one too many for the limit that is named.
    pub fn admit(&self, asking: Asking<'_>) -> Result<(), Refused<'_>> {
        for limit in &self.0 {
            if !asking.head.uri.path().starts_with(&limit.path_prefix) {
                continue;
            }
            if let Err(wait_us) = limit.take(asking) {
                limit.live.refused.fetch_add(1, Relaxed);
                return Err(Refused { limit, wait_us });
            }
            limit.live.passed.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl By {
    fn new(limit: &RateLimit) -> By {
        match limit.by {
            RateOf::Service => By::Service,
            RateOf::Route => By::Route,
            RateOf::Source => By::Source,
            RateOf::Identity => By::Identity,
            // A checked name is a header's; without one all requests are alike.
            RateOf::Header => {
                HeaderName::from_bytes(limit.header.as_bytes()).map_or(By::Service, By::Header)
            }
        }
    }
}

impl Limited {
    fn take(&self, asking: Asking<'_>) -> Result<(), u64> {
        let key = match &self.by {
            By::Service => return self.live.take_one(&self.rate, asking.now_us),
            By::Route => asking.rule,
            By::Source => of_address(asking.source),
            By::Identity => match asking.identity {
                Some(identity) => hash::of(identity.to_string().as_bytes()),
                None => of_address(asking.source),
            },
            By::Header(name) => of_header(&asking.head.headers, name),
        };
        let buckets = &self.live.by_key;
        let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.take(key, &self.rate, asking.now_us)
    }
}

impl RateLive {
    fn take_one(&self, rate: &Rate, now_us: u64) -> Result<(), u64> {
        let mut full_ns = self.one.load(Relaxed);
        loop {
            let mut bucket = Bucket { full_ns };
            bucket.take(rate, now_us)?;
            let swapped = self
                .one
                .compare_exchange_weak(full_ns, bucket.full_ns, Relaxed, Relaxed);
            match swapped {
                Ok(_) => return Ok(()),
                Err(now_ns) => full_ns = now_ns,
            }
        }
    }
}

impl Refused<'_> {
    /// 429, and when to come back (draft-ietf-httpapi-ratelimit-headers, `RateLimit` and `RateLimit-Policy`).
    pub fn response(&self, grpc: bool) -> Response<ResponseBody> {
        let answer = Answer::Limited {
            limit: Limit::Rate,
            wait_us: self.wait_us,
        };
        let mut response = answer.to(grpc);
        let wait_s = self.wait_us.div_ceil(1_000_000).clamp(1, WAIT_S_MAX);
        let head = response.headers_mut();
        head.insert(RETRY_AFTER, HeaderValue::from(wait_s));
        if let Some(policy) = &self.limit.policy {
            head.insert(POLICY, policy.clone());
        }
        let state = format!("\"{}\";r=0;t={wait_s}", self.limit.name);
        // A name is a token.
        if let Ok(state) = HeaderValue::from_str(&state) {
            head.insert(STATE, state);
        }
        response
    }
}

/// Longest time that a client is told to stay away, in seconds: one day, the longest period of a limit.
const WAIT_S_MAX: u64 = 24 * 3600;

fn of_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(ip) => hash::of(&ip.octets()),
        // Who has one address of a network has 2^64 of them.
        IpAddr::V6(ip) => hash::of(&ip.octets()[..8]),
    }
}

fn of_header(headers: &HeaderMap, name: &HeaderName) -> u64 {
    headers
        .get(name)
        .map_or(0, |value| hash::of(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn what_shares_a_rate() {
        let rates = |by: &str| {
            let limit = format!(r#"{{"name": "a", "requests": 1, "per": "1h", "by": "{by}"}}"#);
            let limit: RateLimit = serde_json::from_str(&limit).unwrap();
            Rates::new(&[limit], &[], |_| Arc::default())
        };
        let (head, ()) = Request::get("/x").body(()).unwrap().into_parts();
        let ask = |rates: &Rates, source: &str, rule: u64| {
            let asking = Asking {
                head: &head,
                source: source.parse().unwrap(),
                identity: None,
                rule,
                now_us: 1_000_000,
            };
            rates.admit(asking).is_ok()
        };
        let by_route = rates("route");
        let asked = [1, 2, 1, 0, 2].map(|rule| ask(&by_route, "10.0.0.1", rule));
        assert_eq!(asked, [true, true, false, true, false]);
        let by_source = rates("source");
        let sources = [
            "10.0.0.1",
            "10.0.0.2",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "2001:db8::2",
        ];
        let asked = sources.map(|source| ask(&by_source, source, 0));
        assert_eq!(asked, [true, true, false, true, false]);
    }
}
