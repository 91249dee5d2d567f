//! What the sensor has seen in a phase: packets held against the allow-list, alike ones counted together, fragments held against the
//! first of their datagram, and a few of those that leaked kept whole. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::allow::{AllowList, Endpoint, Shape, looks_like_openvpn, looks_like_wireguard};
use super::decode::{Packet, RST, SYN};
use crate::model::evidence::{Captured, Class, Detail, Owner, PhaseWire, Proto, Role, Sighting};

/// More kinds of packet than this are counted, not kept.
const MAX_SIGHTINGS: usize = 10_000;
/// Kinds of packet of each probe that are kept however many there are of others.
const ROOM_OF_EACH: usize = 32;
/// Packets that are kept whole in a phase, of stimuli and of all others, so that neither crowds the other out; and of each kind.
const MAX_CAPTURED: usize = 100;
const MAX_CAPTURED_ALIKE: usize = 8;
/// Datagrams of which fragments are on their way.
const MAX_FRAGMENTED: usize = 256;
/// Connections whose beginning is remembered.
const MAX_BEGUN: usize = 65_536;

/// The asking of a probe and the number of its stimulus.
pub(super) type Stimulus = (Arc<str>, u32);

/// One packet and where it was seen.
pub(super) struct Seen<'a> {
    /// Milliseconds since the start of the run.
    pub at_ms: f64,
    /// Kernel timestamp.
    pub time: (i64, i64),
    /// Interface index.
    pub index: u32,
    /// Name of the link.
    pub link: &'a str,
    /// What it is.
    pub role: Role,
    /// EtherType.
    pub ether_type: u16,
    /// VLAN tag outside the octets.
    pub tag: Option<u16>,
    /// What was captured.
    pub octets: &'a [u8],
    /// How long it was.
    pub length: u32,
}

/// What came of a packet.
pub(super) struct Taken {
    /// What it is.
    pub class: Class,
    /// Set when its socket is worth looking for: where to put what is found, and its ends.
    pub question: Option<Question>,
}

/// Which socket sent this?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    /// Where the answer goes.
    pub place: (u64, usize),
    /// Protocol of the packet.
    pub proto: Proto,
    /// Its source.
    pub src: SocketAddr,
    /// Its destination.
    pub dst: SocketAddr,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    link: u32,
    class: Class,
    proto: Proto,
    from: IpAddr,
    to: SocketAddr,
    owner: Option<Stimulus>,
}

struct Kept {
    sighting: Sighting,
    /// Whether all look like OpenVPN's over UDP.
    openvpn: bool,
    /// Whether all have the local port of the first.
    one_flow: bool,
    packets: Vec<Captured>,
}

struct Datagram {
    from: IpAddr,
    to: IpAddr,
    proto: Proto,
    id: u32,
    class: Option<Class>,
    owner: Option<Stimulus>,
}

/// See the head of this file.
#[derive(Default)]
pub(super) struct Record {
    allow: AllowList,
    /// Connections that were there before.
    before: HashSet<(Proto, SocketAddr, SocketAddr)>,
    /// TCP connections of which a SYN was seen.
    begun: HashSet<(SocketAddr, SocketAddr)>,
    datagrams: VecDeque<Datagram>,
    places: HashMap<Key, usize>,
    kept: Vec<Kept>,
    /// How many of these are of each probe's stimuli.
    of_probe: HashMap<Arc<str>, usize>,
    /// Packets that are kept whole: of others, and of stimuli.
    captured: [usize; 2],
    unkept: u64,
    packets: u64,
    /// Number of the phase.
    epoch: u64,
}

impl Record {
    /// An empty record. `before` are the connections that are there already.
    pub(super) fn new(allow: AllowList, before: HashSet<(Proto, SocketAddr, SocketAddr)>) -> Self {
        Record { allow, before, ..Record::default() }
    }

    /// What may leave by an uplink.
    pub(super) fn allow(&self) -> &AllowList {
        &self.allow
    }

