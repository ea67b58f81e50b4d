//! Whose turn it is when both own and moved-in requests wait for an endpoint.
//!
//! Own requests go first: a node that helps must not be slower for its own
//! users. But not always: a moved-in request that was taken must not starve
//! behind a stream of own ones, so every [`TURN_LENGTH`]th turn is a moved-in
//! one's.

/// One turn in so many goes to a moved-in request, when one waits.
pub const TURN_LENGTH: u32 = 3;

/// How many own requests went first in a row while moved-in ones waited.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turns {
    own_in_row: u32,
}

impl Turns {
    /// Whether the next to go is an own request, given who waits. Without anybody waiting the
    /// answer means nothing.
    pub fn own_next(&mut self, own_waits: bool, moved_waits: bool) -> bool {
        if own_waits && (!moved_waits || self.own_in_row + 1 < TURN_LENGTH) {
            self.own_in_row = if moved_waits { self.own_in_row + 1 } else { 0 };
            return true;
        }
        self.own_in_row = 0;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_first_but_moved_in_ones_get_their_turn() {
        let mut turns = Turns::default();
        let both: Vec<bool> = (0..8).map(|_| turns.own_next(true, true)).collect();
        assert_eq!(both, [true, true, false, true, true, false, true, true]);
        assert!(turns.own_next(true, false));
        assert!(!turns.own_next(false, true));
    }
}
