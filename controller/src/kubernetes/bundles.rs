//! By whom the API server knows this controller: the `caBundle` of the webhook and of the metrics' `APIService`, which follows the
//! mesh's own authority when its roots change.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::injection::Injection;

/// The webhook's object.
pub const WEBHOOK: &str = "isobar-injection";
/// The metrics' object.
pub const METRICS: &str = "v1beta1.external.metrics.k8s.io";
/// Longest wait for one answer of the API server.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How often the objects are looked at: somebody may apply them anew.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How soon after one could not be brought up to date.
const LOOK_RETRY: Duration = Duration::from_secs(5);

/// Keeps both up to date, until the signal.
pub(super) async fn keep(client: Client, authority: Arc<Authority>, signal: CancellationToken) {
    let mut trust = authority.trust();
    loop {
        trust.mark_unchanged();
        let wait = match roots_pem(&authority) {
            Some(roots) => bring_up_to_date(&client, &roots).await,
            None => LOOK_RETRY,
        };
        tokio::select! {
            () = signal.cancelled() => return,
            // The authority lives as long as this task.
            _ = trust.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// The roots, PEM.
pub(super) fn roots_pem(authority: &Authority) -> Option<String> {
    let roots = authority.roots().ok()?;
    let pem = roots
        .iter()
        .map(|root| pem::encode(&pem::Pem::new("CERTIFICATE", root.to_vec())));
    Some(pem.collect())
}

/// With the roots of now.
pub(super) fn with_roots(injection: &Injection, authority: &Authority) -> Injection {
    Injection {
        roots_pem: roots_pem(authority),
        ..injection.clone()
    }
}

async fn bring_up_to_date(client: &Client, roots: &str) -> Duration {
    let bundle = ByteString(roots.as_bytes().to_vec());
    // Bytes always have a JSON form.
    let bundle = serde_json::to_value(bundle).unwrap_or_default();
    let webhook = (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        WEBHOOK,
    );
    let metrics = (
        "apiregistration.k8s.io",
        "APIService",
        "apiservices",
        METRICS,
    );
    let mut wait = LOOK_INTERVAL;
    for (group, kind, plural, name) in [webhook, metrics] {
        let gvk = GroupVersionKind::gvk(group, "v1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let tried = timeout(ANSWER_MAX, write(&api, name, &bundle)).await;
        match tried {
            Ok(Ok(())) => {}
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                tracing::debug!(kind, name, "is not installed");
            }
            Ok(Err(error)) => {
                tracing::warn!(kind, name, %error, "the roots by which the API server knows this controller were not written");
                wait = LOOK_RETRY;
            }
            Err(_) => wait = LOOK_RETRY,
        }
    }
    wait
}

async fn write(api: &Api<DynamicObject>, name: &str, bundle: &Value) -> Result<(), kube::Error> {
    let object = api.get(name).await?;
    let Some(mut patch) = patch(&object.data, bundle) else {
        return Ok(());
    };
    patch["metadata"] = json!({"resourceVersion": object.metadata.resource_version});
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    tracing::info!(name, "the API server knows this controller by its roots");
    Ok(())
}

/// What brings an object up to date; none when it is.
fn patch(object: &Value, bundle: &Value) -> Option<Value> {
    if let Some(webhooks) = object["webhooks"].as_array() {
        let mut next = webhooks.clone();
        next.iter_mut()
            .for_each(|webhook| webhook["clientConfig"]["caBundle"] = bundle.clone());
        return (next != *webhooks).then(|| json!({"webhooks": next}));
    }
    let is = object["spec"]["caBundle"] == *bundle;
    (!is).then(|| json!({"spec": {"caBundle": bundle, "insecureSkipTLSVerify": null}}))
}
