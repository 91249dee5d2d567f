//! How a failure of leakcheck itself is told: what happened, why, and what to do.

use std::fmt::Write as _;

use crate::catalog::CatalogError;
use crate::config::ConfigError;
use crate::runner::RunError;
use crate::target::TargetError;

/// A failure that a command found itself, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Hint {
    /// Fits after "failed to …".
    pub message: String,
    /// What to do.
    pub help: String,
}

/// The lines for standard error.
pub fn tell(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let (messages, helps) = parts(error);
    for (n, message) in messages.iter().enumerate() {
        let lead = if n == 0 { "error: failed to" } else { "  caused by:" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{lead} {}", message.replace('\n', "\n    "));
    }
    for help in helps {
        let _ = writeln!(text, "help: {help}");
    }
    text
}

/// What happened in one line, and what to do about it.
pub(super) fn in_short(error: &anyhow::Error) -> (String, Option<String>) {
    let (messages, helps) = parts(error);
    let told = format!("failed to {}", messages.join(": "));
    (told.split_whitespace().collect::<Vec<_>>().join(" "), helps.into_iter().next())
}

/// The messages of an error and its causes, and what they advise.
fn parts(error: &anyhow::Error) -> (Vec<String>, Vec<String>) {
    let (mut messages, mut helps) = (Vec::new(), Vec::new());
    for cause in error.chain() {
        let message = cause.to_string();
        // Some messages bring their help with them, on a line of its own.
        let (message, help) =
            message.split_once("\nhelp: ").map_or((message.as_str(), None), |(message, help)| (message, Some(help)));
        helps.extend(help.map(str::to_owned).or_else(|| help_of(cause)));
        messages.push(message.to_owned());
    }
    helps.dedup();
    (messages, helps)
}

/// What the error itself advises.
fn help_of(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<Hint>() {
        return Some(error.help.clone());
    }
    if let Some(error) = cause.downcast_ref::<RunError>() {
        return error.help();
    }
    if let Some(error) = cause.downcast_ref::<ConfigError>() {
        return error.help().or_else(|| Some("the README shows every key with a value that fits".to_owned()));
    }
    if let Some(error) = cause.downcast_ref::<CatalogError>() {
        return error.help();
    }
    #[cfg(feature = "lab")]
    if let Some(error) = cause.downcast_ref::<crate::lab::LabError>() {
        return error.help().map(str::to_owned);
    }
    cause.downcast_ref::<TargetError>().and_then(TargetError::help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_why_and_what_to_do() {
        let source = std::io::Error::from_raw_os_error(2);
        let error = anyhow::Error::from(ConfigError::Read { path: "x.toml".into(), source }).context("begin the audit");
        let text = tell(&error);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "error: failed to begin the audit");
        assert_eq!(lines[1], "  caused by: read x.toml");
        assert!(lines[2].starts_with("  caused by: No such file"), "{text}");
        assert!(lines[3].starts_with("help: give the right path with --config"), "{text}");
    }

    #[cfg(feature = "lab")]
    #[test]
    fn a_lab_that_cannot_stand_says_what_to_do() {
        let text = tell(&crate::lab::LabError::NeedsContainers("orphan".to_owned()).into());
        assert!(text.starts_with("error: failed to give the lab's stack the leak orphan"), "{text}");
        assert!(text.contains("help: `leakcheck lab test"), "{text}");
    }

    #[test]
    fn help_inside_a_message_gets_its_own_line() {
        assert_eq!(
            tell(&anyhow::anyhow!("open /dev/net/tun\nhelp: load the module")),
            "error: failed to open /dev/net/tun\nhelp: load the module\n"
        );
    }
}
