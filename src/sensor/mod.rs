//! The sensor: what leaves by the links of the stack's namespace, filtered in the kernel by the allow-list, decoded, classified and
//! attributed to the probe whose marker or flow it carries. It decides nothing.

pub mod allow;
pub mod backlog;
pub mod capture;
pub mod control;
pub mod decode;
mod direct;
pub mod filter;
pub mod ledger;
mod packet_sockets;
mod record;
pub mod ring;
pub mod sockets;
mod trace;

pub use trace::Trace;
