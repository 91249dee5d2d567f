//! A run: finds the target, puts the agent inside, asks the probes phase by phase, makes the outages, and has all of it judged. What is
//! asked and in which order is decided here; what it means is decided by the judge.

mod access;
mod account;
mod container;
mod dependents;
mod error;
mod forwarding;
mod inbound;
mod look;
mod outside;
mod phase;
mod put_back;
mod session;
mod setup;
mod stack;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::runtime::Runtime;

use account::{describe, outage_report, wire};
use container::Around;
pub use error::RunError;
pub use look::{Found, look};
use outside::{Asker, Outside};
use phase::{Asked, Phases};
use put_back::Notebook;
pub use put_back::{Restored, restore};
use session::Session;
use setup::{facts, open_ports, published_at, setup, torrent_access};

use crate::agent::protocol::{ControlKey, OutageOrder, Stack, TorrentAccess};
use crate::catalog::{Catalog, Selection, Trial};
use crate::config::{Config, OutageMethod, Secret};
use crate::judge;
use crate::model::probe::Phase;
use crate::model::report::{self, Report, RunVerdict, Summary};
use crate::outage::{Entry, KeyFile};
use crate::report::progress::Progress;
use crate::target::{Enter, FindOptions, Target, TargetSpec};
use crate::technique;

/// What the caller wants.
pub struct Options<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// All probes.
    pub catalog: &'a Catalog,
    /// Which of their trials.
    pub selection: &'a Selection,
    /// The target; else the configured one; else the one Gluetun container.
    pub target: Option<TargetSpec>,
    /// What reports call the target; else what it was found by.
    pub label: Option<String>,
    /// How to get in.
    pub enter: Enter,
    /// No outage.
    pub quick: bool,
    /// Outage methods by the command line; empty: the configured ones; none: what the stack allows.
    pub outages: &'a [OutageMethod],
    /// A warning is a failure.
    pub strict: bool,
    /// Mask the home address.
    pub redact: bool,
    /// Give up after this time.
    pub timeout: Option<Duration>,
    /// Where the journal of what has to be put back is kept; else where it usually is.
    pub state_dir: Option<&'a Path>,
    /// Restart containers that were left outside of the stack's network.
    pub restart_dependents: bool,
    /// Told what happens.
    pub progress: Arc<dyn Progress>,
}

/// Exit status: nothing failed and nothing was inconclusive.
pub const PASSED: u8 = 0;
/// Exit status: the stack could not be put back as it was.
pub const NOT_PUT_BACK: u8 = 4;
/// Exit status: interrupted, after putting it back.
pub const INTERRUPTED: u8 = 130;

impl Options<'_> {
    /// The outage methods that are certain before the stack has been looked at.
    fn stated_methods(&self) -> Vec<String> {
        let stated = if self.outages.is_empty() { &self.config.outage.methods } else { self.outages };
        // One that is named twice is one: an asking has one name, and the readers of reports know it by that.
        let again = |place: usize| stated[..place].contains(&stated[place]);
        let methods =
            stated.iter().enumerate().filter(|(place, _)| !again(*place)).map(|(_, method)| method.to_string());
        if self.quick { Vec::new() } else { methods.collect() }
    }

    /// What would be asked, for `--list`: of outage methods those that are stated, or all.
    ///
    /// # Errors
    /// When a filter matches nothing.
    pub fn trials(&self) -> Result<Vec<Trial<'_>>, RunError> {
        let mut methods = self.stated_methods();
        if methods.is_empty() && !self.quick {
            methods = OutageMethod::ALL.iter().map(ToString::to_string).collect();
        }
        self.select(&methods)
    }

    fn select(&self, methods: &[String]) -> Result<Vec<Trial<'_>>, RunError> {
        let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
        self.catalog.check_techniques(&technique::names())?;
        let mut trials = self.catalog.select(&methods, self.selection)?;
        let is_by = |trial: &Trial<'_>, fits: fn(OutageMethod) -> bool| {
            trial.method.as_deref().is_none_or(|method| method.parse().is_ok_and(fits))
        };
        // Where no container is started there is no start to listen to.
        trials.retain(|trial| trial.probe.technique != technique::BOOT || is_by(trial, OutageMethod::starts_anew));
        if trials.is_empty() {
            return Err(RunError::NoStart);
        }
        trials.retain(|trial| trial.probe.technique != technique::FLOWS_V6 || is_by(trial, OutageMethod::keeps_flows));
        if trials.is_empty() { Err(RunError::NoFlows) } else { Ok(trials) }
    }
}

