//! The tables of iptables-legacy and ip6tables-legacy, read with the socket options of linux/netfilter_ipv4/ip_tables.h and
//! linux/netfilter_ipv6/ip6_tables.h. Only tables that are there already are asked for: asking for another one would make it.

use std::cell::LazyCell;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use crate::model::firewall::{Backend, Chain, Condition, Does, Family, Hook, Of, Rule, masked};

use super::nft::{Steering, diverts_by, gives_back};

mod xt;

pub use xt::{at_the_word_of, matched, target};

/// IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES, and the same for IPv6.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// `struct ipt_getinfo`.
const INFO_SIZE: usize = 84;
/// `struct ipt_get_entries` before the entries.
const ENTRIES_HEAD: usize = 40;
/// Tables that are larger are left unread.
const MAX_TABLE: usize = 4 << 20;
/// Rules that are read at most.
const MAX_RULES: usize = 2000;
/// Names of chains that the kernel calls, in the order of NF_INET_*.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
const FORWARD: usize = 2;
const OUTPUT: usize = 3;

/// Where things are in an entry of one family.
struct Shape {
    family: Family,
    domain: i32,
    level: i32,
    names: &'static str,
    address: usize,
    /// Where names of links, the protocol and the flags of what is inverted are.
    links: usize,
    proto: usize,
    flags: usize,
    /// Which flag says that the target is not come back from.
    goes: u8,
    inverted: usize,
    target: usize,
    head: usize,
}

const SHAPES: [Shape; 2] = [
    Shape {
        family: Family::Ip,
        domain: libc::AF_INET,
        level: libc::IPPROTO_IP,
        names: "/proc/thread-self/net/ip_tables_names",
        address: 4,
        links: 16,
        proto: 80,
        flags: 82,
        goes: 2,
        inverted: 83,
        target: 88,
        head: 112,
    },
    Shape {
        family: Family::Ip6,
        domain: libc::AF_INET6,
        level: libc::IPPROTO_IPV6,
        names: "/proc/thread-self/net/ip6_tables_names",
        address: 16,
        links: 64,
        proto: 128,
        flags: 131,
        goes: 4,
        inverted: 132,
        target: 140,
        head: 168,
    },
];

/// Tables by name, with the priority of their chain OUTPUT (NF_IP_PRI_*).
const TABLES: [(&str, i32); 4] = [("raw", -300), ("mangle", -150), ("nat", -100), (FILTER, 0)];
const FILTER: &str = "filter";

/// What was read.
#[derive(Default)]
pub struct Read {
    /// Chains of the filter tables, and of others that drop, with the rules for the namespace's own packets.
    pub chains: Vec<Chain>,
    /// Chains of the tables in which rules send packets elsewhere.
    pub diverting: Vec<Chain>,
    /// The rules that may let pass what others send through the namespace, but for those of chains that only other chains call.
    pub through: Vec<Rule>,
    /// What kept them from being read.
    pub problems: Vec<String>,
}

/// Reads the tables of the calling thread's namespace.
pub fn chains() -> Read {
    let mut read = Read::default();
    let steering = LazyCell::new(Steering::read);
    for shape in &SHAPES {
        // No such file: the kernel has no legacy tables.
        let Ok(names) = fs::read_to_string(shape.names) else { continue };
        for table in TABLES.iter().filter(|(table, _)| names.lines().any(|name| name == *table)) {
            match entries(shape, table.0) {
                Ok((info, entries)) => sort(shape, *table, &info, &entries, &steering, &mut read),
                Err(error) => {
                    let what = format!("the {} {} table of iptables-legacy: {error}", shape.family, table.0);
                    read.problems.push(what);
                }
            }
        }
    }
    read
}

/// A table's chains, by what they are for.
fn sort(shape: &Shape, table: (&str, i32), info: &[u8], entries: &[u8], steering: &Steering, read: &mut Read) {
    let mut through = Vec::new();
    let chains = parse(shape, table, info, entries, None, &mut through);
    let own = |chain: &Chain| chain.hook.as_ref().is_none_or(|hook| hook.output);
    let drops = |chain: &Chain| chain.hook.as_ref().is_some_and(|hook| hook.drops) || chain.rules.iter().any(is_drop);
    let filters = table.0 == FILTER;
    if filters {
        read.through.append(&mut through);
    }
    if filters || chains.iter().any(|chain| own(chain) && drops(chain)) {
        read.chains.extend(chains);
    }
    let chains = parse(shape, table, info, entries, Some(steering), &mut through);
    if chains.iter().flat_map(|chain| &chain.rules).any(|rule| matches!(rule.does, Does::Divert { .. })) {
        read.diverting.extend(chains);
    }
}

fn is_drop(rule: &Rule) -> bool {
    rule.does == Does::Drop
}

