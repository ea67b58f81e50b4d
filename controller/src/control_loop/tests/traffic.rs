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

#[test]
fn a_rate_of_the_mesh_is_divided_by_what_is_asked() {
    let mut grid = Grid::new(2, 1, 0);
    let limit = r#"{"rate_limits": [{"name": "all", "requests": 100, "scope": "mesh"},
        {"name": "own", "requests": 5}]}"#;
    let policy: TrafficPolicySpec = serde_json::from_str(limit).unwrap();
    grid.mesh
        .set_traffic_policies(vec![("p".to_owned(), policy)]);
    let told = |grid: &Grid, index: usize| -> Vec<(String, u32)> {
        let shares = &grid.have[&node(index)].services[0].rate_shares;
        shares
            .iter()
            .map(|s| (s.limit.clone(), s.share_ppm))
            .collect()
    };
    let parts = |grid: &Grid| [0, 1, 2, 3].map(|index| told(grid, index)[0].1);
    grid.period(|_| Some(10.0));
    assert_eq!(parts(&grid), [250_000; 4]);
    assert_eq!(told(&grid, 0).len(), 1, "only what holds for the mesh");
    // A crowd at one of them: it gets what it asks for, the others what is left, equally.
    grid.asked.insert(0, 60);
    grid.period(|_| Some(10.0));
    assert_eq!(parts(&grid), [700_000, 100_000, 100_000, 100_000]);
    // At two, beyond the limit. The first is told nothing: 725 000 is near enough to what it has.
    grid.asked.extend([(0, 300), (1, 100)]);
    grid.period(|_| Some(10.0));
    assert_eq!(parts(&grid), [700_000, 250_000, 12_500, 12_500]);
    // What hardly changes is not told.
    grid.asked.insert(0, 310);
    assert_eq!(grid.period(|_| Some(10.0)).deltas, 0);
    // The first falls silent. It goes on with what it has; the others divide the whole.
    let silent = |index: usize| (index > 0).then_some(10.0);
    (0..8).for_each(|_| _ = grid.period(silent));
    let now = parts(&grid);
    assert!((700_000..750_000).contains(&now[0]), "{now:?}");
    let others: u32 = now[1..].iter().sum();
    assert!((900_000..=1_000_000).contains(&others), "{now:?}");
    // Without the policy there is nothing to divide.
    grid.mesh.set_traffic_policies(Vec::new());
    grid.period(|_| Some(10.0));
    assert!(told(&grid, 1).is_empty());
}
