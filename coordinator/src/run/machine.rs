//! PURE: the run, one event at a time.
//!
//! ```text
//!  Gathering ──▶ Probing ──▶ Preparing ──▶ Running ──▶ Storing ──▶ Cooling ──▶ (next batch) ... ──▶ Over
//!     agents      target       all armed     all reported   on disk     pause
//! ```
//!
//! `apply(now, event)` returns what is to be done; nothing here reads a clock or waits. An attempt that lost an agent is
//! never patched up: it is repeated, or kept and marked, or ends the run.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use proto::message::{Hello, Probe, ProbeResult, Refused, RefusedWhy, Welcome};
use proto::{Assignment, AttemptId, Bounds, FromAgent, FromCoordinator, PlanHash, RunId, Target};

use super::collect::{Finished, Part, finish};
use super::events::{Counts, Place, RunEvent};
use super::share::{Carrier, Spread, split};
use super::verdict::Worth;
use crate::exit::{End, Failure};
use crate::plan::expand::Batch;
use crate::plan::{OnLoss, OnShortfall, Plan};
use crate::report::cells::{Done, failing_sizes};

/// From go to start: long enough for the order to reach everyone.
const START_AFTER: Duration = Duration::from_millis(100);
/// How long agents may take to look names up and arm.
const ARM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a cut batch may take to report.
const CUT_TIMEOUT: Duration = Duration::from_secs(10);
/// On top of the readiness check's own deadline.
const PROBE_SLACK: Duration = Duration::from_secs(15);

/// One connection, by the number that the service gave it.
pub type Key = u64;

/// Two readings of one instant.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since the start of the run, monotonic.
    pub mono: Duration,
    pub wall: Timestamp,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    Joined(Key, Box<Hello>),
    Message(Key, Box<FromAgent>),
    Left(Key, String),
    /// The attempt that was to be stored is on disk, or not.
    Stored(Result<(), String>),
    /// A process that was started for this run has ended by itself.
    ChildEnded(String),
    /// A deadline may have passed.
    Tick,
    /// SIGINT or SIGTERM.
    Interrupt,
}

/// What is to be done.
#[must_use]
#[derive(Debug)]
pub enum Effect {
    Send(Key, FromCoordinator),
    /// Close the connection after what was sent.
    Hangup(Key),
    /// Write the attempt; answered by [`Event::Stored`].
    Store(Box<Finished>),
    Tell(RunEvent),
    Over(End),
}

/// An agent that is connected and welcome.
#[derive(Debug)]
struct Agent {
    name: String,
    hello: Hello,
    last_seen: Duration,
}

/// What is given from outside, once.
#[derive(Debug, Clone)]
pub struct Setup {
    pub plan: Plan,
    pub run: RunId,
    /// Of the plan; with an embedded target, its urls as started.
    pub urls: Vec<String>,
    pub ca_pem: Vec<u8>,
}

#[derive(Debug)]
struct Current {
    batch: Batch,
    id: AttemptId,
    /// By agent; in the order of their ranges.
    parts: Vec<(Key, Part)>,
    armed: Vec<Key>,
    started: Timestamp,
    deadline: Option<Duration>,
    /// Given up, and why.
    cut: Option<String>,
    counts: BTreeMap<Key, Counts>,
}

#[derive(Debug)]
enum Phase {
    Gathering { deadline: Duration },
    Probing { deadline: Duration, results: BTreeMap<Key, Vec<ProbeResult>> },
    Preparing(Current),
    Running(Current),
    Storing { refused: Option<String> },
    Cooling { until: Duration },
    Over,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    setup: Setup,
    plan_hash: PlanHash,
    batches: Vec<Batch>,
    /// Index of the batch that is next or under way.
    next: usize,
    attempt: u32,
    warmed_up: bool,
    agents: BTreeMap<Key, Agent>,
    /// Everyone who was ever welcome: run.json lists them.
    known: BTreeMap<String, Hello>,
    spread: Spread,
    phase: Phase,
    results: Vec<Done>,
    interrupted: bool,
    /// A loss with `on_loss = "abort"`.
    aborted: bool,
    effects: Vec<Effect>,
}

