//! What evidence calls things by which the judge has to know them again: techniques and the runner write these words, the judge looks for
//! them.

/// The technique that asks the stack's own resolvers for names that are of the home alone.
pub const LOCAL_NAMES: &str = "local-names";
/// The control that leakcheck answers itself.
pub const CONTROL: &str = "leakcheck itself, as a control";
/// The witness that names the stack's own nameservers.
pub const STACK_RESOLV_CONF: &str = "the stack's own resolv.conf";
/// What the name of a target begins with that was asked from outside of the namespace.
pub const FROM_OUTSIDE: &str = "from outside ";
/// The sweep through the routes.
pub const ROUTE_PUBLIC: &str = "public addresses";
/// The control of that sweep.
pub const ROUTE_CONTROL: &str = "the uplink's own neighbours";
/// The same where there is no uplink.
pub const ROUTE_CONTROL_ALONE: &str = "the namespace itself";
/// The addresses that exist in the tunnel only.
pub const ROUTE_INSIDE: &str = "the VPN's own addresses";
/// Routes that somebody on the network made.
pub const ROUTE_LEARNED: &str = "learned routes";
/// How an uplink takes what others say of routes, where a neighbour can make some by it.
pub const ROUTE_OPEN: &str = "routes by neighbours";
/// The sweep of what others send through the stack.
pub const ROUTE_OTHERS: &str = "public addresses, for others";
/// Those whom the tunnel itself sends to.
pub const ROUTE_PEERS: &str = "WireGuard's peers";

/// The port from which the stimulus of this number comes.
pub fn source_port(stimulus: u32) -> u16 {
    32_768 + (stimulus % 28_000) as u16
}
