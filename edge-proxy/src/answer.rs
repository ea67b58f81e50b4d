//! The proxy's own answers: every status code that it chooses, in one place.
//!
//! Bodies are `application/problem+json` (RFC 9457). What a client reads says
//! what happened and who should act, never an address inside the mesh.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};

use crate::body::ResponseBody;
use crate::golden::Outcome;
use crate::headers;
use crate::http1::fault::Fault;
use crate::limit::Limit;
use crate::route::fault::Failure;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Longest time that a shed client is told to stay away, in seconds.
pub const RETRY_AFTER_S_MAX: u64 = 30;

/// Why the proxy answers by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// No service has this host name.
    UnknownHost,
    /// The service has no endpoint here and none elsewhere that may be asked.
    NoEndpoint,
    /// Nobody has room.
    Shed {
        /// Expected time until there is, in microseconds.
        wait_us: u64,
    },
    /// An endpoint could not be reached or broke off before it answered.
    Upstream,
    /// A moved request was not taken; its body cannot be sent again.
    NotTaken,
    /// To a peer: its credit is used up.
    RefusedCredit,
    /// To a peer: this node is full.
    RefusedFull,
    /// To a peer: the headers say another home than the certificate, or a second hop.
    ForeignHome,
    /// To a peer: not a request of the mesh.
    NotOfMesh,
    /// A method that a gateway does not forward (`CONNECT`).
    Method,
    /// What the client sent is not exactly a request.
    Refused(Fault),
    /// A limit refused or ended it.
    Limited {
        /// Which.
        limit: Limit,
        /// Time until it may be otherwise, in microseconds; 0 = who knows.
        wait_us: u64,
    },
    /// The host has routes, and none fits.
    NoRule,
    /// The path means one thing here and perhaps another at the endpoint.
    Path,
    /// The rule has no backend, or one that does not exist.
    NoBackend,
    /// A failure made on purpose.
    Failure(Failure),
    /// An access policy refuses it.
    Denied,
    /// It needs a token that is believed.
    Unauthenticated,
}

impl Answer {
    /// A limit's answer when time does not mend it.
    pub fn limited(limit: Limit) -> Answer {
        Answer::Limited { limit, wait_us: 0 }
    }

    /// Whether it is about the call itself, wherever it is served: a peer passes it on.
    pub fn is_judgement(self) -> bool {
        matches!(
            self,
            Answer::Denied | Answer::Unauthenticated | Answer::Path
        )
    }

    /// Whether nobody was given the request, so that somebody else may be.
    pub fn was_not_tried(self) -> bool {
        match self {
            Answer::Shed { .. } | Answer::NoEndpoint => true,
            Answer::Limited { limit, .. } => limit == Limit::Circuit,
            _ => false,
        }
    }

    /// The status code.
    pub fn status(self) -> StatusCode {
        match self {
            Answer::UnknownHost => StatusCode::NOT_FOUND,
            Answer::Upstream => StatusCode::BAD_GATEWAY,
            Answer::ForeignHome | Answer::Denied => StatusCode::FORBIDDEN,
            Answer::Unauthenticated => StatusCode::UNAUTHORIZED,
            Answer::NotOfMesh => StatusCode::BAD_REQUEST,
            Answer::Method => StatusCode::METHOD_NOT_ALLOWED,
            Answer::Limited { limit, .. } => limit.status(),
            Answer::NoRule => StatusCode::NOT_FOUND,
            Answer::Path => StatusCode::BAD_REQUEST,
            Answer::NoBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Answer::Failure(failure) => failure.status,
            Answer::Refused(fault) => match fault {
                Fault::HeadTooLong | Fault::TooManyHeaders => {
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
                }
                Fault::HeadTimeout | Fault::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
                Fault::CodingUnknown => StatusCode::NOT_IMPLEMENTED,
                Fault::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                _ => StatusCode::BAD_REQUEST,
            },
            Answer::NoEndpoint
            | Answer::Shed { .. }
            | Answer::NotTaken
            | Answer::RefusedCredit
            | Answer::RefusedFull => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What it means for the request.
    pub fn outcome(self) -> Outcome {
        match self {
            Answer::Shed { .. } | Answer::NoEndpoint => Outcome::Shed,
            Answer::Upstream | Answer::NotTaken | Answer::NoBackend => Outcome::Failed,
            Answer::Limited { limit, .. } => match limit {
                Limit::RequestHead | Limit::RequestBody | Limit::Rate => Outcome::Refused,
                _ => Outcome::Failed,
            },
            Answer::Failure(_) => Outcome::Route,
            _ => Outcome::Refused,
        }
    }

    /// What it says, in words.
    pub fn title(self) -> &'static str {
        match self {
            Answer::UnknownHost => "no service has this host name",
            Answer::NoEndpoint => "the service has no endpoint",
            Answer::Shed { .. } => "the service is overloaded everywhere near",
            Answer::Upstream => "the endpoint could not be reached or broke off",
            Answer::NotTaken => "the request was not taken and cannot be sent again",
            Answer::RefusedCredit => "beyond the credit of this home",
            Answer::RefusedFull => "this node is full",
            Answer::ForeignHome => "the request's home is not the peer's identity",
            Answer::NotOfMesh => "not a request between proxies",
            Answer::Method => "this method is not forwarded",
            Answer::Limited { limit, .. } => limit.title(),
            Answer::Refused(fault) => fault.title(),
            Answer::NoRule => "no route fits this request",
            Answer::Path => "the path is ambiguous",
            Answer::NoBackend => "the route has no such backend",
            Answer::Failure(_) => "a failure made on purpose",
            Answer::Denied => "this is not allowed",
            Answer::Unauthenticated => "a valid token is needed",
        }
    }

    /// The whole response to a client, who may speak gRPC.
    pub fn to(self, grpc: bool) -> Response<ResponseBody> {
        match grpc {
            true => self.trailers_only(),
            false => self.response(),
        }
    }

    /// gRPC's answer without messages: status and trailers in one head (gRPC over HTTP/2, "Responses").
    fn trailers_only(self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::answer(Bytes::new(), self));
        let head = response.headers_mut();
        head.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.insert(GRPC_STATUS, HeaderValue::from(self.grpc_status()));
        // Titles have no character that would be escaped.
        head.insert(GRPC_MESSAGE, HeaderValue::from_static(self.title()));
        response
    }

