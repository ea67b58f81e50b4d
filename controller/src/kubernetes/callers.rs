//! Who asks for metrics, and whose account a proxy's token is of: both are the API server's word.
//!
//! ```text
//! client certificate of the API server's front proxy ─▶ let in: the API server has asked and authorised the caller
//! bearer token ─▶ TokenReview: whose is it? ─▶ SubjectAccessReview: may they? ─▶ let in
//! a proxy's token (audience isobar) ─▶ TokenReview: of which pod and account? ─▶ a certificate for these
//! ```

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use isobar_mesh_api::names::{AccountName, NodeId};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::load;
use crate::authority::crypto;
use crate::injection::AUDIENCE;
use crate::stream::{AccountError, Accounts, BoxedPod, OfPod};

/// Longest wait for one answer of the API server.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Most reviews at a time; further callers are told to come back.
const REVIEWS_MAX: usize = 16;
/// Longest token, in bytes.
const TOKEN_LEN_MAX: usize = 12 * 1024;
/// How often it is read by whom the front proxy is known.
const FRONT_INTERVAL: Duration = Duration::from_secs(60);
/// How soon after it could not be read.
const FRONT_RETRY: Duration = Duration::from_secs(5);
/// The namespace and name of the `ConfigMap` that says so.
const FRONT_MAP: (&str, &str) = ("kube-system", "extension-apiserver-authentication");
/// Where a review says which pod a token is of.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// What the names of service accounts begin with.
const ACCOUNT: &str = "system:serviceaccount:";

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    /// Nothing was shown, or nothing that is believed.
    #[error(
        "show a client certificate of the API server's front proxy, or a bearer token of this cluster"
    )]
    Unknown,
    /// Known, and may not.
    #[error("{0} may not get {1} of {group}", group = load::GROUP)]
    Forbidden(String, String),
    /// Too many at a time, or the API server is away.
    #[error("the Kubernetes API cannot be asked now")]
    Away,
}

/// By whom the front proxy's certificate is signed, and what names it may have.
struct Front {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Any when there are none.
    names: Vec<String>,
}

/// Asks the API server who callers are.
pub(super) struct Callers {
    client: Client,
    front: RwLock<Option<Front>>,
    reviews: Semaphore,
}

impl Callers {
    pub fn new(client: Client) -> Callers {
        Callers {
            client,
            front: RwLock::new(None),
            reviews: Semaphore::new(REVIEWS_MAX),
        }
    }

