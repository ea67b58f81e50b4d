//! The proxy as a whole: real sockets, real TLS, a controller made of messages.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "proxy/abuse.rs"]
mod abuse;
#[path = "proxy/access.rs"]
mod access;
#[path = "proxy/access_log.rs"]
mod access_log;
#[path = "proxy/balance.rs"]
mod balance;
#[path = "proxy/connect.rs"]
mod connect;
#[path = "proxy/control.rs"]
mod control;
#[path = "proxy/drain.rs"]
mod drain;
#[path = "proxy/faulty.rs"]
mod faulty;
#[path = "proxy/forward.rs"]
mod forward;
#[path = "proxy/grpc.rs"]
mod grpc;
#[path = "proxy/http2.rs"]
mod http2;
#[path = "proxy/http3.rs"]
mod http3;
#[path = "proxy/ill.rs"]
mod ill;
#[path = "proxy/listeners.rs"]
mod listeners;
#[path = "proxy/mesh.rs"]
mod mesh;
#[path = "proxy/mtls.rs"]
mod mtls;
#[path = "proxy/rates.rs"]
mod rates;
#[path = "proxy/resilience.rs"]
mod resilience;
#[path = "proxy/routes.rs"]
mod routes;
#[path = "proxy/seen.rs"]
mod seen;
#[path = "proxy/shipping.rs"]
mod shipping;
#[path = "proxy/strict.rs"]
mod strict;
#[path = "proxy/support.rs"]
mod support;
#[path = "proxy/tcp.rs"]
mod tcp;
#[path = "proxy/towards.rs"]
mod towards;
#[path = "proxy/traces.rs"]
mod traces;
#[path = "proxy/upgrade.rs"]
mod upgrade;
#[path = "proxy/wire.rs"]
mod wire;
#[path = "proxy/workload.rs"]
mod workload;
