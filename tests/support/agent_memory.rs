//! What an agent has resident at its peak, watched from outside: the kernel keeps the mark (proc(5), VmHWM), and the last look before the
//! agent ends is what counts.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::Duration;

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits for `checker`, which runs an audit, to end; the greatest peak of the agents among its children, in KiB. `None`: there was none.
pub fn watch(checker: &mut Child) -> std::io::Result<Option<u64>> {
    let mut peak = None;
    while checker.try_wait()?.is_none() {
        for child in children(checker.id()) {
            let process = Path::new("/proc").join(child);
            // One that has just been forked is still its parent.
            if fs::read(process.join("cmdline")).is_ok_and(|line| line.starts_with(b"leakcheck\0agent\0")) {
                peak = peak.max(resident(&process));
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(peak)
}

fn children(pid: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_thread = |path: std::path::PathBuf| fs::read_to_string(path.join("children")).unwrap_or_default();
    threads
        .flat_map(|thread| of_thread(thread.path()).split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn resident(process: &Path) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}
