use super::*;
use proptest::prelude::*;

fn put(octets: &mut [u8], at: usize, value: &[u8]) {
    octets[at..at + value.len()].copy_from_slice(value);
}

/// An entry for IPv4 with these matches' octets and this target.
fn entry(matches: &[u8], target: &str, data: &[u8], build: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let start = 112 + matches.len();
    let length = (start + 32 + data.len()).next_multiple_of(8);
    let mut octets = vec![0; length];
    build(&mut octets);
    put(&mut octets, 88, &(start as u16).to_ne_bytes());
    put(&mut octets, 90, &(length as u16).to_ne_bytes());
    put(&mut octets, 112, matches);
    put(&mut octets, start, &((length - start) as u16).to_ne_bytes());
    put(&mut octets, start + 2, target.as_bytes());
    put(&mut octets, start + 32, data);
    octets
}

#[test]
fn a_table_is_read() {
    let verdict = |number: i32| number.to_ne_bytes();
    let mut udp = vec![0; 48];
    put(&mut udp, 0, &48_u16.to_ne_bytes());
    put(&mut udp, 2, b"udp");
    for (index, port) in [0, u16::MAX, 53, 53].into_iter().enumerate() {
        put(&mut udp, 32 + 2 * index, &port.to_ne_bytes());
    }
    let accept = entry(&udp, "", &verdict(-2), |octets| {
        put(octets, 4, &[8, 8, 8, 8]);
        put(octets, 12, &[255; 4]);
        put(octets, 32, b"eth+\0");
        put(octets, 64, &[255; 3]);
        put(octets, 80, &17_u16.to_ne_bytes());
        put(octets, 83, &[2]);
    });
    let drop = entry(&[], "", &verdict(-1), |_| {});
    let head = |name: &str| {
        let mut named = vec![0; 30];
        put(&mut named, 0, name.as_bytes());
        entry(&[], "ERROR", &named, |_| {})
    };
    // OUTPUT: jump, policy; the user chain `vpn`: accept, return.
    let length = drop.len();
    let begin = 2 * length + head("vpn").len();
    let jump = entry(&[], "", &verdict(begin as i32), |_| {});
    let back = entry(&[], "", &verdict(-5), |_| {});
    let table = [jump, drop, head("vpn"), accept, back, head("ERROR")].concat();
    let mut info = vec![0; INFO_SIZE];
    put(&mut info, 32, &(1_u32 << OUTPUT).to_ne_bytes());
    put(&mut info, 56 + 4 * OUTPUT, &(length as u32).to_ne_bytes());
    let chains = parse(&SHAPES[0], (FILTER, 0), &info, &table, None, &mut Vec::new());
    let text: Vec<String> = chains
        .iter()
        .map(|chain| {
            let rules: Vec<String> = chain.rules.iter().map(ToString::to_string).collect();
            format!("{chain}: {}", rules.join("; "))
        })
        .collect();
    assert_eq!(
        text,
        [
            "iptables-legacy ip filter OUTPUT, policy drop: jump vpn",
            "iptables-legacy ip filter vpn: not oifname eth+ daddr 8.8.8.8 udp dport 53 accept; return",
        ]
    );
}

/// In a namespace of its own. Without the right to make one, or in a kernel without legacy tables, there is nothing to read.
#[test]
fn the_kernels_own_table_is_read() {
    let read = std::thread::spawn(|| {
        let netns = crate::net::netns::Netns::create().ok()?;
        netns.enter().ok()?;
        assert!(chains().chains.is_empty(), "nothing is made by looking");
        // Asking for a table makes it.
        let made = |shape: &Shape| TABLES.iter().all(|(table, _)| *table == "nat" || entries(shape, table).is_ok());
        SHAPES.iter().all(made).then(chains)
    });
    let Some(Read { chains, diverting, through, problems }) = read.join().unwrap() else { return };
    assert!(through.is_empty() && diverting.is_empty(), "{through:?} {diverting:?}");
    let text: Vec<String> = chains.iter().map(ToString::to_string).collect();
    let of = |family: &str, name: &str| format!("iptables-legacy {family} filter {name}, policy accept");
    let expected: Vec<String> =
        ["ip", "ip6"].iter().flat_map(|family| ["INPUT", "FORWARD", "OUTPUT"].map(|name| of(family, name))).collect();
    assert_eq!((text, problems), (expected, Vec::new()));
}

