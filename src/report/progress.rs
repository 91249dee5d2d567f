//! What a run tells while it runs, on standard error: moving lines on a terminal, plain ones elsewhere.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{clean_line, colours_wanted, prose};
use crate::model::report::{ProbeResult, VerdictWord};

/// Characters of one line.
const LIMIT: usize = 300;

/// Told by the runner what happens.
pub trait Progress: Send + Sync {
    /// A phase begins: `up`, `outage vpn-stop` …
    fn phase(&self, phase: &str);
    /// An asking of a probe begins, by its name.
    fn started(&self, name: &str);
    /// An asking of a probe has come to its verdict.
    fn finished(&self, result: &ProbeResult);
    /// The tunnel is taken down by this method, for about this long.
    fn outage(&self, method: &str, window: Duration);
    /// Something else that the reader should know.
    fn note(&self, note: &str);
}

/// The progress that suits standard error. With `evidence`, each result shows what it rests on.
pub fn for_stderr(evidence: bool) -> Box<dyn Progress> {
    if io::stderr().is_terminal() { Box::new(Moving::new(evidence)) } else { Box::new(Lines { evidence }) }
}

/// One result in one line, and its evidence if that is wanted.
fn told(result: &ProbeResult, evidence: bool, colour: bool) -> Vec<String> {
    let sgr = match result.verdict {
        VerdictWord::Pass => "32",
        VerdictWord::Fail => "31",
        VerdictWord::Warn | VerdictWord::Inconclusive => "33",
        VerdictWord::Skip => "2",
    };
    let word = format!("{:<12}", result.verdict.as_str());
    let word = if colour { format!("\u{1b}[{sgr}m{word}\u{1b}[0m") } else { word };
    let text = format!("{} ({}): {}", result.name(), prose::span(result.duration_ms as f64), result.summary);
    let mut lines = vec![format!("{word} {}", clean_line(&text, LIMIT))];
    if evidence {
        lines.extend(result.evidence.iter().map(|line| format!("    {}", clean_line(&prose::evidence(line), LIMIT))));
    }
    lines
}

/// Plain lines.
struct Lines {
    evidence: bool,
}

impl Lines {
    fn say(&self, line: &str) {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

impl Progress for Lines {
    fn phase(&self, phase: &str) {
        self.say(&format!("phase {}", clean_line(phase, LIMIT)));
    }

    fn started(&self, _name: &str) {}

    fn finished(&self, result: &ProbeResult) {
        for line in told(result, self.evidence, false) {
            self.say(&line);
        }
    }

    fn outage(&self, method: &str, window: Duration) {
        self.say(&outage_line(method, window));
    }

    fn note(&self, note: &str) {
        self.say(&format!("note: {}", clean_line(note, LIMIT)));
    }
}

fn outage_line(method: &str, window: Duration) -> String {
    format!("the tunnel goes down by {} for {}", clean_line(method, LIMIT), prose::span(window.as_secs_f64() * 1_000.0))
}

/// A spinner that names what is going on, under the results so far.
struct Moving {
    bar: ProgressBar,
    evidence: bool,
    colour: bool,
    now: Mutex<Now>,
}

/// What is going on.
#[derive(Default)]
struct Now {
    phase: String,
    running: BTreeSet<String>,
}

impl Moving {
    fn new(evidence: bool) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Moving { bar, evidence, colour: colours_wanted(), now: Mutex::new(Now::default()) }
    }

    /// Changes what is going on, and shows it.
    fn change(&self, change: impl FnOnce(&mut Now)) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut now);
        let running = now.running.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let colon = if running.is_empty() { "" } else { ": " };
        self.bar.set_message(clean_line(&format!("{}{colon}{running}", now.phase), LIMIT));
    }
}

impl Progress for Moving {
    fn phase(&self, phase: &str) {
        self.change(|now| phase.clone_into(&mut now.phase));
    }

    fn started(&self, name: &str) {
        self.change(|now| {
            now.running.insert(name.to_owned());
        });
    }

    fn finished(&self, result: &ProbeResult) {
        for line in told(result, self.evidence, self.colour) {
            self.bar.println(line);
        }
        self.change(|now| {
            now.running.remove(&result.name());
        });
    }

    fn outage(&self, method: &str, window: Duration) {
        let line = outage_line(method, window);
        self.change(|now| now.phase = line);
    }

    fn note(&self, note: &str) {
        self.bar.println(format!("note: {}", clean_line(note, LIMIT)));
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_result_is_a_line_and_its_evidence() {
        let mut result = sample::failing().probes.remove(0);
        result.summary.push_str("\u{1b}[2J\n");
        let lines = told(&result, true, false);
        assert_eq!(lines.len(), 1 + result.evidence.len());
        assert!(lines[0].starts_with("fail         exit-address (123 ms): am.i"), "{}", lines[0]);
        assert!(lines.iter().all(|line| !line.contains(['\u{1b}', '\n'])));
        assert_eq!(told(&result, false, false).len(), 1);
    }
}
