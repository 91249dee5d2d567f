//! `--format github` and `annotations.txt`: workflow commands that a runner of GitHub's turns into annotations (GitHub Docs, "Workflow commands
//! for GitHub Actions"). A step shows ten errors, ten warnings and ten notices; so there is one for each probe and not for each asking.

use super::{Format, Look, ReportError, prose};
use crate::model::report::{ProbeResult, Report, VerdictWord};

pub(super) const FORMAT: Format = Format {
    name: "github",
    file: "annotations.txt",
    about: "annotations of GitHub Actions, one for each probe that did not pass",
    render,
};

fn render(report: &Report, _look: &Look) -> Result<String, ReportError> {
    let mut text = String::new();
    // The worst first: the runner shows the first ten.
    for verdict in [VerdictWord::Fail, VerdictWord::Inconclusive, VerdictWord::Warn] {
        let mut told: Vec<&str> = Vec::new();
        for probe in report.probes.iter().filter(|probe| probe.verdict == verdict) {
            if !told.contains(&probe.id.as_str()) {
                told.push(&probe.id);
                text += &annotation(probe, report);
            }
        }
    }
    if let (Some(comparison), [count, changes @ ..]) = (&report.comparison, prose::comparison(report).as_slice()) {
        let command = if comparison.worse.is_empty() { "notice" } else { "warning" };
        let lines: Vec<&str> = std::iter::once(count).chain(changes.iter().take(10)).map(String::as_str).collect();
        text += &command_line(command, "leakcheck, since the baseline", &lines.join("\n"));
    }
    let (word, conclusion) = prose::conclusion(report);
    let command = if report.exit_status == 0 { "notice" } else { "error" };
    text += &command_line(command, &format!("leakcheck {}", report.target), &format!("{word}: {conclusion}"));
    Ok(text)
}

fn annotation(probe: &ProbeResult, report: &Report) -> String {
    // What was not decided is no success, and the step fails for it.
    let command = if probe.verdict == VerdictWord::Warn && !report.strict { "warning" } else { "error" };
    let same = |other: &&ProbeResult| other.id == probe.id && other.verdict == probe.verdict;
    let askings = report.probes.iter().filter(same).count();
    let mut lines = vec![probe.summary.clone()];
    lines.extend(probe.because().map(|reason| format!("because: {reason}")));
    if askings > 1 {
        lines.push(format!("and so in {} more", prose::count(askings as u64 - 1, "asking")));
    }
    if probe.verdict == VerdictWord::Inconclusive {
        lines.push(format!("not proven: {}", probe.claim));
    } else {
        lines.push(format!("mend: {}", probe.fix));
    }
    let title = format!("{} {}: {}", probe.verdict.as_str(), probe.name(), probe.title);
    command_line(command, &title, &lines.join("\n"))
}

fn command_line(command: &str, title: &str, message: &str) -> String {
    let property = escape(title).replace(':', "%3A").replace(',', "%2C");
    format!("::{command} title={property}::{}\n", escape(message))
}

/// As the runner reads data: see `escapeData` of actions/toolkit.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn looks_as_it_does() {
        let text = FORMAT.render(&sample::failing(), &Look::PLAIN).unwrap();
        snapbox::assert_data_eq!(text, snapbox::file!["../../fixtures/report/failing.annotations.txt"].raw());
    }

    #[test]
    fn every_line_is_a_command_of_ours_whatever_the_evidence_says() {
        let mut report = sample::failing();
        report.each_text(&mut |text, _| text.push_str("\n::error::x%0A::add-mask::y, title=a::b"));
        let text = FORMAT.render(&report, &Look::PLAIN).unwrap();
        let ours = ["::error title=", "::warning title=", "::notice title="];
        assert!(text.lines().all(|line| ours.iter().any(|start| line.starts_with(start))), "{text}");
        assert_eq!(text.lines().count(), 5, "two failed, one undecided, one warning, the conclusion:\n{text}");
    }

    #[test]
    fn a_warning_is_an_error_under_strict() {
        let mut report = sample::failing();
        assert!(FORMAT.render(&report, &Look::PLAIN).unwrap().contains("::warning title=warn dns-forced"));
        report.strict = true;
        report.settle();
        assert!(!FORMAT.render(&report, &Look::PLAIN).unwrap().contains("::warning"));
    }
}
