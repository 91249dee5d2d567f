//! Each leak fixture does what it says.

use anyhow::Result;
use leakcheck::lab::PrivateDir;

pub const TRIALS: &[(&str, fn(PrivateDir) -> Result<()>)] = &[];
