//! What the control task answers without changing anything.

use isobar_mesh_api::resource::Resource;

use super::handle::{Message, Page, Shown, Status};
use super::route_status::RouteStatus;
use super::{ControlTask, Hypothesis};
use crate::resource_text::{Declared, Kind, Meaning};

impl ControlTask {
    /// Answers a question. Who asked may have gone.
    pub(super) fn answer(&self, question: Message) {
        match question {
            Message::Get { key, reply } => {
                let found = self.desired.get(&key);
                let _ = reply.send(found.map(|declared| self.shown(declared)));
            }
            Message::List {
                kind,
                after,
                limit,
                reply,
            } => {
                let _ = reply.send(self.list(kind, after.as_deref(), limit));
            }
            Message::Endpoints { service, reply } => {
                let _ = reply.send(self.desired.endpoints(service.as_ref(), self.now()));
            }
            Message::Export { reply } => {
                let endpoints = self.desired.endpoints(None, self.now()).into_iter();
                let endpoints = endpoints.map(|leased| leased.registered).collect();
                let _ = reply.send((self.desired.export(), endpoints));
            }
            Message::Explain {
                service,
                node,
                reply,
            } => {
                let _ = reply.send(self.control_loop.explain(&service, &node).map(Box::new));
            }
            Message::Generations {
                before,
                limit,
                reply,
            } => {
                let _ = reply.send(self.history.page(before, limit));
            }
            Message::Generation { plan, reply } => {
                let _ = reply.send(self.history.get(plan).cloned());
            }
            Message::Subscribe { after, reply } => {
                let _ = reply.send(self.events.subscribe(after));
            }
            Message::Audit {
                before,
                limit,
                reply,
            } => {
                let _ = reply.send(self.audit.page(before, limit));
            }
            Message::Fork { reply } => {
                let connected = self.streams.nodes().cloned().collect();
                let (control_loop, desired) = (self.control_loop.fork(), self.desired.clone());
                let fork = Hypothesis::new(control_loop, desired, connected);
                let _ = reply.send(Box::new(fork));
            }
            // These change something; the task takes them itself.
            Message::Hello { .. }
            | Message::Up { .. }
            | Message::Gone { .. }
            | Message::Change { .. }
            | Message::Note { .. }
            | Message::Tap { .. }
            | Message::Errand { .. }
            | Message::View { .. }
            | Message::Plan { .. }
            | Message::Alive { .. } => {}
        }
    }

    fn list(&self, kind: Kind, after: Option<&str>, limit: usize) -> Page {
        let found = self.desired.list(kind).into_iter();
        let mut later = found.filter(|d| after.is_none_or(|after| d.key.name.as_str() > after));
        let items: Vec<Declared> = later.by_ref().take(limit).collect();
        let last = items.last().map(|declared| declared.key.name.clone());
        Page {
            last: last.filter(|_| later.next().is_some()),
            items: items.into_iter().map(|d| self.shown(d)).collect(),
        }
    }

    /// A resource with its status, if its kind has one.
    fn shown(&self, declared: Declared) -> Shown {
        let status = match &declared.meaning {
            Meaning::Route(route) => {
                let is_known = |service: &_| self.control_loop.has_service(service);
                Some(Status::Route(RouteStatus::new(route, is_known)))
            }
            Meaning::Node(node) => {
                let is_declared = self.desired.is_declared(&declared.key);
                let status = self.control_loop.node_status(node, is_declared);
                status.map(|status| Status::Node(Box::new(status)))
            }
            Meaning::WeightPolicy => match &*declared.resource {
                Resource::WeightPolicy { spec, .. } => {
                    let in_force = self.desired.is_in_force(spec);
                    let name = &declared.key.name;
                    let status = self.control_loop.policy_status(name, spec, in_force);
                    Some(Status::WeightPolicy(Box::new(status)))
                }
                _ => None,
            },
            _ => None,
        };
        Shown {
            resource: declared.resource,
            status,
        }
    }
}
