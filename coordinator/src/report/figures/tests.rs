//! Properties that every figure has, whatever its data.

use std::collections::BTreeSet;

use resvg::tiny_skia::Pixmap;
use resvg::usvg::roxmltree::{Document, Node};

use super::*;
use crate::results::timeline::AgentTimeline;

mod any;

const HOUR_US: u64 = 3_600_000_000;
const ODD_NAME: &str =
    "a <b> & \"c\" \u{1} 中 é — a-very-long-name-of-a-machine.eu-west-1.compute.internal.example.org";

/// One text of a figure, in units of the SVG.
#[derive(Debug)]
struct Text {
    text: String,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

fn number(node: Node<'_, '_>, attribute: &str) -> f64 {
    let text = node.attribute(attribute).unwrap_or_else(|| panic!("no {attribute} in {node:?}"));
    text.parse().unwrap_or_else(|_| panic!("{attribute} is {text}"))
}

fn texts(document: &Document<'_>) -> Vec<Text> {
    let of = |node: Node<'_, '_>| {
        let text = node.text().unwrap_or_default().trim().to_owned();
        let (x, size) = (number(node, "x"), number(node, "font-size"));
        let width = font::width(&text, size);
        let left = match node.attribute("text-anchor") {
            Some("middle") => x - width / 2.0,
            Some("end") => x - width,
            _ => x,
        };
        let middle = number(node, "y") - 0.1 * size;
        Text { text, left, right: left + width, top: middle - size * 0.5, bottom: middle + size * 0.5 }
    };
    document.descendants().filter(|node| node.has_tag_name("text")).map(of).collect()
}

/// The figure is well formed, keeps to its edges and to the palette, has no ids, and no text covers another.
fn check(figure: &Figure) {
    let document =
        Document::parse(&figure.svg).unwrap_or_else(|error| panic!("{}: {error}\n{}", figure.name, figure.svg));
    let root = document.root_element();
    assert_eq!((root.attribute("role"), root.attribute("width")), (Some("img"), Some("900")));
    let title = root.children().find(|node| node.has_tag_name("title")).and_then(|node| node.text());
    assert_eq!(title, Some(figure.title.as_str()));
    let height = number(root, "height") * 10.0;
    assert_eq!(root.attribute("viewBox"), Some(format!("0 0 9000 {height}").as_str()));

    let colours: BTreeSet<String> = theme::palette().map(|colour| format!("#{:06X}", colour.light)).collect();
    for node in document.descendants().filter(Node::is_element) {
        assert_eq!(node.attribute("id"), None);
        for attribute in ["fill", "stroke"] {
            let colour = node.attribute(attribute).unwrap_or("none");
            assert!(colour == "none" || colours.contains(colour), "{}: {colour}", figure.name);
        }
        let points = node.attribute("points").unwrap_or_default().split([' ', ',']).filter(|part| !part.is_empty());
        for (n, value) in points.enumerate() {
            let value: f64 = value.parse().expect("a coordinate");
            assert!((0.0..=if n % 2 == 0 { 9_000.0 } else { height }).contains(&value), "{}: {value}", figure.name);
        }
        for (attribute, end) in [("x", 9_000.0), ("cx", 9_000.0), ("y", height), ("cy", height), ("width", 9_000.0)] {
            if node.has_attribute(attribute) && !node.has_tag_name("svg") {
                let value = number(node, attribute);
                assert!((0.0..=end).contains(&value), "{}: {attribute} {value}", figure.name);
            }
        }
    }
    let texts = texts(&document);
    assert!(texts.iter().any(|text| text.text == figure.title), "the title is in the picture");
    for (n, text) in texts.iter().enumerate() {
        assert!(text.left >= 0.0 && text.right <= 9_000.0, "{}: {text:?}", figure.name);
        assert!(text.top >= 0.0 && text.bottom <= height, "{}: {text:?} of {height}", figure.name);
        for other in &texts[n + 1..] {
            let apart = text.right <= other.left || other.right <= text.left;
            let apart = apart || text.bottom <= other.top || other.bottom <= text.top;
            assert!(apart, "{}: {text:?} is on {other:?}", figure.name);
        }
    }
    for text in &texts {
        assert!(
            !text.text.split_whitespace().any(|word| matches!(word, "NaN" | "inf" | "-inf")),
            "{}: {text:?}",
            figure.name
        );
    }
    for size in document.descendants().filter_map(|node| node.attribute("font-size")) {
        assert!(["120", "130", "170"].contains(&size), "{size}: at least 12 pixels, and a short number");
    }
}

/// All texts, one per line.
fn words(figure: &Figure) -> String {
    check(figure);
    let document = Document::parse(&figure.svg).expect("well-formed");
    texts(&document).into_iter().map(|text| text.text + "\n").collect()
}

fn line(label: &str, source: Source, points: &[(u64, f64)]) -> ScalingLine {
    let point = |(batch_size, success): &(u64, f64)| ScalingPoint {
        batch_size: *batch_size,
        success: *success,
        low: success - 0.1,
        high: success + 0.1,
    };
    ScalingLine { label: label.to_owned(), source, points: points.iter().map(point).collect() }
}

fn has(words: &str, wanted: &[&str]) {
    for text in wanted {
        assert!(words.lines().any(|line| line == *text), "no {text:?} in\n{words}");
    }
}

#[test]
fn no_data_is_said_and_not_drawn() {
    let no_launch = Launch {
        name: "b".to_owned(),
        batch: String::new(),
        agents: Vec::new(),
        start_skew_us: None,
        launch_window_us: 0,
    };
    let no_time = Timeline { name: "b".to_owned(), batch: String::new(), bin_us: 0, agents: Vec::new() };
    let figures = [
        scaling(&[], 0.95, ""),
        scaling(&[line("x", Source::Here, &[(1, f64::NAN)])], 0.95, ""),
        max_batch(&[], 0.95),
        batch_per_core(&[]),
        p99_heatmap(&[Heatmap { label: "ws".to_owned(), cells: Vec::new() }]),
        spectrum("ws", &[]),
        phases(&[]),
        timeline(&no_time),
        launch(&no_launch),
    ];
    for figure in figures {
        assert!(words(&figure).ends_with("nothing was measured\n"), "{}", figure.name);
        assert!(!figure.svg.contains("<line") && !figure.svg.contains("<polyline"), "{} has axes", figure.name);
    }
}

#[test]
fn scaling_names_its_sizes_lines_and_criterion() {
    let lines = [
        line("local", Source::Here, &[(16_384, 0.4), (1, 1.0), (512, 0.97)]),
        line(ODD_NAME, Source::Published, &[(1_000_000, 0.0), (1, 1.0)]),
    ];
    let figure = scaling(&lines, 0.95, "");
    let words = words(&figure);
    has(&words, &["1", "512", "16,384", "1,000,000", "95 %", "0 %", "local", "batch size, sessions (log scale)"]);
    assert!(words.contains("a <b> & \"c\" \u{FFFD}") && words.contains("(published)"), "{words}");
    assert!(figure.caption.contains("95 %") && figure.caption.contains("published by others"), "{}", figure.caption);
    let ours = scaling(&lines[..1], 0.95, "");
    assert!(!ours.caption.contains("published"), "{}", ours.caption);
    assert_eq!(ours.name, "scaling");
}

/// The horizontal positions of circles, from the left: the marks of the first line, and those of the key.
fn circles(figure: &Figure) -> Vec<f64> {
    let document = Document::parse(&figure.svg).expect("well-formed");
    let circles = document.descendants().filter(|node| node.has_tag_name("circle"));
    let mut all: Vec<f64> = circles.map(|node| number(node, "cx")).collect();
    all.sort_by(f64::total_cmp);
    all
}

#[test]
fn only_marks_that_would_lie_on_each_other_are_moved() {
    let first = line("ws", Source::Here, &[(1, 1.0), (64, 1.0), (4_096, 0.9)]);
    let other = |points| line("http", Source::Here, points);
    let alone = scaling(&[first.clone(), other(&[(1, 0.2), (4_096, 0.5)])], 0.95, "");
    let both = scaling(&[first, other(&[(1, 1.0), (64, 0.2), (512, 1.0), (4_096, 0.5)])], 0.95, "");
    let moved: Vec<bool> = circles(&both).iter().zip(circles(&alone)).map(|(a, b)| (a - b).abs() > 1.0).collect();
    assert_eq!(moved, [true, false, false, false], "{:?} {:?}", circles(&both), circles(&alone));
    assert!(both.caption.contains("side by side") && !alone.caption.contains("side by side"), "{}", both.caption);
}

#[test]
fn every_size_has_its_label_and_a_remark_ends_the_caption() {
    let sizes = [1, 8, 32, 128, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768];
    let points: Vec<(u64, f64)> = sizes.map(|size| (size, 1.0)).to_vec();
    let lines = [line("SLURM, two nodes behind Envoy, wait 1.0 s", Source::Here, &points)];
    let figure = scaling(&lines, 0.95, "Left out: http.");
    has(&words(&figure), &["1", "512", "1,024", "2,048", "4,096", "8,192", "16,384", "32,768"]);
    assert!(figure.caption.ends_with(". Left out: http."), "{}", figure.caption);
    assert!(!scaling(&lines, 0.95, "").caption.ends_with(' '));
}

#[test]
fn one_point_is_a_mark() {
    let figure = scaling(&[line("local", Source::Here, &[(64, 0.5)])], 0.999, "");
    has(&words(&figure), &["64", "99.9 %", "local"]);
    let document = Document::parse(&figure.svg).expect("well-formed");
    let marks: Vec<f64> =
        document.descendants().filter(|node| node.has_tag_name("circle")).map(|node| number(node, "cx")).collect();
    assert_eq!(marks.len(), 2, "in the panel, and in the key: {marks:?}");
    let only = SpectrumLine {
        label: "response time".to_owned(),
        kind: Latency::Response,
        points: vec![(1.0, HOUR_US)],
        censored_above: None,
    };
    let figure = spectrum("ws, 1 session", &[only]);
    has(&words(&figure), &["max", "4,000", "0 %", "99 %", "ws, 1 session", "response time"]);
    assert_eq!(figure.svg.matches("<circle").count(), 1);
}

#[test]
fn lines_that_are_too_many_have_panels_of_their_own() {
    let names: Vec<String> = (0..12).map(|n| format!("infrastructure {n}")).collect();
    let lines: Vec<_> = names.iter().map(|name| line(name, Source::Here, &[(1, 1.0), (16_384, 0.2)])).collect();
    let words = words(&scaling(&lines, 0.95, ""));
    has(&words, &names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(words.lines().filter(|text| *text == "16,384").count(), 12);
}

fn bar(label: &str, value: Option<f64>, at_least: bool) -> Bar {
    Bar { label: label.to_owned(), source: Source::Here, value, at_least }
}

#[test]
fn bars_have_their_values_as_labels() {
    let bars = [
        bar("local", Some(16_384.0), true),
        bar("none", None, false),
        bar("small", Some(0.125), false),
        bar("large", Some(1_000_000.0), false),
        Bar { source: Source::Published, ..bar(ODD_NAME, Some(170.66), false) },
    ];
    let words_of_batches = words(&max_batch(&bars, 0.95));
    has(
        &words_of_batches,
        &["≥ 16,384", "none met the criterion", "1,000,000", "local", "batch size, sessions (log scale)"],
    );
    let words_per_core = words(&batch_per_core(&bars));
    has(&words_per_core, &["≥ 16,384", "none met the criterion", "0.12", "170.7", "sessions per core", "0"]);
    for odd in [f64::NAN, f64::INFINITY, -1.0] {
        has(&words(&batch_per_core(&[bar("odd", Some(odd), true)])), &["none met the criterion"]);
        has(&words(&max_batch(&[bar("odd", Some(odd), true)], 0.95)), &["none met the criterion"]);
    }
    for equal in [0.0, 7.0] {
        let bars: Vec<Bar> = (0..12).map(|n| bar(&format!("infrastructure {n}"), Some(equal), false)).collect();
        let largest = words(&max_batch(&bars, f64::NAN));
        let wanted = if equal < 1.0 { "none met the criterion" } else { "7" };
        assert_eq!(largest.lines().filter(|text| *text == wanted).count(), 12);
        assert_eq!(words(&batch_per_core(&bars)).lines().filter(|text| *text == format!("{equal}")).count(), 12);
    }
}

#[test]
fn largest_batches_have_room_before_them_on_their_axis() {
    let ticks = |values: &[f64]| {
        let bars: Vec<Bar> = values.iter().map(|value| bar("x", Some(*value), false)).collect();
        words(&max_batch(&bars, 0.95))
    };
    has(&ticks(&[2_048.0; 3]), &["10", "100", "1,000", "5,000", "10,000"]);
    has(&ticks(&[64.0, 16_384.0]), &["1", "10", "100,000"]);
    let wide = ticks(&[1.0, 1e6]);
    assert!(!wide.lines().any(|text| text == "2" || text == "5,000"), "decades only: {wide}");
}

#[test]
fn heatmap_cells_tell_apart_without_their_colour() {
    let cell = |batch_size, p99_us, met, skipped| HeatCell { batch_size, wait_us: 1_000_000, p99_us, met, skipped };
    let of = |cells: &[HeatCell]| p99_heatmap(&[Heatmap { label: ODD_NAME.to_owned(), cells: cells.to_vec() }]);
    let met = cell(1_000_000, Some(1_084_000), true, false);
    let figures = [
        of(&[met]),
        of(&[HeatCell { met: false, ..met }]),
        of(&[HeatCell { p99_us: None, ..met }]),
        of(&[HeatCell { skipped: true, p99_us: None, ..met }]),
    ];
    has(&words(&figures[0]), &["1.08", "1.0 s", "1,000,000", "p99 beyond the wait, s", "criterion missed"]);
    let shapes: BTreeSet<(usize, usize)> = figures
        .iter()
        .map(|figure| {
            (figure.svg.matches("<polyline").count(), words(figure).lines().filter(|text| *text == "–").count())
        })
        .collect();
    assert_eq!(shapes.len(), 4, "{shapes:?}");
    let many: Vec<HeatCell> = (0..40)
        .flat_map(|n| {
            [0, 1, HOUR_US].map(|wait_us| HeatCell { batch_size: 1 << n, wait_us, p99_us: Some(n * HOUR_US), ..met })
        })
        .collect();
    has(&words(&of(&many)), &["550 G", "3600.0 s", "0.000001 s", "140,400", "0"]);
}

#[test]
fn a_spectrum_says_from_where_values_are_only_bounds() {
    let of = |censored_above| SpectrumLine {
        label: "ws".to_owned(),
        kind: Latency::Response,
        points: vec![(0.0, 0), (0.5, 1_000), (0.9, 2_000_000), (0.99, HOUR_US), (1.0, HOUR_US)],
        censored_above,
    };
    let (known, cut) = (spectrum("b", &[of(None)]), spectrum("b", &[of(Some(0.95))]));
    has(
        &words(&known),
        &["0 %", "50 %", "90 %", "99 %", "99.9 %", "latency beyond what was asked for, s", "ws (response)"],
    );
    assert!(!words(&known).contains("timed out") && !known.caption.contains("lower bound"));
    assert!(words(&cut).contains("timed out") && cut.caption.contains("lower bound"), "{}", cut.caption);
    check(&spectrum("b", &[of(Some(0.0))]));
    check(&spectrum("b", &[of(Some(f64::NAN))]));
}

#[test]
fn ticks_of_a_spectrum_are_those_of_others_of_its_size() {
    let of = |quantile: f64| {
        let points = vec![(0.0, 0), (quantile, 1_000), (1.0, 2_000)];
        let line = SpectrumLine { label: "ws".to_owned(), kind: Latency::Response, points, censored_above: None };
        let words = words(&spectrum("b", &[line]));
        words.lines().filter(|text| text.starts_with("99")).map(str::to_owned).collect::<Vec<_>>()
    };
    for few in [0.5, 0.98, 0.9985, 0.9995] {
        assert_eq!(of(few), ["99 %", "99.9 %"]);
    }
    assert_eq!(of(0.999_95), ["99 %", "99.9 %", "99.99 %"]);
}

#[test]
fn phases_add_up() {
    let bar = |label: &str, connect_us: f64| PhaseBar {
        label: label.to_owned(),
        connect_us,
        reset_us: 20_000.0,
        wait_us: 1e6,
        step_us: 300_000.0,
        close_us: 0.0,
    };
    let words_of = words(&phases(&[bar("local", 4_000.0), bar(ODD_NAME, f64::NAN), bar("slow", 3.6e9)]));
    has(
        &words_of,
        &["connect", "asked", "0.004", "0.020", "1.00", "0.30", "0", "1.32", "3,601", "mean of a session, s"],
    );
    let nothing = PhaseBar { wait_us: 0.0, reset_us: 0.0, step_us: -1.0, ..bar("idle", 0.0) };
    check(&phases(&[nothing]));
}

#[test]
fn what_was_asked_for_makes_no_bar_shorter() {
    let bar = |wait_us| PhaseBar {
        label: "local".to_owned(),
        connect_us: 4_000.0,
        reset_us: 20_000.0,
        wait_us,
        step_us: 3_000.0,
        close_us: 500.0,
    };
    let rects = |figure: &Figure| -> Vec<String> {
        figure.svg.lines().filter(|line| line.starts_with("<rect")).map(str::to_owned).collect()
    };
    assert_eq!(rects(&phases(&[bar(0.0)])), rects(&phases(&[bar(60e6)])));
}

fn agent_timeline(n: usize, bins: usize) -> AgentTimeline {
    let of = |factor: u64| (0..bins as u64).map(|bin| bin * factor % 160).collect();
    AgentTimeline { agent: format!("node-{n}"), open: of(7), completed: of(3), failed: of(n as u64 % 2) }
}

#[test]
fn a_timeline_has_every_agent() {
    for (agents, bins) in [(1, 1), (4, 60), (100, 120), (2, 5_000)] {
        let of = Timeline {
            name: "b7".to_owned(),
            batch: "ws, 16,384 sessions".to_owned(),
            bin_us: 500_000,
            agents: (0..agents).map(|n| agent_timeline(n, bins)).collect(),
        };
        let figure = timeline(&of);
        assert_eq!(figure.name, "timeline-b7");
        // With one bin, a panel may have no values and say so.
        let words = words(&figure).replace(": none", "");
        // 5,000 bins are merged, 21 into each.
        let each = if bins > 1_000 { "10.5 s" } else { "0.5 s" };
        has(
            &words,
            &[
                "sessions open",
                &format!("completions in each {each}"),
                &format!("failures in each {each}"),
                "time since the batch's start, s",
            ],
        );
        has(&words, &["ws, 16,384 sessions", "node-0", &format!("node-{}", agents - 1)]);
        assert!(figure.svg.len() < 600_000, "{agents} agents, {bins} bins: {} bytes", figure.svg.len());
    }
    let crowd = Timeline {
        name: "b".to_owned(),
        batch: String::new(),
        bin_us: 1,
        agents: (0..160).map(|n| agent_timeline(n, 3)).collect(),
    };
    has(&words(&timeline(&crowd)), &["node-149", "10 more agents are in the totals only"]);
    let quiet = AgentTimeline { agent: ODD_NAME.to_owned(), open: vec![0; 3], completed: Vec::new(), failed: vec![0] };
    let of = Timeline { name: "b".to_owned(), batch: ODD_NAME.to_owned(), bin_us: 0, agents: vec![quiet; 7] };
    assert_eq!(
        words(&timeline(&of)).lines().filter(|text| text.ends_with(": none")).count(),
        3,
        "three panels of nothing"
    );
}

#[test]
fn a_timeline_has_no_marks_in_narrow_bars_and_little_room_for_nothing() {
    let agent = |name: &str, failed: u64| AgentTimeline {
        agent: name.to_owned(),
        open: Vec::new(),
        completed: Vec::new(),
        failed: (0..200).map(|bin| if bin == 100 { failed } else { 0 }).collect(),
    };
    let of = |failed| {
        timeline(&Timeline {
            name: "b".to_owned(),
            batch: String::new(),
            bin_us: 5_000,
            agents: vec![agent("a", failed), agent("b", 0)],
        })
    };
    assert_eq!(circles(&of(1)).len(), 1, "in the key only");
    has(&words(&of(1)), &["failures in each 5 ms", "0", "1", "completions in each 5 ms: none"]);
    let height = |figure: &Figure| {
        let document = Document::parse(&figure.svg).expect("well-formed");
        number(document.root_element(), "height")
    };
    assert!(height(&of(0)) + 60.0 < height(&of(1)));
}

fn agent_launch(n: usize) -> AgentLaunch {
    AgentLaunch {
        agent: format!("node-{n}"),
        sessions: 16_384,
        start_offset_us: (n != 1).then_some(1_200),
        clock_error_us: (n != 2).then_some(300),
        launch_lag_p99_us: (n != 3).then_some(2_500),
    }
}

#[test]
fn a_launch_has_every_agent_and_what_is_said_of_all() {
    for agents in [1, 12, 100] {
        let of = Launch {
            name: "b7".to_owned(),
            batch: ODD_NAME.to_owned(),
            agents: (0..agents).map(agent_launch).collect(),
            start_skew_us: Some(3_210),
            launch_window_us: HOUR_US,
        };
        let words = words(&launch(&of));
        has(
            &words,
            &["start skew 3.21 ms · launch window 3,600,000 ms", "16,384", "2.50", &format!("node-{}", agents - 1)],
        );
        assert_eq!(words.contains("did not start"), agents > 1);
    }
    let slow = AgentLaunch { start_offset_us: Some(HOUR_US), launch_lag_p99_us: Some(HOUR_US), ..agent_launch(0) };
    let still =
        AgentLaunch { start_offset_us: Some(0), clock_error_us: Some(0), launch_lag_p99_us: Some(0), ..slow.clone() };
    for agents in [vec![slow.clone(), still.clone()], vec![still]] {
        let name = String::new();
        let of = Launch { batch: name.clone(), name, agents, start_skew_us: None, launch_window_us: 0 };
        assert!(words(&launch(&of)).contains("start skew not known"));
    }
}

#[test]
fn a_png_is_the_same_picture_every_time() {
    let svg = max_batch(&[bar("local", Some(16_384.0), true)], 0.95).svg;
    let bytes = png(&svg, 2.0).expect("a picture");
    assert_eq!(bytes, png(&svg, 2.0).expect("a picture"));
    let picture = Pixmap::decode_png(&bytes).expect("a PNG");
    assert_eq!(picture.width(), 1_800);
    let dark = picture.pixels().iter().filter(|pixel| pixel.red() < 64).count();
    assert!(dark > 1_000, "letters and marks are drawn: {dark} dark pixels");
    let wordless = svg.replace("<text", "<desc").replace("</text", "</desc");
    let without = Pixmap::decode_png(&png(&wordless, 2.0).expect("a picture")).expect("a PNG");
    let ink = |of: &Pixmap| of.pixels().iter().filter(|pixel| pixel.red() < 200).count();
    assert!(ink(&picture) > ink(&without) + 2_000, "text is drawn by the font that is compiled in");
    assert!(
        png("no svg", 2.0).is_err()
            && png(&svg, 0.0).is_err()
            && png(&svg, 1e9).is_err()
            && png(&svg, f32::NAN).is_err()
    );
}
