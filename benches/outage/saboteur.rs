//! Opens holes in the stack's firewall and takes note of when they really were open.

use std::fmt;
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use leakcheck::clock::Clock;
use leakcheck::lab::{Lab, plan};
use leakcheck::net::netlink::Client;
use leakcheck::net::netns::{Netns, NetnsError, spawn_in};
use leakcheck::net::nft::{Batch, Chain, HookPoint, Match, Nft, Policy, Rule, Table, TableFamily, Verdict};
use leakcheck::net::route::link_event;
use netlink_sys::protocols::NETLINK_ROUTE;

/// How long the tunnel's link may take to go or come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Shorter waits are spent awake.
const AWAKE: Duration = Duration::from_millis(3);
const RTNLGRP_LINK: u32 = 1;
const CHAIN: &str = "out";
const COMMENT: &str = "bench";

/// What a hole lets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    All,
    Udp,
    Dns,
    Icmp,
    Tcp,
    V6,
}

impl FromStr for Protocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::All, Self::Udp, Self::Dns, Self::Icmp, Self::Tcp, Self::V6];
        known.into_iter().find(|protocol| protocol.name() == text).ok_or("there is no such protocol")
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Udp => "udp",
            Self::Dns => "dns",
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::V6 => "v6",
        }
    }

    /// The rule for the chain of a family, if the hole concerns it.
    fn rule(self, v6: bool) -> Option<Rule> {
        let protocol = match (self, v6) {
            (Self::All, _) | (Self::V6, true) => None,
            (Self::V6, false) => return None,
            (Self::Udp | Self::Dns, _) => Some(libc::IPPROTO_UDP),
            (Self::Tcp, _) => Some(libc::IPPROTO_TCP),
            (Self::Icmp, false) => Some(libc::IPPROTO_ICMP),
            (Self::Icmp, true) => Some(libc::IPPROTO_ICMPV6),
        };
        let mut rule = Rule::new(Verdict::Accept).when(Match::Output(plan::UPLINK.to_owned())).comment(COMMENT);
        if let Some(protocol) = protocol {
            rule = rule.when(Match::Protocol(protocol as u8));
        }
        if self == Self::Dns {
            rule = rule.when(Match::DestinationPorts(53, 53));
        }
        Some(rule)
    }
}

/// When holes are opened.
#[derive(Debug, Clone)]
pub enum Moment {
    /// So long after now each.
    At(Vec<Duration>),
    /// When the tunnel's link goes.
    TunnelGoes,
    /// When it comes.
    TunnelComes,
}

/// One hole, in milliseconds of the clock: when it was asked for, was there, was to be closed, was closed.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    pub opening_ms: f64,
    pub open_ms: f64,
    pub closing_ms: f64,
    pub closed_ms: f64,
}

/// A thread in the stack's namespace.
pub struct Saboteur {
    protocol: Protocol,
    orders: Option<Sender<(Moment, Duration)>>,
    done: Receiver<Result<Vec<Opened>>>,
    thread: Option<JoinHandle<Result<(), NetnsError>>>,
}

