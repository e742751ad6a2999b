use proptest::prelude::*;

use super::*;
use crate::results::run::Status;

fn new(id: &str, started: &str, name: &str, body: &str) -> NewEntry {
    let row = OverviewRow {
        name: name.to_owned(),
        status: Status::Complete,
        date: started[..10].to_owned(),
        max: Some(2_048),
        cores: Some(8),
    };
    let body =
        format!("**Infrastructure:** {name}  \n**Start:** {started}  \n\n### Configuration\n- Workers: 8\n\n{body}");
    NewEntry { id: id.to_owned(), started: started.to_owned(), body, row }
}

fn first() -> NewEntry {
    new("1", "2026-11-24T10:00:00Z", "local-docker", "### Observations\n- It held.\n")
}

fn logged(log_text: &str, entry: &NewEntry) -> Logged {
    let title = format!("{}-{}", &entry.started[..10], entry.row.name);
    log(log_text, &title, entry).expect("logged")
}

fn headings(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix(HEADING)).collect()
}

#[test]
fn a_log_that_is_begun() {
    let text = logged(EMPTY, &first()).text;
    insta::assert_snapshot!(text);
    let again = logged(&text, &first());
    assert_eq!((again.text.as_str(), again.renewed, again.carried), (text.as_str(), true, 0), "idempotent");
}

#[test]
fn newest_first_whatever_the_order_in_which_they_come() {
    let entries = [
        new("1", "2026-11-24T10:00:00Z", "local-docker", ""),
        new("2", "2026-11-26T10:00:00Z", "slurm-multi", ""),
        new("3", "2026-11-25T10:00:00Z", "hf-spaces", ""),
        new("4", "2026-11-24T12:00:00Z", "local-docker", ""),
    ];
    let expected =
        ["2026-11-26-slurm-multi", "2026-11-25-hf-spaces", "2026-11-24-local-docker-2", "2026-11-24-local-docker"];
    let text = entries.iter().fold(EMPTY.to_owned(), |text, entry| logged(&text, entry).text);
    assert_eq!(headings(&text), expected);
    let renewed = entries.iter().fold(text.clone(), |text, entry| logged(&text, entry).text);
    assert_eq!(renewed, text);
}

#[test]
fn the_overview_tells_of_the_newest_run_and_of_the_others_too() {
    let mut old = first();
    old.row.max = Some(512);
    let newer = new("2", "2026-11-25T10:00:00Z", "local-docker", "");
    let text = logged(EMPTY, &newer).text;
    let after = logged(&text, &old);
    assert_eq!(after.overview, Overview::Newer);
    assert!(after.text.contains("2,048") && !after.text.contains("512"), "{}", after.text);
    let other = logged(&after.text, &new("3", "2026-11-20T10:00:00Z", "hf-spaces", ""));
    assert_eq!(other.overview, Overview::Told);
    let rows: Vec<&str> = other.text.lines().filter(|line| line.starts_with("| ") && line.contains("✅")).collect();
    assert_eq!(rows.len(), 2);
    assert!(rows[0].starts_with("| local-docker") && rows[1].starts_with("| hf-spaces"), "{rows:?}");
}

/// What a person typed into the overview stays if the run does not know it, and so does the row of a complete run.
#[test]
fn the_overview_keeps_what_is_known_and_what_is_complete() {
    let text = logged(EMPTY, &first()).text.replace("| loud", "");
    let mut newer = new("2", "2026-11-25T10:00:00Z", "local-docker", "");
    newer.row.cores = None;
    newer.row.max = Some(512);
    let after = logged(&text, &newer);
    assert_eq!(
        after.overview,
        Overview::Replaced("local-docker | ✅ Complete | 2026-11-24 | 2,048 | 8 | 256".to_owned())
    );
    let row = after.text.lines().find(|line| line.starts_with("| local-docker")).expect("a row");
    assert_eq!(cells(row), ["local-docker", "✅ Complete", "2026-11-25", "512", "8", "64"]);
    let mut broken = new("3", "2026-11-26T10:00:00Z", "local-docker", "");
    broken.row.status = Status::Interrupted;
    let kept = logged(&after.text, &broken);
    assert_eq!(kept.overview, Overview::Complete);
    assert!(kept.text.contains(row));
    assert_eq!(logged(EMPTY, &broken).overview, Overview::Told, "better than nothing");
}

