//! Ranges of a traffic policy.

use std::collections::BTreeSet;

use super::{
    Balance, Circuit, Concurrency, EndpointProtocol, HashKey, HealthCheck, KeyOf, LoadBalancing,
    Outlier, Queue, RateLimit, RateOf, RateScope, Retries, Sizes, TellClient, Timeouts,
    TrafficPolicySpec,
};
use crate::resource::span::Span;
use crate::resource::weight_policy::PolicyError;

/// Most services or labels that one policy may name.
pub const SELECTED_MAX: usize = 256;
/// Longest timeout.
pub const TIMEOUT_MAX: Span = Span::from_secs(24 * 3600);
/// Most tries of one request.
pub const ATTEMPTS_MAX: u32 = 10;
/// Most rate limits of one policy.
pub const RATE_LIMITS_MAX: usize = 16;
/// Most priority classes.
pub const CLASSES_MAX: usize = 4;
/// Longest name of a header, cookie or limit, and longest path, in bytes.
pub const TEXT_LEN_MAX: usize = 128;
/// Most bytes of a body kept to send it again.
pub const BUFFER_LEN_MAX: u32 = 8 << 20;

type Checked = Result<(), PolicyError>;

fn wrong(field: &'static str, problem: impl Into<String>) -> Checked {
    Err(PolicyError {
        field,
        problem: problem.into(),
    })
}

fn share(field: &'static str, value: f64) -> Checked {
    match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => wrong(field, "must be from 0 to 1"),
    }
}

fn count(field: &'static str, value: u32, range: std::ops::RangeInclusive<u32>) -> Checked {
    match range.contains(&value) {
        true => Ok(()),
        false => wrong(
            field,
            format!("must be from {} to {}", range.start(), range.end()),
        ),
    }
}

fn span(field: &'static str, value: Span, min: Span, max: Span) -> Checked {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => wrong(field, format!("must be from {min} to {max}")),
    }
}

/// A span that may also be absent (`"0s"`).
fn span_or_none(field: &'static str, value: Span, min: Span, max: Span) -> Checked {
    match value.is_zero() {
        true => Ok(()),
        false => span(field, value, min, max),
    }
}

/// A token of RFC 9110, section 5.6.2: the name of a header or a cookie.
fn token(field: &'static str, text: &str) -> Checked {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match !text.is_empty() && text.len() <= TEXT_LEN_MAX && text.bytes().all(ok) {
        true => Ok(()),
        false => wrong(
            field,
            format!("must be letters, digits or '-', 1 to {TEXT_LEN_MAX}"),
        ),
    }
}

fn path(field: &'static str, text: &str) -> Checked {
    let ok = |b: u8| (0x21..0x7f).contains(&b);
    match text.starts_with('/') && text.len() <= TEXT_LEN_MAX && text.bytes().all(ok) {
        true => Ok(()),
        false => wrong(
            field,
            format!("must begin with '/' and be at most {TEXT_LEN_MAX} visible characters"),
        ),
    }
}

impl TrafficPolicySpec {
    /// Checks every range.
    ///
    /// # Errors
    /// The first field out of its range, by its path.
    pub fn check(&self) -> Checked {
        if self.services.len() > SELECTED_MAX || self.labels.len() > SELECTED_MAX {
            return wrong("services", format!("and labels: at most {SELECTED_MAX}"));
        }
        let ends = &self.endpoints;
        if ends.protocol == EndpointProtocol::Http2 && ends.proxy_protocol != TellClient::Off {
            return wrong(
                "endpoints/proxy_protocol",
                "must be off with protocol http2",
            );
        }
        self.timeouts.check()?;
        self.retries.check()?;
        self.circuit.check()?;
        self.outlier.check()?;
        self.health_check
            .as_ref()
            .map_or(Ok(()), HealthCheck::check)?;
        self.load_balancing.check()?;
        self.queue.check()?;
        self.concurrency.check()?;
        self.sizes.check()?;
        if self.rate_limits.len() > RATE_LIMITS_MAX {
            return wrong("rate_limits", format!("at most {RATE_LIMITS_MAX}"));
        }
        let mut names = BTreeSet::new();
        for limit in &self.rate_limits {
            limit.check()?;
            if !names.insert(&limit.name) {
                return wrong("rate_limits/name", format!("{} is there twice", limit.name));
            }
        }
        Ok(())
    }
}

