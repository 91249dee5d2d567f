//! Texts of firewalls, what they say of a packet, and which of their rules are openings.

use super::*;

mod diversions;
mod policies;

fn of(of: Of) -> Condition {
    Condition { of, not: false }
}

fn chain(name: &str, hook: Option<Hook>, rules: Vec<Rule>) -> Chain {
    let (family, table) = (Family::Ip, "filter".to_owned());
    Chain { backend: Backend::Nftables, family, table, name: name.to_owned(), hook, rules }
}

fn server(link: &str, net: &str, mut more: Vec<Condition>) -> Rule {
    let mut conditions = vec![of(Of::To(net.parse().unwrap())), of(Of::Link(link.to_owned())), of(Of::Protocol(17))];
    conditions.push(of(Of::ToPorts(51820, 51820)));
    conditions.append(&mut more);
    Rule { conditions, does: Does::Accept }
}

#[test]
fn a_server_is_named_by_a_rule_for_one_address_and_port_alone() {
    let hook = Some(Hook { output: true, priority: 0, drops: true });
    let rules = vec![
        server("lo", "198.51.100.1/32", vec![]),
        server("eth0", "198.51.100.2/32", vec![]),
        server("eth0", "198.51.100.3/32", vec![of(Of::FromPorts(5000, 5000))]),
        server("eth0", "198.51.100.0/24", vec![]),
        server("eth0", "198.51.100.4/32", vec![of(Of::User(0, 0))]),
        server("eth0", "198.51.100.5/32", vec![Condition { of: Of::Protocol(6), not: true }]),
        Rule { does: Does::Drop, ..server("eth0", "198.51.100.6/32", vec![]) },
    ];
    let text = FirewallText { chains: vec![chain("OUTPUT", hook, rules)], ..FirewallText::default() };
    let named = ["198.51.100.2:51820", "198.51.100.3:51820"].map(|server| server.parse().unwrap());
    assert_eq!(text.endpoints(&["eth0"]), named);
    assert!(text.endpoints(&[]).is_empty());
}

#[test]
fn called_chains_are_followed_and_come_back() {
    let jump = |to: &str| Rule { conditions: Vec::new(), does: Does::Jump(to.to_owned()) };
    let hook = Some(Hook { output: true, priority: 0, drops: true });
    let back = Rule { conditions: Vec::new(), does: Does::Return };
    let text = FirewallText {
        chains: vec![
            chain("OUTPUT", hook, vec![jump("round"), jump("nowhere"), jump("early"), jump("vpn")]),
            // It calls itself, which no kernel allows, and must not end the program.
            chain("round", None, vec![jump("round")]),
            chain("early", None, vec![back, server("eth0", "0.0.0.0/0", vec![])]),
            chain("vpn", None, vec![server("eth0", "198.51.100.0/24", vec![])]),
        ],
        ..FirewallText::default()
    };
    let opinion = |dst: &str| {
        let (src, dst) = ("172.18.0.10:1".parse().unwrap(), dst.parse().unwrap());
        text.opinion(
            &text.chains[0],
            &Packet { link: "eth0", proto: Proto::Udp, src, dst, besides: Besides::default() },
        )
    };
    let passes = opinion("198.51.100.9:51820");
    assert!(passes.passes && passes.by.unwrap().starts_with("rule 1 of vpn, `daddr 198.51.100.0/24 oifname eth0"));
    assert_eq!(opinion("8.8.8.8:51820"), Opinion { passes: false, by: None, perhaps: Vec::new() });
}

fn openings(rules: Vec<Rule>, v6: bool) -> Vec<String> {
    let hook = Some(Hook { output: true, priority: 0, drops: true });
    let chain = Chain { family: Family::Inet, ..chain("OUTPUT", hook, rules) };
    let text = FirewallText { chains: vec![chain], ..FirewallText::default() };
    let local = ["192.168.1.0/24".parse().unwrap(), "203.0.113.0/25".parse().unwrap()];
    words(text.openings(v6, &["eth0".to_owned()], &local, &["198.51.100.2:51820".parse().unwrap()]))
}

