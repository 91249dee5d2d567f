//! The sensor's thread: reads the ring, classifies, attributes and counts. It is armed and closed by controls, which also flush it:
//! packets come in order, so once a closing control has been seen, everything before it has been.

mod prove;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::net::if_::if_indextoname;
use pnet::datalink::NetworkInterface;

use super::allow::{AllowList, Endpoint};
use super::control::is_answer;
use super::decode::Packet;
use super::direct;
use super::filter;
use super::ledger::Ledger;
use super::packet_sockets;
use super::record::{Question, Record, Seen};
use super::ring::{BLOCKS, Frame, Ring};
use super::sockets;
use super::trace::Trace;
use crate::clock::Clock;
use crate::handicap::{Handicap, lacks};
use crate::model::evidence::{DirectConnection, Link, PacketSocket, PhaseWire, Role};
use crate::priority::ask_for_precedence;

/// The owner under which controls stand in the ledger.
const CONTROL: &str = "control";
/// How long the thread sleeps at most when nothing comes.
const POLL_MS: u16 = 20;
/// Packets that are read in one go: a flood that never ends must not keep others from the state, nor the thread from its end.
const MAX_AT_ONCE: usize = 1024;
/// Sockets that wait to be looked for; more are not looked for.
const MAX_QUESTIONS: usize = 256;
/// The link that carries the closing controls where the uplinks are gone, and its other end.
const STAND_IN: &str = "leakcheck0";
const STAND_IN_PEER: &str = "leakcheck1";
/// How long the end of a phase waits for the last of them.
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);

/// The sensor of a namespace. Dropping it ends its threads.
pub struct Sensor {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    clock: Clock,
    ledger: Ledger,
    tunnels: Vec<String>,
    /// Names of the links of other tunnels, of which nothing is said, as of the loopback.
    others: Vec<String>,
    stop: AtomicBool,
    /// Sockets that are being looked for.
    asked: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    roles: HashMap<u32, (String, Role)>,
    loopback: Vec<u32>,
    refilter: bool,
    record: Record,
    controls: HashMap<u32, f64>,
    /// Stimuli seen on the loopback.
    inside: BTreeSet<u32>,
    dropped: u64,
    problems: Vec<String>,
    trace: Trace,
}

