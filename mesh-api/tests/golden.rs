//! Every message, as it stands on the wire. A change of a golden file is a change of the protocol:
//! fields may be added, never renamed, removed or given another meaning.
//!
//! `ISOBAR_BLESS=1 cargo test -p isobar-mesh-api --test golden` writes the files anew.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::PathBuf;
use std::sync::Arc;

use isobar_mesh_api::enrol::EnrolRequest;
use isobar_mesh_api::errand::{BenchLink, Errand, ErrandDone, LinkFigures, Said, What};
use isobar_mesh_api::message::{
    Certificate, Down, Hello, LocalService, Location, Nack, Revoked, Trust, Up, decode_line,
    encode_line,
};
use isobar_mesh_api::names::{NodeId, RegionName, ServiceName, SiteName};
use isobar_mesh_api::report::{
    MovedIn, MovedOut, NeighbourReport, PlainCalls, RateDemand, Report, ServiceReport,
};
use isobar_mesh_api::resource::Metadata;
use isobar_mesh_api::resource::route::{GrpcRouteSpec, HttpRouteSpec};
use isobar_mesh_api::resource::traffic_policy::Timeouts;
use isobar_mesh_api::resource::{Span, TrafficPolicySpec};
use isobar_mesh_api::route::{Route, RouteKey, RouteKind};
use isobar_mesh_api::snapshot::{
    Credit, Delta, Endpoint, Move, Neighbour, PlanId, QueueLimits, RateShare, Row, ServicePlan,
    Snapshot,
};
use isobar_mesh_api::tap::{Filter, MoveCause, Tap, Tapped, TappedLines};
use serde::{Serialize, de::DeserializeOwned};

const PLAN: PlanId = PlanId {
    epoch: 3,
    generation: 41,
};

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn service() -> ServiceName {
    ServiceName::new("shop/cart").unwrap()
}

fn check<M>(name: &str, message: &M)
where
    M: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.json"));
    let line = String::from_utf8(encode_line(message).unwrap()).unwrap();
    if std::env::var_os("ISOBAR_BLESS").is_some() {
        std::fs::write(&path, &line).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(line, golden, "{name} is written otherwise than before");
    let read: M = decode_line(golden.as_bytes()).unwrap();
    assert_eq!(&read, message, "{name} reads as something else");
}

#[test]
fn hello() {
    let hello = Hello {
        protocol: 1,
        node: node("edge-1"),
        version: "0.1.0".into(),
        mesh_address: "192.0.2.7:7411".into(),
        location: Some(Location {
            lat_deg: -36.843015,
            lon_deg: 174.766494,
        }),
        site: Some(SiteName::new("quay-street").unwrap()),
        region: Some(RegionName::new("auckland").unwrap()),
        services: vec![LocalService {
            service: service(),
            hosts: vec!["cart.example".into()],
            endpoints: vec![endpoint()],
            capacity_rps: Some(200.0),
        }],
        plan: Some(PLAN),
    };
    check("hello", &Up::Hello(hello));
}

#[test]
fn report() {
    let report = Report {
        seq: 7,
        window_us: 1_000_123,
        clock_ms: 1_735_642_800_000,
        cpu_ratio: Some(0.25),
        services: vec![ServiceReport {
            entered: 1200,
            served_home: 180,
            shed: 2,
            failed: 1,
            moved_out: vec![MovedOut {
                to: node("edge-2"),
                plan: 900,
                spill: 117,
                refused: 3,
            }],
            moved_in: vec![MovedIn {
                home: node("edge-3"),
                accepted: 5,
                refused: 1,
            }],
            completed: 185,
            latency_sum_us: 3_700_000,
            latency_min_us: 2_100,
            in_flight_mean_milli: 3_700,
            in_flight: 4,
            backlog: 1,
            workers_up: Some(3),
            concurrency: Some(5),
            rates: vec![RateDemand {
                limit: "all".into(),
                asked: 1200,
            }],
            plain: vec![PlainCalls {
                caller: "192.0.2.9".into(),
                calls: 12,
            }],
            orca_capacity_rps: Some(210.5),
            ..ServiceReport::idle(service())
        }],
        neighbours: vec![NeighbourReport {
            node: node("edge-2"),
            rtt_us: 950,
        }],
    };
    check("report", &Up::Report(report));
}

#[test]
fn ack_and_nack() {
    check("ack", &Up::Ack(PLAN));
    let nack = Nack {
        plan: PLAN,
        reason: "the row of shop/cart sums to 5 ppm, not 1000000".into(),
    };
    check("nack", &Up::Nack(nack));
}

fn endpoint() -> Endpoint {
    Endpoint {
        address: "127.0.0.1:8080".into(),
        workers: 4,
    }
}

