//! All figures that the project promises and a machine can measure, in one run: `cargo bench --bench sensor`. Prints; decides nothing.
//!
//! What the sensor bears, what it costs the tunnel, how long an audit takes beside the same done by hand, and what the agent has resident.
//! Whatever is compared is measured in turns, so that whatever else the machine does falls on both alike.

#[path = "../../tests/support/agent_memory.rs"]
mod agent_memory;
mod audit;
#[path = "../compare/hand.rs"]
mod hand;
mod rates;
mod tunnel;

use anyhow::Result;
use leakcheck::lab::{self, Lab, LabSpec};
use leakcheck::model::evidence::{Link, Role};

fn main() -> Result<()> {
    // Run by `cargo test` too, where it should cost nothing.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let world = lab::enter_user_namespace()?;
    let lab = Lab::start(&world, LabSpec::sealed())?;
    println!("-- packets per second that the sensor takes");
    rates::rates()?;
    println!("-- an audit without outages, beside the same by hand");
    audit::audits(&world, &lab)?;
    // Last: what it pumps into the tunnel goes on until the lab ends.
    println!("-- throughput of the tunnel");
    tunnel::throughput(&lab)
}

fn link(name: &str, role: Role) -> Result<Link> {
    let index = nix::net::if_::if_nametoindex(name)?;
    Ok(Link { index, name: name.to_owned(), role, addresses: Vec::new(), up: true })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
