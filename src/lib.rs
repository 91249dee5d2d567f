//! leakcheck proves that a VPN stack does not leak. The modules stand in the order in which the data flows.

pub mod model;
pub mod target;
