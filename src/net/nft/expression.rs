//! From typed matches and verdicts to the kernel's expressions, as `nft` would write them.
//!
//! Reference: `include/uapi/linux/netfilter/nf_tables.h`. Addresses and ports are in network byte order in a register,
//! marks, lengths, users and connection states in the host's.

use super::{Field, Match, Rule, TableFamily, Verdict};
use crate::net::route::Family;
use ipnet::IpNet;
use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, ExpressionAttribute, Expressions, Immediate, ListAttribute, Meta, MetaKey, Operator,
    Payload, Register, Verdict as RawVerdict, VerdictAttribute,
};
use std::net::IpAddr;

const R1: Register = Register::Reg1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const NAME_SIZE: usize = 16;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

pub(super) fn rule(family: TableFamily, rule: &Rule) -> Vec<ListAttribute<ExpressionAttribute>> {
    let (mut expressions, mut family) = (Vec::new(), family);
    for condition in &rule.matches {
        matching(family, condition, &mut expressions);
        if let Match::Version(version) = condition {
            // What follows is of this family alone.
            family = match version {
                Family::V4 => TableFamily::Ip,
                Family::V6 => TableFamily::Ip6,
            };
        }
    }
    if rule.counter {
        expressions.push(other("counter", vec![]));
    }
    verdict(rule.verdict, &mut expressions);
    expressions.into_iter().map(ListAttribute::from).collect()
}

fn matching(family: TableFamily, condition: &Match, out: &mut Vec<Expressions>) {
    match condition {
        Match::Input(name) => out.extend([meta(MetaKey::Iifname), compare(Operator::Equal, padded(name))]),
        Match::Output(name) => out.extend([meta(MetaKey::Oifname), compare(Operator::Equal, padded(name))]),
        Match::NotOutput(name) => out.extend([meta(MetaKey::Oifname), compare(Operator::NotEqual, padded(name))]),
        Match::Version(version) => {
            let number = match version {
                Family::V4 => libc::NFPROTO_IPV4,
                Family::V6 => libc::NFPROTO_IPV6,
            };
            out.extend([meta(MetaKey::Nfproto), compare(Operator::Equal, vec![number as u8])]);
        }
        Match::NotToItself => {
            const OF_DESTINATION: u32 = 2;
            not_local(OF_DESTINATION, out);
        }
        Match::NotFromItsLink => {
            const OF_SOURCE: u32 = 1;
            const ON_OUTPUT_LINK: u32 = 16;
            not_local(OF_SOURCE | ON_OUTPUT_LINK, out);
        }
        Match::In { fields, set } => lookup(fields, set, false, out),
        Match::Decided { fields, map } => lookup(fields, map, true, out),
        Match::Source(net) => address(family, *net, 12, 8, out),
        Match::Destination(net) => address(family, *net, 16, 24, out),
        Match::Protocol(number) => out.extend([meta(MetaKey::L4Proto), compare(Operator::Equal, vec![*number])]),
        Match::SourcePorts(low, high) => ports(0, *low, *high, out),
        Match::DestinationPorts(low, high) => ports(2, *low, *high, out),
        Match::State(states) => {
            const KEY_STATE: u32 = 0;
            out.push(other("ct", vec![number(2, KEY_STATE), number(1, R1.into())]));
            out.push(masked(states.to_ne_bytes().to_vec()));
            out.push(compare(Operator::NotEqual, vec![0; 4]));
        }
        Match::Mark(mark) => out.extend([meta(MetaKey::Mark), compare(Operator::Equal, mark.to_ne_bytes().to_vec())]),
        Match::NotMark(mark) => {
            out.extend([meta(MetaKey::Mark), compare(Operator::NotEqual, mark.to_ne_bytes().to_vec())]);
        }
        Match::User(uid) => {
            out.extend([meta(MetaKey::SocketUserId), compare(Operator::Equal, uid.to_ne_bytes().to_vec())]);
        }
        Match::IcmpType(kind) => {
            out.extend([payload(TRANSPORT_HEADER, 0, 1), compare(Operator::Equal, vec![*kind])]);
        }
        Match::Class(class) if family == TableFamily::Ip6 => {
            // Four bits of the version stand before it, and twenty of the flow label behind.
            out.push(payload(NETWORK_HEADER, 0, 2));
            out.push(masked(vec![0x0f, 0xf0]));
            out.push(compare(Operator::Equal, (u16::from(*class) << 4).to_be_bytes().to_vec()));
        }
        Match::Class(class) => out.extend([payload(NETWORK_HEADER, 1, 1), compare(Operator::Equal, vec![*class])]),
        Match::LaterFragment => {
            out.push(payload(NETWORK_HEADER, 6, 2));
            out.push(masked(vec![0x1f, 0xff]));
            out.push(compare(Operator::NotEqual, vec![0; 2]));
        }
        Match::Option(kind) => {
            const PRESENT: u32 = 1;
            const OF_IPV4: u32 = 2;
            let fields = [(1, R1.into()), (3, 0), (4, 1), (5, PRESENT), (6, OF_IPV4)];
            let mut attributes = fields.map(|(kind, value)| number(kind, value)).to_vec();
            attributes.push(DefaultNla::new(2, vec![*kind]));
            out.push(other("exthdr", attributes));
            out.push(compare(Operator::Equal, vec![1]));
        }
        Match::TcpFlags { of, set, not } => {
            out.push(payload(TRANSPORT_HEADER, 13, 1));
            out.push(masked(vec![*of]));
            out.push(compare(if *not { Operator::NotEqual } else { Operator::Equal }, vec![*set]));
        }
        Match::OneIn(modulus) => {
            const RANDOM: u32 = 1;
            let fields = [(1, R1.into()), (2, *modulus), (3, RANDOM), (4, 0)];
            out.push(other("numgen", fields.map(|(kind, value)| number(kind, value)).to_vec()));
            out.push(compare(Operator::Equal, vec![0; 4]));
        }
        Match::Length(low, high) => {
            out.push(meta(MetaKey::Length));
            // Ranges are compared byte by byte, so the number has to be turned into network order first.
            const HOST_TO_NETWORK: u32 = 1;
            let fields = [(1, R1.into()), (2, R1.into()), (3, HOST_TO_NETWORK), (4, 4), (5, 4)];
            out.push(other("byteorder", fields.map(|(kind, value)| number(kind, value)).to_vec()));
            out.push(compare(Operator::GreatherThanEqual, low.to_be_bytes().to_vec()));
            out.push(compare(Operator::LessThanEqual, high.to_be_bytes().to_vec()));
        }
    }
}

