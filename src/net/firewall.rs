//! The firewall of the calling thread's network namespace, in the tables of nftables and of iptables-legacy, as text.

use super::legacy;
use super::nft::Nft;
use crate::handicap::{Handicap, lacks};
use crate::model::firewall::FirewallText;

/// The text, as far as it can be read. `read_ms` is the time of the run.
pub fn text(read_ms: f64) -> FirewallText {
    if lacks(Handicap::Firewall) {
        return FirewallText { read_ms, ..FirewallText::default() };
    }
    let (mut chains, mut problems) = legacy::chains();
    let mut diverting = Vec::new();
    match Nft::open().and_then(|mut nft| nft.chains()) {
        Ok((found, elsewhere)) => {
            chains.extend(found);
            diverting = elsewhere;
        }
        Err(error) => problems.push(format!("nftables: failed to {error}")),
    }
    FirewallText { read_ms, chains, diverting, problems }
}

/// By which the kernel counts the changes of nftables' rules in a namespace; `None` where it does not tell.
pub fn generation() -> Option<u32> {
    Nft::open().and_then(|mut nft| nft.generation()).ok()
}
