//! What the mesh looks like: status, nodes, services, weights, edges, routes, the audit.

use http::Method;
use serde_json::{Value, json};

use super::arguments::{
    AuditArguments, ChangeNode, NodeAction, OneService, RelocateArguments, To, WeightsArguments,
};
use super::client::Client;
use super::output::{Format, Table, age, percent, ppm, rps, text};
use super::plan;
use crate::Outcome;

/// How the mesh is.
pub async fn status(client: &Client, format: Format) -> Outcome {
    let status = client.get("/v1/status").await?;
    format.print(&status, || summary(&status))
}

/// The mesh in a few lines.
pub fn summary(status: &Value) -> String {
    let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    let (nodes, services) = (list("nodes"), list("services"));
    let count = |presence: &str| nodes.iter().filter(|n| n["presence"] == presence).count();
    let cordoned = nodes.iter().filter(|n| n["cordoned"] == true).count();
    let mut said = format!(
        "plan      epoch {}, generation {}, every {} ms\nnodes     {}: {} live, {} stale, {} silent, {} absent; {cordoned} cordoned\n",
        status["plan"]["epoch"],
        status["plan"]["generation"],
        status["period_ms"],
        nodes.len(),
        count("live"),
        count("stale"),
        count("silent"),
        count("absent"),
    );
    if let Some(name) = status["leader"]["name"].as_str() {
        let waits = match status["leader"]["acts"] == false {
            true => ", which waits for its store and does nothing",
            false => "",
        };
        said.push_str(&format!("leader    controller {name}{waits}\n"));
    }
    said.push_str(&format!("services  {}\n", services.len()));
    if !services.is_empty() {
        said.push_str(&format!("\n{}", services_table(&services)));
    }
    said
}

fn services_table(services: &[Value]) -> Table {
    let heads = [
        "SERVICE",
        "NODES",
        "DEMAND",
        "CAPACITY",
        "BUSIEST",
        "MOVED IN",
        "SHED",
        "FAILED",
        "POLICY",
        "ALGORITHM",
    ];
    let mut table = Table::new(heads);
    for service in services {
        let nodes = service["nodes"].as_array().cloned().unwrap_or_default();
        let figures = |name: &str| {
            let figures: Vec<f64> = nodes.iter().filter_map(|n| n[name].as_f64()).collect();
            figures
        };
        let sum = |name: &str| rps(&json!(figures(name).iter().sum::<f64>()));
        let busiest = figures("planned_utilisation")
            .into_iter()
            .fold(0.0, f64::max);
        table.row([
            text(&service["service"]),
            nodes.len().to_string(),
            sum("demand_rps"),
            sum("capacity_rps"),
            percent(&json!(busiest)),
            sum("planned_moved_in_rps"),
            sum("shed_rps"),
            sum("failed_rps"),
            text(&service["policy"]),
            text(&service["algorithm"]),
        ]);
    }
    table
}

/// All nodes.
pub async fn nodes(client: &Client, format: Format) -> Outcome {
    let nodes = client.list("/v1/nodes").await?;
    format.print(&json!({ "items": nodes }), || {
        let mut table = Table::new([
            "NODE",
            "PRESENCE",
            "AGE",
            "REGION",
            "SITE",
            "MESH ADDRESS",
            "CPU",
            "VERSION",
            "MARKS",
        ]);
        for node in &nodes {
            let status = &node["status"];
            table.row([
                text(&node["metadata"]["name"]),
                text(&status["presence"]),
                age(&status["age_ms"]),
                text(&status["region"]),
                text(&status["site"]),
                text(&status["mesh_address"]),
                percent(&status["cpu_ratio"]),
                text(&status["version"]),
                marks(node),
            ]);
        }
        table.to_string()
    })
}

fn marks(node: &Value) -> String {
    let is = |name: &str| node["spec"][name] == true;
    let marks = match (is("drained"), is("cordoned")) {
        (true, _) => "drained",
        (false, true) => "cordoned",
        (false, false) => "-",
    };
    marks.to_owned()
}

/// Does something with a node.
pub async fn node(client: &Client, to: &To, action: &NodeAction) -> Outcome {
    match action {
        NodeAction::Show(one) => {
            let node = client.get(&format!("/v1/nodes/{}", one.node)).await?;
            // One thing in full has no columns.
            let format = match to.output {
                Format::Table => Format::Yaml,
                format => format,
            };
            format.print(&node, String::new)
        }
        NodeAction::Cordon(node) => change(client, to, node, "cordon", &Value::Null).await,
        NodeAction::Uncordon(node) => change(client, to, node, "uncordon", &Value::Null).await,
        NodeAction::Drain(node) => change(client, to, node, "drain", &Value::Null).await,
        NodeAction::Relocate(relocation) => {
            let body = place(relocation);
            change(client, to, &relocation.node, "relocate", &body).await
        }
    }
}

