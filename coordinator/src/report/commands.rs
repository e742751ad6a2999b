//! The shell commands that started the server and the run.

use crate::results::run::Run;

/// The shell commands that started the server and the run.
#[must_use]
pub fn commands(run: &Run) -> String {
    let server = run.plan.server.start_command.as_deref().map(str::trim);
    let server = match server {
        None | Some("") if run.plan.target.embedded => "# none: the target was embedded".to_owned(),
        None | Some("") => "# unknown: server.start_command was not given".to_owned(),
        Some(command) => command.to_owned(),
    };
    format!("# Server startup\n{server}\n\n# Experiment execution\n{}\n", command(run))
}

/// The run's command as it was typed, with options on separate lines and without the program's folder.
fn command(run: &Run) -> String {
    let Some((program, rest)) = run.command.split_first() else { return "# unknown".to_owned() };
    let name = program.rsplit('/').next().unwrap_or(program);
    let quote = |word: &String| shlex::try_quote(word).map_or_else(|_| word.clone(), |quoted| quoted.into_owned());
    let mut text = name.to_owned();
    for word in rest {
        text.push_str(if word.starts_with("--") { " \\\n    " } else { " " });
        text.push_str(&quote(word));
    }
    text
}
