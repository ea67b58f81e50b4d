use std::time::Duration;

use tokio::time::Instant;

use super::super::book::Book;
use super::*;

fn spot(ip: &str, machine: &str) -> Spot {
    Spot {
        ip: ip.parse().unwrap(),
        port: 80,
        machine: machine.to_owned(),
        workers: None,
        capacity_rps: None,
    }
}

fn said(service: &str, spots: &[Spot]) -> Said {
    Said {
        service: ServiceName::new(service).unwrap(),
        hosts: vec![format!("{}.example", service.replace('/', "."))],
        spots: spots.to_vec(),
    }
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn known() -> BTreeMap<NodeId, String> {
    let nodes = [
        ("a", "10.0.0.1:7411"),
        ("b", "10.0.0.2:7411"),
        ("six", "[2001:db8::1]:7411"),
        ("t1", "127.0.0.1:1"),
        ("t2", "127.0.0.1:2"),
    ];
    nodes
        .map(|(name, address)| (node(name), address.to_owned()))
        .into()
}

#[test]
fn an_endpoints_node_is_found_by_range_address_or_name() {
    let ranges = [("10.0.0.0/8", "a"), ("10.9.0.0/16", "b")];
    let ranges = ranges
        .map(|(range, name)| (range.parse().unwrap(), node(name)))
        .into();
    let known = known();
    let (with, without) = (
        Nodes {
            ranges: &ranges,
            known: &known,
        },
        Nodes {
            ranges: &BTreeMap::new(),
            known: &known,
        },
    );
    let cases = [
        (&with, "10.9.1.1", "", Some("b")),
        (&with, "10.8.1.1", "b", Some("a")),
        (&without, "10.0.0.2", "a", Some("b")),
        (&without, "2001:db8::1", "", Some("six")),
        (&without, "192.0.2.1", "a", Some("a")),
        (&without, "192.0.2.1", "nobody", None),
        // Two nodes have this address.
        (&without, "127.0.0.1", "t2", Some("t2")),
        (&without, "127.0.0.1", "", None),
    ];
    for (nodes, ip, machine, expected) in cases {
        assert_eq!(
            nodes.of(&spot(ip, machine)),
            expected.map(node),
            "{ip} {machine}"
        );
    }
}

#[test]
fn of_two_sources_the_first_decides_and_the_homeless_are_counted() {
    let mut heavy = spot("10.0.0.1", "");
    heavy.workers = Some(99);
    let first = said("shop/cart", &[spot("10.0.0.1", "")]);
    let second = said(
        "shop/cart",
        &[heavy, spot("10.0.0.2", ""), spot("192.0.2.7", "")],
    );
    let known = known();
    let nodes = Nodes {
        ranges: &BTreeMap::new(),
        known: &known,
    };
    let merged = merge(
        [("dns:x", &first), ("consul:y", &second)].into_iter(),
        &nodes,
    );
    assert_eq!(merged.homeless, 1);
    let seen = merged.endpoints.values();
    let seen: Vec<_> = seen
        .map(|r| (r.name(), r.endpoint.workers, r.source.as_deref().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            (
                "shop/cart/a/10.0.0.1:80".to_owned(),
                EndpointSpec::workers_default(),
                "dns:x"
            ),
            (
                "shop/cart/b/10.0.0.2:80".to_owned(),
                EndpointSpec::workers_default(),
                "consul:y"
            ),
        ]
    );
    let services = merged.services();
    let Resource::Service { spec, .. } = &*services.values().next().unwrap().resource else {
        panic!("no service");
    };
    assert_eq!(spec.hosts, ["shop.cart.example"]);
}

#[test]
fn only_what_differs_is_changed_and_own_registrations_are_left_alone() {
    let known = known();
    let nodes = Nodes {
        ranges: &BTreeMap::new(),
        known: &known,
    };
    let all = said("shop/cart", &[spot("10.0.0.1", ""), spot("10.0.0.2", "")]);
    let merged = merge([("dns:x", &all)].into_iter(), &nodes);
    let none = BTreeMap::new();
    let lease = |registered: &Registered, left_ms| Leased {
        registered: registered.clone(),
        left_ms,
    };
    let [a, b] =
        ["shop/cart/a/10.0.0.1:80", "shop/cart/b/10.0.0.2:80"].map(|n| merged.endpoints[n].clone());
    let names = |changes: Vec<Change>| -> Vec<String> {
        let one = |change: &Change| match change {
            Change::Register(r) => format!("+{}", r.endpoint.node),
            Change::Deregister(place) => format!("-{}", place.node),
            _ => panic!("{change:?}"),
        };
        changes.iter().map(one).collect()
    };
    let fresh = LEASE_S * 1_000;
    assert_eq!(names(wanted(&merged.endpoints, &none, &[])), ["+a", "+b"]);
    let both = [lease(&a, fresh), lease(&b, fresh)];
    assert!(wanted(&merged.endpoints, &none, &both).is_empty());
    let ending = [lease(&a, fresh), lease(&b, fresh / 4)];
    assert_eq!(names(wanted(&merged.endpoints, &none, &ending)), ["+b"]);
    assert_eq!(names(wanted(&none, &none, &both)), ["-a", "-b"]);
    let adopted = BTreeMap::from([(a.name(), a.clone())]);
    assert_eq!(names(wanted(&none, &adopted, &both)), ["-b"]);
    let own = Registered { source: None, ..a };
    assert!(wanted(&none, &none, &[lease(&own, 1)]).is_empty());
    assert_eq!(
        names(wanted(&merged.endpoints, &none, &[lease(&own, 1)])),
        ["+b"]
    );
}

#[test]
fn silence_is_not_absence_until_it_lasts() {
    let (keep, start) = (Duration::from_secs(100), Instant::now());
    let mut book = Book::default();
    let names = ["dns:x".to_owned(), "dns:y".to_owned()];
    let known = known();
    let nodes = Nodes {
        ranges: &BTreeMap::new(),
        known: &known,
    };
    let all = said("shop/cart", &[spot("10.0.0.1", "")]);
    let merged = merge([("dns:x", &all)].into_iter(), &nodes);
    let stored: Vec<Leased> = merged
        .endpoints
        .values()
        .map(|r| Leased {
            registered: r.clone(),
            left_ms: 1,
        })
        .collect();
    // After a restart: what was stored of a source stays until it speaks.
    book.begin(&names, &stored, start);
    assert_eq!((book.adopted().len(), book.is_settled()), (1, false));
    assert!(book.said("dns:x", vec![all.clone()], start));
    assert!(!book.said("dns:x", vec![all.clone()], start));
    assert_eq!(book.adopted().len(), 0);
    assert!(
        !book.said("dns:z", vec![all], start),
        "it is not of the configuration"
    );
    book.forget(keep, start + keep);
    assert_eq!(book.all().count(), 1);
    book.forget(keep, start + keep * 2);
    assert_eq!((book.all().count(), book.is_settled()), (0, true));
    // A source that is no longer configured has no say.
    book.begin(&names[1..], &stored, start);
    assert!(book.adopted().is_empty());
}
