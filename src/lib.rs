//! leakcheck proves that a VPN stack does not leak. The modules stand in the order in which the data flows.

pub mod clock;
pub mod model;
pub mod sensor;

pub mod catalog;
pub mod config;
#[cfg(feature = "lab")]
pub mod lab;
pub mod near;
pub mod net;

pub mod report;

pub mod cli;
pub mod commands;
