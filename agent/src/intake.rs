//! How much of replies may be held in memory while they are being read, all sessions of a thread together.
//!
//! A reply is held whole before it is understood, and thousands may come at once. Beyond the bound reading waits, as the
//! sender does then; that is the generator's own delay. One session may always go on, so that all come to their end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::stamps::Times;

/// Replies below this are not counted: most are, and come in one piece.
const FREE_BYTES: usize = 4 << 10;

/// The bound of one thread.
#[derive(Debug)]
pub struct Intake {
    bytes_max: usize,
    used: Cell<usize>,
    /// Someone reads on beyond the bound.
    beyond: Cell<bool>,
    waiting: RefCell<VecDeque<Waker>>,
}

impl Intake {
    #[must_use]
    pub fn new(bytes_max: u64) -> Rc<Self> {
        Rc::new(Self {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            used: Cell::new(0),
            beyond: Cell::new(false),
            waiting: RefCell::default(),
        })
    }

    /// A bound that is never met: of a single session.
    #[must_use]
    pub fn unbounded() -> Rc<Self> {
        Self::new(u64::MAX)
    }

    #[must_use]
    pub fn share(self: &Rc<Self>, times: Option<Rc<Times>>) -> Share {
        Share { intake: self.clone(), times, held: 0, beyond: false, waited_since: None }
    }
}

/// What one session holds of it.
#[derive(Debug)]
pub struct Share {
    intake: Rc<Intake>,
    /// Where the time goes that was waited.
    times: Option<Rc<Times>>,
    held: usize,
    beyond: bool,
    waited_since: Option<Instant>,
}

impl Share {
    /// Before more is read while `bytes` are held: ready when there is room.
    pub fn poll_grow(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<()> {
        if bytes <= FREE_BYTES || bytes <= self.held {
            return Poll::Ready(());
        }
        let intake = &self.intake;
        let used = intake.used.get() - self.held + bytes;
        if used > intake.bytes_max && !self.beyond {
            if intake.beyond.replace(true) {
                self.waited_since.get_or_insert_with(Instant::now);
                intake.waiting.borrow_mut().push_back(cx.waker().clone());
                return Poll::Pending;
            }
            self.beyond = true;
        }
        intake.used.set(used);
        self.held = bytes;
        self.waited();
        Poll::Ready(())
    }

    /// The wait is over, also where the session has ended in it: it is the generator's own delay.
    fn waited(&mut self) {
        if let (Some(since), Some(times)) = (self.waited_since.take(), &self.times) {
            times.held_back(since.elapsed());
        }
    }

    /// The reply has been understood.
    pub fn release(&mut self) {
        self.waited();
        if self.held == 0 && !self.beyond {
            return;
        }
        let intake = &self.intake;
        intake.used.set(intake.used.get() - std::mem::take(&mut self.held));
        if std::mem::take(&mut self.beyond) {
            intake.beyond.set(false);
        }
        // Whoever finds no room waits again.
        for waker in intake.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grow(share: &mut Share, bytes: usize) -> bool {
        share.poll_grow(&mut Context::from_waker(Waker::noop()), bytes).is_ready()
    }

    #[test]
    fn beyond_the_bound_one_goes_on_and_the_others_wait() {
        let intake = Intake::new(1 << 20);
        let (mut one, mut two, mut three) = (intake.share(None), intake.share(None), intake.share(None));
        assert!(grow(&mut one, 700 << 10) && grow(&mut two, 300 << 10));
        assert!(grow(&mut two, 600 << 10), "one may always go on");
        assert!(!grow(&mut one, 900 << 10) && !grow(&mut three, 100 << 10), "the others wait");
        assert!(grow(&mut three, FREE_BYTES), "what is small is free");
        assert!(grow(&mut two, 9 << 20));
        two.release();
        assert!(grow(&mut three, 100 << 10) && grow(&mut one, 900 << 10));
        drop((one, three));
        assert_eq!((intake.used.get(), intake.beyond.get()), (0, false), "nothing is held by nobody");
    }

    #[test]
    fn whoever_waits_is_woken_when_there_is_room() {
        let intake = Intake::new(1 << 20);
        let (mut one, mut two, mut three) = (intake.share(None), intake.share(None), intake.share(None));
        assert!(grow(&mut one, 2 << 20) && !grow(&mut two, 1 << 20) && !grow(&mut three, 1 << 20));
        assert_eq!(intake.waiting.borrow().len(), 2);
        drop(one);
        assert!(intake.waiting.borrow().is_empty());
        assert!(grow(&mut two, 1 << 20));
    }

    /// Also of a session that is cut by its time limit while it waits: else the server would be called slow for it.
    #[test]
    fn what_was_waited_for_is_own_delay_however_the_wait_ends() {
        let intake = Intake::new(1 << 20);
        let times = Rc::new(Times::default());
        let (mut one, mut two) = (intake.share(None), intake.share(Some(times.clone())));
        assert!(grow(&mut one, 2 << 20) && !grow(&mut two, 1 << 20));
        let begun = Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        drop(two);
        assert!(times.own_delay_us() >= Some(3_000), "{:?}", times.own_delay_us());
    }
}
