//! PURE: describes a plan for people.

use proto::{Launch, Mode};

use crate::plan::expand::{Batch, sessions_per_url};
use crate::plan::{Order, Plan, launch};
use crate::text::{count, duration, seconds_short};

/// Most batches that are listed; of a longer grid the middle is left out.
const LISTED_MAX: usize = 40;

/// The grid in order, its expected duration, and the resources that it needs.
#[must_use]
pub(super) fn describe(plan: &Plan) -> String {
    let batches = plan.batches();
    let mut text = format!("{}\n", headline(plan, &batches));
    let launch = launch::in_advance(plan.session.launch);
    text.push_str(&format!(
        "session    connect, reset, {} {}, close; think {} s; started {launch}\n",
        plan.session.steps,
        if plan.session.steps == 1 { "step" } else { "steps" },
        seconds_short(plan.session.think_us)
    ));
    text.push_str(&needs(plan));
    text.push_str(&proxies(plan));
    if let Some(warning) = beyond_the_server(plan) {
        text.push_str(&format!("server     {warning}\n"));
    }
    let bounds = plan.bounds();
    if bounds != proto::Bounds::STANDARD {
        text.push_str(&format!(
            "histograms reach {} h: a session with all of its waits and limits may last {}\n",
            bounds.high_us / proto::Bounds::STANDARD.high_us,
            duration(plan.session_ceiling_us())
        ));
    }
    text.push_str(&format!(
        "grid       {}{}\n",
        match plan.grid.order {
            Order::Ascending => "ascending".to_owned(),
            Order::Shuffled => format!("shuffled, seed {}", plan.session.seed),
        },
        if plan.grid.warmup { ", after one small batch that is not recorded" } else { "" }
    ));
    for batch in shown(&batches) {
        match batch {
            Some(batch) => text.push_str(&format!(
                "  {:>4}  {:4}  {:>8} sessions  wait {:>6} s  rep {}/{}  at least {}\n",
                batch.index + 1,
                batch.mode.to_string(),
                count(batch.batch_size),
                seconds_short(batch.wait_us),
                batch.repetition,
                plan.grid.repetitions,
                duration(plan.batch_floor_us(batch))
            )),
            None => text.push_str(&format!("   ...  {} more\n", batches.len() - LISTED_MAX)),
        }
    }
    text
}

