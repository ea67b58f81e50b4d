//! Enrolment: a certificate for a proxy's own key.
//!
//! | a proxy shows | and gets a certificate when |
//! |---|---|
//! | its certificate, and an empty token | that is the node it asks for |
//! | a token (`enrol_…`) | the token is for that node, in time, and not used up |
//! | its last re-enrolment credential (`renewal_…`) | it is within the grace period |
//! | a token of its pod's service account, where the controller follows a cluster | the API server says that it is that pod's |
//!
//! Either way the certificate is for the node it asked for and for no other. It is a workload's where the token is one of a pod's
//! account or bound to a workload, and stays that workload's when it is renewed; no request says whose. Ten wrong secrets for one token from one
//! address, and that address is not heard about that token for a while.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use isobar_mesh_api::enrol::{ENROL_LEN_MAX, EnrolRequest};
use isobar_mesh_api::message::Certificate;
use isobar_mesh_api::names::{AccountName, NodeId};

use super::{Body, Peer, StreamPort};
use crate::authority::AuthorityError;
use crate::control_task;
use crate::enrolled::{self, Given, RenewalError};
use crate::guesses::Guesses;
use crate::problem::{FieldProblem, Problem, status_of};
use crate::refusals::Door;
use crate::resource_text::{Key, Kind, is_of_cluster};
use crate::secret::Claim;
use crate::store::StoreError;
use crate::tokens::{self, Bound, TokenError};

/// Who was wrong about which token.
pub struct Guessed {
    guesses: Mutex<Guesses>,
    began: Instant,
}

