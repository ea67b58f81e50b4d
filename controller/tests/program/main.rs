//! The controller as a program: real sockets, real TLS, a real store in a temporary directory.

mod enrolment;
mod mesh;
mod process;
mod proxy;
mod rest;
mod restart;
mod stream;
