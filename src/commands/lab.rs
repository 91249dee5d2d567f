//! `leakcheck lab`: the classes of leaks that `demo --leak` takes, the variants and conditions of `--variant` and `--condition`, and the
//! parts of the lab as containers.

use anyhow::Context;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use super::{lab_sealed, lab_test, print};
use crate::cli::LabCommand;
use crate::lab::{Condition, Leak, Variant, role, tell_vpn};
use crate::report::Look;
use crate::runner::PASSED;

/// Does what `command` says, and gives the exit status.
///
/// # Errors
/// When a fixture is not well formed, Docker does not take the image, a part cannot play, or standard output takes nothing.
pub fn lab(command: &LabCommand) -> anyhow::Result<u8> {
    match command {
        LabCommand::List => {
            let look = Look::of_stdout();
            let (variants, conditions) = (Variant::all()?, Condition::all()?);
            let variants = variants.iter().map(|variant| [&variant.id, &variant.title]);
            let conditions = conditions.iter().map(|condition| [&condition.id, &condition.title]);
            let variants = named("variant", variants, &look);
            let text =
                format!("{}\n{variants}\n{}", leaks(&Leak::all()?, &look), named("condition", conditions, &look));
            print(&text)?;
        }
        LabCommand::Image { name } => {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
            runtime.block_on(role::build_image(name))?;
            print(&format!("{name}\n"))?;
        }
        LabCommand::Test(args) => return lab_test::test(args),
        LabCommand::Sealed(args) => return lab_sealed::sealed(args),
        LabCommand::Role { role } => role::run(*role)?,
        LabCommand::Vpn { wish } => tell_vpn(*wish)?,
    }
    Ok(PASSED)
}

fn empty(look: &Look) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(look.width).force_no_tty();
    table
}

/// Ids and titles.
fn named<'a>(kind: &str, rows: impl Iterator<Item = [&'a String; 2]>, look: &Look) -> String {
    let mut table = empty(look);
    table.set_header([kind, "what it is"]);
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt() + "\n"
}

fn leaks(leaks: &[Leak], look: &Look) -> String {
    let mut table = empty(look);
    table.set_header(["class", "what is broken", "must be noticed by"]);
    for leak in leaks {
        table.add_row([&leak.id, &leak.title, &leak.red.join(", ")]);
    }
    table.trim_fmt() + "\n"
}
