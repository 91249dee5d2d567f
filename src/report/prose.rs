//! The sentences that several formats share: about an outage, about the wire, and the verdict of the run.

use crate::model::comparison::Comparison;
use crate::model::report::{
    EvidenceLine, Hole, LocalReach, Outage, ProbeResult, Report, RunVerdict, VerdictWord, WireLeak,
};

/// Probes that a conclusion names.
const NAMES: usize = 12;

/// Milliseconds as people read them: `0.8 ms`, `250 ms`, `5.0 s`, `2 min 5 s`.
pub(super) fn span(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 59_950.0 {
        format!("{:.1} s", ms / 1_000.0)
    } else {
        let seconds = (ms / 1_000.0).round();
        format!("{:.0} min {:.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}

/// `1 packet`, `2 packets`, `1,234 packets`.
pub(super) fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", number(n), if n == 1 { "" } else { "s" })
}

/// `1,234`.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One outage in one line.
pub(super) fn outage(outage: &Outage) -> String {
    let escaped: u64 = outage.holes.iter().map(|hole| hole.packets).sum();
    let mut parts = vec![match outage.blackhole_ms {
        Some(ms) => format!("dark after {}", span(ms)),
        None => "never dark".to_owned(),
    }];
    parts.push(format!("{} out", count(escaped, "packet")));
    if let Some(worst) = outage.local.iter().map(reached).reduce(f64::min) {
        let window = outage.up_ms.unwrap_or(outage.down_ms) - outage.down_ms;
        let reached = window * worst;
        parts.push(format!("LAN reachable {:.1} of {:.1} s", reached / 1_000.0, window / 1_000.0));
    }
    parts.push(match (outage.recovered_ms, outage.up_ms) {
        (Some(recovered), Some(up)) => format!("back after {}", span(recovered - up)),
        (_, Some(_)) => "not back in time".to_owned(),
        (_, None) => "never told to come back".to_owned(),
    });
    if !outage.restored {
        parts.push("NOT PUT BACK as it was".to_owned());
    }
    parts.join(", ")
}

/// The share of the time in which a local target was there.
fn reached(local: &LocalReach) -> f64 {
    if local.watched_ms > 0.0 { local.reached_ms / local.watched_ms } else { share(local.answered, local.asked) }
}

/// The share of `part` in `whole`; of nothing, none.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// What stands under the line of an outage: holes and resolution.
pub(super) fn outage_details(outage: &Outage) -> Vec<String> {
    holes(outage).into_iter().chain(resolution(outage)).collect()
}

/// The holes of an outage, a line each.
pub(super) fn holes(outage: &Outage) -> Vec<String> {
    let line = |hole: &Hole| {
        let packets = count(hole.packets, &format!("{} packet", hole.proto));
        format!("hole at {:.1} to {:.1} ms: {packets}", hole.from_ms, hole.to_ms)
    };
    outage.holes.iter().map(line).collect()
}

/// How short holes were that would have been seen.
pub(super) fn resolution(outage: &Outage) -> Option<String> {
    let (samples, gap) = (count(outage.samples, "sample"), span(outage.longest_gap_ms));
    (outage.samples > 0).then(|| format!("{samples}, the longest gap between two {gap}"))
}

/// The wire in one line.
pub(super) fn wire(report: &Report) -> String {
    let wire = &report.wire;
    if wire.links.is_empty() {
        return "no uplink was listened on".to_owned();
    }
    let leaked: u64 = wire.leaks.iter().map(|leak| leak.count).sum();
    let seen = match leaked {
        0 => "none that should not be there".to_owned(),
        n => format!("{} that should not be there", number(n)),
    };
    let lost = match wire.dropped {
        0 => "none lost".to_owned(),
        n => format!("{} LOST by the sensor", number(n)),
    };
    format!("{}: {} looked at, {seen}, {lost}", wire.links.join(", "), count(wire.packets, "packet"))
}

/// One kind of packet that should not have been there.
pub(super) fn wire_leak(leak: &WireLeak) -> String {
    let whose = leak.probe.as_ref().map(|probe| format!(", sent by {probe}")).unwrap_or_default();
    let many = if leak.count > 1 { format!(" x{}", number(leak.count)) } else { String::new() };
    let more: String = leak.detail.iter().map(|detail| format!(", {detail}")).collect();
    format!("at {} {} {} {} -> {}{many}{whose}{more}", span(leak.at_ms), leak.link, leak.proto, leak.src, leak.dst)
}

/// What became of the probes since the baseline, the count first; nothing where there is none.
pub(super) fn comparison(report: &Report) -> Vec<String> {
    let Some(Comparison { started, target, worse, better, new, gone, same }) = &report.comparison else {
        return Vec::new();
    };
    let whose = if *target == report.target { String::new() } else { format!(" of {target}") };
    let mut lines = vec![format!(
        "since {started}{whose}: {} worse, {} better, {} new, {} not asked now, {same} as before",
        worse.len(),
        better.len(),
        new.len(),
        gone.len()
    )];
    for (word, changes) in [("worse", worse), ("better", better), ("new", new), ("not asked now", gone)] {
        lines.extend(changes.iter().map(|change| {
            let verdict = |verdict: Option<VerdictWord>| verdict.map_or("not asked", VerdictWord::as_str);
            format!("{word}: {}, {} before, {} now", change.probe, verdict(change.before), verdict(change.now))
        }));
    }
    lines
}

/// One line of evidence.
pub(super) fn evidence(line: &EvidenceLine) -> String {
    format!("at {}: {}", span(line.at_ms), line.what)
}

/// What is neither a pass nor a skip, the worst first.
pub(super) fn findings(report: &Report) -> Vec<&ProbeResult> {
    let mut findings: Vec<&ProbeResult> = report.probes.iter().filter(|probe| probe.verdict.is_finding()).collect();
    findings.sort_by_key(|probe| match probe.verdict {
        VerdictWord::Fail => 0,
        VerdictWord::Inconclusive => 1,
        _ => 2,
    });
    findings
}

/// What no probe says: that the stack was not put back, or that nothing was measured.
pub(super) fn trouble(report: &Report) -> Option<&'static str> {
    if !report.restored() {
        Some("not-restored")
    } else if report.probes.iter().all(|probe| probe.verdict == VerdictWord::Skip) {
        Some("inconclusive")
    } else {
        None
    }
}

/// The verdict of the run in a word, what it means, and what to do next.
pub(super) fn conclusion(report: &Report) -> (&'static str, String) {
    let again = |wanted: &[VerdictWord]| {
        let mut names: Vec<_> = report
            .probes
            .iter()
            .filter(|probe| wanted.contains(&probe.verdict))
            .map(|probe| probe.id.as_str())
            .collect();
        names.dedup();
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        // More than that are most of what there is, and nobody types them.
        if names.len() > NAMES { "ask again.".to_owned() } else { format!("ask again for {}.", names.join(" ")) }
    };
    let total = report.probes.len() as u64;
    let (word, text) = match report.verdict {
        RunVerdict::Pass => ("PASS", pass(report)),
        RunVerdict::Fail => {
            let wanted: &[_] =
                if report.strict { &[VerdictWord::Fail, VerdictWord::Warn] } else { &[VerdictWord::Fail] };
            let failed = report.probes.iter().filter(|probe| wanted.contains(&probe.verdict)).count();
            let text = format!("{failed} of {} did not hold. Mend that, then {}", count(total, "check"), again(wanted));
            ("FAIL", text)
        }
        RunVerdict::Inconclusive if report.summary.inconclusive == 0 => {
            ("INCONCLUSIVE", "No check came to an answer, so nothing is proven.".to_owned())
        }
        RunVerdict::Inconclusive => {
            let text = format!(
                "Nothing failed, but {} of {} could not be decided, so the stack is not proven tight. Remove what stood \
                 in the way, then {}",
                report.summary.inconclusive,
                count(total, "check"),
                again(&[VerdictWord::Inconclusive])
            );
            ("INCONCLUSIVE", text)
        }
    };
    if report.restored() {
        return (word, text);
    }
    if let Some(state) =
        report.outages.iter().filter(|outage| outage.restored).find_map(|outage| outage.gave_up.as_ref())
    {
        let text = format!(
            "{text} All that leakcheck changed is undone, but the VPN is NOT BACK: {state}. See the VPN container's log; \
             restart it, then what depends on it; ask again with --quick."
        );
        return (word, text);
    }
    (
        word,
        format!(
            "{text} The stack is NOT AS IT WAS before the run: restart the VPN container, then what depends on it."
        ),
    )
}

fn pass(report: &Report) -> String {
    let passed = count(report.summary.pass, "check");
    let warned = match report.summary.warn {
        0 => String::new(),
        n => format!(" {} {} worth mending.", count(n, "warning"), if n == 1 { "is" } else { "are" }),
    };
    if report.outages.is_empty() {
        return format!(
            "{passed} held with the tunnel up.{warned} The tunnel was not taken down, so the kill switch is not proven: \
             leave --quick out for that."
        );
    }
    format!("{passed} held, with the tunnel up, down and back.{warned} Ask again after every change to the stack.")
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn spans_and_counts_read_well() {
        assert_eq!(
            [0.84, 9.96, 250.4, 999.6, 5_000.4, 125_000.0].map(span),
            ["0.8 ms", "10.0 ms", "250 ms", "1.0 s", "5.0 s", "2 min 5 s"]
        );
        assert_eq!(
            [1, 2, 1_234, 1_000_000].map(|n| count(n, "packet")),
            ["1 packet", "2 packets", "1,234 packets", "1,000,000 packets"]
        );
    }

    #[test]
    fn outages_are_told_in_a_line() {
        let mut report = sample::passing();
        assert_eq!(
            outage(&report.outages[0]),
            "dark after 0.8 ms, 0 packets out, LAN reachable 5.0 of 5.0 s, back after 1.2 s"
        );
        report = sample::failing();
        report.outages[0].recovered_ms = None;
        report.outages[0].restored = false;
        assert_eq!(
            outage(&report.outages[0]),
            "dark after 0.8 ms, 3 packets out, LAN reachable 2.5 of 5.0 s, not back in time, NOT PUT BACK as it was"
        );
    }

    #[test]
    fn the_conclusion_follows_the_verdict() {
        let word = |report: &Report| conclusion(report).0;
        let mut report = sample::passing();
        assert_eq!(word(&report), "PASS");
        report.outages.clear();
        assert!(conclusion(&report).1.contains("--quick"));
        report.probes[0].verdict = VerdictWord::Warn;
        report.strict = true;
        report.settle();
        assert!(conclusion(&report).1.ends_with("ask again for exit-address."));
        assert_eq!((word(&report), report.exit_status), ("FAIL", 1));
        report.probes.clear();
        report.settle();
        assert_eq!((word(&report), report.exit_status), ("INCONCLUSIVE", 3));
        report = sample::failing();
        assert!(
            conclusion(&report).1.contains("3 of 7 checks")
                && conclusion(&report).1.ends_with("exit-address kill-switch.")
        );
        report.outages[0].gave_up = Some("tun0 is up".to_owned());
        report.settle();
        assert!(conclusion(&report).1.contains("the VPN is NOT BACK: tun0 is up. See"));
        assert_eq!(report.exit_status, 4);
        report.outages[0].restored = false;
        report.settle();
        assert!(conclusion(&report).1.contains("NOT AS IT WAS"));
        assert_eq!(report.exit_status, 4);
    }
}
