//! A way to an API server that a test can break: a port of this machine that passes bytes on, to ours or to that of any cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::config::Kubeconfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The way; it ends when dropped.
pub struct Link {
    /// Where it begins.
    pub address: SocketAddr,
    /// Where it leads to: host and port.
    to: String,
    running: Mutex<CancellationToken>,
    connections: Arc<Mutex<CancellationToken>>,
}

impl Link {
    pub async fn open(to: String) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link {
            address: listener.local_addr().unwrap(),
            to,
            running: Mutex::default(),
            connections: Arc::default(),
        };
        link.accept(listener);
        link
    }

    /// To the cluster that a kubeconfig names; and that kubeconfig, of the same user, by this way. What it says of the server's certificate
    /// holds as before.
    pub async fn to_cluster_of(file: &Path) -> (Link, Kubeconfig) {
        let mut config = Kubeconfig::read_from(file).unwrap();
        let current = config.current_context.clone();
        let current = current.expect("KUBECONFIG names a file without a current-context");
        let context = config.contexts.iter().find(|one| one.name == current);
        let context = context.and_then(|one| one.context.as_ref());
        let name = &context.expect("the current-context is not there").cluster;
        let cluster = config.clusters.iter_mut().find(|one| one.name == *name);
        let cluster = cluster.and_then(|one| one.cluster.as_mut());
        let cluster = cluster.expect("the current-context's cluster is not there");
        let server: http::Uri = cluster.server.as_ref().unwrap().parse().unwrap();
        let is_tls = server.scheme_str() != Some("http");
        let host = server.host().unwrap().to_owned();
        let port = server.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let link = Link::open(format!("{host}:{port}")).await;
        let (scheme, path) = (if is_tls { "https" } else { "http" }, server.path());
        let path = path.trim_end_matches('/');
        cluster.server = Some(format!("{scheme}://{}{path}", link.address));
        let name = host.trim_matches(['[', ']']).to_owned();
        cluster.tls_server_name.get_or_insert(name);
        (link, config)
    }

    fn accept(&self, listener: TcpListener) {
        let running = self.running.lock().unwrap().clone();
        let (to, connections) = (self.to.clone(), self.connections.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = running.cancelled() => return,
                };
                let (mut near, _) = accepted.unwrap();
                let (to, severed) = (to.clone(), connections.lock().unwrap().clone());
                tokio::spawn(async move {
                    let passing = async {
                        let mut far = TcpStream::connect(&to).await?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await
                    };
                    tokio::select! {
                        // Whoever broke it off, both ends see it.
                        _ = passing => {}
                        () = severed.cancelled() => {}
                    }
                });
            }
        });
    }

    /// Breaks every connection.
    pub fn sever(&self) {
        let fresh = CancellationToken::new();
        std::mem::replace(&mut *self.connections.lock().unwrap(), fresh).cancel();
    }

    /// Breaks every connection and takes no more.
    pub fn stop(&self) {
        let fresh = CancellationToken::new();
        std::mem::replace(&mut *self.running.lock().unwrap(), fresh).cancel();
        self.sever();
    }

    /// Takes connections again, at the same address.
    pub async fn come_back(&self) {
        let listener = loop {
            // The socket before may take a moment to close.
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        self.accept(listener);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop();
    }
}