    /// Takes note of a packet that is nobody's control. `None`: it is allowed and of no interest. `owner` is made known of fragments by
    /// the first one of their datagram.
    pub(super) fn take(&mut self, seen: &Seen<'_>, packet: &Packet<'_>, owner: &mut Option<Stimulus>) -> Option<Taken> {
        let class = self.classify(seen.role, packet, owner)?;
        self.packets += 1;
        if packet.flags & SYN != 0 && self.begun.len() < MAX_BEGUN {
            self.begun.insert((packet.src, packet.dst));
        }
        let wireguard = packet.proto == Proto::Udp && looks_like_wireguard(packet.payload, packet.payload_length);
        let openvpn = packet.proto == Proto::Udp && looks_like_openvpn(packet.payload, packet.payload_length);
        let key = Key {
            link: seen.index,
            class,
            proto: packet.proto,
            from: packet.src.ip(),
            to: packet.dst,
            owner: owner.clone(),
        };
        let place = match self.places.get(&key) {
            Some(place) => {
                let kept = &mut self.kept[*place];
                kept.openvpn &= openvpn;
                kept.one_flow &= kept.sighting.src == packet.src;
                kept.sighting.count += 1;
                kept.sighting.last_ms = seen.at_ms;
                kept.sighting.wireguard &= wireguard;
                *place
            }
            None if !self.has_room(owner.as_ref()) => {
                self.unkept += 1;
                return Some(Taken { class, question: None });
            }
            None => {
                let (probe, stimulus) = owner.clone().map(|(probe, id)| (probe.to_string(), id)).unzip();
                let detail = Detail {
                    vlan: seen.tag.map(|tag| tag & 0x0fff).or(packet.vlan),
                    fragment: packet.fragment.map(|fragment| fragment.id),
                    inner: packet.inner,
                    older: self.is_older(packet),
                    owners: Vec::new(),
                };
                self.kept.push(Kept {
                    sighting: Sighting {
                        first_ms: seen.at_ms,
                        last_ms: seen.at_ms,
                        link: seen.link.to_owned(),
                        class,
                        proto: packet.proto,
                        src: packet.src,
                        dst: packet.dst,
                        count: 1,
                        length: seen.length,
                        wireguard,
                        probe,
                        stimulus,
                        detail,
                    },
                    openvpn,
                    one_flow: true,
                    packets: Vec::new(),
                });
                if let Some((probe, _)) = &key.owner {
                    *self.of_probe.entry(Arc::clone(probe)).or_default() += 1;
                }
                self.places.insert(key, self.kept.len() - 1);
                self.kept.len() - 1
            }
        };
        let kept = &mut self.kept[place];
        let leaked = match class {
            Class::Offence | Class::Nearby => true,
            Class::LocalDns => owner.is_some(),
            Class::Server | Class::Tunnelled => false,
        };
        let whose = usize::from(owner.is_some());
        if leaked && self.captured[whose] < MAX_CAPTURED && kept.packets.len() < MAX_CAPTURED_ALIKE {
            self.captured[whose] += 1;
            kept.packets.push(Captured {
                time: seen.time,
                link: seen.link.to_owned(),
                ether_type: seen.ether_type,
                tag: seen.tag,
                octets: STANDARD.encode(seen.octets),
                length: seen.length,
                class,
                probe: kept.sighting.probe.clone(),
                comment: String::new(),
            });
        }
        let unknown = owner.is_none() && leaked && packet.src.port() != 0 && kept.sighting.count == 1;
        let question = unknown.then_some(Question {
            place: (self.epoch, place),
            proto: packet.proto,
            src: packet.src,
            dst: packet.dst,
        });
        Some(Taken { class, question })
    }

    /// Whether one kind more is kept: where everything leaks, some of each probe's.
    fn has_room(&self, owner: Option<&Stimulus>) -> bool {
        let few = |probe: &Arc<str>| self.of_probe.get(probe).is_none_or(|kinds| *kinds < ROOM_OF_EACH);
        self.kept.len() < MAX_SIGHTINGS || owner.is_some_and(|(probe, _)| few(probe))
    }

    fn classify(&mut self, role: Role, packet: &Packet<'_>, owner: &mut Option<Stimulus>) -> Option<Class> {
        let known = packet.fragment.filter(|fragment| !fragment.first).map(|fragment| {
            // The newest first: identifications come round again.
            self.datagrams.iter().rev().find(|datagram| {
                (datagram.id, datagram.proto) == (fragment.id, packet.proto)
                    && (datagram.from, datagram.to) == (packet.src.ip(), packet.dst.ip())
            })
        });
        if let Some(Some(datagram)) = known {
            owner.clone_from(&datagram.owner);
            return datagram.class;
        }
        let mut class = match role {
            Role::Other => None,
            Role::Tunnel => Some(Class::Tunnelled).filter(|_| owner.is_some()),
            // A stimulus is meant for the internet, or for the server, which may stand on a local subnet: one that goes to any other
            // allowed address has been diverted there.
            Role::Uplink => {
                let diverted = owner.is_some() && !self.is_of_server(packet.dst.ip());
                self.allow.classify(packet).or(diverted.then_some(Class::Nearby))
            }
        };
        let aimed = || self.allow.endpoints.iter().any(|endpoint| endpoint.is_aimed_at(packet));
        // Where the tunnel's packets have no looks the allow-list lets everything go there, but this one is known by its marker.
        if matches!(class, Some(Class::Offence) | None) && role == Role::Uplink && owner.is_some() && aimed() {
            class = Some(Class::Server);
        }
        // A later fragment whose first one was never seen carries nothing by which it could be allowed to the server.
        if matches!(known, Some(None)) && role == Role::Uplink && class.is_none() && self.is_of_server(packet.dst.ip())
        {
            class = Some(Class::Offence);
        }
        if let Some(fragment) = packet.fragment.filter(|fragment| fragment.first) {
            if self.datagrams.len() >= MAX_FRAGMENTED {
                self.datagrams.pop_front();
            }
            self.datagrams.push_back(Datagram {
                from: packet.src.ip(),
                to: packet.dst.ip(),
                proto: packet.proto,
                id: fragment.id,
                class,
                owner: owner.clone(),
            });
        }
        class
    }

