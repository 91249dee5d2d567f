//! Packets that leaked, as a capture file that Wireshark opens: pcapng with one interface block per link, times in nanoseconds, the
//! direction, and a comment at each packet (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::model::evidence::Captured;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// By which a reader knows the order of octets.
const MAGIC: u32 = 0x1a2b_3c4d;
/// LINKTYPE_LINUX_SLL: the header that packet sockets make up, because links with and without a header of their own are mixed here.
const COOKED: u16 = 113;
/// "Sent by us" in that header.
const OUTGOING: u16 = 4;
/// ARPHRD_ETHER, for want of knowing better.
const ETHER: u16 = 1;
const VLAN: u16 = 0x8100;
const OPTION_COMMENT: u16 = 1;
const OPTION_IF_NAME: u16 = 2;
const OPTION_USER_APPLICATION: u16 = 4;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_FLAGS: u16 = 2;
/// "Outbound" in the flags of a packet.
const OUTBOUND: u32 = 2;

/// The whole file. `tool` is what wrote it.
pub(super) fn render(tool: &str, packets: &[Captured]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut section = [MAGIC.to_le_bytes(), 1_u32.to_le_bytes(), [0xff; 4], [0xff; 4]].concat();
    options(&mut section, &[(OPTION_USER_APPLICATION, tool.as_bytes())]);
    block(&mut file, SECTION, &section);
    let mut links: Vec<&str> = packets.iter().map(|packet| packet.link.as_str()).collect();
    links.sort_unstable();
    links.dedup();
    for link in &links {
        // Reserved, and no limit on the length of packets.
        let mut interface = [COOKED.to_le_bytes(), [0; 2], [0; 2], [0; 2]].concat();
        options(&mut interface, &[(OPTION_IF_NAME, link.as_bytes()), (OPTION_TIME_RESOLUTION, &[9])]);
        block(&mut file, INTERFACE, &interface);
    }
    for packet in packets {
        let place = links.iter().position(|link| *link == packet.link).unwrap_or_default();
        block(&mut file, PACKET, &body(place as u32, packet));
    }
    file
}

fn body(place: u32, packet: &Captured) -> Vec<u8> {
    let octets = STANDARD.decode(&packet.octets).unwrap_or_default();
    let mut frame = [OUTGOING.to_be_bytes(), ETHER.to_be_bytes(), 0_u16.to_be_bytes()].concat();
    frame.extend([0; 8]);
    // The kernel keeps the tag of a VLAN beside the packet; on the wire it stands before the EtherType.
    if let Some(tag) = packet.tag {
        frame.extend([VLAN.to_be_bytes(), tag.to_be_bytes()].concat());
    }
    frame.extend(packet.ether_type.to_be_bytes());
    let header = frame.len() as u32;
    frame.extend(&octets);
    let (seconds, nanoseconds) = packet.time;
    let time = seconds.unsigned_abs() * 1_000_000_000 + nanoseconds.unsigned_abs();
    let mut body = Vec::new();
    let original = header.saturating_add(packet.length.max(octets.len() as u32));
    for word in [place, (time >> 32) as u32, time as u32, frame.len() as u32, original] {
        body.extend(word.to_le_bytes());
    }
    padded(&mut body, &frame);
    options(&mut body, &[(OPTION_COMMENT, packet.comment.as_bytes()), (OPTION_FLAGS, &OUTBOUND.to_le_bytes())]);
    body
}

fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = (12 + body.len() as u32).to_le_bytes();
    file.extend(kind.to_le_bytes());
    file.extend(length);
    file.extend(body);
    file.extend(length);
}

fn options(body: &mut Vec<u8>, options: &[(u16, &[u8])]) {
    for (code, value) in options {
        let value = &value[..value.len().min(usize::from(u16::MAX))];
        body.extend(code.to_le_bytes());
        body.extend((value.len() as u16).to_le_bytes());
        padded(body, value);
    }
    body.extend([0; 4]);
}

fn padded(body: &mut Vec<u8>, octets: &[u8]) {
    body.extend(octets);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Writes a file of what the sensor is said to have captured, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(packets: &[Captured]) -> Vec<u8> {
    render("leakcheck", packets)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::evidence::Class;
    use std::process::Command;

    pub(in crate::report) fn packet() -> Captured {
        let mut octets = Vec::new();
        let builder = etherparse::PacketBuilder::ipv4([172, 18, 0, 10], [8, 8, 8, 8], 1).udp(4000, 9);
        builder.write(&mut octets, b"lk0123456789abcdef").unwrap();
        Captured {
            time: (1_700_000_000, 123_456_789),
            link: "eth0".to_owned(),
            ether_type: 0x0800,
            tag: None,
            length: 1400,
            class: Class::Offence,
            probe: Some("uplink".to_owned()),
            octets: STANDARD.encode(octets),
            comment: "leakcheck: leak; stimulus of uplink".to_owned(),
        }
    }

    #[test]
    fn blocks_are_whole_and_tell_their_length_twice() {
        let tagged = Captured { link: "eth1".to_owned(), tag: Some(5), ..packet() };
        let file = render("leakcheck 0", &[packet(), tagged]);
        let (mut at, mut kinds) = (0, Vec::new());
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        while at < file.len() {
            let length = word(at + 4);
            assert_eq!((length % 4, length), (0, word(at + length as usize - 4)));
            kinds.push(word(at));
            at += length as usize;
        }
        assert_eq!(kinds, [SECTION, INTERFACE, INTERFACE, PACKET, PACKET]);
    }

    /// Wireshark's own reader; where it is not installed, and nobody demands it, only the test above speaks.
    #[test]
    fn tshark_reads_it() {
        if Command::new("tshark").arg("--version").output().is_err() {
            let required = std::env::var("LEAKCHECK_TSHARK").is_ok_and(|value| value == "required");
            assert!(!required, "LEAKCHECK_TSHARK=required, and tshark is not installed");
            eprintln!("tshark is not installed: nothing was tried");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leaks.pcapng");
        let tagged = Captured { link: "eth1".to_owned(), tag: Some(5), ..packet() };
        std::fs::write(&path, render("leakcheck 0", &[packet(), tagged])).unwrap();
        let fields = [
            "frame.interface_name",
            "frame.time_epoch",
            "frame.len",
            "ip.dst",
            "udp.dstport",
            "vlan.id",
            "frame.comment",
        ];
        let mut command = Command::new("tshark");
        command.arg("-r").arg(&path).args(["-T", "fields", "-E", "separator=|"]);
        let output = command.args(fields.iter().flat_map(|field| ["-e", field])).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let comment = "leakcheck: leak; stimulus of uplink";
        let expected = [
            format!("eth0|1700000000.123456789|1416|8.8.8.8|9||{comment}"),
            format!("eth1|1700000000.123456789|1420|8.8.8.8|9|5|{comment}"),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
}
