//! What is remembered of one request, or of one TCP connection, while somebody wants to hear of it: the access log, a collector of traces, a tap.
//!
//! A [`Story`] exists only then ([`crate::audience`] decides); without one a request costs nothing here. The exchange, every
//! try and the answer's body hold it and note what they see. When the last of them lets go, however the request ended, it is
//! over and the audience hears it: [`Ended`] is all that is known of a finished request, in one place.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use isobar_mesh_api::names::NodeId;

use crate::answer::Answer;
use crate::audience::Audience;
use crate::clock::Clock;
use crate::config::telemetry::Always;
use crate::connection::counts::Refusal;
use crate::endpoint::EndpointLive;
use crate::golden::{Direction, Outcome};
use crate::live::ServiceLive;
use crate::neighbour::NeighbourLive;
use crate::pick::Cause;
use crate::proxy_protocol::Ends;
use crate::route::Rule;
use crate::tap::Tapping;
use crate::tcp::copy::Bytes;
use crate::trace::Trace;

/// Tries of one request that are remembered; later ones are only counted.
pub const TRIES_MAX: usize = 8;
/// What is told as the status of a request whose client left before it was answered.
pub const GONE_STATUS: u16 = 499;

/// One request, while it is under way.
#[derive(Debug)]
pub struct Story {
    audience: Option<Arc<Audience>>,
    worker: usize,
    clock: Clock,
    arrived_us: u64,
    asked: Asked,
    trace: Option<Trace>,
    /// Bytes of the answer's body that were passed on; of a connection, both ways.
    bytes: Bytes,
    notes: Mutex<Notes>,
    tapping: Option<Mutex<Tapping>>,
}

/// What was asked, and by whom. Cheap to make: nothing of the head is copied.
#[derive(Debug)]
pub struct Asked {
    /// Where it came from.
    pub direction: Direction,
    /// The client, as far as somebody is believed about it.
    pub client: Option<IpAddr>,
    /// The node that moved it here.
    pub home: Option<NodeId>,
    /// What the client speaks, `http` or `https`.
    pub scheme: &'static str,
    /// The request's head; a TCP connection has none.
    pub head: Option<AskedHead>,
    /// Where a TCP connection was going, or came to.
    pub destination: Option<SocketAddr>,
    /// Headers that an operator wants to see, in the order of the configuration.
    pub headers: Vec<Option<HeaderValue>>,
    /// Whether it is of the share that the access log tells of.
    pub is_drawn: bool,
}

/// What is known of a request by its head.
#[derive(Debug)]
pub struct AskedHead {
    /// The method.
    pub method: Method,
    /// The target as it came.
    pub uri: Uri,
    /// The protocol.
    pub version: Version,
    /// `Host`.
    pub host: Option<HeaderValue>,
    /// `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// Length of the request's body, where it was announced.
    pub len: Option<u64>,
}

impl Asked {
    /// Reads a request as it came.
    pub(crate) fn new(head: &Parts, direction: Direction) -> Asked {
        let header = |name| head.headers.get(name).cloned();
        Asked {
            direction,
            client: None,
            home: None,
            scheme: "http",
            head: Some(AskedHead {
                method: head.method.clone(),
                uri: head.uri.clone(),
                version: head.version,
                host: header(HOST),
                user_agent: header(USER_AGENT),
                len: header(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok()),
            }),
            destination: None,
            headers: Vec::new(),
            is_drawn: false,
        }
    }

    /// A TCP connection.
    pub(crate) fn connection(
        direction: Direction,
        client: Option<IpAddr>,
        ends: Option<Ends>,
    ) -> Asked {
        Asked {
            direction,
            client,
            home: None,
            scheme: "tcp",
            head: None,
            destination: ends.map(|ends| ends.destination),
            headers: Vec::new(),
            is_drawn: false,
        }
    }
}

impl AskedHead {
    /// The host that was asked for, with its port.
    pub fn host(&self) -> Option<&[u8]> {
        let named = self.uri.authority().map(|named| named.as_str().as_bytes());
        named.or_else(|| self.host.as_ref().map(HeaderValue::as_bytes))
    }
}

