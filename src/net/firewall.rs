//! The firewall of the calling thread's network namespace, in the tables of nftables and of iptables-legacy, as text.

use super::legacy;
use super::nft::Nft;
use crate::handicap::{Handicap, lacks};
use crate::model::firewall::{Does, FirewallText};

/// The text, as far as it can be read. `read_ms` is the time of the run.
pub fn text(read_ms: f64) -> FirewallText {
    if lacks(Handicap::Firewall) {
        return FirewallText { read_ms, ..FirewallText::default() };
    }
    let legacy::Read { mut chains, mut diverting, mut through, mut problems } = legacy::chains();
    match Nft::open().and_then(|mut nft| nft.chains()) {
        Ok(found) => {
            chains.extend(found.chains);
            through.extend(found.through);
            diverting.extend(found.diverting);
        }
        Err(error) => problems.push(format!("nftables: failed to {error}")),
    }
    // Where one is called, some of the rules of called chains may be for what goes through.
    if through.iter().any(|rule| matches!(rule.does, Does::Jump(_) | Does::Goto(_))) {
        let called = chains.iter().filter(|chain| chain.hook.is_none()).flat_map(|chain| &chain.rules);
        through.extend(called.filter(|rule| rule.may_accept()).cloned());
    }
    FirewallText { read_ms, chains, diverting, through, problems }
}

/// By which the kernel counts the changes of nftables' rules in a namespace; `None` where it does not tell.
pub fn generation() -> Option<u32> {
    Nft::open().and_then(|mut nft| nft.generation()).ok()
}
