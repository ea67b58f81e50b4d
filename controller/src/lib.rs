//! The control plane of Isobar.
//!
//! A pure core decides, tasks around it move bytes and time. In reading order:
//!
//! The core, without clock, socket or entropy; the simulator drives the same code:
//!
//! - [`control_loop`]: a report's whole life in the core, from load book to pushed rows;
//! - [`load_book`]: the latest reports and how old they are;
//! - [`demand`]: what enters, without its noise;
//! - [`capacity`]: what a node can serve, declared, reported or learned;
//! - [`neighbourhood`]: to whom a home may move load;
//! - [`planner`]: weights from all of that;
//! - [`rate_share`]: a rate limit of the mesh, divided among its nodes.
//!
//! The program around it:
//!
//! - [`election`], [`leadership`]: which of several controllers leads, and what runs only while it does;
//! - [`control_task`]: the one task that owns the control loop;
//! - [`mod@accept`]: connections of a listener, each in a task;
//! - [`stream`], [`tls`], [`authority`], [`tokens`], [`enrolled`]: proxies come in, and who they are;
//! - [`access`], [`credentials`], [`operator_tls`], [`secret`], [`guesses`]: who operators are, and what they may do;
//! - [`refusals`], [`plain_calls`]: who was refused, and who calls without showing who they are;
//! - [`link`]: from a controller that does not lead to the one that does;
//! - [`rest`], [`resource_text`], [`problem`]: operators come in, what they write, what they are told;
//! - [`discovery`]: files, DNS and Consul as sources of resources and endpoints; [`ledger`]: what a source told the mesh;
//! - [`picture`]: what a map of the mesh needs; [`past`]: what it was like in the last hour;
//! - [`injection`]: the proxy beside an application, in its pod;
//! - `kubernetes`: nodes, services, policies and routes of a cluster (feature `kubernetes`);
//! - [`store`], [`etcd`], [`files`]: what survives a restart;
//! - [`metrics`]: every metric by name;
//! - [`config`], [`program`], [`reload`], [`drain`], [`cli`]: how it starts, changes and ends.

pub mod accept;
pub mod access;
pub mod authority;
pub mod capacity;
pub mod cli;
pub mod config;
pub mod control_loop;
pub mod control_task;
pub mod credentials;
pub mod demand;
pub mod discovery;
pub mod drain;
pub mod election;
pub mod enrolled;
pub mod etcd;
pub mod files;
pub mod guesses;
pub mod injection;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod leadership;
pub mod ledger;
pub mod link;
pub mod load_book;
pub mod memory;
pub mod metrics;
pub mod neighbourhood;
pub mod operator_tls;
pub mod past;
pub mod picture;
pub mod plain_calls;
pub mod planner;
pub mod problem;
pub mod program;
pub mod rate_share;
pub mod refusals;
pub mod reload;
pub mod resource_text;
pub mod rest;
pub mod secret;
pub mod store;
pub mod stream;
mod term;
pub mod tls;
pub mod tokens;
