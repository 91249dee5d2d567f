//! Parses the command line, runs the command, and turns what comes of it into the exit status.

use std::process::ExitCode;

use clap::Parser;
use leakcheck::cli::{Cli, Command};
use leakcheck::commands;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Usage, configuration or environment: nothing was measured.
const NOTHING_MEASURED: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when the stream is gone.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { NOTHING_MEASURED } else { 0 });
        }
    };
    take_descriptors();
    match run(cli.command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprint!("{}", commands::tell(&error));
            ExitCode::from(NOTHING_MEASURED)
        }
    }
}

/// Has as many descriptors as may be had: each stimulus may take a socket for a moment, and engines start containers with 1,024.
fn take_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // With fewer of them stimuli fail, each by name.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::List(args) => commands::list(&args).map(|()| 0),
        Command::Explain(args) => commands::explain(&args).map(|()| 0),
        #[cfg(feature = "lab")]
        Command::Lab { command } => commands::lab(&command),
        #[cfg(feature = "lab")]
        Command::Demo(args) => commands::demo(&args),
        Command::Run(args) => commands::run(&args),
        Command::Doctor(args) => commands::doctor(&args),
        Command::Init(args) => commands::init(&args).map(|()| 0),
        Command::Completions { shell } => commands::completions(shell).map(|()| 0),
        Command::Man { command } => commands::man(command.as_deref()).map(|()| 0),
        Command::Restore(args) => commands::restore(&args),
        Command::Agent(args) => commands::agent(&args).map(|()| 0),
        Command::Keeper => commands::keeper().map(|()| 0),
    }
}
