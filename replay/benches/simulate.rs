//! How fast the simulator is: simulated requests per second of processor time, by policy, on one
//! thread. `cargo bench -p isobar-replay`; arguments are policy names.

use std::time::Instant;

use isobar_replay::{Options, options::PolicyName, run};

fn main() {
    let named: Vec<PolicyName> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let policies = match named.is_empty() {
        true => PolicyName::NAMES
            .iter()
            .map(|&(_, policy)| policy)
            .collect(),
        false => named,
    };
    for policy in policies {
        let options = Options {
            policies: vec![policy],
            threads: 1,
            ..Options::default()
        };
        let begin = Instant::now();
        match run(&options, &|_| {}) {
            Ok(report) => {
                let took_s = begin.elapsed().as_secs_f64();
                let requests: u64 = report.runs.iter().map(|run| run.counted.entered).sum();
                println!(
                    "{:<10} {requests} requests in {took_s:.2} s: {:.2} million/s",
                    policy.name(),
                    requests as f64 / took_s / 1e6
                );
            }
            Err(error) => println!("{}: {error}", policy.name()),
        }
    }
}
