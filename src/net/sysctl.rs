//! `/proc/sys/net` of the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::PathBuf;

/// A kernel setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("set the kernel setting {} to {value}", .path.display())]
pub struct SysctlError {
    path: PathBuf,
    value: String,
    #[source]
    source: io::Error,
}

/// Sets `/proc/sys/net/NAME` (with slashes, as in `ipv4/ip_forward`) unless it already has the value: where `/proc/sys`
/// is read-only, as in most containers, a setting that was made from outside is good enough.
///
/// # Errors
/// When the setting differs and cannot be written.
pub fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| SysctlError { path, value: value.to_owned(), source })
}

/// The value of `/proc/sys/net/NAME`.
///
/// # Errors
/// When there is no such setting, or it may not be read.
pub fn get(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(PathBuf::from("/proc/sys/net").join(name))?.trim().to_owned())
}
