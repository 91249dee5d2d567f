//! Killing the tunnel and putting it back: how it is done, what is sampled meanwhile, and what came of it. Nothing here judges.
//!
//! What an outage changed is put back, always: by the agent, whether the runner lives or not; by the keeper when the agent is killed; by the
//! journal, which the next run or `leakcheck restore` works off, when both are, as happens to the agent's container. A namespace that ends
//! takes what was changed in it along. What is done to the container itself is done, and put back, on the runner's side, and the keeper of
//! it is the runner's.

mod about;
mod command;
mod control_server;
mod dark;
mod early;
mod endpoint_block;
mod flow;
mod flows_v6;
mod hands;
mod health;
mod journal;
mod keeper;
mod link_down;
mod method;
mod nameservers;
mod namespace_lock;
mod process_handle;
mod process_kill;
mod process_stop;
mod rules;
mod run;
mod run_command;
mod sampler;
mod standing;
mod timeline;
mod undo;
mod vpn_process;
mod vpn_stop;
mod watch;
mod watches;

pub use about::About;
pub use early::Early;
pub use hands::Hands;
pub use journal::{Entry, Journal, JournalError, KeyFile};
pub use keeper::{Keeper, keep};
pub use method::{Armed, Available, available};
pub use namespace_lock::NamespaceLock;
pub use run::{PUT_BACK_AT_MOST, prove, run};
pub use undo::Recipe;
