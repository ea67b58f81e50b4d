//! The OpenAPI document, and every operation in it driven by schemathesis.

use std::collections::BTreeSet;
use std::process::Command;

use http::{Method, StatusCode};
use serde_json::Value;

use crate::mesh::{Mesh, config};

/// What is read until its reader goes.
const ENDLESS: [&str; 3] = ["/v1/events", "/v1/tap", "/v1/tap/{namespace}/{name}"];

#[tokio::test]
async fn every_path_of_the_document_is_there() {
    let mesh = Mesh::start().await;
    let (status, document) = mesh.rest(Method::GET, "/openapi.json", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(document["openapi"], "3.1.0");
    let names = references(&document);
    let known = document["components"]["schemas"].as_object().unwrap();
    for name in names {
        assert!(
            known.contains_key(&name),
            "{name} is referred to and not there"
        );
    }
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 30, "{} paths", paths.len());
    for (path, operations) in paths {
        for method in operations.as_object().unwrap().keys() {
            if ENDLESS.contains(&path.as_str()) {
                continue;
            }
            let method: Method = method.to_ascii_uppercase().parse().unwrap();
            let plain = path.replace(['{', '}'], "");
            let (status, said) = mesh.rest(method.clone(), &plain, "").await;
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let missing = said["detail"] == format!("there is no {plain}");
            assert!(!missing, "{method} {path}");
        }
    }
    mesh.stop().await;
}

#[tokio::test]
async fn who_is_asked_who_they_are_is_what_the_document_says() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.rest_open = false;
    config.rest_insecure = true;
    let mesh = Mesh::start_with(directory, config).await;
    let (_, document) = mesh.rest(Method::GET, "/openapi.json", "").await;
    let mut open = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let method: Method = method.to_ascii_uppercase().parse().unwrap();
            let plain = path.replace(['{', '}'], "");
            let (status, _) = mesh.rest(method.clone(), &plain, "").await;
            let is_asked = status == StatusCode::UNAUTHORIZED;
            for answer in ["401", "403", "429"] {
                let is_said = !operation["responses"][answer].is_null();
                assert_eq!(is_said, is_asked, "{method} {path}: {answer}");
            }
            assert_eq!(operation["security"].is_null(), is_asked, "{method} {path}");
            if !is_asked {
                open.insert(path.as_str());
            }
        }
    }
    let wanted = ["/dashboard", "/livez", "/openapi.json", "/readyz"];
    assert_eq!(open, BTreeSet::from(wanted));
    mesh.stop().await;
}

/// The schemas that a document refers to.
fn references(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(map) => {
                let name = map.get("$ref").and_then(Value::as_str);
                found.extend(name.and_then(|name| Some(name.rsplit_once('/')?.1.to_owned())));
                left.extend(map.values());
            }
            Value::Array(list) => left.extend(list),
            _ => {}
        }
    }
    found
}

/// Whether a program is there; that it is not is a failure where all are required.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    let required = std::env::var("ISOBAR_TEST_REQUIRE").is_ok_and(|all| all == "all");
    assert!(there || !required, "{program} is required and not there");
    if !there {
        println!("skipped: {program} is not there (pip install schemathesis)");
    }
    there
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_operation_answers_what_the_document_does_not_say() {
    if !has("schemathesis") {
        return;
    }
    // With credentials, so that theirs are driven too.
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.rest_open = false;
    config.rest_insecure = true;
    let mesh = Mesh::start_with(directory, config).await;
    let admin = format!("Authorization: Bearer {}", mesh.file("admin-token").trim());
    let document = format!("http://{}/openapi.json", mesh.addresses().rest);
    // It leaves files where it runs.
    let directory = mesh.directory.path().to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("schemathesis");
        command.current_dir(directory);
        command.args(["run", &document, "--header", &admin]);
        command.args([
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "25",
        ]);
        let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
        command.args(["--checks", checks, "--seed", "1", "--workers", "1"]);
        command.args(["--generation-database", "none", "--warnings", "off"]);
        // These do not end; they have tests of their own.
        for path in ENDLESS {
            command.args(["--exclude-path", path]);
        }
        command.output().unwrap()
    });
    let output = run.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let tail: String = said
        .lines()
        .rev()
        .take(120)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        output.status.success(),
        "{tail}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!(
        "{}",
        said.lines()
            .rev()
            .take(12)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("\n")
    );
    mesh.stop().await;
}
