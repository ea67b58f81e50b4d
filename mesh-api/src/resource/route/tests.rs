use super::*;
use serde_json::{Value, json};

fn check(spec: Value) -> Result<(), String> {
    let spec: HttpRouteSpec = serde_json::from_value(spec).map_err(|e| e.to_string())?;
    check_http(&spec).map_err(|e| e.to_string())
}

fn refused(spec: Value, words: &[&str]) {
    let error = check(spec.clone()).expect_err(&spec.to_string());
    for word in words {
        assert!(error.contains(word), "{spec}: {error}");
    }
}

fn with_match(one: Value) -> Value {
    json!({ "rules": [{ "matches": [one] }] })
}

fn with_filter(filter: Value) -> Value {
    json!({ "rules": [{ "filters": [filter] }] })
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    refused(
        json!({ "useDefaultGateways": "All" }),
        &["useDefaultGateways"],
    );
    refused(json!({ "rules": [{ "retry": {} }] }), &["retry"]);
    refused(
        with_filter(json!({ "type": "CORS", "cors": {} })),
        &["cors", "requestMirror", "fault"],
    );
    refused(
        with_filter(json!({ "type": "CORS" })),
        &["CORS", "URLRewrite"],
    );
    refused(with_match(json!({ "method": "PURGE" })), &["PURGE", "GET"]);
    refused(
        with_match(json!({ "method": "CONNECT" })),
        &["rules/0/matches/0/method", "CONNECT"],
    );
    refused(
        with_match(json!({ "path": { "type": "Glob", "value": "/" } })),
        &["Glob", "PathPrefix"],
    );
    refused(
        with_filter(
            json!({ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "a" }, "percent": 101 } }),
        ),
        &["rules/0/filters/0/requestMirror/percent", "0 to 100"],
    );
    refused(
        json!({ "rules": [{ "sessionPersistence": { "idleTimeout": "1h" } }] }),
        &["rules/0/sessionPersistence/idleTimeout", "not supported"],
    );
    refused(
        json!({ "rules": [{ "sessionPersistence": { "absoluteTimeout": "1h" } }] }),
        &["rules/0/sessionPersistence/absoluteTimeout", "Permanent"],
    );
    let backend = |backend: Value| json!({ "rules": [{ "backendRefs": [backend] }] });
    refused(
        backend(json!({ "name": "a", "port": 80 })),
        &["rules/0/backendRefs/0/port", "leave it out"],
    );
    refused(
        backend(json!({ "name": "a", "kind": "ServiceImport" })),
        &["kind", "Service"],
    );
    refused(
        json!({ "parentRefs": [{ "name": "other" }] }),
        &["parentRefs/0/name", "isobar"],
    );
    refused(
        json!({ "parentRefs": [{ "name": "isobar", "sectionName": "a" }] }),
        &["sectionName"],
    );
    check(json!({ "parentRefs": [{ "kind": "Gateway", "name": "isobar", "namespace": "infra" }] }))
        .unwrap();
}

#[test]
fn limits_are_the_gateway_apis_own() {
    let names = |n: usize| (0..n).map(|i| format!("h{i}.example")).collect::<Vec<_>>();
    check(json!({ "hostnames": names(16) })).unwrap();
    refused(json!({ "hostnames": names(17) }), &["hostnames", "16"]);
    let rules = |rules: usize, matches: usize| {
        let one: Vec<Value> = (0..matches).map(|_| json!({})).collect();
        let rule = json!({ "matches": one });
        json!({ "rules": vec![rule; rules] })
    };
    check(rules(16, 8)).unwrap();
    check(rules(2, 64)).unwrap();
    refused(rules(17, 1), &["rules", "16"]);
    refused(rules(1, 65), &["rules/0/matches", "64"]);
    refused(rules(16, 9), &["rules", "144", "128"]);
    let backends =
        |n: usize| json!({ "rules": [{ "backendRefs": vec![json!({ "name": "a" }); n] }] });
    check(backends(16)).unwrap();
    refused(backends(17), &["backendRefs", "16"]);
    refused(
        json!({ "rules": [{ "backendRefs": [{ "name": "a", "weight": 1_000_001 }] }] }),
        &["weight"],
    );
}

