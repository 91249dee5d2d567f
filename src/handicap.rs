//! What a run of the built-in lab can be made to go without, so that a test can see that no verdict outlives the evidence that it rests on.
//! Each is taken away where the real thing happens, silently, as a fault would. Without the feature `lab` nothing can be taken away.

use serde::{Deserialize, Serialize};

/// Something that verdicts may rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "lab", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Handicap {
    /// Marked packets are recorded as sent, and the kernel is handed none.
    Stimuli,
    /// The sensor's control frames are recorded as sent, and the kernel is handed none.
    Controls,
    /// The sensor takes no frame but those of the tunnel.
    Sensor,
    /// The sensor takes no frame of the tunnel.
    Tunnel,
    /// What witnesses, resolvers, files and the kernel say is lost on the way into evidence.
    Answers,
    /// What is asked from outside of the stack gets no answer.
    Outside,
    /// Nobody watches what comes in by the uplinks.
    Arrivals,
    /// /proc shows no process.
    Proc,
    /// The kernel's tables show no socket.
    Sockets,
    /// The kernel's tables show no rule and no route.
    Routes,
    /// The kernel, asked for the way to an address, knows none.
    Lookups,
    /// The kernel's count of what comes out of the tunnel stands still.
    Counter,
    /// Nameservers are asked nothing in an outage.
    Names,
    /// The firewall's text is empty.
    Firewall,
}

#[cfg(feature = "lab")]
static TAKEN: std::sync::OnceLock<Vec<Handicap>> = std::sync::OnceLock::new();

/// Takes these away from this process, once and for all. Comes before anything is done.
#[cfg(feature = "lab")]
pub fn take_away(these: &[Handicap]) {
    let _ = TAKEN.set(these.to_vec());
}

/// What was taken away, for the agent to go without as well.
#[cfg(feature = "lab")]
pub fn taken() -> Vec<Handicap> {
    TAKEN.get().cloned().unwrap_or_default()
}

/// Whether this process has to do without `what`.
#[cfg(feature = "lab")]
pub fn lacks(what: Handicap) -> bool {
    TAKEN.get().is_some_and(|taken| taken.contains(&what))
}

/// Whether this process has to do without `what`: never, in a build without the lab.
#[cfg(not(feature = "lab"))]
pub const fn lacks(_what: Handicap) -> bool {
    false
}
