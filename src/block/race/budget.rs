//! How much may be asked for twice: five requests in a hundred.

/// A hedge costs what this many requests bring in.
const REQUESTS: u32 = 20;
/// Hedges saved up at most: a burst of late blocks is often one hiccup.
const BURST: u32 = 8;

/// What hedges may be paid from. It begins empty, so they never exceed five in a hundred requests.
#[derive(Debug, Default)]
pub struct Budget(u32);

impl Budget {
    /// So many requests were made.
    pub fn earn(&mut self, requests: usize) {
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        self.0 = self.0.saturating_add(requests).min(REQUESTS * BURST);
    }

    /// Pays for one hedge, if that can be paid.
    pub fn pay(&mut self) -> bool {
        let left = self.0.checked_sub(REQUESTS);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_are_at_most_five_in_a_hundred_and_eight_at_a_time() {
        let mut budget = Budget::default();
        assert!(!budget.pay());
        let hedges: usize = (0..1000)
            .map(|_| {
                budget.earn(1);
                usize::from(budget.pay())
            })
            .sum();
        assert_eq!(hedges, 50);
        budget.earn(1_000_000);
        assert_eq!((0..100).filter(|_| budget.pay()).count(), 8);
    }
}
