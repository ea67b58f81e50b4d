//! What the API is, for programs: OpenAPI 3.1, put together from the table of kinds, the table of operations below and
//! the types that are read and written.
//!
//! A test drives every operation with what the document says and sees whether the answers are what it says.

use std::sync::LazyLock;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::get;
use isobar_mesh_api::resource::{NodeSpec, ServiceSpec, WeightPolicySpec};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::kinds::{KINDS, KindRow};
use super::{Rest, body, endpoints, errands, identity, node_actions, what_if};
use crate::access;
use crate::authority::keeper::AuthorityStatus;
use crate::control_loop::PlanDifference;
use crate::credentials::{Credential, CredentialAsked};
use crate::resource_text::Kind;
use crate::tokens::{Token, TokenAsked};

mod operations;

use operations::{Answers, NOTHING, OPERATIONS, Operation, PAGES, Takes, WRITES};

/// The document, made when it is first asked for.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

pub(super) fn routes() -> Router<Rest> {
    let answer = async || -> Response { body::json(StatusCode::OK, &*DOCUMENT) };
    Router::new().route("/openapi.json", get(answer))
}

fn document() -> Value {
    let mut paths = Map::new();
    let mut add = |path: &str, method: &str, mut operation: Value| {
        if is_for_anybody(path, method) {
            let_in(&mut operation);
        }
        let at = paths.entry(path.to_owned()).or_insert_with(|| json!({}));
        at[method] = operation;
    };
    KINDS.iter().for_each(|row| add_kind(row, &mut add));
    for operation in OPERATIONS {
        let Operation { method, path, .. } = operation;
        let changes = *method != "get";
        let (takes, answers) = (operation.takes, operation.answers);
        let said = described(operation.summary, takes, answers, path, changes);
        add(path, method, said);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Isobar controller",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

/// Whether nobody is asked who they are.
fn is_for_anybody(path: &str, method: &str) -> bool {
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes());
    method.is_ok_and(|method| access::deed(&method, path).is_none())
}

/// Takes the question who asks, and what is answered to the wrong ones, out of an operation.
fn let_in(operation: &mut Value) {
    operation["security"] = json!([]);
    if let Some(responses) = operation["responses"].as_object_mut() {
        responses.retain(|status, _| !OF_THE_GATE.contains(&status.as_str()));
    }
}

/// The four operations of a kind.
fn add_kind(row: &KindRow, add: &mut impl FnMut(&str, &str, Value)) {
    let (kind, one) = (row.kind.as_str(), row.one());
    let written = Takes {
        body: kind,
        ..WRITES
    };
    let list = format!("Resources of kind {kind}, by name");
    let list = described(&list, PAGES, Answers::Page(kind), row.path, false);
    add(row.path, "get", list);
    let answers = Answers::Json(kind);
    let read = described(&format!("One {kind}"), NOTHING, answers, &one, false);
    add(&one, "get", read);
    let put = format!("Creates or replaces a {kind}");
    add(&one, "put", described(&put, written, answers, &one, true));
    let delete = format!("Deletes a {kind}");
    let delete = described(&delete, WRITES, Answers::Json("Tried"), &one, true);
    add(&one, "delete", delete);
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn described(summary: &str, takes: Takes, answers: Answers, path: &str, changes: bool) -> Value {
    let mut parameters: Vec<Value> = in_path(path).map(|name| json!({
        "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 },
    })).collect();
    let mut query = |name: &str, schema: Value| {
        parameters.push(json!({ "name": name, "in": "query", "schema": schema }));
    };
    if takes.pages {
        query(
            "limit",
            json!({ "type": "integer", "minimum": 1, "maximum": super::PAGE_LEN_MAX }),
        );
        query("after", json!({ "type": "string" }));
    }
    if takes.writes {
        query("dry_run", json!({ "type": "boolean" }));
    }
    for (name, kind) in takes.query {
        query(name, json!({ "type": kind }));
    }
    if takes.writes {
        for name in ["If-Match", "If-None-Match"] {
            let schema = json!({ "type": "string", "pattern": "^\\*$" });
            parameters.push(json!({ "name": name, "in": "header", "schema": schema }));
        }
    }
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": responses(answers, path, changes),
    });
    if !takes.body.is_empty() {
        operation["requestBody"] = json!({
            "required": true,
            "content": {
                "application/json": { "schema": reference(takes.body) },
                "application/yaml": { "schema": reference(takes.body) },
            },
        });
    }
    operation
}

fn responses(answers: Answers, path: &str, changes: bool) -> Value {
    let problem = json!({ "application/problem+json": { "schema": reference("Problem") } });
    let mut all = json!({});
    for (status, description) in refusals(path, changes) {
        all[status.to_string()] = json!({ "description": description, "content": problem });
    }
    let mut good = content(answers);
    if changes {
        all["201"] = json!({ "description": "Created", "content": good });
        all["204"] = json!({ "description": "Deleted" });
        // A dry run answers with a plan, whatever the write would answer with.
        if let Some(schema) = good.pointer_mut("/application~1json/schema") {
            *schema = json!({ "anyOf": [schema.take(), reference("Tried")] });
        }
    }
    all["200"] = json!({ "description": "Done, or what a dry run found", "content": good });
    all
}

