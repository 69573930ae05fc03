//! Virtual CPUs: their number, their affinity and their features.

use serde::{Deserialize, Serialize};

use super::cpuid::Cpuid;
use super::cpulist::{Affinity, read_affinity};
use super::vnuma::VirtualNode;
use crate::diag::{Code, Diagnostic};
use crate::keys::DomainType;
use crate::keyword::keywords;
use crate::reader::Reader;
use crate::syntax::Value;

/// More vCPUs than Xen gives to any guest.
pub(crate) const MAX_VCPUS: u32 = 4096;

keywords! {
    /// The users of alternate views of guest memory.
    Altp2m {
        /// Neither the guest nor tools.
        Disabled = "disabled",
        /// The guest and tools in other domains.
        Mixed = "mixed",
        /// Only tools in other domains.
        External = "external",
        /// The guest, to switch views only.
        Limited = "limited",
    }
}

/// The guest's processors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processors {
    /// Number of vCPUs that are online at the start: `vcpus`, default 1.
    pub vcpus: u32,
    /// Maximum number of vCPUs: `maxvcpus`, else those of the virtual nodes, else `vcpus`.
    pub max_vcpus: u32,
    /// Hard affinity (`cpus`).
    pub hard_affinity: Option<Affinity>,
    /// Soft affinity (`cpus_soft`).
    pub soft_affinity: Option<Affinity>,
    /// The scheduler's parameters.
    pub scheduling: Scheduling,
    /// The results of the CPUID instruction that differ from the default.
    pub cpuid: Option<Cpuid>,
    /// Whether the guest may run a hypervisor of its own (`nestedhvm`).
    pub nested_hvm: Option<bool>,
    /// The users of alternate views of memory (`altp2m`).
    pub altp2m: Option<Altp2m>,
    /// Maximum number of alternate views (`altp2m_count`).
    pub altp2m_count: Option<u32>,
    /// Whether reads of unknown MSRs give 0 instead of a fault (`msr_relaxed`).
    pub msr_relaxed: Option<bool>,
    /// Size of the trace buffer of each vCPU, in KiB (`vmtrace_buf_kb`).
    pub vmtrace_buf_kib: Option<u32>,
    /// Whether the guest sees the performance counters (`vpmu`, Arm).
    pub vpmu: Option<bool>,
}

/// The scheduler's parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// Share of the processors against other guests, 1 to 65535 (`cpu_weight`).
    pub weight: Option<u32>,
    /// Most processor time, in percent of one processor; 0 is no limit (`cap`).
    pub cap_percent: Option<u32>,
    /// Period of the RTDS scheduler, in microseconds (`period`).
    pub period_us: Option<u32>,
    /// Whether RTDS gives time beyond the budget (`extratime`).
    pub extra_time: Option<bool>,
}

impl Processors {
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        domain_type: DomainType,
        vnuma: &[VirtualNode],
    ) -> Self {
        let (vcpus, max_vcpus) = read_counts(reader, vnuma);
        Self {
            vcpus,
            max_vcpus,
            hard_affinity: read_affinity(reader, "cpus", max_vcpus),
            soft_affinity: read_affinity(reader, "cpus_soft", max_vcpus),
            scheduling: Scheduling::read(reader),
            cpuid: Cpuid::read(reader),
            nested_hvm: reader.flag("nestedhvm"),
            altp2m: read_altp2m(reader, domain_type),
            altp2m_count: reader.u32("altp2m_count", "a number of views", 0..=u32::from(u16::MAX)),
            msr_relaxed: reader.flag("msr_relaxed"),
            vmtrace_buf_kib: read_vmtrace(reader),
            vpmu: reader.flag("vpmu"),
        }
    }
}

impl Scheduling {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            weight: reader.u32("cpu_weight", "a weight", 1..=65535),
            cap_percent: reader.u32("cap", "percent of one processor", 0..=u32::from(u16::MAX)),
            period_us: reader.u32(
                "period",
                "a number of microseconds",
                1..=i32::MAX.unsigned_abs(),
            ),
            extra_time: reader.flag("extratime"),
        }
    }
}

