//! leakcheck proves that a VPN stack does not leak. The modules stand in the order in which the data flows.

#[cfg(feature = "lab")]
pub mod lab;
pub mod net;
