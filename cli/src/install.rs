//! `isobar install` and `isobar uninstall`: the manifests of `k3s/`, for `kubectl` to apply or delete.
//!
//! What they print is what `kubectl kustomize` makes of the base or of its overlay for one node; a test compares them.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Value, json};

use crate::{Failure, Outcome};

/// The base, in the order in which it must be applied.
const BASE: [&str; 6] = [
    include_str!("../../k3s/base/namespace.yaml"),
    include_str!("../../k3s/base/crds.yaml"),
    include_str!("../../k3s/base/rbac.yaml"),
    include_str!("../../k3s/base/controller.yaml"),
    include_str!("../../k3s/base/proxy.yaml"),
    include_str!("../../k3s/base/webhook.yaml"),
];
/// For HorizontalPodAutoscalers.
const METRICS: &str = include_str!("../../k3s/components/external-metrics/metrics.yaml");
/// The namespace of everything that has one.
const NAMESPACE: &str = "isobar-system";
/// The `ConfigMap` with the table of sites.
const SITES: &str = "isobar-sites";
/// Largest table of sites: what a `ConfigMap` holds.
const SITES_LEN_MAX: usize = 1_000_000;

/// What to install.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  isobar install | kubectl apply --server-side -f -
  isobar install --single-node --registry registry.example/isobar
  isobar install --sites sites.csv | kubectl apply --server-side -f -")]
pub struct InstallArguments {
    /// For one k3s machine: less memory, its own disk
    #[arg(long)]
    pub single_node: bool,
    /// Serve external.metrics.k8s.io to HorizontalPodAutoscalers; not where KEDA is, which serves it
    #[arg(long)]
    pub external_metrics: bool,
    /// Where the images come from
    #[arg(long, value_name = "PREFIX", default_value = "docker.io/library")]
    pub registry: String,
    /// Their tag
    #[arg(long, value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    pub tag: String,
    /// A table of where nodes, sites and zones are: CSV or GeoJSON
    #[arg(long, value_name = "FILE")]
    pub sites: Option<PathBuf>,
}

/// What to take away.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  isobar uninstall | kubectl delete --ignore-not-found -f -")]
pub struct UninstallArguments {
    /// Also the definitions of custom resources, and with them every policy that was written
    #[arg(long)]
    pub with_policies: bool,
    /// Also external.metrics.k8s.io, if it was installed with that
    #[arg(long)]
    pub external_metrics: bool,
}

/// Prints the manifests.
///
/// # Errors
/// [`Failure::Input`] for a table of sites that cannot be used.
pub fn install(arguments: &InstallArguments) -> Outcome {
    print(&objects(arguments)?)
}

/// What is installed with these options, in the order in which it must be applied.
///
/// # Errors
/// As [`install`].
pub fn objects(arguments: &InstallArguments) -> Result<Vec<Value>, Failure> {
    let mut objects = base(arguments.external_metrics).map_err(Failure::Run)?;
    for object in &mut objects {
        for place in [
            "/spec/template/spec/containers/0/image",
            "/spec/template/spec/containers/0/env/0/value",
        ] {
            let image = object.pointer_mut(place);
            if let Some(image) = image
                && let Some(name) = image.as_str()
            {
                *image = json!(format!("{}/{name}:{}", arguments.registry, arguments.tag));
            }
        }
        if arguments.single_node {
            for_one_node(object);
        }
    }
    if let Some(file) = &arguments.sites {
        objects.push(sites(file).map_err(Failure::Input)?);
    }
    Ok(objects)
}

/// Prints what `kubectl delete` must take away, last installed first.
///
/// # Errors
/// [`Failure::Run`] when it cannot be written.
pub fn uninstall(arguments: &UninstallArguments) -> Outcome {
    let mut objects = base(arguments.external_metrics).map_err(Failure::Run)?;
    objects.retain(|o| arguments.with_policies || o["kind"] != "CustomResourceDefinition");
    objects.reverse();
    let name = |object: &Value| json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": object["metadata"]});
    let names: Vec<Value> = objects.iter().map(name).collect();
    print(&names)
}

/// The objects of the base.
fn base(external_metrics: bool) -> anyhow::Result<Vec<Value>> {
    let metrics = external_metrics.then_some(METRICS);
    let files = BASE.into_iter().chain(metrics);
    let documents = files.flat_map(|file| file.split("\n---\n"));
    // With the end of its last line, which may be a part of a value.
    let read =
        |text: &str| serde_saphyr::from_str(&format!("{text}\n")).context("reading the manifests");
    documents.map(read).collect()
}

/// What `k3s/overlays/single-node` changes.
fn for_one_node(object: &mut Value) {
    match object["kind"].as_str() {
        Some("StatefulSet") => {
            let resources = "/spec/template/spec/containers/0/resources";
            if let Some(resources) = object.pointer_mut(resources) {
                resources["requests"]["memory"] = json!("24Mi");
                resources["limits"]["memory"] = json!("96Mi");
            }
            if let Some(claim) = object.pointer_mut("/spec/volumeClaimTemplates/0/spec") {
                claim["storageClassName"] = json!("local-path");
            }
        }
        Some("PodDisruptionBudget") => {
            if let Some(spec) = object["spec"].as_object_mut() {
                spec.remove("minAvailable");
                spec.insert("maxUnavailable".to_owned(), json!(1));
            }
        }
        _ => {}
    }
}

/// The `ConfigMap` with the table, which is read here first.
fn sites(file: &PathBuf) -> anyhow::Result<Value> {
    let named = || format!("reading {}", file.display());
    let text = std::fs::read_to_string(file).with_context(named)?;
    if text.len() > SITES_LEN_MAX {
        return Err(anyhow!(
            "{} has {} bytes; a ConfigMap holds {SITES_LEN_MAX}",
            file.display(),
            text.len()
        ));
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let input = isobar_geo_data::read::Input::new(&name, text.as_bytes());
    isobar_geo_data::read::read_sites(input)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": SITES, "namespace": NAMESPACE},
        "data": {name: text},
    }))
}

/// A YAML document each; a reader that has heard enough is no failure.
fn print(objects: &[Value]) -> Outcome {
    let mut out = std::io::stdout().lock();
    for object in objects {
        let text = serde_saphyr::to_string(object).map_err(|error| Failure::Run(error.into()))?;
        let text = text.trim_start_matches("---\n").trim_end();
        match writeln!(out, "---\n{text}") {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure::Run(error.into())),
            Ok(()) => {}
        }
    }
    Ok(())
}
