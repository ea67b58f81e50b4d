//! What the controller promises to do in a Kubernetes cluster: one suite for the API server of `api_server.rs` and for any cluster that
//! `KUBECONFIG` names.
//!
//! On a real cluster it installs the definitions of `k3s/base/crds.yaml`, and of the Gateway API those that are not there
//! (`gateway_api.rs`); it makes nodes, namespaces and custom resources under names of its own and takes them away again. What breaks the
//! server itself, or makes it say what it would not (`breaks.rs`, `permissions.rs`, tokens of nobody), runs against our own alone.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

mod admission;
mod api_server;
mod breaks;
mod checks;
mod discovery;
mod environment;
mod gateway_api;
mod gateways;
mod injection;
mod lease;
mod load;
mod permissions;
mod policies;
mod remote;
mod routes;
mod schema;
mod strict;
