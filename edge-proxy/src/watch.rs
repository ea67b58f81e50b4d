//! Looks after endpoints, once a second.
//!
//! What requests cannot do by themselves: remember what went through until
//! now, so that a circuit and a budget have a window to look back over, and
//! let waiting requests in when a circuit's time is over.

use std::sync::Arc;
use std::time::Duration;

use crate::proxy::Proxy;

/// How often. A circuit's window is at least as long.
const EVERY: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub async fn run(proxy: Arc<Proxy>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let now_us = proxy.clock.now_us();
        for endpoint in proxy.table.endpoints() {
            endpoint.circuit.mark(now_us);
        }
        for live in proxy.table.services() {
            live.mark_retries(now_us);
            if live.gate.waiting() > 0 {
                live.gate.let_in();
            }
        }
    }
}