fn content(answers: Answers) -> Value {
    match answers {
        Answers::Json(schema) => json!({ "application/json": { "schema": reference(schema) } }),
        Answers::Page(schema) => json!({ "application/json": { "schema": {
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": { "type": "array", "items": reference(schema) },
                "after": { "type": "string" },
            },
        } } }),
        Answers::Text(kind) => json!({ kind: { "schema": { "type": "string" } } }),
    }
}

/// What may be answered instead, and why.
fn refusals(path: &str, changes: bool) -> Vec<(u16, &'static str)> {
    let mut all = vec![
        (400, "The query, a header or the body cannot be read"),
        (401, "Nobody known"),
        (403, "Not allowed"),
        (408, "Not sent in time"),
        (421, "A host that this API does not answer under"),
        (429, "Too many guesses"),
        (503, "Busy or stopping; ask again"),
    ];
    if path == "/dashboard" {
        all.push((406, "It is sent compressed with gzip alone"));
    }
    if path.contains('{') {
        all.push((404, "There is no such thing"));
    }
    if changes || path == "/v1/credentials" {
        all.push((409, "It cannot be done as things are"));
    }
    if changes {
        all.extend([
            (412, "What is there is not what was expected"),
            (413, "Too long"),
            (415, "Neither JSON nor YAML"),
            (422, "A field is wrong"),
            (500, "Done, but not kept; the controller's log says why"),
            (507, "As many as the controller keeps, or the disk is full"),
        ]);
    }
    all
}

/// What only who is asked who they are can be answered.
const OF_THE_GATE: [&str; 3] = ["401", "403", "429"];

fn in_path(path: &str) -> impl Iterator<Item = &str> {
    let parts = path.split('/');
    parts.filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn schemas() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut named = Map::new();
    for row in &KINDS {
        let spec = match row.kind {
            Kind::Node => of::<NodeSpec>(&mut generator),
            Kind::Service => of::<ServiceSpec>(&mut generator),
            Kind::WeightPolicy => of::<WeightPolicySpec>(&mut generator),
            _ => json!({ "type": "object" }),
        };
        named.insert(row.kind.as_str().to_owned(), resource(row, spec));
    }
    let types = [
        ("Supposition", of::<what_if::Supposition>(&mut generator)),
        ("Relocation", of::<node_actions::Relocation>(&mut generator)),
        (
            "Registration",
            of::<endpoints::Registration>(&mut generator),
        ),
        ("PlanDifference", of::<PlanDifference>(&mut generator)),
        ("Levels", of::<errands::Levels>(&mut generator)),
        ("Ends", of::<errands::Ends>(&mut generator)),
        ("TokenAsked", of::<TokenAsked>(&mut generator)),
        ("Token", of::<Token>(&mut generator)),
        ("CredentialAsked", of::<CredentialAsked>(&mut generator)),
        ("Credential", of::<Credential>(&mut generator)),
        ("AuthorityStep", of::<identity::StepAsked>(&mut generator)),
        (
            "AuthorityImport",
            of::<identity::ImportAsked>(&mut generator),
        ),
        ("Authority", of::<AuthorityStatus>(&mut generator)),
    ];
    named.extend(types.map(|(name, schema)| (name.to_owned(), schema)));
    named.insert("Anything".to_owned(), json!({}));
    named.insert(
        "Tried".to_owned(),
        json!({
            "type": "object",
            "required": ["dry_run", "plan"],
            "properties": { "dry_run": { "const": true }, "plan": reference("PlanDifference") },
        }),
    );
    named.insert("TokenMade".to_owned(), made("token", "Token", "text"));
    let credential = made("credential", "Credential", "token");
    named.insert("CredentialMade".to_owned(), credential);
    named.insert("Problem".to_owned(), problem());
    named.extend(generator.take_definitions(true));
    Value::Object(named)
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

fn resource(row: &KindRow, spec: Value) -> Value {
    json!({
        "type": "object",
        "required": ["kind", "metadata", "spec"],
        "properties": {
            "kind": { "const": row.kind.as_str() },
            "apiVersion": { "type": "string" },
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": { "type": "string" },
                    "namespace": { "type": "string" },
                    "labels": { "type": "object", "additionalProperties": { "type": "string" } },
                    "creationTimestamp": { "type": "string" },
                },
            },
            "spec": spec,
            "status": {},
        },
    })
}

/// What was made, with the secret that nothing tells again.
fn made(what: &str, schema: &str, secret: &str) -> Value {
    json!({
        "type": "object",
        "required": [what, secret],
        "properties": { what: reference(schema), secret: { "type": "string" } },
    })
}

/// RFC 9457, with the fields that are wrong.
fn problem() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["pointer", "detail"],
                    "properties": {
                        "pointer": { "type": "string" },
                        "detail": { "type": "string" },
                    },
                },
            },
        },
    })
}