fn place(relocation: &RelocateArguments) -> Value {
    let mut body = json!({});
    if let (Some(lat_deg), Some(lon_deg)) = (relocation.lat, relocation.lon) {
        body["location"] = json!({ "lat_deg": lat_deg, "lon_deg": lon_deg });
    }
    for (name, said) in [("site", &relocation.site), ("region", &relocation.region)] {
        if let Some(said) = said {
            body[name] = json!(said);
        }
    }
    body
}

async fn change(client: &Client, to: &To, node: &ChangeNode, verb: &str, body: &Value) -> Outcome {
    let ChangeNode { node, dry_run } = node;
    let query = if *dry_run { "?dry_run=true" } else { "" };
    let path = format!("/v1/nodes/{node}/{verb}{query}");
    let body = (!body.is_null()).then_some(body);
    let answer = client.send(Method::POST, &path, body).await?.value;
    to.output.print(&answer, || match dry_run {
        true => plan::difference(&answer),
        false => {
            let done = match verb {
                "drain" => "drained",
                "relocate" => "relocated",
                "cordon" => "cordoned",
                _ => "uncordoned",
            };
            format!("node {node} {done}\n")
        }
    })
}

/// Services, or one of them in full.
pub async fn services(client: &Client, format: Format, one: &OneService) -> Outcome {
    let status = client.get("/v1/status").await?;
    let all = status["services"].as_array().cloned().unwrap_or_default();
    let Some(service) = &one.service else {
        let items = json!({ "items": all });
        return format.print(&items, || services_table(&all).to_string());
    };
    let found = all.iter().find(|s| s["service"] == service.as_str());
    let Some(found) = found else {
        // The API has the words for it.
        client.get(&format!("/v1/services/{service}")).await?;
        return format.print(&json!({ "service": service }), || {
            format!("{service} is declared and has no endpoint yet\n")
        });
    };
    format.print(found, || {
        let heads = [
            "NODE",
            "DEMAND",
            "CAPACITY",
            "OBTAINED",
            "PLANNED",
            "UTILISATION",
            "MOVED OUT",
            "MOVED IN",
            "SHED",
            "FAILED",
        ];
        let mut table = Table::new(heads);
        for seat in found["nodes"].as_array().into_iter().flatten() {
            let out = ["moved_out_plan_rps", "moved_out_spill_rps"];
            let out: f64 = out.iter().filter_map(|name| seat[*name].as_f64()).sum();
            table.row([
                text(&seat["node"]),
                rps(&seat["demand_rps"]),
                rps(&seat["capacity_rps"]),
                text(&seat["capacity_obtained"]),
                rps(&seat["planned_rps"]),
                percent(&seat["planned_utilisation"]),
                rps(&json!(out)),
                rps(&seat["moved_in_rps"]),
                rps(&seat["shed_rps"]),
                rps(&seat["failed_rps"]),
            ]);
        }
        format!(
            "policy {}, {}\n\n{table}",
            text(&found["policy"]),
            text(&found["algorithm"])
        )
    })
}

async fn rows(client: &Client, which: &WeightsArguments) -> Result<Vec<Value>, crate::Failure> {
    let service = which.service.as_ref().map(|s| format!("service={s}"));
    let node = which.node.as_ref().map(|n| format!("node={n}"));
    let query: Vec<String> = service.into_iter().chain(node).collect();
    client
        .list(&format!("/v1/weights?{}", query.join("&")))
        .await
}

/// Which part of each home's demand goes where.
pub async fn weights(client: &Client, format: Format, which: &WeightsArguments) -> Outcome {
    let rows = rows(client, which).await?;
    format.print(&json!({ "items": rows }), || {
        let mut table = Table::new([
            "SERVICE",
            "HOME",
            "DEMAND",
            "CAPACITY",
            "UTILISATION",
            "STAYS",
            "MOVES",
        ]);
        for row in &rows {
            table.row([
                text(&row["service"]),
                text(&row["node"]),
                rps(&row["demand_rps"]),
                rps(&row["capacity_rps"]),
                percent(&row["planned_utilisation"]),
                ppm(&row["row"]["home_ppm"]),
                moves(&row["row"]),
            ]);
        }
        table.to_string()
    })
}

/// Where a row's demand goes, in words.
pub fn moves(row: &Value) -> String {
    let listed = row["moves"].as_array().into_iter().flatten();
    let mut parts: Vec<String> = listed
        .map(|m| format!("{} to {}", ppm(&m["weight_ppm"]), text(&m["to"])))
        .collect();
    for (field, what) in [("cloud_ppm", "to the cloud"), ("shed_ppm", "refused")] {
        if row[field].as_u64().is_some_and(|ppm| ppm > 0) {
            parts.push(format!("{} {what}", ppm(&row[field])));
        }
    }
    match parts.is_empty() {
        true => "-".to_owned(),
        false => parts.join(", "),
    }
}

