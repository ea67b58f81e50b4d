//! What may be written to see and steer a running mesh.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use isobar_mesh_api::names::{NodeId, ServiceName};

use super::bundle::BundleArguments;
use super::context::ContextArguments;
use super::identity::{CaArguments, CredentialArguments, TokenArguments};
use super::login::LoginArguments;
use super::output::Format;
use super::tap::{BenchLinkArguments, LogsArguments, TapArguments};

/// Which controller, and how answers are written.
#[derive(Debug, Clone, Args)]
pub struct To {
    /// The context to use instead of the current one [env: ISOBAR_CONTEXT]
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// The controller's REST API instead of the context's [env: ISOBAR_CONTROLLER]
    #[arg(long, value_name = "URL", global = true)]
    pub controller: Option<String>,
    /// Roots to believe the controller by, PEM; ca.pem in its data directory [env: ISOBAR_CA_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub ca_file: Option<PathBuf>,
    /// Believe the controller by the SHA-256 of its certificate or of the root above it [env: ISOBAR_PIN]
    #[arg(long, value_name = "SHA256", global = true)]
    pub pin: Option<String>,
    /// A client certificate instead of a token, PEM [env: ISOBAR_CERT_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM, mode 0600 [env: ISOBAR_KEY_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub key_file: Option<PathBuf>,
    /// How answers are written
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        default_value = "table",
        global = true
    )]
    pub output: Format,
}

impl To {
    /// Of a command that asks nobody.
    pub const NOTHING: To = To {
        context: None,
        controller: None,
        ca_file: None,
        pin: None,
        cert_file: None,
        key_file: None,
        output: Format::Table,
    };
}

/// One command with where it goes.
#[derive(Debug, Args)]
pub struct With<T: Args> {
    /// Where to.
    #[command(flatten)]
    pub to: To,
    /// What.
    #[command(flatten)]
    pub what: T,
}

/// Commands for a running mesh.
#[derive(Debug, Subcommand)]
pub enum MeshCommand {
    /// Say how the mesh is: plan, nodes, services
    #[command(after_help = "Examples:\n  isobar status\n  isobar status -o json | jq .plan")]
    Status(With<Nothing>),
    /// List nodes, look at one, cordon, drain or relocate it
    #[command(after_help = "Examples:
  isobar nodes
  isobar nodes show north-7 -o yaml
  isobar nodes drain north-7 --dry-run
  isobar nodes relocate north-7 --lat 45.07 --lon 7.69 --region piedmont")]
    Nodes(With<NodesArguments>),
    /// List services with their endpoints and load
    #[command(after_help = "Examples:\n  isobar services\n  isobar services shop/cart -o yaml")]
    Services(With<OneService>),
    /// Say which part of each home's demand goes where
    #[command(
        after_help = "Examples:\n  isobar weights\n  isobar weights --service shop/cart --node north-7"
    )]
    Weights(With<WeightsArguments>),
    /// Say in words why a service's weights at a node are as they are
    #[command(after_help = "Examples:\n  isobar explain shop/cart north-7")]
    Explain(With<ExplainArguments>),
    /// Show nodes and services live, the busiest first
    #[command(
        after_help = "Keys: q leaves, r turns the order, and these sort: u used, p planned, e entered, s served, o moved out, i moved in,
x shed, f failed, n node, v service. Where standard output is no terminal, one picture is written.

Examples:
  isobar top
  isobar top --sort shed --every 0.5
  isobar top --once"
    )]
    Top(With<TopArguments>),
    /// Show single requests of a service as they end, across nodes
    #[command(
        after_help = "A line has: when it entered (UTC), home -> who served it, service, method and path, status, time to the
end of the answer, and why it was moved (plan, spill, cloud) or home. Bodies and query strings are never shown, headers
only by --header, and none that may hold a secret. Needs the role operator; who looked at what is in the audit.

