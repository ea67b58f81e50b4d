//! Who may call a service: which access policies are for it. The controller only passes them on.

use std::sync::Arc;

use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::AccessPolicy;

use super::ControlLoop;
use super::service::Service;

impl ControlLoop {
    /// All access policies.
    pub fn set_access_policies(&mut self, mut policies: Vec<Arc<AccessPolicy>>) {
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        self.access_policies = policies;
        for service in &mut self.services {
            service.set_access(access_for(&self.access_policies, &service.name));
        }
    }
}

impl Service {
    /// Sets who may call it; proxies are told when it differs.
    fn set_access(&mut self, access: Vec<Arc<AccessPolicy>>) {
        if self.access != access {
            self.access = access;
            self.seats.iter_mut().for_each(|seat| seat.changed = true);
        }
    }
}

/// The policies that are for a service, by name.
pub(super) fn access_for(
    policies: &[Arc<AccessPolicy>],
    service: &ServiceName,
) -> Vec<Arc<AccessPolicy>> {
    let selecting = policies.iter();
    let selecting = selecting.filter(|policy| policy.spec.selects(service).is_some());
    selecting.cloned().collect()
}