impl Timeouts {
    fn check(&self) -> Checked {
        let millisecond = Span::from_millis(1);
        let minute = Span::from_secs(60);
        span("timeouts/connect", self.connect, millisecond, minute)?;
        let limits = [
            ("timeouts/per_try", self.per_try),
            ("timeouts/request", self.request),
            ("timeouts/idle", self.idle),
            ("timeouts/stream", self.stream),
        ];
        limits
            .into_iter()
            .try_for_each(|(field, value)| span_or_none(field, value, millisecond, TIMEOUT_MAX))
    }
}

impl Retries {
    fn check(&self) -> Checked {
        count("retries/attempts", self.attempts, 1..=ATTEMPTS_MAX)?;
        share("retries/budget_ratio", self.budget_ratio)?;
        count("retries/budget_min_rps", self.budget_min_rps, 0..=1000)?;
        let (zero, minute) = (Span::ZERO, Span::from_secs(60));
        span("retries/backoff_base", self.backoff_base, zero, minute)?;
        let base = self.backoff_base;
        span("retries/backoff_max", self.backoff_max, base, minute)?;
        span(
            "retries/retry_after_max",
            self.retry_after_max,
            zero,
            minute,
        )
    }
}

impl Circuit {
    fn check(&self) -> Checked {
        share("circuit/failure_ratio", self.failure_ratio)?;
        let (second, minutes) = (Span::from_secs(1), Span::from_secs(600));
        span("circuit/window", self.window, second, minutes)?;
        let millisecond = Span::from_millis(1);
        span("circuit/open_base", self.open_base, millisecond, minutes)?;
        let base = self.open_base;
        span("circuit/open_max", self.open_max, base, TIMEOUT_MAX)?;
        count("circuit/half_open_probes", self.half_open_probes, 1..=100)
    }
}

impl Outlier {
    fn check(&self) -> Checked {
        let (second, minutes) = (Span::from_secs(1), Span::from_secs(600));
        span_or_none("outlier/interval", self.interval, second, minutes)?;
        share("outlier/error_excess", self.error_excess)?;
        share("outlier/ejected_max", self.ejected_max)?;
        let ratio = self.latency_ratio;
        if ratio != 0.0 && !(1.1..=1000.0).contains(&ratio) {
            return wrong("outlier/latency_ratio", "must be 0, or from 1.1 to 1000");
        }
        let millisecond = Span::from_millis(1);
        let base = self.ejection_base;
        span("outlier/ejection_base", base, millisecond, minutes)?;
        span("outlier/ejection_max", self.ejection_max, base, TIMEOUT_MAX)
    }
}

impl HealthCheck {
    fn check(&self) -> Checked {
        path("health_check/path", &self.path)?;
        let visible = |text: &str| text.bytes().all(|b| (0x21..0x7f).contains(&b));
        let fits = |text: &str| text.len() <= TEXT_LEN_MAX && visible(text);
        if !fits(&self.host) || !fits(&self.grpc_service) {
            return wrong(
                "health_check/host",
                format!("and grpc_service must be at most {TEXT_LEN_MAX} visible characters"),
            );
        }
        let (tenth, minutes) = (Span::from_millis(100), Span::from_secs(600));
        span("health_check/interval", self.interval, tenth, minutes)?;
        let millisecond = Span::from_millis(1);
        let minute = Span::from_secs(60);
        span("health_check/timeout", self.timeout, millisecond, minute)?;
        count(
            "health_check/unhealthy_after",
            self.unhealthy_after,
            1..=100,
        )?;
        count("health_check/healthy_after", self.healthy_after, 1..=100)
    }
}