Examples:
  isobar tap shop/cart
  isobar tap shop/cart --from north-7 --moved
  isobar tap --no-service
  isobar tap shop/cart --method GET --path /x --status 5xx --max-rps 20 -o json
  isobar tap shop/cart --header user-agent --header x-request-id --count 10"
    )]
    Tap(With<TapArguments>),
    /// Change what a node or the controller logs
    #[command(after_help = "Examples:
  isobar logs level north-7 debug
  isobar logs level --of-controller isobar_controller::stream=trace,info")]
    Logs(With<LogsArguments>),
    /// Measure round trip and throughput from one node's mesh port to another's
    #[command(
        after_help = "Takes up to 10 s and 256 MiB; a node measures one way at a time, and answers one.

Examples:
  isobar bench-link north-7 south-2
  isobar bench-link north-7 south-2 -o json"
    )]
    BenchLink(With<BenchLinkArguments>),
    /// Write what somebody who helps needs to see to a file, without secrets
    #[command(
        after_help = "Status, nodes, services, policies, routes, plans, explanations of what is busiest, events, the audit's newest
entries and metrics. Tokens, keys and values of headers are taken out; manifest.json in it says what was taken.

Examples:
  isobar support-bundle -f isobar-support.tar.gz"
    )]
    SupportBundle(With<BundleArguments>),
    /// Give a context its token, read from standard input
    #[command(after_help = "Examples:
  isobar login
  isobar login site --controller http://10.0.0.5:7400 < site-token")]
    Login(With<LoginArguments>),
    /// List what moves from where to where
    #[command(after_help = "Examples:\n  isobar edges\n  isobar edges --service shop/cart")]
    Edges(With<WeightsArguments>),
    /// List routes and whether they are in force
    #[command(after_help = "Examples:\n  isobar routes\n  isobar routes -o yaml")]
    Routes(With<Nothing>),
    /// Print events as they happen
    #[command(
        after_help = "Examples:\n  isobar events\n  isobar events --since 0 --count 20 -o json"
    )]
    Events(With<EventsArguments>),
    /// Read, apply, compare and delete policies and other resources
    #[command(after_help = "Examples:
  isobar policy get
  isobar policy get weight-policy all -o yaml
  isobar policy apply -f match-night.yaml --dry-run
  isobar policy diff -f match-night.yaml
  isobar policy delete weight-policy all")]
    Policy(With<PolicyArguments>),
    /// Say what the plan would be for a load, a failure or a policy that there is not
    #[command(after_help = "Examples:
  isobar what-if --times shop/cart=3
  isobar what-if --demand shop/cart@north-7=250 --fail north-8
  isobar what-if -f match-night.yaml")]
    WhatIf(With<WhatIfArguments>),
    /// Check files of resources without a controller, a Kubernetes cluster, or who would be refused by strict mTLS
    #[command(
        after_help = "Without a file: whether what is installed in the cluster works, or with --pre, whether it can be
installed. Exit status 1 when something is a FAIL.

Examples:
  isobar check match-night.yaml
  isobar check --strict-dry-run
  isobar check --pre
  isobar check --kubectl 'k3s kubectl'"
    )]
    Check(CheckArguments),
    /// Say who changed what, or who was refused
    #[command(
        after_help = "Examples:\n  isobar audit\n  isobar audit --limit 5 -o json\n  isobar audit --refused"
    )]
    Audit(With<AuditArguments>),
    /// Make, list and revoke enrolment tokens
    #[command(after_help = "Examples:
  isobar token create --node north-7 > token
  isobar token create --uses 20 --site harbour --lasts 86400
  isobar token list
  isobar token revoke 3f9a2b71c0de")]
    Token(With<TokenArguments>),
    /// See, rotate and bring the certificate authority; revoke nodes
    #[command(after_help = "Examples:
  isobar ca status
  isobar ca rotate
  isobar ca import --chain ours.pem --key ours-key.pem
  isobar ca revoke north-7")]
    Ca(With<CaArguments>),
    /// Make, list and revoke operators' credentials
    #[command(after_help = "Examples:
  isobar credential create shop-team --role operator --namespace shop > shop-token
  isobar credential list
  isobar credential revoke shop-team")]
    Credential(With<CredentialArguments>),
    /// Write everything that operators declared, to a file or to standard output
    #[command(after_help = "Examples:\n  isobar export > mesh.json\n  isobar export -f mesh.json")]
    Export(With<ExportArguments>),
    /// Read back what export wrote: all of it or nothing
    #[command(
        after_help = "Examples:\n  isobar import -f mesh.json --dry-run\n  isobar import -f mesh.json --prune"
    )]
    Import(With<ImportArguments>),
    /// List, choose, set and delete contexts: which controllers there are
    #[command(after_help = "Examples:
  isobar context set home --url https://127.0.0.1:7400 --ca-file ca.pem --token-file admin-token
  isobar context set site --url https://10.0.0.5:7400 --pin 3b0c… --token-file ~/.isobar/site-token
  isobar context use site
  isobar context list

