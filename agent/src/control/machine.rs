//! Decides what an agent does next. Pure: it takes events and returns effects, and does neither input nor output.
//!
//! ```text
//!            Prepare          armed             Go            load done
//!   Idle ──────────▶ Preparing ─────▶ Armed ─────────▶ Running ─────────▶ Draining ── Stored ──▶ Idle
//!     ▲                  │ failed / Abort │ Abort           │ Abort: cut, then as usual    │
//!     └──────────────────┴────────────────┴─────────────────┴── connection lost ───────────┘
//! ```
//!
//! In Draining the results are kept until the coordinator has stored them, also when the connection is lost: it asks
//! for them again. An agent that is interrupted (SIGINT, SIGTERM) while sessions run cuts them, reports, and leaves.
//!
//! An order that does not fit the state is ignored: the coordinator has moved on, or two messages crossed. A
//! coordinator that disappears ends the load at once, so that no target is loaded unwatched.

use proto::message::{Hello, Probe, Refused, RefusedWhy, Resend, Welcome};
use proto::{Assignment, AttemptId, FromAgent, FromCoordinator};

/// Where the agent is in an attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Idle,
    Preparing(AttemptId),
    Armed(AttemptId),
    Running(AttemptId),
    /// Sessions have ended; report and records are being uploaded.
    Draining(AttemptId),
}

/// What happened.
#[derive(Debug, PartialEq)]
pub enum Event {
    Order(FromCoordinator),
    Prepared(AttemptId, Result<(), String>),
    /// The load has ended. `Err` says why it failed.
    LoadEnded(AttemptId, Result<(), String>),
    ConnectionLost,
    /// SIGINT or SIGTERM. It comes a second time if leaving takes too long: the agent then leaves at once.
    Interrupted,
}

/// How the agent ends; the exit code follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Dismissed(String),
    Refused(Refused),
    Interrupted,
}

/// What the agent shall do.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Send(FromAgent),
    Probe(Box<Probe>),
    Prepare(Box<Assignment>),
    Launch {
        attempt: AttemptId,
        /// A reading of this agent's clock.
        start_at_us: u64,
    },
    /// Measure the capacity towards these addresses, and send it.
    Survey {
        number: u64,
        addresses: Vec<String>,
        sessions: u64,
    },
    /// Cut the sessions in flight. The load then ends as usual.
    CutLoad,
    /// Drop whatever is prepared, running or being uploaded.
    DropAttempt,
    /// Send report and records of the load that just ended.
    Upload(AttemptId),
    /// Send these parts of it again.
    Resend(Resend),
    Exit(End),
}

/// The reason that an interrupted agent gives.
const INTERRUPTED: &str = "interrupted by a signal";

/// See the module.
#[derive(Debug, Default)]
pub struct Machine {
    state: State,
    welcome: Option<Welcome>,
    /// It was interrupted, and leaves when nothing is under way any more.
    leaving: bool,
}

impl Machine {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Completes a greeting with the plan of the run that this agent belongs to, and with the results it holds.
    #[must_use]
    pub fn hello(&self, base: Hello) -> Hello {
        let holding = match self.state {
            State::Draining(attempt) => Some(attempt),
            State::Idle | State::Preparing(_) | State::Armed(_) | State::Running(_) => None,
        };
        Hello { plan_hash: self.welcome.as_ref().map(|w| w.plan_hash), holding, ..base }
    }