impl Default for Guessed {
    fn default() -> Guessed {
        Guessed {
            guesses: Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Guessed {
    fn may_try(&self, address: IpAddr, id: &str) -> bool {
        self.lock().may_try(address, id, self.began.elapsed())
    }

    fn on_wrong(&self, address: IpAddr, id: &str) {
        self.lock().on_wrong(address, id, self.began.elapsed());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Guesses> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose an account's token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfPod {
    /// The one node that a proxy with this token may be: that of the pod.
    pub node: NodeId,
    /// The account that the pod runs as.
    pub account: AccountName,
}

/// The answer about an account's token.
pub type BoxedPod<'a> = Pin<Box<dyn Future<Output = Result<OfPod, AccountError>> + Send + 'a>>;

/// Who vouches for tokens of the platform's own accounts.
pub trait Accounts: Send + Sync {
    /// Which pod this token is of, and which account it runs as.
    fn pod_of<'a>(&'a self, token: &'a str) -> BoxedPod<'a>;
}

/// Why an account's token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// It is nobody's, has ended, or is for somebody else to hear.
    #[error("the account's token is not one, has expired, or is not for the audience isobar")]
    Wrong,
    /// It is somebody's and not a pod's.
    #[error("the account's token is bound to no pod; mount a projected serviceAccountToken")]
    NotOfPod,
    /// Its namespace or name is none that an identity can have.
    #[error("the account's or its pod's name is not one that a certificate can have")]
    Odd,
    /// Nobody can say.
    #[error("the Kubernetes API does not say now whose token it is; it is tried again")]
    Away,
}

/// Under which name wrong tokens of accounts are counted.
const ACCOUNT: &str = "account";

/// What a proxy has shown.
enum Shown<'a> {
    Account(AccountName),
    Certificate(Option<AccountName>),
    Token(Claim<'a>, Bound),
    Renewal(Claim<'a>, Option<AccountName>),
}

impl Shown<'_> {
    /// The workload that the certificate is for; `None`: it is the node's own.
    fn account(&self) -> Option<&AccountName> {
        match self {
            Shown::Account(account) => Some(account),
            Shown::Certificate(account) | Shown::Renewal(_, account) => account.as_ref(),
            Shown::Token(_, bound) => bound.workload.as_ref(),
        }
    }
}

/// Answers one enrolment.
///
/// # Errors
/// Body too long (413), not an enrolment (400), wrong token or node (403), guessing (429), unsound request (422).
pub(super) async fn enrol(
    port: &StreamPort,
    request: Request<Incoming>,
    peer: &Peer,
) -> Result<Response<Body>, Problem> {
    let ask = read(request.into_body()).await?;
    let now = SystemTime::now();
    let granted = grant(port, &ask, peer, now).await;
    let (certificate, shown) = granted.inspect_err(|problem| {
        tracing::warn!(node = %ask.node, address = %peer.address, reason = problem.detail, "an enrolment was refused");
        let what = format!("a certificate for {}", ask.node);
        port.refused(Door::Enrolment, peer, what, problem);
    })?;
    let by = match shown {
        Shown::Certificate(_) => "its certificate",
        Shown::Account(_) => "its pod's account",
        Shown::Token(..) => "a token",
        Shown::Renewal(..) => "its re-enrolment credential",
    };
    let account = shown.account().map(AccountName::as_str);
    tracing::info!(node = %ask.node, account, by, "a certificate was issued");
    answer(&certificate)
}

/// The certificate, and what it is given for.
async fn grant<'a>(
    port: &StreamPort,
    ask: &'a EnrolRequest,
    peer: &Peer,
    now: SystemTime,
) -> Result<(Certificate, Shown<'a>), Problem> {
    let shown = shown(port, ask, peer, now).await?;
    // Before the token is used: a request that cannot be signed costs no use.
    let (authority, csr) = (&port.authority, &ask.csr_pem);
    let issued = match shown.account() {
        Some(account) => authority.issue_workload(&ask.node, account, csr, now),
        None => authority.issue_node(&ask.node, csr, now),
    };
    let mut certificate = issued.map_err(unsound)?;
    certificate.renewal = Some(register(port, ask, &shown, now).await?);
    Ok((certificate, shown))
}

/// What the proxy shows, if it may have a certificate for that.
async fn shown<'a>(
    port: &StreamPort,
    ask: &'a EnrolRequest,
    peer: &Peer,
    now: SystemTime,
) -> Result<Shown<'a>, Problem> {
    if ask.token.is_empty() && peer.node.as_ref() == Some(&ask.node) {
        // What was a workload's stays it, also where a controller passed on no more than the node.
        let account = peer.account.clone();
        let account = account.or_else(|| port.enrolled.account(&ask.node));
        return Ok(Shown::Certificate(account));
    }
    let no = |detail: String| Problem::new(StatusCode::FORBIDDEN, detail);
    if let Some(claim) = Claim::read(enrolled::KIND, &ask.token) {
        guarded(port, peer, claim, || {
            let checked = port.enrolled.check(claim, &ask.node, now);
            let is_wrong = matches!(checked, Err(RenewalError::Wrong));
            (checked.map_err(|error| no(error.to_string())), is_wrong)
        })?;
        return Ok(Shown::Renewal(claim, port.enrolled.account(&ask.node)));
    }
    if let Some(accounts) = port.accounts.as_deref().filter(|_| is_jwt(&ask.token)) {
        return of_account(port, accounts, ask, peer).await;
    }
    let Some(claim) = Claim::read(tokens::KIND, &ask.token) else {
        return Err(no(
            "the token is not one, or no valid certificate of this node was shown".to_owned(),
        ));
    };
    let bound = guarded(port, peer, claim, || {
        let looked = port.tokens.look(claim, now);
        let is_wrong = matches!(looked, Err(TokenError::Wrong)) && port.tokens.has(claim.id);
        (looked.map_err(|error| no(error.to_string())), is_wrong)
    })?;
    let labels = match bound.labels.is_empty() {
        true => BTreeMap::new(),
        false => labels(port, ask).await?,
    };
    let checked = bound.check(&ask.node, ask.site.as_ref(), &labels);
    checked.map_err(|error| no(error.to_string()))?;
    Ok(Shown::Token(claim, bound))
}

/// Three parts with points between, the first the beginning of a JSON object in base64.
fn is_jwt(token: &str) -> bool {
    token.starts_with("ey") && token.trim().matches('.').count() == 2
}

/// Asks the platform whose token it is.
async fn of_account<'a>(
    port: &StreamPort,
    accounts: &dyn Accounts,
    ask: &EnrolRequest,
    peer: &Peer,
) -> Result<Shown<'a>, Problem> {
    if !port.guessed.may_try(peer.address, ACCOUNT) {
        let detail = "too many wrong tokens from this address; wait a minute";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
    }
    match accounts.pod_of(ask.token.trim()).await {
        Ok(pod) if pod.node == ask.node => {
            // Names of machines may have points in them; a pod is none of them.
            let found = declared(port, ask).await?;
            match found.is_some_and(|node| is_of_cluster(&node.resource)) {
                false => Ok(Shown::Account(pod.account)),
                true => {
                    let detail = format!(
                        "{} is the name of a node of the cluster; name the pod or its namespace otherwise",
                        ask.node
                    );
                    Err(Problem::new(StatusCode::FORBIDDEN, detail))
                }
            }
        }
        Ok(pod) => {
            let detail = format!("the account's token is for the node {}", pod.node);
            Err(Problem::new(StatusCode::FORBIDDEN, detail))
        }
        Err(error @ AccountError::Away) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            error.to_string(),
        )),
        Err(error) => {
            port.guessed.on_wrong(peer.address, ACCOUNT);
            Err(Problem::new(StatusCode::FORBIDDEN, error.to_string()))
        }
    }
}

