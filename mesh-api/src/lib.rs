//! What the control plane and the data plane of Isobar agree on, and nothing else.
//!
//! Only these messages cross the wire between `isobar-controller` and
//! `isobar-proxy`; golden files in `tests/golden` show every change to them.
//! The crate opens no socket, reads no clock and knows no async runtime.
//!
//! In reading order:
//!
//! - [`names`]: what nodes, services and sites are called;
//! - [`identity`]: the SPIFFE name a certificate carries;
//! - [`weight`]: weights in parts per million, rows that sum to exactly one million;
//! - [`report`]: what a proxy tells the controller once a window;
//! - [`snapshot`]: what a proxy gets of the plan;
//! - [`message`]: the two directions of the control stream and its line format;
//! - [`tap`], [`errand`]: what operators ask of proxies while they run;
//! - [`enrol`]: how a proxy gets its first certificate;
//! - [`hop`]: the headers of a request between two proxies;
//! - [`config_file`]: what is said of a program's configuration file;
//! - `log_level`: what a program logs (feature `log`);
//! - [`metric`]: a row of a program's table of metrics;
//! - [`resource`]: the shape operators write, in REST, files and custom resources;
//! - [`route`]: where requests go, checked and ready to be sent.

pub mod config_file;
pub mod enrol;
pub mod errand;
pub mod hop;
pub mod identity;
#[cfg(feature = "log")]
pub mod log_level;
pub mod message;
pub mod metric;
pub mod names;
pub mod report;
pub mod resource;
pub mod route;
#[cfg(feature = "schema")]
mod schema;
pub mod snapshot;
pub mod tap;
pub mod validity;
pub mod weight;
