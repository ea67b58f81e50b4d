//! Handshakes with certificates on both sides, and bulk data, by one provider of rustls, in memory on one thread.
//!
//! `isobar-providers DIR SECONDS`: `DIR` has `roots.pem`, `a.pem` and `a-key.pem`. Prints the microseconds of a handshake, client
//! and server together, and the megabytes per second from one to the other (sealed and opened). Time is this process's own on a
//! processor, so that other programs do not count.

use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "aws-lc")]
use rustls::crypto::aws_lc_rs as crypto;
#[cfg(feature = "ring")]
use rustls::crypto::ring as crypto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

type Failure = Box<dyn Error>;

/// What is sent at once, in bytes.
const PIECE: usize = 16 * 1024;
/// Handshakes, and pieces, between two looks at the time.
const HANDSHAKES: u32 = 20;
const PIECES: usize = 100;

/// Time that this process had a processor.
fn spent() -> Result<Duration, Failure> {
    let said = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds = said.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

struct Ends {
    client: ClientConnection,
    server: ServerConnection,
    wire: Vec<u8>,
}

impl Ends {
    fn new(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Ends, Failure> {
        let name = ServerName::try_from("localhost")?;
        Ok(Ends {
            client: ClientConnection::new(client.clone(), name)?,
            server: ServerConnection::new(server.clone())?,
            wire: Vec::new(),
        })
    }

    /// Carries what each has to say to the other once.
    fn carry(&mut self) -> Result<(), Failure> {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.wire)?;
        }
        let mut unread = self.wire.as_slice();
        while !unread.is_empty() {
            self.server.read_tls(&mut unread)?;
            self.server.process_new_packets()?;
        }
        self.wire.clear();
        while self.server.wants_write() {
            self.server.write_tls(&mut self.wire)?;
        }
        let mut unread = self.wire.as_slice();
        while !unread.is_empty() {
            self.client.read_tls(&mut unread)?;
            self.client.process_new_packets()?;
        }
        self.wire.clear();
        Ok(())
    }

    fn shake_hands(&mut self) -> Result<(), Failure> {
        while self.client.is_handshaking() || self.server.is_handshaking() {
            self.carry()?;
        }
        Ok(())
    }
}

fn configs(directory: &Path) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), Failure> {
    let provider = Arc::new(crypto::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("roots.pem"))?)?;
    let roots = Arc::new(roots);
    let chain = || CertificateDer::from_pem_file(directory.join("a.pem")).map(|leaf| vec![leaf]);
    let key = || PrivateKeyDer::from_pem_file(directory.join("a-key.pem"));
    let versions = [&rustls::version::TLS13];
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)?
        .with_client_cert_verifier(clients.build()?)
        .with_single_cert(chain()?, key()?)?;
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain()?, key()?)?;
    client.resumption = rustls::client::Resumption::disabled();
    Ok((Arc::new(client), Arc::new(server)))
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(seconds)) = (arguments.next(), arguments.next()) else {
        return Err("isobar-providers DIR SECONDS".into());
    };
    let time = Duration::from_secs(seconds.parse()?);
    let (client, server) = configs(Path::new(&directory))?;
    let begun = spent()?;
    let mut handshakes = 0;
    while spent()? - begun < time {
        for _ in 0..HANDSHAKES {
            Ends::new(&client, &server)?.shake_hands()?;
        }
        handshakes += HANDSHAKES;
    }
    let handshake_us = (spent()? - begun).as_secs_f64() * 1e6 / f64::from(handshakes);

    let mut ends = Ends::new(&client, &server)?;
    ends.shake_hands()?;
    let (piece, mut heard) = ([7; PIECE], [0; PIECE]);
    let begun = spent()?;
    let mut bytes = 0;
    while spent()? - begun < time {
        for _ in 0..PIECES {
            ends.client.writer().write_all(&piece)?;
            ends.carry()?;
            ends.server.reader().read_exact(&mut heard)?;
        }
        bytes += PIECES * PIECE;
    }
    let rate = bytes as f64 / (spent()? - begun).as_secs_f64() / 1e6;
    println!("{handshake_us:.0} {rate:.0}");
    Ok(())
}
