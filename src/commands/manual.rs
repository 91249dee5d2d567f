//! `leakcheck completions` and `leakcheck man`: the command line as shells and man(1) want it.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Hint, print};
use crate::cli::Cli;
use crate::near::nearest;

/// Prints the completions of a shell.
///
/// # Errors
/// When standard output takes nothing.
pub fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "leakcheck", &mut text);
    Ok(print(&String::from_utf8_lossy(&text))?)
}

/// Prints the manual page (man(7)) of the program, or of one of its commands.
///
/// # Errors
/// When there is no such command, or standard output takes nothing.
pub fn man(command: Option<&str>) -> anyhow::Result<()> {
    let mut program = Cli::command();
    // Names of the commands' own pages, such as leakcheck-run.
    program.build();
    let page = match command {
        Some(name) => {
            let shown: Vec<&str> =
                program.get_subcommands().filter(|one| !one.is_hide_set()).map(clap::Command::get_name).collect();
            let found = program.find_subcommand(name).filter(|one| shown.contains(&one.get_name())).cloned();
            found.ok_or_else(|| Hint {
                message: format!("print the manual page of `{name}`: there is no such command"),
                help: match nearest(name, shown.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("give one of {}", shown.join(", ")),
                },
            })?
        }
        None => program,
    };
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    Ok(print(&String::from_utf8_lossy(&text))?)
}
