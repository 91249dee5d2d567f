//! The subcommands, one file each. They print and give the exit status, but do not exit.

mod explain;
mod failure;
#[cfg(feature = "lab")]
mod lab_image;
mod list;

use std::io::{self, Write as _};

pub use explain::explain;
pub use failure::{Hint, tell};
#[cfg(feature = "lab")]
pub use lab_image::lab_image;
pub use list::{list, trials};

/// Writes `text` to standard output. A reader that went away, as `head` does, is no failure.
///
/// # Errors
/// When standard output cannot take it for another reason.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