/// What was seen since.
#[derive(Debug, Default)]
pub struct Notes {
    /// The service.
    pub service: Option<Arc<ServiceLive>>,
    /// The rule that it followed.
    pub rule: Option<Arc<Rule>>,
    /// The answer's status; `None` = there was none.
    pub status: Option<StatusCode>,
    /// The proxy's own answer, if it was one.
    pub answer: Option<Answer>,
    /// Why nobody got a TCP connection, and what that comes to.
    pub refused: Option<(Refusal, Outcome)>,
    /// The tries, at most [`TRIES_MAX`].
    pub tries: Vec<Try>,
    /// How many there were.
    pub tried: u32,
}

/// One try to have it answered.
#[derive(Debug)]
pub struct Try {
    /// By whom.
    pub to: To,
    /// When it began, in microseconds of the proxy's clock.
    pub begun_us: u64,
    /// When it was over.
    pub ended_us: u64,
    /// What came back.
    pub status: Option<StatusCode>,
    /// Whether it ended as it should.
    pub is_good: bool,
    /// Its span; 0 = it has none.
    pub span: u64,
}

/// Who was asked to answer.
#[derive(Debug, Clone)]
pub enum To {
    /// An endpoint of this node; whether its circuit waits for what comes of it.
    Endpoint(Arc<EndpointLive>, bool),
    /// Another node, and why.
    Node(Arc<NeighbourLive>, Cause),
    /// The upstream of last resort.
    Cloud(Arc<EndpointLive>),
}

/// A finished request.
#[derive(Debug)]
pub struct Ended<'a> {
    /// The worker that served it.
    pub worker: usize,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// When it arrived, in microseconds of the proxy's clock, and what time that clock has now.
    pub arrived_us: u64,
    /// See [`Ended::arrived_us`].
    pub now_us: u64,
    /// What was asked.
    pub asked: &'a Asked,
    /// What came of it, in detail.
    pub notes: &'a Notes,
    /// Bytes of the answer's body that were passed on; of a connection, that went to the client.
    pub sent_len: u64,
    /// Bytes that came from the client of a connection.
    pub received_len: u64,
    /// Its place in a trace.
    pub trace: Option<&'a Trace>,
    /// What came of it.
    pub outcome: Outcome,
}

impl Ended<'_> {
    /// The status, or [`GONE_STATUS`].
    pub fn status(&self) -> u16 {
        self.notes
            .status
            .map_or(GONE_STATUS, |status| status.as_u16())
    }

    /// Whether it failed: a status of 5xx, or an answer that broke off. What another node sent and is told to serve itself
    /// has not failed.
    pub fn is_error(&self) -> bool {
        let goes_back = self.asked.home.is_some() && self.outcome == Outcome::Refused;
        let is_shed = self.asked.head.is_none() && self.outcome == Outcome::Shed;
        !goes_back && (self.status() >= 500 || self.outcome == Outcome::Failed || is_shed)
    }

    /// Whether another node served it, or it came from one.
    pub fn is_moved(&self) -> bool {
        self.outcome == Outcome::Moved || self.asked.home.is_some()
    }
}

impl Story {
    pub(crate) fn new(
        audience: Option<Arc<Audience>>,
        worker: usize,
        clock: Clock,
        asked: Asked,
        trace: Option<Trace>,
        tapping: Option<Tapping>,
    ) -> Story {
        Story {
            audience,
            worker,
            clock,
            arrived_us: clock.now_us(),
            asked,
            trace,
            bytes: Bytes::default(),
            notes: Mutex::default(),
            tapping: tapping.map(Mutex::new),
        }
    }

    /// The service that it is for, and the rule that says so.
    pub(crate) fn goes_to(&self, service: &Arc<ServiceLive>, rule: Option<&Arc<Rule>>) {
        let mut notes = self.notes();
        notes.service = Some(Arc::clone(service));
        notes.rule = rule.cloned();
    }

    /// Somebody is asked to answer it. Which try that is.
    pub(crate) fn tries(&self, to: To, begun_us: u64) -> usize {
        let mut notes = self.notes();
        notes.tried += 1;
        let place = notes.tries.len();
        if place < TRIES_MAX {
            notes.tries.push(Try {
                to,
                begun_us,
                ended_us: begun_us,
                status: None,
                is_good: false,
                span: self.trace.as_ref().map_or(0, Trace::another_span),
            });
        }
        place
    }

    /// Says in a request's head whose trace the try belongs to, if that may be recorded.
    pub(crate) fn tell(&self, place: usize, head: &mut HeaderMap) {
        let span = self.notes().tries.get(place).map_or(0, |one| one.span);
        if let Some(trace) = self.trace.as_ref().filter(|_| span != 0) {
            trace.tell(span, head);
        }
    }

