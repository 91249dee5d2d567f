//! The shared access to the kernel: what is listed, changed, compared and restored.

use super::tools::{exit, in_stack};
use anyhow::{Context, Result, bail, ensure};
use leakcheck::lab::{Lab, LabSpec, PrivateDir};
use leakcheck::net::netns::Netns;
use leakcheck::net::nft::{Batch, Chain, HookPoint, Match, Nft, Policy, Rule, Table, TableFamily, Verdict, state};
use leakcheck::net::route::{Family, RouteSpec, Rtnetlink, Snapshot, restore_link};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

pub const TRIALS: &[(&str, crate::Body)] = &[
    ("kernel::tunnel_is_restored", tunnel_is_restored),
    ("kernel::uplink_is_restored", uplink_is_restored),
    ("kernel::every_match_and_verdict", every_match_and_verdict),
    ("kernel::owned_table_goes_with_its_socket", owned_table_goes_with_its_socket),
    ("kernel::refused_step_is_named", refused_step_is_named),
    ("kernel::ruleset_is_compared", ruleset_is_compared),
    ("kernel::namespaces_are_told_apart", namespaces_are_told_apart),
    ("kernel::sigkill_leaves_nothing", sigkill_leaves_nothing),
];

/// Takes a link of the stack down, checks that this lost something, restores it, and compares.
fn down_and_restored(link: &'static str) -> Result<()> {
    let before = Snapshot::take()?;
    // The journal of an outage is text on disk.
    let before: Snapshot = serde_json::from_str(&serde_json::to_string(&before)?)?;
    Rtnetlink::open()?.set_link(link, false)?;
    let lost = before.diff(&Snapshot::take()?);
    ensure!(lost.iter().any(|line| line.starts_with("- route")), "taking {link} down lost no route: {lost:?}");
    let report = restore_link(&before, link)?;
    ensure!(report.failed.is_empty() && !report.restored.is_empty(), "{report:?}");
    let after = before.diff(&Snapshot::take()?);
    ensure!(after.is_empty(), "restored, but: {after:#?}");
    ensure!(restore_link(&before, link)?.restored.is_empty(), "restoring twice did something");
    Ok(())
}

fn tunnel_is_restored(world: PrivateDir) -> Result<()> {
    let lab = Lab::start(&world, LabSpec::sealed())?;
    exit(&lab, false)?;
    in_stack(&lab, || down_and_restored("tun0"))??;
    ensure!(exit(&lab, false)?.to_string() == "198.51.100.3", "the restored tunnel does not work");
    ensure!(exit(&lab, true)?.to_string() == "2001:db8:51::3", "the restored tunnel does not carry IPv6");
    Ok(())
}

fn uplink_is_restored(world: PrivateDir) -> Result<()> {
    let lab = Lab::start(&world, LabSpec::sealed())?;
    in_stack(&lab, || -> Result<()> {
        let mut netlink = Rtnetlink::open()?;
        // What a simpler restore would get wrong: a second default beside the first, a gateway behind a gateway.
        let net = |text: &str| -> Result<ipnet::IpNet> { Ok(text.parse()?) };
        netlink.add_route(&RouteSpec::via(net("10.9.0.0/16")?, "172.18.0.7".parse()?).dev("eth0"))?;
        netlink.add_route(&RouteSpec::via(net("10.8.0.0/16")?, "172.18.0.8".parse()?).dev("eth0").table(777))?;
        netlink.add_route(&RouteSpec::via(net("2001:db8:aa::/48")?, "fd18::7".parse()?).dev("eth0").table(777))?;
        down_and_restored("eth0")
    })??;
    ensure!(exit(&lab, false)?.to_string() == "198.51.100.3", "the restored uplink does not work");
    ensure!(exit(&lab, true)?.to_string() == "2001:db8:51::3", "the restored uplink does not work");
    Ok(())
}

fn send(port: u16, length: usize) -> std::io::Result<usize> {
    UdpSocket::bind("127.0.0.1:4000")
        .or_else(|_| UdpSocket::bind("127.0.0.1:0"))
        .and_then(|socket| socket.send_to(&vec![0; length], ("127.0.0.1", port)))
}

