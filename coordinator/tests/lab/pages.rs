//! Reports in a real browser: everything is legible in light and in dark, on wide and narrow screens, and on paper.

mod exhibits;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use coordinator::report::document::{Document, of_run, of_runs};
use coordinator::report::html;
use coordinator::report::published::built_in;
use serde::Deserialize;

use crate::support::Process;

/// A script that examines a page in the browser and writes its faults into the title.
const LOOK: &str = include_str!("pages/look.js");

/// How a page is viewed: with which style sheets, and how wide.
struct View {
    name: &'static str,
    media: &'static str,
    width: u32,
}

const VIEWS: [View; 4] = [
    View { name: "light", media: "light", width: 1280 },
    View { name: "dark", media: "dark", width: 1280 },
    View { name: "narrow", media: "light", width: 480 },
    // The width of landscape A4 without its margins, at 96 dots per inch.
    View { name: "print", media: "print", width: 1032 },
];

#[derive(Debug, Deserialize)]
struct Seen {
    figures: usize,
    texts: usize,
    tables: usize,
    /// The faults in words.
    wrong: Vec<String>,
}

fn chromium(dir: &Path, flags: &[&str], page: &Path) -> String {
    let mut command = Command::new("chromium");
    command
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ])
        // Any network access fails, and the page must not need it.
        .args(["--proxy-server=127.0.0.1:9", "--disable-background-networking"])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .args(flags)
        .arg(format!("file://{}", page.display()))
        .env("HOME", dir);
    let ended = Process::start(command).end();
    assert!(ended.status.success(), "{}", ended.text);
    ended.text
}

/// Examines the page in one view.
fn look(dir: &Path, name: &str, page: &str, view: &View) -> Seen {
    let path = dir.join(format!("{name}-{}.html", view.name));
    let script = LOOK.replace("MEDIA", view.media);
    fs::write(&path, page.replace("</body>", &format!("<script>{script}</script></body>"))).expect("written");
    let size = format!("--window-size={},1000", view.width);
    let dom = chromium(dir, &[&size, "--virtual-time-budget=2000", "--dump-dom"], &path);
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).expect("a title");
    let json = title.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

fn check(name: &str, document: &Document, figures: usize) {
    let dir = tempfile::tempdir().expect("dir");
    let page = html::render(document);
    keep(name, &page);
    let mut wrong = Vec::new();
    for view in &VIEWS {
        let seen = look(dir.path(), name, &page, view);
        assert_eq!(seen.figures, figures, "{name} {}", view.name);
        assert!(seen.tables > 0 || figures == 0, "{name} {}", view.name);
        assert!(seen.texts >= figures, "{name} {}: nothing is written in its figures", view.name);
        wrong.extend(seen.wrong.iter().map(|what| format!("{name} {}: {what}\n", view.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
    let pdf = dir.path().join("page.pdf");
    chromium(
        dir.path(),
        &["--no-pdf-header-footer", &format!("--print-to-pdf={}", pdf.display())],
        &dir.path().join(format!("{name}-light.html")),
    );
    let pdf = fs::read(&pdf).expect("printed");
    assert!(pdf.starts_with(b"%PDF") && pdf.len() > 10_000, "{} bytes", pdf.len());
}

/// Keeps the page below the target folder for inspection.
fn keep(name: &str, page: &str) {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pages");
    fs::create_dir_all(&dir).expect("created");
    fs::write(dir.join(format!("{name}.html")), page).expect("written");
}

#[test]
fn a_page_with_every_verdict() {
    let document = of_run(&exhibits::every_verdict(), &built_in());
    check("every-verdict", &document, document.figures().len());
}

#[test]
fn a_page_with_a_hundred_agents() {
    let document = of_run(&exhibits::hundred_agents(), &built_in());
    check("hundred-agents", &document, document.figures().len());
}

#[test]
fn pages_with_one_point_and_with_nothing() {
    let document = of_run(&exhibits::one_point(), &[]);
    check("one-point", &document, document.figures().len());
    let document = of_run(&exhibits::nothing(), &[]);
    check("nothing", &document, document.figures().len());
}

#[test]
fn a_page_of_twelve_infrastructures() {
    let document = of_runs(&exhibits::twelve(), &built_in());
    check("twelve", &document, document.figures().len());
}

/// The examination finds the faults that it is meant to find.
#[test]
fn a_page_that_is_wrong_is_found_out() {
    let dir = tempfile::tempdir().expect("dir");
    let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 100\"><text x=\"10\" y=\"50\" font-size=\"14\" fill=\"#fefefe\">pale</text>\
               <text x=\"12\" y=\"52\" font-size=\"14\" fill=\"#000000\">over it</text><text x=\"880\" y=\"20\" font-size=\"14\" fill=\"#000000\">beyond the edge</text>\
               <text x=\"300\" y=\"20\" font-size=\"2\" fill=\"#000000\">tiny</text></svg>";
    let page = format!(
        "<html><head><title>x</title></head><body style='background:#fff;width:3000px'><figure>{svg}</figure></body></html>"
    );
    let seen = look(dir.path(), "wrong", &page, &VIEWS[0]);
    for what in ["contrast", "overlaps", "outside", "small", "wider"] {
        assert!(seen.wrong.iter().any(|wrong| wrong.contains(what)), "{what}: {:?}", seen.wrong);
    }
}
