//! Answers to pings get ahead of new sessions: a server that hears none closes the sessions that are there.
//!
//! Pings are answered where they are read, in the turn of their session. When one was read late, the thread has more to do
//! than it can do at once: then the launching loop lets everything that waits have its turn before it adds to it.

use std::cell::Cell;
use std::time::Duration;

/// A ping that lay longer than this was read late: far below what any server allows (20 s by default, and seldom below 1 s).
const LATE: Duration = Duration::from_millis(100);
/// A turn of everything that waits, when not much does.
const SHORT_TURN: Duration = Duration::from_millis(10);
/// Launching goes on after that, whatever waits: a batch comes to its end.
const TURNS_MAX: Duration = Duration::from_secs(2);

thread_local! {
    static LATEST: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// A ping was read on this thread that had waited for so long.
pub fn ping_was_late(by: Duration) {
    if by > LATE {
        LATEST.set(by);
    }
}

/// Whether one was since this was asked last.
#[must_use]
pub fn take_late() -> bool {
    !LATEST.replace(Duration::ZERO).is_zero()
}

/// What the launching loop goes by: whether to wait for another turn of everything else.
#[derive(Debug, Default)]
pub struct Turns {
    waited: Duration,
    /// How often in a row it was waited for as long as may be.
    in_vain: u32,
}

impl Turns {
    /// A turn of everything that waited took so long; `late`: a ping was read late in it.
    #[must_use]
    pub fn another(&mut self, took: Duration, late: bool) -> bool {
        self.waited += took;
        let busy = late || took > SHORT_TURN;
        let another = busy && self.waited < TURNS_MAX;
        if !another {
            self.waited = Duration::ZERO;
            self.in_vain = if busy { self.in_vain + 1 } else { 0 };
        }
        another
    }

    /// So many times the usual number of sessions may be launched next: waiting does not help a thread that is never done,
    /// and a batch has to begin all the same.
    #[must_use]
    pub fn slices(&self) -> u64 {
        1 << self.in_vain.min(10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_late_pings_are_minded_and_each_once() {
        ping_was_late(Duration::from_millis(20));
        assert!(!take_late());
        ping_was_late(Duration::from_millis(300));
        ping_was_late(Duration::from_millis(1));
        assert!(take_late() && !take_late());
    }

    #[test]
    fn launching_waits_while_much_is_to_be_done_and_not_for_ever() {
        let mut turns = Turns::default();
        let ms = Duration::from_millis;
        assert!(!turns.another(ms(1), false), "nothing else waits");
        assert!(turns.another(ms(500), false) && turns.another(ms(1), true));
        assert!(!turns.another(ms(5), false));
        let rounds = (0..100).take_while(|_| turns.another(ms(300), true)).count();
        assert_eq!((rounds, turns.slices()), (6, 2), "two seconds, and then more is launched at once");
        let _ = (0..7).map(|_| turns.another(ms(300), true)).last();
        assert_eq!(turns.slices(), 4);
        assert!(!turns.another(ms(1), false));
        assert_eq!(turns.slices(), 1);
    }
}
