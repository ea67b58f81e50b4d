//! What every request says beside its body: who asks, query parameters, preconditions.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Query};
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};

use crate::control_task::{Etag, Expect};
use crate::problem::{FieldProblem, Problem};

/// Who sends a request; a layer before the routes says so.
#[derive(Debug, Clone)]
pub struct Caller(pub String);

/// Who it is when nobody was asked.
const ANYBODY: &str = "anonymous";

/// A request without its body.
pub(super) struct Call {
    pub who: String,
    pub headers: HeaderMap,
    query: Result<Vec<(String, String)>, ()>,
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Call, Infallible> {
        let caller = parts.extensions.get::<Caller>();
        let query = Query::try_from_uri(&parts.uri);
        Ok(Call {
            who: caller.map_or_else(|| ANYBODY.to_owned(), |caller| caller.0.clone()),
            headers: parts.headers.clone(),
            query: query.map(|Query(pairs)| pairs).map_err(|_| ()),
        })
    }
}

/// Query parameters, each known and there at most once.
pub(super) struct Parameters(Vec<(String, String)>);

impl Call {
    /// The query parameters; one that is not in `known` is refused by name.
    ///
    /// # Errors
    /// Unknown, given twice, or not readable (400).
    pub fn parameters(&self, known: &[&str]) -> Result<Parameters, Problem> {
        let wrong = |detail: String| Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        let Ok(pairs) = &self.query else {
            return wrong("the query is not name=value pairs in UTF-8".to_owned());
        };
        for (at, (name, _)) in pairs.iter().enumerate() {
            let short: String = name.chars().take(64).collect();
            if !known.contains(&name.as_str()) {
                let known = match known {
                    [] => "there are none here".to_owned(),
                    known => format!("there are {}", known.join(", ")),
                };
                return wrong(format!("there is no parameter {short:?}; {known}"));
            }
            if pairs[..at].iter().any(|(other, _)| other == name) {
                return wrong(format!("the parameter {short:?} is given twice"));
            }
        }
        Ok(Parameters(pairs.clone()))
    }

    /// What the preconditions ask for.
    ///
    /// # Errors
    /// `If-Match` or `If-None-Match` that cannot be read, or both (400).
    pub fn expect(&self) -> Result<Expect, Problem> {
        let wrong = |detail| Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        match (self.header(IF_MATCH)?, self.header(IF_NONE_MATCH)?) {
            (None, None) => Ok(Expect::Anything),
            (Some("*"), None) => Ok(Expect::Present),
            (Some(tags), None) => {
                let tag = |text: &str| Etag::parse(text.trim());
                let tags: Option<Vec<Etag>> = tags.split(',').map(tag).collect();
                match tags {
                    Some(tags) => Ok(Expect::OneOf(tags)),
                    None => wrong("If-Match must be \"*\" or what an ETag header said"),
                }
            }
            (None, Some("*")) => Ok(Expect::Absent),
            (None, Some(_)) => wrong("If-None-Match must be \"*\" for a write"),
            (Some(_), Some(_)) => wrong("give If-Match or If-None-Match, not both"),
        }
    }

    fn header(&self, name: HeaderName) -> Result<Option<&str>, Problem> {
        let value = self.headers.get(&name).map(|value| value.to_str());
        let unreadable = |_| {
            let detail = format!("the header {name} is not readable");
            Problem::new(StatusCode::BAD_REQUEST, detail)
        };
        value.transpose().map_err(unreadable)
    }
}

impl Parameters {
    /// The value of one.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// `true` or `false`; `false` when it is not there.
    ///
    /// # Errors
    /// Anything else (400).
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(refused(name, "must be true or false")),
        }
    }

    /// A value of some type.
    ///
    /// # Errors
    /// It is none; `what` says what it must be (400).
    pub fn parsed<T: std::str::FromStr>(
        &self,
        name: &str,
        what: &str,
    ) -> Result<Option<T>, Problem> {
        let value = self.get(name).map(str::parse);
        value.transpose().map_err(|_| refused(name, what))
    }
}

/// A parameter that cannot be used.
pub(super) fn refused(name: &str, detail: &str) -> Problem {
    Problem {
        status: StatusCode::BAD_REQUEST,
        detail: format!("the parameter {name} {detail}"),
        fields: vec![FieldProblem::new(format!("?{name}"), detail)],
    }
}
