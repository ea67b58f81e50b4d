//! What both programs do alike with their configuration files: TOML, with environment variables put in, every fault
//! shown as `file:line:column: key: problem`.
//!
//! Texts go in and faults come out; who reads files and variables is the program.

pub mod environment;
mod faults;
mod nearest;
mod place;

pub use faults::{Fault, Faults, Problem};
pub use place::Place;
