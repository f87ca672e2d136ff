//! How much memory a server may take.

use std::fs;
use std::ops::RangeInclusive;

/// An eighth of the machine's memory, within `bounds`, in MiB: the servers are not alone here.
pub(crate) fn eighth_mib(bounds: RangeInclusive<u64>) -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    let mebibytes = total.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(0, |kib| kib / 1024);
    (mebibytes / 8).clamp(*bounds.start(), *bounds.end())
}
