//! What the answers to health questions come to.
//!
//! One bad answer is no illness and one good one no cure: the verdict changes
//! after so many in a row. Until the first verdict an endpoint counts as
//! healthy, unless its very first answer is bad: a new endpoint that does not
//! answer need not be given requests to find out.
//!
//! Pure.

/// How many in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Bad answers that make it unhealthy.
    pub unhealthy_after: u32,
    /// Good answers that make it healthy again.
    pub healthy_after: u32,
}

/// What is thought of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    asked: bool,
    unhealthy: bool,
    /// Answers in a row against the present verdict.
    against: u32,
}

impl Health {
    /// Whether it is healthy, as far as anybody knows.
    pub fn is_healthy(&self) -> bool {
        !self.unhealthy
    }

    /// Takes up one answer. Returns the new verdict when it changes.
    pub fn answered(&mut self, good: bool, thresholds: Thresholds) -> Option<bool> {
        let first = !std::mem::replace(&mut self.asked, true);
        if good == self.is_healthy() {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = match good {
            true => thresholds.healthy_after,
            false if first => 1,
            false => thresholds.unhealthy_after,
        };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.unhealthy = !good;
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_a_row_change_the_verdict() {
        let thresholds = Thresholds {
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let check = |answers: &str, expected: &str| {
            let mut health = Health::default();
            let verdict = |answer| {
                health.answered(answer == '+', thresholds);
                if health.is_healthy() { '+' } else { '-' }
            };
            let verdicts: String = answers.chars().map(verdict).collect();
            assert_eq!(verdicts, expected, "{answers}");
        };
        check("+--+---+", "++++++--");
        check("+---+-++", "+++----+");
        // The first answer of a new endpoint counts at once.
        check("--++", "---+");
    }
}
