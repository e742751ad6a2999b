//! Odd behaviour on purpose. [`Faults`] is data; the rest of the server asks it at the named points below and nowhere
//! else decides to misbehave.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What to do wrong. The default does nothing wrong.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Fault options")]
pub struct Faults {
    /// Extra delay before the WebSocket handshake is answered, in milliseconds
    #[arg(long, value_name = "MS", value_parser = milliseconds, default_value = "0")]
    pub connect_delay: Duration,
    /// Extra delay before every reset is answered, in milliseconds
    #[arg(long, value_name = "MS", value_parser = milliseconds, default_value = "0")]
    pub reset_delay: Duration,
    /// Extra delay before every step is answered, in milliseconds (on top of its wait_seconds)
    #[arg(long, value_name = "MS", value_parser = milliseconds, default_value = "0")]
    pub step_delay: Duration,
    /// Share of steps that fail in the environment: EXECUTION_ERROR, over HTTP status 500
    #[arg(long, value_name = "P", value_parser = probability, default_value = "0")]
    pub fail_step_rate: f64,
    /// Share of steps at which the connection is reset (TCP RST) instead of answered
    #[arg(long, value_name = "P", value_parser = probability, default_value = "0")]
    pub drop_rate: f64,
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
    /// Seed of the shares above; the same seed makes the same choices in the same order in every worker
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds: u32 = text.parse().map_err(|_| "expected whole milliseconds")?;
    Ok(Duration::from_millis(milliseconds.into()))
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
}

/// The faults of one worker with its stream of random choices.
#[derive(Debug)]
pub(crate) struct Injector {
    faults: Faults,
    choices: AtomicU64,
}

impl Injector {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, choices: AtomicU64::new(0) }
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
            None => AtUpgrade::Accept(self.faults.connect_delay),
        }
    }

    /// Point: an environment is to be made. It cannot be when true.
    pub(crate) fn at_factory(&self) -> bool {
        self.happens(self.faults.factory_error_rate)
    }

    /// Point: a reset is to be answered, after this delay.
    pub(crate) fn at_reset(&self) -> Duration {
        self.faults.reset_delay
    }

    /// Point: a reset has been answered. The session is closed with this code.
    pub(crate) fn after_reset(&self) -> Option<u16> {
        self.faults.close_code
    }

    /// Point: a valid step has been received.
    pub(crate) fn at_step(&self) -> AtStep {
        if self.happens(self.faults.drop_rate) {
            AtStep::Drop
        } else if self.happens(self.faults.fail_step_rate) {
            AtStep::Fail(self.faults.step_delay)
        } else {
            AtStep::Answer(self.faults.step_delay)
        }
    }

    /// Choices never made draw nothing, so one fault's choices do not depend on another being switched off.
    fn happens(&self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        let index = self.choices.fetch_add(1, Ordering::Relaxed);
        unit(self.faults.seed, index) < probability
    }
}

/// The `index`th number of the stream `seed`, uniform in [0, 1): SplitMix64's finalizer over a counter.
fn unit(seed: u64, index: u64) -> f64 {
    let mut bits = mix(seed).wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = mix(bits);
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
    }

    #[test]
    fn shares_outside_zero_to_one_are_refused() {
        for text in ["-0.1", "1.1", "nan", "x"] {
            assert!(probability(text).is_err(), "{text}");
        }
        assert!(milliseconds("1.5").is_err());
    }
}