    /// Handles one event. The effects are to be carried out in order.
    pub fn apply(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = self.handle(event);
        // An interrupted agent leaves once nothing is under way.
        if self.leaving && self.state == State::Idle && !effects.iter().any(|effect| matches!(effect, Effect::Exit(_)))
        {
            effects.push(Effect::Send(FromAgent::Goodbye(INTERRUPTED.to_owned())));
            effects.push(Effect::Exit(End::Interrupted));
        }
        effects
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Order(order) => self.handle_order(order),
            Event::Prepared(attempt, result) => match (self.state, result) {
                (State::Preparing(current), Ok(())) if current == attempt => {
                    self.state = State::Armed(attempt);
                    vec![Effect::Send(FromAgent::Armed(attempt))]
                }
                (State::Preparing(current), Err(problem)) if current == attempt => {
                    self.state = State::Idle;
                    vec![Effect::DropAttempt, Effect::Send(FromAgent::Trouble { attempt, problem })]
                }
                _ => Vec::new(),
            },
            Event::LoadEnded(attempt, result) => match (self.state, result) {
                (State::Running(current), Ok(())) if current == attempt => {
                    self.state = State::Draining(attempt);
                    vec![Effect::Upload(attempt)]
                }
                (State::Running(current), Err(problem)) if current == attempt => {
                    self.state = State::Idle;
                    vec![Effect::DropAttempt, Effect::Send(FromAgent::Trouble { attempt, problem })]
                }
                _ => Vec::new(),
            },
            // Results outlive the connection.
            Event::ConnectionLost if matches!(self.state, State::Draining(_)) => Vec::new(),
            Event::ConnectionLost => self.drop_attempt(),
            Event::Interrupted => {
                let again = std::mem::replace(&mut self.leaving, true);
                match self.state {
                    State::Running(_) if !again => {
                        // The load is cut first: sending may have to wait for room in the queue.
                        vec![Effect::CutLoad, Effect::Send(FromAgent::Leaving(INTERRUPTED.to_owned()))]
                    }
                    // All sessions are over, so the results are complete: the upload goes on.
                    State::Draining(_) if !again => Vec::new(),
                    _ => self.drop_attempt(),
                }
            }
        }
    }

    fn handle_order(&mut self, order: FromCoordinator) -> Vec<Effect> {
        match order {
            FromCoordinator::Welcome(welcome) => {
                // Nobody wants results of another run.
                let other = self.welcome.as_ref().is_some_and(|known| known.run != welcome.run);
                self.welcome = Some(welcome);
                if other { self.drop_attempt() } else { Vec::new() }
            }
            FromCoordinator::Refused(refused) => vec![Effect::Exit(End::Refused(refused))],
            FromCoordinator::Probe(probe) => match self.other_plan(probe.plan_hash) {
                Some(effects) => effects,
                None => vec![Effect::Probe(probe)],
            },
            FromCoordinator::Prepare(assignment) => {
                if let Some(effects) = self.other_plan(assignment.plan_hash) {
                    return effects;
                }
                if self.leaving {
                    return Vec::new();
                }
                // A new attempt replaces what is left of the last one.
                let mut effects = self.drop_attempt();
                self.state = State::Preparing(assignment.attempt);
                effects.push(Effect::Prepare(assignment));
                effects
            }
            // Pings are answered where the stream is read, see `link`.
            FromCoordinator::Ping { .. } => Vec::new(),
            FromCoordinator::Survey { number, addresses, sessions } => {
                vec![Effect::Survey { number, addresses, sessions }]
            }
            FromCoordinator::Go { attempt, start_at_us } => match self.state {
                State::Armed(current) if current == attempt => {
                    self.state = State::Running(attempt);
                    vec![Effect::Launch { attempt, start_at_us }]
                }
                _ => Vec::new(),
            },
            FromCoordinator::Abort { attempt, .. } => match self.state {
                State::Preparing(current) | State::Armed(current) if current == attempt => self.drop_attempt(),
                State::Running(current) if current == attempt => vec![Effect::CutLoad],
                _ => Vec::new(),
            },
            FromCoordinator::Resend(resend) => match self.state {
                State::Draining(current) if current == resend.attempt => vec![Effect::Resend(resend)],
                _ => Vec::new(),
            },
            FromCoordinator::Stored(attempt) => match self.state {
                State::Draining(current) if current == attempt => self.drop_attempt(),
                _ => Vec::new(),
            },
            FromCoordinator::Dismiss(reason) => {
                let mut effects = self.drop_attempt();
                effects.push(Effect::Exit(End::Dismissed(reason)));
                effects
            }
        }
    }

    fn drop_attempt(&mut self) -> Vec<Effect> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => Vec::new(),
            State::Preparing(_) | State::Armed(_) | State::Running(_) | State::Draining(_) => vec![Effect::DropAttempt],
        }
    }

    /// The effects that end this agent if an order belongs to another plan than the welcome did.
    fn other_plan(&mut self, ordered: proto::PlanHash) -> Option<Vec<Effect>> {
        let welcomed = self.welcome.as_ref()?.plan_hash;
        if welcomed == ordered {
            return None;
        }
        let message = format!(
            "the order belongs to plan {}, this agent was welcomed to plan {}; start the agent again",
            ordered.short(),
            welcomed.short()
        );
        let mut effects = self.drop_attempt();
        effects.push(Effect::Send(FromAgent::Goodbye(message.clone())));
        effects.push(Effect::Exit(End::Refused(Refused { why: RefusedWhy::Plan, message })));
        Some(effects)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use proto::{PlanHash, RunId};

    use super::*;
    use crate::test_data::assignment;

    const PLAN: PlanHash = PlanHash([1; 32]);

    fn id(attempt: u32) -> AttemptId {
        AttemptId { run: RunId(Default::default()), batch: 0, attempt }
    }

    /// What an agent says first that has never measured anything.
    pub(in crate::control) fn hello() -> Hello {
        Hello {
            protocol: 1,
            version: String::new(),
            name: "a".to_owned(),
            host: String::new(),
            pid: 1,
            instance: [0; 16],
            plan_hash: None,
            capacity: proto::Capacity::default(),
            holding: None,
        }
    }

    fn welcome(plan_hash: PlanHash) -> Event {
        Event::Order(FromCoordinator::Welcome(Welcome {
            run: id(1).run,
            plan_hash,
            name: "a".to_owned(),
            lease: Duration::from_secs(10),
        }))
    }

    fn prepare(attempt: u32, plan_hash: PlanHash) -> Event {
        Event::Order(FromCoordinator::Prepare(Box::new(assignment(id(attempt), plan_hash))))
    }

    fn go(attempt: u32) -> Event {
        Event::Order(FromCoordinator::Go { attempt: id(attempt), start_at_us: 0 })
    }

    fn abort(attempt: u32) -> Event {
        Event::Order(FromCoordinator::Abort { attempt: id(attempt), reason: String::new() })
    }

    #[test]
    fn the_straight_way() {
        let mut machine = Machine::new();
        assert_eq!(machine.apply(welcome(PLAN)), []);
        assert!(matches!(machine.apply(prepare(1, PLAN)).as_slice(), [Effect::Prepare(_)]));
        assert_eq!(machine.apply(Event::Prepared(id(1), Ok(()))), [Effect::Send(FromAgent::Armed(id(1)))]);
        assert!(matches!(machine.apply(go(1)).as_slice(), [Effect::Launch { .. }]));
        assert_eq!(machine.apply(Event::LoadEnded(id(1), Ok(()))), [Effect::Upload(id(1))]);
        assert_eq!(machine.apply(Event::Order(FromCoordinator::Stored(id(1)))), [Effect::DropAttempt]);
        assert_eq!(machine.state(), State::Idle);
        let end = machine.apply(Event::Order(FromCoordinator::Dismiss("done".to_owned())));
        assert_eq!(end, [Effect::Exit(End::Dismissed("done".to_owned()))]);
    }

    #[test]
    fn an_aborted_load_is_cut_and_still_reported() {
        let mut machine = Machine::new();
        for event in [welcome(PLAN), prepare(1, PLAN), Event::Prepared(id(1), Ok(())), go(1)] {
            let _ = machine.apply(event);
        }
        assert_eq!(machine.apply(abort(1)), [Effect::CutLoad]);
        assert_eq!(machine.apply(Event::LoadEnded(id(1), Ok(()))), [Effect::Upload(id(1))]);
    }

    #[test]
    fn a_vanished_coordinator_ends_the_load() {
        let mut machine = Machine::new();
        for event in [welcome(PLAN), prepare(1, PLAN), Event::Prepared(id(1), Ok(())), go(1)] {
            let _ = machine.apply(event);
        }
        assert_eq!(machine.apply(Event::ConnectionLost), [Effect::DropAttempt]);
        assert_eq!(machine.apply(Event::LoadEnded(id(1), Ok(()))), [], "nobody is there to take it");
    }

    #[test]
    fn orders_of_another_plan_are_refused_on_both_sides() {
        let mut machine = Machine::new();
        let _ = machine.apply(welcome(PLAN));
        let effects = machine.apply(prepare(1, PlanHash([2; 32])));
        assert!(
            matches!(effects.as_slice(), [Effect::Send(FromAgent::Goodbye(text)), Effect::Exit(End::Refused(refused))]
                if text.contains("020202") && refused.why == RefusedWhy::Plan),
            "{effects:?}"
        );
    }

    #[test]
    fn what_is_measured_outlives_a_connection() {
        let mut machine = Machine::new();
        for event in [welcome(PLAN), prepare(1, PLAN), Event::Prepared(id(1), Ok(())), go(1)] {
            let _ = machine.apply(event);
        }
        let _ = machine.apply(Event::LoadEnded(id(1), Ok(())));
        assert_eq!(machine.apply(Event::ConnectionLost), []);
        let hello = hello();
        assert_eq!(machine.hello(hello.clone()).holding, Some(id(1)));
        assert_eq!(machine.apply(welcome(PLAN)), []);
        let resend = |attempt| Resend { attempt: id(attempt), report: true, sequences: vec![3], from: None };
        let order = |attempt| Event::Order(FromCoordinator::Resend(resend(attempt)));
        assert_eq!(machine.apply(order(2)), [], "of another attempt");
        assert_eq!(machine.apply(order(1)), [Effect::Resend(resend(1))]);
        assert_eq!(machine.apply(abort(1)), [], "nothing is left to be cut, and what there is is wanted");
        assert_eq!(machine.apply(Event::Order(FromCoordinator::Stored(id(1)))), [Effect::DropAttempt]);
        assert_eq!(machine.hello(hello).holding, None);
        // Another run has no use for it.
        for event in [prepare(2, PLAN), Event::Prepared(id(2), Ok(())), go(2), Event::LoadEnded(id(2), Ok(()))] {
            let _ = machine.apply(event);
        }
        let other =
            Welcome { run: RunId::random(), plan_hash: PLAN, name: "a".to_owned(), lease: Duration::from_secs(10) };
        assert_eq!(machine.apply(Event::Order(FromCoordinator::Welcome(other))), [Effect::DropAttempt]);
    }

    #[test]
    fn told_to_end_it_reports_what_it_has_begun_and_nothing_more() {
        let leave = Effect::Send(FromAgent::Leaving(INTERRUPTED.to_owned()));
        let gone = [Effect::Send(FromAgent::Goodbye(INTERRUPTED.to_owned())), Effect::Exit(End::Interrupted)];
        let running = || {
            let mut machine = Machine::new();
            for event in [welcome(PLAN), prepare(1, PLAN), Event::Prepared(id(1), Ok(())), go(1)] {
                let _ = machine.apply(event);
            }
            machine
        };
        let mut machine = running();
        assert_eq!(machine.apply(Event::Interrupted), [Effect::CutLoad, leave]);
        assert_eq!(machine.apply(Event::LoadEnded(id(1), Ok(()))), [Effect::Upload(id(1))]);
        assert_eq!(machine.apply(prepare(2, PLAN)), [], "no new load");
        let end = machine.apply(Event::Order(FromCoordinator::Stored(id(1))));
        assert_eq!(end, [&[Effect::DropAttempt], gone.as_slice()].concat());
        // Whoever does not want to wait for it says so twice.
        let mut machine = running();
        let _ = machine.apply(Event::Interrupted);
        assert_eq!(machine.apply(Event::Interrupted), [&[Effect::DropAttempt], gone.as_slice()].concat());
        assert_eq!(Machine::new().apply(Event::Interrupted), gone);
        let mut machine = running();
        let _ = machine.apply(Event::LoadEnded(id(1), Ok(())));
        assert_eq!(machine.apply(Event::Interrupted), [], "all of its sessions are over: they count");
        let end = machine.apply(Event::Order(FromCoordinator::Stored(id(1))));
        assert_eq!(end, [&[Effect::DropAttempt], gone.as_slice()].concat());
    }

    fn events() -> impl Strategy<Value = (u8, u32)> {
        (0_u8..10, 1_u32..3)
    }

    proptest! {
        /// In any order of events: at most one attempt is alive, a launch follows its own arming only, and whatever
        /// was prepared is dropped or uploaded before the next preparation.
        #[test]
        fn any_order_keeps_the_rules(script in proptest::collection::vec(events(), 0..60)) {
            let mut machine = Machine::new();
            let _ = machine.apply(welcome(PLAN));
            let mut held: Option<AttemptId> = None;
            for (kind, n) in script {
                let before = machine.state();
                let effects = machine.apply(match kind {
                    0 => prepare(n, PLAN),
                    1 => Event::Prepared(id(n), Ok(())),
                    2 => Event::Prepared(id(n), Err("no".to_owned())),
                    3 => go(n),
                    4 => Event::LoadEnded(id(n), Ok(())),
                    5 => Event::LoadEnded(id(n), Err("died".to_owned())),
                    6 => abort(n),
                    7 => Event::Order(FromCoordinator::Stored(id(n))),
                    8 => Event::Order(FromCoordinator::Resend(Resend { attempt: id(n), report: true, sequences: Vec::new(), from: None })),
                    _ => Event::ConnectionLost,
                });
                for effect in effects {
                    match effect {
                        Effect::Prepare(assignment) => {
                            prop_assert_eq!(held, None, "prepared on top of another");
                            held = Some(assignment.attempt);
                        }
                        Effect::DropAttempt => held = None,
                        Effect::Launch { attempt, .. } => prop_assert_eq!(before, State::Armed(attempt)),
                        Effect::CutLoad => prop_assert!(matches!(before, State::Running(_))),
                        Effect::Upload(attempt) => prop_assert_eq!(before, State::Running(attempt)),
                        Effect::Resend(resend) => prop_assert_eq!(before, State::Draining(resend.attempt)),
                        Effect::Send(_) | Effect::Probe(_) | Effect::Survey { .. } | Effect::Exit(_) => {}
                    }
                }
                prop_assert_eq!(held.is_none(), machine.state() == State::Idle);
            }
        }
    }
}
