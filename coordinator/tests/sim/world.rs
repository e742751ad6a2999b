//! A run in a simulated network.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::control::agent_loop::{self as agent_service, Settings};
use agent::control::clock::Clock;
use agent::control::heartbeat::Executor;
use agent::control::link::{ByteStream, Connector, Link, Security};
use agent::control::probe::Prober;
use agent::drivers::fake::{Act, FakeDriver};
use agent::host::capacity::CapacityOptions;
use agent::load::armed::Measured;
use agent::load::armed::{ArmedLoad, LoadFactory, LoadFuture};
use agent::load::engine::{self, ThreadShare};
use agent::load::pace::Pace;
use agent::load::recorder::Counters;
use agent::net::resolver::TargetResolver;
use coordinator::net::listener::AcceptedPeer;
use coordinator::net::rpc::{LastHeard, serve};
use coordinator::plan::Plan;
use coordinator::plan::check::plan_of;
use coordinator::report::tables::final_tables;
use coordinator::results::attempt::FinishedAttempt;
use coordinator::results::cells::CellHistograms;
use coordinator::results::history::History;
use coordinator::results::metadata::{RunMetadata, RunState};
use coordinator::run::event_loop::{self, Frame, Outside};
use coordinator::run::events::RunEvent;
use coordinator::run::machine::Setup;
use coordinator::run::sink::ResultSink;
use jiff::Timestamp;
use proto::message::{Hello, ProbeResult};
use proto::{Assignment, Capacity, FailureKind, Phase, RunId, SessionRecord, Vitals};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use turmoil::net::{TcpListener, TcpStream};

const PORT: u16 = 50_051;
pub(crate) const COORDINATOR: &str = "coordinator";
pub(crate) const AGENTS: [&str; 3] = ["n0", "n1", "n2"];

const PLAN: &str = r#"
[target]
urls = ["http://target:1"]
[grid]
batch_sizes = [7, 20]
wait_seconds = [1.0]
repetitions = 2
warmup = false
[agents]
count = 3
lease_seconds = 3.0
ready_timeout_seconds = 60.0
max_attempts = 50
[measure]
wire = false
max_clock_error_ms = 60000
"#;

/// The outcome of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Came {
    pub(crate) code: u8,
    /// The final table, byte for byte as a user sees it.
    pub(crate) table: String,
    /// For each session of accepted attempts: its number, its outcome, and the time of each phase.
    pub(crate) rows: Vec<String>,
}

/// A run's outcome, and what led to it.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) came: Came,
    /// For each refused attempt: its batch, and the number of lost sessions.
    pub(crate) refused: Vec<(u32, u64)>,
    pub(crate) told: Vec<String>,
}

/// Runs the plan; `trouble` is called at every millisecond with the simulation and the time.
pub(crate) fn run(seed: u64, trouble: impl FnMut(&mut turmoil::Sim<'_>, Duration)) -> Report {
    let kept = Kept::default();
    let (code, table, told) = play(seed, PLAN, kept.clone(), trouble);
    let attempts = kept.0.lock().expect("lock");
    let rows =
        attempts.iter().filter(|f| f.summary.accepted).flat_map(|f| f.rows.iter().map(|row| line(f, &row.record)));
    let refused =
        attempts.iter().filter(|f| !f.summary.accepted).map(|f| (f.id.batch, f.summary.ledger.lost)).collect();
    for finished in attempts.iter() {
        assert!(finished.summary.ledger.balances(), "seed {seed}: {}", finished.summary.ledger);
    }
    Report { came: Came { code, table, rows: rows.collect() }, refused, told }
}

/// Runs any plan, with its results in `store`. Returns the exit code, the final table, and the events.
pub(crate) fn play<K: ResultSink + Clone>(
    seed: u64,
    plan: &'static str,
    store: K,
    mut trouble: impl FnMut(&mut turmoil::Sim<'_>, Duration),
) -> (u8, String, Vec<String>) {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(600))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_millis(0))
        .max_message_latency(Duration::from_millis(2))
        .tcp_capacity(4_096)
        .build();
    let came: Arc<Mutex<Option<(u8, String)>>> = Arc::default();
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    for (n, name) in AGENTS.into_iter().enumerate() {
        // Each start gets a new instance id, as a new process does.
        let lives = Arc::new(Mutex::new(0_u8));
        sim.host(name, move || {
            let life = {
                let mut lives = lives.lock().expect("lock");
                *lives += 1;
                *lives
            };
            agent(name, u8::try_from(n).expect("few"), life)
        });
    }
    {
        let (came, told) = (came.clone(), told.clone());
        sim.client(COORDINATOR, async move {
            let plan = plan_of(plan).expect("plan");
            *came.lock().expect("lock") = Some(coordinate(plan, store, told).await?);
            Ok(())
        });
    }
    loop {
        let now = sim.elapsed();
        trouble(&mut sim, now);
        match sim.step() {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => panic!("seed {seed}: {error}; told: {:#?}", told.lock().expect("lock")),
        }
    }
    let (code, table) = came.lock().expect("lock").take().expect("the run has ended");
    let told = told.lock().expect("lock").clone();
    (code, table, told)
}

