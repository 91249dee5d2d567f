//! Breaking a sealed stack as a leak fixture says: at the start, and whenever the tunnel goes or comes.
//!
//! The kernel's own notification of the tunnel's link is what is waited for, so that it does not matter who ended the
//! tunnel and how. A thread of its own, because a hole of 50 ms has to open at once and close in time.

use super::routing::{MAIN, Routing, TUNNEL_PRIORITY, Uplink};
use super::{GluetunConfig, StackError, firewall, set_nameservers};
use crate::lab::leak::{Action, ChainName, Change, FamilyName, Leak, Moment, PolicyName, Transport};
use crate::lab::plan;
use crate::net::netlink::{Client, Message, NetlinkError};
use crate::net::nft::{Nft, Verdict};
use crate::net::route::{Family, RouteSpec, Rtnetlink, RuleSpec, Snapshot, link_event};
use crate::net::sysctl;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Multicast group of link changes.
const RTNLGRP_LINK: u32 = 1;
/// How long the thread sleeps at most before it looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(100);

/// So many questions without an answer make a server silent.
const MISSES: u32 = 4;
/// Asks for the address of example.com (RFC 1035, section 4).
const QUESTION: &[u8] = b"LC\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";

/// A leak at work. Ends, without undoing anything, when dropped.
pub(super) struct Sabotage {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sabotage {
    /// Makes the changes of the start, in the calling thread's namespace, and waits for the moments of the others.
    pub(super) fn begin(leak: &Leak, config: &GluetunConfig, uplinks: Vec<Uplink>) -> Result<Self, StackError> {
        let mut hand = Hand {
            nft: Nft::open()?,
            netlink: Rtnetlink::open()?,
            uplinks,
            tunnel: config.tunnel.clone(),
            config: config.clone(),
            resolv_conf: config.resolv_conf.clone(),
            nameservers: Vec::new(),
            settings: Vec::new(),
        };
        let mut sabotage = Self { stop: Arc::default(), threads: Vec::new() };
        let mut plan = Plan { changes: leak.changes.clone(), due: Vec::new() };
        for (index, change) in leak.changes.iter().enumerate() {
            if let Action::Speak { to, link, every_ms } = &change.action {
                sabotage.speak(*to, link, Duration::from_millis(*every_ms))?;
            } else if change.when == Moment::Start && change.after_ms == 0 {
                hand.apply(index, &change.action)?;
                plan.expect_end(index, Instant::now());
            } else if change.when == Moment::Start {
                plan.due.push(Due { at: Instant::now() + change.after(), index, begin: true });
            }
        }
        if !plan.due.is_empty() || leak.changes.iter().any(|change| change.when != Moment::Start) {
            let mut events = Client::open(NETLINK_ROUTE).map_err(|e| hear(&e))?;
            events.join(RTNLGRP_LINK).map_err(|e| hear(&e))?;
            let stop = Arc::clone(&sabotage.stop);
            let tunnel = hand.tunnel.clone();
            let silent = Arc::new(AtomicBool::new(false));
            if leak.changes.iter().any(|change| change.when == Moment::ServerSilent) {
                sabotage.watch_server(&tunnel, Arc::clone(&silent))?;
            }
            // A thread that is started here is in the namespace in which this one is.
            sabotage.thread("lab-sabotage", move || {
                let mut up = Snapshot::take().is_ok_and(|now| now.link(&tunnel).is_some_and(|link| link.is_up()));
                let mut was_silent = false;
                while !stop.load(Ordering::Relaxed) {
                    plan.work_off(&mut hand);
                    let is_silent = silent.load(Ordering::Relaxed);
                    if is_silent != was_silent {
                        was_silent = is_silent;
                        let (begins, ends) = if is_silent {
                            (Some(Moment::ServerSilent), None)
                        } else {
                            (None, Some(Moment::ServerSilent))
                        };
                        plan.turn(begins, ends, &mut hand);
                    }
                    for message in listen(&mut events, plan.next()) {
                        let Some((name, now)) = link_event(&message) else { continue };
                        if name == tunnel && now != up {
                            up = now;
                            let (come, gone) = (Some(Moment::TunnelUp), Some(Moment::TunnelDown));
                            let (begins, ends) = if up { (come, gone) } else { (gone, come) };
                            plan.turn(begins, ends, &mut hand);
                        }
                    }
                }
            })?;
        }
        Ok(sabotage)
    }

    fn thread(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StackError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(StackError::Sabotage)?;
        self.threads.push(thread);
        Ok(())
    }

