//! Firewalls whose policy accepts what their rules do not drop.

use super::*;

const LAN: &str = "192.168.1.0/24";
const SERVER: &str = "198.51.100.2/32";

fn drop_if(conditions: Vec<Condition>) -> Rule {
    let conditions = std::iter::once(of(link("eth0"))).chain(conditions).collect();
    Rule { conditions, does: Does::Drop }
}

fn outside(nets: &[&str]) -> Vec<Condition> {
    nets.iter().map(|text| not(Of::To(net(text)))).collect()
}

fn text(rules: Vec<Rule>) -> FirewallText {
    let hook = Some(Hook { output: true, priority: 0, drops: false });
    let chain = Chain { family: Family::Inet, table: "ks".to_owned(), ..chain("out", hook, rules) };
    FirewallText { chains: vec![chain], ..FirewallText::default() }
}

fn tried(text: &FirewallText, v6: bool) -> Vec<Example> {
    let servers = ["198.51.100.2:51820".parse().unwrap(), "198.51.100.3:1194".parse().unwrap()];
    let local = [net(LAN)];
    let names = text.openings(v6, &["eth0".to_owned()], &local, &servers);
    let examples = text.examples(v6, &["eth0".to_owned()], &local, &servers);
    assert!(examples.iter().all(|example| names.contains(&example.opening)));
    assert!(names.iter().all(|name| examples.iter().any(|example| example.opening == *name)));
    examples
}

/// Destinations of the packets that the policy lets pass.
fn by_policy(rules: Vec<Rule>) -> Vec<String> {
    let examples = tried(&text(rules), false);
    assert!(examples.iter().all(|example| example.opening == "the policy of nftables inet ks out"), "{examples:?}");
    examples.iter().map(|example| format!("{} {}", example.proto, example.dst)).collect()
}

#[test]
fn what_no_rule_drops_passes_by_the_policy() {
    let mut found = by_policy(vec![drop_if(outside(&[LAN, "45.33.7.9/32"]))]);
    found.retain(|one| one.ends_with(" 45.33.7.9:0"));
    assert_eq!(found.len(), 4, "any protocol");
    // One port, to anywhere, over one protocol.
    let udp = || of(Of::Protocol(17));
    let ports = |conditions: Vec<Condition>| [vec![udp()], conditions].concat();
    let port =
        |conditions: Vec<Condition>| by_policy(vec![drop_if(ports(conditions)), drop_if(vec![not(Of::Protocol(17))])]);
    assert_eq!(port(vec![not(Of::ToPorts(51820, 51820))]), ["udp 8.8.8.8:51820"]);
    assert_eq!(port([outside(&[LAN]), vec![not(Of::ToPorts(51820, 51820))]].concat()), ["udp 8.8.8.8:51820"]);
    assert!(port(vec![]).is_empty());
    // Between two networks that are dropped, and between ports.
    let gap = |nets: [&str; 2]| by_policy(nets.map(|text| drop_if(vec![of(Of::To(net(text)))])).to_vec());
    assert_eq!(gap(["0.0.0.0/1", "128.0.0.0/2"])[0], "udp 192.0.0.0:0");
    assert!(gap(["0.0.0.0/1", "128.0.0.0/1"]).is_empty());
    let rules = vec![
        drop_if(vec![not(Of::Protocol(6))]),
        drop_if(vec![not(Of::ToPorts(443, 444))]),
        drop_if(vec![of(Of::ToPorts(443, 443))]),
    ];
    assert_eq!(by_policy(rules), ["tcp 8.8.8.8:444"]);
    let all_ports = vec![drop_if(vec![not(Of::Protocol(6))]), drop_if(vec![of(Of::ToPorts(1, 65535))])];
    assert!(by_policy(all_ports).is_empty());
    // The server's address, but not its port.
    let server = |port| {
        vec![
            drop_if(outside(&[LAN, SERVER])),
            drop_if(vec![not(Of::Protocol(17))]),
            drop_if(vec![not(Of::ToPorts(port, port))]),
        ]
    };
    assert!(by_policy(server(51820)).is_empty());
    assert_eq!(by_policy(server(51821)), ["udp 198.51.100.2:51821"]);
}

#[test]
fn what_a_rule_does_not_drop_for_certain_passes_by_the_policy() {
    assert!(!by_policy(vec![drop_if(vec![of(other("ttl"))])]).is_empty());
    let user = Of::User(0, 65534);
    let rules = vec![drop(vec![user])];
    assert_eq!(tried(&text(rules), false)[0].user, Some(65535));
    assert_eq!(by_policy(vec![drop_if(vec![of(Of::State(8))])]).len(), 4, "one of each protocol");
    assert!(!by_policy(vec![drop_if(vec![of(Of::State(8 | 1))])]).is_empty(), "what is not tracked");
    let known = vec![drop_if(vec![not(Of::State(2 | 4))])];
    assert!(by_policy(known).is_empty(), "only flows that were let begin go on");
    // What drops nothing of a family is no firewall for it: that there is none the packets of the probes tell.
    let v4 = text(vec![drop_if(vec![of(Of::Version6(false))])]);
    assert!(tried(&v4, false).is_empty() && tried(&v4, true).is_empty());
}

