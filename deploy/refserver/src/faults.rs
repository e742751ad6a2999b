//! Odd behaviour on purpose. [`Faults`] is data; the rest of the server asks it at the named points below and nowhere
//! else decides to misbehave.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::delay::Delay;

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
    /// Answer every WebSocket handshake with this HTTP status (200 to 599)
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
    /// Seed of the shares and delays above; the same seed makes the same choices in the same order in every worker
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0 to 1".into()),
    }
}

/// How a WebSocket handshake is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtUpgrade {
    /// Accept after this delay.
    Accept(Duration),
    /// Answer with this HTTP status instead.
    Refuse(u16),
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

/// The streams of random numbers. Each kind of draw has its own, so that none shifts another.
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
    /// Numbers drawn so far, by stream.
    drawn: [AtomicU64; STREAMS],
}

impl Injector {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, drawn: Default::default() }
    }

    /// Point: any request has been read. The whole answer is an HTML page when true.
    pub(crate) fn at_request(&self) -> bool {
        self.faults.not_openenv
    }

    /// Point: POST /reset or /step has been read. Not found when true.
    pub(crate) fn at_http_call(&self) -> bool {
        self.faults.no_http
    }

    /// Point: a valid WebSocket handshake has been read.
    pub(crate) fn at_upgrade(&self) -> AtUpgrade {
        match self.faults.refuse_upgrade {
            Some(status) => AtUpgrade::Refuse(status),
            None => AtUpgrade::Accept(self.delay(&self.faults.connect_delay, Stream::ConnectDelays)),
        }
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

    /// Point: a valid step has been received.
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

    /// Choices never made draw nothing, so one fault's choices do not depend on another being switched off.
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
    // Mixed by themselves, so that no stream is another one further on.
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
mod tests {
    use super::*;

    fn steps(faults: &Faults, count: usize) -> Vec<AtStep> {
        let injector = Injector::new(faults.clone());
        (0..count).map(|_| injector.at_step()).collect()
    }

    #[test]
    fn the_default_does_nothing_wrong() {
        let injector = Injector::new(Faults::default());
        assert!(!injector.at_request() && !injector.at_http_call() && !injector.at_factory());
        assert_eq!(injector.at_upgrade(), AtUpgrade::Accept(Duration::ZERO));
        assert_eq!(injector.at_reset(), Duration::ZERO);
        assert_eq!(injector.at_step(), AtStep::Answer(Duration::ZERO));
        assert_eq!(injector.after_reset(), None);
    }

    #[test]
    fn a_seed_repeats_its_choices_and_keeps_its_share() {
        let faults = Faults { fail_step_rate: 0.25, seed: 9, ..Faults::default() };
        let first = steps(&faults, 4000);
        assert_eq!(first, steps(&faults, 4000));
        assert_ne!(first, steps(&Faults { seed: 10, ..faults }, 4000));
        let failed = first.iter().filter(|step| matches!(step, AtStep::Fail(_))).count();
        // Four standard deviations of a binomial(4000, 1/4) around 1000.
        assert!((890..=1110).contains(&failed), "{failed}");
    }

    #[test]
    fn certain_faults_always_happen() {
        let always = Faults { drop_rate: 1.0, ..Faults::default() };
        assert!(steps(&always, 100).iter().all(|step| *step == AtStep::Drop));
        let always = Faults { stall_rate: 1.0, ..Faults::default() };
        assert!(steps(&always, 100).iter().all(|step| *step == AtStep::Stall));
    }

    #[test]
    fn delays_repeat_with_their_seed_and_do_not_shift_each_other() {
        let spread: Delay = "uniform:10,90".parse().unwrap();
        let delays = Faults { connect_delay: spread, reset_delay: spread, step_delay: spread, ..Faults::default() };
        let alone = steps(&delays, 50);
        assert_eq!(alone, steps(&delays, 50));
        assert_ne!(alone, steps(&Faults { seed: 1, ..delays.clone() }, 50));

        let injector = Injector::new(delays.clone());
        let mixed: Vec<AtStep> = (0..50)
            .map(|_| {
                let AtUpgrade::Accept(connect) = injector.at_upgrade() else { panic!("nothing is refused") };
                let (reset, step) = (injector.at_reset(), injector.at_step());
                assert!(AtStep::Answer(connect) != step && AtStep::Answer(reset) != step && connect != reset);
                step
            })
            .collect();
        assert_eq!(alone, mixed);

        // Nor do choices shift delays: a failed step has the delay that it would have had.
        let failing = steps(&Faults { fail_step_rate: 0.5, ..delays }, 50);
        let delay = |step: &AtStep| match step {
            AtStep::Answer(delay) | AtStep::Fail(delay) => *delay,
            AtStep::Drop | AtStep::Stall => panic!("not asked for"),
        };
        assert!(failing.iter().map(delay).eq(alone.iter().map(delay)));
    }

    #[test]
    fn shares_outside_zero_to_one_are_refused() {
        for text in ["-0.1", "1.1", "nan", "x"] {
            assert!(probability(text).is_err(), "{text}");
        }
    }
}
