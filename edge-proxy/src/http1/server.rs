//! Towards a client: one task per connection that reads a request, has it
//! served, writes the answer, and begins again.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::EXPECT;
use http::request::Parts;
use http::{Method, Response, StatusCode, response};
use hyper::body::Body;

use super::buffer::BUFFER_LEN;
use super::client::Connection;
use super::decode::Decoder;
use super::encode::{self, Encoder, Terms};
use super::fault::{Fault, Side};
use super::head::{self, BodyLength, RequestHead};
use super::inbound::Inbound;
use super::io::{Io, Link};
use super::tunnel::Tunnel;
use super::watch::{Watch, micros};
use super::writing::Writing;
use crate::answer::Answer;
use crate::audience;
use crate::body::{RequestBody, ResponseBody};
use crate::connection::{Downstream, Stream};
use crate::observe::Observation;
use crate::proxy::Proxy;
use crate::request;
use crate::tcp;
use crate::tcp::connect::{self, Opened};

/// Of a body that nobody wanted, this much is taken so that the connection can go on, in bytes.
const DISCARD_LEN_MAX: usize = 64 * 1024;
/// Before a connection is closed on a client that may be sending, its bytes are taken for so long,
/// so that the answer is not lost with them (RFC 9112, section 9.6) …
const LINGER_WAIT_MAX: Duration = Duration::from_secs(1);
/// … and so many of them.
const LINGER_LEN_MAX: usize = 1024 * 1024;

/// Serves a connection on which `input` has come already, until it ends.
pub async fn serve(downstream: &Downstream, stream: Stream, input: BytesMut) {
    let proxy = &downstream.worker.proxy;
    let limits = &proxy.config.limits;
    let deadline_us = proxy.clock.now_us() + micros(limits.idle_wait_max());
    let mut session = Session {
        downstream,
        proxy,
        link: Link::new(stream, input, proxy.clock),
        watch: Watch::new(proxy.clock, &proxy.drain, deadline_us),
    };
    session.run().await;
}

struct Session<'a> {
    downstream: &'a Downstream,
    proxy: &'a Proxy,
    link: Arc<Link>,
    watch: Watch<'a>,
}

/// A request's head and body.
type Asked = (Box<Parts>, RequestBody);

/// Why no request follows.
enum NoNext {
    /// The connection ended, or was idle for too long.
    Over,
    /// What came is no request.
    Refused(Fault),
}

/// What the connection does behind an answer.
enum After {
    Next,
    /// It ends; the client may still be sending.
    Linger,
    Close,
    /// Another protocol, with the endpoint behind this connection.
    Tunnel(Connection, Box<Observation>),
    /// The bytes of a service.
    Connected(Box<Opened>),
}

/// Why an exchange ends before its answer does.
pub(super) enum Stop {
    /// The client left.
    Gone,
    /// It did something wrong, or nothing for too long.
    Fault(Fault),
    /// The endpoint or neighbour broke off.
    Upstream(Option<Fault>),
}

impl Stop {
    pub(super) const WRONG_LENGTH: Stop = Stop::Upstream(Some(Fault::Surplus));
}

