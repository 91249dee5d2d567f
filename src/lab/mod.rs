//! The lab: a home, an ISP, an internet and a VPN provider on one machine, to try the checker against. Not a test
//! double: its servers speak the real protocols over real sockets.

pub mod gluetun;
pub mod witness;