/// Runs the audit.
///
/// # Errors
/// When nothing could be measured.
pub fn run(options: &Options<'_>) -> Result<Report, RunError> {
    // A wrong filter is told before anything is touched.
    options.trials()?;
    let started = Timestamp::now();
    let clock = Instant::now();
    let runtime = runtime()?;
    let extra_ca = options.config.echo.extra_ca.as_deref().map(read_ca).transpose()?;
    let key_file = key_file(options.config);
    let control_key = key_file.as_ref().map(read_key).transpose()?;
    let torrent = torrent_access(options.config)?;
    let mended = put_back::work_off_containers(&runtime, options.state_dir, stated_target(options).as_ref())?;
    let mut target = runtime.block_on(find(options))?;
    if let Some(label) = &options.label {
        target.label.clone_from(label);
    }
    let mut target = Arc::new(target);
    let outside = runtime.spawn(outside::look(options.config.clone(), extra_ca.clone()));
    let notebook = Arc::new(Notebook::open(options.state_dir, &target, key_file, !options.quick)?);
    let left = notebook.left();
    let process = runtime.block_on(target.launch(options.enter, !options.quick || left.is_some()))?;
    let deadline = options.timeout.map(|timeout| clock + timeout);
    let mut session = Arc::new(Session::open(runtime.handle(), process, deadline));
    session::watch_signals(runtime.handle(), &session);
    let result = match &left {
        Some(entry) => put_back::work_off(&session, entry).map(|()| notebook.cross_out()),
        None => Ok(()),
    };
    let inputs = Inputs { outside, extra_ca, control_key, torrent, clock };
    let result = result.and_then(|()| audit(options, &runtime, &mut target, &mut session, &notebook, inputs));
    let ended = session.end();
    // Which answer of the agent's was missed by it is of no interest.
    let result = result.map_err(|error| match error {
        RunError::Agent { .. } if session.interrupted() => RunError::Interrupted,
        error => error,
    });
    let (mut report, home) = result?;
    if let Some(Entry { method, .. }) = left {
        report.notes.insert(0, format!("an earlier run had died in an outage by {method}: put back first"));
    }
    for entry in mended {
        report.notes.insert(0, format!("an earlier run had died in an outage by {}: put back first", entry.method));
    }
    put_back_rest(options, &runtime, &target, &notebook, &mut report);
    if let Err(why) = ended {
        report.notes.push(format!("the agent did not end as it should: {why}"));
    }
    report.started = started.round(jiff::Unit::Millisecond).unwrap_or(started).to_string();
    report.duration_ms = clock.elapsed().as_millis() as u64;
    report.target = target.label.clone();
    report.settle();
    if session.interrupted() && report.restored() {
        report.exit_status = INTERRUPTED;
    }
    if options.redact {
        report.redact(&home);
    }
    Ok(report)
}

/// What a run works on.
pub(crate) fn runtime() -> Result<Runtime, RunError> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(RunError::Runtime)
}

/// When the agent was lost in an outage, or did not succeed, another one puts the stack back.
fn put_back_rest(options: &Options<'_>, runtime: &Runtime, target: &Target, notebook: &Notebook, report: &mut Report) {
    if let Some(entry) = notebook.left_container() {
        match put_back::work_off_container(runtime, &entry) {
            Ok(_) => {
                notebook.cross_out_container();
                mark_restored(report, &entry.method);
                report.notes.push(format!("the outage by {} was put back in the end", entry.method));
            }
            Err(error) => report.notes.push(format!("failed to {error}; leakcheck restore tries again")),
        }
    }
    let Some(entry) = notebook.left() else { return };
    match put_back::work_off_anew(runtime, target, options.enter, &entry) {
        Ok(()) => {
            notebook.cross_out();
            mark_restored(report, &entry.method);
            report.notes.push(format!("the outage by {} was put back by a second agent", entry.method));
        }
        Err(error) => {
            let help = error.help().map(|help| format!("; {help}")).unwrap_or_default();
            report.notes.push(format!("failed to {error}{help}; leakcheck restore tries again"));
        }
    }
}

fn mark_restored(report: &mut Report, method: &str) {
    for outage in report.outages.iter_mut().filter(|outage| outage.method == method) {
        outage.restored = true;
    }
}