/// The openings' rules without their places.
fn words(openings: Vec<String>) -> Vec<String> {
    let rule = |name: &String| name.split_once(", ").map_or(name.clone(), |(_, rule)| rule.to_owned());
    openings.iter().map(rule).collect()
}

#[test]
fn an_opening_is_named_by_its_place() {
    let jump = Rule { conditions: Vec::new(), does: Does::Jump("vpn".to_owned()) };
    let (ttl, hook) = (accept(vec![other("ttl")]), Some(Hook { output: true, priority: 0, drops: true }));
    let chains = vec![
        chain("OUTPUT", hook, vec![accept(vec![link("lo")]), ttl.clone(), jump]),
        chain("vpn", None, vec![ttl, accept(vec![other("length")])]),
    ];
    let text = FirewallText { chains, ..FirewallText::default() };
    let openings = text.openings(false, &["eth0".to_owned()], &[], &[]);
    assert_eq!(openings, ["rule 2 of OUTPUT, `ttl accept`", "rule 2 of vpn, `length accept`"]);
}

fn accept(conditions: Vec<Of>) -> Rule {
    Rule { conditions: conditions.into_iter().map(of).collect(), does: Does::Accept }
}

/// Gluetun's own rules (facts of v3.38 to v3.41), and what other stacks have beside them.
#[test]
fn a_sealed_stack_has_no_opening() {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let link = |name: &str| Of::Link(name.to_owned());
    let rules = vec![
        accept(vec![link("lo")]),
        accept(vec![Of::State(6)]),
        accept(vec![Of::From(net("172.18.0.10/32")), Of::To(net("172.18.0.0/16")), link("eth0")]),
        accept(vec![Of::From(net("172.18.0.10/32")), Of::To(net("203.0.113.0/26")), link("eth0")]),
        accept(vec![Of::To(net("ff02::1:ff00:0/104")), link("eth0")]),
        accept(vec![Of::To(net("fe80::/64")), link("eth0")]),
        accept(vec![Of::To(net("255.255.255.255/32")), Of::Protocol(17), Of::ToPorts(67, 67)]),
        server("eth0", "198.51.100.2/32", vec![]),
        accept(vec![link("tun0")]),
    ];
    assert!(openings(rules.clone(), false).is_empty() && openings(rules, true).is_empty());
}

#[test]
fn a_rule_for_packets_of_another_kind_is_an_opening() {
    let ttl = || accept(vec![Of::Link("eth0".to_owned()), Of::Other("ttl".to_owned())]);
    let one = ["`oifname eth0 ttl accept`"];
    assert_eq!(openings(vec![ttl()], false), one);
    assert_eq!(openings(vec![ttl()], true), one);
    let drop = Rule { conditions: vec![of(Of::Link("eth0".to_owned()))], does: Does::Drop };
    assert!(openings(vec![drop.clone(), ttl()], false).is_empty(), "nothing comes so far");
    assert_eq!(openings(vec![ttl(), drop], false), one);
    // Another port of the server's, a state in which flows begin, a network far away, of one family.
    let far = accept(vec![Of::To("45.33.32.0/24".parse().unwrap()), Of::Protocol(17), Of::ToPorts(6881, 6881)]);
    assert_eq!(openings(vec![far.clone()], false), ["`daddr 45.33.32.0/24 udp dport 6881 accept`"]);
    assert!(openings(vec![far], true).is_empty());
    assert_eq!(openings(vec![accept(vec![Of::State(10)])], true), ["`ct state established,new accept`"]);
    // One that no flow that was let begin has.
    for bits in [1, UNTRACKED, 6 | UNTRACKED, 2 | SOURCE_TRANSLATED, DESTINATION_TRANSLATED] {
        assert_eq!(openings(vec![accept(vec![Of::State(bits)])], false).len(), 1, "{bits}");
    }
    assert_eq!(openings(vec![accept(vec![Of::State(UNTRACKED)])], true), ["`ct state untracked accept`"]);
    let mut other_port = server("eth0", "198.51.100.2/32", vec![]);
    other_port.conditions.pop();
    assert_eq!(openings(vec![other_port], false).len(), 1);
}

