//! The sensor's thread: reads the ring, classifies, attributes and counts. It is armed and closed by controls, which also flush it:
//! packets come in order, so once a closing control has been seen, everything before it has been.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::net::if_::if_indextoname;
use pnet::datalink::{self, NetworkInterface};

use super::allow::{AllowList, looks_like_wireguard};
use super::control::{ControlSender, KINDS};
use super::decode::Packet;
use super::filter;
use super::ledger::{Entry, Ledger};
use super::ring::{Frame, Ring};
use crate::clock::Clock;
use crate::model::evidence::{Class, Control, Link, PhaseWire, Proto, Role, Sighting};
use crate::model::report::Hole;

/// The owner under which controls stand in the ledger.
const CONTROL: &str = "control";
/// How long to wait for controls before they count as unseen.
const CONTROL_PATIENCE: Duration = Duration::from_millis(1500);
/// How long the thread sleeps at most when nothing comes.
const POLL_MS: u16 = 20;
/// More kinds of packet than this are counted, not kept.
const MAX_SIGHTINGS: usize = 10_000;
/// Packets of a protocol closer together than this are one hole.
const HOLE_GAP_MS: f64 = 5.0;

/// The sensor of a namespace. Dropping it ends its thread.
pub struct Sensor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    clock: Clock,
    ledger: Ledger,
    allow: AllowList,
    tunnels: Vec<String>,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    roles: HashMap<u32, (String, Role)>,
    loopback: Vec<u32>,
    refilter: bool,
    sightings: HashMap<Key, Sighting>,
    unkept: u64,
    controls: HashMap<u32, f64>,
    packets: u64,
    dropped: u64,
    problems: Vec<String>,
    trace: Trace,
}

/// What an outage needs to know packet by packet.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Spans in which packets of ours left by an uplink, by protocol, times since the start of the run.
    pub holes: Vec<Hole>,
    /// Last stimulus seen in the tunnel.
    pub last_in_tunnel_ms: Option<f64>,
    /// First stimulus seen in the tunnel after [`Sensor::mark`].
    pub first_after_mark_ms: Option<f64>,
    /// Last stimulus seen in the tunnel before [`Sensor::mark`].
    pub last_before_mark_ms: Option<f64>,
    mark_ms: Option<f64>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    link: u32,
    class: Class,
    proto: Proto,
    from: IpAddr,
    to: SocketAddr,
    owner: Option<(Arc<str>, u32)>,
}

impl Sensor {
    /// Opens the ring, attaches the filter, and only then begins to listen. Needs CAP_NET_RAW.
    pub fn open(
        clock: Clock,
        ledger: Ledger,
        allow: AllowList,
        links: &[Link],
        tunnels: Vec<String>,
    ) -> io::Result<Sensor> {
        let ring = Ring::open()?;
        let roles = links.iter().map(|link| (link.index, (link.name.clone(), link.role))).collect();
        let loopback = datalink::interfaces().iter().filter(|link| link.is_loopback()).map(|link| link.index).collect();
        let state = State { roles, loopback, ..State::default() };
        ring.filter(&state.compile(&allow))?;
        ring.listen()?;
        let shared =
            Arc::new(Shared { clock, ledger, allow, tunnels, stop: AtomicBool::new(false), state: Mutex::new(state) });
        let reader = Arc::clone(&shared);
        let thread = thread::Builder::new().name("sensor".into()).spawn(move || reader.read(ring))?;
        Ok(Sensor { shared, thread: Some(thread) })
    }

    /// Sends the opening controls and waits until they have been seen. The result is the beginning of a phase.
    pub fn arm(&self) -> PhaseWire {
        let controls = self.control();
        PhaseWire { armed_ms: self.shared.clock.now_ms(), uplinks: self.uplinks(), controls, ..PhaseWire::default() }
    }

