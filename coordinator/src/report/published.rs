//! PURE: rows that others have published, measured with another client (`experiments/reports/published.csv`).

use proto::Mode;
use serde::Deserialize;

/// Which of its tables a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// The largest batch of a wait.
    Summary,
    /// One batch size at the smallest wait.
    Scaling,
}

/// One row, as it was published.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Published {
    pub infrastructure: String,
    pub variant: String,
    /// `YYYY-MM-DD`.
    pub date: String,
    pub table: Table,
    pub mode: Mode,
    pub wait_seconds: f64,
    pub batch_size: Option<u64>,
    /// Text: some rows have a range.
    pub success: String,
    pub p99_seconds: Option<f64>,
    pub requests_per_second: Option<f64>,
    pub cores: u64,
    pub note: String,
}

/// # Errors
/// The line that can't be read, and why.
pub fn parse(text: &str) -> Result<Vec<Published>, String> {
    csv::Reader::from_reader(text.as_bytes()).deserialize().collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// The rows of one infrastructure's latest date.
#[must_use]
pub fn latest<'a>(rows: &'a [Published], infrastructure: &str, table: Table) -> Vec<&'a Published> {
    let of = |row: &&Published| row.infrastructure == infrastructure && row.variant.is_empty() && row.table == table;
    let last = rows.iter().filter(of).map(|row| row.date.as_str()).max();
    rows.iter().filter(of).filter(|row| Some(row.date.as_str()) == last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_the_repository_is_whole() {
        let rows = parse(include_str!("../../../experiments/reports/published.csv")).expect("rows");
        assert_eq!(rows.len(), 94);
        let max = |name: &str| latest(&rows, name, Table::Summary).iter().filter_map(|row| row.batch_size).max();
        let all = ["local-uvicorn", "local-docker", "hf-spaces", "slurm-single", "slurm-multi"].map(max);
        assert_eq!(all, [Some(2_048), Some(2_048), Some(128), Some(512), Some(16_384)], "the log's own overview");
        assert!(latest(&rows, "hf-spaces", Table::Summary).iter().all(|row| row.date == "2026-01-13"));
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = parse("infrastructure,variant\na,b\n").expect_err("columns are missing");
        assert!(error.contains("missing field"), "{error}");
    }
}
