//! Rules as the kernel lists them, in the octets that nft gives them, and what they are read as.

use super::*;
use crate::net::netlink::put_attribute;
use proptest::prelude::*;

fn nest(parts: &[(u16, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (kind, value) in parts {
        put_attribute(&mut all, *kind, value);
    }
    all
}

fn expression(name: &str, data: &[(u16, &[u8])]) -> Vec<u8> {
    let name = [name.as_bytes(), &[0]].concat();
    nest(&[(1, &name), (2, &nest(data))])
}

/// Sets of any name: those of these elements, and maps of these verdicts whose elements are not understood. Whether they are there to be
/// filled.
#[derive(Default)]
struct Known(Option<Vec<Row>>, Option<Vec<Does>>, bool);

impl Lookup for Known {
    fn rows(&self, _: &str, _: &[&Held]) -> Option<Vec<Row>> {
        self.0.clone()
    }

    fn verdicts(&self, _: &str) -> Option<Vec<Does>> {
        self.1.clone()
    }

    fn grows(&self, _: &str) -> bool {
        self.2
    }
}

fn read_with(family: Family, expressions: &[Vec<u8>], sets: &Known, room: &mut usize) -> String {
    let parts: Vec<(u16, &[u8])> = expressions.iter().map(|one| (1, one.as_slice())).collect();
    let found = rules(family, &nest(&parts), sets, room);
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

fn read_in(family: Family, expressions: &[Vec<u8>]) -> String {
    read_with(family, expressions, &Known::default(), &mut { MAX_ROWS })
}

fn read(expressions: &[Vec<u8>]) -> String {
    read_in(Family::Ip, expressions)
}

fn load(key: u32) -> Vec<u8> {
    expression("meta", &[(1, &ONE), (2, &key.to_be_bytes())])
}

fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    let [base, offset, length] = [base, offset, length].map(u32::to_be_bytes);
    expression("payload", &[(1, &ONE), (2, &base), (3, &offset), (4, &length)])
}

fn bitwise(mask: &[u8], xor: &[u8]) -> Vec<u8> {
    expression("bitwise", &[(1, &ONE), (2, &ONE), (4, &nest(&[(1, mask)])), (5, &nest(&[(1, xor)]))])
}

fn decide(verdict: &[(u16, &[u8])]) -> Vec<u8> {
    expression("immediate", &[(1, &[0; 4]), (2, &nest(&[(2, &nest(verdict))]))])
}

fn accept() -> Vec<u8> {
    decide(&[(1, &ONE)])
}

/// That it is IPv4, or IPv6, as nft says in tables of both.
fn version(v6: bool) -> [Vec<u8>; 2] {
    [load(15), compare(0, &[if v6 { 10 } else { 2 }])]
}

fn protocol(number: u8) -> [Vec<u8>; 2] {
    [load(16), compare(0, &[number])]
}

const ONE: [u8; 4] = 1_u32.to_be_bytes();

fn compare(operator: u32, value: &[u8]) -> Vec<u8> {
    expression("cmp", &[(1, &ONE), (2, &operator.to_be_bytes()), (3, &nest(&[(1, value)]))])
}

#[test]
fn rules_are_read_as_they_are_meant() {
    let rule = [
        load(7),
        compare(0, b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"),
        payload(1, 16, 4),
        bitwise(&[255, 240, 0, 0], &[0; 4]),
        compare(1, &[172, 16, 0, 0]),
        load(16),
        compare(0, &[17]),
        payload(2, 2, 2),
        compare(5, &1024_u16.to_be_bytes()),
        load(10),
        compare(0, &1000_u32.to_ne_bytes()),
        expression("counter", &[]),
        accept(),
    ];
    assert_eq!(read(&rule), "oifname eth0 not daddr 172.16.0.0/12 udp dport 1024-65535 skuid 1000 accept");
    let state = expression("ct", &[(1, &ONE), (2, &[0; 4])]);
    let known = bitwise(&6_u32.to_ne_bytes(), &[0; 4]);
    assert_eq!(read(&[state.clone(), known, compare(1, &[0; 4])]), "ct state established,related continue");
    let none = bitwise(&70_u32.to_ne_bytes(), &[0; 4]);
    let without = [state.clone(), none, compare(0, &[0; 4])];
    assert_eq!(read(&without), "not ct state established,related,untracked continue");
    assert_eq!(read(&[state, compare(0, &8_u32.to_ne_bytes())]), "ct state new continue");
    assert_eq!(read(&[payload(1, 8, 1), compare(4, &[1])]), "ttl continue");
    // What is not known keeps a rule from being taken for one that fits.
    assert_eq!(read(&[expression("limit", &[])]), "limit continue");
    let owner = [1000_u32.to_ne_bytes(), 1000_u32.to_ne_bytes(), [0; 4], [0; 4]].concat();
    let owner = expression("match", &[(1, b"owner\0"), (2, &ONE), (3, &[owner, vec![1, 0, 0, 0]].concat())]);
    assert_eq!(read(&[owner]), "skuid 1000 continue");
}

#[test]
fn users_lengths_and_classes_are_read() {
    // As nft gives `meta skuid 0-65534`, `meta length > 100`, `ip dscp 10` and `ip6 dscp != 10` to the kernel.
    let swap = expression(
        "byteorder",
        &[(1, &ONE), (2, &ONE), (3, &ONE), (4, &4_u32.to_be_bytes()), (5, &4_u32.to_be_bytes())],
    );
    let range = [compare(5, &0_u32.to_be_bytes()), compare(3, &65534_u32.to_be_bytes())];
    assert_eq!(read(&[&[load(10), swap.clone()][..], &range].concat()), "skuid 0-65534 continue");
    assert_eq!(read(&[&[load(0), swap.clone()][..], &range].concat()), "length 0-65534 continue");
    let longer = compare(4, &100_u32.to_be_bytes());
    assert_eq!(read(&[load(0), swap.clone(), longer]), "length 101-4294967295 continue");
    assert_eq!(read(&[load(0), compare(0, &100_u32.to_ne_bytes())]), "length 100 continue");
    assert_eq!(read(&[load(10), swap.clone(), compare(0, &1000_u32.to_be_bytes())]), "skuid 1000 continue");
    assert_eq!(read(&[payload(1, 2, 2), compare(0, &[0, 50])]), "length 50 continue");
    let tcp = [load(16), compare(0, &[6])];
    let flags = |more: Vec<Vec<u8>>| read(&[tcp.to_vec(), vec![payload(2, 13, 1)], more].concat());
    assert_eq!(flags(vec![bitwise(&[0x17], &[0]), compare(0, &[2])]), "tcp tcp flags 0x02/0x17 continue");
    // As `tcp flags ack` is written: one bit, which is not unset.
    assert_eq!(flags(vec![bitwise(&[0x10], &[0]), compare(1, &[0])]), "tcp not tcp flags 0x00/0x10 continue");
    let class = [payload(1, 1, 1), bitwise(&[0xfc], &[0]), compare(0, &[0x28])];
    assert_eq!(read(&class), "dscp 0xa continue");
    assert_eq!(read(&[payload(1, 1, 1), compare(0, &[0x28])]), "class 0x28 continue");
    let class = [payload(1, 0, 2), bitwise(&[0x0f, 0xc0], &[0, 0]), compare(1, &[2, 0x80])];
    assert_eq!(read_in(Family::Ip6, &class), "not dscp 0xa continue");
    assert_eq!(read_in(Family::Ip6, &[payload(1, 0, 2), compare(0, &[0x62, 0x80])]), "dscp continue");
}

#[test]
fn what_is_not_understood_is_named() {
    let is = |load: Vec<u8>| read(&[load, compare(0, &[0; 4]), accept()]);
    let ct = |key: u32| expression("ct", &[(1, &ONE), (2, &key.to_be_bytes())]);
    assert_eq!(
        [11, 23, 32, 2, 99].map(|key| is(load(key))),
        ["skgid accept", "cgroup accept", "hour accept", "meta priority accept", "meta 99 accept"]
    );
    assert_eq!(
        [3, 1, 23, 24].map(|key| is(ct(key))),
        ["ct mark accept", "ct direction accept", "ct id accept", "ct 24 accept"]
    );
    let extension =
        |kind: u8, operation: u32| is(expression("exthdr", &[(1, &ONE), (2, &[kind]), (6, &operation.to_be_bytes())]));
    assert_eq!(
        [extension(7, 2), extension(44, 0), extension(30, 1)],
        ["ip option 7 accept", "extension header 44 accept", "tcp option 30 accept"]
    );
}

#[test]
fn what_others_decide_may_be_to_accept() {
    let target = |name: &[u8]| read(&[expression("target", &[(1, name)])]);
    assert_eq!(target(b"NFQUEUE\0"), "as the target NFQUEUE says accept");
    assert_eq!(target(b"TEE\0"), "as the target TEE says accept");
    assert_eq!((target(b"LOG\0"), target(b"REJECT\0")), ("continue".to_owned(), "drop".to_owned()));
    for name in ["queue", "fwd", "dup"] {
        assert_eq!(read(&[expression(name, &[])]), format!("as the {name} says accept"));
    }
    let verdict = |number: u32| read(&[decide(&[(1, &number.to_be_bytes())])]);
    assert_eq!([0, 0xd0000, 1, 3, 0x10003].map(verdict), ["drop", "drop", "accept", "accept", "accept"]);
}

#[test]
fn headers_are_read_by_what_the_rule_said_of_them_before() {
    let ttl = [payload(1, 8, 1), compare(0, &[64]), accept()];
    assert_eq!(read(&ttl), "ttl accept");
    assert_eq!(read_in(Family::Inet, &[&version(false)[..], &ttl].concat()), "ipv4 ttl accept");
    let by_type = [load(1), compare(0, &[8, 0])];
    assert_eq!(read_in(Family::Inet, &[&by_type[..], &ttl].concat()), "ipv4 ttl accept");
    // It may be of either version, or of the one that it is not said to be.
    assert_eq!(read_in(Family::Inet, &ttl), "octet 8 of header 1 accept");
    let other = [load(15), compare(1, &[2])];
    assert_eq!(read_in(Family::Inet, &[&other[..], &ttl].concat()), "not ipv4 octet 8 of header 1 accept");
    let hops = [payload(1, 7, 1), compare(0, &[64])];
    assert_eq!(read_in(Family::Inet, &[&version(true)[..], &hops].concat()), "ipv6 hop limit continue");
    let all_nodes = [payload(1, 24, 2), compare(0, &[0xff, 2])];
    assert_eq!(read_in(Family::Ip6, &all_nodes), "daddr ff02::/16 continue");
    assert_eq!(read_in(Family::Ip6, &[payload(1, 8, 1), compare(0, &[0xfc])]), "saddr fc00::/8 continue");
    assert_eq!(read(&[payload(2, 2, 2), compare(0, &[0, 53])]), "th dport continue");
}

#[test]
fn fields_that_are_loaded_at_once_are_told_apart() {
    let server = [payload(2, 0, 4), compare(0, &[0x13, 0x88, 0xca, 0x6c])];
    assert_eq!(read(&[&protocol(17)[..], &server].concat()), "udp sport 5000 dport 51820 continue");
    let echo = [payload(2, 0, 2), compare(0, &[8, 0])];
    assert_eq!(read(&[&protocol(1)[..], &echo].concat()), "icmp icmp type 8 icmp code continue");
    // Any of several protocols of one form, and of two.
    let any_of = |numbers: [u8; 2]| {
        let row = |number| Row::from(Condition { of: Of::Protocol(number), not: false });
        let lookup = expression("lookup", &[(1, b"s\0"), (2, &ONE)]);
        let rule = [&[load(16), lookup][..], &echo].concat();
        read_with(Family::Ip, &rule, &Known(Some(numbers.map(row).to_vec()), None, false), &mut { MAX_ROWS })
    };
    assert_eq!(any_of([6, 17]), "tcp sport 2048 continue | udp sport 2048 continue");
    assert_eq!(any_of([1, 17]), "icmp octet 0 of header 2 continue | udp octet 0 of header 2 continue");
    assert_eq!(read(&[payload(1, 8, 2), compare(0, &[64, 6]), accept()]), "ttl tcp accept");
    assert_eq!(read(&[payload(1, 12, 5), compare(0, &[1, 2, 3, 4, 10])]), "saddr 1.2.3.4 daddr 10.0.0.0/8 continue");
    // That not all of them are so says of none that it is not.
    assert_eq!(
        read(&[&protocol(17)[..], &[payload(2, 0, 4), compare(1, &[0; 4])]].concat()),
        "udp sport and dport continue"
    );
}

#[test]
fn a_register_holds_what_was_put_there_last() {
    let link = [load(7), compare(0, b"eth0\0\0\0\0\0\0\0\0\0\0\0\0")];
    let after = |expressions: &[Vec<u8>]| read(&[&link[..], expressions].concat());
    for name in ["numgen", "rt", "osf", "xfrm", "fib"] {
        let rule = [expression(name, &[(1, &ONE)]), compare(0, &[0; 4]), accept()];
        assert_eq!(after(&rule), format!("oifname eth0 {name} accept"));
    }
    for name in ["socket", "hash"] {
        let rule = [expression(name, &[(1, &[0, 0, 0, 3]), (2, &ONE)]), compare(0, &[0; 8]), accept()];
        assert_eq!(after(&rule), format!("oifname eth0 {name} accept"));
    }
    let unheard = [expression("unheard", &[]), compare(0, &[0; 4]), accept()];
    assert_eq!(after(&unheard), "oifname eth0 unheard something else accept");
    let constant = expression("immediate", &[(1, &ONE), (2, &nest(&[(1, &[0; 4])]))]);
    assert_eq!(after(&[constant, compare(0, &[0; 4])]), "oifname eth0 a constant continue");
    // A name of a link is as long as four of the registers, and a mark as one of them.
    let nine = 9_u32.to_be_bytes();
    let mark = expression("meta", &[(1, &nine), (2, &3_u32.to_be_bytes())]);
    let of_nine = expression("cmp", &[(1, &nine), (2, &[0; 4]), (3, &nest(&[(1, &7_u32.to_ne_bytes())]))]);
    assert_eq!(read(&[mark.clone(), of_nine.clone()]), "mark 0x7 continue");
    assert_eq!(read(&[mark.clone(), load(7), of_nine]), "something else continue");
    assert_eq!(read(&[load(7), mark, compare(0, b"eth0\0\0\0\0\0\0\0\0\0\0\0\0")]), "something else continue");
    let mark = |mask: &[u8], xor: &[u8]| read(&[load(3), bitwise(mask, xor), compare(0, &1_u32.to_ne_bytes())]);
    assert_eq!(mark(&0xff_u32.to_ne_bytes(), &[0; 4]), "mark 0x1/0xff continue");
    assert_eq!(mark(&0xff_u32.to_ne_bytes(), &[1; 4]), "mark continue");
    let shifted = expression("bitwise", &[(1, &ONE), (2, &ONE), (6, &ONE)]);
    assert_eq!(read(&[payload(1, 16, 4), shifted, compare(0, &[0, 10, 0, 0])]), "daddr continue");
}

#[test]
fn ranges_become_networks() {
    let lan = [compare(5, &[192, 168, 1, 10]), compare(3, &[192, 168, 1, 13]), accept()];
    let nets = "daddr 192.168.1.10/31 accept | daddr 192.168.1.12/31 accept";
    assert_eq!(read(&[&[payload(1, 16, 4)][..], &lan].concat()), nets);
    let range = |operator: u32, low: &[u8], high: &[u8]| {
        let [low, high] = [low, high].map(|value| nest(&[(1, value)]));
        expression("range", &[(1, &ONE), (2, &operator.to_be_bytes()), (3, &low), (4, &high)])
    };
    let own = |operator| range(operator, &[192, 168, 1, 10], &[192, 168, 1, 13]);
    assert_eq!(read(&[payload(1, 16, 4), own(0), accept()]), nets);
    let none = "not daddr 192.168.1.10/31 not daddr 192.168.1.12/31 accept";
    assert_eq!(read(&[payload(1, 16, 4), own(1), accept()]), none);
    assert_eq!(read(&[payload(1, 16, 4), compare(4, &[127, 255, 255, 255])]), "daddr 128.0.0.0/1 continue");
    assert_eq!(read(&[payload(1, 16, 4), compare(2, &[64, 0, 0, 0])]), "daddr 0.0.0.0/2 continue");
    let ports = [payload(2, 2, 2), compare(5, &[0, 80]), compare(3, &[0, 90])];
    assert_eq!(read(&[&protocol(6)[..], &ports].concat()), "tcp dport 80-90 continue");
    let ports = [payload(2, 2, 2), range(0, &[0, 80], &[0, 90])];
    assert_eq!(read(&[&protocol(6)[..], &ports].concat()), "tcp dport 80-90 continue");
    // Of numbers in the host's order nothing is known.
    assert_eq!(read(&[load(10), compare(5, &1000_u32.to_ne_bytes())]), "skuid continue");
}

#[test]
fn a_map_that_is_not_understood_may_decide_as_any_of_it_does() {
    let vmap = expression("lookup", &[(1, b"m\0"), (2, &ONE), (3, &[0; 4])]);
    let rule = [payload(1, 8, 1), vmap];
    let known = Known(None, Some(vec![Does::Accept, Does::Jump("vpn".to_owned())]), false);
    let both = "in the set m accept | in the set m jump vpn";
    assert_eq!(read_with(Family::Ip, &rule, &known, &mut { MAX_ROWS }), both);
    assert_eq!(read(&rule), "in the set m accept");
    assert_eq!(read_with(Family::Ip, &rule, &known, &mut 0), "in the set m accept");
    // A map of values says into a register what nobody knows.
    let map = expression("lookup", &[(1, b"m\0"), (2, &ONE), (3, &ONE)]);
    assert_eq!(read(&[load(3), map, compare(0, &[0; 4])]), "in the set m what m says continue");
}

#[test]
fn the_room_for_elements_is_that_of_the_whole_text() {
    let row = |port| Row::from(Condition { of: Of::ToPorts(port, port), not: false });
    let known = Known(Some((1..=3).map(row).collect()), None, false);
    let rule = [expression("lookup", &[(1, b"s\0"), (2, &ONE)]), accept()];
    let mut room = 4;
    assert_eq!(read_with(Family::Ip, &rule, &known, &mut room).matches("accept").count(), 3);
    assert_eq!(read_with(Family::Ip, &rule, &known, &mut room), "in the set s accept");
}

#[test]
fn what_is_in_no_element_of_several_fields_is_read_too() {
    let server = [Of::To("198.51.100.2/32".parse().unwrap()), Of::ToPorts(51820, 51820)];
    let conditions = server.map(|of| Condition { of, not: false }).to_vec();
    let known = Known(Some(vec![Row { conditions, does: None }]), None, false);
    let rule = [expression("lookup", &[(1, b"s\0"), (2, &ONE), (5, &ONE)]), decide(&[(1, &[0; 4])])];
    let others = "not daddr 198.51.100.2 drop | not dport 51820 drop";
    assert_eq!(read_with(Family::Ip, &rule, &known, &mut { MAX_ROWS }), others);
    assert_eq!(read_with(Family::Ip, &rule, &known, &mut 0), "not in the set s drop");
}

#[test]
fn what_a_set_will_hold_is_not_told_from_what_it_holds() {
    let lookup = |more: &[(u16, &[u8])]| expression("lookup", &[&[(1, &b"s\0"[..]), (2, &ONE[..])], more].concat());
    let read = |known: &Known, rule: &[Vec<u8>]| read_with(Family::Ip, rule, known, &mut { MAX_ROWS });
    let accepting = [lookup(&[]), accept()];
    let vmap = [lookup(&[(3, &[0; 4])])];
    let dropping = [lookup(&[(5, &ONE)]), decide(&[(1, &[0; 4])])];
    let empty = Known(Some(Vec::new()), None, true);
    assert_eq!(read(&empty, &accepting), "in the set s as it may be filled accept");
    assert_eq!(read(&empty, &vmap), "in the set s as it may be filled accept");
    assert_eq!(read(&empty, &dropping), "not in the set s as it may be filled drop");
    let port = |port| Condition { of: Of::ToPorts(port, port), not: false };
    let of_two = Row { conditions: vec![port(1), port(2)], does: None };
    let held = Known(Some(vec![Row::from(port(9))]), None, true);
    assert_eq!(read(&held, &accepting), "dport 9 accept | in the set s as it may be filled accept");
    assert_eq!(read(&held, &dropping), "not dport 9 not in the set s as it may be filled drop");
    let of_two = Known(Some(vec![of_two]), None, true);
    assert_eq!(
        read(&of_two, &dropping),
        "not dport 1 not in the set s as it may be filled drop | not dport 2 not in the set s as it may be filled drop"
    );
    assert_eq!(read(&Known(Some(Vec::new()), None, false), &accepting), "");
}

#[test]
fn the_kind_of_a_destination_is_known() {
    let fib = |result: u32, flags: u32| {
        let [result, flags] = [result, flags].map(u32::to_be_bytes);
        expression("fib", &[(1, &ONE), (2, &result), (3, &flags)])
    };
    assert_eq!(read(&[fib(3, 2), compare(0, &2_u32.to_ne_bytes()), accept()]), "daddr type local accept");
    assert_eq!(read(&[fib(3, 1), compare(0, &2_u32.to_ne_bytes()), accept()]), "fib accept");
    assert_eq!(read(&[fib(2, 2), compare(0, &2_u32.to_ne_bytes()), accept()]), "fib accept");
}

#[test]
fn a_chain_that_is_gone_to_is_not_come_back_from() {
    let verdict = |number: i32| decide(&[(1, &number.to_be_bytes()), (2, b"vpn\0")]);
    assert_eq!(read(&[verdict(-3)]), "jump vpn");
    assert_eq!(read(&[verdict(-4)]), "goto vpn");
}

proptest! {
    #[test]
    fn any_answer_is_read(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = (rules(Family::Inet, &octets, &Known::default(), &mut { MAX_ROWS }), chain(Family::Ip6, &octets));
    }
}