#[test]
fn matches_say_what_is_wrong_with_them() {
    for path in [
        "x", "/a//b", "/./a", "/a/..", "/a%2Fb", "/a%zz", "/a b", "/a#b", "/a?b", "/%00",
    ] {
        refused(
            with_match(json!({ "path": { "type": "Exact", "value": path } })),
            &["rules/0/matches/0/path/value"],
        );
    }
    for path in ["/", "/a", "/a/", "/a%20b", "/a.b/..c/~"] {
        check(with_match(json!({ "path": { "value": path } }))).unwrap();
    }
    for regex in ["(", "a)|(?:b", "[z-a]", "", "a{1000}{1000}"] {
        refused(
            with_match(json!({ "path": { "type": "RegularExpression", "value": regex } })),
            &["path/value"],
        );
    }
    let header = |name: &str| json!({ "name": name, "value": "1" });
    refused(
        with_match(json!({ "headers": [header("a b")] })),
        &["headers/0/name"],
    );
    refused(
        with_match(json!({ "headers": [header("x-a"), header("X-A")] })),
        &["headers/1/name", "twice"],
    );
    check(with_match(
        json!({ "queryParams": [header("a"), header("A")] }),
    ))
    .unwrap();
    for host in [
        "Cart.example",
        "cart.example:80",
        "*",
        "a.*.b",
        "10.0.0.1",
        "a..b",
        "*.10.0.0.1",
    ] {
        refused(json!({ "hostnames": [host] }), &["hostnames/0"]);
    }
}

#[test]
fn filters_say_what_is_wrong_with_them() {
    let modifier = |m: Value| {
        with_filter(json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": m }))
    };
    for name in [
        "Host",
        "Connection",
        "content-length",
        "Isobar-Hop",
        "transfer-encoding",
        "a b",
    ] {
        refused(
            modifier(json!({ "set": [{ "name": name, "value": "1" }] })),
            &["requestHeaderModifier/set/0/name"],
        );
        refused(
            modifier(json!({ "remove": [name] })),
            &["requestHeaderModifier/remove/0"],
        );
    }
    refused(
        modifier(json!({ "set": [{ "name": "a", "value": "1\r\nb: 2" }] })),
        &["set/0/value"],
    );
    refused(
        with_filter(json!({ "type": "URLRewrite" })),
        &["urlRewrite is missing"],
    );
    refused(
        with_filter(json!({ "type": "URLRewrite", "urlRewrite": {}, "fault": { "abort": {} } })),
        &["fault does not belong"],
    );
    refused(
        json!({ "rules": [{
            "matches": [{ "path": { "type": "Exact", "value": "/a" } }],
            "filters": [{ "type": "URLRewrite", "urlRewrite": {
                "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/b" } } }] }] }),
        &["ReplacePrefixMatch", "PathPrefix"],
    );
    let redirect = json!({ "type": "RequestRedirect", "requestRedirect": {} });
    refused(
        json!({ "rules": [{ "filters": [redirect], "backendRefs": [{ "name": "a" }] }] }),
        &["rules/0/filters", "backendRefs"],
    );
    refused(
        json!({ "rules": [{ "backendRefs": [{ "name": "a", "filters": [redirect] }] }] }),
        &["rules/0/backendRefs/0/filters/0/type", "RequestRedirect"],
    );
    refused(
        with_filter(json!({ "type": "RequestRedirect", "requestRedirect": { "statusCode": 300 } })),
        &["statusCode", "308"],
    );
    let fault = |f: Value| with_filter(json!({ "type": "Fault", "fault": f }));
    refused(fault(json!({})), &["delay or abort"]);
    refused(
        fault(json!({ "delay": { "duration": "61s" } })),
        &["duration", "60s"],
    );
    refused(
        fault(json!({ "abort": { "httpStatus": 200 } })),
        &["httpStatus"],
    );
    refused(fault(json!({ "abort": { "percent": 101 } })), &["percent"]);
    refused(
        fault(json!({ "abort": { "percent": 1, "fraction": { "numerator": 1 } } })),
        &["fraction"],
    );
    refused(
        json!({ "rules": [{ "timeouts": { "request": "1s", "backendRequest": "2s" } }] }),
        &["timeouts/backendRequest"],
    );
}