#[test]
fn what_people_write_is_kept_wherever_they_write_it() {
    let text = logged(EMPTY, &first()).text;
    let edited = text
        .replace("- It held.", "- It held.\n- The fan was loud.")
        .replace("- Workers: 8\n", "- Workers: 8\n- Cooled by a fan\n")
        .replace("## Experiment Runs", "## Experiment Runs\n\nSee also the wiki.");
    let edited = edited.replacen("\n---\n\n## Exp", "\n\nOverview by hand.\n\n---\n\n## Exp", 1);
    let edited = edited.trim_end().trim_end_matches("---").to_owned() + "### Notes\nAsked Ann.\n\n---\n";
    let mut second = first();
    second.body = second.body.replace("- It held.", "- It held up to 2048.");
    let after = logged(&edited, &second);
    assert_eq!((after.renewed, after.carried), (true, 2));
    for kept in
        ["The fan was loud.", "Cooled by a fan", "See also the wiki.", "Asked Ann.", "Overview by hand.", "up to 2048"]
    {
        assert_eq!(after.text.matches(kept).count(), 1, "{kept}: {}", after.text);
    }
    assert!(!after.text.contains("- It held.\n"), "what the program had written is replaced");
    assert_eq!(logged(&after.text, &second).text, after.text, "and again");
    let workers = after.text.find("- Workers: 8").expect("there");
    let fan = after.text.find("- Cooled by a fan").expect("there");
    let observations = after.text.find("### Observations").expect("there");
    assert!(workers < fan && fan < observations, "in its section");
}

#[test]
fn a_section_that_somebody_put_into_the_entry_stays() {
    let text = logged(EMPTY, &first()).text;
    let edited = text.replace("### Observations", "### Weather\nRain.\n\n### Observations");
    let after = logged(&edited, &first());
    assert_eq!(after.carried, 2);
    assert!(after.text.contains("### Weather\nRain."), "{}", after.text);
    assert_eq!(logged(&after.text, &first()).text, after.text);
}

#[test]
fn examples_are_no_entries() {
    let comment = "<!--\nExample:\n\n## Run: 2030-01-01-x\n\n**Start:** 2030-01-01T00:00:00Z\n-->\n";
    let template = "### Template\n\n```markdown\n## Run: YYYY-MM-DD-x\n| Infrastructure | Status |\n```\n";
    let begun = EMPTY.replace("<!-- New runs", &format!("{template}\n<!-- New runs")) + "\n" + comment;
    let one = logged(&begun, &first()).text;
    let two = logged(&one, &new("2", "2026-11-20T10:00:00Z", "hf-spaces", "")).text;
    let at = |what: &str| two.find(what).unwrap_or_else(|| panic!("{what}: {two}"));
    assert!(at(START) < at("## Run: 2026-11-24-local-docker"));
    assert!(at("## Run: 2026-11-24-local-docker") < at("## Run: 2026-11-20-hf-spaces"));
    assert!(at("## Run: 2026-11-20-hf-spaces") < at("Example:"));
    assert!(two.contains(comment.trim_end()) && two.contains(template));
}

#[test]
fn a_file_that_is_no_log_says_what_is_missing() {
    let no_start = log("# Notes\n", "t", &first()).expect_err("no start");
    let no_table = log(&EMPTY.replace("Max Batch (WS)", "Max"), "t", &first()).expect_err("no table");
    let text = logged(EMPTY, &first()).text;
    let torn: String = text.lines().filter(|line| !line.starts_with(END)).map(|line| format!("{line}\n")).collect();
    let no_end = log(&torn, "t", &first()).expect_err("no end");
    insta::assert_snapshot!(format!("{no_start}\n{no_table}\n{no_end}"));
}

