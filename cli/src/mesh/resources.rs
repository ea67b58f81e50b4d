//! Policies and other resources: read, apply, compare, delete, suppose, check; everything out and in.

use std::io::Read;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use http::{Method, StatusCode};
use isobar_controller::resource_text::{
    Declared, Format as Text, Kind, TEXT_LEN_MAX, decode_list, parse,
};
use isobar_controller::rest::{KINDS, KindRow};
use isobar_mesh_api::names::{NodeId, ServiceName};
use serde_json::{Value, json};

use super::arguments::{
    ApplyArguments, CheckArguments, DeleteArguments, ExportArguments, FileArguments, GetArguments,
    ImportArguments, PolicyAction, To, WhatIfArguments,
};
use super::client::{Answer, Client, EXIT_MISSING};
use super::output::{Format, Table, say, text};
use super::plan;
use crate::{Failure, Outcome};

/// Does something with resources.
pub async fn run(client: &Client, to: &To, action: &PolicyAction) -> Outcome {
    match action {
        PolicyAction::Get(which) => get(client, to.output, which).await,
        PolicyAction::Apply(what) => apply(client, to.output, what).await,
        PolicyAction::Diff(file) => diff(client, to.output, file).await,
        PolicyAction::Delete(which) => delete(client, to.output, which).await,
    }
}

/// The row of a kind: `WeightPolicy`, `weight-policy` and `weight-policies` are one.
fn kind(said: &str) -> Result<&'static KindRow, Failure> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let wanted = plain(said);
    let is = |row: &&KindRow| {
        let path = row.path.rsplit('/').next().unwrap_or_default();
        wanted == plain(row.kind.as_str()) || wanted == plain(path)
    };
    KINDS.iter().find(is).ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|row| row.kind.as_str()).collect();
        Failure::Input(anyhow!(
            "there is no kind {said:?}; there are {}",
            known.join(", ")
        ))
    })
}

fn path_of(declared: &Declared) -> Result<String, Failure> {
    let row = kind(declared.key.kind.as_str())?;
    Ok(format!("{}/{}", row.path, declared.key.name))
}

/// The path of a named resource; names with anything else than names have are refused here.
fn path_to(said: &str, name: &str) -> Result<String, Failure> {
    let row = kind(said)?;
    let fine = match row.namespaced {
        true => ServiceName::new(name).map(|_| ()),
        false => NodeId::new(name).map(|_| ()),
    };
    fine.map_err(|error| Failure::Input(error.into()))?;
    Ok(format!("{}/{name}", row.path))
}

async fn get(client: &Client, format: Format, which: &GetArguments) -> Outcome {
    let found = match (&which.kind, &which.name) {
        (Some(kind), Some(name)) => {
            let one = client.get(&path_to(kind, name)?).await?;
            let format = match format {
                Format::Table => Format::Yaml,
                format => format,
            };
            return format.print(&one, String::new);
        }
        (Some(said), None) => client.list(kind(said)?.path).await?,
        (None, _) => {
            let mut all = Vec::new();
            for row in KINDS
                .iter()
                .filter(|row| row.kind.as_str().ends_with("Policy"))
            {
                all.extend(client.list(row.path).await?);
            }
            all
        }
    };
    format.print(&json!({ "items": found }), || {
        let mut table = Table::new(["KIND", "NAMESPACE", "NAME", "SPEC"]);
        for one in &found {
            let metadata = &one["metadata"];
            let spec: String = one["spec"].to_string().chars().take(100).collect();
            table.row([
                text(&one["kind"]),
                text(&metadata["namespace"]),
                text(&metadata["name"]),
                spec,
            ]);
        }
        table.to_string()
    })
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let mut read = String::new();
    let limit = TEXT_LEN_MAX as u64 + 1;
    let done = match path == Path::new("-") {
        true => std::io::stdin().take(limit).read_to_string(&mut read),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut read))
        }
    };
    let named = || format!("cannot read {}", path.display());
    done.with_context(named).map_err(Failure::Input)?;
    Ok(read)
}

/// Reads and checks resources, as the controller will.
fn read(path: &Path) -> Result<Vec<Declared>, Failure> {
    let text = read_text(path)?;
    if text.len() > TEXT_LEN_MAX {
        let error = anyhow!("{} is longer than {TEXT_LEN_MAX} bytes", path.display());
        return Err(Failure::Input(error));
    }
    let format = match path.extension().is_some_and(|end| end == "json") {
        true => Text::Json,
        false => Text::Yaml,
    };
    let read = parse(text.as_bytes(), format).and_then(decode_list);
    read.map_err(|error| Failure::Input(anyhow!("{}: {error}", path.display())))
}

