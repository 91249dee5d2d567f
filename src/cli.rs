//! The command line. The comments here are its help.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

use crate::catalog::Selection;
use crate::config::{OutageMethod, parse_duration};
use crate::report::{FORMATS, Format};
use crate::target::{Enter, TargetError, TargetSpec};

/// What the exit status of a run means; the README says it in the same words.
pub const STATUSES: &str = "\
Exit status of run and demo:
  0    nothing failed and nothing was inconclusive
  1    something failed: a leak, or something that should work and does not
  2    usage, configuration or environment: nothing was measured
  3    nothing failed, but something is inconclusive
  4    the stack could not be put back as it was (outranks 0, 1 and 3)
  130  interrupted, after putting the stack back";

/// The way through the commands, for who is new here and for who comes back.
const BEGIN: &str = "  leakcheck doctor        what works on this machine, and what is missing
  leakcheck run --quick   audit the stack that runs here, the tunnel up: disturbs nothing
  leakcheck run           take its VPN down too, for some seconds, and put it back
  leakcheck explain ID    what a check that failed means, and how to mend it
  leakcheck init          write a leakcheck.toml, for what cannot be found; run reads the
                          one in the folder where it is started";

#[cfg(feature = "lab")]
const BEGIN_DEMO: &str = "  leakcheck demo          see it at work on a stack that is built in\n";
#[cfg(not(feature = "lab"))]
const BEGIN_DEMO: &str = "";

const DOCTOR_STATUSES: &str = "\
Exit status:
  0    leakcheck run can audit a stack here
  2    it cannot yet";

const COMPLETIONS_HELP: &str = "\
Where they go:
  bash  leakcheck completions bash > ~/.local/share/bash-completion/completions/leakcheck
  zsh   leakcheck completions zsh > a folder of $fpath, as _leakcheck
  fish  leakcheck completions fish > ~/.config/fish/completions/leakcheck.fish";

const MAN_HELP: &str = "\
Read it:
  leakcheck man run | man -l -
Keep it:
  leakcheck man > /usr/local/share/man/man1/leakcheck.1";

/// Proves that a VPN stack does not leak
///
/// Asks the internet what it sees, forces packets past the tunnel, listens on the wire meanwhile, takes the VPN down on
/// purpose and watches, and says what it saw. A check passes only if it would have noticed.
#[derive(Debug, Parser)]
#[command(name = "leakcheck", version, after_help = format!("Begin with:\n{BEGIN_DEMO}{BEGIN}\n\n{STATUSES}"), arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Audit a stack: print the table, write the reports
    #[command(after_help = STATUSES)]
    Run(RunArgs),
    /// Audit the built-in lab, sealed or broken: no Docker, no VPN account, no root
    #[cfg(feature = "lab")]
    #[command(after_help = STATUSES)]
    Demo(DemoArgs),
    /// Put back what a run that was killed left changed
    Restore(RestoreArgs),
    /// List the probes, and what each is for
    List(ListArgs),
    /// Tell what a probe claims, does and cannot see, and how to mend what it finds
    Explain(ExplainArgs),
    /// Say what works on this machine, and what to do where something does not
    #[command(after_help = DOCTOR_STATUSES)]
    Doctor(DoctorArgs),
    /// Write a leakcheck.toml with comments, from the stack that is found
    Init(InitArgs),
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// Which shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or that of a command
    #[command(after_help = MAN_HELP)]
    Man {
        /// Which command
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
    /// The broken stacks of the built-in lab
    #[cfg(feature = "lab")]
    Lab {
        /// What to do with the lab.
        #[command(subcommand)]
        command: LabCommand,
    },
    /// The part that works inside the namespace; started by the others
    #[command(hide = true)]
    Agent(AgentArgs),
    /// Puts an outage back when the agent that made it dies; started by the agent
    #[command(hide = true)]
    Keeper,
}

