//! Which holes of an outage are found, in the lab: `cargo bench --bench outage -- [OPTION…]`. Prints; decides nothing.
//!
//! Holes are opened in the stack's firewall by the policy of one more chain, a transaction of one message. The truth is when the kernel had
//! taken it and when it was asked to take it back, by the clock of the packets' timestamps: a hole is at least as long as is told, and counts
//! for its size only if it was. Found is one in whose span the outage's own report has one.
//!
//! - late holes: many in one window, each at a random time, far enough apart to be told from one another;
//! - holes at the kill and at reconnection: one each in an outage, from the kernel's notice that the tunnel's link goes or comes.
//!
//! In the lab's user namespace nobody may ask the scheduler for anything. As root a process that stays outside grants the agent's threads
//! what they would get as root beside a real stack; `--plain` leaves that out.
//!
//! Options: `--sealed N` outages of a sealed stack by each method (20), `--late N` late holes of each size and protocol (100), `--edges N`
//! outages with holes at their edges of each (5), `--sizes 1,2,5,20,100` in milliseconds, `--protocols all,udp,dns,icmp,tcp,v6`,
//! `--methods vpn-stop,link-down,endpoint-block,process-kill,process-stop,command` (sealed ones, by default the first three).

#[path = "outage/agent.rs"]
mod agent;
#[path = "outage/priority.rs"]
mod priority;
#[path = "outage/saboteur.rs"]
mod saboteur;

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use agent::{Agent, Made};
use anyhow::{Context, Result, bail};
use leakcheck::lab::{self, Lab, LabSpec};
use leakcheck::model::evidence::Class;
use rand::RngExt;
use saboteur::{Moment, Opened, Saboteur};

/// Window of outages that need none, and of those with holes at their edges: longer than the longest of these.
const SHORT: Duration = Duration::from_millis(500);
/// Time between two late holes, at least and at most, in milliseconds.
const APART: (u64, u64) = (25, 75);
/// Late holes in one window at most.
const PER_WINDOW: usize = 50;
/// A packet's timestamp and the truth's clock differ by no more, in milliseconds.
const TOLERANCE_MS: f64 = 1.5;

struct Options {
    sealed: usize,
    late: usize,
    edges: usize,
    sizes: Vec<u64>,
    protocols: Vec<saboteur::Protocol>,
    methods: Vec<String>,
    plain: bool,
}

fn main() -> Result<()> {
    // Run by `cargo test` too, where it should cost nothing.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let options = options(std::env::args().skip(1))?;
    let granted = !options.plain && priority::grant()?;
    let world = lab::enter_user_namespace()?;
    let apart = Some(env!("CARGO_BIN_EXE_leakcheck").into());
    let lab = Lab::start(&world, LabSpec { apart, ..LabSpec::sealed() })?;
    let mut agent = Agent::start(&lab)?;
    println!("priority: {}", if granted { "as root beside a real stack" } else { "what an ordinary user gets" });
    sealed(&mut agent, &options)?;
    println!("\n{:<6} {:>6} {:<12} {:>11}  of those that were as long  mean length", "what", "size", "when", "found");
    for protocol in &options.protocols {
        let mut saboteur = Saboteur::start(&lab, *protocol, agent.clock())?;
        for size in &options.sizes {
            late(&mut agent, &mut saboteur, *size, &options)?;
            edges(&mut agent, &mut saboteur, *size, &options)?;
        }
    }
    agent.stop()
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        sealed: 20,
        late: 100,
        edges: 5,
        sizes: vec![1, 2, 5, 20, 100],
        protocols: list("all,udp,dns,icmp,tcp,v6")?,
        methods: list("vpn-stop,link-down,endpoint-block")?,
        plain: false,
    };
    while let Some(name) = arguments.next() {
        // Given by `cargo bench` itself.
        if name == "--bench" {
            continue;
        }
        if name == "--plain" {
            options.plain = true;
            continue;
        }
        let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--sealed" => options.sealed = value.parse()?,
            "--late" => options.late = value.parse()?,
            "--edges" => options.edges = value.parse()?,
            "--sizes" => options.sizes = list(&value)?,
            "--protocols" => options.protocols = list(&value)?,
            "--methods" => options.methods = list(&value)?,
            _ => bail!("there is no option {name}"),
        }
    }
    Ok(options)
}

fn list<T: FromStr<Err: Display>>(text: &str) -> Result<Vec<T>> {
    let one = |text: &str| text.parse().map_err(|error| anyhow::anyhow!("{text}: {error}"));
    text.split(',').filter(|text| !text.is_empty()).map(one).collect()
}

/// Outages in which nothing is wrong: every packet that is seen to escape is a false alarm.
fn sealed(agent: &mut Agent, options: &Options) -> Result<()> {
    for method in options.methods.iter().filter(|_| options.sealed > 0) {
        let (mut alarms, mut more, mut gaps) = (0, Vec::new(), Vec::new());
        for _ in 0..options.sealed {
            let Some(made) = valid(agent.outage(method, SHORT, |_| Ok(()))) else { continue };
            let offended = made.wire.sightings.iter().any(|seen| seen.class == Class::Offence);
            if offended || !made.evidence.holes.is_empty() {
                alarms += 1;
                println!("  {:?} {:?}", made.evidence.holes, made.wire.sightings);
            }
            if !made.evidence.problems.is_empty() || made.wire.dropped > 0 {
                println!("  {:?}, {} packets lost by the sensor", made.evidence.problems, made.wire.dropped);
            }
            let recovery = made.evidence.recovered_ms.unwrap_or_default() - made.evidence.up_ms.unwrap_or_default();
            more.push(made.took.as_secs_f64() * 1000.0 - SHORT.as_secs_f64() * 1000.0 - recovery);
            gaps.push(made.evidence.longest_gap_ms);
        }
        println!(
            "sealed, {method}: {alarms} false alarms in {} outages; beside window and recovery one takes {:.0} ms (median), \
             {:.0} ms (longest); longest gap {:.1} ms (median), {:.1} ms (longest)",
            more.len(),
            median(&mut more),
            more.last().copied().unwrap_or_default(),
            median(&mut gaps),
            gaps.last().copied().unwrap_or_default(),
        );
    }
    Ok(())
}

