//! The task around [`super::election`]: looks at the Lease, writes it, says when this process leads and when it does no longer.
//!
//! A controller that contends opens no store and no port before it leads; one that no longer leads ends, and its pod starts as a
//! contender again. So there is nothing that a controller must undo when another has taken over.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::election::{Election, Record, Step};

/// The Lease in the controller's namespace.
pub const LEASE: &str = "isobar-controller";
/// How long it lasts when the configuration does not say, in seconds.
pub const LASTS_S: u64 = 15;
/// Longest pause before the API server is asked again that did not answer.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// One contender.
pub struct Contender {
    api: Api<Object>,
    name: String,
    me: String,
    lasts: Duration,
    election: Election,
    began: Instant,
}

impl Contender {
    /// A contender for a lease of a namespace, under a name that no other has.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        me: &str,
        lasts: Duration,
    ) -> Contender {
        Contender {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            lasts,
            election: Election::new(me, lasts),
            began: Instant::now(),
        }
    }

    /// Waits until this process leads. Returns whether it does: not when the signal came first.
    pub async fn win(&mut self, signal: &CancellationToken) -> bool {
        while !self.election.is_leading(self.began.elapsed()) {
            let wait = self.look().await;
            if self.election.is_leading(self.began.elapsed()) {
                break;
            }
            tokio::select! {
                () = signal.cancelled() => return false,
                () = tokio::time::sleep(wait) => {}
            }
        }
        tracing::info!(lease = self.name, me = self.me, "this controller leads");
        true
    }

    /// Renews until this process leads no longer.
    pub async fn hold(&mut self) {
        loop {
            let now = self.began.elapsed();
            let Some(until) = self.election.leads_until().filter(|until| now < *until) else {
                tracing::error!(lease = self.name, "this controller leads no longer");
                return;
            };
            let pause = self.election.interval().min(until - now);
            tokio::time::sleep(pause).await;
            // An answer that takes longer than one leads is of no use.
            let left = until.saturating_sub(self.began.elapsed());
            if timeout(left, self.look()).await.is_err() {
                self.election.on_refused();
            }
        }
    }

    /// One look, and the write that follows from it. Returns when to look again.
    async fn look(&mut self) -> Duration {
        let read = match timeout(self.lasts, self.api.get_opt(&self.name)).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease cannot be read");
                return self.election.interval().min(RETRY_MAX);
            }
            Err(_) => return Duration::ZERO,
        };
        let record = read.as_ref().map(|object| self.record(object));
        let step = self.election.on_read(self.began.elapsed(), record);
        let (object, is_new) = match step {
            Step::Wait(wait) => return wait,
            Step::Create => (self.object(None, None, 0), true),
            Step::Write {
                version,
                transitions,
                is_renewal,
            } => {
                let spec = read.and_then(|object| object.spec).unwrap_or_default();
                let acquired = spec.acquire_time.filter(|_| is_renewal);
                (self.object(Some(version), acquired, transitions), false)
            }
        };
        let how = PostParams::default();
        let written = match is_new {
            true => timeout(self.lasts, self.api.create(&how, &object)).await,
            false => timeout(self.lasts, self.api.replace(&self.name, &how, &object)).await,
        };
        match written {
            Ok(Ok(_)) => self.election.on_granted(),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                self.election.on_refused();
                self.election.interval()
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease is not written");
                self.election.on_refused();
                self.election.interval().min(RETRY_MAX)
            }
            Err(_) => {
                self.election.on_refused();
                Duration::ZERO
            }
        }
    }

    /// Gives the lease back, so that the next need not wait until it is over. Nobody minds if it is not taken.
    pub async fn give_back(&mut self) {
        let Ok(Ok(Some(mut object))) = timeout(RETRY_MAX, self.api.get_opt(&self.name)).await
        else {
            return;
        };
        if let Some(spec) = object
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(&self.me))
        {
            spec.holder_identity = Some(String::new());
            let how = PostParams::default();
            let _ = timeout(RETRY_MAX, self.api.replace(&self.name, &how, &object)).await;
        }
    }

    fn record(&self, object: &Object) -> Record {
        let spec = object.spec.clone().unwrap_or_default();
        let seconds = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok());
        Record {
            holder: spec.holder_identity.unwrap_or_default(),
            lasts: seconds.map_or(self.lasts, Duration::from_secs),
            transitions: spec.lease_transitions.unwrap_or_default(),
            version: object.metadata.resource_version.clone().unwrap_or_default(),
        }
    }

    fn object(
        &self,
        version: Option<String>,
        acquired: Option<MicroTime>,
        transitions: i32,
    ) -> Object {
        // Fractions of a second have no place in a lease.
        let seconds = i32::try_from(self.lasts.as_secs().max(1)).unwrap_or(i32::MAX);
        let now = MicroTime(Timestamp::now());
        Object {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: Some(seconds),
                acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}