fn read_counts(reader: &mut Reader<'_>, vnuma: &[VirtualNode]) -> (u32, u32) {
    let what = "a number of processors";
    let vcpus = reader.u32("vcpus", what, 1..=MAX_VCPUS);
    let max_vcpus = reader.u32("maxvcpus", what, 1..=MAX_VCPUS);
    let in_nodes: u32 = vnuma
        .iter()
        .map(|node| u32::try_from(node.vcpus.len()).unwrap_or(0))
        .sum();
    let in_nodes = (in_nodes > 0).then_some(in_nodes);
    if let (Some(nodes), Some(max), Some(span)) = (in_nodes, max_vcpus, reader.span("vnuma"))
        && nodes != max
    {
        let message =
            format!("the virtual nodes have {nodes} vCPUs together, `maxvcpus` says {max}");
        let help = "make them equal, or leave `maxvcpus` out";
        reader.error(Code::Conflict, span, message, help);
    }
    let online = vcpus.unwrap_or(1);
    let max = max_vcpus.or(in_nodes).unwrap_or(online);
    if max < online {
        too_few(reader, online, max);
    }
    (online, max.max(online))
}

fn too_few(reader: &mut Reader<'_>, online: u32, max: u32) {
    let Some(vcpus_span) = reader.span("vcpus") else {
        return;
    };
    let (span, who) = match (reader.span("maxvcpus"), reader.span("vnuma")) {
        (Some(span), _) => (span, "`maxvcpus` is"),
        (None, Some(span)) => (span, "the number of vCPUs in `vnuma` is"),
        (None, None) => return,
    };
    reader.diags.push(
        Diagnostic::error(
            Code::Conflict,
            span,
            format!("{who} {max}, less than the {online} of `vcpus`"),
        )
        .note_at(vcpus_span, "`vcpus` is set here")
        .help("`vcpus` is how many are online at the start, `maxvcpus` how many there can be"),
    );
}

/// `altp2m` is a word, or a number from 0 to 3.
fn read_altp2m(reader: &mut Reader<'_>, domain_type: DomainType) -> Option<Altp2m> {
    if let Some(mode) = numbered(reader, "altp2m", "altp2m") {
        return mode;
    }
    let named = reader.keyword_any_case("altp2m");
    if named.is_some() || domain_type != DomainType::Hvm {
        return named;
    }
    // The deprecated boolean. Its deprecation was reported already.
    reader
        .flag("altp2mhvm")
        .map(|on| if on { Altp2m::Mixed } else { Altp2m::Disabled })
}

/// A keyword given as its number, which xl takes for old times' sake. `None` if the setting is no number.
pub(crate) fn numbered<T: crate::keyword::Keyword + std::fmt::Display>(
    reader: &mut Reader<'_>,
    key: &str,
    what: &str,
) -> Option<Option<T>> {
    let setting = reader.setting(key)?;
    let text = setting.value.atom()?;
    let number = crate::number::parse(text.text).ok()?;
    let found = usize::try_from(number)
        .ok()
        .and_then(|index| T::ALL.get(index));
    match found {
        Some((name, value)) => {
            let message = format!("`{key}` as a number is deprecated");
            let remedy = setting.write(&Value::Atom((*name).to_owned()), "");
            reader.warn(Code::Deprecated, text.span(), message, remedy);
            Some(Some(*value))
        }
        None => {
            let help = format!("known are {}", crate::keyword::one_of(T::names()));
            reader.error(
                Code::OutOfRange,
                text.span(),
                format!("there is no {what} number {number}"),
                help,
            );
            Some(None)
        }
    }
}

fn read_vmtrace(reader: &mut Reader<'_>) -> Option<u32> {
    reader
        .u32(
            "vmtrace_buf_kb",
            "a number of KiB",
            0..=i32::MAX.unsigned_abs(),
        )
        .filter(|&size| size != 0)
}
