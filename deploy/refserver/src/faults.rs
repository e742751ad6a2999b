//! Faults that the server makes on purpose. The rest of the server asks the [`Injector`] at the named points below, and
//! makes no fault anywhere else.

mod values;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::delay::Delay;

pub(crate) use self::values::seconds;
pub use self::values::{CloseAnswer, ObservationKind, Unready};
use self::values::{positive_seconds, probability};

/// What to do wrong. The default does nothing wrong.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Fault options")]
pub struct Faults {
    /// Extra delay before the WebSocket handshake is answered, in milliseconds
    ///
    /// Every delay is a constant or a distribution, fractions allowed: 20 or constant:20, uniform:LOW,HIGH,
    /// bimodal:LOW,HIGH,SHARE (LOW, but HIGH with probability SHARE), pareto:SCALE,SHAPE,MAX (heavy tail, truncated at
    /// MAX), exponential:MEAN,MAX (truncated too). Timers tick in whole milliseconds: a delay is never cut short, and
    /// kept up to a millisecond too long. --truth tells what became of each.
    #[arg(long, value_name = "MS|DISTRIBUTION", default_value = "0")]
    pub connect_delay: Delay,
    /// Extra delay before every reset is answered, in milliseconds
    #[arg(long, value_name = "MS|DISTRIBUTION", default_value = "0")]
    pub reset_delay: Delay,
    /// Extra delay before every step is answered, in milliseconds (on top of its wait_seconds)
    #[arg(long, value_name = "MS|DISTRIBUTION", default_value = "0")]
    pub step_delay: Delay,
    /// Share of steps that fail in the environment: EXECUTION_ERROR, over HTTP status 500
    #[arg(long, value_name = "P", value_parser = probability, default_value = "0")]
    pub fail_step_rate: f64,
    /// Share of steps at which the connection is reset (TCP RST) instead of answered
    #[arg(long, value_name = "P", value_parser = probability, default_value = "0")]
    pub drop_rate: f64,
    /// Share of steps that are never answered: the session stays open, and keeps its place, until the client goes
    #[arg(long, value_name = "P", value_parser = probability, default_value = "0")]
    pub stall_rate: f64,
    /// Share of sessions whose environment cannot be made: FACTORY_ERROR and close, over HTTP status 500
    #[arg(long, value_name = "P", value_parser = probability, default_value = "0")]
    pub factory_error_rate: f64,
    /// Answer every WebSocket handshake with this HTTP status (200 to 599); from 300 to 399 with location: /elsewhere
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..=599))]
    pub refuse_upgrade: Option<u16>,
    /// Be some other web server: 200 and an HTML page on everything
    #[arg(long)]
    pub not_openenv: bool,
    /// Close with this code after the reply to the first reset (1000 to 4999)
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u16).range(1000..=4999))]
    pub close_code: Option<u16>,
    /// 404 on /reset and /step: only WebSocket sessions, as on a hosted Space
    #[arg(long)]
    pub no_http: bool,
    /// Say done in the reply to the N-th step of an episode; 0 is never
    ///
    /// Each further step of that episode is an EXECUTION_ERROR. A reset begins a new episode. Over HTTP every call has
    /// an episode of its own: 1 says done on each step, more never does.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub done_after: u64,
    /// Add a field "text" of this many bytes to each observation that is an object
    ///
    /// It is never longer than 1 GiB, however much it grows.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub reply_bytes: u64,
    /// Let the field "text" grow by this many bytes with each step of an episode
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub reply_growth_bytes: u64,
    /// What observations look like
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    pub observation: ObservationKind,
    /// Send error frames with odd members: message is null and code is the number 17
    ///
    /// In CAPACITY_REACHED the code stays, and active_sessions is null.
    #[arg(long)]
    pub odd_errors: bool,
    /// Send this many additional header lines of 200 characters each
    ///
    /// They are in the answer to the WebSocket handshake and in the HTTP answers of /reset and /step.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub upgrade_headers: u16,
    /// Be unready for a while: every handshake, /reset and /step is answered with this HTTP status (200 to 599)
    ///
    /// The seconds count from the start of the worker. With RETRY_AFTER there is a header retry-after; from 300 to 399
    /// there is location: /elsewhere.
    #[arg(long, value_name = "STATUS:SECONDS[:RETRY_AFTER]")]
    pub unready: Option<Unready>,
    /// Cut connections that are idle for this many seconds, as a proxy does
    ///
    /// A WebSocket is idle while no data frame goes either way; pings do not count. It is cut without a close frame. A
    /// kept-alive HTTP connection is closed, after 5 seconds at the latest.
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    pub idle_cut: Option<Duration>,
    /// How a session's message {"type":"close"} is answered
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    pub close_answer: CloseAnswer,
    /// Leave the TCP connection open for this many milliseconds after the last word, unless the client closes it first
    ///
    /// The last word is the end of the closing handshake, or an HTTP answer with Connection: close. The session's place
    /// is free before that.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub linger_ms: u64,
    /// Answer 408 and close when the head of a connection's first request is not whole after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    pub header_timeout: Option<Duration>,
    /// Kill the worker process this many seconds after it opened its first WebSocket session
    ///
    /// With several workers the supervisor starts another in its place.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub exit_after: Option<Duration>,
    /// Take no notice of pongs: every session ends with 1011, whatever its client answers
    #[arg(long)]
    pub pong_deaf: bool,
    /// Seed of the shares and delays above; the same seed makes the same choices in the same order in every worker
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// The field "text" of an observation is never longer.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// How a WebSocket handshake is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtUpgrade<'a> {
    /// Accept after this delay.
    Accept(Duration),
    /// Answer this instead.
    Refuse(Rejection<'a>),
}

