//! Remembers, one flag a thread, whether a ping was read late. The launching loop asks before it adds more sessions.

use std::cell::Cell;
use std::time::Duration;

/// A ping that waited longer was read late. Servers allow far more: 20 s by default, and seldom less than 1 s.
const LATE: Duration = Duration::from_millis(100);

thread_local! {
    static SEEN: Cell<bool> = const { Cell::new(false) };
}

/// Notes that a ping was read on this thread `after` it had arrived.
pub fn note_ping(after: Duration) {
    if after > LATE {
        SEEN.set(true);
    }
}

/// Whether a ping was read late on this thread since the last call.
#[must_use]
pub fn take() -> bool {
    SEEN.replace(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_late_pings_are_noted_and_each_once() {
        note_ping(Duration::from_millis(20));
        assert!(!take());
        note_ping(Duration::from_millis(300));
        note_ping(Duration::from_millis(1));
        assert!(take() && !take());
    }
}
