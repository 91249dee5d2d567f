//! The modules that decide, and no others: judge, allow-list and decoder.

#![allow(dead_code, reason = "what else uses these modules is not here")]

pub use data::{catalog, config, model};

pub mod judge;

pub mod sensor {
    pub mod allow;
    pub mod decode;
}
