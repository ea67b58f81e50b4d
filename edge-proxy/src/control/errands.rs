//! What operators ask of this proxy through the controller: taps, and errands that are done once.
//!
//! Errands run beside the stream, so that plans and reports never wait for one; they end with it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isobar_mesh_api::errand::{Errand, ErrandDone, Said, What};
use isobar_mesh_api::log_level;
use isobar_mesh_api::message::{Up, encode_line};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::bench;
use crate::proxy::Proxy;

/// How often requests of taps are sent up, while there are taps.
pub const TAPPED_EVERY: Duration = Duration::from_millis(100);
/// Places in the stream's queue that taps leave to reports and answers.
const PLACES_LEFT: usize = 8;
/// Most errands at once; further ones are refused.
pub const ERRANDS_MAX: usize = 8;

/// Errands of one stream that are under way; ended when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Errands(JoinSet<()>);

impl Errands {
    /// Begins one; its answer goes to `lines`.
    pub fn begin(&mut self, proxy: &Arc<Proxy>, errand: Errand, lines: &mpsc::Sender<Bytes>) {
        while self.0.try_join_next().is_some() {}
        let (proxy, lines) = (Arc::clone(proxy), lines.clone());
        let (number, is_full) = (errand.number, self.0.len() >= ERRANDS_MAX);
        self.0.spawn(async move {
            let said = match is_full {
                true => Said::Failed("this node has errands enough; ask again".to_owned()),
                false => run(proxy, errand.what).await,
            };
            match encode_line(&Up::Done(ErrandDone { number, said })) {
                // Fails when the stream has ended.
                Ok(line) => drop(lines.send(Bytes::from(line)).await),
                Err(error) => tracing::warn!(%error, "an errand's answer is too long"),
            }
        });
    }
}

async fn run(proxy: Arc<Proxy>, what: What) -> Said {
    match what {
        What::LogLevels(levels) => match log_level::set(&levels) {
            Ok(before) => Said::LogLevels { before },
            Err(error) => Said::Failed(crate::chain(&error)),
        },
        What::BenchLink(link) => match bench::run(proxy, link).await {
            Ok(figures) => Said::Link(figures),
            Err(why) => Said::Failed(why),
        },
    }
}

/// Sends what taps have, as far as there is room; what there is no room for stays, and is counted when it is too much.
pub(super) fn send_tapped(proxy: &Proxy, lines: &mpsc::Sender<Bytes>) {
    if lines.capacity() < PLACES_LEFT + crate::tap::TAPS_MAX {
        return;
    }
    for tapped in proxy.taps.take(proxy.clock.now_us()) {
        match encode_line(&Up::Tapped(tapped)) {
            Ok(line) => drop(lines.try_send(Bytes::from(line))),
            Err(error) => tracing::warn!(%error, "tapped requests are too long to send"),
        }
    }
}
