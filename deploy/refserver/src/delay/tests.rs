use proptest::prelude::*;

use super::*;
use crate::faults::unit;

const SAMPLES: usize = 4096;

/// By the Dvoretzky-Kiefer-Wolfowitz inequality, 4096 draws of a distribution are farther from it than this with
/// probability 2 exp(-2 * 4096 * 0.0525^2) < 4e-10.
const DISTANCE_MAX: f64 = 0.0525;

fn delay(text: &str) -> Delay {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn ms(delay: Duration) -> f64 {
    delay.as_secs_f64() * 1e3
}

/// The probability of at most `x` ms, written from the definitions and not from their inverses.
fn probability_up_to(shape: Shape, x: f64) -> f64 {
    match shape {
        Shape::Constant(delay) => f64::from(u8::from(x >= ms(delay))),
        Shape::Uniform { low, high } => ((x - low) / (high - low)).clamp(0.0, 1.0),
        Shape::Bimodal { low, high, share } if x < high => f64::from(u8::from(x >= low)) * (1.0 - share),
        Shape::Bimodal { .. } => 1.0,
        Shape::Pareto { scale, shape, max } => {
            let untruncated = |x: f64| 1.0 - (scale / x).powf(shape);
            if x < scale { 0.0 } else { (untruncated(x) / untruncated(max)).min(1.0) }
        }
        Shape::Exponential { mean, max } => {
            let untruncated = |x: f64| 1.0 - (-x / mean).exp();
            (untruncated(x) / untruncated(max)).clamp(0.0, 1.0)
        }
    }
}

/// Distributions that are spread over at least a microsecond, so that a sample's nanoseconds resolve them.
fn spread() -> impl Strategy<Value = Shape> {
    prop_oneof![
        (0.0..100.0, 0.01..1000.0).prop_map(|(low, width)| Shape::Uniform { low, high: low + width }),
        (0.5..100.0, 0.2..4.0, 1.5..1000.0).prop_map(|(scale, shape, ratio)| Shape::Pareto {
            scale,
            shape,
            max: scale * ratio
        }),
        (0.5..1000.0, 0.1..50.0).prop_map(|(mean, ratio)| Shape::Exponential { mean, max: mean * ratio }),
    ]
}

fn any_shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        (0..86_400_000_000_000_u64).prop_map(|ns| Shape::Constant(Duration::from_nanos(ns))),
        (0.0..1000.0, 0.0..1000.0, 0.0..=1.0).prop_map(|(low, width, share)| Shape::Bimodal {
            low,
            high: low + width,
            share
        }),
        spread(),
    ]
}

fn bounds(shape: Shape) -> (f64, f64) {
    match shape {
        Shape::Constant(delay) => (ms(delay), ms(delay)),
        Shape::Uniform { low, high } | Shape::Bimodal { low, high, .. } => (low, high),
        Shape::Pareto { scale, max, .. } => (scale, max),
        Shape::Exponential { max, .. } => (0.0, max),
    }
}

proptest! {
    #[test]
    fn quantiles_of_samples_are_those_of_the_distribution(shape in spread(), seed: u64) {
        let mut samples: Vec<f64> =
            (0..SAMPLES).map(|index| ms(Delay(shape).sample(unit(seed, 0, index as u64)))).collect();
        samples.sort_by(f64::total_cmp);
        for (rank, sample) in samples.iter().enumerate() {
            let empirical = (rank as f64 + 0.5) / SAMPLES as f64;
            let analytic = probability_up_to(shape, *sample);
            prop_assert!((empirical - analytic).abs() < DISTANCE_MAX, "{sample} ms: {empirical} is not {analytic}");
        }
    }

    #[test]
    fn two_modes_have_their_shares(low in 0.0..10.0, share in 0.0..=1.0, seed: u64) {
        let delay = Delay(Shape::Bimodal { low, high: low + 5.0, share });
        let high = (0..SAMPLES).filter(|index| ms(delay.sample(unit(seed, 0, *index as u64))) > low + 2.5).count();
        prop_assert!((high as f64 / SAMPLES as f64 - share).abs() < DISTANCE_MAX);
    }

    #[test]
    fn samples_stay_within_their_bounds_and_grow_with_the_draw(shape in any_shape(), a in 0.0..1.0, b in 0.0..1.0) {
        let (low, high) = bounds(shape);
        let first = Delay(shape).sample(f64::min(a, b));
        let second = Delay(shape).sample(f64::max(a, b));
        prop_assert!(first <= second);
        // A sample is a whole number of nanoseconds.
        prop_assert!(low - 1e-6 <= ms(first) && ms(second) <= high + 1e-6);
    }

    #[test]
    fn what_is_written_is_read_again(shape in any_shape()) {
        prop_assert_eq!(delay(&Delay(shape).to_string()), Delay(shape));
    }

    #[test]
    fn no_text_is_a_panic(text in "[a-z]{0,8}:?[-0-9.,e ]{0,12}") {
        if let Ok(delay) = text.parse::<Delay>() {
            let _ = delay.sample(0.5);
        }
    }
}

#[test]
fn forms_mean_what_they_say() {
    for (text, unit, expected_ms) in [
        ("20", 0.7, 20.0),
        ("0.5", 0.0, 0.5),
        ("constant:20", 0.999, 20.0),
        ("uniform:10,30", 0.25, 15.0),
        ("uniform:10,10", 0.25, 10.0),
        ("bimodal:1,100,0.1", 0.89, 1.0),
        ("bimodal:1,100,0.1", 0.91, 100.0),
        ("bimodal:1,100,0", 0.999_999, 1.0),
        ("bimodal:1,100,1", 0.0, 100.0),
        // Half of what is below MAX: 1 - 10/x = (1 - 10/20) / 2.
        ("pareto:10,1,20", 0.5, 40.0 / 3.0),
        ("pareto:10,1,20", 0.0, 10.0),
        // MAX is so far off that it takes nothing away: the median of an exponential.
        ("exponential:10,10000", 0.5, 10.0 * std::f64::consts::LN_2),
    ] {
        let sampled = ms(delay(text).sample(unit));
        assert!((sampled - expected_ms).abs() < 2e-6, "{text} at {unit}: {sampled}");
    }
    assert_eq!(delay("0"), Delay::default());
    assert_eq!(delay("0.25"), Duration::from_micros(250).into());
}

#[test]
fn faults_are_named_with_what_mends_them() {
    for (text, fault) in [
        ("", "\"\" is not a number of milliseconds"),
        ("soon", "\"soon\" is not a number"),
        ("nan", "\"nan\" is not a number"),
        ("-1", "MS is -1 ms; a delay is from 0 to 86400000"),
        ("1e12", "a day"),
        ("normal:3,1", "no distribution is called \"normal\"; expected MS, constant:MS, uniform:LOW,HIGH"),
        ("uniform:3", "uniform does not take 1 numbers"),
        ("uniform:3,x", "\"x\" is not a number"),
        ("uniform:3,2", "LOW (3) is above HIGH (2); swap them"),
        ("bimodal:1,2,1.5", "SHARE is 1.5; it is the probability of HIGH, from 0 to 1"),
        ("pareto:0,1,10", "SCALE is 0; it must be above 0"),
        ("pareto:1,-1,10", "SHAPE is -1; it must be above 0"),
        ("pareto:20,1,10", "SCALE (20) is above MAX (10); swap them"),
        ("exponential:0,10", "MEAN is 0; it must be above 0"),
        ("exponential:1,-10", "MAX is -10 ms"),
    ] {
        let error = text.parse::<Delay>().expect_err(text);
        assert!(error.contains(fault), "{text}: {error}");
    }
}
