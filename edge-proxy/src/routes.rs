//! A snapshot made ready for requests: every name resolved once.
//!
//! [`Routes`] is immutable and replaced whole ([`Table::apply`]); live state is
//! taken over by name. A request looks up its service by host or name and has
//! all it needs behind one pointer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use http::HeaderValue;
use http::request::Parts;
use isobar_mesh_api::hop::LoadHint;
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::TrafficPolicySpec;
use isobar_mesh_api::route::Route as WrittenRoute;
use isobar_mesh_api::snapshot::{
    Neighbour, PlanId, QueueLimits, Row, ServicePlan, Snapshot, SnapshotError,
};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::config::Config;
use crate::credit::CreditBook;
use crate::decay;
use crate::endpoint::EndpointLive;
use crate::live::{MovedInLive, MovedOutLive, ServiceLive};
use crate::metrics::Metrics;
use crate::neighbour::NeighbourLive;
use crate::neighbour_load::NeighbourLoad;
use crate::pick::Route;
use crate::route::{Found, Lost, RouteTable, Services};
use crate::shed;
use crate::traffic::Traffic;

/// All routes of one snapshot.
#[derive(Debug)]
pub struct Routes {
    /// What they were made of.
    pub snapshot: Arc<Snapshot>,
    /// The share of the plan's moves that still holds; 1 while the controller is there.
    pub share_left: f64,
    /// By their index in the snapshot.
    pub neighbours: Arc<[Arc<NeighbourLive>]>,
    /// In the snapshot's order.
    pub services: Vec<Arc<ServiceRoute>>,
    by_name: HashMap<ServiceName, usize>,
    /// Rules, and services' own host names.
    table: Arc<RouteTable>,
    /// What `table` was compiled from.
    written: Written,
}

/// What rules are compiled from. While it is the same, so are they: a plan with other weights compiles nothing.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    routes: Vec<Arc<WrittenRoute>>,
    hosts: Vec<(ServiceName, Vec<String>)>,
}

/// All that a request for one service needs.
#[derive(Debug)]
pub struct ServiceRoute {
    /// Counters and queue.
    pub live: Arc<ServiceLive>,
    /// Instances on this node.
    pub endpoints: Arc<[Arc<EndpointLive>]>,
    /// Requests that all of them work on at once.
    pub workers: u32,
    /// Limits of the queue.
    pub queue: QueueLimits,
    /// How its requests are treated.
    pub traffic: Traffic,
    /// The weights in force.
    pub row: Row,
    /// Who serves, by these weights.
    pub pick: Route,
    /// By their index in the snapshot.
    pub neighbours: Arc<[Arc<NeighbourLive>]>,
    /// What neighbours last said of themselves, by index.
    pub load: Arc<NeighbourLoad>,
    /// What this node takes for others.
    pub credits: CreditBook,
    /// Upstream of last resort.
    pub cloud: Option<Arc<EndpointLive>>,
    /// The service's name, as it stands in a header.
    pub name: HeaderValue,
    moved_out: Vec<Arc<MovedOutLive>>,
    moved_in: BTreeMap<NodeId, Arc<MovedInLive>>,
}

impl Routes {
    /// Where a request for a host goes.
    ///
    /// # Errors
    /// Nowhere.
    pub fn find(&self, host: Option<&str>, head: &Parts) -> Result<Found<'_>, Lost> {
        self.table.find(host, head)
    }

    /// The service of this name.
    pub fn by_name(&self, name: &ServiceName) -> Option<&Arc<ServiceRoute>> {
        self.services.get(*self.by_name.get(name)?)
    }
}

impl ServiceRoute {
    /// This node's own load with the service.
    pub fn home_load(&self) -> LoadHint {
        self.live.load(&self.endpoints)
    }

    /// Whether anybody may serve its requests: an endpoint here that its health check does not call ill, a
    /// neighbour, the upstream of last resort.
    pub fn can_serve(&self) -> bool {
        let here = || self.endpoints.iter().any(|e| e.circuit.is_healthy());
        let elsewhere = !self.row.moves.is_empty() || self.pick.spill().next().is_some();
        elsewhere || self.cloud.is_some() || here()
    }

    /// Requests that those endpoints here work on at once which get requests; `None` when all do.
    pub fn workers_up(&self) -> Option<u32> {
        let open = |e: &&Arc<EndpointLive>| e.circuit.is_open();
        let out = self.endpoints.iter().filter(open).map(|e| e.workers());
        let out = out.fold(None, |sum: Option<u32>, workers| {
            Some(sum.unwrap_or(0).saturating_add(workers))
        });
        out.map(|out| self.workers.saturating_sub(out))
    }

    /// Counters of requests sent to a neighbour.
    pub fn moved_out(&self, neighbour: usize) -> &MovedOutLive {
        &self.moved_out[neighbour]
    }

    /// Counters of requests from a home.
    pub fn moved_in(&self, home: &NodeId) -> Arc<MovedInLive> {
        match self.moved_in.get(home) {
            Some(counters) => Arc::clone(counters),
            None => self.live.moved_in(home),
        }
    }
}

/// The routes of now, and the live state they are made with.
#[derive(Debug)]
pub struct Table {
    now: ArcSwap<Routes>,
    book: Mutex<Book>,
    suspicion: Arc<Notify>,
}

/// What this node's own configuration says.
#[derive(Debug, Default)]
pub struct Local {
    /// Services with endpoints here.
    pub services: Vec<LocalService>,
    /// How requests are treated where the plan says nothing.
    pub traffic_policies: Vec<Arc<TrafficPolicySpec>>,
    /// Where requests go, beside the plan's routes.
    pub routes: Vec<Arc<WrittenRoute>>,
    /// Where to reach nodes that are not where they say they are.
    pub peer_address: BTreeMap<NodeId, String>,
}

