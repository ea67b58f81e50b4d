//! How requests of a service are treated: which traffic policy is for it. The controller only passes it on.

use std::collections::BTreeMap;
use std::sync::Arc;

use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::TrafficPolicySpec;

use super::ControlLoop;
use super::service::Service;

/// One traffic policy.
#[derive(Clone)]
pub(super) struct Policy {
    name: String,
    /// Whom it is for.
    selecting: TrafficPolicySpec,
    /// What proxies are told: without the names of all that it is for.
    told: Arc<TrafficPolicySpec>,
}

impl Policy {
    fn new(name: String, selecting: TrafficPolicySpec) -> Policy {
        let mut told = selecting.clone();
        told.services.clear();
        told.labels.clear();
        Policy {
            name,
            selecting,
            told: Arc::new(told),
        }
    }
}

impl ControlLoop {
    /// All traffic policies. Of those that select a service, the first by name that names it wins, else the first that
    /// selects it by its labels, else the first that is for all; without any the proxies go by their own defaults.
    pub fn set_traffic_policies(&mut self, policies: Vec<(String, TrafficPolicySpec)>) {
        let policy = |(name, spec)| Policy::new(name, spec);
        let mut policies: Vec<Policy> = policies.into_iter().map(policy).collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        self.traffic_policies = policies;
        for service in &mut self.services {
            let traffic = traffic_for(&self.traffic_policies, &service.name, &service.labels);
            service.set_traffic(traffic);
        }
    }

    /// The labels of a service that the operator declares; policies may select by them.
    pub fn set_labels(&mut self, name: &ServiceName, labels: BTreeMap<String, String>) {
        let place = self.places.get(name).copied();
        let Some(service) = place.and_then(|place| self.services.get_mut(place)) else {
            return;
        };
        let traffic = traffic_for(&self.traffic_policies, name, &labels);
        service.labels = labels;
        service.set_traffic(traffic);
        self.choose_policy(place.unwrap_or(usize::MAX));
    }
}

impl Service {
    /// Sets how requests are treated; proxies are told when it differs.
    pub(super) fn set_traffic(&mut self, traffic: Option<Arc<TrafficPolicySpec>>) {
        if self.traffic != traffic {
            self.traffic = traffic;
            self.seats.iter_mut().for_each(|seat| seat.changed = true);
        }
    }
}

/// What the policy for a service says; `None` without one.
pub(super) fn traffic_for(
    policies: &[Policy],
    service: &ServiceName,
    labels: &BTreeMap<String, String>,
) -> Option<Arc<TrafficPolicySpec>> {
    let sound = || policies.iter().filter(|p| p.selecting.check().is_ok());
    let named = sound().find(|p| p.selecting.services.contains(service));
    let labelled = || {
        let selects =
            |p: &&Policy| !p.selecting.is_for_all() && p.selecting.selects(service, labels);
        sound().find(selects)
    };
    let for_all = || sound().find(|p| p.selecting.is_for_all());
    let chosen = named.or_else(labelled).or_else(for_all);
    chosen.map(|policy| Arc::clone(&policy.told))
}