    /// A watchdog such as clients with a fallback have: asks through the tunnel, and says so when nobody answers.
    fn watch_server(&mut self, tunnel: &str, silent: Arc<AtomicBool>) -> Result<(), StackError> {
        let (stop, tunnel) = (Arc::clone(&self.stop), tunnel.to_owned());
        self.thread("lab-watchdog", move || {
            let mut missed = 0;
            while !stop.load(Ordering::Relaxed) {
                missed = if answers(&tunnel).unwrap_or(false) { 0 } else { missed + 1 };
                silent.store(missed >= MISSES, Ordering::Relaxed);
                std::thread::sleep(PATIENCE);
            }
        })
    }

    fn speak(&mut self, to: SocketAddr, link: &str, every: Duration) -> Result<(), StackError> {
        let any = crate::lab::plan::unspecified(to.ip());
        let socket = UdpSocket::bind((any, 0)).map_err(StackError::Sabotage)?;
        socket2::SockRef::from(&socket).bind_device(Some(link.as_bytes())).map_err(StackError::Sabotage)?;
        socket.connect(to).map_err(StackError::Sabotage)?;
        // What a torrent client's local peer discovery (BEP 14) says.
        let search = b"BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n\r\n\r\n";
        // That the firewall refuses it is the sealed stack's good right.
        self.again(every, move || drop(socket.send(search)))
    }

    /// Does something over and over.
    pub(super) fn again(&mut self, every: Duration, mut act: impl FnMut() + Send + 'static) -> Result<(), StackError> {
        let stop = Arc::clone(&self.stop);
        self.thread("lab-speaker", move || {
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                if Instant::now() >= next {
                    act();
                    next += every;
                }
                std::thread::sleep(every.min(PATIENCE));
            }
        })
    }
}

impl Drop for Sabotage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // How it ended matters to nobody any more.
            let _ = thread.join();
        }
    }
}

/// Whether the resolver in the tunnel answers in time. The socket is bound to the tunnel, so that no fallback answers for it.
fn answers(tunnel: &str) -> io::Result<bool> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket2::SockRef::from(&socket).bind_device(Some(tunnel.as_bytes()))?;
    socket.set_read_timeout(Some(PATIENCE * 2))?;
    socket.send_to(QUESTION, (plan::ip(plan::TUNNEL_RESOLVER), 53))?;
    Ok(socket.recv(&mut [0; 512]).is_ok())
}

fn hear(error: &NetlinkError) -> StackError {
    StackError::Sabotage(io::Error::other(error.to_string()))
}

fn listen(events: &mut Client, until: Option<Instant>) -> Vec<Message> {
    let wait = until.map_or(PATIENCE, |at| at.saturating_duration_since(Instant::now()).min(PATIENCE));
    // Zero would mean "for ever".
    let wait = wait.max(Duration::from_millis(1));
    // A time-out, or a burst that overran the socket: the next message tells the link's state again.
    events.set_timeout(Some(wait)).and_then(|()| events.listen()).unwrap_or_default()
}

struct Due {
    at: Instant,
    index: usize,
    begin: bool,
}

/// Which changes are to begin or to end, and when.
struct Plan {
    changes: Vec<Change>,
    due: Vec<Due>,
}

impl Plan {
    fn next(&self) -> Option<Instant> {
        self.due.iter().map(|due| due.at).min()
    }

    fn expect_end(&mut self, index: usize, begun: Instant) {
        if let Some(lasts) = self.changes[index].lasts() {
            self.due.push(Due { at: begun + lasts, index, begin: false });
        }
    }

    fn work_off(&mut self, hand: &mut Hand) {
        while let Some(place) = self.due.iter().position(|due| due.at <= Instant::now()) {
            let due = self.due.swap_remove(place);
            let action = self.changes[due.index].action.clone();
            if due.begin {
                report(hand.apply(due.index, &action));
                // It lasts as long as it is said to, however late it came.
                self.expect_end(due.index, Instant::now());
            } else {
                report(hand.undo(due.index, &action));
            }
        }
    }

    /// One state began, and another ended: the tunnel came or went, the server fell silent or spoke again.
    fn turn(&mut self, begins: Option<Moment>, ends: Option<Moment>, hand: &mut Hand) {
        let now = Instant::now();
        for index in 0..self.changes.len() {
            let change = &self.changes[index];
            if Some(change.when) == ends && !change.lasting && change.for_ms.is_none() {
                let pending = self.due.len();
                self.due.retain(|due| due.index != index);
                if pending == self.due.len() {
                    report(hand.undo(index, &change.action.clone()));
                }
            } else if Some(change.when) == begins {
                self.due.push(Due { at: now + change.after(), index, begin: true });
            }
        }
        self.work_off(hand);
    }
}

