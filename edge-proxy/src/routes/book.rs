//! Makes routes of a snapshot, with the live state that there is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderValue;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::traffic_policy::TellClient;
use isobar_mesh_api::resource::{EndpointProtocol, TrafficPolicySpec};
use isobar_mesh_api::snapshot::{Neighbour, QueueLimits, Row, ServicePlan, Snapshot};
use tokio::sync::Notify;

use super::{Local, Routes, ServiceRoute, Written};
use crate::access;
use crate::balancer::Balancer;
use crate::clock::Clock;
use crate::credit::CreditBook;
use crate::decay;
use crate::endpoint::EndpointLive;
use crate::live::ServiceLive;
use crate::neighbour::NeighbourLive;
use crate::neighbour_load::NeighbourLoad;
use crate::pick::Route;
use crate::rates::Rates;
use crate::route::{RouteTable, Services};
use crate::shed;
use crate::traffic::Traffic;

/// Live state by name.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) suspicion: Arc<Notify>,
    pub(super) node: NodeId,
    pub(super) threads: usize,
    pub(super) clock: Clock,
    pub(super) local: Local,
    pub(super) services: BTreeMap<ServiceName, Arc<ServiceLive>>,
    pub(super) endpoints: BTreeMap<(ServiceName, String), Arc<EndpointLive>>,
    pub(super) neighbours: BTreeMap<NodeId, Arc<NeighbourLive>>,
}

impl Book {
    pub(super) fn resolve(
        &mut self,
        snapshot: Arc<Snapshot>,
        share_left: f64,
        before: Option<&Routes>,
    ) -> Routes {
        let neighbours: Arc<[Arc<NeighbourLive>]> = snapshot
            .neighbours
            .iter()
            .map(|neighbour| self.neighbour(neighbour))
            .collect();
        let plans = self.with_local(&snapshot);
        let (table, written) = self.table(&snapshot, &plans, before);
        let mut routes = Routes {
            share_left,
            neighbours,
            services: Vec::with_capacity(plans.len()),
            by_name: HashMap::new(),
            table,
            written,
            snapshot: Arc::clone(&snapshot),
        };
        for (index, plan) in plans.iter().enumerate() {
            let mut route = self.service(plan, &snapshot.neighbours, share_left, before);
            route.neighbours = Arc::clone(&routes.neighbours);
            routes.services.push(Arc::new(route));
            routes.by_name.insert(plan.service.clone(), index);
        }
        routes
    }

    /// The plan's services, and those that only this node's configuration knows.
    fn with_local(&self, snapshot: &Snapshot) -> Vec<ServicePlan> {
        let mut plans = snapshot.services.clone();
        for local in &self.local.services {
            if plans.iter().any(|plan| plan.service == local.service) {
                continue;
            }
            plans.push(ServicePlan {
                service: local.service.clone(),
                hosts: local.hosts.clone(),
                endpoints: local.endpoints.clone(),
                row: Row::home(),
                credits: Vec::new(),
                spill: Vec::new(),
                cloud_address: None,
                queue: QueueLimits::default(),
                traffic: None,
                protocol: None,
                rate_shares: Vec::new(),
                access: Vec::new(),
            });
        }
        plans
    }

    /// The rules of the plan, and those that only this node's configuration has.
    fn table(
        &self,
        snapshot: &Snapshot,
        plans: &[ServicePlan],
        before: Option<&Routes>,
    ) -> (Arc<RouteTable>, Written) {
        let mut routes = snapshot.routes.clone();
        let local = self.local.routes.iter();
        let only_local = local.filter(|own| !snapshot.routes.iter().any(|r| r.key() == own.key()));
        routes.extend(only_local.cloned());
        let hosts = plans.iter().map(|p| (p.service.clone(), p.hosts.clone()));
        let hosts = hosts.collect();
        let written = Written { routes, hosts };
        if let Some(before) = before.filter(|before| before.written == written) {
            return (Arc::clone(&before.table), written);
        }
        let named: Vec<(&ServiceName, &[String])> = written
            .hosts
            .iter()
            .map(|(name, hosts)| (name, hosts.as_slice()))
            .collect();
        let services = Services {
            named: &named,
            threads: self.threads,
        };
        let old = before.map(|before| &*before.table);
        let table = RouteTable::compile(&written.routes, services, old);
        (Arc::new(table), written)
    }

    fn service(
        &mut self,
        plan: &ServicePlan,
        neighbours: &[Neighbour],
        share_left: f64,
        before: Option<&Routes>,
    ) -> ServiceRoute {
        let old = before.and_then(|routes| routes.by_name(&plan.service));
        let traffic = self.traffic(plan);
        let live = self.service_live(&plan.service);
        let endpoints: Arc<[Arc<EndpointLive>]> = plan
            .endpoints
            .iter()
            .map(|e| self.endpoint(&live, &e.address, e.workers, &traffic))
            .collect();
        let before_it = old.map(|route| &route.balancer);
        let policy = &traffic.spec.load_balancing;
        let balancer = Balancer::new(policy, Arc::clone(&endpoints), self.clock, before_it);
        live.gate.set_balancer(Arc::clone(&balancer));
        let limits = &traffic.spec.rate_limits;
        live.keep_rates(|name| limits.iter().any(|limit| limit.name == name));
        let rates = Rates::new(limits, &plan.rate_shares, |name| live.rate(name));
        let cloud = plan
            .cloud_address
            .as_ref()
            .map(|address| self.endpoint(&live, address, u32::MAX, &traffic));
        let row = decay::decay(&plan.row, share_left);
        let homes = plan.credits.iter().map(|credit| &credit.home);
        let workers = plan
            .endpoints
            .iter()
            .fold(0, |sum: u32, e| sum.saturating_add(e.workers));
        let queue = match *traffic.spec == TrafficPolicySpec::default() {
            true => plan.queue,
            false => traffic.queue(),
        };
        ServiceRoute {
            workers,
            endpoints,
            balancer,
            rates,
            queue: shed::limits(queue, &row, workers),
            traffic,
            pick: Route::with_row(plan, &row, neighbours),
            row,
            neighbours: Arc::default(),
            load: self.neighbour_load(neighbours, old, before),
            credits: CreditBook::new(&plan.credits, old.map(|old| &old.credits)),
            guard: access::guard(plan, old.and_then(|old| old.guard.as_ref())),
            cloud,
            name: header_value(&plan.service),
            moved_out: neighbours.iter().map(|n| live.moved_out(&n.node)).collect(),
            moved_in: homes
                .map(|home| (home.clone(), live.moved_in(home)))
                .collect(),
            live,
        }
    }

