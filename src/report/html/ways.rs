//! The picture of ways: of each probe's stimuli, what share went by which.

use crate::model::probe::Phase;
use crate::model::report::{Report, VerdictWord, Ways};
use crate::report::prose;

/// Where the bars begin and end, in the picture's own units, and what a row takes.
const LEFT: f64 = 300.0;
const RIGHT: f64 = 900.0;
const ROW: usize = 26;
/// Rows that are shown.
const ROWS: usize = 60;

/// One probe.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) y: usize,
    pub(super) parts: Vec<Part>,
    pub(super) total: String,
}

/// A part of a bar.
pub(super) struct Part {
    pub(super) class: &'static str,
    pub(super) x: String,
    pub(super) width: String,
    pub(super) title: String,
}

/// Probes that sent stimuli of their own, while the tunnel was up; those in which some left by an uplink in any phase.
pub(super) fn rows(report: &Report) -> Vec<Row> {
    let probes = report.probes.iter().filter_map(|probe| Some((probe, probe.ways?)));
    let wanted = probes.filter(|(probe, ways)| probe.phase == Phase::Up || ways.uplink > 0);
    let rows = wanted.take(ROWS).enumerate();
    rows.map(|(at, (probe, ways))| Row {
        name: probe.name(),
        y: at * ROW + 4,
        parts: parts(&ways, probe.verdict == VerdictWord::Pass),
        total: prose::count(ways.total(), "packet"),
    })
    .collect()
}

/// Of all rows.
pub(super) fn height(rows: &[Row]) -> usize {
    rows.len() * ROW + 4
}

/// What left by an uplink is no alarm where the probe `passed`: a router near by may be asked.
fn parts(ways: &Ways, passed: bool) -> Vec<Part> {
    let uplink = if passed { ("near", "left by the uplink, as it may") } else { ("uplink", "left by the uplink") };
    let all = [
        (uplink.0, ways.uplink, uplink.1),
        ("tunnel", ways.tunnel, "took the tunnel"),
        ("refused", ways.refused, "refused by the kernel"),
        ("nowhere", ways.nowhere, "went nowhere"),
        ("not-sent", ways.not_sent, "not sent"),
    ];
    // A single packet that left has to be seen among thousands.
    let least = |count: u64| if count == 0 { 0.0 } else { 6.0 };
    let room = RIGHT - LEFT - all.iter().map(|(_, count, _)| least(*count)).sum::<f64>();
    let mut x = LEFT;
    let mut parts = Vec::new();
    for (class, count, what) in all.into_iter().filter(|(_, count, _)| *count > 0) {
        let width = least(count) + room * count as f64 / ways.total() as f64;
        parts.push(Part {
            class,
            x: format!("{x:.1}"),
            width: format!("{width:.1}"),
            title: format!("{} {what}", prose::count(count, "packet")),
        });
        x += width;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_and_shows_one_in_thousands() {
        let parts = parts(&Ways { uplink: 1, tunnel: 5_000, ..Ways::default() }, false);
        let widths: Vec<f64> = parts.iter().map(|part| part.width.parse().unwrap()).collect();
        assert!((widths.iter().sum::<f64>() - (RIGHT - LEFT)).abs() < 0.5, "{widths:?}");
        assert!(parts[0].class == "uplink" && widths[0] > 5.0, "{widths:?}");
    }
}