    /// Sends the closing controls, waits until they have been seen, and hands over what was seen since the last phase was closed.
    pub fn close(&self, mut phase: PhaseWire) -> PhaseWire {
        phase.controls.extend(self.control());
        let mut state = self.shared.lock();
        phase.closed_ms = self.shared.clock.now_ms();
        phase.uplinks = state.uplinks();
        phase.packets = std::mem::take(&mut state.packets);
        phase.dropped = std::mem::take(&mut state.dropped);
        phase.problems.append(&mut state.problems);
        let unkept = std::mem::take(&mut state.unkept);
        if unkept > 0 {
            phase
                .problems
                .push(format!("{unkept} more packets were of more kinds than the sensor keeps ({MAX_SIGHTINGS})"));
        }
        phase.sightings = std::mem::take(&mut state.sightings).into_values().collect();
        phase.sightings.sort_by(|a, b| a.first_ms.total_cmp(&b.first_ms));
        phase
    }

    /// Begins a trace: forgets holes and marks.
    pub fn begin_trace(&self) {
        self.shared.lock().trace = Trace::default();
    }

    /// From here on packets in the tunnel count as "after".
    pub fn mark(&self) {
        let now = self.shared.clock.now_ms();
        let trace = &mut self.shared.lock().trace;
        trace.last_before_mark_ms = trace.last_in_tunnel_ms;
        trace.mark_ms = Some(now);
    }

    /// The trace so far.
    pub fn trace(&self) -> Trace {
        self.shared.lock().trace.clone()
    }

    /// Names of all uplinks seen so far.
    pub fn uplinks(&self) -> Vec<String> {
        self.shared.lock().uplinks()
    }