fn service_plan() -> ServicePlan {
    ServicePlan {
        service: service(),
        hosts: vec!["cart.example".into()],
        endpoints: vec![endpoint()],
        row: Row {
            home_ppm: 150_000,
            cloud_ppm: 50_000,
            moves: vec![Move {
                to: node("edge-2"),
                weight_ppm: 800_000,
            }],
            shed_ppm: 1_000,
        },
        credits: vec![Credit {
            home: node("edge-2"),
            credit_rps: 62.5,
        }],
        spill: vec![node("edge-2")],
        cloud_address: Some("192.0.2.99:443".into()),
        queue: QueueLimits::default(),
        access: Vec::new(),
        protocol: Some(isobar_mesh_api::resource::EndpointProtocol::Http2),
        traffic: Some(Arc::new(TrafficPolicySpec {
            timeouts: Timeouts {
                request: Span::from_secs(5),
                ..Timeouts::default()
            },
            ..TrafficPolicySpec::default()
        })),
        rate_shares: vec![RateShare {
            limit: "all".into(),
            share_ppm: 250_000,
        }],
    }
}

fn neighbour() -> Neighbour {
    Neighbour {
        node: node("edge-2"),
        mesh_address: "192.0.2.8:7411".into(),
        rtt_us: 950,
    }
}

fn metadata() -> Metadata {
    Metadata {
        name: "cart".into(),
        namespace: "shop".into(),
        creation_timestamp: Some("2026-11-25T10:00:00Z".into()),
        ..Metadata::default()
    }
}

/// Every field that an `HTTPRoute` may have.
fn http_route() -> Arc<Route> {
    let spec: HttpRouteSpec = serde_json::from_value(serde_json::json!({
        "parentRefs": [{ "name": "isobar" }],
        "hostnames": ["cart.example", "*.cart.example"],
        "rules": [
            {
                "name": "new",
                "matches": [{
                    "path": { "type": "PathPrefix", "value": "/v2" },
                    "headers": [{ "type": "RegularExpression", "name": "X-Beta", "value": "yes|on" }],
                    "queryParams": [{ "name": "beta", "value": "1" }],
                    "method": "GET"
                }],
                "filters": [
                    { "type": "RequestHeaderModifier", "requestHeaderModifier": {
                        "set": [{ "name": "x-a", "value": "1" }],
                        "add": [{ "name": "x-b", "value": "2" }],
                        "remove": ["x-c"] } },
                    { "type": "ResponseHeaderModifier", "responseHeaderModifier": { "remove": ["server"] } },
                    { "type": "URLRewrite", "urlRewrite": { "hostname": "new.example",
                        "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" } } },
                    { "type": "Fault", "fault": {
                        "delay": { "duration": "100ms", "percent": 5 },
                        "abort": { "httpStatus": 500, "grpcStatus": 13, "percent": 1 } } }
                ],
                "backendRefs": [
                    { "name": "cart", "weight": 9 },
                    { "name": "cart", "namespace": "beta", "filters": [
                        { "type": "RequestHeaderModifier", "requestHeaderModifier": { "remove": ["x-d"] } }] }
                ],
                "timeouts": { "request": "10s", "backendRequest": "2s500ms" }
            },
            {
                "matches": [{ "path": { "type": "Exact", "value": "/old" } }],
                "filters": [{ "type": "RequestRedirect", "requestRedirect": { "scheme": "https",
                    "hostname": "new.example", "port": 8443, "statusCode": 308,
                    "path": { "type": "ReplaceFullPath", "replaceFullPath": "/new" } } }]
            }
        ]
    }))
    .unwrap();
    Arc::new(Route::from_http(&metadata(), &spec).unwrap())
}

fn grpc_route() -> Arc<Route> {
    let spec: GrpcRouteSpec = serde_json::from_value(serde_json::json!({
        "rules": [{
            "matches": [
                { "method": { "service": "shop.Cart", "method": "Add" } },
                { "method": { "service": "shop.Cart" } },
                { "method": { "method": "Add" } },
                { "method": { "type": "RegularExpression", "service": "shop\\.[A-Z].*" },
                  "headers": [{ "name": "x-tenant", "value": "a" }] }
            ],
            "backendRefs": [{ "name": "cart" }]
        }]
    }))
    .unwrap();
    Arc::new(Route::from_grpc(&metadata(), &spec).unwrap())
}