    /// What a gRPC client is told. Where nothing else is said, as gRPC maps statuses ("HTTP to gRPC Status Code
    /// Mapping").
    fn grpc_status(self) -> u16 {
        if let Answer::Failure(Failure {
            grpc: Some(status), ..
        }) = self
        {
            return status.into();
        }
        match self.status() {
            StatusCode::BAD_REQUEST => 13,
            StatusCode::UNAUTHORIZED => 16,
            StatusCode::FORBIDDEN => 7,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => 12,
            // The limits are this client's own: it shall not try again at once.
            StatusCode::TOO_MANY_REQUESTS => 8,
            StatusCode::PAYLOAD_TOO_LARGE => 8,
            StatusCode::INTERNAL_SERVER_ERROR => 13,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => 4,
            _ => 2,
        }
    }

    /// The whole response.
    pub fn response(self) -> Response<ResponseBody> {
        let status = self.status();
        let body = format!(
            "{{\"type\":\"about:blank\",\"status\":{},\"title\":\"{}\"}}\n",
            status.as_u16(),
            self.title()
        );
        let mut response = Response::new(ResponseBody::answer(Bytes::from(body), self));
        *response.status_mut() = status;
        let head = response.headers_mut();
        let problem = HeaderValue::from_static("application/problem+json");
        head.insert(CONTENT_TYPE, problem);
        match self {
            Answer::Shed { wait_us }
            | Answer::Limited {
                limit: Limit::Circuit | Limit::Rate,
                wait_us,
            } => {
                let wait_s = wait_us.div_ceil(1_000_000).clamp(1, RETRY_AFTER_S_MAX);
                head.insert(RETRY_AFTER, HeaderValue::from(wait_s));
            }
            Answer::NoEndpoint | Answer::NotTaken => {
                head.insert(RETRY_AFTER, HeaderValue::from(1));
            }
            Answer::RefusedCredit => {
                head.insert(headers::REFUSED, HeaderValue::from_static("credit"));
            }
            Answer::RefusedFull => {
                head.insert(headers::REFUSED, HeaderValue::from_static("full"));
            }
            Answer::Unauthenticated => {
                head.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shed_clients_are_told_when_to_return() {
        let cases = [(0, "1"), (1_500_000, "2"), (u64::MAX, "30")];
        for (wait_us, expected) in cases {
            let response = Answer::Shed { wait_us }.response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[RETRY_AFTER], expected);
            assert!(!response.headers().contains_key(headers::REFUSED));
        }
    }

    #[test]
    fn a_grpc_client_is_told_in_its_own_words() {
        let failure = |grpc| {
            Answer::Failure(Failure {
                status: StatusCode::TOO_MANY_REQUESTS,
                grpc,
            })
        };
        let cases = [
            (Answer::UnknownHost, "12"),
            (Answer::Shed { wait_us: 1 }, "14"),
            (Answer::Upstream, "14"),
            (Answer::limited(Limit::RequestTimeout), "4"),
            (Answer::limited(Limit::Rate), "8"),
            (Answer::NoBackend, "13"),
            (failure(None), "8"),
            (failure(Some(10)), "10"),
        ];
        for (answer, status) in cases {
            let response = answer.to(true);
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
            assert_eq!(response.headers()[GRPC_STATUS], status, "{answer:?}");
            assert_eq!(response.headers()[GRPC_MESSAGE], answer.title());
            assert_ne!(answer.to(false).status(), 200);
        }
    }
}