/// An HTTP answer that refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejection<'a> {
    pub(crate) status: u16,
    /// Value of the header.
    pub(crate) retry_after: Option<&'a str>,
}

impl Rejection<'_> {
    fn status(status: u16) -> Self {
        Self { status, retry_after: None }
    }
}

/// What an observation looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AtObservation {
    pub(crate) kind: ObservationKind,
    /// Length of the additional field "text"; `None` when there is none.
    pub(crate) text_bytes: Option<usize>,
    pub(crate) done: bool,
}

/// How a step ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtStep {
    /// Answer after this delay on top of the step's own.
    Answer(Duration),
    /// Fail in the environment after this delay on top of the step's own.
    Fail(Duration),
    /// Reset the connection at once.
    Drop,
    /// Never answer.
    Stall,
}

/// The streams of random numbers. Each kind of draw has its own, so that no kind shifts another.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Choices,
    ConnectDelays,
    ResetDelays,
    StepDelays,
}

const STREAMS: usize = 4;

/// The faults of one worker with its streams of random numbers.
#[derive(Debug)]
pub(crate) struct Injector {
    faults: Faults,
    started: Instant,
    had_session: AtomicBool,
    /// Numbers drawn so far, by stream.
    drawn: [AtomicU64; STREAMS],
}

