//! Slows the launching of sessions down while pings are answered late: a server that gets no pong closes its sessions.
//!
//! Pings are answered where they are read, when the scheduler runs their session. If one was read late, this thread has
//! more to do than it can do at once. The launching loop then waits until everything that is ready has run once (a
//! [`SchedulerPass`]) before it adds to the work.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A pass that takes longer shows a busy thread.
const SHORT_PASS: Duration = Duration::from_millis(10);
/// After waiting this long the loop launches in any case, so that a batch ends.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Decides whether the launching loop waits for another pass, and how much it launches next.
#[derive(Debug, Default)]
pub struct LaunchThrottle {
    waited: Duration,
    /// How often in a row the loop waited as long as it may, in vain.
    timed_out: u32,
}

impl LaunchThrottle {
    /// Whether to wait for another pass after one that took `took`; `late` says that a ping was read late in it.
    #[must_use]
    pub fn wait_again(&mut self, took: Duration, late: bool) -> bool {
        self.waited += took;
        let busy = late || took > SHORT_PASS;
        let again = busy && self.waited < WAIT_MAX;
        if !again {
            self.waited = Duration::ZERO;
            self.timed_out = if busy { self.timed_out + 1 } else { 0 };
        }
        again
    }

    /// How many times the usual number of sessions may be launched next. It grows with each wait in vain, because
    /// waiting does not help a thread that is always busy, and the batch has to start all the same.
    #[must_use]
    pub fn factor(&self) -> u64 {
        1 << self.timed_out.min(10)
    }
}

/// One run of every task of this thread that was ready when the pass began.
#[derive(Debug)]
pub struct SchedulerPass {
    begun: Instant,
    task: JoinHandle<()>,
}

impl SchedulerPass {
    /// Begins a pass. Must be called inside a `LocalSet`.
    #[must_use]
    pub fn begin() -> Self {
        // A thread runs its tasks in the order in which they were woken, so this one runs after all that are ready.
        Self { begun: Instant::now(), task: tokio::task::spawn_local(async {}) }
    }

    /// Waits for the end of the pass and returns how long it took. Without a pass it never returns.
    pub async fn took(pass: &mut Option<Self>) -> Duration {
        match pass {
            None => std::future::pending().await,
            Some(pass) => {
                // The task is empty and can't fail.
                let _ = (&mut pass.task).await;
                pass.begun.elapsed()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launching_waits_while_much_is_to_be_done_and_not_for_ever() {
        let mut throttle = LaunchThrottle::default();
        let ms = Duration::from_millis;
        assert!(!throttle.wait_again(ms(1), false), "nothing else waits");
        assert!(throttle.wait_again(ms(500), false) && throttle.wait_again(ms(1), true));
        assert!(!throttle.wait_again(ms(5), false));
        let rounds = (0..100).take_while(|_| throttle.wait_again(ms(300), true)).count();
        assert_eq!((rounds, throttle.factor()), (6, 2), "two seconds, and then more is launched at once");
        let _ = (0..7).map(|_| throttle.wait_again(ms(300), true)).last();
        assert_eq!(throttle.factor(), 4);
        assert!(!throttle.wait_again(ms(1), false));
        assert_eq!(throttle.factor(), 1);
    }
}