#[test]
fn the_historical_log_takes_an_entry() {
    let old = "# Log\n\n## Overview\n\n| Infrastructure | Status | Last Run | Max Batch (WS) | Cores | Batch/Core | Remark |\n|---|---|---|---|---|---|---|\n\
               | local-docker | ✅ Complete | 2026-01-13 | 2,048 | 8 | 256 | loud |\n\n---\n\n<!-- EXPERIMENT RUNS START -->\n\n\
               ## Run: 2026-01-13-local-docker\n\n**Infrastructure:** local-docker\n**Start:** 2026-01-13T12:23:22Z\n\n### Observations\n- by hand\n\n---\n\n\
               ## Run: 2026-01-12-slurm-multi\n\ntext\n\n---\n";
    let after = logged(old, &first());
    assert_eq!(headings(&after.text), ["2026-11-24-local-docker", "2026-01-13-local-docker", "2026-01-12-slurm-multi"]);
    assert!(after.text.contains("| 2026-11-24 | 2,048"), "{}", after.text);
    assert!(after.text.contains("loud"), "a column that somebody added");
    assert!(after.text.contains("- by hand"));
    let between = logged(&after.text, &new("9", "2026-01-13T00:00:00Z", "hf-spaces", ""));
    assert_eq!(headings(&between.text)[2], "2026-01-13-hf-spaces");
    assert_eq!(logged(&between.text, &first()).text, between.text);
}

/// Writing the same entry again changes nothing, whatever was added between its lines.
#[track_caller]
fn stays(edited: &str) {
    let after = logged(edited, &with_code()).text;
    assert_eq!(after, edited);
}

fn with_code() -> NewEntry {
    let body = "### Command\n```bash\n# Server startup\nsh serve.sh\n```\n\n### Results Summary\n| a | b |\n|---|---|\n| 1 | 2 |\n\n\
                ### Observations\n- It held.\n- It held again.\n";
    new("1", "2026-11-24T10:00:00Z", "local-docker", body)
}

#[test]
fn fences_tables_and_copies_stay_where_they_were_put() {
    let text = logged(EMPTY, &with_code()).text;
    stays(&text);
    let after = |line: &str, put: &str| stays(&text.replacen(&format!("{line}\n"), &format!("{line}\n{put}"), 1));
    after("sh serve.sh", "");
    after("- It held.", "```\nfree -m\n```\n");
    after("- It held.", "\n```text\nnumbers\n\nmore\n```\n\n");
    after("### Command", "~~~\n## Run: not a run\n~~~\n");
    after("### Command", "```sh\nbefore it\n```\n");
    after("### Observations", "- It held.\n");
    after("| 1 | 2 |", "| 3 | 4 |\n");
    after("| 1 | 2 |", "\n| c | d |\n|---|---|\n| 1 | 2 |\n");
    after("- It held again.", "<!-- a comment -->\n<!--\nof several lines\n-->\n");
    after("- It held again.", "## Run: quoted\n");
    after("- It held again.", "```\nnever closed\n");
}

#[test]
fn what_is_put_in_moves_with_the_lines_around_it() {
    let text = logged(EMPTY, &with_code()).text;
    let edited = text
        .replace("- It held again.\n", "- It held again.\n```text\nseen\n```\n")
        .replace("| 1 | 2 |\n", "| 1 | 2 |\n| by hand | 3 |\n");
    let mut second = with_code();
    second.body = second
        .body
        .replace("| 1 | 2 |", "| 1 | 5 |\n| 2 | 6 |")
        .replace("- It held.\n", "- It held up to 512.\n- New.\n");
    let after = logged(&edited, &second);
    assert_eq!(after.carried, 4);
    assert!(after.text.contains("- New.\n- It held again.\n```text\nseen\n```\n"), "{}", after.text);
    assert!(after.text.contains("| by hand | 3 |\n| 1 | 5 |\n| 2 | 6 |\n"), "{}", after.text);
    assert_eq!(logged(&after.text, &second).text, after.text);
}

/// Everything between an entry's marks belongs to it, even if it looks like the start of something else.
#[test]
fn an_open_fence_in_one_entry_hides_no_other() {
    let odd = new("2", "2026-11-25T10:00:00Z", "slurm-multi", "### Command\n```` `\n## Run: x\n<!-- open\n");
    let text = logged(&logged(EMPTY, &first()).text, &odd).text;
    let again = logged(&text, &first());
    assert!(again.renewed);
    assert_eq!(again.text, text);
    assert!(logged(&text, &odd).renewed);
}

