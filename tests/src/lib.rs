//! Suites that need more than one crate.

pub mod control_load;
pub mod peers;
pub mod process;
