//! What the agent does in a namespace whose stack is still coming up: it plays the program that joined at once, waits for the tunnel, and
//! says by which links of the host the namespace is reached.

use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use pnet::datalink::NetworkInterface;
use tokio::time::{Instant, sleep};

use super::protocol::{Stimulation, Stimuli};
use crate::outage::Early;

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Begins to send by every link that is there, but for the tunnel and the loopback.
///
/// # Errors
/// Why nothing is sent.
pub(super) fn stimulate(order: &Stimulation) -> Result<Early, String> {
    let uplinks: Vec<String> = crate::net::interfaces()
        .into_iter()
        .filter(|link| !link.is_loopback() && Some(&link.name) != order.tunnel.as_ref())
        .map(|link| link.name)
        .collect();
    Early::start(order, &uplinks).map_err(|error| format!("its thread could not be started: {error}"))
}

/// Ends it, and looks for the other ends of the links.
pub(super) async fn finish(early: Option<Early>, tunnel: Option<&str>) -> Result<Stimuli, String> {
    let stimuli = match early.map(|early| tokio::task::spawn_blocking(|| early.finish())) {
        Some(ending) => ending.await.map_err(|error| error.to_string())?,
        None => Stimuli::default(),
    };
    let peers =
        peers(tunnel).await.map_err(|error| format!("the links' other ends could not be asked for: {error}"))?;
    Ok(Stimuli { peers, ..stimuli })
}

/// Waits until a link of this name is up, and tells whether it is within `limit`.
pub(super) async fn await_tunnel(name: &str, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let up = |link: &NetworkInterface| link.name == name && link.is_up();
    while !crate::net::interfaces().iter().any(up) {
        if Instant::now() >= end {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
    true
}

/// Each uplink, and the index of its other end in the namespace where that is: IFLA_LINK of rtnetlink(7). 0: it is up and has none.
async fn peers(tunnel: Option<&str>) -> Result<Vec<(String, u32)>, rtnetlink::Error> {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else { return Ok(Vec::new()) };
    let connection = tokio::task::spawn_local(connection);
    let mut links = handle.link().get().execute();
    let mut found = Vec::new();
    while let Some(link) = links.try_next().await? {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        let peer = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        });
        let flags = link.header.flags;
        let peer = peer.or((flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback)).then_some(0));
        if let (Some(name), Some(peer)) = (name, peer)
            && Some(name.as_str()) != tunnel
        {
            found.push((name, peer));
        }
    }
    connection.abort();
    Ok(found)
}