fn stated_target(options: &Options<'_>) -> Option<TargetSpec> {
    let stated = &options.config.target;
    let configured = stated
        .docker
        .clone()
        .map(TargetSpec::Docker)
        .or_else(|| stated.netns.clone().map(TargetSpec::Netns))
        .or_else(|| stated.pid.map(TargetSpec::Pid));
    options.target.clone().or(configured)
}

fn find_options(options: &Options<'_>) -> FindOptions {
    FindOptions { resolv_conf: options.config.target.resolv_conf.clone(), ..FindOptions::default() }
}

async fn find(options: &Options<'_>) -> Result<Target, RunError> {
    Ok(Target::find(stated_target(options).as_ref(), &find_options(options)).await?)
}

/// What was read or begun before the agent was there.
struct Inputs {
    outside: tokio::task::JoinHandle<Outside>,
    extra_ca: Option<String>,
    control_key: Option<ControlKey>,
    torrent: Option<TorrentAccess>,
    clock: Instant,
}

fn audit(
    options: &Options<'_>,
    runtime: &Runtime,
    target: &mut Arc<Target>,
    session: &mut Arc<Session>,
    notebook: &Arc<Notebook>,
    inputs: Inputs,
) -> Result<(Report, Vec<IpAddr>), RunError> {
    let Inputs { outside, extra_ca, control_key, torrent, clock } = inputs;
    let asker = Arc::new(Asker {
        clock,
        must_serve: options.config.local.must_serve.clone(),
        must_not_reach: options.config.local.must_not_reach.clone(),
        access: options.config.access.clone(),
        open_ports: open_ports(options, target),
        extra_ca: extra_ca.clone(),
    });
    let setup = setup(options, target, session, extra_ca, (control_key, torrent), clock);
    let stack = session.start(setup.clone())?;
    let outside = runtime.block_on(outside).unwrap_or_default();
    let facts = facts(options.config, &outside, &stack);
    let mut notes: Vec<String> = target.notes.iter().chain(&stack.notes).chain(&outside.notes).cloned().collect();
    notes.push(describe(&stack, target, session.how));
    for note in &notes {
        options.progress.note(note);
    }
    let methods = methods(options, &stack, &mut notes);
    let trials = options.select(&methods)?;
    let facts = Arc::new(facts);
    let around = Around {
        handle: runtime.handle().clone(),
        target: Arc::clone(target),
        setup: Arc::new(setup),
        tunnel: stack.tunnel.clone(),
        clock,
        deadline: options.timeout.map(|timeout| clock + timeout),
        find: Arc::new(find_options(options)),
        restart_dependents: options.restart_dependents,
    };
    let mut phases = Phases::new(session, &facts, around, notebook, &options.progress, &asker);
    if options.restart_dependents {
        let (restarted, told) = runtime.block_on(dependents::mend(target));
        told.iter().for_each(|note| options.progress.note(note));
        notes.extend(told);
        phases.restarted = restarted;
    }
    let of = |phase: Phase, method: Option<&str>| -> Vec<&Trial<'_>> {
        trials.iter().filter(|trial| trial.phase == phase && trial.method.as_deref() == method).collect()
    };
    let mut results = phases.run("up", &of(Phase::Up, None), Asked::Techniques);
    let mut outages = Vec::new();
    for method in &methods {
        let (down, after) = (of(Phase::Outage, Some(method)), of(Phase::Recovered, Some(method)));
        if down.is_empty() && after.is_empty() || session.ended_early() {
            continue;
        }
        let window = options.config.outage.window;
        options.progress.outage(method, window);
        let of_technique = |name: &str| down.iter().find(|trial| trial.probe.technique == name);
        let owner = of_technique(technique::OUTAGE_SAMPLER);
        let order = OutageOrder {
            method: method.clone(),
            window_ms: window.as_millis() as u64,
            recovery_ms: options.config.outage.recovery_timeout.as_millis() as u64,
            home: facts.home.clone(),
            trial: owner.map_or_else(|| format!("{}{method}", judge::UNWATCHED_OUTAGE), |trial| trial.name()),
            flows_v6: of_technique(technique::FLOWS_V6).map(|trial| trial.name()),
        };
        results.extend(phases.run(&format!("outage {method}"), &down, Asked::Outage(order)));
        let Some(outage) = phases.outage.take() else { continue };
        let (restored, ended) = (outage.restored, outage.namespace_ended);
        outages.push(outage_report(&outage, phases.took));
        if let Some(reborn) = phases.reborn.take() {
            phases.go_on(&reborn, self::facts(options.config, &outside, &reborn.stack));
            reborn.session.take_after(session);
            session::watch_signals(runtime.handle(), &reborn.session);
            if let Err(why) = session.end() {
                notes.push(format!("the agent did not end as it should: {why}"));
            }
            reborn.notes.iter().for_each(|note| options.progress.note(note));
            notes.extend(reborn.notes);
            notes.push(describe(&reborn.stack, &reborn.target, reborn.session.how));
            let followed = notebook.follow(&reborn.target);
            (*session, *target) = (reborn.session, reborn.target);
            if let Err(error) = followed {
                notes.push(format!("what comes after the outage by {method} was not asked: failed to {error}"));
                break;
            }
        } else if ended {
            notes.push(format!(
                "what comes after the outage by {method} was not asked: no stack was found in a new namespace"
            ));
            break;
        }
        if !restored || session.ended_early() {
            break;
        }
        results.extend(phases.run(&format!("recovered from {method}"), &after, Asked::AfterOutage(outage)));
    }
    let wire = wire(&phases.wires, &results);
    let report = Report {
        version: report::VERSION,
        tool: concat!("leakcheck ", env!("CARGO_PKG_VERSION")).to_owned(),
        target: String::new(),
        started: String::new(),
        duration_ms: 0,
        strict: options.strict,
        verdict: RunVerdict::Inconclusive,
        exit_status: 0,
        summary: Summary::of(&results),
        probes: results,
        wire,
        outages,
        access: phases.access,
        notes,
        comparison: None,
    };
    // A stranger over IPv6 is played under an address of this machine's, which tells the home as well as any. Ports are published at others.
    let played = inbound::own_v6(&facts.uplink_nets).map(IpAddr::V6);
    let home = facts.home.iter().copied().chain(played).chain(published_at(target)).collect();
    Ok((report, home))
}

