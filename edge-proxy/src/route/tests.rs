use super::*;
use http::Request;
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::{GrpcRouteSpec, HttpRouteSpec, Metadata};
use isobar_mesh_api::route::Route;
use proptest::prelude::*;
use serde_json::{Value, json};

mod naive;

fn metadata(name: &str, created: &str) -> Metadata {
    Metadata {
        name: name.to_owned(),
        creation_timestamp: Some(created.to_owned()),
        ..Metadata::default()
    }
}

/// A route of this name; backends are of no interest here.
fn route(name: &str, spec: Value) -> Arc<Route> {
    created(name, "", spec)
}

fn created(name: &str, created: &str, spec: Value) -> Arc<Route> {
    let spec: HttpRouteSpec = serde_json::from_value(spec).unwrap();
    Arc::new(Route::from_http(&metadata(name, created), &spec).unwrap())
}

fn grpc(name: &str, spec: Value) -> Arc<Route> {
    let spec: GrpcRouteSpec = serde_json::from_value(spec).unwrap();
    Arc::new(Route::from_grpc(&metadata(name, ""), &spec).unwrap())
}

fn table(routes: &[Arc<Route>], services: &[(&str, &[&str])]) -> RouteTable {
    let named: Vec<(ServiceName, Vec<String>)> = services
        .iter()
        .map(|(name, hosts)| {
            let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
            (ServiceName::new(name).unwrap(), hosts)
        })
        .collect();
    let named: Vec<(&ServiceName, &[String])> =
        named.iter().map(|(n, h)| (n, h.as_slice())).collect();
    let services = Services {
        named: &named,
        threads: 1,
    };
    RouteTable::compile(routes, services, None)
}

/// A request line and headers, `GET shop /path x-a=1 x-b=2`.
fn request(text: &str) -> (Option<&str>, Parts) {
    let mut words = text.split_whitespace();
    let (method, host, uri) = (
        words.next().unwrap(),
        words.next().unwrap(),
        words.next().unwrap(),
    );
    let mut request = Request::builder().method(method).uri(uri);
    for header in words {
        let (name, value) = header.split_once('=').unwrap();
        request = request.header(name, value);
    }
    let host = (host != "-").then_some(host);
    (host, request.body(()).unwrap().into_parts().0)
}

/// `route/rule`, `service n`, or why it is lost.
fn found(table: &RouteTable, text: &str) -> String {
    let (host, head) = request(text);
    match table.find(host, &head) {
        Ok(Found::Service(place)) => format!("service {place}"),
        Ok(Found::Rule { rule, .. }) => format!("{}/{}", rule.route.name.name(), rule.place),
        Err(lost) => format!("{lost:?}"),
    }
}

fn check(table: &RouteTable, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(found(table, text), *expected, "{text}");
    }
}

/// A spec whose rules have one match each.
fn rules(hosts: &[&str], matches: &[Value]) -> Value {
    let rules: Vec<Value> = matches
        .iter()
        .map(|one| json!({ "matches": [one] }))
        .collect();
    json!({ "hostnames": hosts, "rules": rules })
}

fn path(kind: &str, value: &str) -> Value {
    json!({ "path": { "type": kind, "value": value } })
}

fn prefix(value: &str) -> Value {
    path("PathPrefix", value)
}

#[test]
fn hosts_exact_before_wildcard_longest_first() {
    let table = table(
        &[
            route("any", rules(&[], &[prefix("/")])),
            route("wild", rules(&["*.example"], &[prefix("/")])),
            route("wilder", rules(&["*.shop.example"], &[prefix("/")])),
            route("exact", rules(&["cart.shop.example"], &[prefix("/only")])),
        ],
        &[("a/a", &["own.example"]), ("a/b", &["*"])],
    );
    check(
        &table,
        &[
            ("GET cart.shop.example /only", "exact/0"),
            ("GET CART.Shop.Example. /only/x", "exact/0"),
            // What an exact name's rules do not fit, the next best name's may.
            ("GET cart.shop.example /", "wilder/0"),
            ("GET a.b.shop.example /", "wilder/0"),
            ("GET shop.example /", "wild/0"),
            ("GET example /", "any/0"),
            ("GET .example /", "wild/0"),
            ("GET own.example /", "service 0"),
            ("GET other /", "any/0"),
            ("GET - /", "any/0"),
        ],
    );
    let long = format!("GET {}.example /", "a".repeat(300));
    check(&table, &[(&long, "any/0")]);
}

