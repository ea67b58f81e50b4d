//! Why a row is as it is: everything that one home's row was made from, and what it is held by.

use isobar_geo_data::distance::distance_m;
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::{Algorithm, WeightPolicySpec};
use isobar_mesh_api::snapshot::{PlanId, Row};
use isobar_mesh_api::weight::WHOLE_PPM;
use serde::Serialize;

use super::ControlLoop;
use super::mesh::Node;
use super::processors::Rank;
use super::push::row;
use super::service::{Seat, Service};
use super::view::Presence;
use crate::capacity::Obtained;
use crate::load_book::Standing;

/// Most nodes listed that are no neighbours; the nearest come first.
pub const OTHERS_MAX: usize = 32;

/// A service at a node. Rates in requests/s.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// Which service.
    pub service: ServiceName,
    /// Where.
    pub node: NodeId,
    /// The plan in force.
    pub plan: PlanId,
    /// The last plan that the node acknowledged.
    pub acked: Option<PlanId>,
    /// Whether the node is heard of.
    pub presence: Presence,
    /// Age of its last word as of the last tick, milliseconds.
    pub age_ms: Option<u64>,
    /// What enters.
    pub demand: DemandWhy,
    /// What its endpoints can serve.
    pub capacity: CapacityWhy,
    /// Which policy decides, and what it allows.
    pub policy: PolicyWhy,
    /// Load by the rows in force: own and others'.
    pub load_rps: f64,
    /// Of this, what comes from others.
    pub moved_in_rps: f64,
    /// Target utilisation × capacity − load, at least 0.
    pub headroom_rps: f64,
    /// To whom it may move load, the nearest first.
    pub neighbours: Vec<NeighbourWhy>,
    /// Other nodes that have the service, the nearest first, at most `OTHERS_MAX`, and why it may not move load there.
    pub others: Vec<OtherWhy>,
    /// The row in force.
    pub row: Row,
    /// The row that the plan asks for.
    pub planned: Row,
    /// The row that the node was last sent.
    pub sent: Row,
    /// What holds the row where it is, the most telling first.
    pub held_by: Vec<Binding>,
}

/// What enters at a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DemandWhy {
    /// In the last report.
    pub entered_rps: f64,
    /// Without its noise.
    pub filtered_rps: f64,
    /// What the planner sees: it rests within the noise, and has what waits.
    pub planned_rps: f64,
}

/// What a node can serve.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CapacityWhy {
    /// What the planner sees.
    pub planned_rps: f64,
    /// Where the figure comes from.
    pub obtained: Obtained,
    /// What its processors leave of it, 0 to 1.
    pub cpu_factor: f64,
    /// What they leave of all the node's services together, 0 to 1.
    pub node_cpu_factor: f64,
    /// The service's priority among them; 0 while its policy only observes.
    pub priority: i32,
    /// Requests that its endpoints work on at once.
    pub workers: u32,
    /// What they completed on average.
    pub served_rps: f64,
}

/// Which policy decides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyWhy {
    /// Its name; `default` when none selects the service.
    pub name: String,
    /// Why it and no other.
    pub because: String,
    /// Others that would select the service, by name.
    pub overruled: Vec<String>,
    /// What it says.
    pub spec: WeightPolicySpec,
}

/// One neighbour.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NeighbourWhy {
    /// Which.
    pub node: NodeId,
    /// Round trip, microseconds.
    pub rtt_us: u64,
    /// Whether the home measured it; else it is estimated from the distance.
    pub rtt_measured: bool,
    /// Distance, metres.
    pub distance_m: Option<f64>,
    /// Whether it is heard of.
    pub presence: Presence,
    /// Age of its last word as of the last tick, milliseconds.
    pub age_ms: Option<u64>,
    /// What it can serve.
    pub capacity_rps: f64,
    /// Its load by the rows in force.
    pub load_rps: f64,
    /// What it may still take below its target.
    pub headroom_rps: f64,
    /// What it has agreed to take from this home.
    pub credit_rps: f64,
    /// The part of the home's demand that goes there, parts per million.
    pub weight_ppm: u32,
    /// The part that the plan asks for.
    pub planned_ppm: u32,
}