impl Session<'_> {
    async fn run(&mut self) {
        loop {
            let after = match self.next().await {
                Ok((asked, terms)) => self.exchange(asked, terms).await,
                Err(NoNext::Over) => After::Close,
                Err(NoNext::Refused(fault)) => self.refuse(fault).await,
            };
            match after {
                After::Next => {}
                After::Close => return,
                After::Linger => return self.linger().await,
                After::Tunnel(connection, observation) => {
                    let live = Arc::clone(observation.live());
                    let (client, endpoint) =
                        (Tunnel::new(&self.link), Tunnel::new(connection.link()));
                    let worker = &self.downstream.worker;
                    return tcp::run(worker, &live, *observation, client, endpoint).await;
                }
                After::Connected(opened) => {
                    let client = Tunnel::new(&self.link);
                    return opened.run(&self.downstream.worker, client).await;
                }
            }
        }
    }

    /// Waits for the next request.
    async fn next(&mut self) -> Result<(Asked, Terms), NoNext> {
        let limits = &self.proxy.config.limits;
        let (idle_us, head_us) = (
            micros(limits.idle_wait_max()),
            micros(limits.head_wait_max()),
        );
        let since_us = self.proxy.clock.now_us();
        let mut begun_us = None;
        std::future::poll_fn(|cx| {
            let mut io = self.link.lock();
            loop {
                let Io { input, end, .. } = &mut *io;
                match head::take_request(input, end) {
                    Ok(Some(head)) => return Poll::Ready(Ok(arrived(&self.link, &mut io, head))),
                    Ok(None) => {}
                    Err(fault) => return Poll::Ready(Err(NoNext::Refused(fault))),
                }
                match io.poll_fill(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0)) if !io.input.is_empty() => {
                        return Poll::Ready(Err(NoNext::Refused(Fault::Early)));
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(NoNext::Over)),
                    Poll::Ready(Ok(_)) => {}
                }
            }
            let idle = io.input.is_empty();
            drop(io);
            let deadline_us = match idle {
                true => since_us + idle_us,
                false => {
                    let clock = self.proxy.clock;
                    *begun_us.get_or_insert_with(|| clock.now_us()) + head_us
                }
            };
            if idle && self.watch.poll_drain(cx).is_ready() {
                return Poll::Ready(Err(NoNext::Over));
            }
            let late = self.watch.poll_deadline(deadline_us, cx);
            late.map(|()| match idle {
                true => Err(NoNext::Over),
                false => Err(NoNext::Refused(Fault::HeadTimeout)),
            })
        })
        .await
    }

    /// Has one request served and its answer written.
    async fn exchange(&mut self, (head, body): Asked, terms: Terms) -> After {
        let downstream = self.downstream;
        if head.method == Method::CONNECT {
            return Box::pin(self.connect(head, terms)).await;
        }
        let served = {
            let mut served = pin!(request::entered(downstream, head, body));
            std::future::poll_fn(|cx| match served.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => self.poll_stop(cx).map(Err),
            })
            .await
        };
        // A body that is none is worth no other answer.
        let fault = self.link.lock().fault;
        let stopped = match (fault, served) {
            (Some(fault), _) => Stop::Fault(fault),
            (None, Ok(response)) => match self.respond(response, terms).await {
                Ok(after) => return after,
                Err(stop) => {
                    self.note(&stop);
                    return After::Close;
                }
            },
            (None, Err(stop)) => stop,
        };
        match stopped {
            Stop::Fault(fault) => self.refuse(fault).await,
            Stop::Gone | Stop::Upstream(_) => After::Close,
        }
    }

    /// Opens a service's bytes to the client, or says why not.
    async fn connect(&mut self, head: Box<Parts>, mut terms: Terms) -> After {
        let downstream = self.downstream;
        let story = audience::story_of_client(downstream, &head);
        let opened = {
            let mut opening = pin!(connect::open(downstream, &head, story.as_ref()));
            std::future::poll_fn(|cx| match opening.as_mut().poll(cx) {
                Poll::Ready(opened) => Poll::Ready(Some(opened)),
                Poll::Pending => self.poll_stop(cx).map(|_| None),
            })
            .await
        };
        let (response, opened) = match opened {
            None => return After::Close,
            Some(Ok(opened)) => {
                // An answer to CONNECT says nothing of a body's length (RFC 9110, section 9.3.6).
                terms.to_head = true;
                (
                    Response::new(ResponseBody::full(Bytes::new())),
                    Some(opened),
                )
            }
            Some(Err(answer)) => {
                let response = request::not_connected(downstream, &head, answer, story);
                (response, None)
            }
        };
        match (self.respond(response, terms).await, opened) {
            (Ok(_), Some(opened)) => After::Connected(Box::new(opened)),
            (Ok(after), None) => after,
            (Err(stop), _) => {
                self.note(&stop);
                After::Close
            }
        }
    }

    fn note(&self, stop: &Stop) {
        let faults = &self.proxy.faults;
        match stop {
            Stop::Fault(fault) => faults.note(Side::Downstream, *fault),
            Stop::Upstream(Some(fault)) => faults.note(Side::Upstream, *fault),
            Stop::Gone | Stop::Upstream(None) => {}
        }
    }

    /// Says what is wrong, and ends the connection.
    async fn refuse(&mut self, fault: Fault) -> After {
        self.note(&Stop::Fault(fault));
        if fault == Fault::Early {
            return After::Close;
        }
        self.link.lock().forget_body();
        let terms = Terms {
            to_head: false,
            version: http::Version::HTTP_11,
            keep_alive: false,
        };
        match self.respond(Answer::Refused(fault).response(), terms).await {
            Ok(_) => After::Linger,
            Err(_) => After::Close,
        }
    }

    /// Writes an answer.
    async fn respond(
        &mut self,
        response: Response<ResponseBody>,
        mut terms: Terms,
    ) -> Result<After, Stop> {
        let (head, mut body) = response.into_parts();
        let mut writing = self.begin(&head, &mut body, &mut terms);
        std::future::poll_fn(|cx| match writing.poll(&self.link, &mut body, cx) {
            Poll::Pending => self.poll_stop(cx).map(Err),
            ready => ready,
        })
        .await?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS
            && let Some((connection, observation)) = body.take_tunnel()
        {
            return Ok(After::Tunnel(connection, Box::new(observation)));
        }
        Ok(self.after(terms))
    }

    /// Appends an answer's head to the output, and all of its body if that is here.
    fn begin(&self, head: &response::Parts, body: &mut ResponseBody, terms: &mut Terms) -> Writing {
        let mut io = self.link.lock();
        let whole = body.take_whole();
        // The answer is complete and the request is not: the client is told to stop.
        let refuses_body = !io.body.is_ended() && (whole.is_some() || io.continue_due);
        terms.keep_alive &= !refuses_body && !self.proxy.drain.is_begun();
        let exact = match &whole {
            Some(bytes) => Some(bytes.len() as u64),
            None if body.is_end_stream() => Some(0),
            None => body.size_hint().exact(),
        };
        let length = encode::response_length(head, exact, *terms);
        terms.keep_alive &= length != BodyLength::UntilClose;
        encode::response(io.output.text(), head, length, *terms);
        let mut encoder = Encoder::new(length);
        let mut broken = None;
        if let Some(bytes) = whole
            && !encoder.is_complete()
        {
            let put = encoder.data(&mut io.output, bytes);
            let fits = put.is_ok() && encoder.is_complete();
            broken = (!fits).then_some(Stop::WRONG_LENGTH);
        }
        Writing {
            ended: encoder.is_complete(),
            encoder,
            trailers: None,
            broken,
        }
    }

    /// What comes behind an answer that was written.
    fn after(&mut self, terms: Terms) -> After {
        let mut io = self.link.lock();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut discarded = 0;
        // What is left of the request's body and is already here.
        while !io.body.is_ended() && discarded <= DISCARD_LEN_MAX && !io.continue_due {
            match io.poll_body(&mut cx) {
                Poll::Ready(Ok(super::decode::Piece::Data(data))) => discarded += data.len(),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        match (io.body.is_ended(), terms.keep_alive) {
            (false, _) => After::Linger,
            (true, true) => After::Next,
            // Bytes that nobody read would turn the close into a reset.
            (true, false) if !io.input.is_empty() => After::Linger,
            (true, false) => After::Close,
        }
    }

    /// Ready when the exchange under way makes no sense any more.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        let mut io = self.link.lock();
        if let Some(fault) = io.fault {
            return Poll::Ready(Stop::Fault(fault));
        }
        if !io.output.is_empty()
            && let Poll::Ready(Err(_)) = io.poll_flush(cx)
        {
            return Poll::Ready(Stop::Gone);
        }
        // Only while no body is read off the connection can its end be watched for.
        while io.body.is_ended() && io.input.len() < BUFFER_LEN {
            match io.poll_fill(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Stop::Gone),
                Poll::Ready(Ok(_)) => {}
            }
        }
        let (input_us, output_us) = (io.input_awaited_since_us, io.output_awaited_since_us);
        let reading = !io.body.is_ended();
        if reading {
            io.watch_body(cx);
        }
        drop(io);
        let since_us = match (input_us, output_us) {
            (Some(input_us), Some(output_us)) => input_us.min(output_us),
            (Some(since_us), None) | (None, Some(since_us)) => since_us,
            // Whoever reads the body may be another task: look again when it could be too late.
            (None, None) if reading => self.proxy.clock.now_us(),
            (None, None) => return Poll::Pending,
        };
        let wait_us = micros(self.proxy.config.limits.body_wait_max());
        let late = self.watch.poll_deadline(since_us + wait_us, cx);
        late.map(|()| {
            Stop::Fault(match output_us == Some(since_us) {
                true => Fault::Stalled,
                false => Fault::BodyTimeout,
            })
        })
    }

    /// Takes what the client is still sending, so that it reads the answer first.
    async fn linger(&mut self) {
        let deadline_us = self.proxy.clock.now_us() + micros(LINGER_WAIT_MAX);
        let (mut told, mut taken) = (false, 0);
        std::future::poll_fn(|cx| {
            let mut io = self.link.lock();
            if !told {
                told = match io.poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => false,
                };
            }
            loop {
                io.input.clear();
                match io.poll_fill(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(len)) => taken += len,
                }
                if taken > LINGER_LEN_MAX {
                    return Poll::Ready(());
                }
            }
            drop(io);
            self.watch.poll_deadline(deadline_us, cx)
        })
        .await;
    }
}

/// A request that has come, and the terms on which it is answered.
fn arrived(link: &Arc<Link>, io: &mut Io, head: RequestHead) -> (Asked, Terms) {
    let RequestHead {
        mut request,
        length,
        whole,
        keep_alive,
        expects_continue,
    } = head;
    let terms = Terms {
        to_head: request.method == Method::HEAD,
        version: request.version,
        keep_alive,
    };
    io.number += 1;
    let body = match whole {
        Some(bytes) => {
            io.release();
            RequestBody::came_whole(bytes, link)
        }
        None => {
            io.body = Decoder::new(length);
            io.continue_due = expects_continue && io.input.is_empty();
            RequestBody::coming(Inbound::numbered(link, io.number))
        }
    };
    if expects_continue {
        // It is answered here, when the body is first wanted.
        request.headers.remove(EXPECT);
    }
    ((request, body), terms)
}
