//! What the controller promises to do in a Kubernetes cluster: one suite for the API server of `api_server.rs` and for any cluster that
//! `KUBECONFIG` names.
//!
//! On a real cluster it makes nodes, namespaces and custom resources under names of its own and takes them away again; the custom
//! resource definitions of `k3s/crds` must be there. What breaks the server itself (`breaks.rs`, `permissions.rs`) runs against our own alone.

#![allow(clippy::unwrap_used)] // A test that meets an error has failed; here is where.

mod api_server;
mod breaks;
mod checks;
mod discovery;
mod environment;
mod gateways;
mod injection;
mod lease;
mod load;
mod permissions;
mod policies;
mod remote;
mod routes;
mod schema;
