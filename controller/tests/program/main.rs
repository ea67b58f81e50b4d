//! The controller as a program: real sockets, real TLS, a real store in a temporary directory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod access;
mod browser;
mod crash;
mod dashboard;
mod discovery;
mod enrolment;
mod etcd;
mod fleet;
mod mesh;
mod openapi;
mod operations;
mod operator_tls;
mod pressure;
mod process;
mod proxy;
mod rest;
mod restart;
mod routes;
mod stream;
mod tap;
mod weight_policy;
mod writes;
