//! Killing the tunnel and putting it back: how it is done, what is sampled meanwhile, and what came of it. Nothing here judges.
//!
//! What an outage changed is put back, always: by the agent, whether the runner lives or not; by the keeper when the agent is killed; by the
//! journal, which the next run or `leakcheck restore` works off, when both are, as happens to the agent's container. A namespace that ends
//! takes what was changed in it along.

mod about;
mod control_server;
mod endpoint_block;
mod flow;
mod journal;
mod keeper;
mod link_down;
mod method;
mod namespace_lock;
mod run;
mod sampler;
mod undo;
mod vpn_stop;
mod watch;

pub use about::About;
pub use journal::{Entry, Journal, JournalError};
pub use keeper::keep;
pub use method::{Armed, Available, available};
pub use namespace_lock::NamespaceLock;
pub use run::{PUT_BACK_AT_MOST, run};
pub use undo::Recipe;
