//! Operators by Kubernetes: whose a token is (`TokenReview`), and what they may do (`SubjectAccessReview`).
//!
//! A token must be for the audience [`AUDIENCE`] (`kubectl create token NAME --audience isobar`), so that one that was sent here is
//! of no use at the Kubernetes API. What its owner may do is a rule of RBAC about the resource `mesh` of the group `isobar.dev`:
//!
//! | verb | the same as the role |
//! |---|---|
//! | `view` | viewer |
//! | `operate` | operator; in a namespace by a `RoleBinding` there |
//! | `administer` | admin |
//!
//! Answers are kept for [`KEPT`], so that a page of requests is one question; who lost a right has lost it after that.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::cluster::GROUP;
use crate::access::{Deed, Role};
use crate::rest::gate::{Review, Reviews};
use crate::secret::sha256;

/// Whom tokens must be for.
pub const AUDIENCE: &str = "isobar";
/// The resource of RBAC rules.
pub const RESOURCE: &str = "mesh";
/// How long an answer is gone by.
pub const KEPT: Duration = Duration::from_secs(2);
/// Most answers that are kept; then all are forgotten.
pub const KEPT_MAX: usize = 1024;
/// Longest that the API may take for one question.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The verb of RBAC rules for a role.
fn verb(role: Role) -> &'static str {
    match role {
        Role::Viewer => "view",
        Role::Operator => "operate",
        Role::Admin => "administer",
    }
}

/// Asks the Kubernetes API.
pub struct KubernetesReviews {
    client: Client,
    kept: Mutex<BTreeMap<(String, Deed), (Instant, Review)>>,
}

impl KubernetesReviews {
    /// Asks by this client, which may create both kinds of review (`system:auth-delegator`).
    pub fn new(client: Client) -> KubernetesReviews {
        KubernetesReviews {
            client,
            kept: Mutex::default(),
        }
    }

    async fn ask(&self, token: &str, deed: &Deed) -> Result<Review, kube::Error> {
        let Some(user) = self.user(token).await? else {
            return Ok(Review::Nobody);
        };
        let name = user.username.clone().unwrap_or_default();
        let verb = verb(deed.role);
        let asked = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    resource: Some(RESOURCE.to_owned()),
                    verb: Some(verb.to_owned()),
                    namespace: deed.namespace.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &asked).await?;
        let is_allowed = answer
            .status
            .is_some_and(|status| status.allowed && !status.denied.unwrap_or(false));
        if is_allowed {
            return Ok(Review::Allowed(name));
        }
        let place = match &deed.namespace {
            Some(namespace) => format!(" in namespace {namespace}"),
            None => " in the whole cluster".to_owned(),
        };
        let why = format!("Kubernetes does not let {name} {verb} {RESOURCE}.{GROUP}{place}");
        Ok(Review::Denied(name, why))
    }

    /// Whose token this is, if it is for [`AUDIENCE`].
    async fn user(&self, token: &str) -> Result<Option<UserInfo>, kube::Error> {
        let asked = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let answer = reviews.create(&PostParams::default(), &asked).await?;
        let Some(status) = answer.status else {
            return Ok(None);
        };
        // An API server that knows no audiences leaves the list away, and has not checked it.
        let audiences = status.audiences.unwrap_or_default();
        let is_ours = audiences.iter().any(|audience| audience == AUDIENCE);
        let is_known = status.authenticated.unwrap_or(false) && is_ours;
        let named = |user: &UserInfo| user.username.as_ref().is_some_and(|name| !name.is_empty());
        Ok(status.user.filter(named).filter(|_| is_known))
    }

    fn known(&self, key: &(String, Deed)) -> Option<Review> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, review) = kept.get(key)?;
        (at.elapsed() < KEPT).then(|| review.clone())
    }

    fn keep(&self, key: (String, Deed), review: &Review) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, (Instant::now(), review.clone()));
    }
}

impl Reviews for KubernetesReviews {
    fn review<'a>(
        &'a self,
        token: &'a str,
        deed: &'a Deed,
    ) -> Pin<Box<dyn Future<Output = Option<Review>> + Send + 'a>> {
        Box::pin(async move {
            let key = (sha256(token.as_bytes()), deed.clone());
            if let Some(review) = self.known(&key) {
                return Some(review);
            }
            match tokio::time::timeout(WAIT_MAX, self.ask(token, deed)).await {
                Ok(Ok(review)) => {
                    self.keep(key, &review);
                    Some(review)
                }
                Ok(Err(error)) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the Kubernetes API does not say whose a token is; may the controller create tokenreviews and \
                         subjectaccessreviews (system:auth-delegator)?"
                    );
                    None
                }
                Err(_) => {
                    tracing::error!("the Kubernetes API does not say in time whose a token is");
                    None
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
