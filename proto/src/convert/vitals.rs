//! An agent's vitals.

use super::basics::{Checked, Invalid, invalid};
use crate::limits as max;
use crate::pb;
use crate::vitals::{Vitals, WireState};

impl From<Vitals> for pb::Vitals {
    fn from(v: Vitals) -> Self {
        Self {
            threads: v.threads,
            wall_us: v.wall_us,
            process_cpu_us: v.process_cpu_us,
            load_cpu_us: v.load_cpu_us,
            run_queue_us: v.run_queue_us,
            throttled_us: v.throttled_us,
            host_cpu_permille: v.host_cpu_permille,
            host_steal_permille: v.host_steal_permille,
            overshoot: v.overshoot,
            retransmits: v.retransmits,
            syn_retransmits: v.syn_retransmits,
            listen_overflows: v.listen_overflows,
            errnos: v.errnos.into_iter().map(|(errno, count)| pb::ErrnoCount { errno, count }).collect(),
            memory_bytes_max: v.memory_bytes_max,
            descriptors_max: v.descriptors_max,
            in_flight_max: v.in_flight_max,
            tcp_in_use: v.tcp_in_use,
            time_wait: v.time_wait,
            realtime_step_us: v.realtime_step_us,
            wire: match v.wire {
                WireState::Measured => pb::Wire::Measured,
                WireState::Off => pb::Wire::Off,
                WireState::Unavailable => pb::Wire::Unavailable,
                WireState::Void => pb::Wire::Void,
            }
            .into(),
            host_cpus: v.host_cpus,
            beside_target: v.beside_target,
            let_go_us_max: v.let_go_us_max,
            left_open: v.left_open,
        }
    }
}

impl TryFrom<pb::Vitals> for Vitals {
    type Error = Invalid;

    fn try_from(v: pb::Vitals) -> Checked<Self> {
        if v.overshoot.len() > max::HISTOGRAM_BYTES_MAX {
            return invalid("vitals.overshoot", "too large");
        }
        if v.errnos.len() > max::ERRNOS_MAX {
            return invalid("vitals.errnos", format!("{} of them", v.errnos.len()));
        }
        let state = match pb::Wire::try_from(v.wire) {
            Ok(pb::Wire::Measured) => WireState::Measured,
            Ok(pb::Wire::Off) => WireState::Off,
            Ok(pb::Wire::Unavailable) => WireState::Unavailable,
            Ok(pb::Wire::Void) => WireState::Void,
            Ok(pb::Wire::Unspecified) | Err(_) => return invalid("vitals.wire", format!("unknown value {}", v.wire)),
        };
        Ok(Self {
            threads: v.threads,
            wall_us: v.wall_us,
            process_cpu_us: v.process_cpu_us,
            load_cpu_us: v.load_cpu_us,
            run_queue_us: v.run_queue_us,
            throttled_us: v.throttled_us,
            host_cpu_permille: v.host_cpu_permille,
            host_steal_permille: v.host_steal_permille,
            overshoot: v.overshoot,
            retransmits: v.retransmits,
            syn_retransmits: v.syn_retransmits,
            listen_overflows: v.listen_overflows,
            errnos: v.errnos.into_iter().map(|e| (e.errno, e.count)).collect(),
            memory_bytes_max: v.memory_bytes_max,
            descriptors_max: v.descriptors_max,
            in_flight_max: v.in_flight_max,
            tcp_in_use: v.tcp_in_use,
            time_wait: v.time_wait,
            realtime_step_us: v.realtime_step_us,
            wire: state,
            host_cpus: v.host_cpus,
            beside_target: v.beside_target,
            let_go_us_max: v.let_go_us_max,
            left_open: v.left_open,
        })
    }
}
