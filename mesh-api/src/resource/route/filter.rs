//! What a route does to requests and answers besides choosing where they go.
//!
//! A filter is written as the Gateway API writes it, `type` and a field of the type's own name:
//!
//! ```yaml
//! filters:
//!   - type: RequestHeaderModifier
//!     requestHeaderModifier: { set: [{ name: x-env, value: test }] }
//!   - type: Fault            # ours
//!     fault: { delay: { duration: 200ms, percent: 10 } }
//! ```

use serde::{Deserialize, Serialize};

use super::{ServiceRef, Span};

/// One filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub enum HttpFilter {
    /// Changes the request's headers.
    RequestHeaderModifier(HeaderModifier),
    /// Changes the answer's headers.
    ResponseHeaderModifier(HeaderModifier),
    /// Answers with a redirect.
    RequestRedirect(RequestRedirect),
    /// Changes path or host.
    UrlRewrite(UrlRewrite),
    /// Sends a copy elsewhere.
    RequestMirror(RequestMirror),
    /// Delays or fails requests, to see what happens then.
    Fault(Fault),
}

/// A filter as it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Fields {
    #[serde(rename = "type")]
    kind: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_header_modifier: Option<HeaderModifier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_header_modifier: Option<HeaderModifier>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_redirect: Option<RequestRedirect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url_rewrite: Option<UrlRewrite>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_mirror: Option<RequestMirror>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Kind {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    RequestMirror,
    Fault,
}

impl TryFrom<Fields> for HttpFilter {
    type Error = String;
    fn try_from(mut fields: Fields) -> Result<HttpFilter, String> {
        use HttpFilter as F;
        let kind = fields.kind.take().ok_or("type is missing")?;
        let (name, filter) = match kind {
            Kind::RequestHeaderModifier => (
                "requestHeaderModifier",
                fields
                    .request_header_modifier
                    .take()
                    .map(F::RequestHeaderModifier),
            ),
            Kind::ResponseHeaderModifier => (
                "responseHeaderModifier",
                fields
                    .response_header_modifier
                    .take()
                    .map(F::ResponseHeaderModifier),
            ),
            Kind::RequestRedirect => (
                "requestRedirect",
                fields.request_redirect.take().map(F::RequestRedirect),
            ),
            Kind::UrlRewrite => ("urlRewrite", fields.url_rewrite.take().map(F::UrlRewrite)),
            Kind::RequestMirror => (
                "requestMirror",
                fields.request_mirror.take().map(F::RequestMirror),
            ),
            Kind::Fault => ("fault", fields.fault.take().map(F::Fault)),
        };
        let filter = filter.ok_or_else(|| format!("{name} is missing"))?;
        match fields.left_over() {
            Some(other) => Err(format!("{other} does not belong to a filter with {name}")),
            None => Ok(filter),
        }
    }
}

impl Fields {
    fn left_over(&self) -> Option<&'static str> {
        let given = [
            (
                "requestHeaderModifier",
                self.request_header_modifier.is_some(),
            ),
            (
                "responseHeaderModifier",
                self.response_header_modifier.is_some(),
            ),
            ("requestRedirect", self.request_redirect.is_some()),
            ("urlRewrite", self.url_rewrite.is_some()),
            ("requestMirror", self.request_mirror.is_some()),
            ("fault", self.fault.is_some()),
        ];
        given
            .iter()
            .find(|(_, given)| *given)
            .map(|(name, _)| *name)
    }
}

impl From<HttpFilter> for Fields {
    fn from(filter: HttpFilter) -> Fields {
        let mut fields = Fields::default();
        fields.kind = Some(match filter {
            HttpFilter::RequestHeaderModifier(modifier) => {
                fields.request_header_modifier = Some(modifier);
                Kind::RequestHeaderModifier
            }
            HttpFilter::ResponseHeaderModifier(modifier) => {
                fields.response_header_modifier = Some(modifier);
                Kind::ResponseHeaderModifier
            }
            HttpFilter::RequestRedirect(redirect) => {
                fields.request_redirect = Some(redirect);
                Kind::RequestRedirect
            }
            HttpFilter::UrlRewrite(rewrite) => {
                fields.url_rewrite = Some(rewrite);
                Kind::UrlRewrite
            }
            HttpFilter::RequestMirror(mirror) => {
                fields.request_mirror = Some(mirror);
                Kind::RequestMirror
            }
            HttpFilter::Fault(fault) => {
                fields.fault = Some(fault);
                Kind::Fault
            }
        });
        fields
    }
}

