//! What an outage needs to know packet by packet: when the tunnel carried stimuli, and when uplinks did. Pure.

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
    watched: bool,
    mark_ms: Option<f64>,
}

impl Trace {
    /// From `now` on packets in the tunnel count as "after".
    pub fn mark(&mut self, now: f64) {
        self.last_before_mark_ms = self.last_in_tunnel_ms;
        self.mark_ms = Some(now);
    }

    /// From here on silence in the tunnel is measured.
    pub fn watch_silence(&mut self) {
        self.watched = true;
    }

    /// Takes note of a stimulus.
    pub fn take(&mut self, at_ms: f64, class: Class, packet: &Packet<'_>) {
        match class {
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
