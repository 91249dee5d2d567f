//! The filter tables of iptables-legacy and ip6tables-legacy, written as a whole with the socket option of linux/netfilter_ipv4/ip_tables.h
//! and linux/netfilter_ipv6/ip6_tables.h: what a stack has whose image brings no other iptables.

use crate::net::nft::{Match, Policy, Rule, Verdict};
use crate::net::route::Family;
use ipnet::IpNet;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// IPT_SO_SET_REPLACE, and IPT_SO_GET_INFO of the same number.
const SET_REPLACE: i32 = 64;
const GET_INFO: i32 = 64;
/// `struct ipt_getinfo`, and where the number of entries is in it.
const INFO_SIZE: usize = 84;
const INFO_ENTRIES: usize = 76;
/// INPUT, FORWARD and OUTPUT, by the numbers of NF_INET_*.
const FIRST_HOOK: usize = 1;
const HOOKS: u32 = 0b1110;
/// `struct xt_counters`.
const COUNTER: usize = 16;
/// Entries, matches and targets begin where a number of eight octets could.
const ALIGN: usize = 8;
/// `struct xt_entry_match` and `struct xt_entry_target` before their data.
const PART_HEAD: usize = 32;
const NAME: usize = 30;
/// Verdicts: NF_DROP and NF_ACCEPT, below zero less one.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
/// IP6T_F_PROTO: the protocol counts.
const PROTO_COUNTS: u8 = 1;

/// A chain: its policy, and its rules in order.
pub(super) struct Chain {
    pub policy: Policy,
    pub rules: Vec<Rule>,
}

/// Whether this kernel has such tables for both families. It makes them known by these files (0440, but seen by all).
#[must_use]
pub fn is_available() -> bool {
    ["ip_tables_names", "ip6_tables_names"].iter().all(|name| Path::new("/proc/net").join(name).exists())
}

/// Where things are in an entry of one family (`struct ipt_entry`, `struct ip6t_entry`).
struct Shape {
    domain: socket2::Domain,
    level: i32,
    address: usize,
    links: usize,
    proto: usize,
    /// Where the flags are by which IPv6 is told that the protocol counts.
    flags: Option<usize>,
    target: usize,
    head: usize,
}

fn shape(family: Family) -> Shape {
    match family {
        Family::V4 => Shape {
            domain: socket2::Domain::IPV4,
            level: libc::IPPROTO_IP,
            address: 4,
            links: 16,
            proto: 80,
            flags: None,
            target: 88,
            head: 112,
        },
        Family::V6 => Shape {
            domain: socket2::Domain::IPV6,
            level: libc::IPPROTO_IPV6,
            address: 16,
            links: 64,
            proto: 128,
            flags: Some(131),
            target: 140,
            head: 168,
        },
    }
}

