//! The data plane of Isobar.
//!
//! The life of a request, in reading order:
//!
//! - [`program`]: starts and ends the proxy; [`cli`] and [`config`] (with [`local_route`]) are how it is told what to do;
//! - [`listen`], [`worker`]: sockets, threads; [`connection`]: what comes in on them;
//! - [`listener`], [`tls`]: what a listener's connections need; [`tcp`]: those that are not HTTP's;
//! - [`http1`]: bytes become requests, and answers bytes;
//! - [`request`]: a request's whole life; `moved` is the part at a neighbour;
//! - [`headers`], [`body`], [`answer`]: what is changed, streamed, answered by the proxy itself;
//! - [`routing`]: where it goes by its head, and what its rule does on the way;
//! - [`routes`]: a snapshot made ready for requests;
//! - [`gate`], [`endpoint`]: the queue before the endpoints, and the way to them; [`health_check`] asks them how they are;
//! - [`mirror`]: copies of requests;
//! - [`rates`]: how many requests are let in; [`balancer`], [`session`]: which endpoint gets a request, and what keeps it there;
//! - [`priority`]: which requests are more important;
//! - [`traffic`], [`deadline`], [`limit`], [`expiry`]: how a service's requests are treated, how long they
//!   may take, what limits say, what ends a wait; [`watch`] looks after endpoints once a second, [`concurrency`] learns how much they
//!   are given at once;
//! - [`neighbour`], [`prober`]: the way to other nodes, and what is heard of them;
//! - [`live`], [`golden`], [`observe`]: what is counted, and when;
//! - [`audience`]: who hears of single requests, by their [`story`]: [`access_log`], and [`trace`] with [`otlp`]; [`spool`], [`json`]
//!   and [`roots`] are how that reaches them.
//!
//! The life of a report, and of a plan:
//!
//! - [`control`]: the stream to the controller; [`enrol`] comes before it;
//! - [`report`]: counters become a report;
//! - [`snapshot_file`]: the plan outlives the proxy;
//! - [`identity`]: keys, certificates, whom to believe;
//! - [`admin`], [`metrics`]: what an operator sees; [`intercept`]: rules that bring connections here;
//! - [`tap`], [`mod@bench`]: what operators ask of it while it runs;
//! - `memory`: what a burst took is given back;
//! - [`reload`], [`handover`], [`drain`]: how configuration and program change, how it all ends.
//!
//! Pure decisions, driven by the proxy and by the simulator alike:
//!
//! - [`route`]: which rule a request follows, and what the rule says;
//! - [`spread`]: weights become a sequence of choices;
//! - [`pressure`]: whether home is hot, or only met a crowd; [`alert`]: the controller hears of a spike at once;
//! - [`neighbour_load`]: what was last heard of neighbours' load;
//! - [`pick`]: who serves one request;
//! - [`credit`]: what a node takes for others;
//! - [`circuit`]: whether an endpoint gets requests; [`health`]: what it says of itself; [`outlier`]: what its siblings are like;
//! - [`gradient`]: how many requests endpoints work on at once;
//! - [`balance`]: which endpoint of a node gets a request;
//! - [`rate_limit`]: token buckets;
//! - [`retry`]: what is tried again, how often, after what pause;
//! - [`shed`]: how long a queue may be when nobody has room;
//! - [`turns`]: whose turn it is when own and moved-in requests wait;
//! - [`proxy_protocol`], [`client_hello`], [`detect`], [`forwarded`]: what first bytes and headers say;
//! - [`decay`]: weights go home when the controller is silent.

pub mod access;
pub mod access_log;
pub mod admin;
pub mod alert;
pub mod answer;
pub mod audience;
pub mod authorise;
pub mod balance;
pub mod balancer;
pub mod bench;
pub mod body;
pub mod circuit;
pub mod cli;
pub mod client_hello;
pub mod clock;
pub mod concurrency;
pub mod config;
pub mod connection;
pub mod control;
pub mod credit;
pub mod deadline;
pub mod decay;
pub mod detect;
pub mod drain;
pub mod endpoint;
pub mod enrol;
pub mod expiry;
pub mod forwarded;
pub mod gate;
pub mod golden;
pub mod gradient;
pub mod handover;
pub mod headers;
pub mod health;
pub mod health_check;
pub mod http1;
#[cfg(feature = "http3")]
pub mod http3;
pub mod identity;
pub mod intercept;
pub mod json;
pub mod jwks;
pub mod jwt;
pub mod limit;
pub mod listen;
pub mod listener;
pub mod live;
pub mod local_route;
mod memory;
pub mod metrics;
pub mod mirror;
mod moved;
pub mod neighbour;
pub mod neighbour_load;
pub mod observe;
pub mod otlp;
pub mod outlier;
pub mod pick;
pub mod plain;
pub mod pressure;
pub mod priority;
pub mod prober;
pub mod program;
pub mod proxy;
pub mod proxy_protocol;
pub mod rate_limit;
pub mod rates;
pub mod reload;
pub mod report;
pub mod request;
pub mod retry;
pub mod roots;
pub mod route;
pub mod routes;
pub mod routing;
pub mod session;
pub mod shed;
pub mod skew;
pub mod snapshot_file;
pub mod spool;
pub mod spread;
pub mod story;
pub mod tap;
pub mod tcp;
pub mod tls;
pub mod trace;
pub mod traffic;
pub mod turns;
pub mod watch;
pub mod worker;

/// An error and what caused it, for a log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
