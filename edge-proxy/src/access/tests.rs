use super::*;
use http::Request;
use isobar_mesh_api::resource::access_policy::AccessPolicySpec;

const SERVICE: &str = "shop/cart";

fn policy(name: &str, json: &str) -> Arc<AccessPolicy> {
    let spec: AccessPolicySpec = serde_json::from_str(json).unwrap();
    spec.check().unwrap();
    let name = name.to_owned();
    Arc::new(AccessPolicy { name, spec })
}

fn guard(policies: &[&str]) -> Option<Guard> {
    let named = policies.iter().enumerate();
    let all: Vec<_> = named
        .map(|(n, json)| policy(&n.to_string(), json))
        .collect();
    Guard::new(&ServiceName::new(SERVICE).unwrap(), &all)
}

fn head(method: &str, path: &str) -> Parts {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-a", "1");
    request.body(()).unwrap().into_parts().0
}

/// The policy that refuses `GET /a` to `cart.example:80` on port 7410.
fn judged(policies: &[&str], caller: &Caller<'_>) -> Option<String> {
    let head = head("GET", "/a");
    let called = Called {
        head: Some(&head),
        host: Some("cart.example:80"),
        path: Some("/a"),
        port: Some(7410),
    };
    let verdict = guard(policies).unwrap().judge(caller, &called);
    verdict.refused.map(|name| name.to_string())
}