The file is $ISOBAR_CONFIG, else ~/.config/isobar/config.yaml, mode 0600. A bearer token comes from ISOBAR_TOKEN or \
from the context's token file, never from the command line.")]
    Context(ContextArguments),
}

/// No arguments.
#[derive(Debug, Args)]
pub struct Nothing {}

/// What to do with nodes.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodesArguments {
    /// What to do; lists them when nothing is said.
    #[command(subcommand)]
    pub action: Option<NodeAction>,
}

/// What to do with a node.
#[derive(Debug, Subcommand)]
pub enum NodeAction {
    /// Show one node
    #[command(after_help = "Example:\n  isobar nodes show north-7 -o yaml")]
    Show(OneNode),
    /// It takes no load from others any more; its own is still served
    #[command(after_help = "Example:\n  isobar nodes cordon north-7 --dry-run")]
    Cordon(ChangeNode),
    /// It takes load again, its own and others'
    #[command(after_help = "Example:\n  isobar nodes uncordon north-7")]
    Uncordon(ChangeNode),
    /// What enters there moves to others
    #[command(after_help = "Example:\n  isobar nodes drain north-7 --dry-run")]
    Drain(ChangeNode),
    /// It is elsewhere from now on
    #[command(
        after_help = "Example:\n  isobar nodes relocate north-7 --lat 45.07 --lon 7.69 --region piedmont"
    )]
    Relocate(RelocateArguments),
}

/// Which node.
#[derive(Debug, Args)]
pub struct OneNode {
    /// Its name
    pub node: NodeId,
}

/// Which node, and whether only to try.
#[derive(Debug, Args)]
pub struct ChangeNode {
    /// Its name
    pub node: NodeId,
    /// Say what the plan would be, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Where a node is.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("where").required(true).multiple(true).args(["lat", "site", "region"]))]
pub struct RelocateArguments {
    /// Which and whether.
    #[command(flatten)]
    pub node: ChangeNode,
    /// Latitude in degrees
    #[arg(
        long,
        value_name = "DEG",
        requires = "lon",
        allow_negative_numbers = true
    )]
    pub lat: Option<f64>,
    /// Longitude in degrees
    #[arg(
        long,
        value_name = "DEG",
        requires = "lat",
        allow_negative_numbers = true
    )]
    pub lon: Option<f64>,
    /// Its site
    #[arg(long, value_name = "NAME")]
    pub site: Option<String>,
    /// Its region
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
}

/// Which service, or all.
#[derive(Debug, Args)]
pub struct OneService {
    /// namespace/name; all when nothing is said
    pub service: Option<ServiceName>,
}

/// Which rows.
#[derive(Debug, Args)]
pub struct WeightsArguments {
    /// Only of this service
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service: Option<ServiceName>,
    /// Only of this home
    #[arg(long, value_name = "NODE")]
    pub node: Option<NodeId>,
}

/// What to explain.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// namespace/name
    pub service: ServiceName,
    /// The home
    pub node: NodeId,
}

