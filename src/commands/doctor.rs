//! `leakcheck doctor`: what works on this machine, tried rather than guessed, and what to do where something does not.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::failure::in_short;
use super::{catalog, print};
use crate::catalog::Selection;
use crate::cli::{DoctorArgs, LookArgs};
use crate::config::Config;
use crate::net::capability;
use crate::outage::Journal;
use crate::report::Look;
use crate::report::page::{Ink, Page};
use crate::report::progress::for_stderr;
use crate::runner::{self, Found, Options};
use crate::target::{FindOptions, engine_of};

/// Nothing can be audited here yet.
const NOT_YET: u8 = 2;
/// Linux that has nftables tables which go with the socket that made them (NFT_TABLE_F_OWNER), on which `endpoint-block` relies.
const OWNED_TABLES: (u32, u32) = (5, 12);
/// What the way in by `setns`, and what is done there, needs.
const POWERS: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", capability::NET_ADMIN),
    ("CAP_NET_RAW", capability::NET_RAW),
    ("CAP_SYS_PTRACE", capability::SYS_PTRACE),
    ("CAP_SYS_ADMIN", capability::SYS_ADMIN),
];

/// What was found of one thing.
struct Finding {
    name: &'static str,
    state: State,
    text: String,
    help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Works,
    /// Not there, and not needed where the rest works.
    Lacks,
    /// `run` cannot do without it.
    Missing,
}

impl Finding {
    fn works(name: &'static str, text: impl Into<String>) -> Self {
        Finding { name, state: State::Works, text: text.into(), help: None }
    }

    fn lacks(name: &'static str, text: impl Into<String>, help: impl Into<String>) -> Self {
        Finding { name, state: State::Lacks, text: text.into(), help: Some(help.into()) }
    }

    fn of_error(name: &'static str, state: State, error: &anyhow::Error) -> Self {
        let (text, help) = in_short(error);
        Finding { name, state, text, help }
    }
}

/// Tries what a run needs, prints what came of it, and gives the exit status.
///
/// # Errors
/// When standard output takes nothing.
pub fn doctor(args: &DoctorArgs) -> anyhow::Result<u8> {
    let mut findings = vec![kernel(), privileges(), journal(args.state_dir.as_deref()), engine()];
    match Config::load(args.config.as_deref(), std::env::vars()) {
        Ok((config, path)) => {
            let text = match path {
                Some(path) => format!("{} is sound", path.display()),
                None => "none: everything is found by itself; leakcheck init writes one".to_owned(),
            };
            findings.push(Finding::works("configuration", text));
            findings.push(stack(&config, &args.stack));
        }
        Err(error) => findings.push(Finding::of_error("configuration", State::Missing, &error.into())),
    }
    #[cfg(feature = "lab")]
    findings.push(lab());
    print(&page(&findings, Look::of_stdout()))?;
    let missing = findings.iter().any(|finding| finding.state == State::Missing);
    Ok(if missing { NOT_YET } else { runner::PASSED })
}

fn page(findings: &[Finding], look: Look) -> String {
    let mut page = Page::new(look);
    page.line(concat!("leakcheck ", env!("CARGO_PKG_VERSION"), ", on this machine:"), Ink::Plain);
    page.blank();
    for Finding { name, state, text, help } in findings {
        let (word, ink) = match state {
            State::Works => ("works", Ink::Good),
            State::Lacks => ("lacks", Ink::Unsure),
            State::Missing => ("missing", Ink::Bad),
        };
        page.item(word, &format!("{name}: {text}"), ink);
        if let Some(help) = help {
            page.item("", &format!("→ {help}"), Ink::Plain);
        }
    }
    page.blank();
    let missing = findings.iter().find(|finding| finding.state == State::Missing);
    match missing {
        None => page.line("Next: leakcheck run", Ink::Good),
        Some(finding) => page.line(&format!("Next: see to what is missing, the {} first.", finding.name), Ink::Bad),
    }
    page.into_text()
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OWNED_TABLES => Finding::lacks(
            "kernel",
            format!("Linux {release} has no nftables tables that go with their owner (Linux 5.12)"),
            "the outage endpoint-block is not possible here; name others by --outage",
        ),
        (Some(_), Some(_)) => Finding::works("kernel", format!("Linux {release}")),
        _ => Finding::lacks("kernel", "its release could not be read", "see that /proc is mounted"),
    }
}

