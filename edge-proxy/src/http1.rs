//! HTTP/1.1, both towards clients and towards endpoints.
//!
//! ```text
//!             ┌────────────── one task ──────────────┐
//! client ─► Link ─► head ─► request::entered ─► client::send ─► Link ─► endpoint
//!             ▲  body: Inbound ───────────────────────► Upload ─┘  │
//!             └── server::respond ◄── ResponseBody ◄── Inbound ◄───┘
//! ```
//!
//! One task per client connection reads a head, has it served, and reads the
//! endpoint's answer itself: no channel, no second task, no wake-up in between.
//! A request without a long body takes two receives and two sends. Buffers come
//! from a pool of the thread and go back when there is nothing in them, so an
//! idle connection has none.
//!
//! Bytes become messages in pure modules ([`head`], [`decode`], [`encode`]):
//! the same bytes give the same messages however they are cut. What is not
//! exactly a message is refused ([`fault`]), never guessed at: a guess that
//! differs from the endpoint's is how requests are smuggled.

pub mod buffer;
pub mod client;
pub(crate) mod date;
pub mod decode;
pub mod encode;
pub mod fault;
pub mod head;
pub mod inbound;
pub mod io;
pub mod server;
pub mod tunnel;
pub mod upload;
pub(crate) mod watch;
mod writing;

/// Largest head of a message, in bytes; a longer request is refused (431), a longer answer is a 502.
pub const HEAD_LEN_MAX: usize = 64 * 1024;
/// Header lines of one message; the same happens to more.
pub const HEADERS_MAX: usize = 100;

/// In a request's or response's extensions: the protocol that the connection is to speak from then
/// on, as the `Upgrade` header names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade(pub http::HeaderValue);
