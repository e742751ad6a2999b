//! Every figure in every variant, as SVG, as PNG and on one page: `cargo run -p coordinator --example gallery -- DIR`.
//!
//! The data is made up. `index.html` shows the page's colours by the reader's preference, `light.html` and `dark.html`
//! one of them.

#![expect(clippy::cast_possible_truncation, reason = "made-up numbers")]

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;
use std::{env, fs, io};

use coordinator::report::figures::{
    AgentLaunch, Bar, Figure, HeatCell, Heatmap, Latency, Launch, PhaseBar, ScalingLine, ScalingPoint, Source,
    SpectrumLine, Timeline, batch_per_core, dark_css, launch, max_batch, p99_heatmap, phases, png, scaling, spectrum,
    timeline,
};
use coordinator::results::timeline::AgentTimeline;

const SIZES: [u64; 11] = [1, 8, 32, 128, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768];
const PLACES: [&str; 12] = [
    "local, uvicorn",
    "local, Docker",
    "SLURM, one node",
    "SLURM, two nodes behind Envoy",
    "HF Space",
    "local, uvicorn, 8 workers",
    "SLURM, one node, 4 workers",
    "HF Space, cpu-upgrade",
    "SLURM, 16 nodes behind HAProxy",
    "refserver, 2 ms a step",
    "Docker on a laptop, 4 cores, of which two are efficient ones",
    "a-very-long-name-of-a-machine.eu-west-1.compute.internal.example.org",
];

fn source(n: usize) -> Source {
    if n % 3 == 1 { Source::Published } else { Source::Here }
}

/// Holds up to `limit` sessions, then falls.
fn success(size: u64, limit: f64) -> f64 {
    let load = size as f64 / limit;
    if load <= 1.0 { 1.0 - 0.02 * load.powi(4) } else { (0.97 / load.powf(1.3)).max(0.0) }
}

fn scaling_lines(n: usize) -> Vec<ScalingLine> {
    let line = |n: usize| {
        let limit = 128.0 * 1.8_f64.powi((n as i32 * 5) % 9);
        let tried = SIZES.iter().filter(|size| **size as f64 <= limit * 9.0);
        let points = tried.map(|size| {
            let rate = success(*size, limit);
            let apart = if rate < 0.97 { 0.05 + 0.1 * (1.0 - rate) } else { 0.002 };
            ScalingPoint {
                batch_size: *size,
                success: rate,
                low: (rate - apart).max(0.0),
                high: (rate + apart).min(1.0),
            }
        });
        ScalingLine { label: PLACES[n].to_owned(), source: source(n), points: points.collect() }
    };
    (0..n).map(line).collect()
}

fn bars(n: usize, unit: f64) -> Vec<Bar> {
    let bar = |n: usize| Bar {
        label: PLACES[n].to_owned(),
        source: source(n),
        value: (n != 4).then(|| SIZES[(n * 7) % 11] as f64 / unit),
        at_least: n.is_multiple_of(5),
    };
    (0..n).map(bar).collect()
}

fn heatmap(label: &str, waits_us: &[u64], sizes: &[u64], limit: f64) -> Heatmap {
    let mut cells = Vec::new();
    for (row, wait_us) in waits_us.iter().enumerate() {
        for (column, size) in sizes.iter().enumerate() {
            let load = *size as f64 / limit / (1.0 + row as f64);
            let p99_us = (*wait_us as f64 * 1.004 + 3_000.0 + 900_000.0 * load.powf(1.2)) as u64;
            let skipped = load > 20.0;
            let p99_us = (load < 9.0).then_some(p99_us);
            if row + column > 0 {
                cells.push(HeatCell { batch_size: *size, wait_us: *wait_us, p99_us, met: load < 1.6, skipped });
            }
        }
    }
    Heatmap { label: label.to_owned(), cells }
}

/// Quantiles as HdrHistogram iterates over them.
fn quantiles() -> impl Iterator<Item = f64> {
    (0..14).flat_map(|half| (0..8).map(move |part| 1.0 - 0.5_f64.powi(half) * (1.0 - f64::from(part) / 16.0)))
}

fn spectrum_line(label: &str, kind: Latency, scale: f64, censored_above: Option<f64>) -> SpectrumLine {
    let latency = |q: f64| {
        let tail = 1.0 - (1.0 / (1.0 - q)).log10() / 7.0;
        (1_000_000.0 + 60_000.0 * scale / tail.max(0.05).powf(2.5)) as u64
    };
    let cut = |q: f64, us: u64| if censored_above.is_some_and(|from| q >= from) { 3_000_000.max(us) } else { us };
    let points = quantiles().chain([1.0]).map(|q| (q, cut(q, latency(q.min(0.9999)))));
    SpectrumLine { label: label.to_owned(), kind, points: points.collect(), censored_above }
}