/// `muster · slurm-multi · ws · http://10.0.0.5:8000 · 63 batches, about 21 min`
#[must_use]
pub(super) fn headline(plan: &Plan, batches: &[Batch]) -> String {
    let experiment = &plan.experiment;
    let name = if experiment.variant.is_empty() {
        experiment.infrastructure.clone()
    } else {
        format!("{}-{}", experiment.infrastructure, experiment.variant)
    };
    let modes: Vec<&str> = plan.target.mode.list().iter().map(|mode| Mode::as_str(*mode)).collect();
    let urls = match plan.target.urls.as_slice() {
        [] => "embedded target".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    format!(
        "muster · {name} · {} · {urls} · {} {}, about {}",
        modes.join("+"),
        batches.len(),
        if batches.len() == 1 { "batch" } else { "batches" },
        duration(plan.expected_us(batches))
    )
}

fn needs(plan: &Plan) -> String {
    let largest = plan.grid.batch_sizes.iter().copied().max().unwrap_or(0);
    let urls = plan.target.urls.len().max(1);
    let agents = u64::from(plan.agents.count);
    let per_url = sessions_per_url(largest, urls);
    let destination = if urls == 1 { "to the target".to_owned() } else { format!("to each of {urls} urls") };
    let local = match plan.agents.local {
        0 => String::new(),
        n if n == plan.agents.count => ", started by the coordinator".to_owned(),
        n => format!(", {n} of them started by the coordinator"),
    };
    if let Launch::Arrivals { over_us, .. } = plan.session.launch {
        // Little's law: sessions open at once are the arrival rate times the time each stays open.
        let longest_us = plan.grid.waits_us.iter().map(|wait_us| plan.session_floor_us(*wait_us)).max().unwrap_or(0);
        let open = u128::from(largest) * u128::from(longest_us) / u128::from(over_us.max(1));
        return format!(
            "needs      about {} sessions open at once if the server costs nothing, more if it is slow: as many descriptors and\n           \
             ports; what finds no place on an agent waits for one\n\
             agents     {}{local}; about {} sessions each\n",
            count(u64::try_from(open).unwrap_or(u64::MAX).clamp(1, largest.max(1))),
            count(agents),
            count(largest.div_ceil(agents.max(1)))
        );
    }
    format!(
        "needs      {} sessions at once: as many file descriptors, and {} ephemeral ports {destination} (a host has 28,232\n           \
         by default, shared by its agents)\n\
         agents     {}{local}; about {} sessions each\n",
        count(largest),
        count(per_url),
        count(agents),
        count(largest.div_ceil(agents.max(1)))
    )
}

/// What the proxies in front of the servers carry.
fn proxies(plan: &Plan) -> String {
    let (Some(balancer), urls) = (&plan.server.balancer, plan.target.urls.len() as u64) else { return String::new() };
    let largest = plan.grid.batch_sizes.iter().copied().max().unwrap_or(0);
    let each = count(largest.div_ceil(urls.max(1)));
    let carries = plan.server.proxy_sessions_max.map_or_else(
        || "how many one carries is not told (server.proxy_sessions_max)".to_owned(),
        |max| format!("one carries {}, {} in all", count(max), count(max.saturating_mul(urls))),
    );
    let warning = beyond_the_proxies(plan).map_or_else(String::new, |warning| format!("           {warning}\n"));
    format!("proxies    {urls} {balancer}, {each} sessions each of the largest batch: {carries}\n{warning}")
}

/// A warning if batches exceed the proxies' capacity: they would measure the balancer instead of the servers.
#[must_use]
pub(super) fn beyond_the_proxies(plan: &Plan) -> Option<String> {
    // It is not known how many arrivals are open at once.
    if matches!(plan.session.launch, Launch::Arrivals { .. }) {
        return None;
    }
    let urls = plan.target.urls.len() as u64;
    let most = plan.server.proxy_sessions_max?.saturating_mul(urls.max(1));
    let largest = plan.grid.batch_sizes.iter().copied().filter(|size| *size > most).max()?;
    let balancer = plan.server.balancer.as_deref().unwrap_or("proxy");
    Some(format!(
        "batches of up to {} sessions are more than the {urls} {balancer} {} carry ({}): beyond that it is the balancer that is measured, not the \
         server; start it for more (SESSIONS={largest}), or give smaller batches",
        count(largest),
        if urls == 1 { "process" } else { "processes" },
        count(most)
    ))
}

/// A warning if batches exceed the capacity that the server states.
#[must_use]
pub(super) fn beyond_the_server(plan: &Plan) -> Option<String> {
    // It is not known how many arrivals are open at once, and HTTP has no sessions to count.
    if matches!(plan.session.launch, Launch::Arrivals { .. }) || !plan.target.mode.list().contains(&Mode::Ws) {
        return None;
    }
    let (most, server) = (plan.known_capacity()?, &plan.server);
    let mut above: Vec<u64> = plan.grid.batch_sizes.iter().copied().filter(|size| *size > most).collect();
    above.sort_unstable();
    let sizes: Vec<String> = above.iter().map(|size| count(*size)).collect();
    let servers = most / server.workers.unwrap_or(1) / server.max_concurrent_envs.unwrap_or(1);
    let nodes = if servers > 1 { format!("{} servers x ", count(servers)) } else { String::new() };
    (!above.is_empty()).then(|| {
        format!(
            "{} {} more sessions than the server takes: {nodes}{} workers x {} environments = {} (server.workers, \
             server.max_concurrent_envs); what is beyond that it refuses",
            if above.len() == 1 { "a batch of" } else { "batches of" },
            if above.len() == 1 { format!("{} has", sizes[0]) } else { format!("{} have", sizes.join(", ")) },
            count(server.workers.unwrap_or(1)),
            count(server.max_concurrent_envs.unwrap_or(0)),
            count(most)
        )
    })
}

/// All batches, or the first and the last ones with `None` for those left out.
fn shown(batches: &[Batch]) -> Vec<Option<&Batch>> {
    if batches.len() <= LISTED_MAX {
        return batches.iter().map(Some).collect();
    }
    let (head, tail) = (LISTED_MAX * 3 / 4, LISTED_MAX / 4);
    let first = batches[..head].iter().map(Some);
    let last = batches[batches.len() - tail..].iter().map(Some);
    first.chain([None]).chain(last).collect()
}