/// Checks a secret unless the address has guessed too often.
fn guarded<T>(
    port: &StreamPort,
    peer: &Peer,
    claim: Claim<'_>,
    check: impl FnOnce() -> (Result<T, Problem>, bool),
) -> Result<T, Problem> {
    if !port.guessed.may_try(peer.address, claim.id) {
        return Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many wrong secrets for this token from this address; wait a minute",
        ));
    }
    let (checked, is_wrong) = check();
    if is_wrong {
        port.guessed.on_wrong(peer.address, claim.id);
    }
    checked
}

/// Labels of the declared node; none when it is not declared.
async fn labels(
    port: &StreamPort,
    ask: &EnrolRequest,
) -> Result<BTreeMap<String, String>, Problem> {
    let found = declared(port, ask).await?;
    Ok(found.map_or_else(BTreeMap::new, |node| {
        node.resource.metadata().labels.clone()
    }))
}

/// The node that is asked for, as it is declared or describes itself.
async fn declared(
    port: &StreamPort,
    ask: &EnrolRequest,
) -> Result<Option<control_task::Shown>, Problem> {
    let key = Key {
        kind: Kind::Node,
        name: ask.node.to_string(),
    };
    Ok(port.control.get(key).await?)
}

/// Uses the token up and makes the next re-enrolment credential.
async fn register(
    port: &StreamPort,
    ask: &EnrolRequest,
    shown: &Shown<'_>,
    now: SystemTime,
) -> Result<String, Problem> {
    let mut given = Given {
        account: shown.account().cloned(),
        ..Given::default()
    };
    let renewal = match shown {
        Shown::Token(claim, bound) => {
            let redeemed = port.tokens.redeem(*claim, now).await;
            redeemed.map_err(|error| match error {
                TokenError::Store(cause) => not_stored(&cause),
                TokenError::Random(_) => failed(&error),
                refused => Problem::new(StatusCode::FORBIDDEN, refused.to_string()),
            })?;
            given.site = bound.site.clone();
            None
        }
        Shown::Renewal(claim, _) => Some(*claim),
        Shown::Certificate(_) | Shown::Account(_) => None,
    };
    let issued = port.enrolled.issue(&ask.node, given, renewal, now).await;
    issued.map_err(|error| match error {
        RenewalError::Store(cause) => not_stored(&cause),
        error => failed(&error),
    })
}

/// The controller remembers whom it gave what, or gives nothing.
fn not_stored(error: &StoreError) -> Problem {
    tracing::error!(%error, "an enrolment was not stored");
    let detail =
        "no certificate can be issued now, for the enrolment could not be stored; try again later";
    Problem::new(status_of(error), detail)
}

fn answer(certificate: &Certificate) -> Result<Response<Body>, Problem> {
    let bytes = serde_json::to_vec(certificate).map_err(|error| failed(&error))?;
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(bytes))));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

async fn read(body: Incoming) -> Result<EnrolRequest, Problem> {
    let collected = Limited::new(body, ENROL_LEN_MAX).collect().await;
    let bytes = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("an enrolment has at most {ENROL_LEN_MAX} bytes"),
        ),
        false => Problem::new(StatusCode::BAD_REQUEST, "the body ended early"),
    })?;
    serde_json::from_slice(&bytes.to_bytes()).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            format!("not an enrolment: {error}"),
        )
    })
}

fn unsound(error: AuthorityError) -> Problem {
    match error {
        AuthorityError::Request(_) | AuthorityError::RequestAsks(_) => {
            FieldProblem::new("#/csr_pem", error.to_string()).into()
        }
        AuthorityError::NodeName(_) => FieldProblem::new("#/node", error.to_string()).into(),
        AuthorityError::Reserved(_) => Problem::new(StatusCode::FORBIDDEN, error.to_string()),
        error => failed(&error),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Problem {
    tracing::error!(error, "no certificate could be issued");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "no certificate could be issued; the controller's log says why",
    )
}