fn phase_bars(n: usize) -> Vec<PhaseBar> {
    let bar = |n: usize| PhaseBar {
        label: PLACES[n].to_owned(),
        connect_us: 900.0 * 2.4_f64.powi(n as i32 % 8),
        reset_us: 2_400.0 * 2.0_f64.powi((n as i32 * 3) % 8),
        wait_us: if n == 3 { 0.0 } else { 1_000_000.0 },
        step_us: 4_000.0 * 2.2_f64.powi((n as i32 * 5) % 8),
        close_us: 700.0 * 3.0_f64.powi((n as i32 * 2) % 6),
    };
    (0..n).map(bar).collect()
}

fn batch_timeline(name: &str, agents: usize, bins: usize, bin_us: u64) -> Timeline {
    let agent = |n: usize| {
        let late = n % 4 + if n % 17 == 5 { bins / 3 } else { 0 };
        let bell = |bin: usize| {
            let at = (bin as f64 - late as f64) / bins as f64;
            if at <= 0.0 { 0.0 } else { (at * 9.0).min(1.0) * (1.0 - ((at - 0.35) * 2.4).clamp(0.0, 1.0)) }
        };
        let open: Vec<u64> = (0..bins).map(|bin| (bell(bin) * 160.0).round() as u64).collect();
        let completed = (0..bins).map(|bin| if bin > 0 { open[bin - 1].saturating_sub(open[bin]) } else { 0 });
        let failed =
            (0..bins).map(|bin| if n % 9 == 2 && bin % 5 == 3 && open[bin] > 0 { 1 + (bin % 7) as u64 } else { 0 });
        AgentTimeline { agent: agent_name(n), completed: completed.collect(), failed: failed.collect(), open }
    };
    Timeline {
        name: name.to_owned(),
        batch: "ws, 16,384 sessions, wait 1.0 s, repetition 1".to_owned(),
        bin_us,
        agents: (0..agents).map(agent).collect(),
    }
}

/// A small batch that nothing is slow in: its sessions end within a few bins, one of them badly.
fn short_timeline(agents: usize) -> Timeline {
    let agent = |n: usize| {
        let completed: Vec<u64> =
            (0..48).map(|bin| if bin < 42 { 0 } else { (bin as u64 * 7 + n as u64 * 3) % 5 }).collect();
        let failed = (0..48).map(|bin| u64::from(agents > 1 && n == 1 && bin == 30));
        let open =
            (0..48).map(|bin: u64| if bin < 8 { bin * 2 } else { 16_u64.saturating_sub(bin.saturating_sub(41) * 3) });
        AgentTimeline { agent: agent_name(n), failed: failed.collect(), open: open.collect(), completed }
    };
    Timeline { agents: (0..agents).map(agent).collect(), ..batch_timeline(&format!("short-{agents}"), 0, 0, 5_000) }
}

fn agent_name(n: usize) -> String {
    if n == 1 { "gpu-node-017.cluster.internal-3".to_owned() } else { format!("node-{n:02}") }
}

fn batch_launch(name: &str, agents: usize) -> Launch {
    let agent = |n: usize| AgentLaunch {
        agent: agent_name(n),
        sessions: 164 + (n as u64 * 37) % 9,
        start_offset_us: (n != 3).then_some(40 + (n as u64 * 211) % 900 + if n == 7 { 2_400 } else { 0 }),
        clock_error_us: (n != 2).then_some(60 + (n as u64 * 97) % 340),
        launch_lag_p99_us: (n != 3).then_some(300 + (n as u64 * 1_733) % 4_000),
    };
    Launch {
        name: name.to_owned(),
        batch: "ws, 16,384 sessions, wait 1.0 s, repetition 1".to_owned(),
        agents: (0..agents).map(agent).collect(),
        start_skew_us: (agents > 1).then_some(3_210),
        launch_window_us: 248_000,
    }
}