impl Sensor {
    /// Opens the ring, attaches the filter, and only then begins to listen. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(
        clock: Clock,
        ledger: Ledger,
        allow: AllowList,
        links: &[Link],
        tunnels: Vec<String>,
    ) -> io::Result<Sensor> {
        Sensor::with_blocks(BLOCKS, clock, ledger, allow, links, tunnels)
    }

    /// As [`Sensor::open`], with a ring of so many blocks of 110 packets: to see what becomes of packets for which there is no room.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn with_blocks(
        blocks: u16,
        clock: Clock,
        ledger: Ledger,
        allow: AllowList,
        links: &[Link],
        tunnels: Vec<String>,
    ) -> io::Result<Sensor> {
        let ring = Ring::open(blocks)?;
        let roles = links.iter().map(|link| (link.index, (link.name.clone(), link.role))).collect();
        let others = links.iter().filter(|link| link.role == Role::Other);
        let loopback =
            crate::net::interfaces().into_iter().filter(NetworkInterface::is_loopback).map(|link| link.index);
        let loopback = loopback.chain(others.clone().map(|link| link.index)).collect();
        let others = others.map(|link| link.name.clone()).collect();
        let record = Record::new(allow, sockets::connections(&sockets::list()));
        let state = State { roles, loopback, record, ..State::default() };
        ring.filter(&state.compile())?;
        ring.listen()?;
        let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        let shared = Arc::new(Shared { clock, ledger, tunnels, others, stop, asked, state: Mutex::new(state) });
        let (questions, inbox) = mpsc::sync_channel(MAX_QUESTIONS);
        let (reader, finder) = (Arc::clone(&shared), Arc::clone(&shared));
        let mut sensor = Sensor { shared, threads: Vec::new() };
        // Threads that are started here are in the namespace in which this one is.
        sensor.threads.push(thread::Builder::new().name("sensor".into()).spawn(move || reader.read(ring, &questions))?);
        sensor.threads.push(thread::Builder::new().name("sockets".into()).spawn(move || finder.find(&inbox))?);
        Ok(sensor)
    }

    /// Sends the opening controls and waits until they have been seen. The result is the beginning of a phase.
    pub fn arm(&self) -> PhaseWire {
        let (controls, packet_sockets, direct) = (self.control(), self.packet_sockets(), self.direct());
        let mut phase = PhaseWire { uplinks: self.uplinks(), controls, packet_sockets, direct, ..PhaseWire::default() };
        if phase.uplinks.is_empty() {
            self.stand_in_for(&mut phase);
        }
        phase.armed_ms = self.shared.clock.now_ms();
        phase
    }

    /// What others have by which they may send unseen.
    fn packet_sockets(&self) -> Option<Vec<PacketSocket>> {
        let links = crate::net::interfaces();
        let inside = |link: &NetworkInterface| !self.shared.may_be_uplink(link);
        packet_sockets::others(|index| links.iter().any(|link| link.index == index && inside(link)))
    }

    /// Connections past the tunnel that others have.
    fn direct(&self) -> Option<Vec<DirectConnection>> {
        let links = crate::net::interfaces();
        let uplinks = links.iter().filter(|link| self.shared.may_be_uplink(link));
        let addresses: Vec<IpAddr> = uplinks.flat_map(|link| link.ips.iter().map(|net| net.ip())).collect();
        let allow = self.shared.lock().record.allow().clone();
        direct::now(&addresses, &allow)
    }

    /// Sends the closing controls, waits until they have been seen, and hands over what was seen since the last phase was closed.
    pub fn close(&self, mut phase: PhaseWire) -> PhaseWire {
        phase.controls.extend(self.control());
        phase.packet_sockets = phase.packet_sockets.zip(self.packet_sockets()).map(|(mut before, now)| {
            before.retain(|socket| now.iter().all(|other| other.inode != socket.inode));
            [before, now].concat()
        });
        phase.direct = phase.direct.zip(self.direct()).map(|(before, now)| direct::lasting(before, now));
        let there = crate::net::interfaces();
        let is_gone = |name: &String| !there.iter().any(|link| link.name == *name);
        phase.gone = phase.uplinks.iter().filter(|name| is_gone(name)).cloned().collect();
        if phase.gone.len() == phase.uplinks.len() {
            self.stand_in_for(&mut phase);
        }
        let deadline = Instant::now() + ANSWER_PATIENCE;
        while self.shared.asked.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        let mut state = self.shared.lock();
        phase.closed_ms = self.shared.clock.now_ms();
        phase.uplinks = state.uplinks();
        phase.dropped = std::mem::take(&mut state.dropped);
        phase.problems.append(&mut state.problems);
        phase.inside = std::mem::take(&mut state.inside);
        state.record.finish(&mut phase);
        phase
    }

    /// From now on `endpoint` is the tunnel's too: its packets cost nothing and are no leak, nor are those of this phase that look so.
    pub fn adopt(&self, endpoint: Endpoint) {
        let mut state = self.shared.lock();
        state.record.adopt(endpoint);
        state.refilter = true;
    }

    /// Subnets that may be talked to past the tunnel.
    pub fn local(&self) -> Vec<ipnet::IpNet> {
        self.shared.lock().record.allow().local.clone()
    }

    /// The endpoints that are known.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.shared.lock().record.allow().endpoints.clone()
    }

    /// Begins a trace: forgets holes and marks. See [`Trace::apart_from`].
    pub fn begin_trace(&self, apart_from: Option<Arc<str>>) {
        self.shared.lock().trace = Trace::apart_from(apart_from);
    }

    /// From here on packets in the tunnel count as "after".
    pub fn mark(&self) {
        let now = self.shared.clock.now_ms();
        self.shared.lock().trace.mark(now);
    }

    /// From here on the trace measures how long the tunnel is silent.
    pub fn watch_silence(&self) {
        self.shared.lock().trace.watch_silence();
    }

    /// The trace so far.
    pub fn trace(&self) -> Trace {
        self.shared.lock().trace.clone()
    }

    /// Names of all uplinks seen so far.
    pub fn uplinks(&self) -> Vec<String> {
        self.shared.lock().uplinks()
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread has already been printed; there is nothing left to put back.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, mut ring: Ring, questions: &SyncSender<Question>) {
        // What is refused shows in the packets that get lost.
        ask_for_precedence();
        while !self.stop.load(Ordering::Relaxed) {
            let waited = ring.wait(POLL_MS);
            let mut state = self.lock();
            if let Err(error) = waited {
                state.problems.push(format!("the sensor could not wait for packets: {error}"));
                return;
            }
            for _ in 0..MAX_AT_ONCE {
                let Some(question) = ring.next(|frame| self.take(&mut state, &frame)) else {
                    self.ledger.backlog.is_read();
                    break;
                };
                // Who sent it is good to know, but no verdict hangs on it: what there is no room for is not asked.
                if let Some(question) = question {
                    self.asked.fetch_add(1, Ordering::Relaxed);
                    if questions.try_send(question).is_err() {
                        self.asked.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            }
            match ring.drops() {
                Ok(drops) => state.dropped += u64::from(drops),
                Err(error) => state.problems.push(format!("the sensor's drops could not be counted: {error}")),
            }
            if std::mem::take(&mut state.refilter)
                && let Err(error) = ring.filter(&state.compile())
            {
                state.problems.push(format!("the filter could not be renewed: {error}"));
            }
        }
    }

    /// Looks for the processes behind packets, away from the thread that has to keep up with the ring. Ends with it.
    fn find(&self, questions: &Receiver<Question>) {
        while let Ok(first) = questions.recv() {
            let asked: Vec<Question> = std::iter::once(first).chain(questions.try_iter()).collect();
            let listed = sockets::list();
            let inodes: Vec<Option<u64>> =
                asked.iter().map(|ask| sockets::sender(&listed, ask.proto, ask.src, ask.dst)).collect();
            let holders = sockets::holders(&inodes.iter().flatten().copied().collect::<HashSet<u64>>());
            let mut state = self.lock();
            for (ask, inode) in asked.iter().zip(inodes) {
                let owners = inode.and_then(|inode| holders.get(&inode)).cloned().unwrap_or_default();
                state.record.answer(ask.place, owners);
            }
            drop(state);
            self.asked.fetch_sub(asked.len() as u64, Ordering::Relaxed);
        }
    }

    fn take(&self, state: &mut State, frame: &Frame<'_>) -> Option<Question> {
        let in_tunnel = state.roles.get(&frame.index).is_some_and(|(_, role)| *role == Role::Tunnel);
        if lacks(if in_tunnel { Handicap::Tunnel } else { Handicap::Sensor }) {
            return None;
        }
        let at_ms = self.clock.at_ms(frame.time.0, frame.time.1);
        let packet = Packet::decode(frame.ether_type, frame.octets);
        let mut owner = self.ledger.owner(&packet);
        if state.loopback.contains(&frame.index) {
            state.inside.extend(owner.map(|(_, id)| id));
            return None;
        }
        if let Some((name, id)) = &owner
            && &**name == CONTROL
        {
            state.controls.insert(*id, at_ms);
            return None;
        }
        if is_answer(&packet) {
            return None;
        }
        let (link, role) = self.link(state, frame.index);
        if role == Role::Other {
            // It was made anew.
            state.loopback.push(frame.index);
            state.refilter = true;
            state.inside.extend(owner.map(|(_, id)| id));
            return None;
        }
        let seen = Seen {
            at_ms,
            time: frame.time,
            index: frame.index,
            link: &link,
            role,
            ether_type: frame.ether_type,
            tag: frame.tag,
            octets: frame.octets,
            length: frame.length,
        };
        let taken = state.record.take(&seen, &packet, &mut owner)?;
        if let Some((trial, _)) = &owner {
            state.trace.take(at_ms, taken.class, &packet, trial);
        }
        taken.question
    }

    /// Whether what leaves by it may be seen by others: it is neither the loopback's nor a tunnel's.
    fn may_be_uplink(&self, link: &NetworkInterface) -> bool {
        !link.is_loopback() && !self.tunnels.contains(&link.name) && !self.others.contains(&link.name)
    }

    /// Name and role of a link. One that was not there before is an uplink, unless it bears the tunnel's name: a VPN that is started again
    /// makes its link anew.
    fn link(&self, state: &mut State, index: u32) -> (String, Role) {
        if let Some((name, role)) = state.roles.get(&index) {
            return (name.clone(), *role);
        }
        let name = if_indextoname(index).ok().and_then(|name| name.into_string().ok());
        let role = match &name {
            Some(name) if self.tunnels.contains(name) => Role::Tunnel,
            Some(name) if self.others.contains(name) => Role::Other,
            _ => Role::Uplink,
        };
        let name = name.unwrap_or_else(|| format!("link {index}"));
        state.roles.insert(index, (name.clone(), role));
        state.refilter |= role == Role::Tunnel;
        (name, role)
    }
}

impl State {
    fn compile(&self) -> Vec<libc::sock_filter> {
        let tunnels: Vec<u32> =
            self.roles.iter().filter(|(_, (_, role))| *role == Role::Tunnel).map(|(index, _)| *index).collect();
        filter::compile(self.record.allow(), &self.loopback, &tunnels)
    }

    fn uplinks(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.roles.values().filter(|(_, role)| *role == Role::Uplink).map(|(name, _)| name.clone()).collect();
        names.retain(|name| name != STAND_IN && name != STAND_IN_PEER);
        names.sort();
        names.dedup();
        names
    }
}