/// The methods to use: those that are stated, whether they are possible or not (then the outage says why not), else what is possible.
fn methods(options: &Options<'_>, stack: &Stack, notes: &mut Vec<String>) -> Vec<String> {
    if options.quick {
        return Vec::new();
    }
    let stated = options.stated_methods();
    if !stated.is_empty() {
        return stated;
    }
    let possible = |method: OutageMethod| stack.methods.iter().any(|known| known == method.word());
    // The most thorough way to take it down that there is, and the one that the VPN is not told of.
    let thorough = if possible(OutageMethod::VpnStop) { OutageMethod::VpnStop } else { OutageMethod::LinkDown };
    let wanted = [thorough, OutageMethod::EndpointBlock];
    let refused =
        stack.refused_methods.iter().filter(|(method, _)| wanted.iter().any(|wanted| wanted.word() == method));
    notes.extend(refused.map(|(method, why)| format!("no outage by {method}: {why}")));
    let methods: Vec<String> =
        wanted.into_iter().filter(|method| possible(*method)).map(|method| method.to_string()).collect();
    if methods.is_empty() {
        // One of them has to say why there was no outage: a kill switch that was not tested is no pass.
        return vec![OutageMethod::LinkDown.to_string()];
    }
    methods
}

fn read_ca(path: &Path) -> Result<String, RunError> {
    let pem = std::fs::read_to_string(path).map_err(|source| RunError::ExtraCa { path: path.to_owned(), source })?;
    // Without it the witnesses that it vouches for could not be asked: better to hear of it before anything is touched.
    technique::trust(Some(&pem)).map_err(|message| RunError::NotCa { path: path.to_owned(), message })?;
    Ok(pem)
}

/// Where the secret is that opens the control server.
fn key_file(config: &Config) -> Option<KeyFile> {
    let rules = &config.outage;
    let password = rules.control_password_file.clone().map(|path| KeyFile { path, user: rules.control_user.clone() });
    password.or_else(|| rules.api_key_file.clone().map(|path| KeyFile { path, user: None }))
}

fn read_key(file: &KeyFile) -> Result<ControlKey, RunError> {
    let KeyFile { path, user } = file;
    let secret = Secret::read(path).map_err(|source| match user {
        Some(_) => RunError::ControlPassword { path: path.clone(), source },
        None => RunError::ApiKey { path: path.clone(), source },
    })?;
    let secret = secret.expose().to_owned();
    Ok(match user {
        Some(user) => ControlKey::Login { user: user.clone(), password: secret },
        None => ControlKey::ApiKey(secret),
    })
}
