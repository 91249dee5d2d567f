//! One trial on the Docker engine at a time, also among processes: the trials look at all of its containers, and the fixture of
//! `fixtures/compose` has fixed networks.

use std::fs::File;

/// Waits for the turn, which ends when the file is dropped.
pub fn wait_for_turn() -> File {
    let file = File::create(std::env::temp_dir().join("leakcheck-docker-tests.lock")).expect("a file for the lock");
    file.lock().expect("the lock");
    file
}
