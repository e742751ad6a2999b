//! The commented plan that `coordinator plan init` prints.

/// Every key with its default and what it means.
pub const TEMPLATE: &str = include_str!("template.toml");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::check::{KEYS, plan_of};

    #[test]
    fn the_template_is_a_valid_plan_and_shows_every_key() {
        plan_of(TEMPLATE).expect("valid");
        for (section, keys) in KEYS {
            assert!(TEMPLATE.contains(&format!("[{section}]")), "[{section}]");
            for key in *keys {
                assert!(TEMPLATE.contains(&format!("{key} = ")), "{section}.{key}");
            }
        }
    }

    #[test]
    fn commented_keys_are_valid_too() {
        // What is switched off by "# key = value" must be right when switched on, but for what excludes each other.
        let switched_on: String = TEMPLATE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") && !key.starts_with("embedded") => key,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        plan_of(&switched_on).expect("valid");
    }
}