/// Changes of headers: first set, then add, then remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderModifier {
    /// Replaces every header of the name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Header>,
    /// Adds a value to those there are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Header>,
    /// Takes every header of the name away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name, in any case.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// An answer that sends the client elsewhere; what is absent stays as in the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RequestRedirect {
    /// The scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// The port; by default the scheme's own when there is a scheme, else the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "redirect_status_default")]
    pub status_code: u16,
}

fn redirect_status_default() -> u16 {
    302
}

/// A scheme that a redirect may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS.
    Https,
}

/// Another host or path for the request on its way to a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlRewrite {
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// How a path is changed. The query stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PathFields", into = "PathFields")]
pub enum PathModifier {
    /// This instead of the whole.
    ReplaceFullPath(String),
    /// This instead of the prefix that matched; only where every match of the rule is a `PathPrefix`.
    ReplacePrefixMatch(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PathFields {
    #[serde(rename = "type")]
    kind: PathKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replace_full_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replace_prefix_match: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum PathKind {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

impl TryFrom<PathFields> for PathModifier {
    type Error = String;
    fn try_from(fields: PathFields) -> Result<PathModifier, String> {
        let (full, prefix) = (fields.replace_full_path, fields.replace_prefix_match);
        match (fields.kind, full, prefix) {
            (PathKind::ReplaceFullPath, Some(path), None) => {
                Ok(PathModifier::ReplaceFullPath(path))
            }
            (PathKind::ReplacePrefixMatch, None, Some(path)) => {
                Ok(PathModifier::ReplacePrefixMatch(path))
            }
            (PathKind::ReplaceFullPath, ..) => {
                Err("type ReplaceFullPath wants replaceFullPath and nothing else".to_owned())
            }
            (PathKind::ReplacePrefixMatch, ..) => {
                Err("type ReplacePrefixMatch wants replacePrefixMatch and nothing else".to_owned())
            }
        }
    }
}

impl From<PathModifier> for PathFields {
    fn from(modifier: PathModifier) -> PathFields {
        match modifier {
            PathModifier::ReplaceFullPath(path) => PathFields {
                kind: PathKind::ReplaceFullPath,
                replace_full_path: Some(path),
                replace_prefix_match: None,
            },
            PathModifier::ReplacePrefixMatch(path) => PathFields {
                kind: PathKind::ReplacePrefixMatch,
                replace_full_path: None,
                replace_prefix_match: Some(path),
            },
        }
    }
}

/// A copy of some requests for another service; its answer is discarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RequestMirror {
    /// Who gets the copies.
    pub backend_ref: ServiceRef,
    /// Of a hundred requests, how many; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// The same as a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

/// A part of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fraction {
    /// How many.
    pub numerator: u32,
    /// Of how many.
    #[serde(default = "denominator_default")]
    pub denominator: u32,
}

fn denominator_default() -> u32 {
    100
}

/// Failures made on purpose. Both may be given; a delayed request may fail afterwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Waits before the request goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Answers with an error instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// A wait made on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultDelay {
    /// How long, up to [`super::FAULT_DELAY_MAX`].
    pub duration: Span,
    /// Of a hundred requests, how many; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// The same as a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

/// An error made on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct FaultAbort {
    /// The status, 400 to 599.
    #[serde(
        default = "abort_status_default",
        skip_serializing_if = "is_abort_status_default"
    )]
    pub http_status: u16,
    /// The status that a gRPC call gets, 1 to 16; by default what fits `http_status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// Of a hundred requests, how many; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// The same as a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

fn abort_status_default() -> u16 {
    503
}

fn is_abort_status_default(status: &u16) -> bool {
    *status == abort_status_default()
}

/// `percent` or `fraction` in parts per million, rounded to the nearest; without both, all.
pub fn share_ppm(percent: Option<u32>, fraction: Option<Fraction>) -> u32 {
    use crate::weight::WHOLE_PPM;
    let Fraction {
        numerator,
        denominator,
    } = match (percent, fraction) {
        (_, Some(fraction)) => fraction,
        (Some(percent), None) => Fraction {
            numerator: percent,
            denominator: 100,
        },
        (None, None) => return WHOLE_PPM,
    };
    let (part, whole) = (u64::from(numerator), u64::from(denominator.max(1)));
    let ppm = (part * u64::from(WHOLE_PPM) + whole / 2) / whole;
    u32::try_from(ppm).unwrap_or(u32::MAX).min(WHOLE_PPM)
}
