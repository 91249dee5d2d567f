//! The words of leakcheck as data: probes, evidence, verdicts and the report. No I/O, and nothing here imports from the rest of the crate.

pub mod comparison;
pub mod evidence;
pub mod firewall;
pub mod probe;
pub mod report;
pub mod verdict;
