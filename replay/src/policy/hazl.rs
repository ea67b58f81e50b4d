//! A load band over endpoints, after Buoyant's description of HAZL.
//!
//! From the public reference of Buoyant Enterprise for Linkerd, not its code.
//! Load is latency × throughput per endpoint in use, which is the number of
//! the client's requests under way per endpoint (Little's law). Above the
//! band's high value (2.0) endpoints of other zones are added, below its low
//! value (0.8) they are removed again. Every node is a zone here and each of
//! its workers an endpoint.
//!
//! What the reference leaves open and is assumed: load is smoothed over 1 s;
//! one endpoint is added or removed every 100 ms; other zones are taken in
//! order of distance, one endpoint of each before the second of any, and
//! given back in the opposite order; among the endpoints in use the better of
//! two random ones is taken by requests under way, as in Linkerd's balancer.

use super::{Policy, Step};
use crate::measure::Outcome;
use crate::simulator::Mesh;
use crate::simulator::request::{Moved, Request};

const LOAD_LOW: f64 = 0.8;
const LOAD_HIGH: f64 = 2.0;
const STEP_NS: u64 = 100_000_000;
const SMOOTHING_S: f64 = 1.0;

#[derive(Debug, Clone, Default)]
struct Client {
    /// Remote endpoints in use, counted over the neighbourhood in turns.
    remote: u32,
    load: f64,
    /// Own requests under way: at home, then by neighbour.
    under_way: Vec<u32>,
}

/// All homes' balancers.
#[derive(Debug, Default)]
pub(crate) struct Hazl {
    clients: Vec<Client>,
}

impl Policy for Hazl {
    fn start(&mut self, mesh: &mut Mesh<'_>) {
        let client = |list: &Vec<u32>| Client {
            under_way: vec![0; list.len() + 1],
            ..Client::default()
        };
        self.clients = mesh.field.neighbours.iter().map(client).collect();
        for home in 0..mesh.field.len() as u32 {
            let phase_ns = mesh.rng.u64(1..=STEP_NS);
            mesh.call_back(phase_ns, home);
        }
    }

    fn place(&mut self, home: u32, mesh: &mut Mesh<'_>) -> Step {
        let workers = mesh.field.workers[home as usize];
        let client = &mut self.clients[home as usize];
        let zones = client.under_way.len() as u32 - 1;
        let in_use = workers + client.remote;
        // The first `workers` endpoints are home's; the others go round the neighbourhood.
        let zone = |endpoint: u32| match endpoint.checked_sub(workers) {
            None => 0,
            Some(remote) => 1 + remote % zones,
        };
        let endpoints = |zone: u32| match zone {
            0 => workers,
            zone => client.remote.saturating_sub(zone - 1).div_ceil(zones),
        };
        let a = zone(mesh.rng.u32(..in_use));
        let b = zone(mesh.rng.u32(..in_use));
        let crowd = |zone: u32| {
            f64::from(client.under_way[zone as usize]) / f64::from(endpoints(zone).max(1))
        };
        let chosen = if crowd(b) < crowd(a) { b } else { a };
        client.under_way[chosen as usize] += 1;
        match chosen {
            0 => Step::Home,
            zone => Step::Move {
                to: mesh.field.neighbours[home as usize][zone as usize - 1],
                moved: Moved::Plan,
            },
        }
    }

    fn ended(&mut self, request: &Request, _outcome: Outcome, mesh: &Mesh<'_>) {
        let list = &mesh.field.neighbours[request.home as usize];
        let zone = match request.at {
            at if at == request.home => Some(0),
            at => list.iter().position(|&node| node == at).map(|i| i + 1),
        };
        if let Some(zone) = zone {
            let count = &mut self.clients[request.home as usize].under_way[zone];
            *count = count.saturating_sub(1);
        }
    }

    fn on_event(&mut self, home: u32, mesh: &mut Mesh<'_>) {
        let workers = mesh.field.workers[home as usize];
        let client = &mut self.clients[home as usize];
        let in_use = f64::from(workers + client.remote);
        let now = f64::from(client.under_way.iter().sum::<u32>()) / in_use;
        let gain = 1.0 - (-(STEP_NS as f64) / 1e9 / SMOOTHING_S).exp();
        client.load += gain * (now - client.load);
        let zones = client.under_way.len() as u32 - 1;
        if client.load > LOAD_HIGH && client.remote < zones * workers {
            client.remote += 1;
        } else if client.load < LOAD_LOW && client.remote > 0 {
            client.remote -= 1;
        }
        if mesh.is_open() {
            mesh.call_back(STEP_NS, home);
        }
    }
}