fn late(agent: &mut Agent, saboteur: &mut Saboteur, size: u64, options: &Options) -> Result<()> {
    let mut tally = Tally::default();
    let mut left = options.late;
    while left > 0 {
        let number = left.min(PER_WINDOW);
        left -= number;
        let mut at = 0;
        let moments: Vec<Duration> = (0..number)
            .map(|_| {
                at += size + rand::rng().random_range(APART.0..APART.1);
                // Not in step with anything that comes once in a millisecond.
                Duration::from_micros(at * 1000 + rand::rng().random_range(0..1000))
            })
            .collect();
        let window = Duration::from_millis(at + size + APART.1 + 300);
        let mut ordered = false;
        let made = agent.outage("vpn-stop", window, |down| {
            if down {
                ordered = true;
                saboteur.open(Moment::At(moments.clone()), Duration::from_millis(size))?;
            }
            Ok(())
        });
        let opened = if ordered { saboteur.opened()? } else { Vec::new() };
        if let Some(made) = valid(made) {
            tally.count(&made, &opened, size);
        }
    }
    tally.print(saboteur.protocol(), size, "late");
    Ok(())
}

fn edges(agent: &mut Agent, saboteur: &mut Saboteur, size: u64, options: &Options) -> Result<()> {
    let (mut at_kill, mut at_reconnection) = (Tally::default(), Tally::default());
    for _ in 0..options.edges {
        let length = Duration::from_millis(size);
        saboteur.open(Moment::TunnelGoes, length)?;
        let (mut kill, mut ordered) = (Vec::new(), false);
        let made = agent.outage("vpn-stop", SHORT, |down| {
            if down {
                // The first hole is over by then or will be: what is armed next waits for it.
                kill = saboteur.opened()?;
                ordered = true;
                saboteur.open(Moment::TunnelComes, length)?;
            }
            Ok(())
        });
        let back = if ordered {
            saboteur.opened()?
        } else {
            // The hole at the kill never came to be.
            let _ = saboteur.opened();
            Vec::new()
        };
        if let Some(made) = valid(made) {
            at_kill.count(&made, &kill, size);
            at_reconnection.count(&made, &back, size);
        }
    }
    at_kill.print(saboteur.protocol(), size, "at the kill");
    at_reconnection.print(saboteur.protocol(), size, "coming back");
    Ok(())
}

/// On a machine that is very busy the tunnel may not come back in time; what was not measured is told and left out.
fn valid(made: Result<Made>) -> Option<Made> {
    made.inspect_err(|error| println!("  left out: {error:#}")).ok()
}

/// What was found.
#[derive(Default)]
struct Tally {
    found: usize,
    opened: usize,
    /// Those that were shorter than they should have been.
    short: usize,
    lengths: Vec<f64>,
    missed: Vec<String>,
}

impl Tally {
    fn count(&mut self, made: &Made, opened: &[Opened], size: u64) {
        for hole in opened {
            if hole.closing_ms - hole.open_ms < size as f64 {
                self.short += 1;
                continue;
            }
            self.opened += 1;
            self.lengths.push(hole.closing_ms - hole.open_ms);
            let (from, to) = (made.at_ms(hole.opening_ms) - TOLERANCE_MS, made.at_ms(hole.closed_ms) + TOLERANCE_MS);
            let seen = made.evidence.holes.iter().any(|seen| seen.from_ms <= to && seen.to_ms >= from);
            self.found += usize::from(seen);
            if !seen {
                let (at, to) = (made.at_ms(hole.open_ms), made.at_ms(hole.closing_ms));
                let pace = &made.evidence.pace;
                self.missed.push(format!(
                    "{at:.1} to {to:.1} ms of the outage (longest gap {:.1} ms at {:.1} ms, {} gaps)",
                    made.evidence.longest_gap_ms,
                    pace.longest_at_ms.unwrap_or_default(),
                    pace.gaps
                ));
            }
        }
        if !made.evidence.problems.is_empty() || made.wire.dropped > 0 {
            println!("  {:?}, {} packets lost by the sensor", made.evidence.problems, made.wire.dropped);
        }
    }

    fn print(&self, protocol: saboteur::Protocol, size: u64, when: &str) {
        if self.opened + self.short == 0 {
            return;
        }
        let mean = self.lengths.iter().sum::<f64>() / self.lengths.len().max(1) as f64;
        let percent = self.found as f64 * 100.0 / self.opened.max(1) as f64;
        println!(
            "{protocol:<6} {size:>3} ms {when:<12} {:>4} / {:<4}  {percent:>5.1} %{:>22.2} ms{}",
            self.found,
            self.opened,
            mean,
            if self.short > 0 { format!("  ({} were shorter)", self.short) } else { String::new() }
        );
        self.missed.iter().for_each(|missed| println!("    missed: {missed}"));
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