fn named(rule: &Rule) -> Vec<String> {
    vec![format!("`{rule}`")]
}

fn back(conditions: Vec<Of>) -> Rule {
    Rule { does: Does::Return, ..accept(conditions) }
}

fn drop(conditions: Vec<Of>) -> Rule {
    Rule { does: Does::Drop, ..accept(conditions) }
}

fn link(name: &str) -> Of {
    Of::Link(name.to_owned())
}

fn other(words: &str) -> Of {
    Of::Other(words.to_owned())
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn not(of: Of) -> Condition {
    Condition { of, not: true }
}

/// Of chains by name, of which the first is the kernel's, with this policy.
fn openings_of(drops: bool, chains: Vec<(&str, Vec<Rule>)>) -> Vec<String> {
    let hook = Hook { output: true, priority: 0, drops };
    let hooks = std::iter::once(Some(hook)).chain(std::iter::repeat(None));
    let chains = chains.into_iter().zip(hooks).map(|((name, rules), hook)| chain(name, hook, rules)).collect();
    let text = FirewallText { chains, ..FirewallText::default() };
    words(text.openings(false, &["eth0".to_owned()], &["192.168.1.0/24".parse().unwrap()], &[]))
}

#[test]
fn an_exception_by_return_is_an_opening_where_the_rest_accepts() {
    let exception = back(vec![other("cgroup")]);
    let sealed = || vec![accept(vec![link("tun0")]), Rule { conditions: vec![not(link("lo"))], does: Does::Drop }];
    let with = |first: Rule| [vec![first], sealed()].concat();
    assert_eq!(openings_of(false, vec![("OUTPUT", with(exception.clone()))]), named(&exception));
    assert!(openings_of(false, vec![("OUTPUT", sealed())]).is_empty());
    // The policy drops what comes back, or what goes back is near, or leaves by no uplink.
    assert!(openings_of(true, vec![("OUTPUT", with(exception.clone()))]).is_empty());
    assert!(openings_of(false, vec![("OUTPUT", with(back(vec![Of::To(net("10.0.0.0/8"))])))]).is_empty());
    assert!(openings_of(false, vec![("OUTPUT", with(back(vec![link("tun0")])))]).is_empty());
    // One whose conditions are known is one too.
    let far = back(vec![Of::To(net("45.33.32.0/24"))]);
    assert_eq!(openings_of(false, vec![("OUTPUT", with(far.clone()))]), named(&far));
    // Of a chain that is called, the rest is where it was called.
    let jump = |to: &str| Rule { conditions: Vec::new(), does: Does::Jump(to.to_owned()) };
    let called = |rest: Vec<Rule>| {
        openings_of(false, vec![("OUTPUT", [vec![jump("vpn")], rest].concat()), ("vpn", with(exception.clone()))])
    };
    assert_eq!(called(vec![]), named(&exception));
    assert!(called(vec![drop(vec![])]).is_empty());
    let both = called(vec![accept(vec![link("eth0")]), drop(vec![])]);
    assert_eq!(both[0], named(&exception)[0]);
    // An exception that changes nothing, as Docker's own chains end.
    assert!(called(vec![drop(vec![link("eth0")])]).is_empty());
    let docker = vec![("OUTPUT", [vec![jump("user")], sealed()].concat()), ("user", vec![back(vec![])])];
    assert!(openings_of(false, docker).is_empty());
}

#[test]
fn a_chain_that_is_gone_to_goes_back_to_the_policy() {
    let goto = |conditions: Vec<Of>| Rule { does: Does::Goto("vpn".to_owned()), ..accept(conditions) };
    let tunnel = || vec![accept(vec![link("tun0")])];
    let of = |first: Rule| openings_of(false, vec![("OUTPUT", vec![first, drop(vec![])]), ("vpn", tunnel())]);
    assert_eq!(of(goto(vec![other("cgroup")])), named(&goto(vec![other("cgroup")])));
    assert!(of(goto(vec![link("tun0")])).is_empty());
    let ends = vec![("OUTPUT", vec![goto(vec![other("cgroup")])]), ("vpn", vec![drop(vec![])])];
    assert_eq!(
        openings_of(false, ends),
        ["the policy of nftables ip filter OUTPUT"],
        "all that is not gone there with"
    );
}

#[test]
fn a_rule_is_tried_with_what_the_way_to_it_is_about() {
    let jump = |conditions: Vec<Condition>| Rule { conditions, does: Does::Jump("out".to_owned()) };
    let all = accept(vec![]);
    for condition in [of(Of::Protocol(6)), of(Of::Protocol(47)), not(Of::Protocol(17)), of(Of::IcmpType(8))] {
        let chains = vec![("OUTPUT", vec![jump(vec![condition])]), ("out", vec![all.clone()])];
        assert_eq!(openings_of(true, chains), named(&all));
    }
    let near = vec![("OUTPUT", vec![jump(vec![of(Of::To(net("10.0.0.0/8")))])]), ("out", vec![all.clone()])];
    assert!(openings_of(true, near).is_empty());
    // What is certain in a chain that is perhaps called.
    let perhaps = jump(vec![of(other("cgroup"))]);
    let strict = vec![("OUTPUT", vec![perhaps]), ("out", vec![drop(vec![link("eth0")]), all])];
    assert!(openings_of(true, strict).is_empty());
}

#[test]
fn a_network_is_near_only_as_a_whole() {
    let to = |text: &str| openings(vec![accept(vec![Of::To(net(text)), link("eth0")])], text.contains(':')).len();
    for near in
        ["192.168.0.0/16", "192.168.1.0/24", "203.0.113.0/26", "224.0.0.0/4", "10.4.0.0/14", "fd00::/8", "fe80::/64"]
    {
        assert_eq!(to(near), 0, "{near}");
    }
    for far in ["192.168.0.0/15", "10.0.0.0/7", "203.0.113.0/24", "0.0.0.0/0", "fc00::/6", "::/0", "1.2.3.4/32"] {
        assert_eq!(to(far), 1, "{far}");
    }
    let outside = |nets: &[&str]| {
        let conditions = nets.iter().map(|text| not(Of::To(net(text)))).chain([of(link("eth0"))]).collect();
        openings(vec![Rule { conditions, does: Does::Accept }], false).len()
    };
    assert_eq!((outside(&["10.0.0.0/8"]), outside(&["8.0.0.0/8"]), outside(&["0.0.0.0/0"])), (1, 1, 0));
    assert_eq!(outside(&["0.0.0.0/1", "128.0.0.0/1"]), 0);
}

#[test]
fn only_a_rule_for_the_server_alone_is_the_servers() {
    let tried = |conditions: Vec<Condition>| {
        let conditions = conditions.into_iter().chain([of(link("eth0"))]).collect();
        openings(vec![Rule { conditions, does: Does::Accept }], false).len()
    };
    let to = |text: &str| of(Of::To(net(text)));
    let (udp, port) = (|| of(Of::Protocol(17)), |low, high| of(Of::ToPorts(low, high)));
    assert_eq!(tried(vec![to("198.51.100.2/32"), udp(), port(51820, 51820)]), 0);
    assert_eq!(tried(vec![to("198.51.100.2/32"), udp(), port(51820, 51820), of(Of::FromPorts(5000, 5000))]), 0);
    assert_eq!(tried(vec![to("198.51.100.2/32"), udp(), port(51820, 65535)]), 1);
    assert_eq!(tried(vec![to("198.51.100.2/31"), udp(), port(51820, 51820)]), 1);
    assert_eq!(tried(vec![to("198.51.100.2/32"), port(51820, 51820)]), 1);
    assert_eq!(tried(vec![to("198.51.100.2/32"), not(Of::Protocol(6)), port(51820, 51820)]), 1);
}

#[test]
fn a_rule_for_all_but_something_is_tried_with_something_else() {
    let tried = |conditions: Vec<Condition>| openings(vec![Rule { conditions, does: Does::Accept }], false).len();
    assert_eq!(tried(vec![not(Of::Protocol(17))]), 1);
    assert_eq!(tried(vec![not(Of::Protocol(17)), not(Of::Protocol(6)), not(Of::Protocol(1))]), 1);
    assert_eq!(tried(vec![of(Of::Protocol(6)), not(Of::ToPorts(0, 1023))]), 1);
    assert_eq!(tried(vec![of(Of::Protocol(6)), not(Of::ToPorts(0, 65535))]), 0);
    assert_eq!(tried(vec![not(Of::From(net("0.0.0.0/8")))]), 1);
    assert_eq!(tried(vec![of(Of::Protocol(132)), of(Of::ToPorts(9899, 9899))]), 1);
    assert_eq!(tried(vec![not(link("tun0")), of(other("ttl"))]), 1);
}

#[test]
fn what_leaves_by_no_uplink_is_no_opening() {
    assert!(openings(vec![accept(vec![Of::ToKind(LOCAL)])], false).is_empty());
    assert!(openings(vec![accept(vec![Of::ToKind(0b10_1100)])], false).is_empty());
    assert_eq!(openings(vec![accept(vec![Of::ToKind(0b110)])], false), ["`daddr type unicast,local accept`"]);
    let rest = [drop(vec![]), accept(vec![other("ttl")])];
    let strict = |kind: Of| [vec![Rule { conditions: vec![not(kind)], does: Does::Drop }], rest[1..].to_vec()].concat();
    assert!(openings(strict(Of::ToKind(LOCAL)), false).is_empty());
    assert_eq!(openings(strict(other("fib")), false).len(), 1);
}

#[test]
fn rules_that_were_not_read_may_be_openings() {
    let mut chain = chain("OUTPUT", Some(Hook { output: true, priority: 0, drops: true }), vec![]);
    chain.cut(Does::Accept);
    chain.cut(Does::Accept);
    assert_eq!(openings(chain.rules.clone(), false), named(&chain.rules[0]));
    assert_eq!(chain.rules.len(), 1);
    assert!(openings([vec![drop(vec![link("eth0")])], chain.rules].concat(), false).is_empty());
}

#[test]
fn chains_that_are_called_from_everywhere_are_walked_through_once() {
    let jumps = |to: usize| {
        let jump = Rule { conditions: Vec::new(), does: Does::Jump(format!("chain {to}")) };
        vec![jump; 10]
    };
    let names: Vec<String> = (0..12).map(|index| format!("chain {index}")).collect();
    let chains: Vec<_> = names.iter().enumerate().map(|(index, name)| (name.as_str(), jumps(index + 1))).collect();
    assert!(openings_of(true, chains.clone()).is_empty());
    // More ways than can be looked at, and what is at the end of them.
    let ttl = accept(vec![other("ttl")]);
    let mut chains = chains;
    for (index, (_, rules)) in chains.iter_mut().enumerate() {
        for (place, rule) in rules.iter_mut().enumerate() {
            rule.conditions.push(not(Of::ToPorts((index * 10 + place) as u16, (index * 10 + place) as u16)));
        }
    }
    chains.push(("chain 12", vec![ttl.clone()]));
    assert_eq!(openings_of(true, chains), named(&ttl));
}
