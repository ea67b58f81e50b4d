//! The limits that refuse a request or end it, by name.
//!
//! Every one has its status, its counter and its words in the answer's body.

use http::StatusCode;

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `timeouts.request`: no answer in time.
    RequestTimeout,
    /// `timeouts.per_try`: no answer to the last try in time.
    TryTimeout,
    /// The time that the client, or the hop before, gave.
    Deadline,
    /// `timeouts.idle`: a body of which nothing came.
    IdleTimeout,
    /// `timeouts.stream`: an answer that did not end.
    StreamTimeout,
    /// Every endpoint's circuit is open.
    Circuit,
    /// `sizes.request_head_len_max`.
    RequestHead,
    /// `sizes.request_body_len_max`.
    RequestBody,
    /// `sizes.response_body_len_max`.
    ResponseBody,
    /// One of `rate_limits`.
    Rate,
}

/// How many there are.
pub const COUNT: usize = 10;

impl Limit {
    /// All of them, each at its own number.
    pub const ALL: [Limit; COUNT] = [
        Limit::RequestTimeout,
        Limit::TryTimeout,
        Limit::Deadline,
        Limit::IdleTimeout,
        Limit::StreamTimeout,
        Limit::Circuit,
        Limit::RequestHead,
        Limit::RequestBody,
        Limit::ResponseBody,
        Limit::Rate,
    ];

    /// Its word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::RequestTimeout => "request_timeout",
            Limit::TryTimeout => "try_timeout",
            Limit::Deadline => "deadline",
            Limit::IdleTimeout => "idle_timeout",
            Limit::StreamTimeout => "stream_timeout",
            Limit::Circuit => "circuit",
            Limit::RequestHead => "request_head",
            Limit::RequestBody => "request_body",
            Limit::ResponseBody => "response_body",
            Limit::Rate => "rate",
        }
    }

    /// What a client gets.
    pub fn status(self) -> StatusCode {
        match self {
            Limit::RequestTimeout
            | Limit::TryTimeout
            | Limit::Deadline
            | Limit::IdleTimeout
            | Limit::StreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Limit::Circuit => StatusCode::SERVICE_UNAVAILABLE,
            Limit::RequestHead => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Limit::RequestBody => StatusCode::PAYLOAD_TOO_LARGE,
            Limit::ResponseBody => StatusCode::BAD_GATEWAY,
            Limit::Rate => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// What the client reads.
    pub fn title(self) -> &'static str {
        match self {
            Limit::RequestTimeout => "no answer within the request timeout",
            Limit::TryTimeout => "no answer within the timeout of a try",
            Limit::Deadline => "no answer within the request's own deadline",
            Limit::IdleTimeout => "nothing came within the idle timeout",
            Limit::StreamTimeout => "the answer did not end within the stream timeout",
            Limit::Circuit => "every endpoint of the service fails; its circuits are open",
            Limit::RequestHead => "the request's head is larger than this service takes",
            Limit::RequestBody => "the request's body is larger than this service takes",
            Limit::ResponseBody => "the answer is larger than this service may send",
            Limit::Rate => "more requests than the rate limit lets in",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_number_and_its_name() {
        let names: std::collections::BTreeSet<_> = Limit::ALL.iter().map(|l| l.as_str()).collect();
        assert_eq!(names.len(), COUNT);
        for (at, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, at);
            assert!(limit.status().as_u16() >= 400);
        }
    }
}