#[test]
fn a_service_without_a_route_is_found_by_its_own_hosts() {
    let own = table(
        &[],
        &[
            ("a/a", &["Own.example", "x"]),
            ("a/b", &["x", "y"]),
            ("a/c", &[]),
        ],
    );
    check(
        &own,
        &[
            ("GET own.example /%2e%2e%2f", "service 0"),
            ("GET x /", "service 0"),
            ("GET y /", "service 1"),
            ("GET z /", "Host"),
            ("GET - /", "Host"),
        ],
    );
    let any = table(&[], &[("a/a", &["x"]), ("a/b", &["*"]), ("a/c", &["*"])]);
    check(
        &any,
        &[
            ("GET x /", "service 0"),
            ("GET z /", "service 1"),
            ("GET - /", "service 1"),
        ],
    );
    // A name that a route has is the route's alone.
    let taken = table(
        &[route("r", rules(&["x"], &[prefix("/a")]))],
        &[("a/a", &["x", "y"])],
    );
    check(
        &taken,
        &[
            ("GET x /a", "r/0"),
            ("GET x /", "Rule"),
            ("GET y /", "service 0"),
        ],
    );
}

#[test]
fn paths_exact_then_pattern_then_longest_prefix() {
    let table = table(
        &[route(
            "r",
            rules(
                &[],
                &[
                    prefix("/"),
                    prefix("/a/b/"),
                    prefix("/a"),
                    path("Exact", "/a/b"),
                    path("RegularExpression", "/v[0-9]+/.*"),
                    path("RegularExpression", "/v[0-9]+/users/.*"),
                    prefix("/v1/users"),
                    path("Exact", "/v1/users/me"),
                    prefix("/caf%c3%a9"),
                ],
            ),
        )],
        &[],
    );
    check(
        &table,
        &[
            ("GET h /", "r/0"),
            ("GET h /ab", "r/0"),
            ("GET h /a", "r/2"),
            ("GET h /a/", "r/2"),
            ("GET h /a/bc", "r/2"),
            ("GET h /a/b", "r/3"),
            ("GET h /a/b/", "r/1"),
            ("GET h /a/b/c?x=/a", "r/1"),
            ("GET h /A", "r/0"),
            ("GET h /v1/x", "r/4"),
            ("GET h /v1/users/x", "r/5"),
            ("GET h /v1/users/me", "r/7"),
            ("GET h /v1", "r/0"),
            ("GET h /xv1/users/x", "r/0"),
            // Made plain first.
            ("GET h /%61/%62/c", "r/1"),
            ("GET h /x/../a/./b", "r/3"),
            ("GET h /caf%C3%A9/x", "r/8"),
            ("GET h /a%2Fb", "r/0"),
            ("GET h /a/..%2f..%2fetc", "Path"),
            ("GET h //a", "r/0"),
        ],
    );
}

#[test]
fn then_method_then_headers_then_query_then_age() {
    let header = |name: &str| json!({ "name": name, "value": "1" });
    let table = table(
        &[
            created("young", "2026-02-01T00:00:00Z", rules(&[], &[prefix("/")])),
            created(
                "old-b",
                "2026-01-01T00:00:00Z",
                rules(&[], &[prefix("/"), prefix("/")]),
            ),
            created(
                "old-a",
                "2026-01-01T00:00:00Z",
                rules(
                    &[],
                    &[
                        json!({ "queryParams": [header("q")] }),
                        json!({ "headers": [header("x-a")] }),
                        json!({ "headers": [header("x-a"), header("x-b")] }),
                        json!({ "headers": [header("x-a")], "queryParams": [header("q")] }),
                        json!({ "method": "POST" }),
                        json!({ "method": "POST", "queryParams": [header("q"), header("r")] }),
                    ],
                ),
            ),
        ],
        &[],
    );
    check(
        &table,
        &[
            ("GET h /", "old-b/0"),
            ("GET h /?q=1", "old-a/0"),
            ("GET h /?q=2", "old-b/0"),
            ("GET h / X-A=1", "old-a/1"),
            ("GET h / x-a=2", "old-b/0"),
            ("GET h /?q=1 x-a=1", "old-a/3"),
            ("GET h /?q=1 x-a=1 x-b=1", "old-a/2"),
            ("POST h / x-a=1 x-b=1", "old-a/4"),
            ("POST h /?r=1&q=1", "old-a/5"),
            ("PUT h /", "old-b/0"),
        ],
    );
}

