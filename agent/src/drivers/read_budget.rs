//! Bounds the memory of replies that are being read, over all sessions of one thread.
//!
//! A reply is held whole before it is parsed, and thousands may arrive at once. Beyond the bound a session waits before
//! it reads on, and TCP makes the sender wait too. That time counts as the generator's own delay. One session may
//! always go on, so that all of them end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::net::timestamps::Timestamps;

/// Smaller replies are not counted. Most replies are smaller and arrive in one piece.
const FREE_BYTES: usize = 4 << 10;

/// The bound of one thread.
#[derive(Debug)]
pub struct ReadBudget {
    bytes_max: usize,
    used: Cell<usize>,
    /// One session reads on although the bound is reached.
    exceeded: Cell<bool>,
    waiting: RefCell<VecDeque<Waker>>,
}

impl ReadBudget {
    #[must_use]
    pub fn new(bytes_max: u64) -> Rc<Self> {
        Rc::new(Self {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            used: Cell::new(0),
            exceeded: Cell::new(false),
            waiting: RefCell::default(),
        })
    }

    /// A bound that is never reached, for single sessions.
    #[must_use]
    pub fn unbounded() -> Rc<Self> {
        Self::new(u64::MAX)
    }

    #[must_use]
    pub fn share(self: &Rc<Self>, times: Option<Rc<Timestamps>>) -> BudgetShare {
        BudgetShare { budget: self.clone(), times, held: 0, exceeds: false, waiting_since: None }
    }
}

/// What one session holds of the budget.
#[derive(Debug)]
pub struct BudgetShare {
    budget: Rc<ReadBudget>,
    /// Time spent waiting is recorded here as own delay.
    times: Option<Rc<Timestamps>>,
    /// Bytes that are counted for this session.
    held: usize,
    /// This session is the one that may exceed the bound.
    exceeds: bool,
    waiting_since: Option<Instant>,
}

impl BudgetShare {
    /// Asked before each read, with the number of bytes held so far. Ready when there is room.
    pub fn poll_grow(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<()> {
        if bytes <= FREE_BYTES || bytes <= self.held {
            return Poll::Ready(());
        }
        let budget = &self.budget;
        let used = budget.used.get() - self.held + bytes;
        if used > budget.bytes_max && !self.exceeds {
            if budget.exceeded.replace(true) {
                self.waiting_since.get_or_insert_with(Instant::now);
                budget.waiting.borrow_mut().push_back(cx.waker().clone());
                return Poll::Pending;
            }
            self.exceeds = true;
        }
        budget.used.set(used);
        self.held = bytes;
        self.record_wait();
        Poll::Ready(())
    }

    /// Records a wait that is over, also one that the end of the session has cut, as own delay.
    fn record_wait(&mut self) {
        if let (Some(since), Some(times)) = (self.waiting_since.take(), &self.times) {
            times.waited_for_memory(since.elapsed());
        }
    }

    /// Gives everything back: the reply has been parsed.
    pub fn release(&mut self) {
        self.record_wait();
        if self.held == 0 && !self.exceeds {
            return;
        }
        let budget = &self.budget;
        budget.used.set(budget.used.get() - std::mem::take(&mut self.held));
        if std::mem::take(&mut self.exceeds) {
            budget.exceeded.set(false);
        }
        // All are woken; those that still find no room wait again.
        for waker in budget.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grow(share: &mut BudgetShare, bytes: usize) -> bool {
        share.poll_grow(&mut Context::from_waker(Waker::noop()), bytes).is_ready()
    }

    #[test]
    fn beyond_the_bound_one_goes_on_and_the_others_wait() {
        let budget = ReadBudget::new(1 << 20);
        let (mut one, mut two, mut three) = (budget.share(None), budget.share(None), budget.share(None));
        assert!(grow(&mut one, 700 << 10) && grow(&mut two, 300 << 10));
        assert!(grow(&mut two, 600 << 10), "one may always go on");
        assert!(!grow(&mut one, 900 << 10) && !grow(&mut three, 100 << 10), "the others wait");
        assert!(grow(&mut three, FREE_BYTES), "what is small is free");
        assert!(grow(&mut two, 9 << 20));
        two.release();
        assert!(grow(&mut three, 100 << 10) && grow(&mut one, 900 << 10));
        drop((one, three));
        assert_eq!((budget.used.get(), budget.exceeded.get()), (0, false), "nothing is held by nobody");
    }

    #[test]
    fn whoever_waits_is_woken_when_there_is_room() {
        let budget = ReadBudget::new(1 << 20);
        let (mut one, mut two, mut three) = (budget.share(None), budget.share(None), budget.share(None));
        assert!(grow(&mut one, 2 << 20) && !grow(&mut two, 1 << 20) && !grow(&mut three, 1 << 20));
        assert_eq!(budget.waiting.borrow().len(), 2);
        drop(one);
        assert!(budget.waiting.borrow().is_empty());
        assert!(grow(&mut two, 1 << 20));
    }

    /// Also of a session that is cut by its time limit while it waits: else the server would be called slow for it.
    #[test]
    fn what_was_waited_for_is_own_delay_however_the_wait_ends() {
        let budget = ReadBudget::new(1 << 20);
        let times = Rc::new(Timestamps::default());
        let (mut one, mut two) = (budget.share(None), budget.share(Some(times.clone())));
        assert!(grow(&mut one, 2 << 20) && !grow(&mut two, 1 << 20));
        let begun = Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        drop(two);
        assert!(times.own_delay_us() >= Some(3_000), "{:?}", times.own_delay_us());
    }
}