impl Local {
    /// From the configuration.
    pub fn new(config: &Config) -> Local {
        let policies = config.traffic_policies.iter();
        let routes = config.routes.iter();
        Local {
            services: config.services.clone(),
            traffic_policies: policies.cloned().map(Arc::new).collect(),
            routes: routes.map(|r| Arc::clone(r.route())).collect(),
            peer_address: config.peer_address.clone(),
        }
    }
}

/// Live state by name.
#[derive(Debug)]
struct Book {
    suspicion: Arc<Notify>,
    node: NodeId,
    threads: usize,
    clock: Clock,
    metrics: Metrics,
    local: Local,
    services: BTreeMap<ServiceName, Arc<ServiceLive>>,
    endpoints: BTreeMap<(ServiceName, String), Arc<EndpointLive>>,
    neighbours: BTreeMap<NodeId, Arc<NeighbourLive>>,
}

impl Table {
    /// Routes to this node's own services alone.
    pub fn new(
        node: NodeId,
        threads: usize,
        clock: Clock,
        metrics: Metrics,
        local: Local,
    ) -> Table {
        let alone = Snapshot {
            plan: PlanId::default(),
            node: node.clone(),
            period_ms: 1000,
            neighbours: Vec::new(),
            services: Vec::new(),
            routes: Vec::new(),
        };
        let suspicion = Arc::new(Notify::new());
        let mut book = Book {
            suspicion: Arc::clone(&suspicion),
            node,
            threads,
            clock,
            metrics,
            local,
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            neighbours: BTreeMap::new(),
        };
        let routes = book.resolve(Arc::new(alone), 1.0, None);
        Table {
            now: ArcSwap::from_pointee(routes),
            book: Mutex::new(book),
            suspicion,
        }
    }

    /// The routes of now. Cheap; not to be held across an await.
    pub fn load(&self) -> Guard<Arc<Routes>> {
        self.now.load()
    }

    /// Replaces all routes at once.
    ///
    /// # Errors
    /// A snapshot for another node, or one that does not pass its check; nothing changes then.
    pub fn apply(&self, snapshot: Arc<Snapshot>) -> Result<(), SnapshotError> {
        snapshot.check()?;
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if snapshot.node != book.node {
            return Err(SnapshotError::WrongNode(snapshot.node.clone()));
        }
        let before = self.now.load_full();
        let routes = book.resolve(snapshot, 1.0, Some(&before));
        self.now.store(Arc::new(routes));
        book.forget_unused(&self.now.load());
        Ok(())
    }

    /// Replaces what this node's own configuration says.
    pub fn set_local(&self, local: Local) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.local = local;
        let before = self.now.load_full();
        let snapshot = Arc::clone(&before.snapshot);
        let routes = book.resolve(snapshot, before.share_left, Some(&before));
        self.now.store(Arc::new(routes));
        book.forget_unused(&self.now.load());
    }

    /// Scales what moves by plan, while the controller is silent. 1 = as planned.
    pub fn set_share_left(&self, share_left: f64) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.now.load_full();
        let snapshot = Arc::clone(&before.snapshot);
        let routes = book.resolve(snapshot, share_left, Some(&before));
        self.now.store(Arc::new(routes));
    }

    /// Waits until an endpoint gives many errors in a row.
    pub async fn suspected(&self) {
        self.suspicion.notified().await;
    }

    /// Live state of all services, in order of name.
    pub fn services(&self) -> Vec<Arc<ServiceLive>> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.services.values().cloned().collect()
    }

    /// All endpoints, for sweeping their idle connections.
    pub fn endpoints(&self) -> Vec<Arc<EndpointLive>> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.endpoints.values().cloned().collect()
    }
}

impl Book {
    fn resolve(
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
            .map(|e| self.endpoint(&plan.service, &e.address, e.workers, &traffic))
            .collect();
        live.gate.set_endpoints(Arc::clone(&endpoints));
        let cloud = plan
            .cloud_address
            .as_ref()
            .map(|address| self.endpoint(&plan.service, address, u32::MAX, &traffic));
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
            queue: shed::limits(queue, &row, workers),
            traffic,
            pick: Route::with_row(plan, &row, neighbours),
            row,
            neighbours: Arc::default(),
            load: self.neighbour_load(neighbours, old, before),
            credits: CreditBook::new(&plan.credits, old.map(|old| &old.credits)),
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
        Traffic::new(spec.unwrap_or_default())
    }

    fn service_live(&mut self, service: &ServiceName) -> Arc<ServiceLive> {
        let (threads, metrics) = (self.threads, &self.metrics);
        let live = self.services.entry(service.clone()).or_insert_with(|| {
            let duration = metrics.duration(service);
            Arc::new(ServiceLive::new(service.clone(), threads, duration))
        });
        Arc::clone(live)
    }

    fn endpoint(
        &mut self,
        service: &ServiceName,
        address: &str,
        workers: u32,
        traffic: &Traffic,
    ) -> Arc<EndpointLive> {
        let key = (service.clone(), address.to_owned());
        let (threads, clock) = (self.threads, self.clock);
        let endpoint = self.endpoints.entry(key).or_insert_with(|| {
            let suspicion = Arc::clone(&self.suspicion);
            let new = EndpointLive::new(address, workers, threads, clock, suspicion);
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
    fn forget_unused(&mut self, routes: &Routes) {
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