/// A node that has the service and is no neighbour.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OtherWhy {
    /// Which.
    pub node: NodeId,
    /// Distance, metres.
    pub distance_m: Option<f64>,
    /// Why not.
    pub because: String,
}

/// What holds a row where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// One word.
    pub constraint: &'static str,
    /// A sentence.
    pub because: String,
}

impl ControlLoop {
    /// Why a service's row at a node is as it is, as of the last tick; `None` where there is no such service or node,
    /// or the node has nothing to do with the service.
    pub fn explain(&self, service: &ServiceName, id: &NodeId) -> Option<Explanation> {
        let service = self.services.get(*self.places.get(service)?)?;
        let number = self.nodes.find(id)?;
        let node = self.nodes.get(number)?;
        let at = service.seat_at(number)?;
        let seat = &service.seats[at];
        let name = |number: u32| self.nodes.id(number).cloned();
        let configured = seat.configured();
        Some(Explanation {
            service: service.name.clone(),
            node: id.clone(),
            plan: self.plan,
            acked: node.stream.acked,
            presence: node.presence(),
            age_ms: self.age_ms(node),
            demand: DemandWhy {
                entered_rps: seat.seen.entered_rps,
                filtered_rps: seat.demand.filtered_rps(),
                planned_rps: seat.demand.held_rps(),
            },
            capacity: CapacityWhy {
                planned_rps: seat.capacity.held_rps(),
                obtained: seat.capacity.figure(configured).1,
                cpu_factor: node.page.cpu.factor_of(service.priority()),
                node_cpu_factor: node.page.cpu.factor(),
                priority: service.priority(),
                workers: configured.workers,
                served_rps: seat.capacity.served_rps(),
            },
            policy: self.policy_why(service),
            load_rps: load_rps(service, at),
            moved_in_rps: rps(&service.planning.moved_in_mrps, at),
            headroom_rps: self.headroom_rps(service, at),
            neighbours: self.neighbours_why(service, at),
            others: self.others_why(service, at),
            row: row(&seat.weights, &name),
            planned: row(&seat.planned, &name),
            sent: row(&seat.pushed, &name),
            held_by: self.held_by(service, at, node),
        })
    }

    fn age_ms(&self, node: &Node) -> Option<u64> {
        let age = node.page.age(self.ticked_at);
        age.map(|age| age.as_millis() as u64)
    }

    fn headroom_rps(&self, service: &Service, at: usize) -> f64 {
        let seat = &service.seats[at];
        let offered = self.nodes.get(seat.node);
        let offered = offered.map_or(0.0, |node| node.standing().headroom());
        let target_rps = seat.capacity.held_rps() * service.policy.target_utilisation;
        (target_rps - load_rps(service, at)).max(0.0) * offered
    }

    fn policy_why(&self, service: &Service) -> PolicyWhy {
        let choice = self.choice_for(service);
        PolicyWhy {
            name: service.policy_name.clone(),
            because: choice.because.to_owned(),
            overruled: choice.overruled,
            spec: service.policy.clone(),
        }
    }

    fn neighbours_why(&self, service: &Service, at: usize) -> Vec<NeighbourWhy> {
        let home = &service.seats[at];
        let measured = |to: u32| self.nodes.get(home.node).and_then(|n| n.page.rtt_us(to));
        let ways = service.ways(home.node).into_iter();
        let why = ways.filter_map(|(to, rtt_us)| {
            let node = self.nodes.get(to)?;
            let there = service.seat_at(to)?;
            let credits = &service.seats[there].credits;
            let credit = credits.iter().find(|credit| credit.0 == home.node);
            Some(NeighbourWhy {
                node: self.nodes.id(to)?.clone(),
                rtt_us,
                rtt_measured: measured(to).is_some(),
                distance_m: self.distance_m(home.node, to),
                presence: node.presence(),
                age_ms: self.age_ms(node),
                capacity_rps: service.seats[there].capacity.held_rps(),
                load_rps: load_rps(service, there),
                headroom_rps: self.headroom_rps(service, there),
                credit_rps: credit.map_or(0.0, |credit| credit.1),
                weight_ppm: home.weights.to_ppm(to),
                planned_ppm: home.planned.to_ppm(to),
            })
        });
        why.collect()
    }

