use super::*;

fn read(text: &str) -> Result<Declared, FieldProblem> {
    decode(parse(text.as_bytes(), Format::Yaml)?)
}

#[test]
fn each_kind_reads_from_yaml_and_json() {
    let node =
        read("{kind: Node, metadata: {name: a}, spec: {location: {lat_deg: 1, lon_deg: 2}}}");
    assert_eq!(node.unwrap().key.to_string(), "Node a");
    let service = read("kind: Service\nmetadata:\n  name: cart\nspec:\n  hosts: ['*']\n").unwrap();
    assert_eq!(service.key.name, "default/cart");
    assert_eq!(service.resource.metadata().namespace, "default");
    let norway = read("{kind: Node, metadata: {name: no, labels: {y: n}}, spec: {}}").unwrap();
    assert_eq!(norway.key.name, "no");
    let json = br#"{"kind": "WeightPolicy", "metadata": {"name": "all"}, "spec": {}, "status": 1}"#;
    let policy = decode(parse(json, Format::Json).unwrap()).unwrap();
    assert_eq!(policy.key.kind, Kind::WeightPolicy);
}

#[test]
fn what_is_written_back_reads_the_same() {
    let text = "{kind: Service, metadata: {name: c, labels: {a: b}}, spec: {endpoints: [{node: n, address: '[::1]:80'}]}}";
    let first = read(text).unwrap();
    let json = serde_json::to_vec(&*first.resource).unwrap();
    let second = decode(parse(&json, Format::Json).unwrap()).unwrap();
    assert_eq!(first, second);
}

#[test]
fn wrong_fields_are_pointed_at() {
    let node = |spec: &str| format!("{{kind: Node, metadata: {{name: a}}, spec: {{{spec}}}}}");
    let service =
        |spec: &str| format!("{{kind: Service, metadata: {{name: a}}, spec: {{{spec}}}}}");
    let endpoint = |rest: &str| service(&format!("endpoints: [{{node: n, {rest}}}]"));
    let policy =
        |spec: &str| format!("{{kind: WeightPolicy, metadata: {{name: a}}, spec: {{{spec}}}}}");
    let cases = [
        ("[".to_owned(), "#"),
        ("7".to_owned(), "#"),
        ("{}".to_owned(), "#/kind"),
        ("{kind: 7}".to_owned(), "#/kind"),
        (
            "{kind: Pod, metadata: {name: a}, spec: {}}".to_owned(),
            "#/kind",
        ),
        ("{kind: Node, spec: {}}".to_owned(), "#/metadata"),
        (
            "{kind: Node, metadata: {}, spec: {}}".to_owned(),
            "#/metadata/name",
        ),
        (
            "{kind: Node, metadata: {name: A}, spec: {}}".to_owned(),
            "#/metadata/name",
        ),
        (
            "{kind: Node, metadata: {name: a, nam: b}, spec: {}}".to_owned(),
            "#/metadata/nam",
        ),
        (
            "{kind: Node, metadata: {name: a, namespace: b}, spec: {}}".to_owned(),
            "#/metadata/namespace",
        ),
        (
            "{kind: Node, metadata: {name: a, labels: {x: [1]}}, spec: {}}".to_owned(),
            "#/metadata/labels/x",
        ),
        ("{kind: Node, metadata: {name: a}}".to_owned(), "#/spec"),
        (
            "{kind: Node, metadata: {name: a}, spec: {}, extra/s: 1}".to_owned(),
            "#/extra~1s",
        ),
        (
            node("location: {lat_deg: 91, lon_deg: 0}"),
            "#/spec/location/lat_deg",
        ),
        (
            node("location: {lat_deg: 0, lon_deg: -181}"),
            "#/spec/location/lon_deg",
        ),
        (node("location: {lat_deg: 0}"), "#/spec/location/lon_deg"),
        (
            node("location: {lat_deg: x, lon_deg: 0}"),
            "#/spec/location/lat_deg",
        ),
        (node("site: 'Bad Site'"), "#/spec/site"),
        (node("mesh_address: 10.0.0.1"), "#/spec/mesh_address"),
        (node("speed: 1"), "#/spec/speed"),
        (service("hosts: [a.example, 'b c']"), "#/spec/hosts/1"),
        (endpoint("address: 'h:0'"), "#/spec/endpoints/0/address"),
        (endpoint("address: ':80'"), "#/spec/endpoints/0/address"),
        (endpoint("adress: 'h:80'"), "#/spec/endpoints/0/adress"),
        (
            endpoint("address: 'h:80', workers: 0"),
            "#/spec/endpoints/0/workers",
        ),
        (
            endpoint("address: 'h:80', workers: -1"),
            "#/spec/endpoints/0/workers",
        ),
        (endpoint("address: 'h:80', capacity_rps: .nan"), "#"),
        (
            endpoint("address: 'h:80', capacity_rps: -1"),
            "#/spec/endpoints/0/capacity_rps",
        ),
        (
            service("endpoints: [{node: n, address: 'h:80'}, {node: n, address: 'h:80'}]"),
            "#/spec/endpoints/1/address",
        ),
        (policy("neighbours: 65"), "#/spec/neighbours"),
        (policy("neighbors: 6"), "#/spec/neighbors"),
        (policy("target_utilisation: 2"), "#/spec/target_utilisation"),
        (policy("algorithm: magic"), "#/spec/algorithm"),
        (policy("services: [cart]"), "#/spec/services/0"),
        (policy("cloud_address: cloud"), "#/spec/cloud_address"),
    ];
    for (text, pointer) in cases {
        let problem = read(&text).expect_err(&text);
        assert_eq!(problem.pointer, pointer, "{text}: {problem}");
    }
}

#[test]
fn a_list_names_the_place() {
    let text = "- {kind: Node, metadata: {name: a}, spec: {}}\n- {kind: Node, metadata: {name: B}, spec: {}}";
    let value = parse(text.as_bytes(), Format::Yaml).unwrap();
    assert_eq!(decode_list(value).unwrap_err().pointer, "#/1/metadata/name");
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert_eq!(
        parse(text.as_bytes(), Format::Yaml).unwrap_err().pointer,
        "#"
    );
}
