//! Copies of requests for another service, whose answers are discarded.
//!
//! A copy is sent when its original has been answered, so that it never makes a client wait, and only when all of the
//! request's body was kept. It is a request like any other of the service that gets it: it enters, may move, waits in
//! its queue. At most [`UNDER_WAY_MAX`] are under way at once in the whole proxy; further ones are left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::header::EXPECT;
use http::request::Parts;
use http_body_util::BodyExt;

use crate::body::{Again, RequestBody};
use crate::proxy::Worker;
use crate::request::Exchange;
use crate::route::is_grpc;
use crate::routes::ServiceRoute;

/// Copies under way at once, in the whole proxy.
pub const UNDER_WAY_MAX: u32 = 256;
/// A copy that is not answered in full by then is given up.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// What became of copies.
#[derive(Debug, Default)]
pub struct Mirrors {
    under_way: AtomicU32,
    sent: AtomicU64,
    busy: AtomicU64,
    body: AtomicU64,
}

/// A request to be copied.
#[derive(Debug)]
pub(crate) struct Copies {
    /// Who gets one.
    pub(crate) services: Vec<Arc<ServiceRoute>>,
    /// As the rule made it, before it was changed for a backend.
    pub(crate) head: Parts,
}

impl Mirrors {
    /// Copies that were sent; that were left out because too many were under way; because the body was not kept whole.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        [
            ("sent", &self.sent),
            ("busy", &self.busy),
            ("body", &self.body),
        ]
        .map(|(outcome, count)| (outcome, count.load(Relaxed)))
    }
}

/// Sends the copies of a request that has been answered; `again` has its body.
pub(crate) fn send(worker: &Arc<Worker>, copies: Copies, again: &Again) {
    let mirrors = &worker.proxy.mirrors;
    let Some(body) = again.all() else {
        mirrors
            .body
            .fetch_add(copies.services.len() as u64, Relaxed);
        return;
    };
    let mut head = copies.head;
    head.headers.remove(EXPECT);
    for service in copies.services {
        if mirrors.under_way.fetch_add(1, Relaxed) >= UNDER_WAY_MAX {
            mirrors.under_way.fetch_sub(1, Relaxed);
            mirrors.busy.fetch_add(1, Relaxed);
            continue;
        }
        mirrors.sent.fetch_add(1, Relaxed);
        let (head, body) = (head.clone(), RequestBody::of(body.clone()));
        let worker = Arc::clone(worker);
        let drain = worker.proxy.drain.clone();
        drain.spawn(async move {
            let _place = Place(&worker.proxy.mirrors.under_way);
            // What comes of it is of interest to nobody.
            let _ = tokio::time::timeout(WAIT_MAX, copy(&worker, &service, head, body)).await;
        });
    }
}

async fn copy(worker: &Worker, service: &Arc<ServiceRoute>, head: Parts, body: RequestBody) {
    let mut exchange = Exchange::new(worker, service, service.traffic.waits, None);
    exchange.take_rank(&head.headers);
    exchange.grpc = is_grpc(&head.headers);
    exchange.counters().entered.fetch_add(1, Relaxed);
    let choice = exchange.choose(None);
    match exchange.place(choice, Box::new(head), body).await {
        Ok(response) => {
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
        Err(answer) => drop(exchange.give_up(answer, false)),
    }
}

/// One of [`UNDER_WAY_MAX`], given back when the copy ends, however it does.
struct Place<'a>(&'a AtomicU32);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
