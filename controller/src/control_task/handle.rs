//! How the rest of the program talks to the control task.

use std::sync::{Arc, PoisonError, RwLock};

use isobar_mesh_api::errand::{Said, What};
use isobar_mesh_api::message::{Hello, Up};
use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::resource::Resource;
use isobar_mesh_api::snapshot::PlanId;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::audit::AuditEntry;
use super::change::{Asked, Durable, Etag, Target};
use super::desired::MemoryLimit;
use super::errands::ErrandError;
use super::events::Subscription;
use super::history::{Generation, GenerationSummary};
use super::hypothesis::Hypothesis;
use super::leases::{Leased, Registered};
use super::route_status::RouteStatus;
use super::streams::{StreamEnd, StreamId};
use super::taps::{TapAsked, TapReader, TapsFull};
use crate::control_loop::{Explanation, MeshView, NodeStatus, PolicyStatus, StoredPlan};
use crate::resource_text::{Declared, Key, Kind};
use crate::store::{Answer, StoreError};

/// What the control task is asked.
pub(super) enum Message {
    Hello {
        hello: Hello,
        end: StreamEnd,
        reply: oneshot::Sender<Result<StreamId, ControlError>>,
    },
    Up {
        node: NodeId,
        stream: StreamId,
        up: Box<Up>,
    },
    Gone {
        node: NodeId,
        stream: StreamId,
    },
    Change {
        asked: Asked,
        reply: oneshot::Sender<Result<Durable, ControlError>>,
    },
    Note {
        who: String,
        target: Target,
        reply: oneshot::Sender<Result<Answer<()>, StoreError>>,
    },
    Tap {
        asked: TapAsked,
        reply: oneshot::Sender<Result<TapReader, TapsFull>>,
    },
    Errand {
        node: NodeId,
        what: What,
        reply: oneshot::Sender<Result<oneshot::Receiver<Said>, ErrandError>>,
    },
    Fork {
        reply: oneshot::Sender<Box<Hypothesis>>,
    },
    Endpoints {
        service: Option<ServiceName>,
        reply: oneshot::Sender<Vec<Leased>>,
    },
    Export {
        reply: oneshot::Sender<(Vec<Declared>, Vec<Registered>)>,
    },
    Explain {
        service: ServiceName,
        node: NodeId,
        reply: oneshot::Sender<Option<Box<Explanation>>>,
    },
    Generations {
        before: Option<PlanId>,
        limit: usize,
        reply: oneshot::Sender<(Vec<GenerationSummary>, bool)>,
    },
    Generation {
        plan: PlanId,
        reply: oneshot::Sender<Option<Generation>>,
    },
    Subscribe {
        after: Option<u64>,
        reply: oneshot::Sender<Subscription>,
    },
    Audit {
        before: Option<u64>,
        limit: usize,
        reply: oneshot::Sender<(Vec<AuditEntry>, bool)>,
    },
    Get {
        key: Key,
        reply: oneshot::Sender<Option<Shown>>,
    },
    List {
        kind: Kind,
        after: Option<String>,
        limit: usize,
        reply: oneshot::Sender<Page>,
    },
    View {
        reply: oneshot::Sender<Arc<MeshView>>,
    },
    Plan {
        reply: oneshot::Sender<Arc<StoredPlan>>,
    },
    Alive {
        reply: oneshot::Sender<()>,
    },
}