/// The kill switch of wg-quick(8), and others that are made by hand.
#[test]
fn a_sealed_stack_whose_policy_accepts_has_no_opening() {
    let mark = not(Of::Mark { value: 0xca6c, mask: u32::MAX });
    let wg_quick = Rule { conditions: vec![not(link("wg0")), mark.clone(), not(Of::ToKind(LOCAL))], does: Does::Drop };
    let new = accept(vec![Of::State(8)]);
    let kinds = Rule { conditions: vec![not(link("wg0")), mark.clone(), not(Of::ToKind(0b10_1100))], does: Does::Drop };
    let links = || vec![not(link("lo")), not(link("wg0"))];
    let all_but_lan = Rule { conditions: [links(), outside(&[LAN, "10.0.0.0/8"])].concat(), does: Does::Drop };
    let v6 = Rule { conditions: [links(), vec![of(Of::Version6(true))]].concat(), does: Does::Drop };
    let server = server("eth0", SERVER, vec![]);
    let sealed = [
        vec![wg_quick.clone()],
        vec![wg_quick, new],
        vec![kinds],
        vec![drop_if(vec![mark, not(Of::Protocol(50))]), drop_if(vec![])],
        vec![accept(vec![link("lo")]), server.clone(), drop_if(vec![])],
        vec![server.clone(), all_but_lan, v6.clone()],
        vec![
            drop_if(outside(&[LAN, SERVER])),
            drop_if(vec![not(Of::Protocol(17))]),
            drop_if(vec![not(Of::ToPorts(51820, 51820))]),
            v6,
        ],
        vec![server, accept(vec![Of::State(6)]), drop_if(vec![of(Of::State(1))]), drop_if(vec![])],
        // Near, damaged, or by other links: these are no firewall against leaks.
        vec![drop_if(vec![of(Of::To(net("10.0.0.0/8")))]), drop(vec![link("tun0")]), drop(vec![Of::State(1)])],
        vec![],
    ];
    for rules in sealed {
        for v6 in [false, true] {
            assert_eq!(tried(&text(rules.clone()), v6), [], "{rules:?}");
        }
    }
}

#[test]
fn a_packet_passes_only_where_all_chains_let_it() {
    let with = |drops: bool, priority: i32, name: &str, rules: Vec<Rule>| {
        chain(name, Some(Hook { output: true, priority, drops }), rules)
    };
    let openings = |chains: Vec<Chain>| tried(&FirewallText { chains, ..FirewallText::default() }, false);
    let strict = || with(false, 0, "filter", vec![drop_if(outside(&[LAN, "45.33.7.9/32"]))]);
    let marks = with(false, -150, "mangle", vec![Rule { conditions: vec![], does: Does::Nothing }]);
    let names = |examples: Vec<Example>| {
        let mut names: Vec<String> = examples.into_iter().map(|example| example.opening).collect();
        names.dedup();
        names
    };
    let policy = ["the policy of nftables ip filter filter"];
    assert_eq!(names(openings(vec![marks.clone(), strict()])), policy);
    assert!(openings(vec![marks.clone(), with(false, 0, "filter", vec![drop_if(vec![])])]).is_empty());
    assert!(openings(vec![strict(), with(true, 1, "last", vec![accept(vec![link("tun0")])])]).is_empty());
    assert!(openings(vec![strict(), with(false, 1, "last", vec![drop_if(vec![])])]).is_empty());
    // What one chain accepts is looked for where the other one does not drop it.
    let https = accept(vec![Of::Protocol(6), Of::ToPorts(443, 443)]);
    let both = openings(vec![strict(), with(true, 1, "last", vec![https.clone()])]);
    assert_eq!(
        (both[0].opening.clone(), both[0].dst),
        (format!("rule 1 of last, `{https}`"), "45.33.7.9:443".parse().unwrap())
    );
}

#[test]
fn examples_hold_what_rules_ask_for() {
    let first = |rule: Rule| tried(&text(vec![rule, drop_if(vec![])]), false).remove(0);
    let with = |condition: Condition| Rule { conditions: vec![of(link("eth0")), condition], does: Does::Accept };
    let example = first(accept(vec![link("eth0"), Of::Protocol(6), Of::ToPorts(443, 444)]));
    assert_eq!((example.proto, example.dst, example.mark), (Proto::Tcp, "8.8.8.8:443".parse().unwrap(), None));
    assert_eq!(first(with(of(Of::Mark { value: 0x100, mask: 0xff00 }))).mark, Some(0x100));
    assert_eq!(first(with(not(Of::Mark { value: 0, mask: u32::MAX }))).mark, Some(1));
    assert_eq!(first(with(not(Of::Mark { value: 5, mask: u32::MAX }))).mark, None);
    assert_eq!(first(with(of(Of::User(1000, 1005)))).user, Some(1000));
    assert_eq!(first(with(not(Of::User(0, 0)))).user, Some(1));
    assert_eq!(first(with(of(Of::Class(0x28, 0xfc)))).class, Some(0x28));
    assert_ne!(first(with(not(Of::Class(0, 0xfc)))).class.map(|class| class & 0xfc), Some(0));
    let lengths =
        [(0, 65535), (1000, 65535), (20, 60)].map(|(low, high)| first(with(of(Of::Length(low, high)))).length);
    assert_eq!(lengths, [Some(128), Some(1000), Some(60)]);
    // A rule before it drops some of them.
    let user = |rules: Vec<Rule>| tried(&text(rules), false).remove(0).user;
    let users = with(of(Of::User(1000, 1005)));
    assert_eq!(user(vec![drop(vec![Of::User(1000, 1000)]), users, drop_if(vec![])]), Some(1005));
}

#[test]
fn examples_are_of_all_openings_and_not_too_many() {
    let rules = (1..=100).map(|port| accept(vec![Of::Protocol(6), Of::ToPorts(port, port)]));
    let examples = tried_all(rules.collect());
    assert_eq!(examples.len(), 64);
    let all = tried_all(vec![accept(vec![])]);
    assert!((1..=8).contains(&all.len()), "{}", all.len());
}

fn tried_all(rules: Vec<Rule>) -> Vec<Example> {
    text(rules).examples(false, &["eth0".to_owned(), "eth1".to_owned()], &[], &[])
}
