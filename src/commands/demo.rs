//! `leakcheck demo`: the audit of the built-in lab, sealed or broken.

use anyhow::Context;

use super::run::audit;
use crate::cli::DemoArgs;
use crate::config::Config;
use crate::lab::{self, Lab, LabSpec, Leak};
use crate::runner;
use crate::target::Enter;

/// Starts a lab, audits its stack as `run` would, and gives the exit status. Has to be called before any thread exists.
///
/// # Errors
/// When there is no such leak, the lab cannot be made here, or nothing could be measured.
pub fn demo(args: &DemoArgs) -> anyhow::Result<u8> {
    let leak = args.leak.as_deref().map(Leak::named).transpose()?;
    if args.audit.list {
        return audit(&Config::default(), None, None, Enter::Setns, None, &args.audit).map(|_| runner::PASSED);
    }
    let label = leak.as_ref().map_or_else(|| "lab (sealed)".to_owned(), |leak| format!("lab ({})", leak.id));
    let world = lab::enter_user_namespace()?;
    let spec = LabSpec { leak, ipv6: !args.ipv4_only, moves: args.another_server, odd: args.odd_witness.clone() };
    let lab = Lab::start(&world, spec)?;
    let file = world.write("leakcheck.toml", &lab.config_toml()).context("write the lab's configuration")?;
    let (config, _) = Config::load(Some(&file), std::env::vars())?;
    // What is noted of a lab is of no interest once the lab is gone.
    audit(&config, None, Some(label), Enter::Setns, Some(&world.path()), &args.audit)
}
