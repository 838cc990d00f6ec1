//! Part of a content for all of it: which blocks are asked after, and what that says of the others.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

/// How sure the bound is that a sample gives.
pub const CONFIDENCE: f64 = 0.95;

/// `wanted` numbers below `of`, each equally likely, in order; all of them if there are no more.
pub(super) fn choose(of: u64, wanted: u64) -> Vec<u64> {
    if wanted >= of {
        return (0..of).collect();
    }
    // The keys of each RandomState are random, so its hashes of 0, 1, 2... are, too.
    let random = RandomState::new();
    let mut chosen = BTreeSet::new();
    let mut drawn = 0_u64;
    while (chosen.len() as u64) < wanted {
        // The remainder favours small numbers by less than one in a billion: contents have fewer than 2^32 blocks.
        chosen.insert(random.hash_one(drawn) % of);
        drawn += 1;
    }
    chosen.into_iter().collect()
}

/// The share of all blocks that are missing at the most, with [`CONFIDENCE`], if `missing` of a sample of `asked` are: the upper
/// bound of Clopper and Pearson (1934). Without any missing it is about 3 in `asked`.
pub(super) fn at_most(missing: u64, asked: u64) -> f64 {
    if missing >= asked {
        return 1.0;
    }
    // The more there are, the less likely it is to have met so few: halved until it is as exact as a number is printed.
    let (mut low, mut high) = (missing as f64 / asked as f64, 1.0);
    for _ in 0..50 {
        let share = f64::midpoint(low, high);
        if likelihood(missing, asked, share) > 1.0 - CONFIDENCE { low = share } else { high = share }
    }
    high
}

/// How likely it is to meet `missing` or fewer in a sample of `asked`, if this share of all is missing.
fn likelihood(missing: u64, asked: u64, share: f64) -> f64 {
    if share <= 0.0 {
        return 1.0;
    }
    if share >= 1.0 {
        return 0.0;
    }
    // Logarithms: the terms are far below the smallest number.
    let (hit, miss) = (share.ln(), (-share).ln_1p());
    let mut term = asked as f64 * miss;
    let mut sum = term.exp();
    for met in 1..=missing {
        term += ((asked - met + 1) as f64 / met as f64).ln() + hit - miss;
        sum += term.exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_as_many_as_wanted_each_once_and_from_everywhere() {
        assert_eq!(choose(5, 9), [0, 1, 2, 3, 4]);
        let chosen = choose(1_000_000, 3_000);
        assert_eq!(chosen.len(), 3_000);
        assert!(
            chosen.is_sorted_by(|one, next| one < next) && chosen.iter().all(|&number| number < 1_000_000)
        );
        // Each tenth has about 300; outside 200 to 400 is six standard deviations.
        for tenth in 0..10 {
            let within = chosen.iter().filter(|&&number| number / 100_000 == tenth).count();
            assert!((200..=400).contains(&within), "{within}");
        }
        assert_ne!(choose(1_000_000, 3_000), chosen);
    }

    #[test]
    fn the_bound_is_that_of_clopper_and_pearson() {
        // 1 - 0.05^(1/n) where nothing is missing; the others from scipy.stats.beta.ppf(0.95, k + 1, n - k).
        for (missing, asked, bound) in
            [(0, 3000, 0.000_998_1), (0, 100, 0.029_513), (1, 100, 0.046_560), (10, 100, 0.163_721)]
        {
            assert!(
                (at_most(missing, asked) - bound).abs() < 2e-5,
                "{missing}/{asked}: {}",
                at_most(missing, asked)
            );
        }
        assert_eq!(at_most(7, 7), 1.0);
        assert!(at_most(1500, 3000) < 0.52);
    }
}
