//! Load spikes replayed against Isobar and its alternatives.
//!
//! A seeded discrete-event simulator drives the very code that runs in
//! production: the controller's control loop and the proxy's choice of who
//! serves a request. Around it stand the baselines, which live here alone.
//!
//! In reading order:
//!
//! - [`options`]: what to replay;
//! - [`field`]: where the nodes are, what they can do, how far apart they are;
//! - [`load`]: how much demand enters where and when;
//! - [`simulator`]: a request's life, event by event;
//! - [`policy`]: who decides where a request goes, production and baselines;
//! - [`overflow`]: what a plan could place at best, with nothing simulated;
//! - [`regions`]: a mesh planned in regions beside the plan of the whole, with nothing simulated;
//! - [`measure`]: what is counted while it runs;
//! - [`mod@run`]: seeds and policies over threads;
//! - [`report`]: the table, the JSON and the page;
//! - [`cluster`]: the same on real processes.

pub mod cluster;
pub mod field;
pub mod load;
pub mod measure;
pub mod options;
pub mod overflow;
pub mod policy;
pub mod regions;
pub mod report;
pub mod run;
pub mod simulator;

pub use options::{Options, OptionsError};
pub use report::Report;
pub use run::{Progress, ReplayError, run};
