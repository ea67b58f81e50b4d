//! What the controller promises to do in a Kubernetes cluster: one suite for the API server of `api_server.rs` and for any cluster that
//! `KUBECONFIG` names.
//!
//! On a real cluster it installs the definitions of `k3s/base/crds.yaml`, and of the Gateway API those that are not there
//! (`gateway_api.rs`); it makes nodes, namespaces and custom resources under names and a label of its own and takes them away again, also
//! after a failure. Its tests take turns there: each runs a controller, and a cluster has one. What breaks the way to the server does so
//! on a way of its own (`link.rs`). What a cluster cannot be asked for (refusing verbs, counting requests, another's tokens, Isobar's fixed
//! names) runs against our server alone; with `KUBECONFIG` each of these tests says on standard error that it was skipped, and why.

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
mod link;
mod load;
mod permissions;
mod policies;
mod remote;
mod routes;
mod schema;
mod strict;
