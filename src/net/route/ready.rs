//! Waiting for what the kernel does a moment after it was asked: a link that is up carries packets only once the kernel's
//! link watcher has run (up to a second for a bridge), and an IPv6 address works once its local route is there.

use super::{RouteError, Snapshot};
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_micros(500);
const IFF_RUNNING: u32 = 0x40;
const LOCAL_TABLE: u32 = 255;

/// Waits until the links `names` of the calling thread's namespace carry packets and answer under all their addresses.
///
/// # Errors
/// When the time is over, or the state cannot be read.
pub fn wait_ready(names: &[&str], limit: Duration) -> Result<(), RouteError> {
    let begun = Instant::now();
    loop {
        let now = Snapshot::take()?;
        let Some(missing) = names.iter().find(|name| !ready(&now, name)) else { return Ok(()) };
        if begun.elapsed() > limit {
            return Err(RouteError::NotReady((*missing).to_owned()));
        }
        std::thread::sleep(PAUSE);
    }
}

fn ready(now: &Snapshot, name: &str) -> bool {
    let Some(link) = now.link(name).filter(|link| link.flags & IFF_RUNNING != 0) else { return false };
    let own = now.addresses.iter().filter(|address| address.link == link.index && address.address.addr().is_ipv6());
    own.map(|address| address.address.addr()).all(|ip| {
        let local = |route: &super::Route| route.table == LOCAL_TABLE && route.destination.addr() == ip;
        now.routes.iter().any(local)
    })
}
