use proptest::prelude::*;

use super::*;

fn new(id: &str, started: &str, name: &str, body: &str) -> NewEntry {
    let row = OverviewRow {
        name: name.to_owned(),
        status: "✅ Complete".to_owned(),
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
    assert!(!after.in_overview);
    assert!(after.text.contains("2,048") && !after.text.contains("512"), "{}", after.text);
    let other = logged(&after.text, &new("3", "2026-11-20T10:00:00Z", "hf-spaces", ""));
    assert!(other.in_overview);
    let rows: Vec<&str> = other.text.lines().filter(|line| line.starts_with("| ") && line.contains("✅")).collect();
    assert_eq!(rows.len(), 2);
    assert!(rows[0].starts_with("| local-docker") && rows[1].starts_with("| hf-spaces"), "{rows:?}");
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

proptest! {
    /// Whatever people type between the lines of an entry stands in it afterwards, once, and a second time changes nothing.
    #[test]
    fn no_line_of_a_person_is_lost(typed in proptest::collection::vec((0..30_usize, "[a-z ]{0,6}[a-z]{3,12}"), 0..8)) {
        let text = logged(EMPTY, &first()).text;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let begin = lines.iter().position(|line| line.starts_with(HEADING)).expect("an entry") + 3;
        let end = lines.iter().position(|line| line.starts_with(END)).expect("its end");
        let typed: Vec<(usize, String)> = typed.into_iter().enumerate().map(|(n, (at, words))| (at, format!("{words} {n}q"))).collect();
        for (at, words) in &typed {
            lines.insert(begin + at % (end - begin), words.clone());
        }
        let after = logged(&lines.join("\n"), &first()).text;
        for (_, words) in &typed {
            prop_assert_eq!(after.lines().filter(|line| line == words).count(), 1, "{}", after);
        }
        prop_assert_eq!(&logged(&after, &first()).text, &after);
    }
}