    fn others_why(&self, service: &Service, at: usize) -> Vec<OtherWhy> {
        let home = &service.seats[at];
        let others = service.seats.iter().filter(|seat| {
            let listed = home.ways.binary_search(&seat.node).is_ok();
            seat.node != home.node && !listed && !seat.endpoints.is_empty()
        });
        let mut found: Vec<OtherWhy> = others
            .filter_map(|seat| {
                let distance_m = self.distance_m(home.node, seat.node);
                Some(OtherWhy {
                    node: self.nodes.id(seat.node)?.clone(),
                    distance_m,
                    because: self.why_not(service, home, seat, distance_m),
                })
            })
            .collect();
        let distance = |other: &OtherWhy| other.distance_m.unwrap_or(f64::INFINITY);
        found.sort_by(|a, b| {
            let by_distance = distance(a).total_cmp(&distance(b));
            by_distance.then_with(|| a.node.cmp(&b.node))
        });
        found.truncate(OTHERS_MAX);
        found
    }

    fn why_not(
        &self,
        service: &Service,
        home: &Seat,
        seat: &Seat,
        distance_m: Option<f64>,
    ) -> String {
        let policy = &service.policy;
        let Some(node) = self.nodes.get(seat.node) else {
            return "it is gone".to_owned();
        };
        if node.seat.cordoned {
            return "it is cordoned".to_owned();
        }
        if !node.standing().is_present() {
            return "it is not heard of".to_owned();
        }
        if node.mesh_address().is_empty() {
            return "its mesh address is not known".to_owned();
        }
        let Some(distance_m) = distance_m else {
            return "one of the two has no position".to_owned();
        };
        if let Some(because) = service.forbids(&self.nodes, home.node, seat.node) {
            return because.to_owned();
        }
        if let Some(max_m) = policy.distance_max_m.filter(|max_m| distance_m > *max_m) {
            return format!("it is farther than the policy's {max_m:.0} m");
        }
        let rtt_us = self.nodes.get(home.node);
        let rtt_us = rtt_us.and_then(|from| from.page.rtt_us(seat.node));
        if let Some(max_us) = policy.rtt_max_us
            && rtt_us.is_none_or(|rtt_us| rtt_us > max_us)
        {
            let measured = match rtt_us {
                Some(rtt_us) => format!("{rtt_us} µs"),
                None => "not measured, and expected".to_owned(),
            };
            return format!("its round trip is {measured} beyond the policy's {max_us} µs");
        }
        format!("{} others are nearer", policy.neighbours)
    }

    fn distance_m(&self, a: u32, b: u32) -> Option<f64> {
        let (a, b) = (self.nodes.position(a)?, self.nodes.position(b)?);
        Some(distance_m(a, b))
    }

    /// What priorities have to do with it.
    fn by_priority(&self, service: &Service, number: u32) -> Vec<Binding> {
        let Rank::Among { above, below } = self.rank(service, number) else {
            return Vec::new();
        };
        let left = self.nodes.get(number);
        let left = left.map_or(1.0, |n| n.page.cpu.factor_of(service.priority()));
        let above = above.map(|above| {
            let left = 100.0 * left;
            format!(
                "its node's processors are scarce and serve {above} first: {left:.0} % of its capacity is left to it"
            )
        });
        let below = below.map(|below| {
            format!("its node's processors are scarce: what they cannot serve is taken from {below} first")
        });
        let said = above.into_iter().chain(below);
        said.map(|because| Binding::new(("priority", &because)))
            .collect()
    }