/// `struct ipt_ip`: a rule for later fragments alone, or for all others, and one whose target is not come back from.
#[test]
fn flags_of_an_entry_are_read() {
    let text = |shape: &Shape, flags: u8, inverted: u8, verdict: i32| {
        let mut octets = entry(&[0; 64], "", &verdict.to_ne_bytes(), |_| {});
        octets[shape.flags] = flags;
        octets[shape.inverted] = inverted;
        rule(shape, &Entry { at: 0, octets: &octets, target: 176 }, &[(8, "vpn".to_owned())], None).to_string()
    };
    let [ip, ip6] = &SHAPES;
    assert_eq!(text(ip, 1, 0, -1), "a later fragment drop");
    assert_eq!(text(ip, 1, 32, -1), "not a later fragment drop");
    assert_eq!(text(ip, 0, 0, -1), "drop");
    assert_eq!(text(ip, 0, 0, -4), "as the target QUEUE says accept");
    assert_eq!((text(ip, 2, 0, 8), text(ip, 0, 0, 8)), ("goto vpn".to_owned(), "jump vpn".to_owned()));
    assert_eq!((text(ip6, 4, 0, 8), text(ip6, 1, 0, -1)), ("goto vpn".to_owned(), "drop".to_owned()));
}

#[test]
fn a_table_of_too_many_rules_says_so_in_the_chains_that_were_cut() {
    let drop = entry(&[], "", &(-1_i32).to_ne_bytes(), |_| {});
    let error = entry(&[], "ERROR", &[0; 30], |_| {});
    let length = drop.len();
    let table = [drop.repeat(MAX_RULES + 3), error].concat();
    let mut info = vec![0; INFO_SIZE];
    put(&mut info, 32, &(1_u32 << OUTPUT).to_ne_bytes());
    put(&mut info, 56 + 4 * OUTPUT, &((length * (MAX_RULES + 2)) as u32).to_ne_bytes());
    let chains = parse(&SHAPES[0], (FILTER, 0), &info, &table, None, &mut Vec::new());
    assert_eq!((chains.len(), chains[0].rules.len()), (1, MAX_RULES + 1));
    assert!(chains[0].hook.as_ref().is_some_and(|hook| hook.drops));
    assert_eq!(chains[0].rules[MAX_RULES].to_string(), "as a rule says that was not read accept");
}

proptest! {
    #[test]
    fn any_table_is_read(info in proptest::collection::vec(any::<u8>(), 84), table in proptest::collection::vec(any::<u8>(), 0..600)) {
        for shape in &SHAPES {
            let _ = parse(shape, (FILTER, 0), &info, &table, None, &mut Vec::new());
        }
    }
}

/// A table of one rule in OUTPUT, whose policy is to accept, and of one link's packets.
fn table_of(rule: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let policy = entry(&[], "", &(-2_i32).to_ne_bytes(), |_| {});
    let mut info = vec![0; INFO_SIZE];
    put(&mut info, 32, &(1_u32 << OUTPUT).to_ne_bytes());
    put(&mut info, 56 + 4 * OUTPUT, &(rule.len() as u32).to_ne_bytes());
    (info, [rule, policy].concat())
}

#[test]
fn what_other_tables_send_elsewhere_and_drop_is_read() {
    let udp = |octets: &mut [u8]| put(octets, 80, &17_u16.to_ne_bytes());
    let read = |table: usize, rule: Vec<u8>| {
        let (info, entries) = table_of(rule);
        let mut read = Read::default();
        sort(&SHAPES[0], TABLES[table], &info, &entries, &Steering::none(), &mut read);
        read
    };
    let does = |read: &Read| read.diverting.first().map(|chain| (chain.table.clone(), chain.rules[0].clone()));
    let dnat = read(2, entry(&[], "DNAT", &[0; 20], udp));
    let (table, rule) = does(&dnat).unwrap();
    assert_eq!((table.as_str(), &rule.does), ("nat", &Does::Divert { by: "target DNAT".to_owned(), begun: false }));
    assert_eq!(rule.conditions, [Condition { of: Of::Protocol(17), not: false }]);
    assert!(dnat.chains.is_empty(), "it says nothing of what passes");
    let mark = read(1, entry(&[], "MARK", &[[0x6c, 0xca, 0, 0], [0xff; 4]].concat(), udp));
    assert_eq!(does(&mark).unwrap().1.does, Does::Divert { by: "target MARK".to_owned(), begun: true });
    let source = read(2, entry(&[], "MASQUERADE", &[0; 20], udp));
    assert!(source.diverting.is_empty() && source.chains.is_empty(), "another source goes the same way");
    let raw = read(0, entry(&[], "", &(-1_i32).to_ne_bytes(), udp));
    assert!(raw.diverting.is_empty());
    assert_eq!(raw.chains[0].hook, Some(Hook { output: true, priority: -300, drops: false }));
    assert_eq!(raw.chains[0].rules[0].does, Does::Drop);
}

#[test]
fn rules_that_are_too_many_may_send_anything_elsewhere() {
    let one = entry(&[], "MASQUERADE", &[0; 20], |_| {});
    let (info, entries) = table_of(one.repeat(MAX_RULES + 1));
    let mut read = Read::default();
    sort(&SHAPES[0], TABLES[2], &info, &entries, &Steering::none(), &mut read);
    assert_eq!(read.diverting[0].rules.last().map(|rule| &rule.does), Some(&Does::unread_diversion()));
}