/// What `run` and `demo` share.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// Ask only what has one of these in its name, such as dns or kill-switch/outage
    #[arg(value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Filters and --skip are whole names
    #[arg(long, help_heading = "Selection")]
    pub exact: bool,
    /// Leave out what has this in its name
    #[arg(long, value_name = "FILTER", help_heading = "Selection")]
    pub skip: Vec<String>,
    /// Show the names of what would be asked, and ask nothing
    #[arg(long, help_heading = "Selection")]
    pub list: bool,
    /// Leave the tunnel up: quicker, but the kill switch is not proven
    #[arg(long, conflicts_with = "outage", help_heading = "Selection")]
    pub quick: bool,
    /// Take the tunnel down in this way; may be given several times; else in two that suit the stack. leakcheck explain outage-METHOD
    /// tells of one
    #[arg(long, value_name = "METHOD", value_parser = outage_methods(), help_heading = "Selection")]
    pub outage: Vec<OutageMethod>,
    /// Add the probe files of this folder
    #[arg(long, value_name = "DIR", help_heading = "Selection")]
    pub probes: Option<PathBuf>,

    /// What standard output gets
    #[arg(long, default_value = FORMATS[0].name, value_parser = formats(), help_heading = "Reports")]
    pub format: &'static Format,
    /// Write all reports here; none: write nothing
    #[arg(long, value_name = "DIR", default_value = "reports", help_heading = "Reports")]
    pub report_dir: PathBuf,
    /// Mask the home address in all reports
    #[arg(long, help_heading = "Reports")]
    pub redact: bool,
    /// Hold this run against an earlier one, by its report.json: what is worse, better, new
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub baseline: Option<PathBuf>,
    /// Let the exit status tell only of what is worse than in the baseline
    #[arg(long, requires = "baseline", help_heading = "Reports")]
    pub only_worse: bool,
    /// Add a line on this run to history.jsonl in this folder
    #[arg(long, value_name = "DIR", help_heading = "Reports")]
    pub history: Option<PathBuf>,
    /// Show the evidence of passes too
    #[arg(long, help_heading = "Reports")]
    pub nocapture: bool,

    /// A warning is a failure
    #[arg(long)]
    pub strict: bool,
    /// Give up after this time, such as 90s or 5m, put the stack back, and report what is known
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

impl AuditArgs {
    /// Which trials are wanted.
    pub fn selection(&self) -> Selection {
        Selection { filters: self.filters.clone(), exact: self.exact, skip: self.skip.clone() }
    }

    /// The folder that reports are written to, if any.
    pub fn reports(&self) -> Option<&std::path::Path> {
        Some(self.report_dir.as_path()).filter(|dir| dir.as_os_str() != "none")
    }
}

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// docker:NAME, netns:NAME-OR-PATH or pid:PID; else the one Gluetun container that Docker knows
    #[arg(long, value_name = "TARGET", value_parser = target)]
    pub target: Option<TargetSpec>,
    /// The configuration; else leakcheck.toml in this folder, if there is one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to get into the namespace: setns needs root on this machine, container needs Docker, auto takes what there is
    #[arg(long, value_name = "WAY", default_value = ENTER[0].0, value_parser = ways())]
    pub enter: Enter,
    /// Restart containers that share the stack's network and were left outside of it, as a restart of the VPN container leaves them
    #[arg(long)]
    pub restart_dependents: bool,
    /// Where to note what has to be put back; else /run/leakcheck, or the user's state folder
    #[arg(long, value_name = "DIR", env = STATE_DIR, hide_env = true)]
    pub state_dir: Option<PathBuf>,
    /// The rest.
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// Arguments of `demo`.
#[cfg(feature = "lab")]
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Break the stack in this way, see leakcheck lab list; else it is sealed
    #[arg(long, value_name = "CLASS")]
    pub leak: Option<String>,
    /// Build it in this way, see leakcheck lab list; else as Gluetun does
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// Audit it under this condition, see leakcheck lab list; may be given several times
    #[arg(long, value_name = "NAME")]
    pub condition: Vec<String>,
    /// Let a witness of the lab misbehave
    #[arg(long, value_name = "HOST=BEHAVIOUR", hide = true)]
    pub odd_witness: Vec<crate::lab::OddWitness>,
    /// Let the control server of the lab's stack do otherwise
    #[arg(long, value_name = "WHAT=HOW", hide = true)]
    pub odd_control: Vec<crate::lab::Habit>,
    /// Take away what verdicts rest on
    #[arg(long, value_name = "WHAT", value_enum, hide = true)]
    pub without: Vec<crate::handicap::Handicap>,
    /// The rest.
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// Arguments of `restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// docker:NAME, netns:NAME-OR-PATH or pid:PID; else all stacks that were left changed
    #[arg(long, value_name = "TARGET", value_parser = target)]
    pub target: Option<TargetSpec>,
    /// How to get into the namespace, as for run
    #[arg(long, value_name = "WAY", default_value = ENTER[0].0, value_parser = ways())]
    pub enter: Enter,
    /// Where it was noted what has to be put back, as for run
    #[arg(long, value_name = "DIR", env = STATE_DIR, hide_env = true)]
    pub state_dir: Option<PathBuf>,
}

