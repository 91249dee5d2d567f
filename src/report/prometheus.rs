//! `--format prometheus` and `leakcheck.prom`: for the textfile collector of node_exporter, in the text format of Prometheus 0.0.4. All are
//! gauges of the run that was last; `leakcheck_run_timestamp_seconds` says when that was, so that a run that did not come can alarm too.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{Format, Look, ReportError};
use crate::model::report::{Outage, Report, RunVerdict};

pub(super) const FORMAT: Format = Format {
    name: "prometheus",
    file: "leakcheck.prom",
    about: "for the textfile collector of Prometheus's node_exporter",
    render,
};

fn render(report: &Report, _look: &Look) -> Result<String, ReportError> {
    let target = ("target", report.target.as_str());
    let mut text = Text(String::new());
    let started = report.started.parse::<Timestamp>().ok();
    if let Some(started) = started {
        let seconds = started.as_millisecond() as f64 / 1e3;
        text.family("leakcheck_run_timestamp_seconds", "When the run began, Unix time.", [(vec![target], seconds)]);
    }
    text.family(
        "leakcheck_run_duration_seconds",
        "How long the run took.",
        [(vec![target], report.duration_ms as f64 / 1e3)],
    );
    text.family(
        "leakcheck_exit_status",
        "Exit status of the run: 0 passed, 1 failed, 3 not decided, 4 not put back.",
        [(vec![target], f64::from(report.exit_status))],
    );
    let verdicts = [RunVerdict::Pass, RunVerdict::Fail, RunVerdict::Inconclusive].map(|verdict| {
        let word = match verdict {
            RunVerdict::Pass => "pass",
            RunVerdict::Fail => "fail",
            RunVerdict::Inconclusive => "inconclusive",
        };
        (vec![target, ("verdict", word)], f64::from(u8::from(report.verdict == verdict)))
    });
    text.family("leakcheck_verdict", "1 for what the run came to, 0 for the others.", verdicts);
    text.family(
        "leakcheck_restored",
        "Whether the stack is as it was before the run.",
        [(vec![target], f64::from(u8::from(report.restored())))],
    );
    let counts = report.summary.counts().map(|(word, count)| (vec![target, ("verdict", word.as_str())], count as f64));
    text.family("leakcheck_checks", "Askings of probes by what they came to.", counts);
    let probes = report.probes.iter().map(|probe| {
        let labels = vec![
            target,
            ("probe", probe.id.as_str()),
            ("phase", probe.phase.as_str()),
            ("method", probe.method.as_deref().unwrap_or_default()),
            ("verdict", probe.verdict.as_str()),
        ];
        (labels, 1.0)
    });
    text.family("leakcheck_probe", "1 for each asking of a probe, with what it came to.", probes);
    let leaked: u64 = report.wire.leaks.iter().map(|leak| leak.count).sum();
    text.family(
        "leakcheck_leaked_packets",
        "Packets on an uplink that should not have been there.",
        [(vec![target], leaked as f64)],
    );
    text.family(
        "leakcheck_lost_packets",
        "Packets that the sensor lost; more than none leaves doubts.",
        [(vec![target], report.wire.dropped as f64)],
    );
    let of_outages = |value: &dyn Fn(&Outage) -> Option<f64>| -> Vec<_> {
        let values = report
            .outages
            .iter()
            .filter_map(|outage| Some((vec![target, ("method", outage.method.as_str())], value(outage)?)));
        values.collect()
    };
    text.family(
        "leakcheck_outage_escaped_packets",
        "Packets that escaped while the tunnel was down.",
        of_outages(&|outage| Some(outage.holes.iter().map(|hole| hole.packets).sum::<u64>() as f64)),
    );
    text.family(
        "leakcheck_outage_dark_seconds",
        "Time from taking the tunnel down until nothing passed it.",
        of_outages(&|outage| Some(outage.blackhole_ms? / 1e3)),
    );
    text.family(
        "leakcheck_outage_recovery_seconds",
        "Time from putting the tunnel back until its exit was proven.",
        of_outages(&|outage| Some((outage.recovered_ms? - outage.up_ms?) / 1e3)),
    );
    text.family(
        "leakcheck_outage_longest_gap_seconds",
        "Longest time between two samples: shorter holes may have gone unseen.",
        of_outages(&|outage| Some(outage.longest_gap_ms / 1e3)),
    );
    Ok(text.0)
}

struct Text(String);

impl Text {
    /// One metric with its help, type and samples; without samples, nothing.
    fn family<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, f64)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.into_iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
            let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
        }
    }
}

/// A label's value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn looks_as_it_does() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        snapbox::assert_data_eq!(text, snapbox::file!["../../fixtures/report/failing.prom"].raw());
    }

    #[test]
    fn every_line_is_a_sample_or_says_of_one_whatever_the_texts() {
        let mut report = sample::failing();
        report.each_text(&mut |text, _| text.push_str("\"} 1\nevil{a=\"\\"));
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("leakcheck_")), "{text}");
    }

    /// What `promtool check metrics` objects to (promlint of client_golang), and what makes the collector refuse the whole file.
    #[test]
    fn it_is_what_promtool_wants() {
        const TYPES: [&str; 6] = ["counter", "gauge", "histogram", "summary", "untyped", "gaugehistogram"];
        const OF_OTHER_TYPES: [&str; 4] = ["total", "count", "sum", "bucket"];
        const SHORT_UNITS: [&str; 14] =
            ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"];
        const NOT_BASE_UNITS: [&str; 8] =
            ["milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "bits", "kilobytes"];
        let mut of_two_outages = sample::failing();
        of_two_outages.outages.push(Outage { method: "kill".to_owned(), ..of_two_outages.outages[0].clone() });
        for report in [sample::passing(), sample::failing(), sample::with_access(), of_two_outages] {
            let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
            assert!(text.ends_with('\n'), "{text}");
            let mut families = std::collections::BTreeSet::new();
            let mut samples = std::collections::BTreeSet::new();
            let mut now = "";
            for line in text.lines() {
                if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                    assert!(families.insert(name) && !help.is_empty(), "{line}");
                    let words: Vec<&str> = name.split('_').collect();
                    let has = |wrong: &[&str]| words.iter().any(|word| wrong.contains(word));
                    assert!(!has(&TYPES) && !has(&SHORT_UNITS) && !has(&NOT_BASE_UNITS), "{name}");
                    assert!(!OF_OTHER_TYPES.contains(words.last().unwrap()), "{name}");
                    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
                    now = name;
                } else if let Some(of) = line.strip_prefix("# TYPE ") {
                    assert_eq!(of, format!("{now} gauge"));
                } else {
                    let (labelled, value) = line.rsplit_once(' ').unwrap();
                    assert_eq!(labelled.split_once('{').unwrap().0, now, "a family is in one piece");
                    assert!(samples.insert(labelled), "twice: {line}");
                    assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
                }
            }
        }
    }

    #[test]
    fn a_run_without_outages_says_nothing_of_them() {
        let mut report = sample::passing();
        report.outages.clear();
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        assert!(!text.contains("leakcheck_outage"), "{text}");
        assert!(text.contains("leakcheck_verdict{target=\"docker:gluetun\",verdict=\"pass\"} 1\n"), "{text}");
    }
}
