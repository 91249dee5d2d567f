//! The part that stands inside the stack's namespace: it links techniques, sensor and outage control to the runner by framed JSON over
//! its standard streams. It listens on nothing and decides nothing, and when its input ends it puts back what it changed.

mod boot;
mod ear;
pub mod endpoint;
pub mod links;
mod memory;
mod place;
pub mod programs;
pub mod protocol;
pub mod serve;
pub(crate) mod sources;
