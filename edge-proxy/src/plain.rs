//! Who calls a service without showing who they are, where a policy lets them: counted by caller, so that an operator
//! sees who would be refused before nobody like that is let in any more.
//!
//! **Invariant**: at most [`CALLERS_MAX`] callers of a service have a count of their own; what more of them do is one count.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use isobar_mesh_api::report::PlainCalls;

/// Most callers with a count of their own.
pub const CALLERS_MAX: usize = 32;
/// What all further callers are called.
const OTHERS: &str = "others";

/// Calls in plain text since the start, by address.
#[derive(Debug, Default)]
pub struct PlainCallers(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    by_address: BTreeMap<IpAddr, u64>,
    others: u64,
}

impl PlainCallers {
    /// One call.
    pub fn count(&self, address: IpAddr) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = counts.by_address.len() < CALLERS_MAX;
        match counts.by_address.get_mut(&address) {
            Some(count) => *count += 1,
            None if has_room => drop(counts.by_address.insert(address, 1)),
            None => counts.others += 1,
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<PlainCalls> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.by_address.iter().map(|(address, calls)| PlainCalls {
            caller: address.to_string(),
            calls: *calls,
        });
        let others = (counts.others > 0).then(|| PlainCalls {
            caller: OTHERS.to_owned(),
            calls: counts.others,
        });
        own.chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_counted_one_by_one_up_to_a_limit() {
        let callers = PlainCallers::default();
        for n in 0..CALLERS_MAX + 3 {
            let address = IpAddr::from([10, 0, 0, n as u8]);
            callers.count(address);
            callers.count(address);
        }
        let all = callers.all();
        assert_eq!(all.len(), CALLERS_MAX + 1);
        assert_eq!((all[0].caller.as_str(), all[0].calls), ("10.0.0.0", 2));
        let last = all.last().unwrap();
        assert_eq!((last.caller.as_str(), last.calls), (OTHERS, 6));
    }
}
