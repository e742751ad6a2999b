//! What SLURM tells a process about its place in a job, by environment variables (`man srun`, "OUTPUT ENVIRONMENT
//! VARIABLES"). Only [`variable`] reads the environment; everything else is given a [`Variable`].

/// Looks up an environment variable; `None` if it is unset or empty.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables of this process.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// One task of a job step, as `srun` starts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub node: String,
    /// Its number among all tasks of the step, from 0.
    pub rank: u32,
    /// What `--cpus-per-task` asked for.
    pub cpus: Option<u32>,
}

impl Task {
    /// `None` if this process is no task of a step. A batch script has a rank too, but its step is not one of `srun`'s.
    #[must_use]
    pub fn of(variable: Variable<'_>) -> Option<Self> {
        let number = |name: &str| variable(name).and_then(|value| value.parse::<u32>().ok());
        number("SLURM_STEP_ID")?;
        Some(Self {
            node: variable("SLURMD_NODENAME")?,
            rank: number("SLURM_PROCID")?,
            cpus: number("SLURM_CPUS_PER_TASK").filter(|cpus| *cpus > 0),
        })
    }

    /// The name of the task's agent, as in `n1-0`: node and rank.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.node, self.rank)
    }
}

/// The job that this process belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub id: u64,
    pub nodes: u32,
    /// This node's name within the cluster.
    pub node: Option<String>,
    /// The smallest number of processors of its nodes.
    pub cpus_per_node: Option<u32>,
}

impl Job {
    /// `None` outside of a job.
    #[must_use]
    pub fn of(variable: Variable<'_>) -> Option<Self> {
        let number = |name: &str| variable(name).and_then(|value| value.parse::<u64>().ok());
        let small = |name: &str| number(name).and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0);
        Some(Self {
            id: number("SLURM_JOB_ID")?,
            nodes: small("SLURM_JOB_NUM_NODES").unwrap_or(1),
            node: variable("SLURMD_NODENAME"),
            cpus_per_node: variable("SLURM_JOB_CPUS_PER_NODE").and_then(|list| least(&list)),
        })
    }

    /// The srun command that starts `agents` agents on this job's nodes; the program comes after it. `--overlap` lets
    /// the coordinator be a step too. The last three options keep SLURM from ending the others when one agent or node
    /// is lost: the coordinator decides what that means.
    #[must_use]
    pub fn srun(&self, agents: u32) -> String {
        let nodes = self.nodes.min(agents).max(1);
        let per_node = agents.div_ceil(nodes).max(1);
        let cpus = match self.cpus_per_node.map(|cpus| cpus / per_node) {
            Some(cpus) if cpus > 0 => format!(" --cpus-per-task={cpus}"),
            _ => String::new(),
        };
        format!(
            "srun --overlap --nodes={nodes} --ntasks={agents} --ntasks-per-node={per_node}{cpus} --no-kill --kill-on-bad-exit=0 --wait=0"
        )
    }
}

/// The smallest number of a list such as `48(x2),96`.
fn least(list: &str) -> Option<u32> {
    list.split(',').map(|part| part.split('(').next().unwrap_or(part).trim().parse().ok()).min().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn a_task_is_named_after_its_node_and_rank() {
        let step = [("SLURM_STEP_ID", "1"), ("SLURM_PROCID", "5"), ("SLURMD_NODENAME", "n3")];
        let task = Task::of(&variables(&step)).expect("task");
        assert_eq!((task.name().as_str(), task.cpus), ("n3-5", None));
        let with_cpus = [&step[..], &[("SLURM_CPUS_PER_TASK", "12")]].concat();
        assert_eq!(Task::of(&variables(&with_cpus)).and_then(|task| task.cpus), Some(12));
    }

    #[test]
    fn a_batch_script_is_no_task() {
        let batch = [("SLURM_PROCID", "0"), ("SLURMD_NODENAME", "n1"), ("SLURM_JOB_ID", "7")];
        assert_eq!(Task::of(&variables(&batch)), None);
        assert_eq!(Task::of(&variables(&[])), None);
        let odd = [("SLURM_STEP_ID", "batch"), ("SLURM_PROCID", "0"), ("SLURMD_NODENAME", "n1")];
        assert_eq!(Task::of(&variables(&odd)), None);
    }

    #[test]
    fn the_srun_line_fits_the_job() {
        let job = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_JOB_NUM_NODES", "4"),
            ("SLURM_JOB_CPUS_PER_NODE", "96,48(x3)"),
            ("SLURMD_NODENAME", "n1"),
        ];
        let job = Job::of(&variables(&job)).expect("job");
        assert_eq!(
            job.srun(8),
            "srun --overlap --nodes=4 --ntasks=8 --ntasks-per-node=2 --cpus-per-task=24 --no-kill --kill-on-bad-exit=0 --wait=0"
        );
        assert!(job.srun(1).starts_with("srun --overlap --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=48 "));
        let bare = Job::of(&variables(&[("SLURM_JOB_ID", "7")])).expect("job");
        assert_eq!(
            bare.srun(1),
            "srun --overlap --nodes=1 --ntasks=1 --ntasks-per-node=1 --no-kill --kill-on-bad-exit=0 --wait=0"
        );
        assert_eq!(Job::of(&variables(&[])), None);
        assert_eq!((least("4"), least("48(x2),96"), least("96,48(x3)")), (Some(4), Some(48), Some(48)));
        assert_eq!((least(""), least("x")), (None, None));
    }
}
