//! scratch
use isobar_replay::{Options, run};
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut options = Options {
        base: args[0].parse().unwrap(),
        seed: args[1].parse().unwrap(),
        ..Options::default()
    };
    options.policies = vec![args[2].parse().unwrap()];
    let report = run(&options, &|_| {}).unwrap();
    let c = &report.runs[0].counted;
    println!("{}", report.json());
    println!("nodes {:?}", c.course.hot_row.nodes);
    for (s, b) in c.course.bins.iter().enumerate() {
        let i = c
            .course
            .hot_row
            .at_s
            .iter()
            .position(|&t| t >= (s + 1) as f64 - 0.05);
        let row = i.map(|i| {
            c.course.hot_row.weights_ppm[i]
                .iter()
                .map(|w| w / 10000)
                .collect::<Vec<_>>()
        });
        println!(
            "{s:3} ended {} fail {} moved {} p99 {:.0} hot {:.0} row {:?}",
            b.ended,
            b.failures,
            b.moved,
            b.p99_ms,
            b.hot_p99_ms,
            row.unwrap_or_default()
        );
    }
}