/// Replaces the filter table of the calling thread's namespace; `chains` are INPUT, FORWARD and OUTPUT.
///
/// # Errors
/// When the kernel has no such tables, or a rule holds what is not translated.
pub(super) fn replace(family: Family, chains: &[Chain; 3]) -> io::Result<()> {
    let shape = shape(family);
    let socket = socket2::Socket::new(shape.domain, socket2::Type::DGRAM, None)?;
    let (mut entries, mut count) = (Vec::new(), 0_u32);
    let (mut begins, mut policies) = ([0_u32; 5], [0_u32; 5]);
    for (place, chain) in chains.iter().enumerate() {
        begins[FIRST_HOOK + place] = entries.len() as u32;
        for rule in &chain.rules {
            let verdict = match rule.verdict {
                Verdict::Accept => ACCEPT,
                Verdict::Drop => DROP,
                other => return Err(untranslated(&other)),
            };
            entries.extend(entry(&shape, &rule.matches, &standard(verdict))?);
        }
        policies[FIRST_HOOK + place] = entries.len() as u32;
        let verdict = if chain.policy == Policy::Drop { DROP } else { ACCEPT };
        entries.extend(entry(&shape, &[], &standard(verdict))?);
        count += chain.rules.len() as u32 + 1;
    }
    // The end of the table.
    entries.extend(entry(&shape, &[], &part("ERROR", 0, b"ERROR", NAME))?);
    count += 1;

    // The kernel hands over the counters of the entries that are replaced.
    let old = entries_now(&socket, &shape)?;
    let mut counters = vec![0_u8; COUNTER * old as usize];
    let mut request = padded(b"filter", 32);
    for number in [HOOKS, count, entries.len() as u32].into_iter().chain(begins).chain(policies).chain([old]) {
        request.extend(number.to_ne_bytes());
    }
    request.extend((counters.as_mut_ptr() as usize).to_ne_bytes());
    request.extend(entries);
    // SAFETY: the request is as long as it says, and the counters have room for as many as it says.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            shape.level,
            SET_REPLACE,
            request.as_ptr().cast(),
            request.len() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for the table, which makes it, and tells how many entries it has.
fn entries_now(socket: &socket2::Socket, shape: &Shape) -> io::Result<u32> {
    let mut info = padded(b"filter", INFO_SIZE);
    let mut length = INFO_SIZE as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` octets, which is the size of the buffer.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), shape.level, GET_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let number = info.get(INFO_ENTRIES..).and_then(|octets| octets.first_chunk());
    number.map(|octets| u32::from_ne_bytes(*octets)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn entry(shape: &Shape, conditions: &[Match], target: &[u8]) -> io::Result<Vec<u8>> {
    let mut octets = vec![0; shape.head];
    let mut matches = Vec::new();
    let mut protocol = 0;
    let mut put = |at: usize, value: &[u8]| octets[at..at + value.len()].copy_from_slice(value);
    for condition in conditions {
        match condition {
            Match::Input(name) | Match::Output(name) => {
                let which = usize::from(matches!(condition, Match::Output(_)));
                put(shape.links + 16 * which, name.as_bytes());
                // The zero at its end counts too: the whole name.
                put(shape.links + 32 + 16 * which, &vec![0xff; name.len() + 1]);
            }
            Match::Source(net) | Match::Destination(net) => {
                let which = usize::from(matches!(condition, Match::Destination(_)));
                let (address, mask) = match net {
                    IpNet::V4(net) => (net.network().octets().to_vec(), net.netmask().octets().to_vec()),
                    IpNet::V6(net) => (net.network().octets().to_vec(), net.netmask().octets().to_vec()),
                };
                if address.len() != shape.address {
                    return Err(untranslated(condition));
                }
                put(shape.address * which, &address);
                put(shape.address * (2 + which), &mask);
            }
            Match::Protocol(number) => {
                protocol = i32::from(*number);
                put(shape.proto, &u16::from(*number).to_ne_bytes());
                if let Some(flags) = shape.flags {
                    put(flags, &[PROTO_COUNTS]);
                }
            }
            Match::DestinationPorts(low, high) => {
                let ports: Vec<u8> = [0, u16::MAX, *low, *high].iter().flat_map(|port| port.to_ne_bytes()).collect();
                matches.extend(match protocol {
                    // `struct xt_tcp` has an option, two masks of flags and the inversions behind the ports, `struct xt_udp` the latter.
                    libc::IPPROTO_TCP => part("tcp", 0, &ports, 12),
                    libc::IPPROTO_UDP => part("udp", 0, &ports, 10),
                    _ => return Err(untranslated(condition)),
                });
            }
            Match::NotFromItsLink => matches.extend(part("addrtype", 1, &not_from_its_link(), 8)),
            Match::State(states) => matches.extend(part("conntrack", 3, &conntrack(*states as u16), CONNTRACK)),
            other => return Err(untranslated(other)),
        }
    }
    let start = shape.head + matches.len();
    put(shape.target, &(start as u16).to_ne_bytes());
    put(shape.target + 2, &((start + target.len()) as u16).to_ne_bytes());
    Ok([octets, matches, target.to_vec()].concat())
}

/// `struct xt_addrtype_info_v1`: kinds of sources, of destinations, and flags.
fn not_from_its_link() -> Vec<u8> {
    const LOCAL: u16 = 1 << libc::RTN_LOCAL;
    const NOT_THE_SOURCE: u32 = 1;
    const ON_OUTPUT_LINK: u32 = 8;
    let kinds = [LOCAL.to_ne_bytes(), [0; 2]].concat();
    [kinds, (NOT_THE_SOURCE | ON_OUTPUT_LINK).to_ne_bytes().to_vec()].concat()
}

/// `struct xt_conntrack_mtinfo3`, and where in it the flags of what counts and the states are.
const CONNTRACK: usize = 164;
const CONNTRACK_FLAGS: usize = 146;
const CONNTRACK_STATES: usize = 150;
/// XT_CONNTRACK_STATE.
const BY_STATE: u16 = 1;

/// The bits of states are those of nftables.
fn conntrack(states: u16) -> Vec<u8> {
    let mut octets = vec![0; CONNTRACK];
    octets[CONNTRACK_FLAGS..CONNTRACK_FLAGS + 2].copy_from_slice(&BY_STATE.to_ne_bytes());
    octets[CONNTRACK_STATES..CONNTRACK_STATES + 2].copy_from_slice(&states.to_ne_bytes());
    octets
}

/// The target without a name: a verdict.
fn standard(verdict: i32) -> Vec<u8> {
    part("", 0, &verdict.to_ne_bytes(), 4)
}

/// A match or target with `data` of `length` octets.
fn part(name: &str, revision: u8, data: &[u8], length: usize) -> Vec<u8> {
    let size = (PART_HEAD + length).next_multiple_of(ALIGN);
    let mut octets = (size as u16).to_ne_bytes().to_vec();
    octets.extend(padded(name.as_bytes(), NAME - 1));
    octets.push(revision);
    octets.extend(data);
    octets.resize(size, 0);
    octets
}

fn padded(octets: &[u8], length: usize) -> Vec<u8> {
    let mut octets = octets.to_vec();
    octets.resize(length, 0);
    octets
}

fn untranslated(what: &impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("no word of iptables-legacy is known for {what:?}"))
}
