//! Each leak fixture does what it says: seen on the home's wire, or by the far side, never read from the stack's rules.
//! Every proof is also tried on the sealed stack, where it must not hold.

mod neighbours;
mod outage;
mod programs;
mod shows;
mod signs;
mod stimuli;

use super::tools::send_bound;
use anyhow::{Result, bail, ensure};
use leakcheck::lab::{Lab, LabSpec, Leak, PrivateDir, leak};
use shows::shows;
use signs::SIGNS;

const UDP: u8 = 17;
const TCP: u8 = 6;

/// Names of the trials: one for each fixture that needs no containers, and one for the sealed stack.
pub fn names() -> Vec<String> {
    let here = |id: &&str| Leak::named(id).map_or(true, |leak| !leak.needs_containers());
    let mut names: Vec<String> = leak::names().into_iter().filter(here).map(|id| format!("leak::{id}")).collect();
    names.push("leak::none_when_sealed".to_owned());
    names
}

pub fn run(name: &str, world: PrivateDir) -> Result<()> {
    let id = name.strip_prefix("leak::").unwrap_or(name);
    if id == "none_when_sealed" {
        return sealed(&world);
    }
    let Some((_, signs)) = SIGNS.iter().find(|(known, _)| *known == id) else {
        bail!("the fixture {id} has no proof: add its sign to SIGNS")
    };
    let lab = Lab::start(&world, LabSpec::broken(Leak::named(id)?))?;
    for (index, sign) in signs.iter().enumerate() {
        ensure!(shows(&lab, sign)?, "sign {index} of {id} does not show");
    }
    if id == "wrong-backend" || id.starts_with("one-protocol-udp") || id == "v6-accept" || id == "one-protocol-v6" {
        ensure!(send_bound(&lab, "eth0", "8.8.8.8:53", b"x")? == Some(libc::EPERM), "IPv4 is open too");
    }
    Ok(())
}

/// The signs are those of the leaks, not of the lab.
fn sealed(world: &PrivateDir) -> Result<()> {
    let lab = Lab::start(world, LabSpec::sealed())?;
    let mut wrong = Vec::new();
    for (id, signs) in SIGNS {
        for (index, sign) in signs.iter().enumerate() {
            if shows(&lab, sign)? {
                wrong.push(format!("sign {index} of {id}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "the sealed stack shows {wrong:?}");
    Ok(())
}