#[test]
fn snapshot_and_delta() {
    let snapshot = Snapshot {
        plan: PLAN,
        node: node("edge-1"),
        period_ms: 1000,
        neighbours: vec![neighbour()],
        services: vec![service_plan()],
        routes: vec![http_route()],
    };
    snapshot.check().unwrap();
    check("snapshot", &Down::Snapshot(snapshot));
    let delta = Delta {
        plan: PLAN,
        base: PlanId {
            epoch: 3,
            generation: 40,
        },
        neighbours: Some(vec![neighbour()]),
        services: vec![service_plan()],
        removed: vec![ServiceName::new("shop/old").unwrap()],
        routes: vec![grpc_route()],
        routes_removed: vec![RouteKey {
            kind: RouteKind::Http,
            name: ServiceName::new("shop/old").unwrap(),
        }],
    };
    check("delta", &Down::Delta(delta));
}

#[test]
fn trust() {
    let trust = Trust {
        version: 7,
        roots_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        signs: "0a".repeat(32),
        revoked: vec![Revoked {
            node: node("edge-9"),
            begins_before_s: 1_800_000_000,
        }],
    };
    check("trust", &Down::Trust(trust));
    check("trusted", &Up::Trusted { version: 7 });
    let secret = Certificate {
        chain_pem: String::new(),
        roots_pem: String::new(),
        renewal: Some("very-secret".into()),
    };
    assert!(!format!("{secret:?}").contains("secret"));
}

#[test]
fn certificate_and_ping() {
    let certificate = Certificate {
        chain_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        roots_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        renewal: None,
    };
    check("certificate", &Down::Certificate(certificate));
    check("ping", &Down::Ping { clock_ms: 5 });
}

#[test]
fn taps() {
    let tap = Tap {
        tap: 5,
        lifetime_ms: 15_000,
        lines_per_s_max: 50,
        filter: Filter {
            service: Some(service()),
            method: Some("GET".into()),
            path: Some("/x".into()),
            status: "5xx".parse().ok(),
            moved: true,
            to: Some(node("edge-2")),
        },
        headers: vec!["user-agent".into()],
    };
    check("tap", &Down::Tap(tap));
    let of_none = Tap {
        tap: 6,
        lifetime_ms: 15_000,
        lines_per_s_max: 50,
        filter: Filter {
            service: None,
            method: None,
            path: None,
            status: None,
            moved: false,
            to: None,
        },
        headers: Vec::new(),
    };
    check("tap-of-no-service", &Down::Tap(of_none));
    check("untap", &Down::Untap { tap: 5 });
    let request = Tapped {
        at_ms: 1_735_642_800_000,
        served: Some(node("edge-2")),
        moved: Some(MoveCause::Spill),
        method: "GET".into(),
        path: "/x/1".into(),
        status: 503,
        latency_us: 12_345,
        received_len: None,
        sent_len: None,
        headers: vec![("user-agent".into(), "curl".into())],
        answer_headers: vec![("user-agent".into(), "none".into())],
    };
    let connection = Tapped {
        at_ms: 1_735_642_800_000,
        served: Some(node("edge-2")),
        moved: Some(MoveCause::Plan),
        method: "TCP".into(),
        path: String::new(),
        status: 0,
        latency_us: 90_000_000,
        received_len: Some(120),
        sent_len: Some(3400),
        headers: Vec::new(),
        answer_headers: Vec::new(),
    };
    let of_connection = TappedLines {
        tap: 5,
        requests: vec![connection],
        left_out: 0,
    };
    check("tapped-connection", &Up::Tapped(of_connection));
    let lines = TappedLines {
        tap: 5,
        requests: vec![request],
        left_out: 3,
    };
    check("tapped", &Up::Tapped(lines));
}

#[test]
fn errands() {
    let levels = What::LogLevels("debug".into());
    check(
        "errand_log_levels",
        &Down::Errand(Errand {
            number: 9,
            what: levels,
        }),
    );
    let link = What::BenchLink(BenchLink {
        to: node("edge-2"),
        mesh_address: "192.0.2.8:7411".into(),
    });
    check(
        "errand_bench_link",
        &Down::Errand(Errand {
            number: 10,
            what: link,
        }),
    );
    let said = |number, said| Up::Done(ErrandDone { number, said });
    let before = "info".into();
    check("done_log_levels", &said(9, Said::LogLevels { before }));
    let figures = LinkFigures {
        rounds: 200,
        rtt_min_us: 800,
        rtt_p50_us: 950,
        rtt_p99_us: 2_100,
        bytes: 67_108_864,
        took_us: 3_000_000,
    };
    check("done_bench_link", &said(10, Said::Link(figures)));
    let busy = Said::Failed("busy".into());
    check("done_failed", &said(11, busy));
}

#[test]
fn a_token_is_never_printed() {
    let request = EnrolRequest {
        node: node("edge-1"),
        csr_pem: String::new(),
        token: "very-secret".into(),
        site: None,
    };
    assert!(!format!("{request:?}").contains("secret"));
}
