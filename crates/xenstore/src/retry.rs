//! The limits for repeating a transaction after a conflict: number of tries and pauses.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Bounds for trying a transaction again after a conflict.
///
/// The pause before try n+1 is drawn at random between nothing and `backoff_first` doubled n-1 times (at most `backoff_max`), so
/// that processes that got in each other's way do not do so again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most tries, at least one is made.
    pub attempts_max: u32,
    /// Longest first pause.
    pub backoff_first: Duration,
    /// Upper limit of a pause.
    pub backoff_max: Duration,
    /// Seed for the pauses; none takes a random one. For simulations that must repeat.
    pub seed: Option<u64>,
}

impl Default for RetryPolicy {
    /// 64 tries, pauses of up to 1 ms growing to 64 ms: 1.9 s of pauses on average before giving up.
    fn default() -> Self {
        Self {
            attempts_max: 64,
            backoff_first: Duration::from_millis(1),
            backoff_max: Duration::from_millis(64),
            seed: None,
        }
    }
}

/// Draws the pauses.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: RetryPolicy,
    state: u64,
}

impl Backoff {
    pub fn new(policy: RetryPolicy) -> Self {
        let state = policy
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
        Self { policy, state }
    }

    /// May there be a try after this many?
    pub fn may_try_again(&self, attempts: u32) -> bool {
        attempts < self.policy.attempts_max
    }

    /// The pause after this many tries.
    pub fn pause(&mut self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(20);
        let longest = self
            .policy
            .backoff_first
            .saturating_mul(1 << doublings)
            .min(self.policy.backoff_max);
        longest.mul_f64(self.next_fraction())
    }

    /// A number from 0 up to, not including, 1 (the splitmix64 generator).
    fn next_fraction(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // A double represents 53 bits exactly.
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_bound_and_differ() {
        let policy = RetryPolicy {
            seed: Some(1),
            ..RetryPolicy::default()
        };
        let mut backoff = Backoff::new(policy);
        let pauses: Vec<Duration> = (1..=200).map(|attempts| backoff.pause(attempts)).collect();
        for (attempts, pause) in (1u32..).zip(&pauses) {
            let longest = policy
                .backoff_max
                .min(policy.backoff_first * (1 << (attempts - 1).min(10)));
            assert!(*pause <= longest, "{attempts}: {pause:?}");
        }
        assert!(pauses.iter().any(|pause| *pause > policy.backoff_max / 2));
        assert!(pauses.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses() {
        let draw = || {
            let mut backoff = Backoff::new(RetryPolicy {
                seed: Some(7),
                ..RetryPolicy::default()
            });
            (1..20)
                .map(|attempts| backoff.pause(attempts))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn tries_are_counted() {
        let backoff = Backoff::new(RetryPolicy {
            attempts_max: 3,
            ..RetryPolicy::default()
        });
        assert!(backoff.may_try_again(2));
        assert!(!backoff.may_try_again(3));
    }
}
