//! What this process may do to networks (capabilities(7)).

/// Bit of CAP_NET_ADMIN.
pub const NET_ADMIN: u32 = 12;
/// Bit of CAP_NET_RAW.
pub const NET_RAW: u32 = 13;
/// Bit of CAP_SYS_PTRACE.
pub const SYS_PTRACE: u32 = 19;
/// Bit of CAP_SYS_ADMIN.
pub const SYS_ADMIN: u32 = 21;

/// Whether this process has the capability of this bit in effect (CapEff of proc(5)); not, where that cannot be read.
pub fn is_held(bit: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> bit & 1 == 1)
}