    fn is_of_server(&self, to: IpAddr) -> bool {
        self.allow.endpoints.iter().any(|endpoint| endpoint.address.ip() == to)
    }

    fn is_older(&self, packet: &Packet<'_>) -> bool {
        let tcp = packet.proto == Proto::Tcp && !packet.later_fragment();
        self.before.contains(&(packet.proto, packet.src, packet.dst))
            || (tcp && packet.flags & (SYN | RST) == 0 && !self.begun.contains(&(packet.src, packet.dst)))
    }

    /// What was found out about a socket. What came too late is dropped.
    pub(super) fn answer(&mut self, place: (u64, usize), owners: Vec<Owner>) {
        if let Some(kept) = self.kept.get_mut(place.1).filter(|_| place.0 == self.epoch) {
            kept.sighting.detail.owners = owners;
        }
    }

    /// From now on `endpoint` is the tunnel's too, and what was sent there before was the tunnel's own as far as it looks so.
    pub(super) fn adopt(&mut self, endpoint: Endpoint) {
        let own = |kept: &Kept| {
            let sighting = &kept.sighting;
            sighting.class == Class::Offence
                && sighting.probe.is_none()
                && sighting.dst == endpoint.address
                && sighting.proto == endpoint.proto
                && match endpoint.shape {
                    Shape::Wireguard => sighting.wireguard,
                    Shape::Openvpn if endpoint.proto == Proto::Udp => kept.openvpn,
                    Shape::Openvpn => kept.one_flow && endpoint.flow == Some(sighting.src.port()),
                    Shape::Unknown => false,
                }
        };
        for kept in self.kept.iter_mut().filter(|kept| own(kept)) {
            // The places of others must not move; a count of nothing is left out at the end.
            self.packets = self.packets.saturating_sub(kept.sighting.count);
            self.captured[0] -= kept.packets.len();
            kept.sighting.count = 0;
            kept.packets.clear();
        }
        let gone: HashSet<usize> = (0..self.kept.len()).filter(|place| self.kept[*place].sighting.count == 0).collect();
        self.places.retain(|_, place| !gone.contains(place));
        // Now that its looks are known they count.
        self.allow.endpoints.retain(|known| known.address != endpoint.address || known.shape != Shape::Unknown);
        self.allow.endpoints.push(endpoint);
    }

    /// Hands over what was seen since the last time.
    pub(super) fn finish(&mut self, phase: &mut PhaseWire) {
        phase.packets = std::mem::take(&mut self.packets);
        let unkept = std::mem::take(&mut self.unkept);
        if unkept > 0 {
            phase
                .problems
                .push(format!("{unkept} more packets were of more kinds than the sensor keeps ({MAX_SIGHTINGS})"));
        }
        self.places.clear();
        self.captured = [0; 2];
        self.epoch += 1;
        for Kept { sighting, packets, .. } in std::mem::take(&mut self.kept) {
            if sighting.count == 0 {
                continue;
            }
            let comment = comment(&sighting);
            phase.captured.extend(packets.into_iter().map(|packet| Captured { comment: comment.clone(), ..packet }));
            phase.sightings.push(sighting);
        }
        phase.sightings.sort_by(|a, b| a.first_ms.total_cmp(&b.first_ms));
        phase.captured.sort_by_key(|packet| packet.time);
    }
}

/// What Wireshark shows beside a packet.
fn comment(sighting: &Sighting) -> String {
    let what = match sighting.class {
        Class::Offence => "leak",
        Class::Nearby => "to a private, multicast or broadcast address that is not among the local subnets",
        Class::LocalDns => "DNS question to a local resolver",
        Class::Server => "to the VPN server, but not the tunnel's",
        Class::Tunnelled => "in the tunnel",
    };
    let whose = match &sighting.probe {
        Some(probe) => format!("stimulus of {probe}"),
        None => "not sent by leakcheck".to_owned(),
    };
    let mut text = format!("leakcheck: {what}; {whose}; {} alike", sighting.count);
    for more in sighting.detail.texts() {
        text.push_str("; ");
        text.push_str(&more);
    }
    text
}

#[cfg(test)]
mod tests;