/// That an address is none of this host's own; `whose` are flags of the kernel's `fib` expression.
fn not_local(whose: u32, out: &mut Vec<Expressions>) {
    const ADDRESS_TYPE: u32 = 3;
    let fields = [(1, R1.into()), (2, ADDRESS_TYPE), (3, whose)];
    out.push(other("fib", fields.map(|(kind, value)| number(kind, value)).to_vec()));
    let local = u32::from(libc::RTN_LOCAL);
    out.push(compare(Operator::NotEqual, local.to_ne_bytes().to_vec()));
}

/// Loads the fields of a key into registers that follow one another, and looks that up.
fn lookup(fields: &[Field], set: &str, decides: bool, out: &mut Vec<Expressions>) {
    // NFT_REG32_00, where NFT_REG_1 begins too.
    const FIRST: u32 = 8;
    const VERDICT: u32 = 0;
    let mut register = FIRST;
    for field in fields {
        let load = |base, offset, length| {
            let fields = [(1, register), (2, base), (3, offset), (4, length)];
            other("payload", fields.map(|(kind, value)| number(kind, value)).to_vec())
        };
        let known = |key| other("meta", [(2, key), (1, register)].map(|(kind, value)| number(kind, value)).to_vec());
        out.push(match field {
            Field::Input => known(6),
            Field::Output => known(7),
            Field::Destination4 => load(NETWORK_HEADER, 16, 4),
            Field::Destination6 => load(NETWORK_HEADER, 24, 16),
            Field::Protocol => known(16),
            Field::DestinationPort => load(TRANSPORT_HEADER, 2, 2),
        });
        register += field.width() / 4;
    }
    let mut attributes = vec![DefaultNla::new(1, [set.as_bytes(), &[0]].concat()), number(2, FIRST)];
    if decides {
        attributes.push(number(3, VERDICT));
    }
    out.push(other("lookup", attributes));
}

