//! PURE: rows that others have published, who measured with another client (`experiments/reports/published.csv`).

use proto::Mode;
use serde::Deserialize;

/// The published table that a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishedTable {
    /// The largest batch of each wait.
    Summary,
    /// The batch sizes at the smallest wait.
    Scaling,
}

/// A row, as published.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Published {
    pub infrastructure: String,
    pub variant: String,
    /// `YYYY-MM-DD`.
    pub date: String,
    pub table: PublishedTable,
    pub mode: Mode,
    pub wait_seconds: f64,
    pub batch_size: Option<u64>,
    /// Text, since some rows have a range.
    pub success: String,
    pub p99_seconds: Option<f64>,
    pub requests_per_second: Option<f64>,
    /// As published; unknown for some machines.
    pub cores: Option<u64>,
    pub note: String,
}

/// The rows that are part of the program: those of the experiment log until January 2026.
#[must_use]
pub fn built_in() -> Vec<Published> {
    let text = include_str!("../../../experiments/reports/published.csv");
    parse(text).unwrap_or_else(|error| unreachable!("a test reads this very text: {error}"))
}

/// Reads published rows from CSV.
///
/// # Errors
/// The line that can't be read, and why.
pub fn parse(text: &str) -> Result<Vec<Published>, String> {
    csv::Reader::from_reader(text.as_bytes()).deserialize().collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// The rows published on one batch, that is on its infrastructure, mode, wait and size. The newest date comes first.
///
/// A row without a size stands for all sizes; it is used if there is none of this size.
#[must_use]
pub fn of_batch<'a>(
    rows: &'a [Published],
    infrastructure: &str,
    mode: Mode,
    wait_us: u64,
    batch_size: u64,
) -> Vec<&'a Published> {
    let mut same: Vec<&Published> = rows
        .iter()
        .filter(|row| row.infrastructure == infrastructure && row.variant.is_empty())
        .filter(|row| row.mode == mode && same_wait(row.wait_seconds, wait_us))
        .filter(|row| row.batch_size.is_none_or(|size| size == batch_size))
        .collect();
    if same.iter().any(|row| row.batch_size.is_some()) {
        same.retain(|row| row.batch_size.is_some());
    }
    same.sort_by(|a, b| b.date.cmp(&a.date));
    same
}

/// Whether the waits are equal; published waits have one decimal.
fn same_wait(seconds: f64, us: u64) -> bool {
    proto::units::micros_of(seconds) == us
}

/// The rows of an infrastructure's latest date.
#[must_use]
pub fn latest<'a>(rows: &'a [Published], infrastructure: &str, table: PublishedTable) -> Vec<&'a Published> {
    let of = |row: &&Published| row.infrastructure == infrastructure && row.variant.is_empty() && row.table == table;
    let last = rows.iter().filter(of).map(|row| row.date.as_str()).max();
    rows.iter().filter(of).filter(|row| Some(row.date.as_str()) == last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_the_repository_is_whole() {
        let rows = built_in();
        assert_eq!(rows.len(), 94);
        let max =
            |name: &str| latest(&rows, name, PublishedTable::Summary).iter().filter_map(|row| row.batch_size).max();
        let all = ["local-uvicorn", "local-docker", "hf-spaces", "slurm-single", "slurm-multi"].map(max);
        assert_eq!(all, [Some(2_048), Some(2_048), Some(128), Some(512), Some(16_384)], "the log's own overview");
        assert!(latest(&rows, "hf-spaces", PublishedTable::Summary).iter().all(|row| row.date == "2026-01-13"));
    }

    #[test]
    fn all_dates_of_a_batch_newest_first() {
        let rows = built_in();
        let of = |infrastructure: &str, mode, wait_us, size| -> Vec<(&str, &str)> {
            let rows = of_batch(&rows, infrastructure, mode, wait_us, size);
            rows.iter().map(|row| (row.date.as_str(), row.success.as_str())).collect()
        };
        let both = [("2026-01-13", "0%"), ("2026-01-09", "39.1%")];
        assert_eq!(of("hf-spaces", Mode::Ws, 1_000_000, 512), both);
        assert_eq!(of("hf-spaces", Mode::Http, 5_000_000, 512), [("2026-01-13", "0%")], "of all sizes");
        assert_eq!(of("hf-spaces", Mode::Ws, 20_000_000, 32), [], "another variant's");
        // 512 is in the summary for one wait and, at the other date, in the table of sizes for another wait.
        assert_eq!(of("slurm-multi", Mode::Ws, 1_000_000, 512), [("2026-01-13", "100%")]);
        assert!(of("slurm-multi", Mode::Ws, 5_000_000, 512).iter().all(|row| *row == ("2026-01-12", "95.5%")));
    }

    #[test]
    fn what_the_log_does_not_say_is_left_empty() {
        let rows = built_in();
        let silent: Vec<&Published> = rows.iter().filter(|row| row.cores.is_none()).collect();
        assert_eq!(silent.len(), 5);
        assert!(silent.iter().all(|row| row.variant == "cpu-upgrade"), "{silent:?}");
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = parse("infrastructure,variant\na,b\n").expect_err("columns are missing");
        assert!(error.contains("missing field"), "{error}");
    }
}
