//! Whether a request that a peer sends is taken: it is who it says, it may, and there is credit.

use std::sync::atomic::Ordering::Relaxed;

use http::request::Parts;
use http::{HeaderValue, Method};

use crate::answer::Answer;
use crate::authorise;
use crate::connection::Peer;
use crate::credit::Admission;
use crate::headers;
use crate::proxy::Worker;
use crate::routes::ServiceRoute;

/// Whether it is; its head is changed where the endpoint is told of the client's token.
///
/// # Errors
/// What to answer instead.
pub(super) fn take(
    worker: &Worker,
    peer: &Peer,
    route: &ServiceRoute,
    head: &mut Parts,
) -> Result<(), Answer> {
    let home = &peer.home;
    let said = |name| head.headers.get(name).map(HeaderValue::as_bytes);
    if said(headers::HOME) != Some(home.as_str().as_bytes()) || said(headers::HOP) != Some(b"1") {
        return Err(Answer::ForeignHome);
    }
    let is_http = head.method != Method::CONNECT;
    authorise::moved(worker, peer, route, is_http.then_some(head))?;
    let load = route.home_load();
    let admission = route.credits.admit(home, load, worker.proxy.clock.now_us());
    let refusal = match admission {
        Admission::Take => return Ok(()),
        Admission::BeyondCredit => Answer::RefusedCredit,
        Admission::Full => Answer::RefusedFull,
    };
    route.moved_in(home).refused.fetch_add(1, Relaxed);
    Err(refusal)
}