fn line(finished: &FinishedAttempt, r: &SessionRecord) -> String {
    let (batch, us) = (finished.id.batch, |us: Option<u64>| us.map_or("-".to_owned(), |us| us.to_string()));
    format!(
        "{batch} {} {} {:?} {} {} {:?} {} {}",
        r.session,
        r.outcome.as_str(),
        r.outcome.error_type(),
        us(r.connect_us),
        us(r.reset_us),
        r.step_us,
        us(r.close_us),
        us(r.total_us)
    )
}

// ---- the coordinator ----

async fn coordinate<K: ResultSink>(plan: Plan, store: K, told: Arc<Mutex<Vec<String>>>) -> io::Result<(u8, String)> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    let (admit, admitted) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            if admit.send(io::Result::Ok(AcceptedPeer::uncounted(stream, from))).await.is_err() {
                return;
            }
        }
    });
    let (incoming_tx, incoming) = mpsc::channel(256);
    let last_heard = LastHeard::default();
    let server = serve(ReceiverStream::new(admitted), incoming_tx, last_heard.clone());
    let (_outside_tx, outside) = mpsc::channel::<Outside>(1);
    let urls = plan.target.urls.clone();
    let run = RunId(uuid::Uuid::nil());
    let setup = Setup { plan: Arc::new(plan.clone()), run, urls, ca_pem: Vec::new(), history: History::default() };
    let frame = Frame {
        store,
        metadata: RunMetadata { started: wall(), ..RunMetadata::default() },
        incoming,
        last_heard,
        outside,
        enforce: false,
        cells: CellHistograms::default(),
        wall,
    };
    let outcome = event_loop::run(setup, frame, |event| {
        if !matches!(event, RunEvent::Progress(_)) {
            told.lock().expect("lock").push(format!("{event:?}").chars().take(200).collect());
        }
    })
    .await;
    server.abort();
    let code = outcome.end.code(false);
    let failure = outcome.end.failure.map(|failure| failure.to_string()).unwrap_or_default();
    Ok((code, failure + &final_tables(&plan, &outcome.results, &outcome.cells)))
}

/// The simulated time of day, which begins at the same time in every simulation.
pub(crate) fn wall() -> Timestamp {
    let began = Timestamp::from_second(1_800_000_000).expect("a time");
    began + turmoil::sim_elapsed().unwrap_or_default()
}

/// Keeps attempts in memory.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<FinishedAttempt>>>);

impl ResultSink for Kept {
    const BLOCKS: bool = false;

    fn put(&mut self, finished: &FinishedAttempt) -> io::Result<()> {
        self.0.lock().expect("lock").push(finished.clone());
        Ok(())
    }

    fn put_run(&self, _run: &RunState<'_>) -> io::Result<()> {
        Ok(())
    }

    fn place(&self) -> String {
        String::new()
    }
}

// ---- an agent ----