/// Figures with the variant they show.
fn all() -> Vec<(&'static str, Figure)> {
    let waits = [0, 500_000, 1_000_000, 5_000_000, 10_000_000];
    let heat = |label, limit| heatmap(label, &waits[1..4], &SIZES, limit);
    let spectrum_lines = [
        spectrum_line("response time", Latency::Response, 2.0, Some(0.996)),
        spectrum_line("service time", Latency::Service, 1.0, None),
    ];
    let spectra: Vec<SpectrumLine> = PLACES[..6]
        .iter()
        .enumerate()
        .flat_map(|(n, place)| {
            [(Latency::Service, 1.0), (Latency::Response, 1.4)]
                .map(|(kind, more)| spectrum_line(place, kind, more * (1.0 + n as f64 / 2.0), (n == 2).then_some(0.97)))
        })
        .collect();
    let one = |label: &str| SpectrumLine {
        label: label.to_owned(),
        kind: Latency::Response,
        points: vec![(1.0, 1_234_000)],
        censored_above: None,
    };
    let batch = "ws, 2,048 sessions, wait 1.0 s, repetition 2";
    let many: Vec<u64> = (0..21).map(|n| 1 << n).collect();
    let single = HeatCell { batch_size: 64, wait_us: 1_000_000, p99_us: Some(1_084_000), met: true, skipped: false };
    let one_point = ScalingLine {
        label: "local, uvicorn".to_owned(),
        source: Source::Here,
        points: vec![ScalingPoint { batch_size: 64, success: 0.98, low: 0.96, high: 1.0 }],
    };
    // As a small run on one machine has it: nothing differs.
    let all_held = |size| ScalingPoint { batch_size: size, success: 1.0, low: 1.0, high: 1.0 };
    let equal_lines = ["ws, wait 1.0 s", "http, wait 1.0 s"].map(|label| ScalingLine {
        label: label.to_owned(),
        source: Source::Here,
        points: [32, 128, 512, 2_048].map(all_held).to_vec(),
    });
    let equal_bars: Vec<Bar> = bars(4, 1.0).into_iter().map(|bar| Bar { value: Some(2_048.0), ..bar }).collect();
    let only = AgentTimeline { agent: agent_name(0), open: vec![1], completed: vec![2], failed: vec![0] };
    let one_bin = Timeline { agents: vec![only], ..batch_timeline("one", 0, 0, 1_000_000) };
    vec![
        ("usual", scaling(&scaling_lines(5), 0.95, "")),
        ("12", scaling(&scaling_lines(12), 0.95, "Left out: http, and longer waits.")),
        ("one", scaling(&[one_point], 0.999, "")),
        ("equal", scaling(&equal_lines, 0.95, "")),
        ("empty", scaling(&[], 0.95, "")),
        ("usual", max_batch(&bars(6, 1.0), 0.95)),
        ("12", max_batch(&bars(12, 1.0), 0.95)),
        ("one", max_batch(&bars(1, 1.0), 0.95)),
        ("equal", max_batch(&equal_bars, 0.95)),
        ("usual", batch_per_core(&bars(6, 8.0))),
        ("12", batch_per_core(&bars(12, 8.0))),
        ("one", batch_per_core(&bars(1, 8.0))),
        ("usual", p99_heatmap(&[heat("ws", 2_048.0), heat("http", 400.0)])),
        ("many", p99_heatmap(&[heatmap("SLURM, 16 nodes behind HAProxy", &waits, &many, 30_000.0)])),
        ("one", p99_heatmap(&[Heatmap { label: "ws".to_owned(), cells: vec![single] }])),
        ("usual", spectrum(batch, &spectrum_lines)),
        ("12", spectrum(batch, &spectra)),
        ("one", spectrum(batch, &[one("response time")])),
        ("usual", phases(&phase_bars(4))),
        ("12", phases(&phase_bars(12))),
        ("one", phases(&phase_bars(1))),
        ("usual", timeline(&batch_timeline("usual", 4, 60, 500_000))),
        ("short", timeline(&short_timeline(2))),
        ("one", timeline(&short_timeline(1))),
        ("100", timeline(&batch_timeline("100", 100, 120, 500_000))),
        ("one", timeline(&one_bin)),
        ("usual", launch(&batch_launch("usual", 4))),
        ("12", launch(&batch_launch("12", 12))),
        ("100", launch(&batch_launch("100", 100))),
        ("one", launch(&batch_launch("one", 1))),
    ]
}

fn page(figures: &[(String, Figure)], extra_css: &str) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Figures</title><style>\
         body{{margin:24px auto;max-width:900px;font:15px/1.5 sans-serif;background:#fff;color:#1b1f24}}\
         figure{{margin:0 0 40px}}figure svg{{display:block;max-width:100%;height:auto}}{extra_css}</style>\n"
    );
    for (stem, figure) in figures {
        html.push_str(&format!(
            "<h3>{stem}</h3><figure>{}<figcaption>{}</figcaption></figure>\n",
            figure.svg, figure.caption
        ));
    }
    html
}

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    let Some(folder) = env::args().nth(1) else {
        return writeln!(out, "usage: gallery DIR");
    };
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    let started = Instant::now();
    let figures: Vec<(String, Figure)> =
        all().into_iter().map(|(variant, figure)| (format!("{}.{variant}", figure.name), figure)).collect();
    writeln!(out, "{} figures in {:.1?}", figures.len(), started.elapsed())?;
    for (stem, figure) in &figures {
        fs::write(folder.join(format!("{stem}.svg")), &figure.svg)?;
        let started = Instant::now();
        let picture = png(&figure.svg, 2.0).map_err(io::Error::other)?;
        let took = started.elapsed();
        writeln!(out, "{stem}: {} bytes SVG, {} bytes PNG in {took:.1?}", figure.svg.len(), picture.len())?;
        fs::write(folder.join(format!("{stem}.png")), picture)?;
    }
    let dark = format!("body{{background:#0d1117;color:#e6edf3}}\n{}", dark_css("figure svg"));
    fs::write(folder.join("light.html"), page(&figures, ""))?;
    fs::write(folder.join("dark.html"), page(&figures, &dark))?;
    let by_preference = format!("@media (prefers-color-scheme: dark){{{dark}}}");
    fs::write(folder.join("index.html"), page(&figures, &by_preference))?;
    writeln!(out, "written to {}", folder.join("index.html").display())
}
