//! Services that a program's C library asks for names by a socket in the file system, before or instead of the servers of its resolv.conf:
//! nscd(8), which glibc asks wherever it runs, and systemd-resolved where nsswitch.conf(5) names its module (nss-resolve(8)). A network
//! namespace does not hide them, as a socket is reached by its path. One that somebody outside of the namespace listens on asks from there.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const NSCD: &str = "run/nscd/socket";
const RESOLVED: &str = "run/systemd/resolve/io.systemd.Resolve";

/// The path of one that this process would ask, and that is outside of its network.
pub(super) fn outside(pid: u32) -> Option<PathBuf> {
    let held = fs::read_to_string(format!("/proc/{pid}/net/unix")).ok()?;
    asked(Path::new(&format!("/proc/{pid}/root")), &held)
}

/// `held`: the sockets of the namespace's own programs (proc_net_unix, the path at the end of each line).
fn asked(root: &Path, held: &str) -> Option<PathBuf> {
    let inside = |path: &str| held.lines().any(|line| line.ends_with(&format!("/{path}")));
    let answers = |path: &&str| !inside(path) && UnixStream::connect(root.join(path)).is_ok();
    let resolve = Some(RESOLVED).filter(|_| is_switched_to_resolve(root));
    let path = [Some(NSCD), resolve].into_iter().flatten().find(answers)?;
    Some(Path::new("/").join(path))
}

fn is_switched_to_resolve(root: &Path) -> bool {
    let text = fs::read_to_string(root.join("etc/nsswitch.conf")).unwrap_or_default();
    let hosts = text.lines().filter_map(|line| line.trim_start().strip_prefix("hosts:"));
    hosts.flat_map(str::split_whitespace).any(|word| word == "resolve")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn who_listens_outside_is_found_and_nobody_else() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let listen = |path: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            UnixListener::bind(at(path)).unwrap()
        };
        assert_eq!(asked(root.path(), ""), None);
        let resolved = listen(RESOLVED);
        assert_eq!(asked(root.path(), ""), None, "its module is not asked");
        fs::create_dir_all(at("etc")).unwrap();
        fs::write(at("etc/nsswitch.conf"), "passwd: files\nhosts: files resolve [!UNAVAIL=return] dns\n").unwrap();
        assert_eq!(asked(root.path(), ""), Some(PathBuf::from("/run/systemd/resolve/io.systemd.Resolve")));
        let held = "0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/systemd/resolve/io.systemd.Resolve\n";
        assert_eq!(asked(root.path(), held), None, "one of the namespace's own programs listens");
        drop(resolved);
        assert_eq!(asked(root.path(), ""), None, "nobody listens any more");
        let _nscd = listen(NSCD);
        assert_eq!(asked(root.path(), held), Some(PathBuf::from("/run/nscd/socket")));
    }
}
