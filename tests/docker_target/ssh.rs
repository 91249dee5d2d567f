//! An `ssh` that goes no further than this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

/// A folder with a program `ssh` that runs its command here, as a login on this machine would, and notes what it was told.
pub fn ssh() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("ssh");
    let told = dir.path().join("told");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>'{}'\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\n\
         unset DOCKER_HOST DOCKER_CONTEXT\nexec sh -c \"$*\"\n",
        told.display()
    );
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("made a program");
    dir
}

/// A path in which the programs of this folder come first.
pub fn path_with(dir: &Path) -> String {
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default())
}