    fn held_by(&self, service: &Service, at: usize, node: &Node) -> Vec<Binding> {
        let seat = &service.seats[at];
        let mut held: Vec<Binding> = by_presence(node).into_iter().collect();
        held.extend(by_utilisation(service, at));
        held.extend(self.by_priority(service, seat.node));
        let policy = &service.policy;
        let moved_ppm = WHOLE_PPM - seat.planned.home_ppm;
        let at_most = policy.move_max * f64::from(WHOLE_PPM);
        let some = [
            (
                policy.observe_only,
                (
                    "observe_only",
                    "the policy only observes: its plan is shown and not followed",
                ),
            ),
            (
                policy.algorithm == Algorithm::Off,
                ("off", "the policy's algorithm moves nothing"),
            ),
            (
                seat.ways.is_empty(),
                (
                    "no_neighbours",
                    "no other node may serve for it; the list of others says why",
                ),
            ),
            (
                moved_ppm > 0 && f64::from(moved_ppm) >= 0.99 * at_most,
                ("move_max", "no more of its demand may move"),
            ),
            (
                seat.planned.cloud_ppm > 0,
                (
                    "cloud",
                    "its neighbours have no room below their ceilings: some goes to the upstream of last resort",
                ),
            ),
            (
                seat.planned.shed_ppm > 0,
                (
                    "shed",
                    "nobody has room below the ceiling: the rest is refused",
                ),
            ),
            (
                seat.weights != seat.planned,
                (
                    "following",
                    "the row in force is on its way to the planned one: homeward goes by steps, small differences wait",
                ),
            ),
            (
                seat.pushed != seat.weights,
                (
                    "not_sent",
                    "the row in force differs from the one sent by too little to tell",
                ),
            ),
        ];
        let holds = some.into_iter().filter(|(holds, _)| *holds);
        held.extend(holds.map(|(_, said)| Binding::new(said)));
        held
    }
}

impl Binding {
    fn new((constraint, because): (&'static str, &str)) -> Binding {
        let because = because.to_owned();
        Binding {
            constraint,
            because,
        }
    }
}

/// What the node's silence has to do with it.
fn by_presence(node: &Node) -> Option<Binding> {
    let said = match node.standing() {
        Standing::Live => return None,
        Standing::Stale { .. } => (
            "stale",
            "its reports are late: its row stays as it was until it is heard of again",
        ),
        Standing::Absent | Standing::Silent => {
            ("silent", "it is not heard of: nothing is planned for it")
        }
    };
    Some(Binding::new(said))
}

/// What target and ceiling have to do with it.
fn by_utilisation(service: &Service, at: usize) -> Option<Binding> {
    let (seat, policy) = (&service.seats[at], &service.policy);
    let capacity_rps = seat.capacity.held_rps();
    let percent = |rps: f64| 100.0 * rps / capacity_rps.max(1e-9);
    let target = 100.0 * policy.target_utilisation;
    let (demand_rps, load_rps) = (seat.demand.held_rps(), load_rps(service, at));
    if seat.endpoints.is_empty() {
        let said = ("no_endpoints", "it has no endpoint: everything must move");
        return Some(Binding::new(said));
    }
    if !seat.planned.is_home() {
        let ceiling = 100.0 * policy.ceiling_utilisation;
        let because = format!(
            "all that enters would be {:.0} % of its capacity; with what moves it is at {:.0} %; \
             the target is {target:.0} %, the ceiling {ceiling:.0} %",
            percent(demand_rps),
            percent(load_rps)
        );
        return Some(Binding::new(("target", &because)));
    }
    let because = format!(
        "its load is {:.0} % of its capacity and the target {target:.0} %: nothing needs to move",
        percent(load_rps)
    );
    (demand_rps <= capacity_rps * policy.target_utilisation)
        .then(|| Binding::new(("below_target", &because)))
}

fn load_rps(service: &Service, at: usize) -> f64 {
    rps(&service.planning.load_mrps, at)
}

fn rps(list: &[i64], at: usize) -> f64 {
    list.get(at).map_or(0.0, |&mrps| mrps as f64 / 1e3)
}
