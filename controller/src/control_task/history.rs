//! Which generations there were, who was told, and what they said to it.

use std::collections::{BTreeMap, VecDeque};

use isobar_mesh_api::message::Down;
use isobar_mesh_api::names::NodeId;
use isobar_mesh_api::snapshot::PlanId;
use serde::Serialize;

/// Most generations kept.
pub const GENERATIONS_MAX: usize = 256;
/// Most answers kept over all generations; the oldest generations go first.
pub const ANSWERS_MAX: usize = 100_000;
/// Longest reason kept of a refusal, in characters.
const REASON_LEN_MAX: usize = 200;

/// One generation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    /// The plan in force after it.
    pub plan: PlanId,
    /// When it was made, RFC 3339 in UTC.
    pub at: String,
    /// Who was told, by name.
    pub told: BTreeMap<NodeId, Told>,
}

/// What one node was told, and said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Told {
    /// The plan as it was sent.
    pub plan: PlanId,
    /// What it said.
    pub answer: Answer,
    /// Why it refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A proxy's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// None yet.
    Pending,
    /// Applied, or overtaken by a later one that was.
    Acknowledged,
    /// Refused.
    Refused,
}

/// One generation in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerationSummary {
    /// The plan in force after it.
    pub plan: PlanId,
    /// When it was made, RFC 3339 in UTC.
    pub at: String,
    /// How many nodes were told.
    pub told: usize,
    /// How many have applied it.
    pub acknowledged: usize,
    /// How many have refused it.
    pub refused: usize,
}

/// The newest generations, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    kept: VecDeque<Generation>,
    answers: usize,
}

impl History {
    /// Takes up what a tick pushed. Returns to how many nodes.
    pub fn add(&mut self, plan: PlanId, at: &str, pushes: &[(NodeId, Down)]) -> usize {
        let sent = pushes.iter().filter_map(|(node, down)| match down {
            Down::Snapshot(snapshot) => Some((node.clone(), snapshot.plan)),
            Down::Delta(delta) => Some((node.clone(), delta.plan)),
            _ => None,
        });
        let told = sent.map(|(node, plan)| {
            let (answer, reason) = (Answer::Pending, String::new());
            (
                node,
                Told {
                    plan,
                    answer,
                    reason,
                },
            )
        });
        // Of several messages to one node the last counts.
        let told: BTreeMap<NodeId, Told> = told.collect();
        let nodes = told.len();
        if nodes == 0 {
            return 0;
        }
        self.answers += nodes;
        let at = at.to_owned();
        self.kept.push_back(Generation { plan, at, told });
        while self.kept.len() > GENERATIONS_MAX || self.answers > ANSWERS_MAX {
            match self.kept.pop_front() {
                Some(oldest) => self.answers -= oldest.told.len(),
                None => break,
            }
        }
        nodes
    }

    /// A node applied a plan, and with it all before.
    pub fn acknowledge(&mut self, node: &NodeId, plan: PlanId) {
        for generation in self.kept.iter_mut().rev() {
            let Some(told) = generation.told.get_mut(node) else {
                continue;
            };
            match told.answer {
                Answer::Acknowledged => return,
                Answer::Pending if told.plan <= plan => told.answer = Answer::Acknowledged,
                Answer::Pending | Answer::Refused => {}
            }
        }
    }

    /// A node refused a plan.
    pub fn refuse(&mut self, node: &NodeId, plan: PlanId, reason: &str) {
        for generation in self.kept.iter_mut().rev() {
            if let Some(told) = generation.told.get_mut(node)
                && told.plan <= plan
            {
                told.answer = Answer::Refused;
                told.reason = reason.chars().take(REASON_LEN_MAX).collect();
                return;
            }
        }
    }

    /// Generations before a plan, newest first, at most `limit`, and whether there are older ones.
    pub fn page(&self, before: Option<PlanId>, limit: usize) -> (Vec<GenerationSummary>, bool) {
        let older = |g: &&Generation| before.is_none_or(|before| g.plan < before);
        let mut found = self.kept.iter().rev().filter(older);
        let page = found.by_ref().take(limit).map(summary).collect();
        (page, found.next().is_some())
    }

    /// One generation, whole.
    pub fn get(&self, plan: PlanId) -> Option<&Generation> {
        self.kept.iter().rev().find(|g| g.plan == plan)
    }
}

fn summary(generation: &Generation) -> GenerationSummary {
    let count = |answer| {
        let told = generation.told.values();
        told.filter(|told| told.answer == answer).count()
    };
    GenerationSummary {
        plan: generation.plan,
        at: generation.at.clone(),
        told: generation.told.len(),
        acknowledged: count(Answer::Acknowledged),
        refused: count(Answer::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_mesh_api::snapshot::Snapshot;

    fn plan(generation: u64) -> PlanId {
        PlanId {
            epoch: 1,
            generation,
        }
    }

    fn push(node: &str, generation: u64) -> (NodeId, Down) {
        let node = NodeId::new(node).unwrap();
        let snapshot = Snapshot {
            plan: plan(generation),
            node: node.clone(),
            period_ms: 1,
            neighbours: Vec::new(),
            services: Vec::new(),
            routes: Vec::new(),
        };
        (node, Down::Snapshot(snapshot))
    }

    #[test]
    fn answers_find_their_generation() {
        let mut history = History::default();
        assert_eq!(history.add(plan(0), "t", &[]), 0);
        history.add(plan(1), "t", &[push("a", 1), push("b", 1)]);
        history.add(plan(2), "t", &[push("a", 2)]);
        history.add(plan(3), "t", &[push("a", 3), push("b", 3)]);
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        history.acknowledge(&a, plan(2));
        history.refuse(&b, plan(3), "why");
        let counts = |g: &GenerationSummary| (g.told, g.acknowledged, g.refused);
        let (page, more) = history.page(None, 2);
        let counted: Vec<_> = page.iter().map(counts).collect();
        assert_eq!((counted, more), (vec![(2, 0, 1), (1, 1, 0)], true));
        let (page, more) = history.page(Some(plan(2)), 2);
        assert_eq!((counts(&page[0]), more), ((2, 1, 0), false));
        assert_eq!(history.get(plan(3)).unwrap().told[&b].reason, "why");
        assert!(history.get(plan(9)).is_none());
        for generation in 4..400 {
            history.add(plan(generation), "t", &[push("a", generation)]);
        }
        assert_eq!(history.kept.len(), GENERATIONS_MAX);
        assert_eq!(history.answers, GENERATIONS_MAX);
    }
}