    /// The answer's head came.
    pub(crate) fn heard(&self, place: usize, status: StatusCode) {
        if let Some(one) = self.notes().tries.get_mut(place) {
            one.status = Some(status);
        }
    }

    /// A try is over.
    pub(crate) fn tried(&self, place: usize, now_us: u64, is_good: bool) {
        if let Some(one) = self.notes().tries.get_mut(place) {
            (one.ended_us, one.is_good) = (now_us, is_good);
        }
    }

    /// What the client gets; `answer` is the proxy's own.
    pub(crate) fn answered(&self, status: StatusCode, answer: Option<Answer>) {
        let mut notes = self.notes();
        (notes.status, notes.answer) = (Some(status), answer);
    }

    /// The head of what the client gets, for taps.
    pub(crate) fn heads_back(&self, headers: &HeaderMap) {
        if let Some(tapping) = &self.tapping {
            let mut tapping = tapping.lock().unwrap_or_else(PoisonError::into_inner);
            tapping.answered(headers);
        }
    }

    /// Nobody gets the connection.
    pub(crate) fn refused(&self, why: Refusal, outcome: Outcome) {
        self.notes().refused = Some((why, outcome));
    }

    /// A piece of the answer's body was passed on.
    pub(crate) fn sent(&self, len: usize) {
        self.bytes.sent.fetch_add(len as u64, Relaxed);
    }

    /// Where a connection's bytes are counted.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    /// Why the proxy answered by itself, or nobody got the connection; none when it was not so.
    pub(crate) fn reason(&self) -> Option<Cow<'static, str>> {
        match self.refused {
            Some((why, _)) => Some(why.to_string().into()),
            None => Some(self.answer?.title().into()),
        }
    }

    /// What came of it; nothing has to be answered to a connection.
    fn outcome(&self, is_connection: bool) -> Outcome {
        if let Some((_, outcome)) = self.refused {
            return outcome;
        }
        let is_answered = self.status.is_some() || is_connection;
        match (self.answer, is_answered, self.tries.last()) {
            (Some(answer), ..) => answer.outcome(),
            (None, false, _) => Outcome::Gone,
            (None, true, None) => Outcome::Route,
            (None, true, Some(last)) if !last.is_good => Outcome::Failed,
            (None, true, Some(last)) => match last.to {
                To::Endpoint(..) => Outcome::Home,
                To::Node(..) => Outcome::Moved,
                To::Cloud(_) => Outcome::Cloud,
            },
        }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let notes = self.notes.get_mut().unwrap_or_else(PoisonError::into_inner);
        let now_us = self.clock.now_us();
        let ended = Ended {
            worker: self.worker,
            took_us: now_us.saturating_sub(self.arrived_us),
            arrived_us: self.arrived_us,
            now_us,
            asked: &self.asked,
            outcome: notes.outcome(self.asked.head.is_none()),
            notes,
            sent_len: *self.bytes.sent.get_mut(),
            received_len: *self.bytes.received.get_mut(),
            trace: self.trace.as_ref(),
        };
        if let Some(audience) = &self.audience {
            audience.hear(&ended);
        }
        if let Some(tapping) = &mut self.tapping {
            let tapping = tapping.get_mut().unwrap_or_else(PoisonError::into_inner);
            tapping.hear(&ended);
        }
    }
}

/// Which requests are told of in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Picks {
    errors: bool,
    moved: bool,
    /// Those that take as long, in microseconds; `None`: not for that.
    slow_us: Option<u64>,
}

impl Picks {
    /// As a configuration says.
    pub fn new(always: &[Always], slow_ms: u64) -> Picks {
        let has = |one| always.contains(&one);
        Picks {
            errors: has(Always::Errors),
            moved: has(Always::Moved),
            slow_us: has(Always::Slow).then(|| slow_ms.saturating_mul(1000)),
        }
    }

    /// Whether there are none.
    pub fn are_none(&self) -> bool {
        *self == Picks::default()
    }

    /// Whether a request is one of them.
    pub(crate) fn have(&self, ended: &Ended<'_>) -> bool {
        // How long a connection lasts says nothing of how quick anybody was.
        let may_be_slow = ended.asked.head.is_some();
        let is_slow = |slow_us| may_be_slow && ended.took_us >= slow_us;
        (self.errors && ended.is_error())
            || (self.moved && ended.is_moved())
            || self.slow_us.is_some_and(is_slow)
    }
}
