use isobar_mesh_api::resource::{Span, TrafficPolicySpec};

use super::*;

fn policy(request_ms: u64, change: impl FnOnce(&mut TrafficPolicySpec)) -> TrafficPolicySpec {
    let mut policy = TrafficPolicySpec::default();
    policy.timeouts.request = Span::from_millis(request_ms);
    change(&mut policy);
    policy
}

#[test]
fn the_policy_for_a_service_reaches_its_proxies_once() {
    let mut grid = Grid::new(2, 1, 0);
    grid.tick();
    let told = |grid: &Grid| {
        let traffic = grid.have[&node(0)].services[0].traffic.clone();
        traffic.map(|policy| policy.timeouts.request.as_millis())
    };
    assert_eq!(told(&grid), None);
    let label = |p: &mut TrafficPolicySpec| _ = p.labels.insert("tier".into(), "front".into());
    let all = ("a-all".to_owned(), policy(1, |_| {}));
    let labelled = ("b-labelled".to_owned(), policy(2, label));
    let named = ("c-named".to_owned(), policy(3, |p| p.services.push(cart())));
    let broken = ("0-broken".to_owned(), policy(99_999_999_999, |_| {}));
    let mut policies = vec![broken, all, labelled, named];
    let set = |grid: &mut Grid, policies: &[(String, TrafficPolicySpec)]| {
        grid.mesh.set_traffic_policies(policies.to_vec());
        grid.tick()
    };
    assert_eq!(set(&mut grid, &policies).deltas, 4);
    assert_eq!(told(&grid), Some(3), "one that names it comes first");
    let spec = grid.have[&node(0)].services[0].traffic.clone().unwrap();
    assert!(
        spec.services.is_empty(),
        "whom else it is for is nobody's business"
    );
    // Said again: nothing is pushed.
    assert_eq!(set(&mut grid, &policies).deltas, 0);
    policies.pop();
    set(&mut grid, &policies);
    assert_eq!(told(&grid), Some(1), "without its label");
    let labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
    grid.mesh.set_labels(&cart(), labels);
    grid.tick();
    assert_eq!(told(&grid), Some(2));
    set(&mut grid, &[]);
    assert_eq!(told(&grid), None);
}
