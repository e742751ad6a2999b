//! Checks that top-level modules import only the modules that their list allows, and that no imports form a circle.
//!
//! An import is a path in a `use` or in an expression. Test code is not checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The coordinator's top-level modules ("rooms"), each with the rooms that it may import.
const COORDINATOR: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("plan", &["text"]),
    ("results", &["plan", "text"]),
    ("net", &[]),
    ("run", &["net", "plan", "results", "text"]),
    ("store", &["plan", "results", "run", "text"]),
    ("report", &["plan", "results", "text"]),
    ("log", &["report", "results", "text"]),
    ("publish", &["report", "store"]),
    ("balancer", &["text"]),
    ("exit", &["results"]),
    ("children", &["run"]),
    ("progress", &["plan", "report", "results", "run", "text"]),
];

/// Rooms that may import every other room.
const ON_TOP: &[&str] = &["cli", "lib", "main"];

struct Source {
    /// A module path such as `run::machine::phase`. It is empty for the root of the crate.
    module: String,
    text: String,
}

fn crate_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src")
}

/// Every source file of a crate, without test code and comment lines.
fn sources(root: &Path) -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, &mut found);
    found.sort();
    let source = |path: PathBuf| {
        let relative = path.strip_prefix(root).expect("below it").with_extension("");
        let mut names: Vec<String> = relative.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        if names.iter().any(|name| name == "tests") {
            return None;
        }
        if names.last().is_some_and(|name| name == "mod" || name == "lib" || name == "main") {
            names.pop();
        }
        let text = fs::read_to_string(&path).expect("read");
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        Some(Source { module: names.join("::"), text: lines.collect::<Vec<_>>().join("\n") })
    };
    found.into_iter().filter_map(source).collect()
}

/// The children that a file names without a prefix: `mod phase;` and then `phase::Step`.
fn children<'a>(source: &'a Source, modules: &BTreeSet<&str>) -> impl Iterator<Item = String> + 'a {
    let declared = source.text.lines().filter_map(|line| {
        let (before, name) = line.trim().strip_suffix(';')?.split_once("mod ")?;
        (before.is_empty() || before.starts_with("pub")).then_some(name)
    });
    let used = move |name: &&str| {
        let path = format!("{name}::");
        source.text.match_indices(&path).any(|(at, _)| {
            let before = source.text[..at].chars().next_back();
            // A path that is handed on is no use of it.
            let line = source.text[..at].rsplit('\n').next().unwrap_or_default();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                && !line.trim_start().starts_with("pub use")
        })
    };
    let full =
        |name: &str| if source.module.is_empty() { name.to_owned() } else { format!("{}::{name}", source.module) };
    let known: BTreeSet<String> = modules.iter().map(|name| (*name).to_owned()).collect();
    declared.filter(used).map(full).filter(move |name| known.contains(name))
}

/// The files that a file imports from its own crate.
fn imports(source: &Source, modules: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = children(source, modules).collect();
    for (start, prefix) in ["crate::", "super::", "self::"]
        .iter()
        .flat_map(|prefix| source.text.match_indices(prefix).map(|(at, _)| (at, *prefix)).collect::<Vec<_>>())
    {
        let before = source.text[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        // The path in a visibility such as `pub(in crate::store)` is not an import.
        if source.text[..start].ends_with("pub(in ") {
            continue;
        }
        let mut base: Vec<&str> = match prefix {
            "crate::" => Vec::new(),
            _ => source.module.split("::").filter(|name| !name.is_empty()).collect(),
        };
        let mut rest = &source.text[start..];
        if prefix != "super::" {
            rest = &rest[prefix.len()..];
        }
        while let Some(more) = rest.strip_prefix("super::") {
            base.pop();
            rest = more;
        }
        for path in paths(rest) {
            let mut names: Vec<&str> = base.clone();
            names.extend(path.iter().map(String::as_str));
            // Shorten the path to the longest prefix that is a module.
            while !names.is_empty() && !modules.contains(names.join("::").as_str()) {
                names.pop();
            }
            let target = names.join("::");
            if !target.is_empty() && target != source.module {
                found.insert(target);
            }
        }
    }
    found
}

/// Expands a group such as `a::{b, c::{d, e}}` into single paths.
fn paths(text: &str) -> Vec<Vec<String>> {
    let name_end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    let name = &text[..name_end];
    let rest = &text[name_end..];
    if name.is_empty() {
        let Some(inner) = rest.strip_prefix('{') else { return vec![Vec::new()] };
        let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
        for (at, c) in inner.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    parts.push(&inner[from..at]);
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(&inner[from..at]);
                    from = at + 1;
                }
                _ => {}
            }
        }
        return parts.into_iter().flat_map(|part| paths(part.trim())).collect();
    }
    match rest.strip_prefix("::") {
        Some(more) => paths(more)
            .into_iter()
            .map(|mut path| {
                path.insert(0, name.to_owned());
                path
            })
            .collect(),
        None => vec![vec![name.to_owned()]],
    }
}

