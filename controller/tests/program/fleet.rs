//! Many proxies at once, as the controller sees them: each reports what it is told to, and says yes to every plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isobar_mesh_api::message::{Down, Hello, LocalService, Location, Up};
use isobar_mesh_api::names::{RegionName, SiteName};
use isobar_mesh_api::snapshot::Endpoint;
use tokio::task::JoinSet;

use crate::mesh::Door;
use crate::proxy::{Proxy, report, service};

/// A node of a fleet.
pub struct Member {
    pub name: &'static str,
    pub lat_deg: f64,
    pub lon_deg: f64,
    pub capacity_rps: f64,
    pub demand_rps: u64,
}

/// Proxies that go on until they are dropped.
pub struct Fleet {
    demands: BTreeMap<&'static str, Arc<AtomicU64>>,
    tasks: JoinSet<()>,
}

impl Fleet {
    pub async fn start(door: &Door, members: &[Member]) -> Fleet {
        let (mut demands, mut tasks) = (BTreeMap::new(), JoinSet::new());
        for member in members {
            let demand = Arc::new(AtomicU64::new(member.demand_rps));
            demands.insert(member.name, demand.clone());
            let proxy = Proxy::enrolled(door, member.name).await;
            let mut stream = proxy.stream(door, hello(&proxy, member)).await.unwrap();
            tasks.spawn(async move {
                let asked = || Up::Report(report(demand.load(Ordering::Relaxed)));
                stream.send(&asked()).await;
                while let Some(down) = stream.next().await {
                    let answer = match down {
                        Down::Snapshot(snapshot) => Up::Ack(snapshot.plan),
                        Down::Delta(delta) => Up::Ack(delta.plan),
                        _ => asked(),
                    };
                    let line = isobar_mesh_api::message::encode_line(&answer).unwrap();
                    // The controller of some tests goes away.
                    if stream.up.send(line.into()).await.is_err() {
                        return;
                    }
                }
            });
        }
        Fleet { demands, tasks }
    }

    /// So much enters at a node from now on.
    pub fn demand(&self, name: &str, rps: u64) {
        self.demands[name].store(rps, Ordering::Relaxed);
    }

    /// All proxies leave.
    pub async fn leave(mut self) {
        self.tasks.shutdown().await;
    }
}

fn hello(proxy: &Proxy, member: &Member) -> Hello {
    Hello {
        location: Some(Location {
            lat_deg: member.lat_deg,
            lon_deg: member.lon_deg,
        }),
        site: Some(SiteName::new(member.name).unwrap()),
        region: Some(RegionName::new("alps").unwrap()),
        services: vec![LocalService {
            service: service(),
            hosts: vec!["*".to_owned()],
            endpoints: vec![Endpoint {
                address: "127.0.0.1:9000".to_owned(),
                workers: 4,
            }],
            capacity_rps: Some(member.capacity_rps),
        }],
        ..proxy.hello()
    }
}

const fn member(
    name: &'static str,
    place: (f64, f64),
    capacity_rps: f64,
    demand_rps: u64,
) -> Member {
    Member {
        name,
        lat_deg: place.0,
        lon_deg: place.1,
        capacity_rps,
        demand_rps,
    }
}

/// Towns around Milan, which has far more than it can serve.
pub const ALPS: [Member; 14] = [
    member("milan", (45.464, 9.19), 200.0, 420),
    member("turin", (45.07, 7.687), 150.0, 60),
    member("genoa", (44.407, 8.934), 120.0, 104),
    member("bologna", (44.494, 11.343), 140.0, 70),
    member("verona", (45.438, 10.992), 100.0, 82),
    member("venice", (45.438, 12.327), 110.0, 108),
    member("trento", (46.067, 11.121), 60.0, 20),
    member("bolzano", (46.498, 11.355), 50.0, 12),
    member("bergamo", (45.695, 9.67), 90.0, 35),
    member("brescia", (45.541, 10.212), 90.0, 30),
    member("lugano", (46.004, 8.951), 70.0, 18),
    member("como", (45.81, 9.085), 60.0, 15),
    member("parma", (44.801, 10.328), 80.0, 40),
    member("piacenza", (45.052, 9.693), 60.0, 22),
];
