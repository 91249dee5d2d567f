//! Packet marks (SO_MARK) that could be a way past the tunnel: those that the stack's own rules name, those that VPN programs use, and
//! each single bit, for rules that look at one.

use std::collections::BTreeMap;

use crate::net::nft::Nft;
use crate::net::route::Snapshot;

/// wg-quick and Gluetun (51820), Mullvad, NordVPN, Tailscale (two), small numbers that are written by hand.
const KNOWN: [u32; 9] = [0xca6c, 0x6d6f_6c65, 0xe1f1, 0x8_0000, 0x4_0000, 1, 2, 100, 200];

/// Every mark that is worth a try, and whether it is worth many.
pub fn all(named: &[u32]) -> Vec<(u32, bool)> {
    let mut marks: BTreeMap<u32, bool> = (0..u32::BITS).map(|bit| (1 << bit, false)).collect();
    marks.insert(u32::MAX, false);
    marks.extend(KNOWN.map(|mark| (mark, false)));
    marks.extend([(KNOWN[0], true)]);
    marks.extend(named.iter().filter(|mark| **mark != 0).map(|mark| (*mark, true)));
    marks.into_iter().collect()
}

/// Marks that policy rules and firewall rules of this namespace look for.
///
/// # Errors
/// When the policy rules cannot be read. A firewall that cannot be read (iptables-legacy, or no capability) names none.
pub fn named() -> Result<Vec<u32>, String> {
    let snapshot = Snapshot::take().map_err(|error| format!("the marks of policy rules could not be read: {error}"))?;
    let mut marks: Vec<u32> = snapshot.rules.iter().filter_map(|rule| rule.mark).collect();
    if let Ok(rules) = Nft::open().and_then(|mut nft| nft.ruleset()) {
        marks.extend(rules.marks());
    }
    marks.sort_unstable();
    marks.dedup();
    // A set of rules made by a machine can hold thousands.
    marks.truncate(16);
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_that_rules_name_are_tried_often_and_none_twice() {
        let marks = all(&[0x1234, 1, 0]);
        assert!(marks.contains(&(0x1234, true)) && marks.contains(&(1, true)) && marks.contains(&(2, false)));
        assert!(marks.contains(&(0xca6c, true)) && marks.iter().all(|(mark, _)| *mark != 0));
        assert!(marks.windows(2).all(|pair| pair[0].0 != pair[1].0));
    }
}
