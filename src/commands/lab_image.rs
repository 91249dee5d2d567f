//! `leakcheck lab image`: the image of the compose fixture, made from the running program.

use anyhow::Context;

use crate::lab::role;

/// Builds the image and says what to do with it.
///
/// # Errors
/// When Docker cannot be reached or refuses.
pub fn lab_image(name: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(role::build_image(name))?;
    super::print(&format!("{name}\n"))?;
    Ok(())
}