impl Saboteur {
    /// Prepares the firewall: what would be let out is dropped by a chain of its own until a hole opens.
    pub fn start(lab: &Lab, protocol: Protocol, clock: Clock) -> Result<Self> {
        let (orders, inbox) = mpsc::channel::<(Moment, Duration)>();
        let (outbox, done) = mpsc::channel();
        let (ready, prepared) = mpsc::channel();
        let thread = spawn_in(&Netns::open(lab.stack_netns())?, "saboteur", move || {
            let mut hand = match Hand::new(protocol, clock) {
                Ok(hand) => hand,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            for (moment, length) in inbox {
                if outbox.send(hand.work(&moment, length)).is_err() {
                    break;
                }
            }
            if let Err(error) = hand.clean() {
                eprintln!("the firewall is not as it was: {error:#}");
            }
        })?;
        prepared.recv()??;
        Ok(Self { protocol, orders: Some(orders), done, thread: Some(thread) })
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Opens holes of that length, from now on.
    pub fn open(&mut self, moment: Moment, length: Duration) -> Result<()> {
        let orders = self.orders.as_ref().context("the saboteur has ended")?;
        orders.send((moment, length)).map_err(|_| anyhow!("the saboteur has ended"))
    }

    /// Waits for those of one order.
    pub fn opened(&mut self) -> Result<Vec<Opened>> {
        self.done.recv()?
    }
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Hand {
    nft: Nft,
    table: Table,
    clock: Clock,
    events: Client,
}

impl Hand {
    fn new(protocol: Protocol, clock: Clock) -> Result<Self> {
        let mut nft = Nft::open()?;
        let table = Table::new(TableFamily::Inet, "hole");
        let mut batch = Batch::new();
        batch.add_owned_table(&table);
        let chain = Chain { priority: 10, ..Chain::filter(CHAIN, HookPoint::Output, Policy::Drop) };
        batch.add_chain(&table, &chain);
        for link in ["lo", plan::TUNNEL] {
            batch.append_rule(&table, CHAIN, &Rule::new(Verdict::Accept).when(Match::Output(link.to_owned())));
        }
        let near = [plan::BRIDGE_NET, plan::LAN_NET, plan::BRIDGE_ULA, plan::BRIDGE_GUA, "fe80::/10", "ff00::/8"];
        let mut far: Vec<ipnet::IpNet> = near.iter().map(|net| net.parse()).collect::<Result<_, _>>()?;
        far.push(plan::socket(plan::ENDPOINT).ip().into());
        for net in far {
            batch.append_rule(&table, CHAIN, &Rule::new(Verdict::Accept).when(Match::Destination(net)));
        }
        nft.commit(batch)?;
        // Only now may the stack's own firewall let it out.
        let mut batch = Batch::new();
        for (family, v6) in FAMILIES {
            if let Some(rule) = protocol.rule(v6) {
                batch.insert_rule(&Table::new(family, "filter"), "OUTPUT", &rule);
            }
        }
        nft.commit(batch)?;
        let mut events = Client::open(NETLINK_ROUTE)?;
        events.join(RTNLGRP_LINK)?;
        Ok(Self { nft, table, clock, events })
    }

    fn clean(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        for (family, _) in FAMILIES {
            let table = Table::new(family, "filter");
            for rule in self.nft.rules(&table, "OUTPUT")? {
                if rule.comment.as_deref() == Some(COMMENT) {
                    batch.delete_rule(&table, "OUTPUT", rule.handle);
                }
            }
        }
        self.nft.commit(batch)?;
        let mut batch = Batch::new();
        batch.delete_table(&self.table);
        Ok(self.nft.commit(batch)?)
    }

    fn work(&mut self, moment: &Moment, length: Duration) -> Result<Vec<Opened>> {
        match moment {
            Moment::At(moments) => {
                let begin = Instant::now();
                moments.iter().map(|at| self.hole(begin + *at, length)).collect()
            }
            Moment::TunnelGoes => self.at(false, length),
            Moment::TunnelComes => self.at(true, length),
        }
    }

    fn at(&mut self, up: bool, length: Duration) -> Result<Vec<Opened>> {
        let deadline = Instant::now() + PATIENCE;
        // What was told of earlier outages.
        self.events.set_timeout(Some(Duration::from_millis(1)))?;
        while self.events.listen().is_ok() {}
        self.events.set_timeout(Some(Duration::from_millis(100)))?;
        while Instant::now() < deadline {
            let messages = self.events.listen().unwrap_or_default();
            if messages.iter().filter_map(link_event).any(|(name, is)| name == plan::TUNNEL && is == up) {
                return Ok(vec![self.hole(Instant::now(), length)?]);
            }
        }
        Err(anyhow!("the tunnel's link did not {}", if up { "come" } else { "go" }))
    }

    fn hole(&mut self, at: Instant, length: Duration) -> Result<Opened> {
        wait(at);
        let opening_ms = self.clock.now_ms();
        self.set(Policy::Accept)?;
        let open_ms = self.clock.now_ms();
        wait(Instant::now() + length);
        let closing_ms = self.clock.now_ms();
        self.set(Policy::Drop)?;
        Ok(Opened { opening_ms, open_ms, closing_ms, closed_ms: self.clock.now_ms() })
    }

    fn set(&mut self, policy: Policy) -> Result<()> {
        let mut batch = Batch::new();
        batch.set_policy(&self.table, CHAIN, policy);
        Ok(self.nft.commit(batch)?)
    }
}

const FAMILIES: [(TableFamily, bool); 2] = [(TableFamily::Ip, false), (TableFamily::Ip6, true)];

fn wait(until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    if left > AWAKE {
        std::thread::sleep(left - AWAKE);
    }
    // Not spinning: with priority it would keep others from being sampled at all.
    while Instant::now() < until {
        std::thread::sleep(Duration::from_micros(20));
    }
}