fn graph(root: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources(root);
    let modules: BTreeSet<&str> = sources.iter().map(|source| source.module.as_str()).collect();
    sources.iter().map(|source| (source.module.clone(), imports(source, &modules))).collect()
}

/// A circular chain of imports, if there is one.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit<'a>(
        graph: &'a BTreeMap<String, BTreeSet<String>>,
        file: &'a str,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(at) = way.iter().position(|other| *other == file) {
            return Some(way[at..].iter().chain([&file]).map(|name| (*name).to_owned()).collect());
        }
        if !done.insert(file) {
            return None;
        }
        way.push(file);
        let found = graph.get(file).into_iter().flatten().find_map(|next| visit(graph, next, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|file| visit(graph, file, &mut Vec::new(), &mut done))
}

#[test]
fn rooms_import_what_lies_below_them() {
    let room = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let known: BTreeMap<&str, &[&str]> = COORDINATOR.iter().copied().collect();
    let mut wrong = Vec::new();
    for (module, imports) in graph(&crate_dir("coordinator")) {
        let own = room(&module);
        if own.is_empty() || ON_TOP.contains(&own.as_str()) {
            continue;
        }
        let Some(below) = known.get(own.as_str()) else {
            wrong.push(format!("{own} is no room of the list in this test; say what it may import"));
            continue;
        };
        for import in imports {
            let other = room(&import);
            if other != own && !below.contains(&other.as_str()) {
                wrong.push(format!("{module} imports {import}: {own} may import {below:?} only"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for name in ["proto", "agent", "coordinator", "deploy/refserver", "scripts/testnet"] {
        let circle = circle(&graph(&crate_dir(name)));
        assert_eq!(circle, None, "in {name}");
    }
}

#[test]
fn imports_are_found_where_they_stand() {
    let source = |module: &str, text: &str| Source { module: module.to_owned(), text: text.to_owned() };
    let modules = BTreeSet::from(["a", "a::b", "a::b::c", "d", "e::f"]);
    let of = |module: &str, text: &str| imports(&source(module, text), &modules).into_iter().collect::<Vec<_>>();
    assert_eq!(of("a::b", "use crate::d::X;\nuse super::{Y, b::c::{Z, W}};"), ["a", "a::b::c", "d"]);
    assert_eq!(of("a::b::c", "fn f() -> crate::e::f::T { super::super::g() }"), ["a", "e::f"]);
    assert_eq!(of("d", "pub(in crate::a) fn f() {}\nuse self::inner::X;"), Vec::<String>::new());
    assert_eq!(of("a", "mod b;\npub use b::Y;\n"), Vec::<String>::new());
    assert_eq!(of("a", "mod b;\nfn f() { b::g(other::b::h()) }"), ["a::b"]);
    let of = |pairs: &[(&str, &[&str])]| {
        let graph = pairs
            .iter()
            .map(|(file, imports)| ((*file).to_owned(), imports.iter().map(|import| (*import).to_owned()).collect()));
        circle(&graph.collect())
    };
    assert_eq!(of(&[("a", &["b"]), ("b", &["c"]), ("c", &[])]), None);
    assert_eq!(of(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]), Some(["b", "c", "b"].map(str::to_owned).to_vec()));
}
