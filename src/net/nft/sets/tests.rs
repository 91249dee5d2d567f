use super::*;

fn set(interval: bool, elements: &[(&[u8], bool)]) -> Set {
    let element =
        |&(key, is_end): &(&[u8], bool)| Element { key: key.to_vec(), key_end: None, is_end, does: None, unless: None };
    let key = elements.first().map_or(0, |(key, _)| key.len());
    Set { interval, key, elements: elements.iter().map(element).collect(), ..Set::default() }
}

fn texts(rows: Option<Vec<Row>>) -> Vec<String> {
    let text = |row: &Row| row.conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    rows.expect("they are understood").iter().map(text).collect()
}

fn to() -> Held {
    Held::Address { mask: vec![0xff; 4], to: true, v6: false }
}

#[test]
fn a_set_with_a_name_and_nothing_in_it_is_there_to_be_filled() {
    assert!(is_to_be_filled(0, true) && is_to_be_filled(INTERVAL, true));
    assert!(!is_to_be_filled(0, false) && !is_to_be_filled(FIXED | INTERVAL, true) && !is_to_be_filled(2, true));
    // What goes by itself was put there by somebody, who will put others there.
    assert!(is_to_be_filled(0x10, false) && is_to_be_filled(0x20, false));
}

#[test]
fn intervals_become_networks() {
    let lan = set(
        true,
        &[
            (&[192, 168, 0, 0], false),
            (&[192, 169, 0, 0], true),
            (&[0; 4], true),
            (&[10, 0, 0, 0], false),
            (&[11, 0, 0, 0], true),
        ],
    );
    assert_eq!(texts(lan.rows(&[&to()])), ["daddr 10.0.0.0/8", "daddr 192.168.0.0/16"]);
    let open = set(true, &[(&[224, 0, 0, 0], false)]);
    assert_eq!(texts(open.rows(&[&to()])), ["daddr 224.0.0.0/3"]);
    let ports = set(true, &[(&[4, 0], false), (&[8, 0], true), (&[0, 80], false), (&[0, 81], true)]);
    assert_eq!(texts(ports.rows(&[&Held::Ports { to: true }])), ["dport 80", "dport 1024-2047"]);
}

#[test]
fn fields_of_a_key_stand_on_four_octets() {
    let server = set(false, &[(&[198, 51, 100, 2, 0xca, 0x6c, 0, 0], false)]);
    let ports = Held::Ports { to: true };
    assert_eq!(texts(server.rows(&[&to(), &ports])), ["daddr 198.51.100.2 dport 51820"]);
    assert!(server.rows(&[&to(), &Held::Other("ttl".to_owned())]).is_none());
    // What registers beside the key hold is no part of it, and a field too few is none.
    assert_eq!(texts(server.rows(&[&to(), &ports, &Held::Mark(1)])), ["daddr 198.51.100.2 dport 51820"]);
    assert_eq!(texts(set(false, &[(&[0, 53], false)]).rows(&[&ports, &to()])), ["dport 53"]);
    assert!(server.rows(&[&to()]).is_none() && server.rows(&[]).is_none());
    assert!(server.rows(&[&Held::Link]).is_none());
}

/// `ip daddr . meta l4proto . th dport`, where the rule has said nothing of the protocol before.
#[test]
fn ports_are_those_of_the_protocol_beside_them() {
    let fields = [&to(), &Held::Protocol, &Held::PortsOfSome { to: true }];
    let rows =
        |protocol: u8| set(false, &[(&[198, 51, 100, 2, protocol, 0, 0, 0, 0xca, 0x6c, 0, 0], false)]).rows(&fields);
    assert_eq!(texts(rows(17)), ["daddr 198.51.100.2 udp dport 51820"]);
    assert!(rows(1).is_none(), "ICMP has no ports there");
    assert!(set(false, &[(&[0, 53], false)]).rows(&fields[2..]).is_none(), "nor has who knows what");
}

#[test]
fn what_was_not_read_whole_is_not_understood() {
    let partial = Set { partial: true, ..set(false, &[(&[1, 2, 3, 4], false)]) };
    assert!(partial.rows(&[&to()]).is_none());
    assert_eq!(before(&[1, 0, 0]), [0, 255, 255]);
}