/// Each condition drops what it matches and nothing else.
fn every_match_and_verdict(_: PrivateDir) -> Result<()> {
    Rtnetlink::open()?.set_link("lo", true)?;
    let mut nft = Nft::open()?;
    let net = |text: &str| -> Result<ipnet::IpNet> { Ok(text.parse()?) };
    let udp = || Match::Protocol(17);
    let cases: Vec<(&str, Vec<Match>, bool)> = vec![
        ("oif", vec![Match::Output("lo".into())], true),
        ("oif other", vec![Match::Output("lo0".into())], false),
        ("saddr", vec![Match::Source(net("127.0.0.0/8")?)], true),
        ("daddr host", vec![Match::Destination(net("127.0.0.1/32")?)], true),
        ("daddr other", vec![Match::Destination(net("127.0.1.0/24")?)], false),
        ("daddr v6", vec![Match::Destination(net("::1/128")?)], false),
        ("proto", vec![udp()], true),
        ("proto other", vec![Match::Protocol(6)], false),
        ("dport", vec![udp(), Match::DestinationPorts(5353, 5353)], true),
        ("dport range", vec![udp(), Match::DestinationPorts(5000, 6000)], true),
        ("dport off", vec![udp(), Match::DestinationPorts(256, 5352)], false),
        ("sport", vec![udp(), Match::SourcePorts(4000, 4000)], true),
        ("sport off", vec![udp(), Match::SourcePorts(4001, 4001)], false),
        ("state", vec![Match::State(state::NEW)], true),
        ("state off", vec![Match::State(state::ESTABLISHED | state::RELATED)], false),
        ("mark", vec![Match::Mark(0)], true),
        ("mark off", vec![Match::Mark(1)], false),
        ("not mark", vec![Match::NotMark(1)], true),
        ("not from its link", vec![Match::NotFromItsLink], false),
        ("user", vec![Match::User(0)], true),
        ("user off", vec![Match::User(1)], false),
        ("length", vec![Match::Length(100, 300)], true),
        ("length off", vec![Match::Length(1, 99)], false),
        ("length above", vec![Match::Length(257, 65535)], false),
    ];
    for family in [TableFamily::Inet, TableFamily::Ip] {
        for (name, matches, expected) in &cases {
            if *name == "daddr v6" && family == TableFamily::Ip {
                continue;
            }
            for verdict in [Verdict::Drop, Verdict::Reject] {
                let table = Table::new(family, "trial");
                let mut batch = Batch::new();
                batch.add_table(&table);
                batch.add_chain(&table, &Chain::filter("out", HookPoint::Output, Policy::Accept));
                let mut rule = Rule::new(verdict).counted().comment("trial");
                rule.matches.clone_from(matches);
                batch.append_rule(&table, "out", &rule);
                nft.commit(batch).with_context(|| format!("{name} {family:?}"))?;
                // 228 and 28 octets of headers make 256.
                let refused = send(5353, 228).is_err_and(|e| e.raw_os_error() == Some(libc::EPERM));
                let mut batch = Batch::new();
                batch.delete_table(&table);
                nft.commit(batch)?;
                ensure!(refused == *expected, "{name} {family:?} {verdict:?}: refused {refused}");
            }
        }
    }
    ensure!(send(5353, 228).is_ok(), "something was left behind");
    Ok(())
}