/// Arguments of `list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Add the probe files of this folder
    #[arg(long, value_name = "DIR")]
    pub probes: Option<PathBuf>,
    /// As the table of the README
    #[arg(long)]
    pub markdown: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The probe's id, as in leakcheck list; or outage-METHOD, as in outage-link-down
    #[arg(value_name = "ID")]
    pub id: String,
    /// Add the probe files of this folder
    #[arg(long, value_name = "DIR")]
    pub probes: Option<PathBuf>,
}

/// The stack that `doctor` and `init` look at.
#[derive(Debug, Clone, Args)]
pub struct LookArgs {
    /// docker:NAME, netns:NAME-OR-PATH or pid:PID; else the one Gluetun container that Docker knows
    #[arg(long, value_name = "TARGET", value_parser = target)]
    pub target: Option<TargetSpec>,
    /// How to get into the namespace, as for run
    #[arg(long, value_name = "WAY", default_value = ENTER[0].0, value_parser = ways())]
    pub enter: Enter,
}

/// Arguments of `doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// The stack.
    #[command(flatten)]
    pub stack: LookArgs,
    /// The configuration; else leakcheck.toml in this folder, if there is one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where run would note what has to be put back, as for run
    #[arg(long, value_name = "DIR", env = STATE_DIR, hide_env = true)]
    pub state_dir: Option<PathBuf>,
}

/// Arguments of `init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// The stack.
    #[command(flatten)]
    pub stack: LookArgs,
    /// Where it is written; -: to standard output
    #[arg(long, short, value_name = "FILE", default_value = "leakcheck.toml")]
    pub output: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
}

/// What to do with the lab.
#[cfg(feature = "lab")]
#[derive(Debug, Clone, Subcommand)]
pub enum LabCommand {
    /// List the classes of leaks that --leak takes, the variants that --variant takes, and the conditions that --condition takes
    List,
    /// Audit every leak class and every sealed stack, and print which probe found what
    Test(LabTestArgs),
    /// Audit sealed stacks again and again, and count false alarms
    Sealed(LabSealedArgs),
    /// Make the Docker image of fixtures/compose from this program
    Image {
        /// Its name, and tag if wanted
        #[arg(value_name = "NAME", default_value = crate::lab::role::IMAGE)]
        name: String,
    },
    /// Play a part of the lab in this network namespace: what the containers of fixtures/compose run
    #[command(hide = true)]
    Role {
        /// Which part
        #[arg(value_enum, env = crate::lab::role::ROLE)]
        role: crate::lab::role::Role,
    },
    /// Start or stop the VPN of the stack in this network namespace: what the lab's outage.down and outage.up run
    #[command(hide = true)]
    Vpn {
        /// What it shall be.
        wish: crate::lab::Wish,
    },
}

