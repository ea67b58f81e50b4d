//! How a plan would differ, and why it is as it is, in words.

use serde_json::Value;

use super::arguments::ExplainArguments;
use super::client::Client;
use super::output::{Format, Table, age, percent, plain, ppm, rps, text};
use super::show::moves;
use crate::Outcome;

/// The answer to a dry run or to "what if".
pub fn difference(answer: &Value) -> String {
    let plan = &answer["plan"];
    let services = plan["services"].as_array().cloned().unwrap_or_default();
    if services.is_empty() {
        return "the plan would not differ\n".to_owned();
    }
    let mut table = Table::new([
        "SERVICE", "", "POLICY", "DEMAND", "CAPACITY", "MOVED", "CLOUD", "SHED", "BUSIEST",
    ]);
    for service in &services {
        for side in ["before", "after"] {
            let totals = &service[side];
            table.row([
                text(&service["service"]),
                side.to_owned(),
                text(&totals["policy"]),
                rps(&totals["demand_rps"]),
                rps(&totals["capacity_rps"]),
                rps(&totals["moved_rps"]),
                rps(&totals["cloud_rps"]),
                rps(&totals["shed_rps"]),
                percent(&totals["utilisation_max"]),
            ]);
        }
    }
    let mut rows = Table::new([
        "SERVICE",
        "HOME",
        "BEFORE",
        "AFTER",
        "LOAD BEFORE",
        "LOAD AFTER",
    ]);
    for seat in plan["seats"].as_array().into_iter().flatten() {
        let row = |side: &str| match &seat[side] {
            Value::Null => "not there".to_owned(),
            load => moves(&load["row"]),
        };
        rows.row([
            text(&seat["service"]),
            text(&seat["node"]),
            row("before"),
            row("after"),
            percent(&seat["before"]["planned_utilisation"]),
            percent(&seat["after"]["planned_utilisation"]),
        ]);
    }
    let left_out = match plan["seats_left_out"].as_u64() {
        Some(more) if more > 0 => format!("and {more} more\n"),
        _ => String::new(),
    };
    match rows.is_empty() {
        true => table.to_string(),
        false => format!("{table}\n{rows}{left_out}"),
    }
}

/// Why a row is as it is.
pub async fn explain(client: &Client, format: Format, which: &ExplainArguments) -> Outcome {
    let ExplainArguments { service, node } = which;
    let why = client.get(&format!("/v1/explain/{service}/{node}")).await?;
    format.print(&why, || in_words(&why))
}

fn in_words(why: &Value) -> String {
    let mut said = format!(
        "{} at {}: {} stays home, moves: {}\n\n",
        text(&why["service"]),
        text(&why["node"]),
        ppm(&why["row"]["home_ppm"]),
        moves(&why["row"]),
    );
    let held = why["held_by"].as_array().into_iter().flatten();
    let held = held.map(|held| {
        let because = format!("{}: {}", text(&held["constraint"]), text(&held["because"]));
        ("held by", because)
    });
    let plan = format!(
        "{}, acknowledged {}",
        plan_id(&why["plan"]),
        plan_id(&why["acked"])
    );
    let lines = inputs(why).into_iter().chain(held).chain([("plan", plan)]);
    for (name, what) in lines {
        said.push_str(&format!("{name:<10}{what}\n"));
    }
    said.push_str(&format!("\n{}", neighbours(why)));
    let mut others = Table::new(["NOT A NEIGHBOUR", "DISTANCE", "BECAUSE"]);
    for other in why["others"].as_array().into_iter().flatten() {
        let because = text(&other["because"]);
        others.row([text(&other["node"]), km(&other["distance_m"]), because]);
    }
    if !others.is_empty() {
        said.push_str(&format!("\n{others}"));
    }
    said
}

/// What a row was made from, line by line.
fn inputs(why: &Value) -> [(&'static str, String); 5] {
    let (demand, capacity, policy) = (&why["demand"], &why["capacity"], &why["policy"]);
    let node = format!(
        "{}, last word {} ago",
        text(&why["presence"]),
        age(&why["age_ms"])
    );
    let demand = format!(
        "{} rps entered in the last report, {} without noise, {} planned for",
        rps(&demand["entered_rps"]),
        rps(&demand["filtered_rps"]),
        rps(&demand["planned_rps"]),
    );
    let capacity = format!(
        "{} rps, {}; {} at once; the processors leave {} of it, at priority {}",
        rps(&capacity["planned_rps"]),
        text(&capacity["obtained"]),
        text(&capacity["workers"]),
        percent(&capacity["cpu_factor"]),
        text(&capacity["priority"]),
    );
    let load = format!(
        "{} rps, of this {} from others; headroom {} rps",
        rps(&why["load_rps"]),
        rps(&why["moved_in_rps"]),
        rps(&why["headroom_rps"]),
    );
    let overruled = policy["overruled"].as_array().into_iter().flatten();
    let overruled: Vec<String> = overruled.map(text).collect();
    let instead = match overruled.is_empty() {
        true => String::new(),
        false => format!(" (instead of {})", overruled.join(", ")),
    };
    let spec = &policy["spec"];
    let policy = format!(
        "{}: {}{instead}; {}, target {}, ceiling {}",
        text(&policy["name"]),
        text(&policy["because"]),
        text(&spec["algorithm"]),
        percent(&spec["target_utilisation"]),
        percent(&spec["ceiling_utilisation"]),
    );
    [
        ("node", node),
        ("demand", demand),
        ("capacity", capacity),
        ("load", load),
        ("policy", policy),
    ]
}

fn neighbours(why: &Value) -> Table {
    let heads = [
        "NEIGHBOUR",
        "WEIGHT",
        "PLANNED",
        "RTT",
        "KNOWN",
        "DISTANCE",
        "CAPACITY",
        "LOAD",
        "HEADROOM",
        "CREDIT",
        "PRESENCE",
        "AGE",
    ];
    let mut table = Table::new(heads);
    for near in why["neighbours"].as_array().into_iter().flatten() {
        let rtt_ms = near["rtt_us"].as_f64().unwrap_or(0.0) / 1e3;
        let known = if near["rtt_measured"] == true {
            "measured"
        } else {
            "estimated"
        };
        table.row([
            text(&near["node"]),
            ppm(&near["weight_ppm"]),
            ppm(&near["planned_ppm"]),
            format!("{rtt_ms:.1} ms"),
            known.to_owned(),
            km(&near["distance_m"]),
            rps(&near["capacity_rps"]),
            rps(&near["load_rps"]),
            rps(&near["headroom_rps"]),
            rps(&near["credit_rps"]),
            text(&near["presence"]),
            age(&near["age_ms"]),
        ]);
    }
    table
}

fn km(distance_m: &Value) -> String {
    let km = |m: f64| format!("{:.1} km", m / 1e3);
    distance_m.as_f64().map_or("-".to_owned(), km)
}

fn plan_id(plan: &Value) -> String {
    match plan {
        Value::Null => "nothing yet".to_owned(),
        plan => plain(&format!("{}.{}", plan["epoch"], plan["generation"])),
    }
}