#[test]
fn grpc_methods_become_paths() {
    let check = |method: Value, kind, value: &str| {
        let spec = json!({ "rules": [{ "matches": [{ "method": method }] }] });
        let spec: GrpcRouteSpec = serde_json::from_value(spec).unwrap();
        check_grpc(&spec).unwrap();
        let path = &spec.rules[0].to_http().matches[0].path;
        assert_eq!((path.kind, path.value.as_str()), (kind, value));
    };
    use PathMatchType::{Exact, PathPrefix, RegularExpression};
    check(json!({ "service": "a.B", "method": "C" }), Exact, "/a.B/C");
    check(json!({ "service": "a.B" }), PathPrefix, "/a.B");
    check(json!({ "method": "C" }), RegularExpression, "/[^/]+/C");
    let regex = json!({ "type": "RegularExpression", "service": "a|b" });
    check(regex, RegularExpression, "/(?:a|b)/[^/]+");
    let refused = |method: Value| {
        let spec = json!({ "rules": [{ "matches": [{ "method": method }] }] });
        let spec: GrpcRouteSpec = serde_json::from_value(spec).unwrap();
        check_grpc(&spec).unwrap_err().to_string()
    };
    assert!(refused(json!({})).contains("rules/0/matches/0/method"));
    assert!(refused(json!({ "service": "a/b" })).contains("method/service"));
    let spec = json!({ "rules": [{ "filters": [{ "type": "URLRewrite", "urlRewrite": {} }] }] });
    let spec: GrpcRouteSpec = serde_json::from_value(spec).unwrap();
    assert!(
        check_grpc(&spec)
            .unwrap_err()
            .to_string()
            .contains("URLRewrite")
    );
}

#[test]
fn shares_are_parts_per_million() {
    let fraction = |numerator, denominator| {
        Some(Fraction {
            numerator,
            denominator,
        })
    };
    let cases = [
        (None, None, 1_000_000),
        (Some(7), None, 70_000),
        (None, fraction(1, 3), 333_333),
        (None, fraction(2, 3), 666_667),
        (None, fraction(1, 1_000_000), 1),
        (Some(0), None, 0),
    ];
    for (percent, fraction, expected) in cases {
        assert_eq!(share_ppm(percent, fraction), expected);
    }
}

#[test]
fn a_tcp_route_is_for_listeners() {
    let check = |spec: Value| {
        let spec: TcpRouteSpec = serde_json::from_value(spec).map_err(|e| e.to_string())?;
        check_tcp(&spec).map_err(|e| e.to_string())
    };
    let parent = json!([{ "name": "isobar", "sectionName": "db" }]);
    let good = json!({ "parentRefs": parent, "rules": [{ "backendRefs": [
        { "name": "db", "weight": 9 }, { "name": "db-next", "weight": 1 }] }] });
    check(good).unwrap();
    let service = json!([{ "group": "", "kind": "Service", "name": "db" }]);
    let to_service = json!({ "parentRefs": service, "rules": [{}] });
    check(to_service.clone()).unwrap();
    let spec: TcpRouteSpec = serde_json::from_value(to_service).unwrap();
    let names: Vec<String> = spec
        .parents("shop")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["shop/db"]);
    let wrong = [
        (
            json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": "db", "sectionName": "a" }], "rules": [{}] }),
            "parentRefs/0/sectionName",
        ),
        (
            json!({ "parentRefs": [{ "group": "", "kind": "Service", "name": "a b" }], "rules": [{}] }),
            "parentRefs/0/name",
        ),
        (
            json!({ "parentRefs": [{ "kind": "Service", "name": "db" }], "rules": [{}] }),
            "parentRefs/0/kind",
        ),
        (json!({ "rules": [{}] }), "sectionName"),
        (
            json!({ "parentRefs": [{ "name": "isobar" }], "rules": [{}] }),
            "parentRefs/0/sectionName",
        ),
        (json!({ "parentRefs": parent, "rules": [] }), "exactly one"),
        (
            json!({ "parentRefs": parent, "rules": [{}, {}] }),
            "exactly one",
        ),
        (
            json!({ "parentRefs": parent, "hostnames": ["a"] }),
            "hostnames",
        ),
        (
            json!({ "parentRefs": parent, "rules": [{ "backendRefs": [{ "name": "db", "filters": [
                { "type": "URLRewrite", "urlRewrite": { "hostname": "a" } }] }] }] }),
            "rules/0/backendRefs/0/filters",
        ),
    ];
    for (spec, word) in wrong {
        let error = check(spec.clone()).expect_err(&spec.to_string());
        assert!(error.contains(word), "{spec}: {error}");
    }
    // Only it is for single listeners.
    refused(
        json!({ "parentRefs": parent }),
        &["parentRefs/0/sectionName"],
    );
}