/// Arguments of `lab test`.
#[cfg(feature = "lab")]
#[derive(Debug, Clone, Args)]
pub struct LabTestArgs {
    /// Run only trials that have this in their name, such as leak::hole or sealed
    #[arg(value_name = "FILTER")]
    pub filter: Option<String>,
    /// The filter and --skip are whole names
    #[arg(long)]
    pub exact: bool,
    /// Leave out trials that have this in their name
    #[arg(long, value_name = "FILTER")]
    pub skip: Vec<String>,
    /// Show the names of the trials, and run none
    #[arg(long)]
    pub list: bool,
    /// So many trials at a time
    #[arg(long, value_name = "NUMBER", value_parser = parse_count)]
    pub test_threads: Option<usize>,
    /// Where the matrix is written when all trials were run; none: nowhere
    #[arg(long, value_name = "FILE", default_value = "reports/matrix.md")]
    pub matrix: PathBuf,
}

/// Arguments of `lab sealed`.
#[cfg(feature = "lab")]
#[derive(Debug, Clone, Args)]
pub struct LabSealedArgs {
    /// So many audits, of all variants in turn
    #[arg(long, value_name = "NUMBER", default_value = "1000", value_parser = parse_count)]
    pub runs: usize,
    /// Only of this variant, see leakcheck lab list; may be given several times
    #[arg(long, value_name = "NAME")]
    pub variant: Vec<String>,
    /// Leave the tunnel up
    #[arg(long)]
    pub quick: bool,
    /// So many at a time
    #[arg(long, value_name = "NUMBER", value_parser = parse_count)]
    pub test_threads: Option<usize>,
}

/// Arguments of `agent`.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Where to go before anything else; else stay
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
}

/// Variable that stands for `--state-dir`.
const STATE_DIR: &str = "LEAKCHECK_STATE_DIR";
/// What `--enter` takes, the default first.
const ENTER: [(&str, Enter); 3] = [("auto", Enter::Auto), ("setns", Enter::Setns), ("container", Enter::Container)];

#[cfg(feature = "lab")]
fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("give a number from 1 on".to_owned()),
    }
}

fn ways() -> impl TypedValueParser<Value = Enter> {
    PossibleValuesParser::new(ENTER.map(|(word, _)| word)).try_map(|given| {
        ENTER.iter().find(|(word, _)| *word == given).map(|(_, way)| *way).ok_or("there is no such way")
    })
}

/// `--target`, with the advice of a refusal beside it.
fn target(text: &str) -> Result<TargetSpec, String> {
    text.parse().map_err(|error: TargetError| error.help().unwrap_or_else(|| error.to_string()))
}

/// `--outage` takes the words of [`OutageMethod`].
fn outage_methods() -> impl TypedValueParser<Value = OutageMethod> {
    PossibleValuesParser::new(OutageMethod::ALL.map(OutageMethod::word)).try_map(|word| word.parse::<OutageMethod>())
}

/// `--format` takes the names of [`FORMATS`].
fn formats() -> impl TypedValueParser<Value = &'static Format> {
    PossibleValuesParser::new(FORMATS.iter().map(|format| format.name))
        .try_map(|name| Format::named(&name).ok_or("there is no such format"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn audit(line: &str) -> AuditArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Run(args) => args.audit,
            command => panic!("{command:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_test_runners_take_is_taken() {
        let args =
            audit("leakcheck run dns ipv6 --exact --skip uplink --outage vpn-stop --outage link-down --format junit");
        assert_eq!(args.selection().filters, ["dns", "ipv6"]);
        assert!(args.selection().exact && args.selection().skip == ["uplink"]);
        assert_eq!(args.outage, [OutageMethod::VpnStop, OutageMethod::LinkDown]);
        assert_eq!(args.format.name, "junit");
        assert_eq!(args.reports(), Some(std::path::Path::new("reports")));
        assert_eq!(audit("leakcheck run --report-dir none").reports(), None);
        assert_eq!(audit("leakcheck run --timeout 2m").timeout, Some(Duration::from_secs(120)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "leakcheck run --format yaml",
            "leakcheck run --outage unplug",
            "leakcheck run --quick --outage vpn-stop",
            "leakcheck run --timeout 5",
            "leakcheck run --enter door",
            "leakcheck run --target gluetun",
            "leakcheck run --target pid:0",
            "leakcheck explain",
            "leakcheck",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