#[test]
fn ids_with_colons_are_not_cut() {
    let entry = first();
    let text = logged(EMPTY, &entry).text;
    assert_eq!(id_of(text.lines().find(|line| line.starts_with(BEGIN)).expect("a mark")), Some("1"));
}

#[test]
fn lines_end_as_they_did_and_the_file_too() {
    let text = logged(EMPTY, &first()).text.replace('\n', "\r\n") + "\r\n\r\n";
    let after = logged(&text, &first()).text;
    assert_eq!(after, text);
    let odd = "| Infrastructure | Status | Last Run | Max Batch (WS) | Cores | Batch/Core |\n|---|---|---|---|---|---|\n| a\\|b | x | 2026-01-01 | 1 | 1 | 1 |";
    let begun = EMPTY.lines().filter(|line| !line.starts_with('|')).map(|line| format!("{line}\n")).collect::<String>();
    let begun = begun.replace("## Overview\n", &format!("## Overview\n{odd}\n"));
    assert!(logged(&begun, &first()).text.contains("| a\\|b "), "{}", logged(&begun, &first()).text);
}

#[test]
fn figures_have_a_folder_of_their_own_whatever_the_heading_says() {
    let mut entry = first();
    entry.body.push_str("\n- Figures: [figures/](figures/local-docker-2026-11-24/)\n");
    let text = logged(EMPTY, &entry).text;
    let renamed =
        text.replace("## Run: 2026-11-24-local-docker", "## Run: 2026-11-24-local-docker/../../x (bad cable)");
    let base = "local-docker-2026-11-24";
    assert_eq!(folder_of(&renamed, "1", base).expect("a log"), base);
    assert_eq!(folder_of(&renamed, "2", base).expect("a log"), format!("{base}-2"));
    let broken = renamed.replace("](figures/local-docker-2026-11-24/)", "](figures/../../x/)");
    assert_eq!(folder_of(&broken, "1", base).expect("a log"), base);
}

proptest! {
    /// Lines that people add to an entry stay where they are, and nothing else changes.
    #[test]
    fn no_line_of_a_person_is_lost(
        typed in proptest::collection::vec(
            (0..40_usize, prop_oneof![
                "[a-z ]{0,6}[a-z]{3,12}",
                Just("```".to_owned()), Just("```text".to_owned()), Just("~~~".to_owned()), Just(String::new()),
                Just("| 1 | 2 |".to_owned()), Just("- It held.".to_owned()), Just("<!--".to_owned()), Just("-->".to_owned()),
                Just("### Observations".to_owned()), Just("---".to_owned()), Just("## Run: x".to_owned()),
            ]),
            0..10,
        ),
        changed in any::<bool>(),
    ) {
        let text = logged(EMPTY, &with_code()).text;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let begin = lines.iter().position(|line| line.starts_with(BEGIN)).expect("an entry") + 1;
        for (at, words) in &typed {
            // Blank lines before the end mark belong to the mark.
            let end = lines.iter().position(|line| line.starts_with(END)).expect("its end") - 1;
            lines.insert(begin + at % (end - begin), words.clone());
        }
        let edited = lines.join("\n") + "\n";
        let mut entry = with_code();
        if changed {
            entry.body = entry.body.replace("- It held.", "- It held up to 512.").replace("| 1 | 2 |", "| 5 | 6 |");
        }
        let after = logged(&edited, &entry).text;
        if !changed {
            prop_assert_eq!(&after, &edited);
        }
        for (_, words) in typed.iter().filter(|(_, words)| !words.trim().is_empty()) {
            let count = |text: &str| text.lines().filter(|line| line == words).count();
            let written = |entry: &NewEntry| entry.body.lines().filter(|line| line == words).count();
            prop_assert!(count(&after) + written(&with_code()) >= count(&edited) + written(&entry), "{words}: {after}");
        }
        prop_assert_eq!(&logged(&after, &entry).text, &after);
    }
}