    /// Keeps up by whom the front proxy is known, until the signal.
    pub async fn keep(&self, signal: &CancellationToken) {
        loop {
            let wait = match timeout(ANSWER_MAX, self.read_front()).await {
                Ok(Ok(front)) => {
                    *self.front.write().unwrap_or_else(PoisonError::into_inner) = front;
                    FRONT_INTERVAL
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "how the API server's front proxy is known cannot be read; who was known stays known");
                    FRONT_RETRY
                }
                Err(_) => FRONT_RETRY,
            };
            tokio::select! {
                () = signal.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// None where the cluster has no front proxy.
    async fn read_front(&self) -> Result<Option<Front>, kube::Error> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), FRONT_MAP.0);
        let data = maps.get(FRONT_MAP.1).await?.data.unwrap_or_default();
        let text = |key: &str| data.get(key).map_or("", String::as_str);
        let mut roots = RootCertStore::empty();
        let certificates =
            CertificateDer::pem_slice_iter(text("requestheader-client-ca-file").as_bytes());
        let (added, _) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
        if added == 0 {
            return Ok(None);
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(crypto()));
        let names = serde_json::from_str(text("requestheader-allowed-names"));
        Ok(builder.build().ok().map(|verifier| Front {
            verifier,
            names: names.unwrap_or_default(),
        }))
    }

    /// Whether a chain is the front proxy's.
    fn is_front(&self, chain: &[CertificateDer<'_>]) -> bool {
        let front = self.front.read().unwrap_or_else(PoisonError::into_inner);
        let (Some(front), Some((leaf, above))) = (front.as_ref(), chain.split_first()) else {
            return false;
        };
        let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else {
            return false;
        };
        let now = UnixTime::since_unix_epoch(now);
        let is_signed = front.verifier.verify_client_cert(leaf, above, now).is_ok();
        is_signed
            && (front.names.is_empty()
                || common_name(leaf).is_some_and(|name| front.names.contains(&name)))
    }

    /// Lets in who may read metrics of a namespace.
    pub async fn check(
        &self,
        chain: &[CertificateDer<'_>],
        token: Option<&str>,
        namespace: &str,
        metric: &str,
    ) -> Result<(), Denied> {
        if self.is_front(chain) {
            return Ok(());
        }
        let token = token.ok_or(Denied::Unknown)?;
        let user = self.review(token, None).await?.ok_or(Denied::Unknown)?;
        let name = user.username.clone().unwrap_or_default();
        let attributes = ResourceAttributes {
            group: Some(load::GROUP.to_owned()),
            namespace: Some(namespace.to_owned()),
            resource: Some(metric.to_owned()),
            verb: Some("get".to_owned()),
            version: Some(load::VERSION.to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SubjectAccessReviewSpec {
                groups: user.groups,
                user: user.username,
                uid: user.uid,
                extra: user.extra,
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            status: None,
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let asked = timeout(ANSWER_MAX, api.create(&PostParams::default(), &review)).await;
        let answered = asked
            .map_err(|_| Denied::Away)?
            .map_err(|error| away(&error))?;
        match answered.status.is_some_and(|status| status.allowed) {
            true => Ok(()),
            false => Err(Denied::Forbidden(name, metric.to_owned())),
        }
    }

    /// Whose a token is; none when it is nobody's.
    async fn review(
        &self,
        token: &str,
        audience: Option<&str>,
    ) -> Result<Option<UserInfo>, Denied> {
        if token.len() > TOKEN_LEN_MAX {
            return Ok(None);
        }
        let _permit = self.reviews.try_acquire().map_err(|_| Denied::Away)?;
        let audiences = audience.map(|audience| vec![audience.to_owned()]);
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec {
                audiences: audiences.clone(),
                token: Some(token.to_owned()),
            },
            status: None,
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let asked = timeout(ANSWER_MAX, api.create(&PostParams::default(), &review)).await;
        let answered = asked
            .map_err(|_| Denied::Away)?
            .map_err(|error| away(&error))?;
        let Some(status) = answered
            .status
            .filter(|status| status.authenticated == Some(true))
        else {
            return Ok(None);
        };
        // A server that does not know of audiences answers without; its word is not about ours.
        let is_for = |wanted: &[String]| {
            let had = status.audiences.as_deref().unwrap_or_default();
            wanted.iter().any(|one| had.contains(one))
        };
        Ok(status
            .user
            .clone()
            .filter(|_| audiences.as_deref().is_none_or(is_for)))
    }
}

fn away(error: &kube::Error) -> Denied {
    tracing::warn!(%error, "the Kubernetes API did not say who asks");
    Denied::Away
}

/// The name in a certificate's subject.
fn common_name(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let mut names = certificate.subject().iter_common_name();
    Some(names.next()?.as_str().ok()?.to_owned())
}

impl Accounts for Callers {
    /// The pod's name and namespace, as the proxy in it calls itself, and the account in that namespace.
    fn pod_of<'a>(&'a self, token: &'a str) -> BoxedPod<'a> {
        Box::pin(async move {
            let user = self.review(token, Some(AUDIENCE)).await;
            let user = user.map_err(|_| AccountError::Away)?;
            let user = user.ok_or(AccountError::Wrong)?;
            pod_of_user(user)
        })
    }
}

fn pod_of_user(user: UserInfo) -> Result<OfPod, AccountError> {
    let name = user.username.unwrap_or_default();
    let account = name
        .strip_prefix(ACCOUNT)
        .and_then(|name| name.split_once(':'));
    let (namespace, account) = account.ok_or(AccountError::NotOfPod)?;
    let pods = user.extra.unwrap_or_default().remove(POD_NAME);
    let pod = pods.and_then(|pods| pods.into_iter().next());
    let pod = pod.ok_or(AccountError::NotOfPod)?;
    let account = AccountName::new(&format!("{namespace}/{account}"));
    let node = NodeId::new(&format!("{pod}.{namespace}"));
    match (node, account) {
        (Ok(node), Ok(account)) => Ok(OfPod { node, account }),
        _ => Err(AccountError::Odd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_pods_account_is_and_what_is_no_account() {
        let of = |username: &str, pod: Option<&str>| {
            let pods = pod.map(|pod| (POD_NAME.to_owned(), vec![pod.to_owned()]));
            pod_of_user(UserInfo {
                username: Some(username.to_owned()),
                extra: Some(pods.into_iter().collect()),
                ..UserInfo::default()
            })
        };
        let front = of("system:serviceaccount:shop:front", Some("p-1")).unwrap();
        assert_eq!(
            (front.node.as_str(), front.account.as_str()),
            ("p-1.shop", "shop/front")
        );
        let odd = [
            ("system:serviceaccount:shop:front:admin", "p-1"),
            ("system:serviceaccount:shop:../../node/a", "p-1"),
            ("system:serviceaccount:shop/sa:front", "p-1"),
            ("system:serviceaccount:shop:Front", "p-1"),
            ("system:serviceaccount:shop:fr%6fnt", "p-1"),
            ("system:serviceaccount:shop:fr\u{f6}nt", "p-1"),
            ("system:serviceaccount:shop:front\n", "p-1"),
            ("system:serviceaccount::front", "p-1"),
            ("system:serviceaccount:shop:", "p-1"),
            ("system:serviceaccount:shop:front", "p/1"),
        ];
        for (username, pod) in odd {
            assert_eq!(
                of(username, Some(pod)),
                Err(AccountError::Odd),
                "{username:?} {pod}"
            );
        }
        let others = [
            ("system:serviceaccount:shop:front", None),
            ("system:node:edge-1", Some("p-1")),
            ("alice", Some("p-1")),
            ("", Some("p-1")),
        ];
        for (username, pod) in others {
            assert_eq!(
                of(username, pod),
                Err(AccountError::NotOfPod),
                "{username:?}"
            );
        }
    }
}
