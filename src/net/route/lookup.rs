//! The kernel's own answer to "which link?", for many addresses in little time: questions go out in batches, and answers are read for the
//! few attributes that matter.

use super::RouteError;
use crate::handicap::{Handicap, lacks};
use crate::net::netlink::{Client, Message, NetlinkError, attributes, put_attribute};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::net::IpAddr;

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
/// `struct rtmsg` before the attributes.
const HEADER: usize = 12;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;
const RTA_UID: u16 = 25;
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
/// Answers with the table that decided.
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
/// Answers of one batch fit into the smallest receive buffer that kernels give.
const BATCH: usize = 64;

/// What a packet would be, as far as rules can tell packets apart; what is absent is not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// Transport protocol number: of TCP, UDP, ICMP or ICMPv6.
    pub protocol: Option<u8>,
    /// Source port.
    pub from_port: Option<u16>,
    /// Destination port.
    pub to_port: Option<u16>,
    /// Mark.
    pub mark: Option<u32>,
    /// Owner of the socket.
    pub user: Option<u32>,
    /// Somebody else's, for the stack to carry on: whose, and the index of the link by which it comes in.
    pub others: Option<(IpAddr, u32)>,
}

/// The kernel's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It would send by the link of that index, by a route of that table.
    Link {
        /// Interface index.
        index: u32,
        /// Routing table.
        table: u32,
    },
    /// It would not send: there is no route, or one that refuses.
    Nowhere,
}

/// A connection over which routes are asked for, in the namespace in which it was opened.
pub struct Lookup(Client);

impl Lookup {
    /// Opens one.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open() -> Result<Self, RouteError> {
        Client::open(NETLINK_ROUTE).map(Self).map_err(failed)
    }

    /// By which link the kernel would send to each of `to`.
    ///
    /// # Errors
    /// When the exchange fails. That there is no route is an answer.
    pub fn ask(&mut self, to: &[IpAddr], flow: &Flow) -> Result<Vec<Way>, RouteError> {
        let mut ways = Vec::with_capacity(to.len());
        for some in to.chunks(BATCH) {
            let questions: Vec<Message> = some.iter().map(|to| question(*to, flow)).collect();
            let mut answers = vec![Way::Nowhere; some.len()];
            let mut unexpected = None;
            let take = |place: usize, answer: Result<(u16, &[u8]), NetlinkError>| match answer {
                Ok(_) if lacks(Handicap::Lookups) => {}
                Ok((kind, payload)) => answers[place] = read(kind, payload),
                Err(NetlinkError::Refused { source, .. }) if says_no(&source) => {}
                Err(error) => unexpected = Some(error),
            };
            self.0.exchange(&questions, take).map_err(failed)?;
            match unexpected {
                Some(error) => return Err(failed(error)),
                None => ways.append(&mut answers),
            }
        }
        Ok(ways)
    }
}

fn failed(error: NetlinkError) -> RouteError {
    RouteError::Netlink("ask the kernel for routes".to_owned(), error)
}

/// No route, one that is unreachable, prohibited, or a black hole; nothing is carried on that comes in so, or its source is not taken there.
fn says_no(error: &std::io::Error) -> bool {
    const NO: [i32; 5] = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::EXDEV];
    error.raw_os_error().is_some_and(|errno| NO.contains(&errno))
}

fn question(to: IpAddr, flow: &Flow) -> Message {
    let mut payload = vec![0; HEADER];
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let address = octets(to);
    payload[0] = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    payload[1] = (address.len() * 8) as u8;
    payload[8..12].copy_from_slice(&RTM_F_LOOKUP_TABLE.to_ne_bytes());
    put_attribute(&mut payload, RTA_DST, &address);
    if let Some((from, link)) = flow.others.filter(|(from, _)| from.is_ipv4() == to.is_ipv4()) {
        payload[2] = (address.len() * 8) as u8;
        put_attribute(&mut payload, RTA_SRC, &octets(from));
        put_attribute(&mut payload, RTA_IIF, &link.to_ne_bytes());
    }
    for (kind, value) in [(RTA_MARK, flow.mark), (RTA_UID, flow.user)] {
        if let Some(value) = value {
            put_attribute(&mut payload, kind, &value.to_ne_bytes());
        }
    }
    if let Some(protocol) = flow.protocol {
        put_attribute(&mut payload, RTA_IP_PROTO, &[protocol]);
    }
    for (kind, value) in [(RTA_SPORT, flow.from_port), (RTA_DPORT, flow.to_port)] {
        if let Some(value) = value {
            put_attribute(&mut payload, kind, &value.to_be_bytes());
        }
    }
    Message { kind: RTM_GETROUTE, flags: 0, payload }
}

pub(super) fn read(message: u16, payload: &[u8]) -> Way {
    /// `RTN_*` that carry a packet: unicast, local, broadcast, anycast, multicast.
    const CARRY: std::ops::RangeInclusive<u8> = 1..=5;
    let kind = payload.get(7).copied().unwrap_or_default();
    if message != RTM_NEWROUTE || !CARRY.contains(&kind) {
        return Way::Nowhere;
    }
    let (mut link, mut table) = (None, payload.get(4).copied().map_or(0, u32::from));
    for (kind, value) in attributes(payload.get(HEADER..).unwrap_or_default()) {
        let number = value.first_chunk::<4>().map(|four| u32::from_ne_bytes(*four));
        match kind {
            RTA_OIF => link = number,
            RTA_TABLE => table = number.unwrap_or(table),
            _ => {}
        }
    }
    link.map_or(Way::Nowhere, |index| Way::Link { index, table })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn many_questions_get_as_many_answers_in_order() {
        let mut lookup = Lookup::open().unwrap();
        let to: Vec<IpAddr> = (0..200).map(|last| IpAddr::from([127, 0, 0, last])).collect();
        let flow = Flow { protocol: Some(17), to_port: Some(6881), ..Flow::default() };
        let ways = lookup.ask(&to, &flow).unwrap();
        assert_eq!(ways.len(), 200);
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        assert!(ways.iter().all(|way| matches!(way, Way::Link { index, .. } if *index == loopback)), "{ways:?}");
        // Class E is routed by no kernel to nowhere in particular, but a question for it has an answer all the same.
        assert_eq!(lookup.ask(&[Ipv4Addr::BROADCAST.into()], &Flow::default()).unwrap().len(), 1);
    }
}
