//! TLS towards another controller: it is known by its certificate, whatever its address.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use isobar_mesh_api::identity::SpiffeId;
use isobar_mesh_api::names::NodeId;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::LinkError;
use crate::authority::{Authority, crypto, peer_identity};
use crate::tls::CHAIN_LEN_MAX;

/// What is asked for as the server's name, which plays no part.
pub(super) fn anyone() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into())
}

/// Shows a new certificate of this controller, and believes a controller of this mesh alone.
pub(super) fn client_config(
    authority: &Authority,
    name: &NodeId,
) -> Result<Arc<ClientConfig>, LinkError> {
    let own = authority.issue_peer(name, SystemTime::now())?;
    let verifier = Controllers {
        roots: authority.roots()?,
        id: SpiffeId::controller(authority.trust_domain()),
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(crypto()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(own.chain, own.key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// Believes who shows a controller's certificate below one of the roots.
#[derive(Debug)]
struct Controllers {
    roots: Vec<CertificateDer<'static>>,
    id: SpiffeId,
}

impl ServerCertVerifier for Controllers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if above.len() >= CHAIN_LEN_MAX {
            return Err(CertificateError::BadEncoding.into());
        }
        let unknown = |_| Error::from(CertificateError::UnknownIssuer);
        let anchors = self.roots.iter().map(anchor_from_trusted_cert);
        let anchors = anchors.collect::<Result<Vec<_>, _>>().map_err(unknown)?;
        let algorithms = crypto().signature_verification_algorithms.all;
        let certificate = EndEntityCert::try_from(leaf).map_err(unknown)?;
        let usage = KeyUsage::server_auth();
        certificate
            .verify_for_usage(algorithms, &anchors, above, now, usage, None, None)
            .map_err(unknown)?;
        match peer_identity(leaf, &self.id.trust_domain) {
            Ok(holder) if holder.id == self.id => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
