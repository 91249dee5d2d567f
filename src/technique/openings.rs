//! What the firewall's own text says may pass by an uplink: such packets are sent, as any others, to see. That a rule is named by nobody's
//! list of ports, users or marks is no help to it.

use std::net::IpAddr;
use std::sync::Arc;

use super::Context;
use super::craft::{Craft, FROM_PORT};
use super::user::User;
use super::volley::{Guise, Shot, Volley};
use crate::model::evidence::{Proto, Via};
use crate::model::firewall::Example;

/// Where an opening asks for no port.
const UDP_PORT: u16 = 6881;
const TCP_PORT: u16 = 443;
/// Packets of each kind in a round past the tunnel, so many that one of twenty that gets out is found, and by the default route.
const OFTEN: usize = 24;
const SELDOM: usize = 4;

/// Adds packets of that family for each opening, in each of `rounds` rounds.
pub(super) fn aim(volley: &mut Volley, cx: &Context, v6: bool, rounds: usize) {
    let examples = cx.openings.examples();
    aim_at(volley, examples.iter().filter(|example| example.dst.is_ipv6() == v6), &cx.ways(v6), rounds);
}

/// Adds packets for each of these, of one family, by `ways`, in each of `rounds` rounds.
pub fn aim_at<'a>(volley: &mut Volley, examples: impl Iterator<Item = &'a Example>, ways: &[Via], rounds: usize) {
    for example in examples {
        // An address that is on no uplink may be the tunnel's, and else the kernel refuses it.
        let own = Via::Source(example.src.ip());
        let more = (!example.src.ip().is_unspecified() && !ways.contains(&own)).then_some(&own);
        for via in ways.iter().filter(|via| comes_from(example, via)).chain(more) {
            let guise = Guise {
                via: via.clone(),
                mark: example.mark,
                user: example.user.map(|id| User { uid: id, gid: id }),
                tos: example.class,
            };
            let times = if *via == Via::Default { SELDOM } else { OFTEN };
            let to: Arc<[IpAddr]> = vec![example.dst.ip(); times].into();
            volley.aim(shot(example), &guise, &to, rounds);
        }
    }
}

/// Whether what goes this way may have the example's source: the kernel lets nobody send from another's.
fn comes_from(example: &Example, via: &Via) -> bool {
    let from = example.src.ip();
    from.is_unspecified() || *via == Via::Source(from)
}

fn shot(example: &Example) -> Shot {
    let port = |usual: u16| if example.dst.port() == 0 { usual } else { example.dst.port() };
    let length = example.length.and_then(|length| usize::try_from(length).ok());
    if let Some(flags) = example.flags {
        let from = if example.src.port() == 0 { FROM_PORT } else { example.src.port() };
        return Shot::Craft(Craft::Segment(flags, from, port(TCP_PORT)));
    }
    match (example.proto, example.src.port(), length) {
        (Proto::Udp, _, Some(length)) => Shot::Craft(Craft::Long(Some(length), port(UDP_PORT))),
        (Proto::Udp, 0, None) => Shot::Datagram(port(UDP_PORT)),
        (Proto::Udp, from, None) => Shot::DatagramFrom(from, port(UDP_PORT)),
        (Proto::Tcp, 0, _) => Shot::Syn(port(TCP_PORT)),
        (Proto::Tcp, from, _) => Shot::SynFrom(from, port(TCP_PORT)),
        (Proto::Icmp | Proto::Icmpv6, _, Some(length)) => Shot::Craft(Craft::LongEcho(Some(length))),
        (Proto::Icmp | Proto::Icmpv6 | Proto::Ether(_), _, _) => Shot::Echo,
        (Proto::Ip(number), _, _) => Shot::Protocol(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(proto: Proto, src: &str, dst: &str, length: Option<u32>) -> Example {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        Example {
            opening: "a rule".to_owned(),
            proto,
            src,
            dst,
            mark: None,
            user: None,
            class: None,
            flags: None,
            length,
        }
    }

    #[test]
    fn what_the_opening_asks_for_is_sent() {
        let of = |proto, src, dst, length| shot(&example(proto, src, dst, length));
        assert_eq!(of(Proto::Udp, "0.0.0.0:0", "8.8.8.8:27015", None), Shot::Datagram(27015));
        assert_eq!(of(Proto::Udp, "0.0.0.0:4444", "8.8.8.8:0", None), Shot::DatagramFrom(4444, UDP_PORT));
        assert_eq!(of(Proto::Udp, "0.0.0.0:0", "8.8.8.8:9", Some(777)), Shot::Craft(Craft::Long(Some(777), 9)));
        assert_eq!(of(Proto::Tcp, "0.0.0.0:0", "8.8.8.8:0", Some(60)), Shot::Syn(TCP_PORT));
        let answer = Example { flags: Some(0x10), ..example(Proto::Tcp, "0.0.0.0:8080", "8.8.8.8:0", None) };
        assert_eq!(shot(&answer), Shot::Craft(Craft::Segment(0x10, 8080, TCP_PORT)));
        assert_eq!(of(Proto::Icmp, "0.0.0.0:0", "8.8.8.8:0", None), Shot::Echo);
        assert_eq!(of(Proto::Ip(50), "0.0.0.0:0", "8.8.8.8:0", None), Shot::Protocol(50));
    }

    #[test]
    fn nothing_is_sent_from_an_address_that_the_way_has_not() {
        let own: IpAddr = "172.18.0.10".parse().unwrap();
        let any = example(Proto::Udp, "0.0.0.0:0", "8.8.8.8:9", None);
        let one = example(Proto::Udp, "172.18.0.10:0", "8.8.8.8:9", None);
        let ways = [Via::Default, Via::Device("eth0".to_owned()), Via::Source(own)];
        assert!(ways.iter().all(|via| comes_from(&any, via)));
        assert_eq!(ways.map(|via| comes_from(&one, &via)), [false, false, true]);
    }
}