fn as_json(declared: &Declared) -> Result<Value, Failure> {
    serde_json::to_value(&*declared.resource).map_err(|error| Failure::Run(error.into()))
}

/// What is there, without its status, and its tag; `None` when there is nothing.
async fn current(client: &Client, path: &str) -> Result<Option<(Value, Option<String>)>, Failure> {
    match client.send(Method::GET, path, None).await {
        Ok(Answer {
            mut value, etag, ..
        }) => {
            if let Some(fields) = value.as_object_mut() {
                fields.remove("status");
            }
            if let Some(metadata) = value["metadata"].as_object_mut() {
                metadata.remove("creationTimestamp");
            }
            Ok(Some((value, etag)))
        }
        Err(Failure::Exit(EXIT_MISSING, _)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn apply(client: &Client, format: Format, what: &ApplyArguments) -> Outcome {
    let declared = read(&what.file.file)?;
    if what.dry_run {
        let resources: Result<Vec<Value>, Failure> = declared.iter().map(as_json).collect();
        let body = json!({ "resources": resources? });
        return suppose(client, format, &body).await;
    }
    let mut done = Vec::new();
    for declared in &declared {
        let path = path_of(declared)?;
        let wanted = as_json(declared)?;
        let there = current(client, &path).await?;
        let outcome = match there {
            Some((there, _)) if there == wanted => "unchanged",
            there => {
                // Of two who read the same and write, the second is told.
                let tag = there.and_then(|(_, tag)| tag);
                match client.replace(&path, &wanted, tag.as_deref()).await?.status {
                    StatusCode::CREATED => "created",
                    _ => "replaced",
                }
            }
        };
        let kind = declared.key.kind.as_str();
        done.push(json!({ "kind": kind, "name": declared.key.name, "outcome": outcome }));
    }
    format.print(&json!({ "items": done }), || {
        let line = |one: &Value| {
            let part = |field: &str| text(&one[field]);
            format!("{} {} {}\n", part("kind"), part("name"), part("outcome"))
        };
        done.iter().map(line).collect()
    })
}

async fn diff(client: &Client, format: Format, file: &FileArguments) -> Outcome {
    let mut all = Vec::new();
    for declared in &read(&file.file)? {
        let there = current(client, &path_of(declared)?).await?;
        let mut changes = Vec::new();
        let there = there.map_or(Value::Null, |(there, _)| there);
        compare("", &there, &as_json(declared)?, &mut changes);
        if !changes.is_empty() {
            let kind = declared.key.kind.as_str();
            all.push(json!({ "kind": kind, "name": declared.key.name, "changes": changes }));
        }
    }
    format.print(&json!({ "items": all }), || {
        let mut said = String::new();
        for one in &all {
            said.push_str(&format!("{} {}\n", text(&one["kind"]), text(&one["name"])));
            for change in one["changes"].as_array().into_iter().flatten() {
                let part = |field: &str| text(&change[field]);
                said.push_str(&format!(
                    "  {}: {} -> {}\n",
                    part("at"),
                    part("before"),
                    part("after")
                ));
            }
        }
        said
    })?;
    match all.is_empty() {
        true => Ok(()),
        false => Err(Failure::Verdict),
    }
}

/// Every place where two values differ, by JSON pointer.
fn compare(at: &str, before: &Value, after: &Value, found: &mut Vec<Value>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let gone = before.keys().filter(|key| !after.contains_key(*key));
            for key in gone.chain(after.keys()) {
                let side = |map: &serde_json::Map<String, Value>| map.get(key).cloned();
                let (old, new) = (side(before), side(after));
                let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
                compare(&format!("{at}/{key}"), &old, &new, found);
            }
        }
        _ => {
            let at = if at.is_empty() { "/" } else { at };
            found.push(json!({ "at": at, "before": before, "after": after }));
        }
    }
}

async fn delete(client: &Client, format: Format, which: &DeleteArguments) -> Outcome {
    let path = path_to(&which.kind, &which.name)?;
    let query = if which.dry_run { "?dry_run=true" } else { "" };
    let answer = client
        .send(Method::DELETE, &format!("{path}{query}"), None)
        .await?;
    if which.dry_run {
        return format.print(&answer.value, || plan::difference(&answer.value));
    }
    let kind = kind(&which.kind)?.kind.as_str();
    let said = json!({ "kind": kind, "name": which.name, "outcome": "deleted" });
    format.print(&said, || format!("{kind} {} deleted\n", which.name))
}

/// Says what the plan would be.
pub async fn what_if(client: &Client, format: Format, what: &WhatIfArguments) -> Outcome {
    let wrong = |said: &str, right: &str| Failure::Input(anyhow!("{said:?} must be {right}"));
    let mut demand = Vec::new();
    for said in &what.demand {
        let parts = said.split_once('=').and_then(|(place, rps)| {
            let (service, node) = place.split_once('@')?;
            Some((service, node, rps.parse::<f64>().ok()?))
        });
        let parts = parts.ok_or_else(|| wrong(said, "SERVICE@NODE=RPS"))?;
        demand.push(json!({ "service": parts.0, "node": parts.1, "rps": parts.2 }));
    }
    for said in &what.times {
        let parts = said.split_once('=');
        let parts = parts.and_then(|(service, times)| Some((service, times.parse::<f64>().ok()?)));
        let (service, times) = parts.ok_or_else(|| wrong(said, "SERVICE=TIMES"))?;
        demand.push(json!({ "service": service, "times": times }));
    }
    let resources = match &what.file {
        Some(file) => read(file)?
            .iter()
            .map(as_json)
            .collect::<Result<Vec<Value>, _>>()?,
        None => Vec::new(),
    };
    let body = json!({ "demand": demand, "fail": what.fail, "resources": resources });
    suppose(client, format, &body).await
}

async fn suppose(client: &Client, format: Format, body: &Value) -> Outcome {
    let answer = client.send(Method::POST, "/v1/what-if", Some(body)).await?;
    format.print(&answer.value, || plan::difference(&answer.value))
}

/// Checks files of resources.
pub fn check(what: &CheckArguments) -> Outcome {
    for file in &what.files {
        let found = read(file)?;
        let count = |kind: Kind| found.iter().filter(|d| d.key.kind == kind).count();
        let kinds = Kind::ALL.into_iter().map(|kind| (kind, count(kind)));
        let parts: Vec<String> = kinds
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {}", kind.as_str()))
            .collect();
        let line = format!("{}: good, {}\n", file.display(), parts.join(", "));
        say(&line)?;
    }
    Ok(())
}

/// Everything that operators declared.
pub async fn export(client: &Client, format: Format, what: &ExportArguments) -> Outcome {
    let export = client.get("/v1/export").await?;
    let Some(file) = &what.file else {
        // An export has no table.
        let format = match format {
            Format::Table => Format::Json,
            format => format,
        };
        return format.print(&export, String::new);
    };
    let named = || format!("cannot write {}", file.display());
    let written = std::fs::write(file, format!("{export:#}\n")).with_context(named);
    written.map_err(Failure::Run)?;
    let count = export["resources"].as_array().map_or(0, Vec::len);
    say(&format!("{count} resources in {}\n", file.display()))
}

/// Reads an export back.
pub async fn import(client: &Client, format: Format, what: &ImportArguments) -> Outcome {
    let read = match what.file.file == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(&what.file.file),
    };
    let named = || format!("cannot read {}", what.file.file.display());
    let said = read.with_context(named).map_err(Failure::Input)?;
    let body: Value = serde_json::from_str(&said)
        .or_else(|_| serde_saphyr::from_str(&said))
        .with_context(|| format!("{} is no export", what.file.file.display()))
        .map_err(Failure::Input)?;
    let path = format!("/v1/import?prune={}&dry_run={}", what.prune, what.dry_run);
    let answer = client.send(Method::POST, &path, Some(&body)).await?.value;
    format.print(&answer, || match what.dry_run {
        true => plan::difference(&answer),
        false => {
            let part = |field: &str| text(&answer[field]);
            format!(
                "{} created, {} replaced, {} deleted\n",
                part("created"),
                part("replaced"),
                part("deleted")
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_by_where_they_are() {
        let before = json!({"a": 1, "b": {"c": 2, "d": [1]}});
        let after = json!({"b": {"c": 3, "d": [1]}, "e": 4});
        let mut found = Vec::new();
        compare("", &before, &after, &mut found);
        let at: Vec<&str> = found.iter().filter_map(|f| f["at"].as_str()).collect();
        assert_eq!(at, ["/a", "/b/c", "/e"]);
    }

    #[test]
    fn a_kind_is_found_however_it_is_written() {
        for said in [
            "WeightPolicy",
            "weight-policy",
            "weight-policies",
            "weightpolicy",
        ] {
            assert_eq!(kind(said).ok().unwrap().path, "/v1/weight-policies");
        }
        assert!(kind("weather").is_err());
        assert!(path_to("service", "../nodes").is_err());
    }
}
