//! leakcheck proves that a VPN stack does not leak. The modules stand in the order in which the data flows.

pub mod model;

pub mod catalog;
pub mod config;
pub mod near;
pub mod target;

pub mod agent;
pub mod clock;
pub mod handicap;
pub mod net;
pub mod outage;
mod priority;
pub mod sensor;
pub mod technique;

pub mod judge;
pub mod report;
pub mod runner;

#[cfg(feature = "lab")]
pub mod lab;
#[cfg(feature = "lab")]
pub mod untrusted;

pub mod cli;
pub mod commands;
