//! What the container engine tells of the stack, and what its control server tells somebody who stands on its networks. Both are asked from
//! outside of the namespace; what they mean is for the judge.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::container::Around;
use super::inbound::is_attached;
use super::session::Session;
use crate::agent::protocol::{Reply, Request};
use crate::model::evidence::{Answer, Evidence, INSIDE, Said, StackAccount};
use crate::target::Target;
use crate::technique::{ask_as_stranger, status_route};

/// Who told, in the evidence.
const ENGINE: &str = "the container engine";
/// At so many of the stack's addresses the control server is asked, each by a container in turn; few stacks are on more than two networks.
const MAX_ADDRESSES: usize = 8;

/// Asks the engine.
pub(super) async fn account(target: &Target, now_ms: impl Fn() -> f64) -> Evidence {
    let from_ms = now_ms();
    let mut evidence = Evidence { from_ms, ..Evidence::default() };
    match target.account().await {
        None => return Evidence::unasked(from_ms, "the target is no container"),
        Some(Ok(account)) => {
            let said = Said::Account(Box::new(account));
            evidence.answers.push(Answer { at_ms: now_ms(), witness: ENGINE.to_owned(), said });
        }
        Some(Err(error)) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            evidence.problems.push(format!("failed to {error}{cause}"));
        }
    }
    evidence.to_ms = now_ms();
    evidence
}

/// Asks the control server at each of the stack's addresses, without a key: from here where leakcheck is on that network too, else from a
/// container that is put there for it. `uplinks` are the stack's addresses on its uplinks.
pub(super) fn ask_control(
    session: &Session,
    around: &Around,
    uplinks: &[IpNet],
    evidence: &mut Evidence,
    now_ms: impl Fn() -> f64,
) {
    let account = evidence.answers.iter().find_map(|answer| match &answer.said {
        Said::Account(account) => Some(account.clone()),
        _ => None,
    });
    let (Some(account), Some(gluetun)) = (account, &around.target.gluetun) else { return };
    let port = gluetun.control_port;
    let addresses: Vec<IpAddr> = uplinks.iter().map(IpNet::addr).filter(|ip| !is_link_local(*ip)).collect();
    let from_ms = now_ms();
    match ask_inside(session, &addresses, port, &now_ms) {
        Ok(answers) => evidence
            .parts
            .push((INSIDE.to_owned(), Evidence { from_ms, to_ms: now_ms(), answers, ..Evidence::default() })),
        Err(why) => evidence.problems.push(format!("the control server was not asked from inside of the stack: {why}")),
    }
    let (asked, left) = addresses.split_at(addresses.len().min(MAX_ADDRESSES));
    if !left.is_empty() {
        let left = left.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        evidence
            .problems
            .push(format!("more than {MAX_ADDRESSES} addresses are too many to ask at: not asked at {left}"));
    }
    for ip in asked {
        let (ip, at) = (*ip, SocketAddr::new(*ip, port));
        let said = if is_attached(ip) {
            Ok(session.block_on(ask_as_stranger(at)))
        } else {
            ask_beside(session, around, &account, at)
        };
        match said {
            Ok(said) => evidence.answers.push(Answer { at_ms: now_ms(), witness: status_route(at), said }),
            Err(why) => evidence.problems.push(format!("{} was not asked: {why}", status_route(at))),
        }
    }
    evidence.to_ms = now_ms();
}

/// What the stack itself is answered on that port, on its loopback or at the first of its addresses where somebody does: a server that was
/// heard there is one that strangers may find closed.
fn ask_inside(
    session: &Session,
    addresses: &[IpAddr],
    port: u16,
    now_ms: impl Fn() -> f64,
) -> Result<Vec<Answer>, String> {
    let mut answers = Vec::new();
    for ip in std::iter::once(IpAddr::from(Ipv4Addr::LOCALHOST)).chain(addresses.iter().copied()) {
        let at = SocketAddr::new(ip, port);
        let said = match session.request(Request::AskControl { at })? {
            Reply::Said(said) => *said,
            Reply::Failed { what, .. } => return Err(what),
            _ => return Err("the agent gave an answer that does not fit".to_owned()),
        };
        let heard = matches!(said, Said::Control { .. });
        answers.push(Answer { at_ms: now_ms(), witness: status_route(at), said });
        if heard {
            break;
        }
    }
    Ok(answers)
}

/// From a container of leakcheck's own on the network that `at` is on.
fn ask_beside(session: &Session, around: &Around, account: &StackAccount, at: SocketAddr) -> Result<Said, String> {
    let on = account.networks.iter().find(|network| network.subnets.iter().any(|net| net.contains(&at.ip())));
    let network = on.ok_or("Docker knows no network that has this address")?;
    let launched = session.block_on(around.target.launch_beside(&network.name));
    let process = launched.map_err(|error| format!("failed to {error}"))?;
    let neighbour = Arc::new(Session::open(&around.handle, process, around.deadline));
    let answer = neighbour.request(Request::AskControl { at });
    let ended = neighbour.end();
    match answer? {
        Reply::Said(said) => ended.map(|()| *said),
        Reply::Failed { what, .. } => Err(what),
        _ => Err("the agent gave an answer that does not fit".to_owned()),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
