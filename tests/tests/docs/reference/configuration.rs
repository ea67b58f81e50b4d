//! Every key of the two programs' configuration files.

use std::fmt::Write;

use clap::CommandFactory;
use serde_json::Value;

use super::compare;
use super::fields::{Column, Tables, resolve};

/// Keys of the proxy that have pages of their own.
const ELSEWHERE: [(&str, &str); 2] = [
    ("routes", "list of [routes](../routes.md)"),
    (
        "traffic_policies",
        "list of [`TrafficPolicy` specs](../traffic-policy.md)",
    ),
];

/// The flag and the environment variable for a key.
fn flag(command: &clap::Command, key: &str) -> String {
    let argument = command
        .get_arguments()
        .find(|argument| argument.get_id() == key);
    let Some(argument) = argument else {
        return String::new();
    };
    let long = argument.get_long().map(|long| format!("`--{long}`"));
    let env = argument
        .get_env()
        .map(|env| format!("`{}`", env.to_string_lossy()));
    [long, env]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

#[test]
fn configuration_keys_are_those_of_the_code() {
    let mut out = String::new();
    let proxy = isobar_edge_proxy::config::schema();
    let mut tables = Tables {
        document: &proxy,
        elsewhere: &ELSEWHERE,
        level: "###",
        more: &[],
    };
    let _ = writeln!(out, "## The proxy\n");
    tables.write(&mut out, "", &proxy);
    let controller = isobar_controller::config::schema();
    let command = isobar_controller::cli::Args::command();
    let of = |key: &str| flag(&command, key);
    // Flags are of keys of the root alone: nothing inside a table has one.
    let more: [Column<'_>; 1] = [("flag, variable", &of)];
    tables.document = &controller;
    tables.elsewhere = &[];
    tables.more = &more;
    let _ = writeln!(out, "## The controller\n");
    tables.write(&mut out, "", &controller);
    let about = "Every key of the TOML files that `isobar-proxy --config FILE` and `isobar-controller --config FILE` read. How they work together, with examples:\n\
                 [the proxy's](../configuration.md), [the controller's](../controller-configuration.md).";
    compare("configuration.md", "Configuration keys", about, &out);
}

/// What is needed beside a table's other keys.
fn beside(path: &str) -> &'static str {
    match path {
        "traces" => "traces.collector = 'http://c:1'\n",
        "store" => {
            "name = 'a'\nstream_advertise = 'a:1'\nstore.kind = 'etcd'\nstore.endpoints = ['http://e:1']\n"
        }
        _ => "",
    }
}

/// Every number of a schema and of its tables, by table and key.
fn numbers<'a>(
    document: &'a Value,
    object: &'a Value,
    table: &str,
    found: &mut Vec<(String, String, &'a Value)>,
) {
    for (key, schema) in object["properties"].as_object().into_iter().flatten() {
        let schema = resolve(document, schema);
        let kinds = schema["type"].to_string();
        if kinds.contains("integer") || kinds.contains("number") {
            found.push((table.to_owned(), key.clone(), schema));
        }
        if schema["properties"].is_object() {
            let at = if table.is_empty() {
                key.clone()
            } else {
                format!("{table}.{key}")
            };
            numbers(document, schema, &at, found);
        }
    }
}

/// What the program says of a key with this value; none when it is good.
type Said<'a> = &'a dyn Fn(&str) -> Option<String>;

fn check_ranges(schema: &Value, said: Said<'_>) {
    let mut all = Vec::new();
    numbers(schema, schema, "", &mut all);
    assert!(all.len() >= 3, "the schema has numbers");
    for (table, key, schema) in all {
        // Degrees come in twos, and are the controller's to check.
        if table == "location" {
            continue;
        }
        let path = if table.is_empty() {
            key.clone()
        } else {
            format!("{table}.{key}")
        };
        let is_refused = |value: String| {
            said(&format!("{}{path} = {value}\n", beside(&table)))
                .is_some_and(|said| said.contains(&path))
        };
        let bound = |name: &str| schema[name].as_f64();
        let whole = schema["type"].to_string().contains("integer");
        let text = |value: f64| {
            if whole {
                format!("{value:.0}")
            } else {
                format!("{value:?}")
            }
        };
        let step = if whole { 1.0 } else { 0.5 };
        let least = bound("minimum").unwrap_or(0.0);
        assert!(!is_refused(text(least)), "{path} = {least} is in its range");
        if least > 0.0 {
            assert!(
                is_refused(text(least - step)),
                "{path} is less than {least}"
            );
        }
        match bound("maximum") {
            Some(most) => {
                assert!(!is_refused(text(most)), "{path} = {most} is in its range");
                assert!(is_refused(text(most + step)), "{path} is more than {most}");
            }
            None => {
                let most = if whole {
                    u32::MAX.to_string()
                } else {
                    "1e9".to_owned()
                };
                assert!(
                    !is_refused(most),
                    "{path} has a largest value that the page lacks"
                );
            }
        }
    }
}

#[test]
fn ranges_are_those_that_are_checked() {
    let proxy = |lines: &str| {
        let text = format!("node = 'a'\ndata_dir = 'd'\n{lines}");
        isobar_edge_proxy::config::Config::parse("f", &text)
            .err()
            .map(|faults| faults.to_string())
    };
    check_ranges(&isobar_edge_proxy::config::schema(), &proxy);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    let controller = |lines: &str| {
        std::fs::write(&path, format!("data_dir = 'd'\n{lines}")).unwrap();
        isobar_controller::config::Config::check_file(&path)
            .err()
            .map(|faults| faults.to_string())
    };
    check_ranges(&isobar_controller::config::schema(), &controller);
}