/// What moves from where to where, the most first.
pub async fn edges(client: &Client, format: Format, which: &WeightsArguments) -> Outcome {
    let rows = rows(client, which).await?;
    let mut edges: Vec<Value> = rows.iter().flat_map(edges_of).collect();
    let much = |edge: &Value| edge["moved_rps"].as_f64().unwrap_or(0.0);
    edges.sort_by(|a, b| much(b).total_cmp(&much(a)));
    format.print(&json!({ "items": edges }), || {
        let mut table = Table::new(["SERVICE", "FROM", "TO", "WEIGHT", "MOVED"]);
        for edge in &edges {
            table.row([
                text(&edge["service"]),
                text(&edge["from"]),
                text(&edge["to"]),
                ppm(&edge["weight_ppm"]),
                rps(&edge["moved_rps"]),
            ]);
        }
        match table.is_empty() {
            true => "nothing moves\n".to_owned(),
            false => table.to_string(),
        }
    })
}

fn edges_of(row: &Value) -> Vec<Value> {
    let demand_rps = row["demand_rps"].as_f64().unwrap_or(0.0);
    let shed = row["row"]["shed_ppm"].as_f64().unwrap_or(0.0) / 1e6;
    let edge = |step: &Value| {
        let weight = step["weight_ppm"].as_f64().unwrap_or(0.0) / 1e6;
        json!({
            "service": row["service"],
            "from": row["node"],
            "to": step["to"],
            "weight_ppm": step["weight_ppm"],
            "moved_rps": demand_rps * (1.0 - shed) * weight,
        })
    };
    let moves = row["row"]["moves"].as_array();
    moves.into_iter().flatten().map(edge).collect()
}

/// Routes of all kinds.
pub async fn routes(client: &Client, format: Format) -> Outcome {
    let mut routes = client.list("/v1/http-routes").await?;
    routes.extend(client.list("/v1/grpc-routes").await?);
    routes.extend(client.list("/v1/tcp-routes").await?);
    format.print(&json!({ "items": routes }), || {
        let mut table = Table::new([
            "KIND",
            "NAMESPACE",
            "NAME",
            "HOSTNAMES",
            "RULES",
            "IN FORCE",
            "BACKENDS",
        ]);
        for route in &routes {
            let hosts = route["spec"]["hostnames"].as_array().into_iter().flatten();
            let hosts: Vec<String> = hosts.map(text).collect();
            let rules = route["spec"]["rules"].as_array().map_or(0, Vec::len);
            table.row([
                text(&route["kind"]),
                text(&route["metadata"]["namespace"]),
                text(&route["metadata"]["name"]),
                if hosts.is_empty() {
                    "*".to_owned()
                } else {
                    hosts.join(",")
                },
                rules.to_string(),
                condition(route, "Accepted"),
                condition(route, "ResolvedRefs"),
            ]);
        }
        table.to_string()
    })
}

fn condition(route: &Value, kind: &str) -> String {
    let conditions = route["status"]["parents"][0]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    match found {
        Some(found) if found["status"] == "True" => "yes".to_owned(),
        Some(found) => text(&found["message"]),
        None => "-".to_owned(),
    }
}

/// Who changed what, the newest first.
pub async fn audit(client: &Client, format: Format, which: &AuditArguments) -> Outcome {
    if which.refused {
        return refused(client, format, which.limit).await;
    }
    let path = format!("/v1/audit?limit={}", which.limit.clamp(1, 1000));
    let page = client.get(&path).await?;
    format.print(&page, || {
        let mut table = Table::new(["NUMBER", "AT", "WHO", "OUTCOME", "KIND", "NAME"]);
        for entry in page["items"].as_array().into_iter().flatten() {
            let fields = ["number", "at", "who", "outcome", "kind", "name"];
            table.row(fields.map(|field| text(&entry[field])));
        }
        table.to_string()
    })
}

/// Who was refused, the newest first.
async fn refused(client: &Client, format: Format, limit: usize) -> Outcome {
    let path = format!("/v1/audit/refused?limit={}", limit.clamp(1, 1000));
    let page = client.get(&path).await?;
    format.print(&page, || {
        let fields = [
            "number", "since", "at", "count", "door", "address", "who", "status", "what", "reason",
        ];
        let mut table = Table::new(
            fields
                .map(|field| field.to_ascii_uppercase())
                .each_ref()
                .map(String::as_str),
        );
        for entry in page["items"].as_array().into_iter().flatten() {
            table.row(fields.map(|field| text(&entry[field])));
        }
        table.to_string()
    })
}