async fn agent(name: &'static str, number: u8, life: u8) -> turmoil::Result {
    let mut instance = [0; 16];
    (instance[0], instance[1]) = (number, life);
    let hello = Hello {
        protocol: proto::PROTOCOL,
        version: proto::VERSION.to_owned(),
        name: name.to_owned(),
        host: name.to_owned(),
        pid: 1,
        instance,
        plan_hash: None,
        capacity: Capacity {
            threads: 1,
            descriptors: 1_000,
            ports: 1_000,
            port_pool: name.to_owned(),
            ..Capacity::default()
        },
        holding: None,
    };
    let clock = Clock::default();
    let settings = Settings {
        hello,
        resolver: TargetResolver::default(),
        capacity_options: CapacityOptions::default(),
        clock,
        load_factory: loader(),
        prober: Prober::new(|probe, _, _| {
            let (tell, told) = mpsc::channel(1);
            let results = probe.target.urls.iter().flat_map(|url| probe.modes.iter().map(move |mode| (url, mode)));
            let results = results.map(|(url, mode)| ProbeResult {
                url: url.clone(),
                mode: *mode,
                ready: true,
                last_word: true,
                problem: String::new(),
                addresses: vec!["10.0.0.1:1".to_owned()],
                served_by: Vec::new(),
                refused_connects: 0,
            });
            tell.try_send(results.collect()).expect("room for one");
            told
        }),
        heartbeat: Executor::Task,
        // Two or three records per message, so that faults hit the middle of uploads.
        chunk_bytes: 500,
    };
    let connector = Connector::over(format!("{COORDINATOR}:{PORT}"), Security::Plaintext, |address| {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn ByteStream>) })
    });
    let link = Link::new(connector, Duration::from_secs(300), clock);
    agent_service::serve(settings, link, CancellationToken::new()).await;
    Ok(())
}

/// A share for the task that may hold values that are not `Send`.
struct Job {
    assignment: Assignment,
    go: oneshot::Receiver<Instant>,
    done: oneshot::Sender<Measured>,
    cancel: CancellationToken,
    counters: Arc<Counters>,
}

struct Armed {
    go: oneshot::Sender<Instant>,
    done: oneshot::Receiver<Measured>,
    cancel: CancellationToken,
    counters: Arc<Counters>,
}

impl ArmedLoad for Armed {
    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn canceller(&self) -> CancellationToken {
        self.cancel.clone()
    }

    fn finish(self: Box<Self>, start: Instant) -> LoadFuture<Measured> {
        let Self { go, done, .. } = *self;
        Box::pin(async move {
            go.send(start).map_err(|_| "the share is gone".to_owned())?;
            done.await.map_err(|_| "the share died".to_owned())
        })
    }
}

/// The real load loop, with a driver that needs no server.
fn loader() -> LoadFactory {
    let (jobs, mut todo) = mpsc::unbounded_channel::<Job>();
    tokio::task::spawn_local(async move {
        while let Some(job) = todo.recv().await {
            tokio::task::spawn_local(carry(job));
        }
    });
    LoadFactory::new(move |assignment, _, _| {
        let jobs = jobs.clone();
        Box::pin(async move {
            let (go, gone) = oneshot::channel();
            let (finished, done) = oneshot::channel();
            let (cancel, counters) = (CancellationToken::new(), Arc::<Counters>::default());
            let job = Job { assignment, go: gone, done: finished, cancel: cancel.clone(), counters: counters.clone() };
            jobs.send(job).map_err(|_| "no carrier".to_owned())?;
            Ok(Box::new(Armed { go, done, cancel, counters }) as Box<dyn ArmedLoad>)
        })
    })
}

async fn carry(job: Job) {
    let Ok(start) = job.go.await else { return };
    let a = &job.assignment;
    let share = ThreadShare {
        thread: 0,
        threads: 1,
        first_session: a.first_session,
        sessions: a.sessions,
        schedule: Pace::of(a).schedule(0, 1),
        script: a.script.clone(),
        bounds: a.bounds,
        kernel_timestamps: false,
        in_flight_max: a.in_flight_max,
    };
    let driver = Rc::new(FakeDriver::new(act));
    let mut recorder = engine::run(driver, &share, start, &job.cancel, &job.counters).await;
    recorder.records.sort_unstable_by_key(|record| record.session);
    let first = recorder.records.iter().filter(|r| r.started_us.is_some()).min_by_key(|r| r.started_us);
    let start_offset_us = first.and_then(SessionRecord::launch_lag_us).unwrap_or(0);
    // The receiver may be gone.
    let _ = job.done.send(Measured {
        ledger: recorder.ledger,
        histograms: recorder.histograms,
        records: recorder.records,
        start_offset_us,
        vitals: Vitals { threads: 1, ..Vitals::default() },
    });
}

/// The time of a phase depends on the session only; one session in seven fails.
fn act(session: u64, phase: Phase) -> Act {
    let takes = Duration::from_millis(5 + session * 13 % 40);
    match phase {
        Phase::Reset if session % 7 == 3 => Act::Fail(takes, FailureKind::CapacityReached),
        _ => Act::Take(takes),
    }
}

/// The number of events of each kind.
pub(crate) fn counted(told: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in told {
        *counts.entry(line.split([' ', '(']).next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}
