//! Any data gives a figure: nothing panics, and `check` holds.

use crate::results::timeline::AgentTimeline;
use proptest::prelude::*;

use super::*;

fn any_share() -> impl Strategy<Value = f64> {
    prop_oneof![6 => 0.0..=1.0, 1 => Just(f64::NAN), 1 => -1e9..1e9, 1 => Just(f64::INFINITY), 2 => Just(1.0)]
}

fn any_us() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 4 => 0..2_000_000_u64, 2 => 0..=HOUR_US, 1 => any::<u64>()]
}

fn any_amount() -> impl Strategy<Value = f64> {
    prop_oneof![4 => 0.0..1e7, 1 => any::<f64>(), 1 => Just(f64::NAN), 1 => Just(f64::INFINITY), 1 => Just(0.0)]
}

fn any_label() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-e0-9 ,-]{0,60}", 1 => any::<String>(), 1 => Just(ODD_NAME.to_owned())]
}

fn any_source() -> impl Strategy<Value = Source> {
    prop_oneof![Just(Source::Here), Just(Source::Published)]
}

fn few<S: Strategy>(of: S) -> impl Strategy<Value = Vec<S::Value>> {
    prop::collection::vec(of, 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_scaling_is_a_figure(
        lines in few((any_label(), any_source(), few((any_us(), any_share(), any_share(), any_share())))),
        rate in any_share(),
        remark in any_label(),
    ) {
        let point = |(batch_size, success, low, high)| ScalingPoint { batch_size, success, low, high };
        let line = |(label, source, points): (_, _, Vec<_>)| {
            ScalingLine { label, source, points: points.into_iter().map(point).collect() }
        };
        check(&scaling(&lines.into_iter().map(line).collect::<Vec<_>>(), rate, &remark));
    }

    #[test]
    fn any_bars_are_a_figure(
        bars in few((any_label(), any_source(), prop::option::of(any_amount()), any::<bool>())),
        rate in any_share(),
    ) {
        let bar = |(label, source, value, at_least)| Bar { label, source, value, at_least };
        let bars: Vec<Bar> = bars.into_iter().map(bar).collect();
        check(&max_batch(&bars, rate));
        check(&batch_per_core(&bars));
    }

    #[test]
    fn any_heatmap_is_a_figure(
        panels in few((
            any_label(),
            few((any_us(), any_us(), prop::option::of(any_us()), any::<bool>(), any::<bool>())),
        )),
    ) {
        let cell = |(batch_size, wait_us, p99_us, met, skipped)| HeatCell { batch_size, wait_us, p99_us, met, skipped };
        let panel =
            |(label, cells): (_, Vec<_>)| Heatmap { label, cells: cells.into_iter().map(cell).collect() };
        check(&p99_heatmap(&panels.into_iter().map(panel).collect::<Vec<_>>()));
    }

    #[test]
    fn any_spectrum_is_a_figure(
        batch in any_label(),
        lines in prop::collection::vec(
            (any_label(), any::<bool>(), few((any_share(), any_us())), prop::option::of(any_share())),
            0..40,
        ),
    ) {
        let line = |(label, late, points, censored_above)| {
            let kind = if late { Latency::Response } else { Latency::Service };
            SpectrumLine { label, kind, points, censored_above }
        };
        check(&spectrum(&batch, &lines.into_iter().map(line).collect::<Vec<_>>()));
    }

    #[test]
    fn any_phases_are_a_figure(bars in few((any_label(), prop::array::uniform5(any_amount())))) {
        let bar = |(label, [connect_us, reset_us, wait_us, step_us, close_us]): (String, [f64; 5])| {
            PhaseBar { label, connect_us, reset_us, wait_us, step_us, close_us }
        };
        check(&phases(&bars.into_iter().map(bar).collect::<Vec<_>>()));
    }

    #[test]
    fn any_timeline_is_a_figure(
        name in any_label(),
        bin_us in any_us(),
        agents in few((any_label(), few(any_us()), few(any_us()), few(any_us()))),
    ) {
        let agent = |(agent, open, completed, failed)| AgentTimeline { agent, open, completed, failed };
        let agents = agents.into_iter().map(agent).collect();
        check(&timeline(&Timeline { batch: name.clone(), name, bin_us, agents }));
    }

    #[test]
    fn any_launch_is_a_figure(
        name in any_label(),
        agents in few((any_label(), any_us(), prop::array::uniform3(prop::option::of(any_us())))),
        start_skew_us in prop::option::of(any_us()),
        launch_window_us in any_us(),
    ) {
        type Known = [Option<u64>; 3];
        let agent = |(agent, sessions, [start_offset_us, clock_error_us, launch_lag_p99_us]): (_, _, Known)| {
            AgentLaunch { agent, sessions, start_offset_us, clock_error_us, launch_lag_p99_us }
        };
        let agents = agents.into_iter().map(agent).collect();
        check(&launch(&Launch { batch: name.clone(), name, agents, start_skew_us, launch_window_us }));
    }
}