fn owned_table_goes_with_its_socket(_: PrivateDir) -> Result<()> {
    Rtnetlink::open()?.set_link("lo", true)?;
    let table = Table::new(TableFamily::Inet, "owned");
    let before = Nft::open()?.ruleset()?;
    let mut owner = Nft::open()?;
    let mut batch = Batch::new();
    batch.add_owned_table(&table);
    batch.add_chain(&table, &Chain::filter("out", HookPoint::Output, Policy::Drop));
    owner.commit(batch)?;
    ensure!(send(9, 1).is_err(), "the owned table does not work");
    ensure!(!before.diff(&Nft::open()?.ruleset()?).is_empty());
    let mut batch = Batch::new();
    batch.delete_table(&table);
    ensure!(Nft::open()?.commit(batch).is_err(), "another socket could remove it");
    drop(owner);
    ensure!(send(9, 1).is_ok(), "the owned table outlived its socket");
    let left = before.diff(&Nft::open()?.ruleset()?);
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

fn refused_step_is_named(_: PrivateDir) -> Result<()> {
    let table = Table::new(TableFamily::Ip, "atomic");
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.append_rule(&table, "nowhere", &Rule::new(Verdict::Accept));
    let Err(error) = Nft::open()?.commit(batch) else { bail!("a rule in no chain was accepted") };
    ensure!(error.to_string().contains("nowhere") && error.errno() == Some(libc::ENOENT), "{error:?}");
    ensure!(Nft::open()?.ruleset()?.lines().is_empty(), "half of a batch was applied");
    Ok(())
}

fn ruleset_is_compared(_: PrivateDir) -> Result<()> {
    Rtnetlink::open()?.set_link("lo", true)?;
    let mut nft = Nft::open()?;
    let table = Table::new(TableFamily::Ip, "filter");
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, &Chain::filter("OUTPUT", HookPoint::Output, Policy::Drop));
    batch.append_rule(&table, "OUTPUT", &Rule::new(Verdict::Accept).when(Match::Output("lo".into())).counted());
    nft.commit(batch)?;
    let before = nft.ruleset()?;
    send(9, 1)?;
    ensure!(before.diff(&nft.ruleset()?).is_empty(), "a counter counts as a change");
    let mut batch = Batch::new();
    batch.set_policy(&table, "OUTPUT", Policy::Accept);
    nft.commit(batch)?;
    ensure!(!before.diff(&nft.ruleset()?).is_empty(), "a changed policy is no change");
    let mut batch = Batch::new();
    batch.set_policy(&table, "OUTPUT", Policy::Drop);
    batch.insert_rule(&table, "OUTPUT", &Rule::new(Verdict::Drop).when(Match::Mark(7)).comment("mine"));
    nft.commit(batch)?;
    let with_rule = nft.ruleset()?;
    ensure!(before.diff(&with_rule).len() == 1, "{:?}", before.diff(&with_rule));
    let rules = nft.rules(&table, "OUTPUT")?;
    let mine = rules.iter().find(|rule| rule.comment.as_deref() == Some("mine")).context("the rule is not listed")?;
    let mut batch = Batch::new();
    batch.delete_rule(&table, "OUTPUT", mine.handle);
    nft.commit(batch)?;
    let left = before.diff(&nft.ruleset()?);
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

fn namespaces_are_told_apart(_: PrivateDir) -> Result<()> {
    let (here, other) = (Netns::current()?, Netns::create()?);
    ensure!(here.inode()? != other.inode()?);
    ensure!(here.inode()? == Netns::open(here.path())?.inode()?);
    ensure!(here.inode()? == Netns::of_pid(std::process::id())?.inode()?);
    let seen = leakcheck::net::netns::run_in(&other, "trial", || Netns::current().and_then(|netns| netns.inode()))??;
    ensure!(seen == other.inode()?, "the thread is elsewhere");
    let links = leakcheck::net::netns::run_in(&other, "trial", Snapshot::take)??.links;
    ensure!(links.len() == 1 && links[0].is_loopback() && !links[0].is_up(), "{links:?}");
    Rtnetlink::open()?.add_veth("a", "b", &other)?;
    let peer = leakcheck::net::netns::run_in(&other, "trial", Snapshot::take)??;
    ensure!(peer.link("b").is_some_and(|link| link.kind.as_deref() == Some("veth")), "{peer:?}");
    ensure!(Family::of("::1".parse()?) == Family::V6);
    Ok(())
}

/// A second process starts a lab and is killed; afterwards nothing on the machine holds one of its namespaces.
/// A process that is in one of these network namespaces.
fn inside(inodes: &[u64]) -> Result<Option<String>> {
    let mut entries = std::fs::read_dir("/proc")?.flatten();
    Ok(entries.find_map(|entry| {
        let netns = std::fs::read_link(entry.path().join("ns/net")).ok()?.display().to_string();
        let is_there = inodes.iter().any(|inode| netns == format!("net:[{inode}]"));
        is_there.then(|| format!("{} in {netns}", entry.path().display()))
    }))
}

fn sigkill_leaves_nothing(_: PrivateDir) -> Result<()> {
    use std::io::{BufRead, BufReader};
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .env("LEAKCHECK_LAB_TRIAL", "sealed::waits_to_be_killed")
        .env("LEAKCHECK_LAB_WAIT", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    let inodes: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(inodes.len() == 7, "the lab has these namespaces: {line}");
    let directory = std::env::temp_dir();
    let files = || -> Result<usize> { Ok(std::fs::read_dir(&directory)?.count()) };
    let before = files()?;
    child.kill()?;
    child.wait()?;
    ensure!(files()? <= before, "files were left in {}", directory.display());
    // What it had started the kernel ends after it (PR_SET_PDEATHSIG), when it comes to that.
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Some(left) = inside(&inodes)? {
        ensure!(Instant::now() < deadline, "{left} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(mounts.matches(" - tmpfs leakcheck ").count() <= 1, "a mount was left: {mounts}");
    Ok(())
}
