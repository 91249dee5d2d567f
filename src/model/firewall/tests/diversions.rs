//! Rules that send packets elsewhere: which packets are sent for them, and which of them nothing settles.

use super::*;

const LAN: &str = "192.168.1.0/24";

fn divert(conditions: Vec<Of>) -> Rule {
    Rule { does: Does::Divert { by: "dnat".to_owned(), begun: false }, ..accept(conditions) }
}

fn copy(conditions: Vec<Of>) -> Rule {
    Rule { does: Does::Divert { by: "fwd".to_owned(), begun: true }, ..accept(conditions) }
}

fn table(family: Family, own: bool, chains: Vec<(&str, Vec<Rule>)>) -> FirewallText {
    let hook = Hook { output: own, priority: -100, drops: false };
    let hooks = std::iter::once(Some(hook)).chain(std::iter::repeat(None));
    let of = |((name, rules), hook)| Chain { family, table: "nat".to_owned(), ..chain(name, hook, rules) };
    FirewallText { diverting: chains.into_iter().zip(hooks).map(of).collect(), ..FirewallText::default() }
}

/// What is sent, in words, and what is not settled by that.
fn of(text: &FirewallText) -> (Vec<String>, Vec<String>) {
    let (links, local) = (["eth0".to_owned()], [net(LAN)]);
    assert_eq!(text.openings(false, &links, &local, &[]), Vec::<String>::new());
    let told = |example: &Example| {
        let mut words = format!("{} {}", example.proto, example.dst);
        for (name, value) in
            [("user", example.user), ("class", example.class.map(u32::from)), ("length", example.length)]
        {
            words.push_str(&value.map_or_else(String::new, |value| format!(" {name} {value}")));
        }
        words
    };
    let sent = text.examples(false, &links, &local, &[]).iter().map(told).collect();
    (sent, text.unsettled(false, &links, &local, &[]).into_iter().map(|opened| opened.rule).collect())
}

fn output(rules: Vec<Rule>) -> (Vec<String>, Vec<String>) {
    of(&table(Family::Ip, true, vec![("output", rules)]))
}

fn udp(port: u16, more: Vec<Of>) -> Vec<Of> {
    [vec![Of::Protocol(17), Of::ToPorts(port, port)], more].concat()
}

#[test]
fn what_rules_send_elsewhere_is_tried_as_it_is_meant() {
    let settled = |rules: Vec<Rule>, sent: &[&str]| {
        let (told, left) = output(rules.clone());
        assert_eq!(told, sent, "{rules:?}");
        assert_eq!(left, Vec::<String>::new(), "{rules:?}");
    };
    settled(vec![divert(udp(53, vec![]))], &["udp 8.8.8.8:53"]);
    settled(vec![divert(udp(53, vec![Of::User(1000, 1000)]))], &["udp 8.8.8.8:53 user 1000"]);
    settled(vec![divert(udp(27015, vec![Of::Class(0xb4, 0xfc)]))], &["udp 8.8.8.8:27015 class 180"]);
    settled(vec![divert(udp(9, vec![Of::Length(600, 65_535)]))], &["udp 8.8.8.8:9 length 600"]);
    settled(vec![divert(udp(9, vec![Of::To(net("45.33.7.9/32"))]))], &["udp 45.33.7.9:9"]);
    settled(vec![divert(udp(9, vec![link("tun0")])), divert(udp(9, vec![Of::To(net(LAN))]))], &["udp 8.8.8.8:9"]);
    assert!(of(&table(Family::Ip6, true, vec![("output", vec![divert(udp(9, vec![]))])])).0.is_empty());
}

#[test]
fn what_a_rule_is_about_its_chain_says_too() {
    let jump = Rule { does: Does::Jump("more".to_owned()), ..accept(vec![Of::User(1000, 1000)]) };
    let (sent, left) =
        of(&table(Family::Ip, true, vec![("output", vec![jump]), ("more", vec![divert(udp(53, vec![]))])]));
    assert_eq!((sent, left.len()), (vec!["udp 8.8.8.8:53 user 1000".to_owned()], 0));
    // All but one user, but one address; and one that nothing comes to.
    let all_but = |first: Rule| output(vec![first, divert(udp(53, vec![]))]);
    assert_eq!(all_but(back(vec![Of::User(0, 0)])).0, ["udp 8.8.8.8:53 user 1"]);
    assert_eq!(all_but(accept(vec![Of::User(0, 0)])).0, ["udp 8.8.8.8:53 user 1"]);
    let (sent, left) = all_but(back(vec![Of::To(net("8.8.8.8/32"))]));
    assert!(left.is_empty() && sent.iter().all(|one| !one.contains("8.8.8.8")) && !sent.is_empty(), "{sent:?}");
    assert!(all_but(back(vec![])).0.is_empty());
}

#[test]
fn what_cannot_be_tried_is_not_settled() {
    let named = |rule: &Rule| vec![format!("rule 1 of output, `{rule}`")];
    for more in
        [other("ttl"), other("cgroup"), Of::From(net("10.2.0.0/24")), Of::IcmpType(13), Of::Length(1400, 65_535)]
    {
        let rule = match more {
            Of::IcmpType(_) => divert(vec![Of::Protocol(1), more]),
            more => divert(udp(53, vec![more])),
        };
        assert_eq!(output(vec![rule.clone()]).1, named(&rule));
    }
    let tcp = divert(vec![Of::Protocol(6), Of::Length(600, 700)]);
    assert_eq!(output(vec![tcp.clone()]).1, named(&tcp));
    // Of flows that were let begin a translation is not asked, and others are.
    let begun = || vec![Of::State(2)];
    assert!(output(vec![divert(begun())]).1.is_empty());
    assert_eq!(output(vec![copy(begun())]).1, named(&copy(begun())));
    // As `ip ttl 64 udp dport 27015 fwd ip to 172.18.0.1 device "eth0"` at the egress of a link.
    let egress = copy(vec![Of::Version6(false), other("ttl"), Of::Protocol(17), Of::ToPorts(27015, 27015)]);
    assert_eq!(of(&table(Family::Netdev, true, vec![("output", vec![egress.clone()])])).1, named(&egress));
}

#[test]
fn more_rules_than_are_tried_are_not_settled() {
    let many: Vec<Rule> = (1..=70).map(|port| divert(udp(port, vec![]))).collect();
    let (sent, left) = output(many);
    assert_eq!((sent.len(), left.len()), (64, 6));
}

/// Docker's resolver, and a port that was forwarded to the torrent client.
#[test]
fn what_a_sealed_stack_sends_elsewhere_is_settled() {
    let docker = divert(udp(53, vec![Of::To(net("127.0.0.11/32"))]));
    assert_eq!(output(vec![docker]), (vec![], vec![]));
    let published = Rule { does: Does::Jump("docker".to_owned()), ..accept(vec![Of::ToKind(LOCAL)]) };
    let port = divert(vec![other("iifname"), Of::Protocol(6), Of::ToPorts(8080, 8080)]);
    let host = table(Family::Ip, true, vec![("output", vec![published]), ("docker", vec![port.clone()])]);
    assert!(of(&host).1.is_empty());
    let inbound = table(Family::Ip, false, vec![("prerouting", vec![port])]);
    assert!(of(&inbound).1.is_empty());
}
