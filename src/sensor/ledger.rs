//! Whose packet is it: every stimulus is entered here before it is sent, with the marker or the flow by which the sensor knows it again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::backlog::Backlog;
use super::decode::Packet;
use crate::model::evidence::Proto;

/// Octets of a marker in a payload or a name.
const MARKER_LENGTH: usize = 18;

/// Stimuli of this run by marker and by flow. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    nonce: u32,
    entries: Arc<Mutex<Entries>>,
    /// What the sensor has not read yet of what was entered.
    pub backlog: Backlog,
}

#[derive(Debug, Default)]
struct Entries {
    owners: Vec<Arc<str>>,
    flows: HashMap<(Proto, u16, SocketAddr), u32>,
}

/// A stimulus in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its number, unique in the run.
    pub id: u32,
    nonce: u32,
}

impl Entry {
    /// What stands in the payload of the stimulus, or as a label in the name that it asks for: 18 letters and digits in lower case.
    pub fn marker(&self) -> String {
        marker(self.nonce, self.id)
    }

    /// The sequence number of a crafted SYN.
    pub fn sequence(&self) -> u32 {
        sequence(self.nonce, self.id)
    }
}

/// See [`Entry::marker`], for those who send what another process has entered.
pub fn marker(nonce: u32, id: u32) -> String {
    format!("lk{nonce:08x}{id:08x}")
}

/// See [`Entry::sequence`].
pub fn sequence(nonce: u32, id: u32) -> u32 {
    (nonce & 0xffff_0000) | (id & 0xffff)
}

impl Ledger {
    /// An empty ledger; `nonce` tells this run's markers from another's.
    pub fn new(nonce: u32) -> Self {
        Ledger { nonce, entries: Arc::default(), backlog: Backlog::default() }
    }

    /// Enters a stimulus of `probe`.
    pub fn enter(&self, probe: &Arc<str>) -> Entry {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let id = entries.owners.len() as u32;
        entries.owners.push(Arc::clone(probe));
        Entry { id, nonce: self.nonce }
    }

    /// Makes packets from local port `from` to `to` known as those of `entry`, for protocols that carry no payload of ours.
    pub fn enter_flow(&self, entry: Entry, proto: Proto, from: u16, to: SocketAddr) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.flows.insert((proto, from, SocketAddr::new(to.ip(), to.port())), entry.id);
    }

    /// Whose packet it is: the asking of a probe and the number of its stimulus.
    pub fn owner(&self, packet: &Packet<'_>) -> Option<(Arc<str>, u32)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let crafted = packet.proto == Proto::Tcp && packet.sequence >> 16 == self.nonce >> 16;
        let id = self
            .marked(packet.payload)
            .or_else(|| entries.flows.get(&(packet.proto, packet.src.port(), packet.dst)).copied())
            .or_else(|| crafted.then_some(packet.sequence & 0xffff))?;
        entries.owners.get(id as usize).map(|owner| (Arc::clone(owner), id))
    }

    /// The number in the first marker of this run that `payload` holds. Resolvers may change the case of a name's letters.
    fn marked(&self, payload: &[u8]) -> Option<u32> {
        let prefix = format!("lk{:08x}", self.nonce);
        payload.windows(MARKER_LENGTH).find_map(|window| {
            let (head, number) = window.split_at(prefix.len());
            if !head.eq_ignore_ascii_case(prefix.as_bytes()) {
                return None;
            }
            u32::from_str_radix(std::str::from_utf8(number).ok()?, 16).ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::decode::ETHERTYPE_IPV4;
    use etherparse::PacketBuilder;

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut octets = Vec::new();
        PacketBuilder::ipv4([172, 18, 0, 10], [8, 8, 8, 8], 1).udp(4000, port).write(&mut octets, payload).unwrap();
        octets
    }

    #[test]
    fn knows_its_own_by_marker_and_by_flow() {
        let ledger = Ledger::new(0x1234_abcd);
        let probe: Arc<str> = "dns-forced".into();
        ledger.enter(&"other".into());
        let entry = ledger.enter(&probe);
        let marked = udp(53, format!("\x12{}\x07example", entry.marker().to_uppercase()).as_bytes());
        assert_eq!(ledger.owner(&Packet::decode(ETHERTYPE_IPV4, &marked)), Some((probe.clone(), entry.id)));
        let plain = udp(853, b"no marker");
        assert_eq!(ledger.owner(&Packet::decode(ETHERTYPE_IPV4, &plain)), None);
        ledger.enter_flow(entry, Proto::Udp, 4000, "8.8.8.8:853".parse().unwrap());
        assert_eq!(ledger.owner(&Packet::decode(ETHERTYPE_IPV4, &plain)), Some((probe, entry.id)));
    }

    #[test]
    fn another_runs_marker_is_not_ours() {
        let ours = Ledger::new(1);
        let theirs = Ledger::new(2).enter(&"x".into());
        ours.enter(&"x".into());
        assert_eq!(ours.owner(&Packet::decode(ETHERTYPE_IPV4, &udp(9, theirs.marker().as_bytes()))), None);
    }

    #[test]
    fn a_crafted_syn_is_known_by_its_sequence_number() {
        let ledger = Ledger::new(0xfeed_0000);
        let entry = ledger.enter(&"kill-switch".into());
        let mut octets = Vec::new();
        PacketBuilder::ipv4([172, 18, 0, 10], [1, 1, 1, 1], 1)
            .tcp(4000, 443, entry.sequence(), 1024)
            .syn()
            .write(&mut octets, &[])
            .unwrap();
        assert_eq!(ledger.owner(&Packet::decode(ETHERTYPE_IPV4, &octets)).map(|(_, id)| id), Some(entry.id));
    }
}
