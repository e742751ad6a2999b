//! PURE: lists the differences between two plans, key by key, in the notation of a plan file.

use serde_json::Value;

use super::Plan;
use super::schema::names_of;

/// One line for each key whose value differs. Keys that [`Plan::hash`] leaves out are not compared.
#[must_use]
pub fn differences(before: &Plan, now: &Plan) -> Vec<String> {
    let flat = |plan: &Plan| {
        let mut keys = Vec::new();
        flatten("", &serde_json::to_value(plan).unwrap_or_default(), &mut keys);
        keys
    };
    let (before, now) = (flat(before), flat(now));
    let value = |keys: &[(String, String)], name: &str| {
        keys.iter().find(|(key, _)| key == name).map_or_else(|| "not given".to_owned(), |(_, value)| value.clone())
    };
    let mut names: Vec<&String> = before.iter().chain(&now).map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| !["output.dir", "agents.count", "agents.local"].contains(&name.as_str()))
        .map(|name| (name, value(&before, name), value(&now, name)))
        .filter(|(_, before, now)| before != now)
        .map(|(name, before, now)| format!("{name}: {before} in the run, {now} now"))
        .collect()
}

fn flatten(prefix: &str, value: &Value, keys: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&path, value, keys);
            }
        }
        Value::Null => {}
        value => keys.push(in_units_of_keys(prefix, value)),
    }
}

/// Converts a time from microseconds to the unit of its key in a plan file, seconds or milliseconds.
fn in_units_of_keys(path: &str, value: &Value) -> (String, String) {
    #[expect(clippy::cast_precision_loss, reason = "for the eye")]
    fn scaled(value: &Value, us: f64) -> Value {
        match value {
            Value::Array(all) => Value::Array(all.iter().map(|value| scaled(value, us)).collect()),
            Value::Number(number) => number.as_u64().map_or(Value::Null, |n| Value::from(n as f64 / us)),
            other => other.clone(),
        }
    }
    let Some(stem) = path.strip_suffix("_us") else { return (path.to_owned(), value.to_string()) };
    let in_ms = format!("{stem}_ms");
    let is_key = |path: &str| path.split_once('.').is_some_and(|(section, name)| names_of(section).contains(&name));
    if is_key(&in_ms) {
        return (in_ms, scaled(value, 1e3).to_string());
    }
    (format!("{}_seconds", stem.trim_end_matches('s')), scaled(value, 1e6).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::check::plan_of;

    #[test]
    fn differences_are_told_in_the_words_of_a_plan() {
        let plan = |more: &str| {
            plan_of(&format!("[target]\nurls=[\"http://h\"]\n[grid]\nbatch_sizes=[1]\n{more}")).expect("plan")
        };
        let before = plan("");
        assert_eq!(differences(&before, &before), Vec::<String>::new());
        for same in ["[output]\ndir=\"/elsewhere\"", "[agents]\ncount=4"] {
            assert_eq!(differences(&before, &plan(same)), Vec::<String>::new());
            assert_eq!(before.hash(), plan(same).hash());
        }
        let now = plan("wait_seconds=[0.5, 2]\nrepetitions=5\n[target2]\n".trim_end_matches("[target2]\n"));
        assert_eq!(
            differences(&before, &now),
            ["grid.repetitions: 3 in the run, 5 now", "grid.wait_seconds: [1.0] in the run, [0.5,2.0] now",]
        );
        let limited = plan("[session]\ntotal_timeout_seconds=9");
        assert_eq!(differences(&before, &limited), ["session.total_timeout_seconds: not given in the run, 9.0 now"]);
        let exact = plan("[measure]\nmax_clock_error_ms=5");
        assert_eq!(differences(&before, &exact), ["measure.max_clock_error_ms: 2.0 in the run, 5.0 now"]);
        let ramp = plan("[session]\nlaunch={kind=\"ramp\",over_seconds=5}");
        assert!(differences(&before, &ramp)[0].contains("session.launch"), "{:?}", differences(&before, &ramp));
    }
}
