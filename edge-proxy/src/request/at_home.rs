//! The second half of a request's life: from "home serves it" to the endpoint's answer.
//!
//! ```text
//! slot ─► endpoint ─► connection ─► sent ─► answer's head ─► (body: crate::body)
//!  ▲        │ no connection │ broke │ too late │ an answer to try again
//!  └────────┴─── pause ◄────┴───────┴──────────┘   while attempts, budget, deadline and body allow
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::{HeaderMap, RETRY_AFTER};
use http::{Response, request, response};
use hyper::body::Body;

use super::Exchange;
use super::send::Sending;
use crate::answer::Answer;
use crate::balancer::Wish;
use crate::body::{Again, Keep, RequestBody, ResponseBody};
use crate::deadline;
use crate::endpoint::EndpointLive;
use crate::gate::{Class, Slot, Terms};
use crate::headers;
use crate::limit::Limit;
use crate::live::{Retrying, bump};
use crate::observe::{self, Observation};
use crate::retry::{self, Failure};

/// What came of one try.
struct Tried {
    outcome: Result<Response<ResponseBody>, Answer>,
    /// What was wrong with it, when another may be made.
    failure: Option<Failure>,
    /// The request's body, when nothing of the request was sent.
    whole: Option<RequestBody>,
}

impl Exchange<'_> {
    /// Waits for a slot of an endpoint of this node, sends the request there, and tries again where
    /// that is safe. It is `now_us`.
    pub(super) async fn at_home(
        &self,
        class: Class,
        mut head: Box<request::Parts>,
        body: RequestBody,
        mut now_us: u64,
    ) -> Result<Response<ResponseBody>, Answer> {
        let (route, rules) = (self.route, &self.route.traffic.retries);
        if route.endpoints.is_empty() {
            return Err(Answer::NoEndpoint);
        }
        let may_repeat = rules.unsafe_methods || retry::may_repeat(&head.method);
        let (mut body, again) = self.keep(body, rules.attempts > 1 && may_repeat);
        let mut avoid: Option<Arc<EndpointLive>> = None;
        let mut _retrying = None;
        let mut attempt = 1;
        loop {
            let (slot, has_waited) = self.slot(class, avoid.as_ref()).await?;
            if class == Class::Own && attempt == 1 {
                bump(&self.counters().served_home, 1);
            }
            if has_waited || attempt > 1 {
                now_us = self.worker.proxy.clock.now_us();
            }
            let endpoint = Arc::clone(slot.endpoint());
            let last = attempt >= rules.attempts;
            let observation = Observation::at_home(self, class, slot, now_us);
            let tried = self
                .try_at(&endpoint, observation, &mut head, body, &again)
                .await;
            let failure = tried.failure.filter(|_| !last);
            let Some(failure) = failure.filter(|failure| rules.again(*failure, may_repeat)) else {
                return tried.outcome;
            };
            let Some(whole) = tried.whole.or_else(|| again.take()) else {
                return tried.outcome;
            };
            let Some(pause_us) = self.pause_us(attempt, failure, &tried.outcome) else {
                return tried.outcome;
            };
            let Some(next) = self.another_try() else {
                return tried.outcome;
            };
            // Lets go of slot and connection.
            drop(tried.outcome);
            if pause_us > 0 {
                tokio::time::sleep(Duration::from_micros(pause_us)).await;
            }
            (body, avoid, _retrying) = (whole, Some(endpoint), Some(next));
            attempt += 1;
        }
    }

    /// Sends the request to the upstream of last resort.
    pub(super) async fn at_cloud(
        &self,
        mut head: Box<request::Parts>,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Answer> {
        let now_us = self.worker.proxy.clock.now_us();
        let Some(cloud) = &self.route.cloud else {
            return self.at_home(Class::Own, head, body, now_us).await;
        };
        self.counters().cloud.fetch_add(1, Relaxed);
        let (body, again) = self.keep(body, false);
        let observation = Observation::at_cloud(self, cloud, now_us);
        let tried = self
            .try_at(cloud, observation, &mut head, body, &again)
            .await;
        match tried.whole {
            Some(body) => {
                let now_us = self.worker.proxy.clock.now_us();
                self.at_home(Class::Own, head, body, now_us).await
            }
            None => tried.outcome,
        }
    }

    /// What of it is larger than the service takes, as far as is known before it is sent.
    pub(super) fn too_large(&self, head: &request::Parts, body: &RequestBody) -> Option<Limit> {
        let sizes = &self.route.traffic.sizes;
        let (head_max, body_max) = (sizes.request_head_len_max, sizes.request_body_len_max);
        if head_max > 0 && headers::len(head) > head_max as usize {
            return Some(Limit::RequestHead);
        }
        (body_max > 0 && body.size_hint().lower() > body_max).then_some(Limit::RequestBody)
    }

    /// Bounds the body, and keeps its beginning when the request may have to be sent again.
    pub(crate) fn keep(&self, body: RequestBody, for_another: bool) -> (RequestBody, Again) {
        let sizes = &self.route.traffic.sizes;
        body.keep(Keep {
            kept_len_max: if for_another {
                sizes.buffer_len_max as usize
            } else {
                0
            },
            len_max: match sizes.request_body_len_max {
                0 => u64::MAX,
                max => max,
            },
        })
    }

    /// A slot, and whether it had to be waited for.
    pub(crate) async fn slot(
        &self,
        class: Class,
        avoid: Option<&Arc<EndpointLive>>,
    ) -> Result<(Slot, bool), Answer> {
        let (route, clock) = (self.route, self.worker.proxy.clock);
        let wish = Wish {
            key: self.key,
            avoid,
            now_us: self.arrived_us,
            turn: 0,
        };
        let gate = &route.live.gate;
        if let Some(slot) = gate.try_enter(&route.balancer, wish) {
            return Ok((slot, false));
        }
        let now_us = clock.now_us();
        if route.endpoints.iter().all(|e| e.circuit.is_open()) {
            let waits = route
                .endpoints
                .iter()
                .map(|e| e.circuit.view(now_us).wait_us);
            return Err(Answer::Limited {
                limit: Limit::Circuit,
                wait_us: waits.min().unwrap_or(0),
            });
        }
        let terms = Terms {
            limits: route.queue,
            workers: route.places(),
            latency_us: route.live.latency_us(),
            left_us: self.deadline.head_us.saturating_sub(now_us),
            rank: self.rank,
        };
        let entered = gate.enter(class, &route.balancer, wish, terms).await;
        let entered = entered.map(|slot| (slot, true));
        entered.map_err(|no_room| match self.deadline.is_over(clock.now_us()) {
            true => Answer::limited(self.late()),
            false => {
                route.live.note_shed(self.rank);
                Answer::Shed {
                    wait_us: no_room.wait_us,
                }
            }
        })
    }

    /// One try: sends the request and waits for the head of the answer.
    async fn try_at(
        &self,
        endpoint: &Arc<EndpointLive>,
        mut observation: Observation,
        head: &mut request::Parts,
        body: RequestBody,
        again: &Again,
    ) -> Tried {
        if self.deadline.is_told {
            deadline::tell(&self.deadline, &mut head.headers, observation.begun_us());
        }
        observation.tell(&mut head.headers);
        let per_try_us = self.waits.per_try_us;
        let due_us = observation.begun_us().saturating_add(per_try_us);
        let sending = pin!(self.send(endpoint, head, body));
        let lost = |failure, outcome| Tried {
            outcome: Err(outcome),
            failure,
            whole: None,
        };
        match self.in_time(sending, due_us, again).await {
            Ok(Sending::Answered(response)) => {
                let (mut head, body) = response.into_parts();
                headers::clean_response(&mut head);
                observation.answered(&head, Some(Arc::clone(endpoint)));
                if body.len_min() > observation.body_len_max() {
                    return lost(None, Answer::limited(Limit::ResponseBody));
                }
                let failure = self.failure_of(&head);
                let body = body.observed(observation);
                Tried {
                    outcome: Ok(Response::from_parts(head, body)),
                    failure,
                    whole: None,
                }
            }
            Ok(Sending::Unsent(whole)) => {
                observation.unanswered();
                Tried {
                    outcome: Err(Answer::Upstream),
                    failure: Some(Failure::Unsent),
                    whole: Some(whole),
                }
            }
            // It ends its connection, or has as many calls as it wants.
            Ok(Sending::Refused) => Tried {
                outcome: Err(Answer::Upstream),
                failure: Some(Failure::Unsent),
                whole: again.take(),
            },
            // Not the endpoint's fault.
            Ok(Sending::Malformed | Sending::Lost) if again.was_too_large() => {
                lost(None, Answer::limited(Limit::RequestBody))
            }
            Ok(Sending::Malformed) => lost(None, Answer::Upstream),
            Ok(Sending::Lost) if again.broke_off() => lost(None, Answer::Upstream),
            Ok(Sending::Lost) => {
                observation.unanswered();
                lost(Some(Failure::Broken), Answer::Upstream)
            }
            Err(limit) => {
                // Who gives little time says nothing of the endpoint.
                if limit != Limit::Deadline {
                    observation.unanswered();
                }
                let failure = (limit == Limit::TryTimeout).then_some(Failure::TimedOut);
                lost(failure, Answer::limited(limit))
            }
        }
    }

    /// Waits for what comes of sending, until `try_due_us` or the request's own end. While a body is on
    /// its way, the time for the answer has not begun.
    pub(crate) async fn in_time<T>(
        &self,
        mut sending: std::pin::Pin<&mut impl Future<Output = T>>,
        try_due_us: u64,
        again: &Again,
    ) -> Result<T, Limit> {
        let (expiry, clock) = (&self.worker.expiry, self.worker.proxy.clock);
        let waits = &self.waits;
        let mut due_us = try_due_us.min(self.deadline.head_us);
        loop {
            if let Ok(sent) = expiry.until(due_us, sending.as_mut()).await {
                return Ok(sent);
            }
            let now_us = clock.now_us();
            if now_us < self.deadline.end_us && again.has_moved() {
                due_us = now_us.saturating_add(waits.per_try_us.min(waits.request_us));
                due_us = due_us.min(self.deadline.end_us);
                continue;
            }
            return Err(match due_us >= self.deadline.head_us {
                true => self.late(),
                false => Limit::TryTimeout,
            });
        }
    }

    /// What an answer's head calls for, if the policy looks at heads at all.
    fn failure_of(&self, head: &response::Parts) -> Option<Failure> {
        let rules = &self.route.traffic.retries;
        rules.looks_at_answers().then(|| Failure::Status {
            status: head.status.as_u16(),
            grpc: observe::grpc_status(&head.headers),
            says_when: head.headers.contains_key(RETRY_AFTER),
        })
    }

    /// How long to wait before the next try, in microseconds; `None` when there is no time for it.
    fn pause_us(
        &self,
        attempt: u32,
        failure: Failure,
        outcome: &Result<Response<ResponseBody>, Answer>,
    ) -> Option<u64> {
        let rules = &self.route.traffic.retries;
        let asked = outcome
            .as_ref()
            .ok()
            .and_then(|r| retry_after_s(r.headers()));
        let answered = matches!(failure, Failure::Status { .. });
        let pause_us = match asked {
            Some(seconds) => rules.asked_pause_us(seconds)?,
            // Another endpoint need not be spared.
            None if !answered && self.route.endpoints.len() > 1 => 0,
            None => {
                let chooser = &self.route.live.worker(self.worker.index).chooser;
                let mut chooser = chooser.lock().unwrap_or_else(|e| e.into_inner());
                rules.backoff_us(attempt, &mut chooser.rng)
            }
        };
        let then_us = self.worker.proxy.clock.now_us().saturating_add(pause_us);
        (!self.deadline.is_over(then_us)).then_some(pause_us)
    }

    /// One more try, if the budget has it.
    fn another_try(&self) -> Option<Retrying<'_>> {
        let rules = &self.route.traffic.retries;
        let now_us = self.worker.proxy.clock.now_us();
        let retrying = self.route.live.try_again(rules, now_us);
        match &retrying {
            Some(_) => &self.counters().retried,
            None => &self.counters().retries_denied,
        }
        .fetch_add(1, Relaxed);
        retrying
    }

    /// Which end has come first.
    fn late(&self) -> Limit {
        match self.deadline.is_told && self.deadline.head_us == self.deadline.end_us {
            true => Limit::Deadline,
            false => Limit::RequestTimeout,
        }
    }
}

/// `Retry-After`, when it is in seconds; a date asks for more than can be waited for here.
fn retry_after_s(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(value.parse().unwrap_or(u64::MAX))
}
