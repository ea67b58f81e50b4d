//! A snapshot made ready for requests: every name resolved once.
//!
//! [`Routes`] is immutable and replaced whole ([`Table::apply`]); live state is
//! taken over by name. A request looks up its service by host or name and has
//! all it needs behind one pointer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use http::{HeaderValue, request::Parts};
use isobar_mesh_api::hop::LoadHint;
use isobar_mesh_api::message::LocalService;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::TrafficPolicySpec;
use isobar_mesh_api::route::Route as WrittenRoute;
use isobar_mesh_api::snapshot::{PlanId, QueueLimits, Row, Snapshot, SnapshotError};
use tokio::sync::Notify;

use self::book::Book;
use crate::access;
use crate::balancer::Balancer;
use crate::clock::Clock;
use crate::config::Config;
use crate::credit::CreditBook;
use crate::endpoint::EndpointLive;
use crate::live::{MovedInLive, MovedOutLive, ServiceLive};
use crate::neighbour::NeighbourLive;
use crate::neighbour_load::NeighbourLoad;
use crate::pick::Route;
use crate::rates::Rates;
use crate::route::{Found, Lost, RouteTable, Rule};
use crate::traffic::Traffic;

mod book;

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
    /// Which of them gets a request.
    pub balancer: Arc<Balancer>,
    /// How many requests are let in.
    pub rates: Rates,
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
    /// Who may call it; `None`: everybody.
    pub guard: Option<Arc<access::Guard>>,
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

    /// Every rule of every route.
    pub fn rules(&self) -> &[Arc<Rule>] {
        self.table.rules()
    }

    /// The service that the next connection of a listener goes to; `None`: no route says it. The inner `None`: a route's
    /// share for a service that does not exist.
    pub fn tcp(&self, listener: &str, worker: usize) -> Option<Option<&Arc<ServiceRoute>>> {
        Some(self.next(self.table.tcp(listener)?, worker))
    }

    /// The service that the next connection goes to that was going to this one.
    pub fn tcp_of(&self, service: &ServiceName, worker: usize) -> Option<&Arc<ServiceRoute>> {
        match self.table.tcp_of(service) {
            Some(rule) => self.next(rule, worker),
            None => self.by_name(service),
        }
    }

    fn next(&self, rule: &Rule, worker: usize) -> Option<&Arc<ServiceRoute>> {
        let backend = rule.next(worker).backend;
        let place = backend.and_then(|backend| rule.backends.get(backend)?.service);
        self.services.get(place?)
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

    /// Requests that all endpoints here together are given at once.
    pub fn places(&self) -> u32 {
        let places = self.endpoints.iter().map(|e| e.places());
        places.fold(0, u32::saturating_add)
    }

    /// Divides what is learned among the endpoints, in proportion to their workers; `None`: they get as many as they have
    /// workers.
    pub fn limit_places(&self, learned: Option<u32>) {
        let all = f64::from(self.workers.max(1));
        for endpoint in self.endpoints.iter() {
            let part = |learned: u32| f64::from(learned) * f64::from(endpoint.workers()) / all;
            endpoint
                .set_learned(learned.map_or(0, |learned| part(learned).round().max(1.0) as u32));
        }
    }

    /// Counters of requests sent to a neighbour.
    pub fn moved_out(&self, neighbour: usize) -> &Arc<MovedOutLive> {
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

impl Table {
    /// Routes to this node's own services alone.
    pub fn new(node: NodeId, threads: usize, clock: Clock, local: Local) -> Table {
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
