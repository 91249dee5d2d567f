//! `leakcheck demo`: the audit of the built-in lab, sealed or broken.

use std::path::Path;

use anyhow::Context;

use super::run::{Place, audit};
use crate::cli::DemoArgs;
use crate::config::Config;
use crate::handicap;
use crate::lab::{self, Condition, Lab, LabSpec, Leak, Variant};
use crate::runner;
use crate::target::Enter;

/// Starts a lab, audits its stack as `run` would, and gives the exit status. Has to be called before any thread exists.
///
/// # Errors
/// When there is no such leak, variant or condition, the lab cannot be made here, or nothing could be measured.
pub fn demo(args: &DemoArgs) -> anyhow::Result<u8> {
    let leak = args.leak.as_deref().map(Leak::named).transpose()?;
    let conditions = args.condition.iter().map(|name| Condition::named(name)).collect::<Result<Vec<_>, _>>()?;
    let variant = args.variant.as_deref().map(Variant::named).transpose()?;
    if args.audit.list {
        return audit(&Config::default(), place(None, None), &args.audit).map(|_| runner::PASSED);
    }
    handicap::take_away(&args.without);
    let kind = leak.as_ref().map_or("sealed", |leak| leak.id.as_str());
    let built = variant.iter().map(|variant| variant.id.as_str());
    let around = conditions.iter().map(|condition| condition.id.as_str());
    let label = [kind].into_iter().chain(built).chain(around);
    let label = format!("lab ({})", label.collect::<Vec<_>>().join(", "));
    let world = lab::enter_user_namespace()?;
    let spec = LabSpec {
        leak,
        variant: variant.unwrap_or_default(),
        odd: args.odd_witness.clone(),
        habits: args.odd_control.clone(),
        conditions: Vec::new(),
        apart: Some(std::env::current_exe().context("find this program")?),
    };
    let lab = Lab::start(&world, conditions.into_iter().fold(spec, LabSpec::under))?;
    let file = world.write("leakcheck.toml", &lab.config_toml()).context("write the lab's configuration")?;
    let (config, _) = Config::load(Some(&file), std::env::vars())?;
    // What is noted of a lab is of no interest once the lab is gone.
    audit(&config, place(Some(label), Some(&world.path())), &args.audit)
}

fn place(label: Option<String>, state_dir: Option<&Path>) -> Place<'_> {
    Place { target: None, label, enter: Enter::Setns, state_dir, restart_dependents: false }
}
