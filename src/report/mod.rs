//! What a run says: one file per format, all made from [`Report`] alone and all free of what a hostile server could have
//! put into the evidence. Decides nothing.

mod access;
mod error;
mod files;
mod github;
mod html;
mod json;
mod junit;
mod markdown;
pub(crate) mod page;
mod pcapng;
pub mod progress;
mod prometheus;
mod prose;
mod redact;
#[cfg(test)]
pub(crate) mod sample;
mod table;
mod tap;
mod text;

use std::io::{self, IsTerminal};

pub use error::ReportError;
pub use files::write_dir;
#[cfg(feature = "lab")]
pub(crate) use pcapng::understand;
pub use redact::Mask;
pub use text::clean_line;

use crate::model::report::Report;

/// A way to write a report.
#[derive(Debug)]
pub struct Format {
    /// The value of `--format`.
    pub name: &'static str,
    /// Its file in the report folder.
    pub file: &'static str,
    /// What it is for, in Markdown.
    pub about: &'static str,
    /// Renders a report whose texts are clean.
    render: fn(&Report, &Look) -> Result<String, ReportError>,
}

/// Every format, the default first.
pub const FORMATS: &[Format] = &[
    table::FORMAT,
    json::FORMAT,
    junit::FORMAT,
    html::FORMAT,
    markdown::FORMAT,
    github::FORMAT,
    tap::FORMAT,
    prometheus::FORMAT,
];

/// How a report for people looks. The other formats do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Width in columns.
    pub width: u16,
    /// Whether there are colours.
    pub colour: bool,
    /// Lines of evidence per probe; the rest is in the JSON report.
    pub evidence: usize,
}

impl Look {
    /// For files and pipes.
    pub const PLAIN: Look = Look { width: 100, colour: false, evidence: 6 };

    /// For standard output as it is: the width of a terminal, and colours unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Look::PLAIN;
        }
        // Of an unset table this is the width of the terminal on standard output.
        let width = comfy_table::Table::new().width().unwrap_or(Look::PLAIN.width);
        Look { width, colour: colours_wanted(), ..Look::PLAIN }
    }
}

/// See <https://no-color.org>.
pub(crate) fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

impl Format {
    /// The format of this name.
    pub fn named(name: &str) -> Option<&'static Format> {
        FORMATS.iter().find(|format| format.name == name)
    }

    /// The whole text, with a line end at its end. Texts that came from elsewhere are escaped and cut first.
    ///
    /// # Errors
    /// When the format's own writer refuses the report.
    pub fn render(&self, report: &Report, look: &Look) -> Result<String, ReportError> {
        (self.render)(&text::cleaned(report), look)
    }
}