/// Why the control task did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There are as many as the controller keeps.
    #[error("{0}")]
    Limit(#[from] MemoryLimit),
    /// It was not stored.
    #[error("the change was not stored")]
    Store(#[from] StoreError),
    /// What is there is not what was expected.
    #[error("{target} {}", match found {
        Some(_) => "is not what the request expects; read it again and repeat the change",
        None => "is not there",
    })]
    Unexpected {
        /// Which resource.
        target: Target,
        /// What it says, if it is there.
        found: Option<Etag>,
    },
    /// No more taps.
    #[error(transparent)]
    Taps(#[from] TapsFull),
    /// Nobody was sent on an errand.
    #[error(transparent)]
    Errand(#[from] ErrandError),
    /// Another controller leads, or nobody does: nothing is planned or changed here.
    #[error("no controller leads that this one knows of; ask again in a moment")]
    NotLeading,
    /// The program is about to end.
    #[error("the controller is stopping")]
    Stopping,
}

/// A resource as it is read: what was written, and what became of it.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// What was written.
    #[serde(flatten)]
    pub resource: Arc<Resource>,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// What became of a resource.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Status {
    /// A route.
    Route(RouteStatus),
    /// A node.
    Node(Box<NodeStatus>),
    /// A weight policy.
    WeightPolicy(Box<PolicyStatus>),
}

impl Shown {
    /// What it says, apart from its status.
    pub fn etag(&self) -> Etag {
        Etag::of(&*self.resource)
    }

    /// Whether an operator wrote it; else it is a node that is shown as it describes itself.
    pub fn is_declared(&self) -> bool {
        match &self.status {
            Some(Status::Node(status)) => status.declared,
            _ => true,
        }
    }
}

/// Some resources of a kind, by name.
#[derive(Debug)]
pub struct Page {
    /// The resources.
    pub items: Vec<Shown>,
    /// The name of the last one, when there are more.
    pub last: Option<String>,
}

/// Asks the control task of the term that is. Cloning is a reference count.
#[derive(Debug, Clone, Default)]
pub struct ControlHandle {
    inbox: Arc<RwLock<Option<mpsc::Sender<Message>>>>,
}

impl ControlHandle {
    /// From now on these are asked: a term begins.
    pub(super) fn attach(&self, inbox: mpsc::Sender<Message>) {
        *self.inbox.write().unwrap_or_else(PoisonError::into_inner) = Some(inbox);
    }

    /// From now on nobody is asked: the term is over.
    pub fn detach(&self) {
        *self.inbox.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a term's task is asked: this controller leads, and has begun to.
    pub fn is_attached(&self) -> bool {
        self.inbox().is_some()
    }

    fn inbox(&self) -> Option<mpsc::Sender<Message>> {
        let inbox = self.inbox.read().unwrap_or_else(PoisonError::into_inner);
        inbox.clone()
    }

    /// Registers a new stream of the node, in place of the one it may have.
    ///
    /// # Errors
    /// The controller has all the nodes it keeps, does not lead, or is stopping.
    pub async fn hello(&self, hello: Hello, end: StreamEnd) -> Result<StreamId, ControlError> {
        self.ask(|reply| Message::Hello { hello, end, reply })
            .await?
    }

    /// Passes on what a proxy said. Waits when the inbox is full, so that a flood of lines stays in
    /// the sender's socket.
    pub async fn up(&self, node: &NodeId, stream: StreamId, up: Box<Up>) {
        // Fails when the control task has ended; the stream then ends as well.
        let Some(inbox) = self.inbox() else {
            return;
        };
        let Ok(place) = inbox.reserve().await else {
            return;
        };
        let node = node.clone();
        place.send(Message::Up { node, stream, up });
    }

    /// Says that a stream has ended.
    pub async fn gone(&self, node: &NodeId, stream: StreamId) {
        // As above.
        let Some(inbox) = self.inbox() else {
            return;
        };
        let Ok(place) = inbox.reserve().await else {
            return;
        };
        let node = node.clone();
        place.send(Message::Gone { node, stream });
    }

    /// Makes changes, all or none.
    ///
    /// # Errors
    /// Something is not as expected, a limit, a value that cannot be stored, or the controller is stopping.
    pub async fn change(&self, asked: Asked) -> Result<Durable, ControlError> {
        self.ask(|reply| Message::Change { asked, reply }).await?
    }

    /// Leaves an entry in the audit for what changes no resource; it is kept when the answer is there.
    ///
    /// # Errors
    /// A value that cannot be stored, or the controller is stopping.
    pub async fn note(&self, who: &str, target: Target) -> Result<Answer<()>, ControlError> {
        let who = who.to_owned();
        Ok(self
            .ask(|reply| Message::Note { who, target, reply })
            .await??)
    }

    /// Begins a tap; it ends with its reader.
    ///
    /// # Errors
    /// There are as many as there may be, or the controller is stopping.
    pub async fn tap(&self, asked: TapAsked) -> Result<TapReader, ControlError> {
        Ok(self.ask(|reply| Message::Tap { asked, reply }).await??)
    }

    /// Sends a node on an errand. The receiver gets nothing when the node goes away.
    ///
    /// # Errors
    /// The node is not connected, too many are under way, or the controller is stopping.
    pub async fn errand(
        &self,
        node: NodeId,
        what: What,
    ) -> Result<oneshot::Receiver<Said>, ControlError> {
        Ok(self
            .ask(|reply| Message::Errand { node, what, reply })
            .await??)
    }

    /// A copy of the mesh as it is now, to try something on.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn fork(&self) -> Result<Box<Hypothesis>, ControlError> {
        self.ask(|reply| Message::Fork { reply }).await
    }