    /// How a service's requests are treated: by the plan, else by the node's own configuration.
    fn traffic(&self, plan: &ServicePlan) -> Traffic {
        let own = || {
            let none = BTreeMap::new();
            let selects = |p: &&Arc<TrafficPolicySpec>| p.selects(&plan.service, &none);
            let mut selecting = self.local.traffic_policies.iter().filter(selects);
            let first = selecting.clone().next();
            // One that names the service comes before one for all.
            selecting.find(|p| !p.is_for_all()).or(first).cloned()
        };
        let spec = plan.traffic.clone().or_else(own);
        let mut traffic = Traffic::new(spec.unwrap_or_default());
        // A connection that begins with a header of the PROXY protocol carries one request, as the policy wants it.
        if traffic.spec.endpoints.proxy_protocol == TellClient::Off {
            let said = plan.protocol.map(|said| said == EndpointProtocol::Http2);
            traffic.speaks_http2 = said.unwrap_or(traffic.speaks_http2);
        }
        traffic
    }

    fn service_live(&mut self, service: &ServiceName) -> Arc<ServiceLive> {
        let threads = self.threads;
        let live = self.services.entry(service.clone()).or_insert_with(|| {
            let suspicion = Arc::clone(&self.suspicion);
            let new = ServiceLive::new(service.clone(), threads, suspicion);
            Arc::new(new)
        });
        Arc::clone(live)
    }

    fn endpoint(
        &mut self,
        live: &ServiceLive,
        address: &str,
        workers: u32,
        traffic: &Traffic,
    ) -> Arc<EndpointLive> {
        let key = (live.service.clone(), address.to_owned());
        let (threads, clock) = (self.threads, self.clock);
        let endpoint = self.endpoints.entry(key).or_insert_with(|| {
            let siblings = Arc::clone(&live.siblings);
            let new = EndpointLive::new(address, workers, threads, clock, siblings);
            Arc::new(new)
        });
        endpoint.set_workers(workers);
        endpoint.circuit.set_rules(traffic);
        Arc::clone(endpoint)
    }

    fn neighbour(&mut self, neighbour: &Neighbour) -> Arc<NeighbourLive> {
        let node = &neighbour.node;
        let told = &neighbour.mesh_address;
        let address = self.local.peer_address.get(node).unwrap_or(told);
        // One connection per worker and one for the prober.
        let links = self.threads + 1;
        let live = self
            .neighbours
            .entry(node.clone())
            .or_insert_with(|| Arc::new(NeighbourLive::new(node.clone(), address, links)));
        live.set_address(address);
        Arc::clone(live)
    }

    /// The slots of before while the neighbours are the same; else new ones with what is known.
    fn neighbour_load(
        &self,
        neighbours: &[Neighbour],
        old: Option<&Arc<ServiceRoute>>,
        before: Option<&Routes>,
    ) -> Arc<NeighbourLoad> {
        let (Some(old), Some(before)) = (old, before) else {
            return Arc::new(NeighbourLoad::new(neighbours.len()));
        };
        let known = &before.snapshot.neighbours;
        let nodes = |list: &[Neighbour]| list.iter().map(|n| n.node.clone()).collect::<Vec<_>>();
        if nodes(known) == nodes(neighbours) {
            return Arc::clone(&old.load);
        }
        let new = NeighbourLoad::new(neighbours.len());
        let now_us = self.clock.now_us();
        for (index, neighbour) in neighbours.iter().enumerate() {
            let Some(was) = known.iter().position(|n| n.node == neighbour.node) else {
                continue;
            };
            let age_us = old.load.age_us(was, now_us);
            if let (Some(hint), Some(age_us)) = (old.load.fresh(was, now_us), age_us) {
                new.heard(index, hint, now_us.saturating_sub(age_us));
            }
        }
        Arc::new(new)
    }

    /// Lets go of endpoints and neighbours that no route names; requests that use them go on.
    /// Services keep their counters: what was counted must still be reported.
    pub(super) fn forget_unused(&mut self, routes: &Routes) {
        self.neighbours
            .retain(|node, _| routes.neighbours.iter().any(|n| n.node == *node));
        self.endpoints.retain(|(service, address), _| {
            routes.by_name(service).is_some_and(|route| {
                let named = route.endpoints.iter().chain(&route.cloud);
                named.into_iter().any(|e| e.address() == address)
            })
        });
    }
}

fn header_value(service: &ServiceName) -> HeaderValue {
    // A service name is lower-case letters, digits, '-', '.', '/'.
    HeaderValue::from_str(service.as_str()).expect("a service name is a header value")
}