    /// One control of each kind on each uplink that is up; waits until all are seen or patience is over.
    fn control(&self) -> Vec<Control> {
        let owner: Arc<str> = CONTROL.into();
        let mut sent: Vec<(Control, Option<Entry>)> = Vec::new();
        // A link that is down or has no carrier lets nothing out, and could not carry a control either. Links that came later are uplinks too.
        for interface in datalink::interfaces() {
            let carries = interface.is_up() && interface.is_lower_up();
            if carries && !interface.is_loopback() && !self.shared.tunnels.contains(&interface.name) {
                self.control_link(&interface, &owner, &mut sent);
            }
        }
        let deadline = Instant::now() + CONTROL_PATIENCE;
        loop {
            let state = self.shared.lock();
            let mut waiting = false;
            for (control, entry) in &mut sent {
                control.seen_ms = entry.and_then(|entry| state.controls.get(&entry.id).copied());
                waiting |= control.error.is_none() && control.seen_ms.is_none();
            }
            drop(state);
            if !waiting || Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        sent.into_iter().map(|(control, _)| control).collect()
    }

    fn control_link(&self, interface: &NetworkInterface, owner: &Arc<str>, sent: &mut Vec<(Control, Option<Entry>)>) {
        let mut sender = ControlSender::open(interface);
        for (proto, v6) in KINDS {
            let entry = self.shared.ledger.enter(owner);
            let sent_ms = self.shared.clock.now_ms();
            let outcome = match &mut sender {
                Ok(sender) => {
                    sender.send(proto, v6, &entry.marker(), entry.sequence()).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            let control =
                Control { link: interface.name.clone(), proto, v6, sent_ms, seen_ms: None, error: outcome.err() };
            sent.push((control, Some(entry)));
        }
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been printed; there is nothing left to put back.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, mut ring: Ring) {
        while !self.stop.load(Ordering::Relaxed) {
            let waited = ring.wait(POLL_MS);
            let mut state = self.lock();
            if let Err(error) = waited {
                state.problems.push(format!("the sensor could not wait for packets: {error}"));
                return;
            }
            while ring.next(|frame| self.take(&mut state, &frame)).is_some() {}
            match ring.drops() {
                Ok(drops) => state.dropped += u64::from(drops),
                Err(error) => state.problems.push(format!("the sensor's drops could not be counted: {error}")),
            }
            if std::mem::take(&mut state.refilter)
                && let Err(error) = ring.filter(&state.compile(&self.allow))
            {
                state.problems.push(format!("the filter could not be renewed: {error}"));
            }
        }
    }

    fn take(&self, state: &mut State, frame: &Frame<'_>) {
        let at_ms = self.clock.at_ms(frame.time.0, frame.time.1);
        let packet = Packet::decode(frame.ether_type, frame.octets);
        let owner = self.ledger.owner(&packet);
        if let Some((name, id)) = &owner
            && &**name == CONTROL
        {
            state.controls.insert(*id, at_ms);
            return;
        }
        let (link, role) = self.link(state, frame.index);
        let class = match role {
            Role::Tunnel => Some(Class::Tunnelled).filter(|_| owner.is_some()),
            Role::Uplink => self.allow.classify(&packet),
        };
        let Some(class) = class else { return };
        state.packets += 1;
        if owner.is_some() {
            state.trace.take(at_ms, class, &packet);
        }
        let (from, to) = (packet.src, packet.dst);
        let wireguard = packet.proto == Proto::Udp && looks_like_wireguard(packet.payload, packet.payload_length);
        let key = Key { link: frame.index, class, proto: packet.proto, from: from.ip(), to, owner: owner.clone() };
        let full = state.sightings.len() >= MAX_SIGHTINGS;
        if let Some(sighting) = state.sightings.get_mut(&key) {
            sighting.count += 1;
            sighting.last_ms = at_ms;
            sighting.wireguard &= wireguard;
        } else if full {
            state.unkept += 1;
        } else {
            let (probe, stimulus) = owner.map(|(probe, id)| (probe.to_string(), id)).unzip();
            let sighting = Sighting {
                first_ms: at_ms,
                last_ms: at_ms,
                link,
                class,
                proto: packet.proto,
                src: from,
                dst: to,
                count: 1,
                length: frame.length,
                wireguard,
                probe,
                stimulus,
            };
            state.sightings.insert(key, sighting);
        }
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
            _ => Role::Uplink,
        };
        let name = name.unwrap_or_else(|| format!("link {index}"));
        state.roles.insert(index, (name.clone(), role));
        state.refilter |= role == Role::Tunnel;
        (name, role)
    }
}

impl State {
    fn compile(&self, allow: &AllowList) -> Vec<libc::sock_filter> {
        let tunnels: Vec<u32> =
            self.roles.iter().filter(|(_, (_, role))| *role == Role::Tunnel).map(|(index, _)| *index).collect();
        filter::compile(allow, &self.loopback, &tunnels)
    }

    fn uplinks(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.roles.values().filter(|(_, role)| *role == Role::Uplink).map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

impl Trace {
    fn take(&mut self, at_ms: f64, class: Class, packet: &Packet<'_>) {
        match class {
            Class::Tunnelled => {
                self.last_in_tunnel_ms = Some(at_ms);
                if self.mark_ms.is_some_and(|mark| at_ms >= mark) {
                    self.first_after_mark_ms.get_or_insert(at_ms);
                }
            }
            Class::Offence => {
                let proto = hole_label(packet);
                match self.holes.iter_mut().rev().find(|hole| hole.proto == proto) {
                    Some(hole) if at_ms - hole.to_ms <= HOLE_GAP_MS => {
                        hole.to_ms = at_ms;
                        hole.packets += 1;
                    }
                    _ => self.holes.push(Hole { from_ms: at_ms, to_ms: at_ms, proto, packets: 1 }),
                }
            }
            Class::Nearby | Class::LocalDns => {}
        }
    }
}

/// What a hole is called: the protocol, DNS by its port, and IPv6 said.
fn hole_label(packet: &Packet<'_>) -> String {
    let name = match packet.proto {
        Proto::Udp | Proto::Tcp if packet.dst.port() == 53 => format!("dns/{}", packet.proto),
        proto => proto.to_string(),
    };
    if packet.v6 && packet.proto != Proto::Icmpv6 { format!("{name}/ipv6") } else { name }
}