    /// Registered endpoints, of one service or all, by name.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn endpoints(
        &self,
        service: Option<ServiceName>,
    ) -> Result<Vec<Leased>, ControlError> {
        self.ask(|reply| Message::Endpoints { service, reply })
            .await
    }

    /// Everything that operators wrote and endpoints registered.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn export(&self) -> Result<(Vec<Declared>, Vec<Registered>), ControlError> {
        self.ask(|reply| Message::Export { reply }).await
    }

    /// Why a service's row at a node is as it is.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn explain(
        &self,
        service: ServiceName,
        node: NodeId,
    ) -> Result<Option<Box<Explanation>>, ControlError> {
        let message = |reply| Message::Explain {
            service,
            node,
            reply,
        };
        self.ask(message).await
    }

    /// Generations before a plan, newest first, and whether there are older ones.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn generations(
        &self,
        before: Option<PlanId>,
        limit: usize,
    ) -> Result<(Vec<GenerationSummary>, bool), ControlError> {
        let message = |reply| Message::Generations {
            before,
            limit,
            reply,
        };
        self.ask(message).await
    }

    /// One generation, with what each node said to it.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn generation(&self, plan: PlanId) -> Result<Option<Generation>, ControlError> {
        self.ask(|reply| Message::Generation { plan, reply }).await
    }

    /// Events from now on, and kept ones after number `after`.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn subscribe(&self, after: Option<u64>) -> Result<Subscription, ControlError> {
        self.ask(|reply| Message::Subscribe { after, reply }).await
    }

    /// Entries of the audit before number `before`, newest first, and whether there are older ones.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn audit(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<AuditEntry>, bool), ControlError> {
        let message = |reply| Message::Audit {
            before,
            limit,
            reply,
        };
        self.ask(message).await
    }

    /// One resource.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn get(&self, key: Key) -> Result<Option<Shown>, ControlError> {
        self.ask(|reply| Message::Get { key, reply }).await
    }

    /// Resources of a kind by name: those after `after`, at most `limit`.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn list(
        &self,
        kind: Kind,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page, ControlError> {
        let message = |reply| Message::List {
            kind,
            after,
            limit,
            reply,
        };
        self.ask(message).await
    }

    /// What is known of the mesh since the last tick.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn view(&self) -> Result<Arc<MeshView>, ControlError> {
        self.ask(|reply| Message::View { reply }).await
    }

    /// The current plan.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn plan(&self) -> Result<Arc<StoredPlan>, ControlError> {
        self.ask(|reply| Message::Plan { reply }).await
    }

    /// Returns when the control task has read its inbox up to here.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn alive(&self) -> Result<(), ControlError> {
        self.ask(|reply| Message::Alive { reply }).await
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        let inbox = self.inbox().ok_or(ControlError::NotLeading)?;
        let place = inbox.reserve().await;
        place
            .map_err(|_| ControlError::Stopping)?
            .send(message(reply));
        answer.await.map_err(|_| ControlError::Stopping)
    }
}
