//! What an operator would write for a replay: its one service and its weight policy.

use isobar_mesh_api::resource::{
    Algorithm, CapacitySource, EndpointSpec, ServiceSpec, WeightPolicySpec,
};

use crate::field::Field;
use crate::options::{Capacity, Options, PolicyName};

/// Home keeps this under the `static` policy; the rest goes to the neighbourhood in equal parts.
const STATIC_HOME_PPM: u32 = 600_000;

/// The service of a replay: one endpoint per node.
pub(super) fn service_spec(options: &Options, field: &Field) -> ServiceSpec {
    let factor = match options.capacity {
        Capacity::Declared => 1.0,
        Capacity::Learned(factor) => factor,
    };
    let endpoint = |(node, name): (u32, &isobar_mesh_api::names::NodeId)| EndpointSpec {
        node: name.clone(),
        address: format!("{name}.replay:80"),
        workers: field.workers[node as usize],
        capacity_rps: Some(field.capacity_rps(node) * factor),
    };
    ServiceSpec {
        hosts: vec!["*".to_owned()],
        endpoints: (0..).zip(&field.names).map(endpoint).collect(),
        protocol: None,
    }
}

/// The policy that the options and the name of a planner mean.
pub(super) fn weight_policy(
    options: &Options,
    field: &Field,
    policy: PolicyName,
) -> WeightPolicySpec {
    let algorithm = match policy {
        PolicyName::Waterfall => Algorithm::Waterfall,
        PolicyName::Threshold => Algorithm::Threshold,
        PolicyName::Static => Algorithm::Static,
        _ => Algorithm::Convex,
    };
    let mut spec = WeightPolicySpec {
        algorithm,
        spill: algorithm == Algorithm::Convex,
        displacement: options.displacement,
        neighbours: options.neighbours,
        distance_max_m: options.radius_km.map(|km| km * 1000.0),
        capacity: match options.capacity {
            Capacity::Declared => CapacitySource::Auto,
            Capacity::Learned(_) => CapacitySource::Learned,
        },
        ..WeightPolicySpec::default()
    };
    if let Some(rtt_ms) = options.cloud_rtt_ms {
        spec.cloud_address = Some("cloud.replay:80".to_owned());
        spec.cloud_rtt_us = (rtt_ms * 1000.0) as u64;
    }
    if algorithm == Algorithm::Static {
        for (home, list) in field
            .neighbours
            .iter()
            .enumerate()
            .filter(|(_, l)| !l.is_empty())
        {
            let equal = (isobar_mesh_api::weight::WHOLE_PPM - STATIC_HOME_PPM) / list.len() as u32;
            let row = list
                .iter()
                .map(|&to| (field.names[to as usize].clone(), equal))
                .collect();
            spec.static_weights.insert(field.names[home].clone(), row);
        }
    }
    spec
}