/// What fails here shows as a leak that is not found; the lab's standard error says why.
fn report(outcome: Result<(), StackError>) {
    if let Err(error) = outcome {
        eprintln!("lab: failed to change the stack: {:#}", anyhow::Error::from(error));
    }
}

/// The connections by which changes are made.
struct Hand {
    nft: Nft,
    netlink: Rtnetlink,
    uplinks: Vec<Uplink>,
    tunnel: String,
    config: GluetunConfig,
    resolv_conf: PathBuf,
    nameservers: Vec<String>,
    /// Names of settings, and what they were.
    settings: Vec<(String, String)>,
}

impl Hand {
    fn apply(&mut self, index: usize, action: &Action) -> Result<(), StackError> {
        match action {
            Action::Policy { chain, policy, family } => {
                self.set_policy(*family, *chain, *policy)?;
            }
            Action::Allow(packets) => {
                firewall::insert(&mut self.nft, self.config.firewall, packets, Verdict::Accept, &comment(index))?;
            }
            Action::Forbid(packets) => {
                firewall::insert(&mut self.nft, self.config.firewall, packets, Verdict::Drop, &comment(index))?
            }
            Action::Remark { packets, mark } => {
                firewall::remark(&mut self.nft, packets, *mark, &self.config.uplink, &comment(index))?;
            }
            Action::Divert { packets, to } => firewall::divert(&mut self.nft, packets, *to, &comment(index))?,
            Action::Legacy { family, policy } => {
                let allowed = firewall::Allowed::of(&self.config, &self.uplinks);
                firewall::seal_legacy(*family, *policy, &allowed)?;
            }
            Action::Route { to, link, table } => self.netlink.add_route(&self.route(*to, link, *table))?,
            Action::Rule { .. } => {
                for rule in rules(action, self.config.routing) {
                    self.lead_out(rule.family, rule.table)?;
                    self.netlink.add_rule(&rule)?;
                }
            }
            Action::ResolvConf { nameservers } => {
                let before = std::fs::read_to_string(&self.resolv_conf)
                    .map_err(|e| StackError::ResolvConf(self.resolv_conf.clone(), e))?;
                self.nameservers.push(before);
                set_nameservers(&self.resolv_conf, nameservers)?;
            }
            Action::Unrule { priority } => self.unrule(*priority)?,
            Action::Setting { name, value } => {
                let before = std::fs::read_to_string(format!("/proc/sys/net/{name}")).map_err(StackError::Sabotage)?;
                self.settings.push((name.clone(), before.trim().to_owned()));
                set(name, value)?;
            }
            // Done where the firewall, the tunnel, the servers, the provider, the wires, the programs or the containers are started.
            Action::NoPostRules {}
            | Action::NoTunnel {}
            | Action::Outbound { .. }
            | Action::PortMapper { .. }
            | Action::TorrentClient { .. }
            | Action::Client { .. }
            | Action::ForwardedPort { .. }
            | Action::RouterAdvertisement { .. }
            | Action::Publish { .. }
            | Action::OutsideResolver { .. }
            | Action::DeadResolver {}
            | Action::LocalNames { .. }
            | Action::AlsoAsked { .. }
            | Action::OwnResolvConf { .. }
            | Action::Exit { .. }
            | Action::SecondNetwork {}
            | Action::EarlyFlow { .. }
            | Action::Power { .. }
            | Action::LateFirewall { .. }
            | Action::RestartVpn {}
            | Action::Compose { .. }
            | Action::Speak { .. } => {}
        }
        Ok(())
    }

