//! Every operation of the REST API, and what goes in and out.

use std::fmt::Write;

use serde_json::Value;

use super::fields::{Tables, resolve};
use super::{cell, compare, head, row};

/// Schemas that are bodies and say no more than their name.
const UNTOLD: [&str; 1] = ["Anything"];

fn name_of(reference: &Value) -> Option<&str> {
    reference["$ref"].as_str()?.rsplit('/').next()
}

/// The schema of a body or an answer, linked where it has a table.
fn content(document: &Value, content: &Value) -> String {
    let Some((kind, inner)) = content.as_object().and_then(|kinds| kinds.iter().next()) else {
        return String::new();
    };
    let schema = &inner["schema"];
    let schema = schema["anyOf"].get(0).unwrap_or(schema);
    let items = &schema["properties"]["items"]["items"];
    let (page, name) = match name_of(items) {
        Some(name) => ("page of ", Some(name)),
        None => ("", name_of(schema)),
    };
    match name {
        Some(name) if UNTOLD.contains(&name) => format!("{page}JSON"),
        Some(name) => {
            let told = resolve(document, &document["components"]["schemas"][name]);
            let link = match told["properties"].is_object() {
                true => format!("[`{name}`](#{})", name.to_lowercase()),
                false => format!("`{name}`"),
            };
            format!("{page}{link}")
        }
        None => format!("`{kind}`"),
    }
}

fn operations(document: &Value, out: &mut String) {
    let names = [
        "method",
        "path",
        "what",
        "query, headers",
        "body",
        "answer",
        "refusals",
    ];
    head(out, &names);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let query: Vec<String> = parameters
                .filter(|parameter| parameter["in"] != "path")
                .map(|parameter| format!("`{}`", parameter["name"].as_str().unwrap()))
                .collect();
            let responses = operation["responses"].as_object().unwrap();
            let refusals = responses.keys().filter(|status| status.as_str() >= "400");
            let refusals: Vec<&str> = refusals.map(String::as_str).collect();
            row(
                out,
                &[
                    &method.to_uppercase(),
                    &format!("`{path}`"),
                    &cell(operation["summary"].as_str().unwrap_or_default()),
                    &query.join(", "),
                    &content(document, &operation["requestBody"]["content"]),
                    &content(document, &responses["200"]["content"]),
                    &refusals.join(" "),
                ],
            );
        }
    }
    out.push('\n');
}

#[test]
fn operations_are_those_of_the_code() {
    let document = &*isobar_controller::rest::OPENAPI;
    let mut out = String::from("## Operations\n\n");
    operations(document, &mut out);
    let tables = Tables {
        document,
        elsewhere: &[],
        level: "####",
        more: &[],
    };
    let _ = writeln!(out, "## Bodies\n");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let schema = resolve(document, schema);
        if schema["properties"].is_object() {
            let _ = writeln!(out, "### {name}\n");
            if let Some(says) = schema["description"].as_str() {
                let _ = writeln!(out, "{}\n", cell(says));
            }
            tables.write(&mut out, name, schema);
        }
    }
    let about = "Every operation of the controller's REST API, as `/openapi.json` (OpenAPI 3.1) has it for programs. How it is used: [the REST API](../rest.md).";
    compare("api.md", "REST operations", about, &out);
}