#[test]
fn precedence() {
    let nobody = Caller::default();
    let (allow, deny) = (r#"{"default":"allow"}"#, r#"{"default":"deny"}"#);
    let by_name = r#"{"services":["shop/cart"],"default":"allow"}"#;
    let by_namespace = r#"{"namespaces":["shop"],"default":"deny"}"#;
    let deny_path = r#"{"deny":[{"to":[{"paths":["/a*"]}]}]}"#;
    let allow_path = r#"{"allow":[{"to":[{"paths":["/a"]}]}]}"#;
    let allow_other = r#"{"allow":[{"to":[{"paths":["/b"]}]}]}"#;
    let cases: [(&[&str], Option<&str>); 12] = [
        (&[allow], None),
        (&[deny], Some("0")),
        (&[allow, deny], Some("1")),
        (&[by_name, by_namespace, deny], None),
        (&[by_namespace, allow], Some("0")),
        (&[deny_path], Some("0")),
        (&[deny_path, allow_path, by_name], Some("0")),
        (&[allow_path], None),
        (&[allow_other], Some("0")),
        (&[allow_other, by_name], None),
        (&[allow_other, allow_path], None),
        (&[deny, allow_path], None),
    ];
    for (policies, expected) in cases {
        let refused = judged(policies, &nobody);
        assert_eq!(refused.as_deref(), expected, "{policies:?}");
    }
    assert!(guard(&[r#"{"services":["shop/other"],"default":"deny"}"#]).is_none());
    assert!(guard(&[r#"{"namespaces":["mail"],"default":"deny"}"#]).is_none());
}

#[test]
fn who_and_what() {
    let web = SpiffeId::parse("spiffe://isobar.local/ns/web/sa/front").unwrap();
    let node = NodeId::new("edge-1").unwrap();
    let region = RegionName::new("north").unwrap();
    let claims: Claims = serde_json::from_str(
        r#"{"iss":"i","sub":"ann","role":["a","b"],"scope":"read write","age":7,"x":null}"#,
    )
    .unwrap();
    let known = Caller {
        identity: Some(&web),
        node: Some(&node),
        region: Some(&region),
        address: Some("10.1.2.3".parse().unwrap()),
        claims: Some(&claims),
        is_elsewhere: false,
    };
    let nobody = Caller::default();
    // What fits the caller above and never somebody of whom nothing is known.
    let fitting = [
        r#"{"identities":["spiffe://isobar.local/ns/web/sa/front"]}"#,
        r#"{"identities":["spiffe://isobar.local/ns/web/*"]}"#,
        r#"{"namespaces":["mail","web"]}"#,
        r#"{"nodes":["edge-1"]}"#,
        r#"{"regions":["north"]}"#,
        r#"{"addresses":["192.0.2.1","10.0.0.0/8"]}"#,
        r#"{"token":{}}"#,
        r#"{"token":{"issuers":["i"],"subjects":["ann"]}}"#,
        r#"{"token":{"claims":{"role":["b"]}}}"#,
        r#"{"token":{"claims":{"scope":["write"],"age":["7"]}}}"#,
        r#"{"nodes":["edge-1"],"namespaces":["web"],"addresses":["10.1.2.3"]}"#,
    ];
    let strange = [
        r#"{"identities":["spiffe://isobar.local/ns/web/sa/fron"]}"#,
        r#"{"identities":["spiffe://other/*"]}"#,
        r#"{"namespaces":["we"]}"#,
        r#"{"nodes":["edge-2"]}"#,
        r#"{"regions":["south"]}"#,
        r#"{"addresses":["11.0.0.0/8"]}"#,
        r#"{"token":{"issuers":["j"]}}"#,
        r#"{"token":{"claims":{"role":["c"]}}}"#,
        r#"{"token":{"claims":{"x":["null"]}}}"#,
        r#"{"token":{"claims":{"none":["a"]}}}"#,
        r#"{"nodes":["edge-1"],"namespaces":["mail"]}"#,
    ];
    for (list, fits) in [(fitting, true), (strange, false)] {
        for who in list {
            let allow = format!(r#"{{"allow":[{{"from":[{who}]}}]}}"#);
            let deny = format!(r#"{{"deny":[{{"from":[{who}]}}]}}"#);
            assert_eq!(judged(&[&allow], &known).is_none(), fits, "{who}");
            assert_eq!(judged(&[&deny], &known).is_some(), fits, "{who}");
            assert!(judged(&[&allow], &nobody).is_some(), "{who}");
            assert!(judged(&[&deny], &nobody).is_none(), "{who}");
        }
    }
    let what = [
        (r#"{"hosts":["cart.example"]}"#, true),
        (r#"{"hosts":["*.example"]}"#, true),
        (r#"{"hosts":["*.cart.example"]}"#, false),
        (
            r#"{"paths":["/a"],"methods":["GET"],"headers":{"x-a":"1"},"ports":[7410]}"#,
            true,
        ),
        (r#"{"paths":["/"]}"#, false),
        (r#"{"methods":["POST"]}"#, false),
        (r#"{"headers":{"x-a":"*"}}"#, true),
        (r#"{"headers":{"x-a":"2"}}"#, false),
        (r#"{"headers":{"x-b":"*"}}"#, false),
        (r#"{"ports":[1]}"#, false),
    ];
    for (what, fits) in what {
        let deny = format!(r#"{{"deny":[{{"to":[{what}]}}]}}"#);
        assert_eq!(judged(&[&deny], &nobody).is_some(), fits, "{what}");
    }
}

#[test]
fn tcp_fits_by_its_port_alone_and_moved_calls_by_deny_rules() {
    let tcp = Called {
        head: None,
        host: None,
        path: None,
        port: Some(5432),
    };
    let refused = |json: &str| {
        let verdict = guard(&[json]).unwrap().judge(&Caller::default(), &tcp);
        verdict.refused.is_some()
    };
    assert!(refused(r#"{"deny":[{"to":[{"ports":[5432]}]}]}"#));
    assert!(!refused(r#"{"deny":[{"to":[{"paths":["/*"]}]}]}"#));
    assert!(refused(r#"{"allow":[{"to":[{"paths":["/*"]}]}]}"#));
    assert!(!refused(r#"{"allow":[{"to":[{"ports":[5432]}]}]}"#));
    let node = NodeId::new("edge-1").unwrap();
    let peer = Caller {
        node: Some(&node),
        ..Caller::default()
    };
    let moved = |json: &str| guard(&[json]).unwrap().judge_moved(&peer, &tcp).is_some();
    assert!(moved(r#"{"deny":[{"from":[{"nodes":["edge-1"]}]}]}"#));
    assert!(!moved(
        r#"{"deny":[{"from":[{"addresses":["0.0.0.0/0"]}]}]}"#
    ));
    assert!(!moved(r#"{"default":"deny"}"#));
}

#[test]
fn who_entered_elsewhere_is_judged_by_all_but_region_and_port() {
    let web = SpiffeId::parse("spiffe://isobar.local/ns/web/sa/front").unwrap();
    let node = NodeId::new("p-1.web").unwrap();
    let head = head("GET", "/a");
    let called = Called {
        head: Some(&head),
        host: None,
        path: Some("/a"),
        port: None,
    };
    let elsewhere = Caller {
        identity: Some(&web),
        node: Some(&node),
        is_elsewhere: true,
        ..Caller::default()
    };
    let refused = |json: &str, caller: &Caller<'_>| {
        let verdict = guard(&[json]).unwrap().judge(caller, &called);
        verdict.refused.is_some()
    };
    let cases = [
        (r#"{"allow":[{"from":[{"namespaces":["web"]}]}]}"#, false),
        (r#"{"allow":[{"from":[{"namespaces":["mail"]}]}]}"#, true),
        (r#"{"allow":[{"from":[{"nodes":["p-1.web"]}]}]}"#, false),
        (
            r#"{"allow":[{"from":[{"addresses":["10.0.0.0/8"]}]}]}"#,
            true,
        ),
        // Its home's word, but only to let it in where all else fits.
        (
            r#"{"allow":[{"from":[{"regions":["north"]}],"to":[{"ports":[80]}]}]}"#,
            false,
        ),
        (
            r#"{"allow":[{"from":[{"regions":["north"],"namespaces":["mail"]}]}]}"#,
            true,
        ),
        (
            r#"{"allow":[{"to":[{"ports":[80],"paths":["/b"]}]}]}"#,
            true,
        ),
        (r#"{"deny":[{"from":[{"regions":["north"]}]}]}"#, false),
        (r#"{"deny":[{"to":[{"ports":[80]}]}]}"#, false),
        (r#"{"deny":[{"from":[{"namespaces":["web"]}]}]}"#, true),
        (r#"{"mtls":{"mode":"strict"}}"#, false),
        (r#"{"default":"deny"}"#, true),
    ];
    for (json, expected) in cases {
        assert_eq!(refused(json, &elsewhere), expected, "{json}");
    }
    // Where it is known where a call enters, an unknown region fits nothing.
    let here = Caller {
        is_elsewhere: false,
        ..elsewhere
    };
    assert!(refused(
        r#"{"allow":[{"from":[{"regions":["north"]}]}]}"#,
        &here
    ));
}

#[test]
fn a_policy_that_watches_refuses_nobody() {
    let head = head("GET", "/a");
    let called = Called {
        head: Some(&head),
        host: None,
        path: Some("/a"),
        port: None,
    };
    let watching = r#"{"deny":[{}],"audit":true}"#;
    let verdict = guard(&[watching])
        .unwrap()
        .judge(&Caller::default(), &called);
    assert_eq!(verdict.refused, None);
    assert_eq!(verdict.would_refuse.as_deref(), Some("0"));
    let both = guard(&[watching, r#"{"default":"deny"}"#]).unwrap();
    let verdict = both.judge(&Caller::default(), &called);
    assert_eq!(verdict.refused.as_deref(), Some("1"));
    assert_eq!(verdict.would_refuse, None);
}