#[test]
fn the_longest_path_wins_over_everything_after_it() {
    let table = table(
        &[route(
            "r",
            rules(
                &[],
                &[
                    json!({ "path": { "value": "/a" }, "method": "GET", "headers": [{ "name": "x-a", "value": "1" }] }),
                    json!({ "path": { "value": "/a/b" } }),
                ],
            ),
        )],
        &[],
    );
    check(
        &table,
        &[
            ("GET h /a/b x-a=1", "r/1"),
            ("GET h /a/c x-a=1", "r/0"),
            ("GET h /a/c", "Rule"),
        ],
    );
}

#[test]
fn any_match_of_a_rule_will_do_and_none_means_all() {
    let spec = json!({ "rules": [
        { "matches": [{ "path": { "value": "/a" } }, { "headers": [{ "name": "x-b", "value": "1" }] }] },
        {},
    ] });
    let table = table(&[route("r", spec)], &[]);
    check(
        &table,
        &[
            ("GET h /a", "r/0"),
            ("GET h /c x-b=1", "r/0"),
            ("GET h /c", "r/1"),
            ("OPTIONS h *", "r/1"),
        ],
    );
}

#[test]
fn grpc_routes_are_for_grpc_calls() {
    let spec = json!({ "rules": [
        { "matches": [{ "method": { "service": "shop.Cart", "method": "Add" } }] },
        { "matches": [{ "method": { "service": "shop.Cart" } }] },
        { "matches": [{ "method": { "method": "Add" } }] },
        { "matches": [{ "method": { "type": "RegularExpression", "service": "shop[.].*", "method": "Get.+" } }] },
    ] });
    let table = table(&[grpc("g", spec), route("h", json!({}))], &[]);
    let call = |path: &str| format!("POST h {path} content-type=application/grpc+proto");
    let cases = [
        ("/shop.Cart/Add", "g/0"),
        ("/shop.Cart/Remove", "g/1"),
        ("/shop.Cartoon/Remove", "h/0"),
        ("/shop.Other/Add", "g/2"),
        ("/shop.Other/GetAll", "g/3"),
        ("/shop.Other/Get", "h/0"),
        ("/other/Get1", "h/0"),
    ];
    for (path, expected) in cases {
        check(&table, &[(&call(path), expected)]);
    }
    check(&table, &[("POST h /shop.Cart/Add", "h/0")]);
}