#[test]
fn everything_else_is_in_none_of_the_others() {
    let rest = Some(Some(Does::Drop));
    let map = Set { rest, ..set(true, &[(&[10, 0, 0, 0], false), (&[11, 0, 0, 0], true)]) };
    assert_eq!(texts(map.rows(&[&to()])), ["daddr 10.0.0.0/8", "not daddr 10.0.0.0/8"]);
    assert_eq!(map.rows(&[&to()]).unwrap()[1].does, Some(Does::Drop));
    let fields = Set { rest: Some(None), ..set(false, &[(&[1, 2, 3, 4, 0, 53, 0, 0], false)]) };
    assert!(fields.rows(&[&to(), &Held::Ports { to: true }]).is_none());
}

#[test]
fn in_none_of_several_fields_one_at_least_is_another() {
    let ports = Held::Ports { to: true };
    let one = (&[1, 2, 3, 4, 0, 53, 0, 0][..], false);
    let two = (&[1, 2, 3, 5, 0, 53, 0, 0][..], false);
    let none = |elements: &[(&[u8], bool)]| texts(none_of(&set(false, elements).rows(&[&to(), &ports]).unwrap()));
    assert_eq!(none(&[one]), ["not daddr 1.2.3.4", "not dport 53"]);
    assert_eq!(none(&[one, two]), ["not dport 53", "not daddr 1.2.3.4 not daddr 1.2.3.5"]);
    assert_eq!(texts(none_of(&[])), [""]);
    let keys: Vec<[u8; 8]> = (0..9).map(|last| [1, 2, 3, last, 0, last, 0, 0]).collect();
    let elements: Vec<(&[u8], bool)> = keys.iter().map(|key| (&key[..], false)).collect();
    assert!(none_of(&set(false, &elements).rows(&[&to(), &ports]).unwrap()).is_none(), "there are 512 ways");
}

/// As the kernel lists elements: those of which no field is known, and one for everything else.
#[test]
fn all_verdicts_of_a_map_are_kept() {
    let attribute = |kind: u16, value: &[u8]| {
        let mut octets = Vec::new();
        put_attribute(&mut octets, kind, value);
        octets
    };
    let verdict = |number: u32| attribute(2, &attribute(2, &attribute(1, &number.to_be_bytes())));
    let element = |ttl: u8| [attribute(1, &attribute(1, &[ttl])), verdict(u32::from(ttl > 64))].concat();
    let rest = [attribute(3, &CATCHALL.to_be_bytes()), verdict(1)].concat();
    let list: Vec<u8> =
        [1, 2, 3].iter().map(|ttl| element(*ttl)).chain([rest]).flat_map(|one| attribute(1, &one)).collect();
    let mut set = Set { key: 1, ..Set::default() };
    set.take(&list);
    assert_eq!((set.verdicts.as_slice(), set.elements.len()), (&[Does::Drop, Does::Accept][..], 3));
    assert!(set.rows(&[&Held::Other("ttl".to_owned())]).is_none());
    let many: Vec<u8> =
        (0..MAX_ELEMENTS).map(|_| element(1)).chain([element(65)]).flat_map(|one| attribute(1, &one)).collect();
    let mut set = Set { key: 1, ..Set::default() };
    set.take(&many);
    assert_eq!((set.partial, set.verdicts.len()), (true, 2));
}

/// As the kernel lists elements that go by themselves, or that ask how fast packets come.
#[test]
fn an_element_that_may_not_be_found_is_no_certainty() {
    let attribute = |kind: u16, value: &[u8]| {
        let mut octets = Vec::new();
        put_attribute(&mut octets, kind, value);
        octets
    };
    let key = attribute(1, &attribute(1, &[0, 53]));
    let named = |name: &[u8]| attribute(7, &attribute(1, name));
    let read = |more: &[u8]| {
        let mut set = Set { key: 2, ..Set::default() };
        set.take(&attribute(1, &[&key[..], more].concat()));
        texts(set.rows(&[&Held::Ports { to: true }]))
    };
    assert_eq!(read(&[]), ["dport 53"]);
    assert_eq!(read(&named(b"counter\0")), ["dport 53"]);
    assert_eq!(read(&attribute(5, &[0; 8])), ["while an element lasts dport 53"]);
    assert_eq!(read(&named(b"limit\0")), ["by the limit of an element dport 53"]);
}