    fn undo(&mut self, index: usize, action: &Action) -> Result<(), StackError> {
        match action {
            Action::Policy { chain, policy, family } => {
                let back = match policy {
                    PolicyName::Accept => PolicyName::Drop,
                    PolicyName::Drop => PolicyName::Accept,
                };
                self.set_policy(*family, *chain, back)?;
            }
            Action::Allow(packets) | Action::Forbid(packets) => {
                firewall::remove(&mut self.nft, self.config.firewall, packets, &comment(index))?;
            }
            Action::Remark { .. } => firewall::remark_no_more(&mut self.nft, &comment(index))?,
            Action::Divert { to, .. } => firewall::divert_no_more(&mut self.nft, *to, &comment(index))?,
            Action::Route { to, link, table } => self.netlink.delete_route(&self.route(*to, link, *table))?,
            Action::Rule { .. } => {
                for rule in rules(action, self.config.routing) {
                    self.netlink.delete_rule(&rule)?;
                }
            }
            Action::ResolvConf { .. } => {
                if let Some(before) = self.nameservers.pop() {
                    std::fs::write(&self.resolv_conf, before)
                        .map_err(|e| StackError::ResolvConf(self.resolv_conf.clone(), e))?;
                }
            }
            Action::Setting { name, .. } => {
                if let Some(place) = self.settings.iter().rposition(|(known, _)| known == name) {
                    let (name, before) = self.settings.remove(place);
                    set(&name, &before)?;
                }
            }
            Action::Unrule { .. }
            | Action::Legacy { .. }
            | Action::NoPostRules {}
            | Action::NoTunnel {}
            | Action::Outbound { .. }
            | Action::PortMapper { .. }
            | Action::TorrentClient { .. }
            | Action::Client { .. }
            | Action::ForwardedPort { .. }
            | Action::RouterAdvertisement { .. }
            | Action::Publish { .. }
            | Action::OutsideResolver { .. }
            | Action::DeadResolver {}
            | Action::LocalNames { .. }
            | Action::AlsoAsked { .. }
            | Action::OwnResolvConf { .. }
            | Action::Exit { .. }
            | Action::SecondNetwork {}
            | Action::EarlyFlow { .. }
            | Action::Power { .. }
            | Action::LateFirewall { .. }
            | Action::RestartVpn {}
            | Action::Compose { .. }
            | Action::Speak { .. } => {}
        }
        Ok(())
    }

    fn set_policy(&mut self, family: FamilyName, chain: ChainName, policy: PolicyName) -> Result<(), StackError> {
        let style = self.config.firewall;
        Ok(firewall::set_policy(&mut self.nft, style, &self.tunnel, family, chain, policy)?)
    }

    fn route(&self, to: ipnet::IpNet, link: &str, table: u32) -> RouteSpec {
        let uplink = self.uplinks.iter().find(|uplink| uplink.link == link);
        let gateway: Option<IpAddr> = uplink.and_then(|uplink| uplink.gateway(Family::of(to.addr())));
        let route = match gateway {
            Some(gateway) => RouteSpec::via(to, gateway).dev(link),
            None => RouteSpec::on(to, link),
        };
        route.table(table)
    }

    /// Has a table lead out of the uplink that no stack of this routing has otherwise.
    fn lead_out(&mut self, family: Family, table: u32) -> Result<(), StackError> {
        let gateway = self.uplinks.first().and_then(|uplink| Some((uplink, uplink.gateway(family)?)));
        let Some((uplink, gateway)) = gateway.filter(|_| table != MAIN && table == self.config.routing.way_out())
        else {
            return Ok(());
        };
        let route = RouteSpec::via(family.everything(), gateway).dev(&uplink.link).table(table);
        match self.netlink.add_route(&route) {
            // An earlier change made it.
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Rule 101 is never made when a fixture removes it, see `Inner::bring_up`; this is for the others.
    fn unrule(&mut self, mut priority: u32) -> Result<(), StackError> {
        if priority == TUNNEL_PRIORITY {
            // A variant without that rule refuses the leak.
            priority = self.config.routing.tunnel_priority().unwrap_or(priority);
        }
        let found = Snapshot::take()?;
        for rule in found.rules.iter().filter(|rule| rule.priority == priority) {
            self.netlink.delete_listed_rule(rule)?;
        }
        Ok(())
    }
}

fn set(name: &str, value: &str) -> Result<(), StackError> {
    sysctl::set(name, value).map_err(|error| StackError::Sabotage(io::Error::other(error)))
}

fn comment(index: usize) -> String {
    format!("leak change {index}")
}

fn rules(action: &Action, routing: Routing) -> Vec<RuleSpec> {
    let Action::Rule { priority, table, from, to, proto, ports, from_ports, user, family } = action else {
        return Vec::new();
    };
    let families = from.or(*to).map_or_else(|| firewall::families(*family), |net| vec![Family::of(net.addr())]);
    let number = |transport: Transport, family| firewall::protocol(transport, family);
    let table = if *table == MAIN { routing.way_out() } else { *table };
    families
        .into_iter()
        .map(|family| RuleSpec {
            from: *from,
            to: *to,
            protocol: proto.map(|transport| number(transport, family)),
            ports: ports.map(|ports| (ports.0, ports.1)),
            user: *user,
            from_ports: from_ports.map(|ports| (ports.0, ports.1)),
            ..RuleSpec::new(family, *priority, table)
        })
        .collect()
}