impl HashKey {
    fn check(&self, field: &'static str) -> Checked {
        if self.of != KeyOf::SourceAddress {
            token(field, &self.name)?;
        }
        span(field, self.ttl, Span::ZERO, Span::from_secs(90_000 * 3600))
    }
}

impl LoadBalancing {
    fn check(&self) -> Checked {
        let hashed = matches!(self.algorithm, Balance::RingHash | Balance::Maglev);
        match (&self.key, hashed) {
            (None, true) => return wrong("load_balancing/key", "is needed to hash by"),
            (Some(_), false) => {
                return wrong(
                    "load_balancing/key",
                    "is for ring_hash and maglev; affinity keeps sessions with any algorithm",
                );
            }
            _ => {}
        }
        if let Some(key) = &self.key {
            key.check("load_balancing/key/name")?;
        }
        if let Some(key) = &self.affinity {
            if hashed {
                return wrong(
                    "load_balancing/affinity",
                    "is for the other algorithms; key is for these",
                );
            }
            key.check("load_balancing/affinity/name")?;
        }
        let hour = Span::from_secs(3600);
        span(
            "load_balancing/slow_start",
            self.slow_start,
            Span::ZERO,
            hour,
        )
    }
}

impl Queue {
    fn check(&self) -> Checked {
        count("queue/per_worker_max", self.per_worker_max, 0..=10_000)?;
        let minutes = Span::from_secs(600);
        span("queue/wait_max", self.wait_max, Span::ZERO, minutes)?;
        let Some(priority) = &self.priority else {
            return Ok(());
        };
        token("queue/priority/header", &priority.header)?;
        let named: BTreeSet<&String> = priority.classes.iter().collect();
        let fits = |name: &&String| !name.is_empty() && name.len() <= TEXT_LEN_MAX;
        let sound = named.len() == priority.classes.len() && named.iter().all(fits);
        if !(1..=CLASSES_MAX).contains(&priority.classes.len()) || !sound {
            return wrong(
                "queue/priority/classes",
                format!("must be 1 to {CLASSES_MAX} different values, the most important first"),
            );
        }
        match &priority.default {
            Some(class) if !named.contains(class) => {
                wrong("queue/priority/default", "must be one of the classes")
            }
            _ => Ok(()),
        }
    }
}

impl Concurrency {
    fn check(&self) -> Checked {
        count("concurrency/min", self.min, 1..=10_000)?;
        count("concurrency/max", self.max, self.min..=100_000)?;
        match (1.0..=10.0).contains(&self.tolerance) {
            true => Ok(()),
            false => wrong("concurrency/tolerance", "must be from 1 to 10"),
        }
    }
}

impl Sizes {
    fn check(&self) -> Checked {
        count(
            "sizes/request_head_len_max",
            self.request_head_len_max,
            0..=64 * 1024,
        )?;
        count(
            "sizes/buffer_len_max",
            self.buffer_len_max,
            0..=BUFFER_LEN_MAX,
        )
    }
}

impl RateLimit {
    fn check(&self) -> Checked {
        token("rate_limits/name", &self.name)?;
        count("rate_limits/requests", self.requests, 1..=100_000_000)?;
        count("rate_limits/burst", self.burst, 0..=100_000_000)?;
        let day = Span::from_secs(24 * 3600);
        span("rate_limits/per", self.per, Span::from_millis(1), day)?;
        if self.by == RateOf::Header {
            token("rate_limits/header", &self.header)?;
        } else if !self.header.is_empty() {
            return wrong("rate_limits/header", "is for by: header");
        }
        if self.scope == RateScope::Mesh && self.by != RateOf::Service {
            return wrong("rate_limits/scope", "mesh is for by: service");
        }
        match self.path_prefix.as_str() {
            "" => Ok(()),
            prefix => path("rate_limits/path_prefix", prefix),
        }
    }
}
