//! Killing the tunnel and putting it back: how it is done, what is sampled meanwhile, and what came of it. Nothing here judges.

mod link_down;
mod method;
mod run;
mod sampler;
mod vpn_stop;
mod watch;

pub use method::{Available, available};
pub use run::run;
