//! By which signs each leak fixture shows.

/// By which sign the leak shows.
pub(super) enum Sign {
    /// A datagram bound to the uplink gets out to there.
    BoundUdp(&'static str),
    /// A datagram of a thousand octets, bound to the uplink, gets out to there.
    LongUdp(&'static str),
    /// The answer of a connection from that port, bound to the uplink, gets out to there, and a SYN from there does not.
    Answer(u16, &'static str),
    /// A ping of that many octets, bound to the uplink, gets out to there, and a short one does not.
    LongPing(usize, &'static str),
    /// A datagram with that mark and of that class of that user's, bound to the uplink, gets out to there.
    Dressed { mark: u32, class: u32, user: u32, to: &'static str },
    /// A connection bound to the uplink gets out to there.
    BoundTcp(&'static str),
    /// A ping bound to the uplink gets out to there.
    BoundPing(&'static str),
    /// A packet of that protocol bound to the uplink gets out to there.
    BoundRaw(u8, &'static str),
    /// A datagram of that class bound to the uplink gets out to there, and one of no class does not.
    Class(u8, &'static str),
    /// A TCP segment with those flags bound to the uplink gets out to there, and a SYN does not.
    Segment(u8, &'static str),
    /// A later fragment of a datagram bound to the uplink gets out to there, and a whole one does not.
    LaterFragment(&'static str),
    /// A datagram that records its route, bound to the uplink, gets out to there, and one that does not stays in.
    RecordsRoute(&'static str),
    /// A nameserver that a program of the stack names, and the stack's own file does not, has the ISP ask the authority.
    ProgramsIspAsks,
    /// No nameserver that a program of the stack names answers.
    ProgramsNothingResolves,
    /// A program of the stack names this nameserver, which answers it by the VPN.
    ProgramAsks(&'static str),
    /// A web server sees that address of the stack, over IPv6 or not.
    Exit(bool, &'static str),
    /// A question to one of resolv.conf's nameservers (or this one) reaches the authority from the ISP.
    IspAsks(Option<&'static str>, &'static str),
    /// None of resolv.conf's nameservers answers.
    NothingResolves,
    /// A datagram that nothing binds leaves by the uplink.
    UnboundUdp(&'static str),
    /// A datagram from that port, which nothing else binds, leaves by the uplink.
    UdpFrom(u16, &'static str),
    /// A connection that nothing binds leaves by the uplink.
    UnboundTcp(&'static str),
    /// Something leaves by the uplink to there without being asked for.
    Unasked(&'static str),
    /// A connection of the stack's stands to there from its uplink's address, and nothing leaves by the uplink to there.
    Stands(&'static str),
    /// A datagram with that mark gets out.
    Marked(u32, &'static str),
    /// A datagram with that mark, bound to the uplink, gets out.
    MarkedBound(u32, &'static str),
    /// One of a hundred connections bound to the uplink gets out to there, and not all.
    SomeTcp(&'static str),
    /// A packet of that protocol, bound to the uplink, gets out.
    Protocol(u8, &'static str),
    /// A datagram from that port, bound to the uplink, gets out.
    From(u16, &'static str),
    /// A datagram from that address gets out to there.
    FromAddress(&'static str, &'static str),
    /// A datagram of that user's, bound to the uplink, gets out.
    User(u32, &'static str),
    /// A datagram of that user's to there, bound to the uplink, gets out to another place, and one of root's does not.
    DivertedUser(u32, &'static str, &'static str),
    /// A datagram of that class to there, bound to the uplink, gets out to another place, and one of no class does not.
    DivertedClass(u8, &'static str, &'static str),
    /// A datagram of that user's that nothing binds leaves by the uplink.
    UserUnbound(u32, &'static str),
    /// The stack's own server there does not answer the home.
    NotServed(&'static str),
    /// What a neighbour has the stack carry on to there leaves by that link of the stack's.
    Forwards(&'static str, &'static str),
    /// An advertisement made a route of the stack's.
    Advertised,
    /// After a redirect from its router the stack sends what is for there to a neighbour, who does not carry it on.
    Redirected(&'static str),
    /// The stack's own server there answers the home.
    Served(&'static str),
    /// The neighbour cannot connect to there, and the home can.
    NeighbourCannot(&'static str),
    /// Whoever is inside the VPN can connect to there.
    VpnConnects(&'static str),
    /// Somebody on the internet can connect to there.
    PeerConnects(&'static str),
    /// The stack's programs can connect to there.
    Connects(&'static str),
    /// A program in the stack's network holds the capability of that bit.
    Holds(u32),
    /// A gateway answers there over NAT-PMP, with that external address.
    MapsPorts(&'static str, [u8; 4]),
    /// The torrent client's API, asked there, says that of the stack's client.
    ClientSays(&'static str, &'static str),
    /// Gluetun's control server, asked there, says that.
    ControlSays(&'static str, &'static str),
    /// A datagram bound to the second uplink gets out to the internet.
    Second(&'static str),
    /// While the tunnel is down: datagrams to there leave within these milliseconds of its end (from, to, and how long
    /// at most).
    Hole { to: &'static str, from: u64, within: u64, lasts: u64 },
    /// The same after the tunnel came back.
    HoleAfterwards { to: &'static str, lasts: u64 },
    /// While the server is blocked and the tunnel is not told, datagrams to there leave.
    HoleWhileSilent(&'static str),
    /// While the server is blocked and the tunnel is not told, a flow to that resolver that was open before goes on in clear.
    FlowWhileSilent(&'static str),
    /// After the tunnel was down and is back, a flow to that STUN server that was open before goes on in clear.
    FlowAfterwards(&'static str),
    /// While the tunnel is down a flow to that resolver that was open before goes on in clear.
    FlowWhileDown(&'static str),
    /// While the server is blocked and the tunnel is not told, one of many datagrams bound to the uplink gets out to there.
    BoundWhileSilent(&'static str),
    /// When the tunnel has just come back, a datagram bound to the uplink gets out to there.
    BoundAtReturn(&'static str),
    /// While the tunnel is down that sign shows.
    WhileDown(&'static Sign),
    /// After the tunnel was down and is back that sign shows, and before it did not.
    Afterwards(&'static Sign),
    /// While the tunnel is down local hosts cannot be reached, and before and after it they can.
    LocalLost,
    /// While the tunnel is down resolv.conf names that one.
    ResolvConfWhileDown(&'static str),
    /// The tunnel does not work any more after it was down.
    NoRecovery,
}

const PREFERENCES: &str = "/api/v2/app/preferences";
const TRANSFER: &str = "/api/v2/transfer/info";

pub(super) const SIGNS: &[(&str, &[Sign])] = &[
    ("access-lost", &[Sign::NeighbourCannot("172.18.0.10:8080")]),
    ("access-open", &[Sign::VpnConnects("10.64.0.2:8080")]),
    ("client-bound-uplink", &[Sign::ClientSays(PREFERENCES, "\"current_network_interface\":\"eth0\"")]),
    ("client-lost-interface", &[Sign::ClientSays(PREFERENCES, "\"current_network_interface\":\"wg0\"")]),
    ("client-lsd", &[Sign::ClientSays(PREFERENCES, "\"lsd\":true")]),
    ("client-port-mismatch", &[Sign::ControlSays("/v1/portforward", "\"port\":40123")]),
    ("client-shows-home", &[Sign::ClientSays(TRANSFER, "\"last_external_address_v4\":\"203.0.113.10\"")]),
    ("client-unbound", &[Sign::ClientSays(PREFERENCES, "\"current_network_interface\":\"\"")]),
    ("client-upnp", &[Sign::ClientSays(PREFERENCES, "\"upnp\":true")]),
    ("endpoint-clear", &[Sign::BoundTcp("198.51.100.2:443")]),
    ("encapsulated", &[Sign::BoundRaw(47, "8.8.8.8"), Sign::BoundRaw(41, "8.8.8.8"), Sign::BoundRaw(4, "8.8.8.8")]),
    ("silent-connection", &[Sign::Stands("1.1.1.1:53")]),
    ("established", &[Sign::Unasked("8.8.8.8"), Sign::Unasked("1.1.1.1")]),
    ("outbound-overlap", &[Sign::UnboundUdp("10.64.0.1:53")]),
    ("outbound-public", &[Sign::UnboundTcp("93.184.215.14:443")]),
    ("second-network", &[Sign::Second("8.8.8.8:53")]),
    (
        "dns-fallback",
        &[Sign::ResolvConfWhileDown("8.8.8.8"), Sign::Hole { to: "8.8.8.8:53", from: 0, within: 50, lasts: 10_000 }],
    ),
    ("bind-device", &[Sign::BoundTcp("1.1.1.1:6881")]),
    ("bind-source", &[Sign::BoundUdp("8.8.8.8:6881"), Sign::BoundPing("8.8.8.8")]),
    ("doh", &[Sign::BoundTcp("8.8.8.8:443"), Sign::BoundTcp("1.1.1.1:443")]),
    ("dot", &[Sign::BoundTcp("8.8.8.8:853")]),
    (
        "fallback",
        &[
            Sign::Hole { to: "192.0.2.99:9", from: 0, within: 50, lasts: 10_000 },
            Sign::Hole { to: "[2001:db8:99::9]:9", from: 0, within: 50, lasts: 10_000 },
        ],
    ),
    ("dns-rewritten", &[Sign::ResolvConfWhileDown("8.8.8.8")]),
    ("flow-moves", &[Sign::FlowWhileSilent("8.8.8.8:53")]),
    ("flow-moves-ipv6", &[Sign::FlowWhileDown("[2001:4860:4860::8888]:53")]),
    ("flow-direct-ipv6", &[Sign::UnboundUdp("[2001:4860:4864:5:8000::1]:19302")]),
    ("flow-moves-late", &[Sign::FlowAfterwards("74.125.250.129:19302")]),
    ("hole-dns", &[Sign::Hole { to: "8.8.8.8:53", from: 950, within: 1400, lasts: 250 }]),
    ("hole-v6", &[Sign::Hole { to: "[2001:db8:99::9]:9", from: 950, within: 1400, lasts: 250 }]),
    ("one-protocol-dns", &[Sign::Hole { to: "8.8.8.8:53", from: 0, within: 50, lasts: 10_000 }]),
    ("forward-accept", &[Sign::Forwards("tun0", "192.0.2.99:443")]),
    ("forward-accept-ipv6", &[Sign::Forwards("tun0", "[2001:db8:99::9]:443")]),
    ("forward-neighbour", &[Sign::Forwards("eth0", "192.0.2.99:443")]),
    ("forward-while-down", &[Sign::WhileDown(&Sign::Forwards("eth0", "192.0.2.99:443"))]),
    ("forward-direct", &[Sign::Forwards("eth0", "192.0.2.99:6881")]),
    ("forced-tcp", &[Sign::BoundTcp("8.8.8.8:53")]),
    ("forced-udp", &[Sign::BoundUdp("8.8.8.8:53"), Sign::BoundUdp("[2001:4860:4860::8888]:53")]),
    ("hole", &[Sign::Hole { to: "192.0.2.99:9", from: 0, within: 250, lasts: 250 }]),
    ("icmp-only", &[Sign::BoundPing("8.8.8.8"), Sign::BoundPing("2001:4860:4860::8888")]),
    ("late-hole", &[Sign::Hole { to: "192.0.2.99:9", from: 1950, within: 2100, lasts: 90 }]),
    ("local-lost", &[Sign::LocalLost]),
    ("local-names", &[Sign::IspAsks(Some("127.0.0.1:53"), "nas")]),
    ("open-router", &[Sign::IspAsks(Some("192.168.1.1:53"), "example.com")]),
    ("management-reached", &[Sign::Connects("10.99.0.1:22")]),
    ("long-packets", &[Sign::LongUdp("8.8.8.8:6881"), Sign::LongUdp("[2001:4860:4860::8888]:6881")]),
    ("icmp-reply", &[Sign::BoundRaw(1, "8.8.8.8")]),
    ("class-of-service", &[Sign::Class(0xb8, "8.8.8.8:9"), Sign::Class(0xb8, "[2001:4860:4860::8888]:9")]),
    ("later-fragments", &[Sign::LaterFragment("8.8.8.8:9")]),
    ("ip-options", &[Sign::RecordsRoute("8.8.8.8:9")]),
    ("not-syn", &[Sign::Segment(0x10, "8.8.8.8:443"), Sign::Segment(0x11, "[2001:4860:4860::8888]:443")]),
    ("resets", &[Sign::Segment(0x04, "8.8.8.8:443"), Sign::Segment(0x14, "[2001:4860:4860::8888]:443")]),
    ("resolver-private", &[Sign::BoundUdp("100.64.0.53:53")]),
    ("mark", &[Sign::Marked(0xca6c, "8.8.8.8:9")]),
    ("mark-bit", &[Sign::MarkedBound(0x2f_4e11, "8.8.8.8:9")]),
    ("multicast", &[Sign::Unasked("239.192.152.143")]),
    ("narrow-route", &[Sign::UnboundTcp("151.101.1.69:443")]),
    ("nat-pmp", &[Sign::MapsPorts("172.18.0.1:5351", [203, 0, 113, 10])]),
    ("no-recovery", &[Sign::NoRecovery]),
    (
        "no-vpn",
        &[
            Sign::Exit(false, "203.0.113.10"),
            Sign::Exit(true, "2001:db8:18::10"),
            Sign::IspAsks(None, "example.com"),
            Sign::BoundUdp("8.8.8.8:53"),
        ],
    ),
    (
        "one-protocol-icmp",
        &[Sign::WhileDown(&Sign::BoundPing("8.8.8.8")), Sign::WhileDown(&Sign::BoundPing("2001:4860:4860::8888"))],
    ),
    ("one-protocol-udp", &[Sign::Hole { to: "192.0.2.99:9", from: 0, within: 50, lasts: 10_000 }]),
    ("one-protocol-v6", &[Sign::Hole { to: "[2001:db8:99::9]:9", from: 0, within: 50, lasts: 10_000 }]),
    (
        "output-accept",
        &[
            Sign::BoundUdp("8.8.8.8:53"),
            Sign::BoundUdp("[2001:4860:4860::8888]:53"),
            Sign::Hole { to: "192.0.2.99:9", from: 0, within: 50, lasts: 10_000 },
        ],
    ),
    ("one-in-twenty", &[Sign::SomeTcp("1.1.1.1:443")]),
    ("port-route", &[Sign::UnboundUdp("192.0.2.99:51413")]),
    ("protocol-gre", &[Sign::Protocol(47, "8.8.8.8")]),
    ("protocol-odd", &[Sign::Protocol(201, "8.8.8.8")]),
    ("port-direct", &[Sign::UnboundUdp("67.215.246.10:6881")]),
    ("reconnect-hole", &[Sign::HoleAfterwards { to: "192.0.2.99:9", lasts: 60 }]),
    ("raw-power", &[Sign::Holds(13)]),
    ("resolver-dead", &[Sign::NothingResolves]),
    ("resolver-beside", &[Sign::IspAsks(None, "example.com")]),
    ("resolver-docker", &[Sign::IspAsks(None, "example.com")]),
    ("resolver-extra", &[Sign::IspAsks(None, "example.com")]),
    ("resolver-gateway", &[Sign::IspAsks(None, "example.com")]),
    ("resolver-stale", &[Sign::ProgramsIspAsks]),
    ("resolver-stale-dead", &[Sign::ProgramsNothingResolves]),
    ("resolver-stale-other", &[Sign::ProgramAsks("8.8.8.8:53")]),
    ("resolver-isp", &[Sign::IspAsks(None, "example.com")]),
    ("icmp-redirect", &[Sign::Redirected("192.168.1.50:80")]),
    ("router-advertisement", &[Sign::Advertised]),
    ("rule-missing", &[Sign::Exit(false, "203.0.113.10"), Sign::Exit(true, "2001:db8:18::10")]),
    ("rule-order", &[Sign::Exit(false, "203.0.113.10"), Sign::Exit(true, "2001:db8:18::10")]),
    ("rule-order-closed", &[Sign::NothingResolves]),
    ("served-lost", &[Sign::NotServed("172.18.0.10:8080")]),
    ("source-port", &[Sign::From(6881, "8.8.8.8:9")]),
    ("silent-fallback", &[Sign::HoleWhileSilent("192.0.2.99:9")]),
    (
        "source-port-direct",
        &[Sign::UdpFrom(6881, "74.125.250.129:19302"), Sign::UdpFrom(6881, "[2001:4860:4864:5:8000::1]:19302")],
    ),
    ("specific-route", &[Sign::UnboundTcp("93.184.215.14:443")]),
    ("tcp-443", &[Sign::BoundTcp("1.1.1.1:443")]),
    ("torrent-open", &[Sign::Served("172.18.0.10:6881")]),
    ("torrent-open-ipv6", &[Sign::Served("[2001:db8:18::10]:6881")]),
    ("torrent-published", &[Sign::PeerConnects("203.0.113.10:6881"), Sign::Served("172.18.0.10:6881")]),
    ("tracker-direct", &[Sign::UnboundUdp("93.158.213.92:1337"), Sign::UnboundTcp("93.158.213.92:1337")]),
    ("udp-all", &[Sign::UnboundUdp("74.125.250.129:19302"), Sign::UnboundUdp("10.64.0.1:53")]),
    ("udp-direct", &[Sign::UnboundUdp("74.125.250.129:19302"), Sign::UnboundUdp("[2001:4860:4864:5:8000::1]:19302")]),
    ("server-port", &[Sign::BoundUdp("8.8.8.8:51820"), Sign::BoundUdp("[2001:4860:4860::8888]:51820")]),
    ("udp-high", &[Sign::BoundUdp("192.0.2.99:6881"), Sign::BoundUdp("[2001:db8:99::9]:6881")]),
    ("user", &[Sign::User(1000, "8.8.8.8:9")]),
    ("user-route", &[Sign::UserUnbound(911, "8.8.8.8:9")]),
    ("v6-accept", &[Sign::BoundUdp("[2001:4860:4860::8888]:53"), Sign::BoundPing("2001:4860:4860::8888")]),
    ("v6-direct", &[Sign::Exit(true, "2001:db8:18::10")]),
    ("wrong-backend", &[Sign::BoundUdp("[2001:4860:4860::8888]:53"), Sign::BoundTcp("[2606:4700:4700::1111]:443")]),
    (
        "wrong-backend-open",
        &[Sign::BoundUdp("8.8.8.8:53"), Sign::BoundUdp("[2001:4860:4860::8888]:53"), Sign::BoundTcp("1.1.1.1:443")],
    ),
    ("two-dns-and-ipv6", &[Sign::BoundUdp("8.8.8.8:53"), Sign::BoundPing("2001:4860:4860::8888")]),
    (
        "two-route-and-hole",
        &[Sign::UnboundTcp("93.184.215.14:443"), Sign::Hole { to: "192.0.2.99:9", from: 0, within: 150, lasts: 120 }],
    ),
    ("two-resolver-and-mark", &[Sign::IspAsks(None, "example.com"), Sign::MarkedBound(0xca6c, "8.8.8.8:9")]),
    ("user-ipv6", &[Sign::User(1000, "[2001:4860:4860::8888]:9")]),
    ("marked-late", &[Sign::UnboundUdp("8.8.8.8:27015")]),
    ("private-network", &[Sign::BoundUdp("10.200.30.1:53")]),
    ("diverted-class", &[Sign::DivertedClass(0xb4, "8.8.8.8:27015", "172.18.0.1:27015")]),
    ("diverted-user", &[Sign::DivertedUser(1000, "8.8.8.8:53", "172.18.0.1:53")]),
    ("user-dns", &[Sign::User(1000, "8.8.8.8:53")]),
    ("tunnel-address", &[Sign::WhileDown(&Sign::FromAddress("10.64.0.2", "8.8.8.8:9"))]),
    ("user-while-down", &[Sign::WhileDown(&Sign::User(1000, "8.8.8.8:9"))]),
    ("short-packets", &[Sign::BoundUdp("8.8.8.8:6881"), Sign::BoundTcp("1.1.1.1:443")]),
    ("long-pings", &[Sign::LongPing(600, "8.8.8.8")]),
    ("long-while-down", &[Sign::WhileDown(&Sign::LongUdp("8.8.8.8:6881"))]),
    ("blink", &[Sign::Hole { to: "192.0.2.99:9", from: 295, within: 450, lasts: 60 }]),
    ("flapping", &[Sign::Hole { to: "192.0.2.99:9", from: 190, within: 1500, lasts: 1150 }]),
    ("silent-hole", &[Sign::BoundWhileSilent("192.0.2.99:9")]),
    ("reconnect-dns", &[Sign::BoundAtReturn("8.8.8.8:53")]),
    ("open-afterwards", &[Sign::Afterwards(&Sign::BoundUdp("8.8.8.8:9"))]),
    ("ipv6-afterwards", &[Sign::Afterwards(&Sign::BoundUdp("[2001:4860:4860::8888]:9"))]),
    ("route-afterwards", &[Sign::Afterwards(&Sign::UnboundTcp("93.184.215.14:443"))]),
    ("resolver-afterwards", &[Sign::Afterwards(&Sign::IspAsks(None, "example.com"))]),
    ("heals-when-tried", &[Sign::BoundUdp("8.8.8.8:6881")]),
    ("heals-by-itself", &[Sign::Unasked("239.192.152.143")]),
    ("answers-only", &[Sign::Answer(8080, "8.8.8.8:443"), Sign::Answer(8080, "[2001:4860:4860::8888]:443")]),
    ("quic", &[Sign::BoundUdp("8.8.8.8:443")]),
    ("ntp", &[Sign::BoundUdp("8.8.8.8:123")]),
    ("one-port", &[Sign::BoundTcp("1.1.1.1:28741")]),
    ("one-address", &[Sign::BoundTcp("151.101.65.69:443"), Sign::BoundUdp("151.101.65.69:9")]),
    ("dot-ipv6", &[Sign::BoundTcp("[2001:4860:4860::8888]:853")]),
    ("sctp", &[Sign::Protocol(132, "8.8.8.8")]),
    ("ipsec", &[Sign::Protocol(50, "8.8.8.8")]),
    ("mark-and-port", &[Sign::Dressed { mark: 0x51, class: 0, user: 0, to: "8.8.8.8:4500" }]),
    ("class-and-user", &[Sign::Dressed { mark: 0, class: 0x28, user: 1000, to: "8.8.8.8:9" }]),
    ("half-internet", &[Sign::UnboundUdp("192.0.2.99:9")]),
    ("resolver-ipv6", &[Sign::IspAsks(None, "example.com")]),
    ("wrong-exit", &[Sign::Exit(false, "198.19.0.3"), Sign::Exit(true, "2001:db8:bad::3")]),
];
