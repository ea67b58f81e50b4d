//! Mutating admission webhooks of our API server: those that are called by a URL, for pods.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::ByteString;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Whether a webhook is for an object of a namespace with these labels, as far as `matchLabels` says.
pub fn is_for(hook: &Value, labels: &Value) -> bool {
    let wanted = hook["namespaceSelector"]["matchLabels"].as_object();
    let mut wanted = wanted.into_iter().flatten();
    hook["clientConfig"]["url"].is_string() && wanted.all(|(key, value)| labels[key] == *value)
}

/// What a webhook makes of a new object.
///
/// # Errors
/// It does not answer, or refuses the object.
pub async fn admit(hook: &Value, mut object: Value) -> Result<Value, String> {
    let question = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "0a1b", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
        "namespace": object["metadata"]["namespace"], "object": object}});
    let answer = call(hook, &question.to_string()).await?;
    let response = &answer["response"];
    if response["uid"] != "0a1b" || response["allowed"] != true {
        return Err(format!("admission webhook denied the request: {response}"));
    }
    if response["patch"].is_string() {
        let bytes: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&bytes.0).unwrap();
        json_patch::patch(&mut object, &patch).map_err(|error| error.to_string())?;
    }
    Ok(object)
}

async fn call(hook: &Value, question: &str) -> Result<Value, String> {
    let url = hook["clientConfig"]["url"].as_str().unwrap();
    let failed = |why: &str| {
        format!(
            "failed calling webhook {}: Post {url:?}: {why}",
            hook["name"]
        )
    };
    let rest = url
        .strip_prefix("https://")
        .ok_or(failed("the scheme must be https"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let to: SocketAddr = host.parse().map_err(|_| failed("no address"))?;
    let bundle = hook["clientConfig"]["caBundle"].clone();
    let bundle: ByteString = serde_json::from_value(bundle).map_err(|_| failed("no caBundle"))?;
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&bundle.0).filter_map(Result::ok) {
        roots
            .add(root)
            .map_err(|error| failed(&error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let talk = async {
        let socket = tokio::net::TcpStream::connect(to).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::IpAddress(to.ip().into());
        let mut stream = connector.connect(name, socket).await?;
        let head = format!(
            "POST /{path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            question.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(question.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = talk.await.map_err(|error| failed(&error.to_string()))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(failed("no answer"))?;
    match head.contains(" 200 ") {
        true => serde_json::from_str(body).map_err(|error| failed(&error.to_string())),
        false => Err(failed(head)),
    }
}