impl Injector {
    /// The worker starts now.
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, started: Instant::now(), had_session: AtomicBool::new(false), drawn: Default::default() }
    }

    /// Point: a connection has been accepted. The head of its first request is waited for so long.
    pub(crate) fn at_accept(&self) -> Option<Duration> {
        self.faults.header_timeout
    }

    /// Point: any request has been read. The whole answer is an HTML page when true.
    pub(crate) fn at_request(&self) -> bool {
        self.faults.not_openenv
    }

    /// Point: POST /reset or /step has been read. This is the answer if there is one.
    pub(crate) fn at_http_call(&self, now: Instant) -> Option<Rejection<'_>> {
        self.unready(now).or_else(|| self.faults.no_http.then(|| Rejection::status(404)))
    }

    /// Point: a valid WebSocket handshake has been read.
    pub(crate) fn at_upgrade(&self, now: Instant) -> AtUpgrade<'_> {
        match self.unready(now).or_else(|| self.faults.refuse_upgrade.map(Rejection::status)) {
            Some(rejection) => AtUpgrade::Refuse(rejection),
            None => AtUpgrade::Accept(self.delay(&self.faults.connect_delay, Stream::ConnectDelays)),
        }
    }

    /// Point: a handshake, /reset or /step is answered. So many header lines are added.
    pub(crate) fn at_answer_head(&self) -> u16 {
        self.faults.upgrade_headers
    }

    /// Point: a WebSocket session has been opened. The process ends after this time.
    pub(crate) fn at_session(&self) -> Option<Duration> {
        self.faults.exit_after.filter(|_| !self.had_session.swap(true, Ordering::Relaxed))
    }

    /// Point: an environment is to be made. It cannot be when true.
    pub(crate) fn at_factory(&self) -> bool {
        self.happens(self.faults.factory_error_rate)
    }

    /// Point: a reset is to be answered, after this delay.
    pub(crate) fn at_reset(&self) -> Duration {
        self.delay(&self.faults.reset_delay, Stream::ResetDelays)
    }

    /// Point: a reset has been answered. The session is closed with this code.
    pub(crate) fn after_reset(&self) -> Option<u16> {
        self.faults.close_code
    }

    /// Point: a valid step has been received, after `steps` others of its episode. The episode is over when true.
    pub(crate) fn before_step(&self, steps: u64) -> bool {
        self.faults.done_after != 0 && steps >= self.faults.done_after
    }

    /// Point: a valid step has been received, and its episode goes on.
    pub(crate) fn at_step(&self) -> AtStep {
        if self.happens(self.faults.drop_rate) {
            AtStep::Drop
        } else if self.happens(self.faults.stall_rate) {
            AtStep::Stall
        } else if self.happens(self.faults.fail_step_rate) {
            AtStep::Fail(self.delay(&self.faults.step_delay, Stream::StepDelays))
        } else {
            AtStep::Answer(self.delay(&self.faults.step_delay, Stream::StepDelays))
        }
    }

    /// Point: an observation is written, after `steps` steps of its episode.
    pub(crate) fn at_observation(&self, steps: u64) -> AtObservation {
        let Faults { observation, reply_bytes, reply_growth_bytes, done_after, .. } = &self.faults;
        let has_text = *reply_bytes > 0 || *reply_growth_bytes > 0;
        let text_bytes = reply_bytes.saturating_add(reply_growth_bytes.saturating_mul(steps)).min(TEXT_BYTES_MAX);
        AtObservation {
            kind: *observation,
            text_bytes: usize::try_from(text_bytes).ok().filter(|_| has_text),
            done: *done_after != 0 && steps == *done_after,
        }
    }

    /// Point: an error frame is written. Its members are odd when true.
    pub(crate) fn at_error(&self) -> bool {
        self.faults.odd_errors
    }

    /// Point: a pong has come. No notice is taken of it when true.
    pub(crate) fn at_pong(&self) -> bool {
        self.faults.pong_deaf
    }

    /// Point: data went over a connection. It is cut when no more follows within this time.
    pub(crate) fn after_data(&self) -> Option<Duration> {
        self.faults.idle_cut
    }

    /// Point: a session's close message has been received.
    pub(crate) fn at_close(&self) -> CloseAnswer {
        self.faults.close_answer
    }

    /// Point: the last word of a connection has been said. It stays open for so long.
    pub(crate) fn after_last_word(&self) -> Option<Duration> {
        (self.faults.linger_ms > 0).then(|| Duration::from_millis(self.faults.linger_ms))
    }

    fn unready(&self, now: Instant) -> Option<Rejection<'_>> {
        let unready = self.faults.unready.as_ref()?;
        let is_over = now.saturating_duration_since(self.started) >= unready.duration;
        (!is_over).then_some(Rejection { status: unready.status, retry_after: unready.retry_after.as_deref() })
    }

    /// A fault that is off draws no number, so that it does not change the choices of the others.
    fn happens(&self, probability: f64) -> bool {
        probability > 0.0 && self.draw(Stream::Choices) < probability
    }

    fn delay(&self, delay: &Delay, stream: Stream) -> Duration {
        delay.sample(if delay.is_constant() { 0.0 } else { self.draw(stream) })
    }

    /// The next number of `stream`, uniform in [0, 1).
    fn draw(&self, stream: Stream) -> f64 {
        let index = self.drawn[stream as usize].fetch_add(1, Ordering::Relaxed);
        unit(self.faults.seed, stream as u64, index)
    }
}

/// The `index`th number of a stream of `seed`, uniform in [0, 1): SplitMix64's finalizer over a counter.
pub(crate) fn unit(seed: u64, stream: u64, index: u64) -> f64 {
    const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
    // Seed and stream are mixed first, so that no stream is a later part of another one.
    let start = mix(seed ^ mix(stream));
    let bits = mix(start.wrapping_add(index.wrapping_mul(GOLDEN_GAMMA)));
    // 53 bits fill a float's mantissa exactly.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