#[test]
fn what_is_forwarded_is_what_was_compared() {
    let table = table(&[route("r", rules(&[], &[prefix("/a")]))], &[]);
    let plain = |text: &str| {
        let (host, head) = request(text);
        match table.find(host, &head) {
            Ok(Found::Rule {
                plain, prefix_len, ..
            }) => (plain, prefix_len),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(plain("GET h /a/b"), (None, 2));
    assert_eq!(plain("GET h /x/%2e./a/%7e"), (Some("/a/~".to_owned()), 2));
}

#[test]
fn turns_go_on_when_a_route_is_compiled_again() {
    let weights = |a: u32, b: u32| {
        let backend = |name: &str, weight: u32| json!({ "name": name, "weight": weight });
        route(
            "r",
            json!({ "rules": [{ "backendRefs": [backend("a", a), backend("b", b)] }] }),
        )
    };
    let name = ServiceName::new("default/a").unwrap();
    let named: [(&ServiceName, &[String]); 1] = [(&name, &[])];
    let services = Services {
        named: &named,
        threads: 1,
    };
    let mut table = RouteTable::compile(&[weights(3, 1)], services, None);
    let mut to_second = 0;
    for round in 0..40 {
        let backend = table.rules()[0].next(0).backend.unwrap();
        to_second += usize::from(backend == 1);
        assert_eq!(
            table.rules()[0].backends[backend].service,
            [Some(0), None][backend]
        );
        // The second half with other weights.
        let next = if round < 19 {
            weights(3, 1)
        } else {
            weights(1, 1)
        };
        table = RouteTable::compile(&[next], services, Some(&table));
    }
    assert_eq!(to_second, 5 + 10);
    let none = RouteTable::compile(&[weights(0, 0)], services, None);
    assert_eq!(none.rules()[0].next(0).backend, None);
}

fn any_value() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![
        Just(("Exact", "1")),
        Just(("Exact", "2")),
        Just(("RegularExpression", "[12]")),
    ]
}

fn any_match() -> impl Strategy<Value = Value> {
    let path = prop_oneof![
        ("Exact|PathPrefix", "/|/[ab]|/[ab]/[ab]|/[ab]/[ab]/|/a/b/c")
            .prop_map(|(k, v)| path(&k, &v)),
        prop::sample::select(&["/a", "/.*", "/[ab]/.*", "/a/b"][..])
            .prop_map(|v| path("RegularExpression", v)),
        Just(json!({})),
    ];
    let values = |names: &'static [&'static str]| {
        let one = prop::sample::subsequence(names, 0..=names.len());
        (one, prop::collection::vec(any_value(), names.len())).prop_map(|(names, values)| {
            let all = names.iter().zip(values);
            all.map(|(n, (k, v))| json!({ "type": k, "name": n, "value": v }))
                .collect::<Vec<_>>()
        })
    };
    let method = prop::option::of(prop::sample::select(&["GET", "POST"][..]));
    (path, values(&["x-a", "x-b"]), values(&["q", "r"]), method).prop_map(
        |(mut one, headers, query, method)| {
            one["headers"] = json!(headers);
            one["queryParams"] = json!(query);
            if let Some(method) = method {
                one["method"] = json!(method);
            }
            one
        },
    )
}

fn any_route() -> impl Strategy<Value = (Value, &'static str)> {
    let hosts = prop::sample::subsequence(&["x.y", "a.x.y", "*.y", "*.x.y"][..], 0..=3);
    let rules = prop::collection::vec(prop::collection::vec(any_match(), 0..3), 0..4);
    let created = prop::sample::select(&["", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"][..]);
    (hosts, rules, created).prop_map(|(hosts, rules, created)| {
        let rules: Vec<Value> = rules
            .into_iter()
            .map(|matches| json!({ "matches": matches }))
            .collect();
        (json!({ "hostnames": hosts, "rules": rules }), created)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_table_finds_what_a_look_at_every_match_finds(
        routes in prop::collection::vec(any_route(), 0..6),
        requests in prop::collection::vec(
            ("GET|POST|PUT", "x\\.y|a\\.x\\.y|b\\.x\\.y|z\\.y|z|y", "/|(/[abc]){1,3}/?|/%61(/\\./b)?|/a/\\.\\.(/b)?",
             "(\\?[qr]=[12](&[qr]=[12])?)?", "( x-a=[12])?( x-b=[12])?"), 1..12),
    ) {
        let names = ["d", "a", "c", "b", "f", "e"];
        let routes: Vec<Arc<Route>> = routes.into_iter().zip(names)
            .map(|((spec, at), name)| created(name, at, spec)).collect();
        let services: [(&str, &[&str]); 2] = [("s/a", &["x.y", "z"]), ("s/b", &["*"])];
        let table = table(&routes, &services);
        for (method, host, path, query, headers) in requests {
            let text = format!("{method} {host} {path}{query}{headers}");
            let (host, head) = request(&text);
            prop_assert_eq!(found(&table, &text), naive::found(&routes, &services, host, &head), "{}", text);
        }
    }
}