/// How to watch.
#[derive(Debug, Args)]
pub struct TopArguments {
    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub every: f64,
    /// Look once
    #[arg(long)]
    pub once: bool,
    /// What to sort by first
    #[arg(long, value_name = "COLUMN", default_value = "used")]
    pub sort: super::top::Column,
}

/// Which events.
#[derive(Debug, Args)]
pub struct EventsArguments {
    /// Also kept ones after this number; 0 for all that are kept
    #[arg(long, value_name = "NUMBER")]
    pub since: Option<u64>,
    /// End after so many
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// What to do with resources.
#[derive(Debug, Args)]
pub struct PolicyArguments {
    /// What to do.
    #[command(subcommand)]
    pub action: PolicyAction,
}

/// What to do with resources.
#[derive(Debug, Subcommand)]
pub enum PolicyAction {
    /// Print policies, or one resource of any kind
    #[command(
        after_help = "Examples:\n  isobar policy get\n  isobar policy get weight-policy all -o yaml"
    )]
    Get(GetArguments),
    /// Create or replace what a file says
    #[command(after_help = "Example:\n  isobar policy apply -f match-night.yaml --dry-run")]
    Apply(ApplyArguments),
    /// Say how a file differs from what is there; exit status 1 when it does
    #[command(after_help = "Example:\n  isobar policy diff -f match-night.yaml")]
    Diff(FileArguments),
    /// Delete a resource
    #[command(after_help = "Example:\n  isobar policy delete weight-policy all")]
    Delete(DeleteArguments),
}

/// Which resources.
#[derive(Debug, Args)]
pub struct GetArguments {
    /// Its kind: weight-policy, traffic-policy, http-route, …; all policies when nothing is said
    pub kind: Option<String>,
    /// Its name; all of the kind when nothing is said
    pub name: Option<String>,
}

/// A file of resources.
#[derive(Debug, Args)]
pub struct FileArguments {
    /// YAML or JSON, one resource or a list; - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
}

/// What to apply.
#[derive(Debug, Args)]
pub struct ApplyArguments {
    /// Which file.
    #[command(flatten)]
    pub file: FileArguments,
    /// Say what the plan would be, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What to delete.
#[derive(Debug, Args)]
pub struct DeleteArguments {
    /// Its kind
    pub kind: String,
    /// Its name, namespace/name for services and routes
    pub name: String,
    /// Say what the plan would be, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What to suppose.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["demand", "times", "fail", "file"]))]
pub struct WhatIfArguments {
    /// So much enters at a node, requests/s; may be repeated
    #[arg(long, value_name = "SERVICE@NODE=RPS")]
    pub demand: Vec<String>,
    /// So many times what enters now; may be repeated
    #[arg(long, value_name = "SERVICE=TIMES")]
    pub times: Vec<String>,
    /// A node is gone; may be repeated
    #[arg(long, value_name = "NODE")]
    pub fail: Vec<NodeId>,
    /// Resources that are written, YAML or JSON
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// What to check.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Where to.
    #[command(flatten)]
    pub to: To,
    /// YAML or JSON, one resource or a list
    #[arg(conflicts_with_all = ["pre", "kubectl", "strict_dry_run"])]
    pub files: Vec<PathBuf>,
    /// Ask the controller who would be refused if every service let in only who has shown who they are
    #[arg(long, conflicts_with_all = ["pre", "kubectl"])]
    pub strict_dry_run: bool,
    /// The cluster, when there is no file.
    #[command(flatten)]
    pub cluster: crate::check::ClusterArguments,
}

/// How much of the audit.
#[derive(Debug, Args)]
pub struct AuditArguments {
    /// The newest so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
    /// Who was refused instead
    #[arg(long)]
    pub refused: bool,
}

/// Where to.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// The file; standard output when nothing is said
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// What to read.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// Which file.
    #[command(flatten)]
    pub file: FileArguments,
    /// Remove what the file does not have
    #[arg(long)]
    pub prune: bool,
    /// Say what the plan would be, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}
