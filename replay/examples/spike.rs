//! The reference spike as a table: one node of a 20×20 grid gets ten times its load for 30 s.
//!
//! `cargo run --release -p isobar-replay --example spike -- [base] [seeds] [policy…]`

use isobar_replay::{Options, options::PolicyName, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = Options::default();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(base) = args.first() {
        options.base = base.parse()?;
    }
    if let Some(seeds) = args.get(1) {
        options.seeds = seeds.parse()?;
    }
    if args.len() > 2 {
        let named: Result<Vec<PolicyName>, _> = args[2..].iter().map(|name| name.parse()).collect();
        options.policies = named?;
    }
    let report = run(&options, &|_| {})?;
    print!("{}", report.table());
    Ok(())
}