fn entries(shape: &Shape, table: &str) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let domain = socket2::Domain::from(shape.domain);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    let named = |length: usize| {
        let mut buffer = vec![0; length];
        buffer[..table.len()].copy_from_slice(table.as_bytes());
        buffer
    };
    let mut info = named(INFO_SIZE);
    ask(&socket, shape.level, GET_INFO, &mut info)?;
    let size = u32_at(&info, 80).unwrap_or_default();
    if size as usize > MAX_TABLE {
        return Err(io::Error::other("it is too large"));
    }
    let mut whole = named(ENTRIES_HEAD + size as usize);
    whole[32..36].copy_from_slice(&size.to_ne_bytes());
    ask(&socket, shape.level, GET_ENTRIES, &mut whole)?;
    Ok((info, whole.split_off(ENTRIES_HEAD)))
}

fn ask(socket: &socket2::Socket, level: i32, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` octets, which is the size of the buffer.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*octets.get(at..)?.first_chunk()?))
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*octets.get(at..)?.first_chunk()?))
}

fn name(octets: &[u8]) -> String {
    let end = octets.iter().position(|octet| *octet == 0).unwrap_or(octets.len());
    String::from_utf8_lossy(&octets[..end]).into_owned()
}

/// One entry, cut out.
struct Entry<'a> {
    at: usize,
    octets: &'a [u8],
    /// Where in it the target is.
    target: usize,
}

impl Entry<'_> {
    fn target_name(&self) -> String {
        name(self.octets.get(self.target + 2..self.target + 31).unwrap_or_default())
    }

    fn target_data(&self) -> &[u8] {
        self.octets.get(self.target + 32..).unwrap_or_default()
    }
}

/// What is damaged ends the table. `steering`: rules are told by what they send elsewhere. `through`: see [`Read`].
fn parse(
    shape: &Shape,
    (table_name, priority): (&str, i32),
    info: &[u8],
    table: &[u8],
    steering: Option<&Steering>,
    through: &mut Vec<Rule>,
) -> Vec<Chain> {
    let (mut entries, mut at) = (Vec::new(), 0);
    while let Some(octets) = table.get(at..) {
        let (Some(target), Some(next)) = (u16_at(octets, shape.target), u16_at(octets, shape.target + 2)) else {
            break;
        };
        let (target, next) = (usize::from(target), usize::from(next));
        let Some(octets) = octets.get(..next).filter(|_| next > target && target >= shape.head) else { break };
        entries.push(Entry { at, octets, target });
        at += next;
    }
    let restored = entries.iter().any(|entry| gives_back(&entry.target_name(), entry.target_data()));
    let steering = steering.map(|steering| (steering, restored));
    let valid = u32_at(info, 32).unwrap_or_default();
    let place = |from: usize, hook: usize| u32_at(info, from + 4 * hook).map(|at| at as usize);
    // Chains by where they begin: those that the kernel calls, and those that a named entry is the head of.
    let mut begins: Vec<(usize, String, Option<usize>)> = (0..HOOKS.len())
        .filter(|hook| valid >> hook & 1 == 1)
        .filter_map(|hook| Some((place(36, hook)?, HOOKS[hook].to_owned(), place(56, hook))))
        .collect();
    let heads = entries.iter().filter(|entry| entry.target_name() == "ERROR");
    begins.extend(heads.map(|entry| (entry.at + entry.octets.len(), name(entry.target_data()), None)));
    begins.sort();
    let names: Vec<(usize, String)> = begins.iter().map(|(at, name, _)| (*at, name.clone())).collect();
    let (mut chains, mut left) = (Vec::new(), MAX_RULES);
    for (index, (begin, chain, policy)) in begins.iter().enumerate() {
        let end = begins.get(index + 1).map_or(table.len(), |(at, ..)| *at);
        let own = entries.iter().filter(|entry| (*begin..end).contains(&entry.at));
        let mut read = Chain {
            backend: Backend::Legacy,
            family: shape.family,
            table: table_name.to_owned(),
            name: chain.clone(),
            hook: None,
            rules: Vec::new(),
        };
        let output = HOOKS[OUTPUT] == chain;
        for entry in own {
            if entry.target_name() == "ERROR" {
                break;
            }
            if *policy == Some(entry.at) {
                let drops = is_drop(&rule(shape, entry, &names, None));
                read.hook = Some(Hook { output, priority, drops });
                break;
            }
            if HOOKS[FORWARD] == chain && through.len() < MAX_RULES {
                through.extend(Some(rule(shape, entry, &names, steering)).filter(Rule::may_accept));
            }
            // What others send through the namespace, and to it, is no matter of these chains.
            if policy.is_some() && !output {
                continue;
            }
            if left > 0 {
                left -= 1;
                read.rules.push(rule(shape, entry, &names, steering));
            } else {
                read.cut(steering.map_or(Does::Accept, |_| Does::unread_diversion()));
            }
        }
        // After the last user chain comes one entry that is the end of the table.
        if policy.is_some() || *begin < table.len() {
            chains.push(read);
        }
    }
    chains
}

fn rule(shape: &Shape, entry: &Entry<'_>, chains: &[(usize, String)], steering: Option<(&Steering, bool)>) -> Rule {
    const NOT_LINK: u8 = 2;
    const NOT_IN: u8 = 1;
    const NOT_FROM: u8 = 8;
    const NOT_TO: u8 = 16;
    const NOT_LATER: u8 = 32;
    const NOT_PROTO: u8 = 64;
    const LATER: u8 = 1;
    let octets = entry.octets;
    let inverted = octets.get(shape.inverted).copied().unwrap_or_default();
    let mut conditions = Vec::new();
    let mut add = |of: Of, flag: u8| conditions.push(Condition { of, not: inverted & flag != 0 });
    let part = |at: usize, length: usize| octets.get(at..at + length).unwrap_or_default();
    let link = |which: usize| {
        let (text, mask) = (name(part(shape.links + 16 * which, 16)), part(shape.links + 32 + 16 * which, 16));
        // A mask that ends before the zero is about the beginning of a name, which iptables writes with a `+` that does not count.
        let whole = mask.get(text.len()).is_some_and(|octet| *octet != 0);
        let beginning = || format!("{}+", text.strip_suffix('+').unwrap_or(&text));
        (!text.is_empty()).then(|| if whole { text.clone() } else { beginning() })
    };
    if let Some(from) = link(0) {
        add(Of::Other(format!("iifname {from}")), NOT_IN);
    }
    if let Some(to) = link(1) {
        add(Of::Link(to), NOT_LINK);
    }
    let size = shape.address;
    for (index, flag, to) in [(0, NOT_FROM, false), (1, NOT_TO, true)] {
        let mask = part(size * (2 + index), size);
        if mask.iter().all(|octet| *octet == 0) {
            continue;
        }
        let net = address(part(size * index, size)).zip(address(mask)).and_then(|(ip, mask)| masked(ip, mask));
        add(
            match net {
                Some(net) if to => Of::To(net),
                Some(net) => Of::From(net),
                None => Of::Other("an address by some of its bits".to_owned()),
            },
            flag,
        );
    }
    let proto = u16_at(octets, shape.proto).unwrap_or_default();
    if let Some(number) = u8::try_from(proto).ok().filter(|number| *number != 0) {
        add(Of::Protocol(number), NOT_PROTO);
    }
    let flags = octets.get(shape.flags).copied().unwrap_or_default();
    // The same bit says of IPv6 no more than that a protocol is asked for.
    if shape.family == Family::Ip && flags & LATER != 0 {
        add(Of::Other("a later fragment".to_owned()), NOT_LATER);
    }
    let mut at = shape.head;
    while at < entry.target {
        let size = usize::from(u16_at(octets, at).unwrap_or_default());
        let Some(one) = octets.get(at..at + size).filter(|one| one.len() >= 32) else { break };
        conditions.extend(matched(shape.family, &name(&one[2..31]), one[31].into(), &one[32..]));
        at += size;
    }
    let (condition, does) = does(entry, chains, steering);
    conditions.extend(condition);
    let does = match does {
        Does::Jump(to) if flags & shape.goes != 0 => Does::Goto(to),
        does => does,
    };
    Rule { conditions, does }
}

fn does(
    entry: &Entry<'_>,
    chains: &[(usize, String)],
    steering: Option<(&Steering, bool)>,
) -> (Option<Condition>, Does) {
    let name = entry.target_name();
    let elsewhere = |(steering, restored): (&Steering, bool)| {
        diverts_by(&name).or_else(|| steering.steered_by(&name, entry.target_data(), restored))
    };
    if let Some(does) = steering.and_then(elsewhere) {
        return (None, does);
    }
    if !name.is_empty() {
        return target(&name);
    }
    // Below zero a verdict of the kernel, less one; else where to go on.
    let does = match u32_at(entry.target_data(), 0).map(u32::cast_signed) {
        Some(-1) => Does::Drop,
        Some(-2) => Does::Accept,
        Some(-4) => return target("QUEUE"),
        Some(-5) => Does::Return,
        Some(to) if to >= 0 => {
            let called = chains.iter().find(|(at, _)| *at == to.cast_unsigned() as usize);
            called.map_or(Does::Nothing, |(_, name)| Does::Jump(name.clone()))
        }
        _ => Does::Nothing,
    };
    (None, does)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
    }
}

/// Reads octets as if the kernel had given them for a table, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(octets: &[u8]) {
    let (info, table) = octets.split_at(octets.len().min(INFO_SIZE));
    for shape in &SHAPES {
        sort(shape, TABLES[1], info, table, &Steering::none(), &mut Read::default());
    }
}

#[cfg(test)]
mod tests;
