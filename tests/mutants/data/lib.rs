//! The data that judge, allow-list and decoder work on.

#![allow(dead_code, reason = "what else uses these modules is not here")]

pub mod catalog;
pub mod model;
pub mod near;

pub mod config {
    mod choice;
    pub use choice::{ForcedPolicy, Provider};
}