impl Machine {
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let batches = setup.plan.batches();
        let deadline = Duration::from_micros(setup.plan.agents.ready_timeout_us);
        Self {
            plan_hash: setup.plan.hash(),
            warmed_up: !setup.plan.grid.warmup,
            batches,
            next: 0,
            attempt: 1,
            agents: BTreeMap::new(),
            known: BTreeMap::new(),
            spread: Spread::over(&[]),
            phase: Phase::Gathering { deadline },
            results: Vec::new(),
            interrupted: false,
            aborted: false,
            effects: Vec::new(),
            setup,
        }
    }

    /// When the next [`Event::Tick`] is due, if any.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let lease = Duration::from_micros(self.setup.plan.agents.lease_us);
        let leases = self.agents.values().map(|agent| agent.last_seen + lease).min();
        let phase = match &self.phase {
            Phase::Gathering { deadline } | Phase::Probing { deadline, .. } => Some(*deadline),
            Phase::Preparing(current) | Phase::Running(current) => current.deadline,
            Phase::Cooling { until } => Some(*until),
            Phase::Storing { .. } | Phase::Over => None,
        };
        [leases, phase].into_iter().flatten().min()
    }

    /// What has been decided of every batch so far, in order.
    #[must_use]
    pub fn results(&self) -> &[Done] {
        &self.results
    }

    /// Every agent that ever took part, by name.
    #[must_use]
    pub fn known_agents(&self) -> &BTreeMap<String, Hello> {
        &self.known
    }

    pub fn apply(&mut self, now: Now, event: Event) -> Vec<Effect> {
        match event {
            Event::Joined(key, hello) => self.joined(now, key, *hello),
            Event::Message(key, message) => self.message(now, key, *message),
            Event::Left(key, why) => self.left(now, key, &why),
            Event::Stored(result) => self.stored(now, result),
            Event::ChildEnded(what) => self.child_ended(what),
            Event::Tick => self.tick(now),
            Event::Interrupt => self.interrupt(now),
        }
        std::mem::take(&mut self.effects)
    }

    fn send(&mut self, key: Key, message: FromCoordinator) {
        self.effects.push(Effect::Send(key, message));
    }

    fn tell(&mut self, event: RunEvent) {
        self.effects.push(Effect::Tell(event));
    }

    // ---- agents come and go ----

    fn joined(&mut self, now: Now, key: Key, hello: Hello) {
        if let Some(refused) = self.refuse(&hello) {
            self.tell(RunEvent::AgentRefused { name: hello.name, why: refused.message.clone() });
            self.send(key, FromCoordinator::Refused(refused));
            self.effects.push(Effect::Hangup(key));
            return;
        }
        let name = self.free_name(&hello);
        self.send(
            key,
            FromCoordinator::Welcome(Welcome {
                run: self.setup.run,
                plan_hash: self.plan_hash,
                name: name.clone(),
                lease: Duration::from_micros(self.setup.plan.agents.lease_us),
            }),
        );
        self.known.insert(name.clone(), hello.clone());
        self.agents.insert(key, Agent { name: name.clone(), hello, last_seen: now.mono });
        let wanted = self.wanted();
        self.tell(RunEvent::AgentJoined { name, ready: self.agents.len(), wanted });
        if matches!(self.phase, Phase::Gathering { .. }) && self.agents.len() >= wanted {
            self.probe(now);
        }
    }

    fn wanted(&self) -> usize {
        self.setup.plan.agents.count as usize
    }

    fn refuse(&self, hello: &Hello) -> Option<Refused> {
        if hello.protocol != proto::PROTOCOL || hello.version != proto::VERSION {
            return Some(Refused {
                why: RefusedWhy::Version,
                message: format!(
                    "agent {} is version {} (protocol {}), this coordinator is version {} (protocol {}); install the same \
                     version on both",
                    hello.name,
                    hello.version,
                    hello.protocol,
                    proto::VERSION,
                    proto::PROTOCOL
                ),
            });
        }
        if let Some(hash) = hello.plan_hash.filter(|hash| *hash != self.plan_hash) {
            return Some(Refused {
                why: RefusedWhy::Plan,
                message: format!(
                    "agent {} belongs to a run of plan {}, this is plan {}; start the agent again for this run",
                    hello.name,
                    hash.short(),
                    self.plan_hash.short()
                ),
            });
        }
        if self.agents.len() >= proto::limits::AGENTS_MAX {
            return Some(Refused {
                why: RefusedWhy::Full,
                message: format!(
                    "{} agents are connected already; this is the most that one run takes",
                    self.agents.len()
                ),
            });
        }
        None
    }

    /// Its own name; with a number if another agent has it.
    fn free_name(&self, hello: &Hello) -> String {
        let taken = |name: &str| {
            self.agents.values().any(|agent| agent.name == name)
                || self.known.get(name).is_some_and(|known| known.instance != hello.instance)
        };
        if !taken(&hello.name) {
            return hello.name.clone();
        }
        (2_u64..).map(|n| format!("{}-{n}", hello.name)).find(|name| !taken(name)).unwrap_or_default()
    }

    fn left(&mut self, now: Now, key: Key, why: &str) {
        let Some(agent) = self.agents.remove(&key) else { return };
        self.tell(RunEvent::AgentLeft { name: agent.name, why: why.to_owned() });
        match &mut self.phase {
            Phase::Probing { .. } => {
                // Whoever is missing may come back: the search goes on as at the beginning.
                let deadline = now.mono + Duration::from_micros(self.setup.plan.agents.ready_timeout_us);
                self.phase = Phase::Gathering { deadline };
            }
            Phase::Preparing(current) | Phase::Running(current) => {
                if let Some((_, part)) = current.parts.iter_mut().find(|(owner, _)| *owner == key) {
                    part.lose(why);
                    self.lost_one(now);
                }
            }
            Phase::Gathering { .. } | Phase::Storing { .. } | Phase::Cooling { .. } | Phase::Over => {}
        }
    }

    /// While agents are awaited, one that can't come need not be awaited; later its loss speaks for itself.
    fn child_ended(&mut self, what: String) {
        if matches!(self.phase, Phase::Gathering { .. }) {
            self.over(End::failed(Failure::TooFewAgents(format!("{what} before the run began; its message is above"))));
        } else {
            self.tell(RunEvent::Note(what));
        }
    }

    /// An agent of the running attempt is gone.
    fn lost_one(&mut self, now: Now) {
        let on_loss = self.setup.plan.agents.on_loss;
        let running = matches!(self.phase, Phase::Running(_));
        let (Phase::Preparing(current) | Phase::Running(current)) = &mut self.phase else { return };
        if !current.parts.iter().any(|(_, part)| part.is_lost()) {
            return;
        }
        if on_loss == OnLoss::Abort {
            self.aborted = true;
        }
        // An attempt that has not begun costs nothing to begin again; one that has may be kept, lost part and all.
        if !running || on_loss != OnLoss::Keep {
            self.cut(now, "an agent was lost");
        }
        self.maybe_complete(now);
    }

    // ---- messages ----

    fn message(&mut self, now: Now, key: Key, message: FromAgent) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        agent.last_seen = now.mono;
        match message {
            FromAgent::Heartbeat => {}
            FromAgent::Hello(_) => {
                // One greeting a connection; a second one is a broken peer.
                self.effects.push(Effect::Hangup(key));
                self.left(now, key, "greeted twice");
            }
            FromAgent::Goodbye(reason) => {
                self.effects.push(Effect::Hangup(key));
                self.left(now, key, &format!("left: {reason}"));
            }
            FromAgent::Probed(results) => self.probed(now, key, results),
            FromAgent::Armed(id) => {
                if let Phase::Preparing(current) = &mut self.phase
                    && current.id == id
                    && !current.armed.contains(&key)
                {
                    current.armed.push(key);
                    self.maybe_go(now);
                }
            }
            FromAgent::Progress(progress) => {
                if let Phase::Running(current) = &mut self.phase
                    && current.id == progress.attempt
                {
                    let counts = Counts {
                        planned: 0,
                        launched: progress.launched,
                        open: progress.open,
                        succeeded: progress.succeeded,
                        failed: progress.failed,
                    };
                    current.counts.insert(key, counts);
                    let event = RunEvent::Progress(total(current));
                    self.tell(event);
                }
            }
            FromAgent::Report(report) => {
                if let Some(part) = self.part(key, report.attempt) {
                    part.take_report(report);
                    self.maybe_complete(now);
                }
            }
            FromAgent::Records(chunk) => {
                if let Some(part) = self.part(key, chunk.attempt) {
                    part.take_chunk(chunk);
                    self.maybe_complete(now);
                }
            }
            FromAgent::Trouble { attempt, problem } => {
                let name = agent.name.clone();
                match &mut self.phase {
                    Phase::Preparing(current) if current.id == attempt => {
                        self.over(End::failed(Failure::TargetNotReady(format!("agent {name}: {problem}"))));
                    }
                    Phase::Running(current) if current.id == attempt => {
                        if let Some((_, part)) = current.parts.iter_mut().find(|(owner, _)| *owner == key) {
                            part.lose(&format!("could not carry its share: {problem}"));
                            self.lost_one(now);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn part(&mut self, key: Key, attempt: AttemptId) -> Option<&mut Part> {
        match &mut self.phase {
            Phase::Running(current) if current.id == attempt => {
                current.parts.iter_mut().find(|(owner, _)| *owner == key).map(|(_, part)| part)
            }
            _ => None,
        }
    }

    // ---- readiness ----

    fn probe(&mut self, now: Now) {
        let plan = &self.setup.plan;
        let names = self.agents.values().map(|agent| agent.name.clone()).collect();
        let threads = self.agents.values().map(|agent| u64::from(agent.hello.capacity.threads)).sum();
        // Agents of one pool draw from the same ports: each pool counts once.
        let pools: BTreeMap<&str, u64> = self
            .agents
            .values()
            .map(|agent| (agent.hello.capacity.port_pool.as_str(), agent.hello.capacity.ports))
            .collect();
        let ports = pools.values().copied().fold(0, u64::saturating_add);
        let deadline = Duration::from_micros(plan.target.ready_timeout_us);
        let probe = Probe {
            plan_hash: self.plan_hash,
            target: self.target(),
            modes: plan.target.mode.list().to_vec(),
            deadline,
            script: plan.script(0),
        };
        let keys: Vec<Key> = self.agents.keys().copied().collect();
        self.tell(RunEvent::AgentsReady { names, threads, ports });
        for key in keys {
            self.send(key, FromCoordinator::Probe(probe.clone()));
        }
        self.phase = Phase::Probing { deadline: now.mono + deadline + PROBE_SLACK, results: BTreeMap::new() };
    }

    fn target(&self) -> Target {
        Target { urls: self.setup.urls.clone(), ca_pem: self.setup.ca_pem.clone() }
    }

    fn probed(&mut self, now: Now, key: Key, found: Vec<ProbeResult>) {
        let Some(agent) = self.agents.get(&key) else { return };
        let Phase::Probing { results, .. } = &mut self.phase else { return };
        let waiting = found.iter().find(|result| !result.ready && !result.last_word);
        let problem = waiting.map(|result| format!("{} from {}: {}", result.url, agent.name, result.problem));
        results.insert(key, found);
        let all = self
            .agents
            .keys()
            .all(|key| results.get(key).is_some_and(|found| found.iter().all(|result| result.last_word)));
        match problem {
            Some(problem) => self.tell(RunEvent::TargetNotReady { problem }),
            None if all => self.target_judged(now),
            None => {}
        }
    }

    /// Every agent has had its last word on every url.
    fn target_judged(&mut self, now: Now) {
        let Phase::Probing { results, .. } = &self.phase else { return };
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        for (key, found) in results {
            let Some(agent) = self.agents.get(key) else { continue };
            for url in &self.setup.urls {
                let of_url: Vec<&ProbeResult> = found.iter().filter(|result| result.url == *url).collect();
                let problems = of_url
                    .iter()
                    .filter(|result| !result.ready)
                    .map(|result| format!("{url} ({}) from agent {}: {}", result.mode, agent.name, result.problem));
                // With both modes asked for, one that works is enough: that the other does not is a finding.
                if of_url.iter().any(|result| result.ready) { &mut warnings } else { &mut faults }.extend(problems);
            }
        }
        if !faults.is_empty() {
            let text = format!("the target is not ready:\n  {}", faults.join("\n  "));
            self.over(End::failed(Failure::TargetNotReady(text)));
            return;
        }
        let addresses: Vec<Vec<String>> = self
            .setup
            .urls
            .iter()
            .map(|url| {
                let mut all: Vec<String> = results
                    .values()
                    .flatten()
                    .filter(|result| result.url == *url)
                    .flat_map(|result| result.addresses.iter().cloned())
                    .collect();
                all.sort();
                all.dedup();
                if all.is_empty() { vec![url.clone()] } else { all }
            })
            .collect();
        self.spread = Spread::over(&addresses);
        self.tell(RunEvent::TargetReady { warnings });
        if self.room_for_all() {
            self.next_batch(now);
        }
    }

    /// Before the first batch: can every batch size be carried?
    fn room_for_all(&mut self) -> bool {
        let mut sizes: Vec<u64> = self.setup.plan.grid.batch_sizes.clone();
        sizes.sort_unstable();
        let short = sizes.into_iter().find_map(|size| self.shares(size).err());
        match short {
            Some(short) if self.setup.plan.agents.on_shortfall == OnShortfall::Stop => {
                self.over(End::failed(Failure::TooFewAgents(short)));
                false
            }
            Some(short) => {
                self.tell(RunEvent::Note(format!("{short}\n  larger batches are skipped")));
                true
            }
            None => true,
        }
    }

    fn shares(&self, size: u64) -> Result<Vec<(Key, u64)>, String> {
        let carriers: Vec<Carrier<'_>> =
            self.agents.values().map(|agent| Carrier { name: &agent.name, capacity: &agent.hello.capacity }).collect();
        if carriers.is_empty() {
            return Err("no agent is left; start agents, or run again with more of them".to_owned());
        }
        let shares = split(size, &carriers, &self.spread).map_err(|short| short.explanation)?;
        Ok(self.agents.keys().copied().zip(shares).collect())
    }

    // ---- batches ----

    fn next_batch(&mut self, now: Now) {
        if self.interrupted || self.aborted {
            self.conclude();
            return;
        }
        if !self.warmed_up {
            let mode = self.setup.plan.target.mode.list()[0];
            let batch = self.setup.plan.warmup_batch(mode);
            self.tell(RunEvent::WarmupStarted);
            self.prepare(now, batch);
            return;
        }
        while let Some(batch) = self.batches.get(self.next).copied() {
            let after = self.setup.plan.grid.stop_after_failing;
            let why = if after > 0 && failing_sizes(&self.setup.plan, &self.results, &batch) >= after {
                Some(format!("{after} smaller batch size(s) failed (grid.stop_after_failing)"))
            } else {
                match self.shares(batch.batch_size) {
                    Ok(_) => None,
                    Err(short) if self.setup.plan.agents.on_shortfall == OnShortfall::Stop => {
                        self.over(End::failed(Failure::TooFewAgents(short)));
                        return;
                    }
                    Err(_) => Some("the agents can't carry it (agents.on_shortfall)".to_owned()),
                }
            };
            match why {
                None => {
                    self.prepare(now, batch);
                    return;
                }
                Some(why) => {
                    let place = self.place();
                    self.tell(RunEvent::BatchSkipped { place, batch, why: why.clone() });
                    self.results.push(Done::Skipped { batch, why });
                    self.next += 1;
                    self.attempt = 1;
                }
            }
        }
        self.conclude();
    }

    fn place(&self) -> Place {
        let left = self.setup.plan.expected_us(self.batches.get(self.next..).unwrap_or_default());
        Place { number: self.next + 1, of: self.batches.len(), left: Duration::from_micros(left) }
    }

    fn prepare(&mut self, now: Now, batch: Batch) {
        let shares = match self.shares(batch.batch_size) {
            Ok(shares) => shares,
            Err(short) => return self.over(End::failed(Failure::TooFewAgents(short))),
        };
        let id = AttemptId { run: self.setup.run, batch: batch.index, attempt: self.attempt };
        let with_share: Vec<(Key, u64)> = shares.into_iter().filter(|(_, share)| *share > 0).collect();
        let agent_count = u32::try_from(with_share.len()).unwrap_or(u32::MAX);
        let mut parts = Vec::new();
        let mut first = 0;
        for (agent_index, (key, sessions)) in (0..).zip(with_share) {
            let plan = &self.setup.plan;
            let assignment = Assignment {
                attempt: id,
                plan_hash: self.plan_hash,
                target: self.target(),
                mode: batch.mode,
                script: plan.script(batch.wait_us),
                launch: plan.session.launch,
                first_session: first,
                sessions,
                batch_size: batch.batch_size,
                seed: plan.session.seed,
                agent_index,
                agent_count,
                bounds: Bounds::STANDARD,
            };
            let name = self.agents.get(&key).map_or("", |agent| agent.name.as_str());
            parts.push((key, Part::new(name, first, sessions)));
            first += sessions;
            self.send(key, FromCoordinator::Prepare(Box::new(assignment)));
        }
        self.phase = Phase::Preparing(Current {
            batch,
            id,
            parts,
            armed: Vec::new(),
            started: now.wall,
            deadline: Some(now.mono + ARM_TIMEOUT),
            cut: None,
            counts: BTreeMap::new(),
        });
    }

    fn maybe_go(&mut self, now: Now) {
        let Phase::Preparing(current) = &self.phase else { return };
        if current.cut.is_some() || current.armed.len() < current.parts.len() {
            return;
        }
        let Phase::Preparing(mut current) = std::mem::replace(&mut self.phase, Phase::Over) else { return };
        current.started = now.wall.checked_add(START_AFTER).unwrap_or(now.wall);
        current.deadline = None;
        let go = FromCoordinator::Go { attempt: current.id, start_after: START_AFTER };
        for (key, _) in &current.parts {
            self.send(*key, go.clone());
        }
        let batch = current.batch;
        if batch.index != AttemptId::WARMUP {
            let place = self.place();
            let expected = Duration::from_micros(self.setup.plan.batch_floor_us(&batch));
            self.tell(RunEvent::BatchStarted { place, batch, attempt: self.attempt, expected });
        }
        self.phase = Phase::Running(current);
    }

    /// Gives the attempt up: whoever has begun reports what there is, whoever has not is let go.
    fn cut(&mut self, now: Now, why: &str) {
        let running = matches!(self.phase, Phase::Running(_));
        let (Phase::Preparing(current) | Phase::Running(current)) = &mut self.phase else { return };
        if current.cut.is_some() {
            return;
        }
        current.cut = Some(why.to_owned());
        current.deadline = Some(now.mono + CUT_TIMEOUT);
        let abort = FromCoordinator::Abort { attempt: current.id, reason: why.to_owned() };
        for (key, part) in &mut current.parts {
            if part.settled() {
                continue;
            }
            self.effects.push(Effect::Send(*key, abort.clone()));
            if !running {
                part.never_start(why);
            }
        }
    }

    fn maybe_complete(&mut self, now: Now) {
        let (Phase::Preparing(current) | Phase::Running(current)) = &self.phase else { return };
        if !current.parts.iter().all(|(_, part)| part.settled()) {
            return;
        }
        let (Phase::Preparing(current) | Phase::Running(current)) = std::mem::replace(&mut self.phase, Phase::Over)
        else {
            return;
        };
        for (key, part) in &current.parts {
            if part.complete() {
                self.send(*key, FromCoordinator::Stored(current.id));
            }
        }
        let lost = current.parts.iter().any(|(_, part)| part.is_lost());
        if current.batch.index == AttemptId::WARMUP {
            if !lost && !self.interrupted {
                self.warmed_up = true;
            }
            self.attempt += u32::from(lost);
            if self.attempt > self.setup.plan.agents.max_attempts {
                self.warmed_up = true;
                self.attempt = 1;
            }
            self.next_batch(now);
            return;
        }
        let repeat = lost && self.setup.plan.agents.on_loss != OnLoss::Keep;
        let parts = current.parts.into_iter().map(|(_, part)| part).collect();
        let url = self.setup.urls.join(" ");
        let mut finished = finish(&self.setup.plan, current.batch, current.id, &url, current.started, parts);
        let refused = current.cut.or_else(|| repeat.then(|| "an agent was lost".to_owned()));
        if let Some(why) = &refused {
            finished.summary.accepted = false;
            if self.interrupted {
                finished.summary.verdict.worth = finished.summary.verdict.worth.max(Worth::Degraded);
                finished.summary.verdict.reasons.push(why.clone());
            }
        }
        let again = self.may_repeat();
        if let Some(why) = &refused {
            self.tell(RunEvent::AttemptRefused {
                batch: current.batch,
                attempt: current.id.attempt,
                why: finished.summary.verdict.reasons.first().unwrap_or(why).clone(),
                again,
            });
        }
        // The last attempt stands in the tables with its verdict, when none was accepted.
        finished.stands = refused.is_none() || (!again && !self.interrupted);
        if finished.stands {
            self.results.push(Done::Ran(Box::new(finished.summary.clone())));
        }
        self.phase = Phase::Storing { refused };
        self.effects.push(Effect::Store(Box::new(finished)));
    }

    fn may_repeat(&self) -> bool {
        !self.interrupted && !self.aborted && self.attempt < self.setup.plan.agents.max_attempts
    }

    fn stored(&mut self, now: Now, result: Result<(), String>) {
        let Phase::Storing { refused } = &self.phase else { return };
        if let Err(problem) = result {
            self.over(End::failed(Failure::Store(problem)));
            return;
        }
        let refused = refused.is_some();
        if refused && self.interrupted {
            self.conclude();
            return;
        }
        if refused && self.may_repeat() {
            self.attempt += 1;
        } else {
            if let Some(Done::Ran(summary)) = self.results.last() {
                let event = RunEvent::BatchStored { place: self.place(), summary: summary.clone() };
                self.tell(event);
            }
            self.next += 1;
            self.attempt = 1;
        }
        let last = self.next >= self.batches.len();
        let pause = if last || self.interrupted { 0 } else { self.setup.plan.grid.cooldown_us };
        self.phase = Phase::Cooling { until: now.mono + Duration::from_micros(pause) };
        self.tick(now);
    }

    // ---- time and signals ----

    fn tick(&mut self, now: Now) {
        let lease = Duration::from_micros(self.setup.plan.agents.lease_us);
        let silent: Vec<Key> =
            self.agents.iter().filter(|(_, agent)| now.mono >= agent.last_seen + lease).map(|(key, _)| *key).collect();
        for key in silent {
            self.effects.push(Effect::Hangup(key));
            self.left(now, key, &format!("was silent for {} s", lease.as_secs_f64()));
        }
        match &mut self.phase {
            Phase::Gathering { deadline } if now.mono >= *deadline => {
                let there: Vec<&str> = self.agents.values().map(|agent| agent.name.as_str()).collect();
                let text = format!(
                    "{} of {} agents came within {} s{}; start more agents, lower agents.count (--agents), or raise \
                     agents.ready_timeout_seconds",
                    there.len(),
                    self.wanted(),
                    self.setup.plan.agents.ready_timeout_us / 1_000_000,
                    if there.is_empty() { String::new() } else { format!(": {}", there.join(", ")) }
                );
                self.over(End::failed(Failure::TooFewAgents(text)));
            }
            Phase::Probing { deadline, .. } if now.mono >= *deadline => self.target_judged(now),
            Phase::Preparing(current) if current.deadline.is_some_and(|deadline| now.mono >= deadline) => {
                let late: Vec<Key> =
                    current.parts.iter().map(|(key, _)| *key).filter(|key| !current.armed.contains(key)).collect();
                for key in late {
                    self.effects.push(Effect::Hangup(key));
                    self.left(now, key, &format!("was not ready within {} s", ARM_TIMEOUT.as_secs()));
                }
            }
            Phase::Running(current) if current.deadline.is_some_and(|deadline| now.mono >= deadline) => {
                for (_, part) in &mut current.parts {
                    part.lose(&format!("did not report within {} s of being stopped", CUT_TIMEOUT.as_secs()));
                }
                self.maybe_complete(now);
            }
            Phase::Cooling { until } if now.mono >= *until => self.next_batch(now),
            _ => {}
        }
    }

    fn interrupt(&mut self, now: Now) {
        if std::mem::replace(&mut self.interrupted, true) {
            return;
        }
        self.tell(RunEvent::Interrupted);
        match &self.phase {
            Phase::Preparing(_) | Phase::Running(_) => {
                self.cut(now, "interrupted");
                self.maybe_complete(now);
            }
            // What is being written is finished first.
            Phase::Storing { .. } | Phase::Over => {}
            Phase::Gathering { .. } | Phase::Probing { .. } | Phase::Cooling { .. } => self.conclude(),
        }
    }

    /// All batches are decided, or no more will be.
    fn conclude(&mut self) {
        let end = End::of_run(&self.setup.plan, &self.results, self.interrupted, self.aborted);
        self.over(end);
    }

    fn over(&mut self, end: End) {
        let keys: Vec<Key> = self.agents.keys().copied().collect();
        for key in keys {
            self.send(key, FromCoordinator::Dismiss(end.reason().to_owned()));
        }
        self.phase = Phase::Over;
        self.effects.push(Effect::Over(end));
    }
}

fn total(current: &Current) -> Counts {
    let mut sum = Counts { planned: current.batch.batch_size, ..Counts::default() };
    for counts in current.counts.values() {
        sum.launched += counts.launched;
        sum.open += counts.open;
        sum.succeeded += counts.succeeded;
        sum.failed += counts.failed;
    }
    sum
}

#[cfg(test)]
mod tests;