fn privileges() -> Finding {
    let lacking: Vec<&str> =
        POWERS.iter().filter(|(_, bit)| !capability::is_held(*bit)).map(|(name, _)| *name).collect();
    if lacking.is_empty() {
        return Finding::works("privileges", "enough to enter any namespace of this machine (setns)");
    }
    Finding::lacks(
        "privileges",
        format!("{} not held, so no namespace is entered from here", lacking.join(", ")),
        "a stack in Docker is entered by a container instead, which needs access to the engine; else run it as root",
    )
}

/// The folder in which a run notes what has to be put back.
fn journal(stated: Option<&Path>) -> Finding {
    let tried = Journal::folder(stated).and_then(|folder| {
        // Nothing is left of it.
        Journal::open(&folder, "doctor").map(|_| folder)
    });
    match tried {
        Ok(folder) => Finding::works("journal", format!("outages can be noted in {}", folder.display())),
        Err(error) => Finding::of_error("journal", State::Missing, &error.into()),
    }
}

fn engine() -> Finding {
    let asked = runner::runtime()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(engine_of(&FindOptions::default())).map_err(anyhow::Error::from));
    match asked {
        Ok(engine) => Finding::works("engine", engine),
        // Stacks in plain namespaces need none, and those of Docker say so below.
        Err(error) => Finding::of_error("engine", State::Lacks, &error),
    }
}

/// Whether the stack that a run would take is there, and can be entered.
fn stack(config: &Config, args: &LookArgs) -> Finding {
    let found = catalog(None).and_then(|catalog| {
        let selection = Selection::default();
        Ok(runner::look(&options(config, &catalog, &selection, args))?)
    });
    match found {
        Ok(found) => Finding::works("stack", account(&found)),
        Err(error) => Finding::of_error("stack", State::Missing, &error),
    }
}

/// How a stack is looked at: as a run would, without outages.
pub(super) fn options<'a>(
    config: &'a Config,
    catalog: &'a crate::catalog::Catalog,
    selection: &'a Selection,
    args: &LookArgs,
) -> Options<'a> {
    Options {
        config,
        catalog,
        selection,
        target: args.target.clone(),
        label: None,
        enter: args.enter,
        quick: true,
        outages: &[],
        strict: false,
        redact: false,
        timeout: None,
        state_dir: None,
        restart_dependents: false,
        progress: Arc::from(for_stderr(false)),
    }
}

fn account(found: &Found) -> String {
    let mut text = found.described.clone();
    let methods = &found.stack.methods;
    let _ = match methods.as_slice() {
        [] => write!(text, "; no way to take its tunnel down"),
        _ => write!(text, "; outages by {}", methods.join(", ")),
    };
    text
}

/// A lab is made as for `demo`, by another process: this one has threads by now.
#[cfg(feature = "lab")]
fn lab() -> Finding {
    const WORDS: [&str; 6] = ["demo", "--quick", "--format", "json", "--report-dir", "none"];
    let begun = std::time::Instant::now();
    let tried = std::env::current_exe()
        .and_then(|program| std::process::Command::new(program).args(WORDS).arg("exit-address").output());
    match tried {
        Ok(output) if output.status.success() => {
            Finding::works("lab", format!("a sealed stack was audited in {:.1} s", begun.elapsed().as_secs_f64()))
        }
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr);
            let line = |lead: &str| told.lines().find_map(|line| line.trim().strip_prefix(lead)).map(str::to_owned);
            let why = line("error: ").or_else(|| line("caused by: "));
            Finding {
                name: "lab",
                state: State::Lacks,
                text: why.unwrap_or_else(|| format!("leakcheck demo ended with {}", output.status)),
                help: line("help: ").or_else(|| Some("leakcheck demo --quick shows what is amiss".to_owned())),
            }
        }
        Err(error) => Finding::lacks("lab", error.to_string(), "leakcheck demo --quick shows what is amiss"),
    }
}
