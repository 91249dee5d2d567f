//! Threat: a tracker hands the address that it sees to everybody who asks for the same torrent.
//! Procedure: a torrent that does not exist is announced to each configured tracker. Over HTTP the answer names the announcer's address
//! (BEP 24) or lists it as a peer; over UDP (BEP 15) it lists it, asked from a port of the kernel's choice and from the torrent client's
//! where it can be bound.
//! Limits: public trackers mostly say neither, so that none is asked unless it is configured.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use reqwest::Url;
use serde_json::Value;

use super::format::announce::{Announcement, connect, connection};
use super::heard::{confirm, note_taken};
use super::udp::{Line, Witness, ask_witness};
use super::{Context, NoParams, Technique, Work, http, names, read};
use crate::config::Tracker;
use crate::model::evidence::{Evidence, Said};

const PATIENCE: Duration = Duration::from_secs(5);
/// The port that an announcement over HTTP claims.
const CLAIMED: std::ops::Range<u16> = 20_000..60_000;

/// See the head of this file.
pub struct ExitTracker;

impl Technique for ExitTracker {
    fn name(&self) -> &'static str {
        "exit-tracker"
    }

    fn check(&self, params: &Value) -> Result<(), String> {
        read::<NoParams>(params).map(drop)
    }

    fn run<'a>(&'a self, cx: &'a Context, trial: Arc<str>, _params: Value) -> Work<'a> {
        Box::pin(async move { hear(cx, &trial).await })
    }
}

/// What the trackers say in this phase.
pub(super) async fn hear(cx: &Context, trial: &Arc<str>) -> Evidence {
    cx.heard.now().tracker.get_or_init(|| ask(cx, trial)).await.clone()
}

async fn ask(cx: &Context, trial: &Arc<str>) -> Evidence {
    let from_ms = cx.clock.now_ms();
    if cx.setup.echo_tracker.is_empty() {
        return Evidence::unasked(from_ms, "no tracker is configured (echo.tracker)");
    }
    let phase = cx.heard.now();
    let ports = phase.source_ports(cx).await;
    let asked = cx.setup.echo_tracker.iter().map(|tracker| async move {
        match tracker {
            Tracker::Http(url) => over_http(cx, &tracker.to_string(), url).await,
            Tracker::Udp(at) => {
                let witness = Witness { kind: "UDP tracker", host: &at.host, port: at.port };
                ask_witness(cx, trial, &witness, &ports.usable, over_udp).await
            }
        }
    });
    let mut evidence = Evidence::gather(from_ms, join_all(asked).await);
    if cx.setup.echo_tracker.iter().any(|tracker| matches!(tracker, Tracker::Udp(_))) {
        note_taken(cx, ports, &mut evidence.answers);
    }
    confirm(cx, &mut evidence.answers).await;
    evidence.to_ms = cx.clock.now_ms();
    evidence
}

fn announcement(port: u16) -> Announcement {
    let mut peer = *b"-LK0100-............";
    peer[8..].fill_with(|| rand::random_range(b'a'..=b'z'));
    Announcement { torrent: rand::random(), peer, port }
}

async fn over_udp(line: &mut Line) -> Result<IpAddr, String> {
    let (announcement, v6) = (announcement(line.port), line.v6);
    let (first, second) = (rand::random(), rand::random());
    let connection = line.ask(&[&connect(first)], |octets| connection(octets, first)).await?;
    let datagram = announcement.datagram(connection, second);
    line.ask(&[&datagram], |octets| announcement.answer_datagram(octets, second, v6)).await
}

/// `shown` is the tracker without its path, which may hold the owner's key.
async fn over_http(cx: &Context, shown: &str, url: &Url) -> Evidence {
    let mut evidence = Evidence::default();
    let (servers, _) = names::nameservers(&cx.setup.resolv_conf);
    let addresses = match names::addresses(&servers, url.host_str().unwrap_or_default()).await {
        Ok(addresses) => addresses,
        Err(error) => {
            let error = format!("its name could not be resolved: {error}");
            evidence.answers.push(cx.answer(shown, Said::Nothing { error }));
            return evidence;
        }
    };
    let one = |address: Option<&IpAddr>, family: &'static str| {
        let address = address.copied();
        async move {
            let said = match announce(cx, url, address?).await {
                Ok(ip) => Said::Exit { ip: ip.to_canonical(), of_provider: None },
                Err(error) => Said::Nothing { error },
            };
            Some(cx.answer(format!("{shown} ({family})"), said))
        }
    };
    let v4 = one(addresses.iter().find(|address| address.is_ipv4()), "IPv4");
    let v6 = one(addresses.iter().find(|address| address.is_ipv6()), "IPv6");
    let (v4, v6) = join(v4, v6).await;
    evidence.answers.extend(v4.into_iter().chain(v6));
    evidence
}

async fn announce(cx: &Context, url: &Url, address: IpAddr) -> Result<IpAddr, String> {
    let tls = http::trust(cx.setup.extra_ca.as_deref())?;
    let announcement = announcement(rand::random_range(CLAIMED));
    let mut url = url.clone();
    let query = match url.query() {
        Some(own) if !own.is_empty() => format!("{own}&{}", announcement.query()),
        _ => announcement.query(),
    };
    url.set_query(Some(&query));
    match http::ask(&tls, &url, address, PATIENCE, "text/plain, */*").await? {
        (200, body) => announcement.answer(&body),
        (status, _) => Err(format!("it answered with HTTP status {status}")),
    }
}
