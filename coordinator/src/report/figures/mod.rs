#![allow(missing_docs)]
#[derive(Debug, Clone)]
pub struct Figure {
    pub name: String,
    pub title: String,
    pub caption: String,
    pub svg: String,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Here,
    Published,
}
#[derive(Debug, Clone)]
pub struct ScalingLine {
    pub label: String,
    pub source: Source,
    pub points: Vec<ScalingPoint>,
}
#[derive(Debug, Clone)]
pub struct ScalingPoint {
    pub batch_size: u64,
    pub success: f64,
    pub low: f64,
    pub high: f64,
}
fn f(name: &str) -> Figure {
    Figure {
        name: name.into(),
        title: name.into(),
        caption: "c".into(),
        svg: "<svg xmlns=\"http://www.w3.org/2000/svg\"/>".into(),
    }
}
pub fn scaling(_lines: &[ScalingLine], _m: f64) -> Figure {
    f("scaling")
}
#[derive(Debug, Clone)]
pub struct Bar {
    pub label: String,
    pub source: Source,
    pub value: Option<f64>,
    pub at_least: bool,
}
pub fn max_batch(_bars: &[Bar], _m: f64) -> Figure {
    f("max_batch")
}
pub fn batch_per_core(_bars: &[Bar]) -> Figure {
    f("batch_per_core")
}
#[derive(Debug, Clone)]
pub struct Heatmap {
    pub label: String,
    pub cells: Vec<HeatCell>,
}
#[derive(Debug, Clone)]
pub struct HeatCell {
    pub batch_size: u64,
    pub wait_us: u64,
    pub p99_us: Option<u64>,
    pub met: bool,
    pub skipped: bool,
}
pub fn p99_heatmap(_p: &[Heatmap]) -> Figure {
    f("p99_heatmap")
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    Service,
    Response,
}
#[derive(Debug, Clone)]
pub struct SpectrumLine {
    pub label: String,
    pub kind: Latency,
    pub points: Vec<(f64, u64)>,
    pub censored_above: Option<f64>,
}
pub fn spectrum(_b: &str, _l: &[SpectrumLine]) -> Figure {
    f("spectrum")
}
#[derive(Debug, Clone)]
pub struct PhaseBar {
    pub label: String,
    pub connect_us: f64,
    pub reset_us: f64,
    pub wait_us: f64,
    pub step_us: f64,
    pub close_us: f64,
}
pub fn phases(_b: &[PhaseBar]) -> Figure {
    f("phases")
}
#[derive(Debug, Clone)]
pub struct Timeline {
    pub name: String,
    pub batch: String,
    pub bin_us: u64,
    pub agents: Vec<AgentTimeline>,
}
#[derive(Debug, Clone)]
pub struct AgentTimeline {
    pub agent: String,
    pub open: Vec<u64>,
    pub completed: Vec<u64>,
    pub failed: Vec<u64>,
}
pub fn timeline(t: &Timeline) -> Figure {
    f(&format!("timeline-{}", t.name))
}
#[derive(Debug, Clone)]
pub struct Launch {
    pub name: String,
    pub batch: String,
    pub agents: Vec<AgentLaunch>,
    pub start_skew_us: Option<u64>,
    pub launch_window_us: u64,
}
#[derive(Debug, Clone)]
pub struct AgentLaunch {
    pub agent: String,
    pub sessions: u64,
    pub start_offset_us: Option<u64>,
    pub clock_error_us: Option<u64>,
    pub launch_lag_p99_us: Option<u64>,
}
pub fn launch(l: &Launch) -> Figure {
    f(&format!("launch-{}", l.name))
}
pub fn png(_svg: &str, _scale: f32) -> Result<Vec<u8>, String> {
    Ok(Vec::new())
}
#[must_use]
pub fn dark_css(_scope: &str) -> String {
    String::new()
}