fn address(family: TableFamily, net: IpNet, offset4: u32, offset6: u32, out: &mut Vec<Expressions>) {
    let (protocol, offset, bytes, mask) = match net {
        IpNet::V4(net) => {
            (libc::NFPROTO_IPV4, offset4, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
        IpNet::V6(net) => {
            (libc::NFPROTO_IPV6, offset6, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
    };
    if family == TableFamily::Inet {
        out.extend([meta(MetaKey::Nfproto), compare(Operator::Equal, vec![protocol as u8])]);
    }
    out.push(payload(NETWORK_HEADER, offset, bytes.len() as u32));
    if mask.iter().any(|byte| *byte != 0xff) {
        out.push(masked(mask));
    }
    out.push(compare(Operator::Equal, bytes));
}

fn ports(offset: u32, low: u16, high: u16, out: &mut Vec<Expressions>) {
    out.push(payload(TRANSPORT_HEADER, offset, 2));
    if low == high {
        out.push(compare(Operator::Equal, low.to_be_bytes().to_vec()));
    } else {
        out.push(compare(Operator::GreatherThanEqual, low.to_be_bytes().to_vec()));
        out.push(compare(Operator::LessThanEqual, high.to_be_bytes().to_vec()));
    }
}

fn verdict(verdict: Verdict, out: &mut Vec<Expressions>) {
    let decide = |code| {
        let data = DataAttribute::Verdict(vec![VerdictAttribute::Code(RawVerdict::Other(code))]);
        Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(data)])
    };
    match verdict {
        Verdict::Accept => out.push(decide(NF_ACCEPT)),
        Verdict::Drop => out.push(decide(NF_DROP)),
        Verdict::Reject => {
            // NFT_REJECT_ICMPX_UNREACH with the code that is "port unreachable" in both families.
            const ICMPX: u32 = 2;
            const PORT_UNREACHABLE: u8 = 1;
            out.push(other("reject", vec![number(1, ICMPX), DefaultNla::new(2, vec![PORT_UNREACHABLE])]));
        }
        Verdict::Masquerade => out.push(other("masq", vec![])),
        Verdict::SourceNat(to) | Verdict::DestinationNat(to) => {
            const SOURCE: u32 = 0;
            const DESTINATION: u32 = 1;
            let side = if matches!(verdict, Verdict::SourceNat(_)) { SOURCE } else { DESTINATION };
            let (protocol, bytes) = match to {
                IpAddr::V4(ip) => (libc::NFPROTO_IPV4, ip.octets().to_vec()),
                IpAddr::V6(ip) => (libc::NFPROTO_IPV6, ip.octets().to_vec()),
            };
            let value = Immediate::Data(DataAttribute::Value(bytes));
            out.push(Expressions::Immediate(vec![Immediate::DestinationRegister(R1), value]));
            let fields = [(1, side), (2, protocol as u32), (3, R1.into()), (4, R1.into())];
            out.push(other("nat", fields.map(|(kind, value)| number(kind, value)).to_vec()));
        }
        Verdict::SetMark(mark) => {
            const MARK: u32 = 3;
            let value = Immediate::Data(DataAttribute::Value(mark.to_ne_bytes().to_vec()));
            out.push(Expressions::Immediate(vec![Immediate::DestinationRegister(R1), value]));
            out.push(other("meta", vec![number(2, MARK), number(3, R1.into())]));
        }
        Verdict::Count => {}
    }
}

fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(R1)])
}

fn payload(base: u32, offset: u32, length: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(R1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![Cmp::SourceRegister(R1), Cmp::Op(operator), Cmp::Data(DataAttribute::Value(value))])
}

fn masked(mask: Vec<u8>) -> Expressions {
    let zero = vec![0; mask.len()];
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(R1),
        Bitwise::DestinationRegister(R1),
        Bitwise::Length(mask.len() as u32),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(zero)),
    ])
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_SIZE, 0);
    bytes
}
