use super::*;

fn read(text: &str) -> Result<TrafficPolicySpec, String> {
    let spec: TrafficPolicySpec = serde_json::from_str(text).map_err(|e| e.to_string())?;
    spec.check().map_err(|e| e.to_string())?;
    Ok(spec)
}

#[test]
fn the_defaults_are_sound_and_say_nothing() {
    let spec = read("{}").unwrap();
    assert_eq!(spec, TrafficPolicySpec::default());
    assert_eq!(serde_json::to_string(&spec).unwrap(), "{}");
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (r#"{"timeout": {}}"#, "timeout"),
        (r#"{"timeouts": {"conect": "1s"}}"#, "conect"),
        (r#"{"timeouts": {"connect": "1"}}"#, "250ms"),
        (r#"{"timeouts": {"connect": "0s"}}"#, "timeouts/connect"),
        (r#"{"timeouts": {"request": "25h"}}"#, "timeouts/request"),
        (r#"{"retries": {"attempts": 0}}"#, "retries/attempts"),
        (r#"{"retries": {"on": ["panic"]}}"#, "panic"),
        (
            r#"{"retries": {"budget_ratio": 1.5}}"#,
            "retries/budget_ratio",
        ),
        (
            r#"{"retries": {"backoff_base": "2s"}}"#,
            "retries/backoff_max",
        ),
        (
            r#"{"circuit": {"failure_ratio": -1}}"#,
            "circuit/failure_ratio",
        ),
        (r#"{"circuit": {"window": "10ms"}}"#, "circuit/window"),
        (
            r#"{"circuit": {"half_open_probes": 0}}"#,
            "circuit/half_open_probes",
        ),
        (r#"{"outlier": {"ejected_max": 2}}"#, "outlier/ejected_max"),
        (
            r#"{"outlier": {"latency_ratio": 1}}"#,
            "outlier/latency_ratio",
        ),
        (
            r#"{"endpoints": {"protocol": "http2", "proxy_protocol": "v2"}}"#,
            "endpoints/proxy_protocol",
        ),
        (r#"{"endpoints": {"protocol": "http3"}}"#, "http3"),
        (r#"{"health_check": {"path": "x"}}"#, "health_check/path"),
        (
            r#"{"health_check": {"interval": "1ms"}}"#,
            "health_check/interval",
        ),
        (
            r#"{"load_balancing": {"algorithm": "maglev"}}"#,
            "load_balancing/key",
        ),
        (r#"{"load_balancing": {"key": {}}}"#, "load_balancing/key"),
        (
            r#"{"load_balancing": {"affinity": {"name": "a b"}}}"#,
            "load_balancing/affinity",
        ),
        (
            r#"{"queue": {"per_worker_max": 10001}}"#,
            "queue/per_worker_max",
        ),
        (
            r#"{"queue": {"priority": {"header": "x", "classes": []}}}"#,
            "queue/priority/classes",
        ),
        (
            r#"{"queue": {"priority": {"header": "x", "classes": ["a"], "default": "b"}}}"#,
            "queue/priority/default",
        ),
        (
            r#"{"sizes": {"buffer_len_max": 99999999}}"#,
            "sizes/buffer_len_max",
        ),
        (
            r#"{"concurrency": {"min": 5, "max": 4}}"#,
            "concurrency/max",
        ),
        (r#"{"rate_limits": [{"name": "a"}]}"#, "requests"),
        (
            r#"{"rate_limits": [{"name": "a", "requests": 0}]}"#,
            "rate_limits/requests",
        ),
        (
            r#"{"rate_limits": [{"name": "a", "requests": 1, "by": "header"}]}"#,
            "rate_limits/header",
        ),
        (
            r#"{"rate_limits": [{"name": "a", "requests": 1}, {"name": "a", "requests": 1}]}"#,
            "twice",
        ),
        (
            r#"{"rate_limits": [{"name": "a", "requests": 1, "by": "source", "scope": "mesh"}]}"#,
            "rate_limits/scope",
        ),
    ];
    for (text, field) in cases {
        let error = read(text).unwrap_err();
        assert!(error.contains(field), "{text}: {error}");
    }
}

#[test]
fn services_are_selected_by_name_or_by_labels() {
    let service = |name| ServiceName::new(name).unwrap();
    let labels = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        list.iter().map(own).collect()
    };
    let cases = [
        ("{}", true, true),
        (r#"{"services": ["shop/cart"]}"#, true, false),
        (r#"{"labels": {"tier": "front"}}"#, false, true),
        (r#"{"labels": {"tier": "front", "x": "y"}}"#, false, false),
        (
            r#"{"services": ["shop/cart"], "labels": {"tier": "front"}}"#,
            true,
            true,
        ),
    ];
    for (text, cart, other) in cases {
        let spec = read(text).unwrap();
        assert_eq!(
            spec.selects(&service("shop/cart"), &labels(&[])),
            cart,
            "{text}"
        );
        let front = labels(&[("tier", "front"), ("a", "b")]);
        assert_eq!(
            spec.selects(&service("shop/other"), &front),
            other,
            "{text}"
        );
    }
}

#[test]
fn the_page_for_operators_has_an_example_that_is_taken() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/traffic-policy.md");
    let page = std::fs::read_to_string(page).unwrap();
    let example = page
        .split("```json")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let resource: crate::resource::Resource = serde_json::from_str(example).unwrap();
    let crate::resource::Resource::TrafficPolicy { spec, .. } = resource else {
        panic!("the example is no traffic policy");
    };
    spec.check().unwrap();
}
