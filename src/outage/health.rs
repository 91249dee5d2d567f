//! Whether the tunnel works, by what witnesses see, and whether the namespace is at rest.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::Url;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::Tracker;
use crate::model::evidence::Said;
use crate::technique::{Context, asking_exits};

/// Time between a question for the exit that nobody answered and the next.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Age of the youngest question for the exit at which another one is asked beside it, and how many there are at most.
const ASK_BESIDE: Duration = Duration::from_millis(1000);
const MAX_ROUNDS: usize = 6;
/// Ports of witnesses that no setting names: DNS over TCP, the provider's own check, and what a VPN client asks for its new address.
const PORTS: [u16; 3] = [53, 80, 443];
/// How long the last packets of closed connections are waited for: so long that each may get lost several times.
const CLOSING_PATIENCE: Duration = Duration::from_secs(10);

/// What the witnesses said of the exit so far.
#[derive(Default)]
pub(super) struct Proof {
    /// When one saw an exit that is not home, in milliseconds since the start of the run.
    pub(super) proven_ms: Cell<Option<f64>>,
    /// Whether anyone saw any exit.
    heard: Cell<bool>,
}

/// Asks all witnesses once, and notes what each says as soon as it does. Every question is let come to its end: a connection that is given
/// up half-way lives on, and would speak again while the tunnel is down.
async fn ask_witnesses(cx: &Context, home: &[IpAddr], proof: &Proof) {
    let Ok(asked) = asking_exits(cx) else { return };
    let mut asked = std::pin::pin!(asked);
    while let Some(answer) = asked.next().await {
        if let Said::Exit { ip, of_provider } = &answer.said {
            proof.heard.set(true);
            if *of_provider != Some(false) && !home.contains(ip) && proof.proven_ms.get().is_none() {
                proof.proven_ms.set(Some(cx.clock.now_ms()));
            }
        }
    }
}

/// Whether a witness sees an exit that is not home. What gets lost is asked again; an answer that shows another exit is not.
pub(super) async fn healthy(cx: &Context, home: &[IpAddr]) -> bool {
    let proof = Proof::default();
    loop {
        ask_witnesses(cx, home, &proof).await;
        if proof.heard.get() {
            return proof.proven_ms.get().is_some();
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Waits until the exit is proven, and then for the questions that are still on their way. Those that were asked too early are lost with
/// the tunnel, and those of a long way need their time: so new ones are asked beside the old.
pub(super) async fn until_healthy(cx: &Context, home: &[IpAddr], proof: &Proof) {
    let mut rounds = FuturesUnordered::new();
    rounds.push(ask_witnesses(cx, home, proof));
    let mut begun = Instant::now();
    loop {
        let more = proof.proven_ms.get().is_none() && rounds.len() < MAX_ROUNDS;
        tokio::select! {
            Some(()) = rounds.next() => {
                if !rounds.is_empty() {
                    continue;
                }
                if proof.proven_ms.get().is_some() {
                    return;
                }
                sleep(ASK_AGAIN).await;
            }
            () = sleep_until(begun + ASK_BESIDE), if more => if proof.proven_ms.get().is_some() {
                continue;
            }
        }
        rounds.push(ask_witnesses(cx, home, proof));
        begun = Instant::now();
    }
}

/// Waits until the connections that were just closed are gone, a little while at most: their last packets, sent again after the tunnel
/// went, would be a leak of our own making where the firewall lets established connections pass.
pub(super) async fn let_connections_end(cx: &Context) {
    let ports = witness_ports(cx);
    let until = Instant::now() + CLOSING_PATIENCE;
    while Instant::now() < until && connections_are_ending(&ports) {
        sleep(Duration::from_millis(10)).await;
    }
}

/// The ports to which connections are made before an outage.
fn witness_ports(cx: &Context) -> BTreeSet<u16> {
    let web = cx.setup.echo_http.iter().filter_map(|url| Url::parse(url).ok()?.port_or_known_default());
    let trackers = cx.setup.echo_tracker.iter().filter_map(|tracker| match tracker {
        Tracker::Http(url) => url.port_or_known_default(),
        Tracker::Udp(_) => None,
    });
    web.chain(trackers).chain(PORTS).collect()
}

/// Whether a connection to one of `ports` that no process owns any more still waits for an acknowledgement (proc_net_tcp). Those of the
/// stack's own programs come and go all the time, to other ports for the most part.
fn connections_are_ending(ports: &BTreeSet<u16>) -> bool {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .any(|file| is_ending(&std::fs::read_to_string(file).unwrap_or_default(), ports))
}

fn is_ending(table: &str, ports: &BTreeSet<u16>) -> bool {
    const FIN_WAIT1: &str = "04";
    const LAST_ACK: &str = "09";
    const CLOSING: &str = "0B";
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(2);
        let port = words.next().and_then(|remote| u16::from_str_radix(remote.rsplit(':').next()?, 16).ok());
        let ending = words.next().is_some_and(|state| [FIN_WAIT1, LAST_ACK, CLOSING].contains(&state));
        ending && port.is_some_and(|port| ports.contains(&port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_to_witnesses_that_are_ending_are_waited_for() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
            \x20  0: 0200400A:A3D2 E9DF532D:01BB 04 00000000:00000000\n\
            \x20  1: 0200400A:A3D3 E9DF532D:1AE1 04 00000000:00000000\n\
            \x20  2: 0200400A:A3D4 E9DF532D:0050 01 00000000:00000000\n\
            nonsense\n";
        assert!(is_ending(table, &[443].into()));
        assert!(is_ending(table, &[6881].into()));
        assert!(!is_ending(table, &[80, 53].into()), "it is established, or there is none");
        assert!(!is_ending("", &[443].into()));
    }
}
