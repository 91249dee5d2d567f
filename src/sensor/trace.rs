//! What an outage needs to know packet by packet: when the tunnel carried stimuli, and when uplinks did. Pure.

use std::sync::Arc;

use super::decode::Packet;
use crate::model::evidence::{Class, Proto};
use crate::model::report::Hole;

/// Packets of a protocol closer together than this are one hole.
const HOLE_GAP_MS: f64 = 5.0;

/// See the head of this file. Times are milliseconds since the start of the run.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Spans in which packets of ours left by an uplink, by protocol.
    pub holes: Vec<Hole>,
    /// Last stimulus seen in the tunnel.
    pub last_in_tunnel_ms: Option<f64>,
    /// First stimulus seen in the tunnel after [`Trace::mark`].
    pub first_after_mark_ms: Option<f64>,
    /// Last stimulus seen in the tunnel before [`Trace::mark`].
    pub last_before_mark_ms: Option<f64>,
    /// The longest time between two stimuli in the tunnel since [`Trace::watch_silence`]: its beginning and its end.
    pub longest_silence_ms: Option<(f64, f64)>,
    /// Whether packets of the trial of [`Trace::apart_from`] left by an uplink.
    pub apart_left: bool,
    apart: Option<Arc<str>>,
    watched: bool,
    mark_ms: Option<f64>,
}

impl Trace {
    /// An empty trace. What leaves of `trial` by uplinks is a matter of its own, and makes no holes.
    pub fn apart_from(trial: Option<Arc<str>>) -> Self {
        Trace { apart: trial, ..Trace::default() }
    }

    /// From `now` on packets in the tunnel count as "after".
    pub fn mark(&mut self, now: f64) {
        self.last_before_mark_ms = self.last_in_tunnel_ms;
        self.mark_ms = Some(now);
    }

    /// From here on silence in the tunnel is measured.
    pub fn watch_silence(&mut self) {
        self.watched = true;
    }

    /// Takes note of a stimulus of `trial`.
    pub fn take(&mut self, at_ms: f64, class: Class, packet: &Packet<'_>, trial: &str) {
        match class {
            Class::Offence | Class::Nearby | Class::LocalDns if self.apart.as_deref() == Some(trial) => {
                self.apart_left = true;
            }
            Class::Tunnelled => {
                if let (true, Some(last)) = (self.watched, self.last_in_tunnel_ms) {
                    let longest = self.longest_silence_ms.map_or(0.0, |(from, to)| to - from);
                    if at_ms - last > longest {
                        self.longest_silence_ms = Some((last, at_ms));
                    }
                }
                self.last_in_tunnel_ms = Some(at_ms);
                if self.mark_ms.is_some_and(|mark| at_ms >= mark) {
                    self.first_after_mark_ms.get_or_insert(at_ms);
                }
            }
            Class::Offence | Class::Nearby | Class::LocalDns => {
                let proto = hole_label(packet);
                match self.holes.iter_mut().rev().find(|hole| hole.proto == proto) {
                    Some(hole) if at_ms - hole.to_ms <= HOLE_GAP_MS => {
                        hole.to_ms = at_ms;
                        hole.packets += 1;
                    }
                    _ => self.holes.push(Hole { from_ms: at_ms, to_ms: at_ms, proto, packets: 1 }),
                }
            }
            Class::Server => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::decode::ETHERTYPE_IPV6;
    use etherparse::PacketBuilder;

    #[test]
    fn what_is_a_matter_of_its_own_makes_no_holes() {
        let mut octets = Vec::new();
        PacketBuilder::ipv6([0xfc; 16], [0x20; 16], 1).udp(4000, 443).write(&mut octets, b"still here").unwrap();
        let packet = Packet::decode(ETHERTYPE_IPV6, &octets);
        let mut trace = Trace::apart_from(Some("flows".into()));
        trace.take(1.0, Class::Tunnelled, &packet, "flows");
        assert!(!trace.apart_left && trace.last_in_tunnel_ms == Some(1.0));
        trace.take(2.0, Class::Offence, &packet, "flows");
        assert!(trace.apart_left && trace.holes.is_empty());
        trace.take(3.0, Class::Offence, &packet, "samples");
        assert_eq!(trace.holes.len(), 1);
        let mut trace = Trace::apart_from(None);
        trace.take(2.0, Class::Offence, &packet, "flows");
        assert!(!trace.apart_left && trace.holes.len() == 1);
    }
}
