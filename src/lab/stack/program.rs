//! A program that shares the stack's network, as a torrent client does: a process of its own, with a set of capabilities and a resolv.conf
//! of its own.

use crate::lab::leak::Capability;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::ffi::CString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Capabilities of later kernels than this many are refused by the present one, which is no harm.
const LAST: u32 = 63;
/// Where programs look for their resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// And for the machine's own name services.
const NAME_SERVICES: [&str; 2] = ["/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"];

/// A running program; ends when dropped, or with the thread that started it.
pub struct Program(Child);

/// The text of a resolv.conf that names these.
#[must_use]
pub fn resolv_conf(nameservers: &[IpAddr]) -> String {
    nameservers.iter().map(|ip| format!("nameserver {ip}\n")).collect()
}

impl Program {
    /// Starts one in the calling thread's network namespace that holds `powers` and no other capability, and whose resolv.conf is
    /// `resolvers`, as it is for a container with files of its own. It only waits.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(powers: &[Capability], resolvers: &str) -> io::Result<Self> {
        let kept: u64 = powers.iter().fold(0, |bits, power| bits | 1 << power.bit());
        let mut command = Command::new("sleep");
        command.arg("86400").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let files = OwnFiles::new(resolvers)?;
        // SAFETY: between fork and exec nothing but plain system calls is made; all memory that they need is there already.
        unsafe {
            command.pre_exec(move || {
                if let Some(files) = &files {
                    files.take()?;
                }
                // What the bounding set lacks no program gets at exec, root's neither (capabilities(7)).
                for bit in (0..=LAST).filter(|bit| kept >> bit & 1 == 0) {
                    libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit), 0, 0, 0);
                }
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
        }
        command.spawn().map(Self)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What gives a process a mount namespace with a resolv.conf of its own.
struct OwnFiles {
    /// Where a file system in memory is put, over whatever is there: the process needs none of it.
    memory: CString,
    source: CString,
    target: CString,
    text: Vec<u8>,
    /// Sockets of the machine's own name services, which a container does not see.
    sockets: Vec<CString>,
}

impl OwnFiles {
    /// `None` where there is no file to put another one over: an empty image has none, and nothing in it reads one.
    fn new(text: &str) -> io::Result<Option<Self>> {
        if !Path::new(RESOLV_CONF).exists() {
            return Ok(None);
        }
        let memory = fs::canonicalize(std::env::temp_dir())?;
        let path = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other);
        Ok(Some(Self {
            source: path(&memory.join("resolv.conf"))?,
            memory: path(&memory)?,
            target: path(Path::new(RESOLV_CONF))?,
            text: text.as_bytes().to_vec(),
            sockets: NAME_SERVICES
                .map(Path::new)
                .into_iter()
                .filter(|at| at.exists())
                .map(path)
                .collect::<Result<_, _>>()?,
        }))
    }

    /// Takes them for the calling process. Allocates nothing.
    fn take(&self) -> io::Result<()> {
        let nothing = None::<&std::ffi::CStr>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            Some(c"program"),
            self.memory.as_c_str(),
            Some(c"tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            nothing,
        )?;
        // SAFETY: the path ends with a zero, and the text is as long as it is said to be.
        unsafe {
            let file = libc::open(self.source.as_ptr(), libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC, 0o644);
            if file < 0 || libc::write(file, self.text.as_ptr().cast(), self.text.len()) < 0 {
                return Err(io::Error::last_os_error());
            }
            libc::close(file);
        }
        for socket in &self.sockets {
            mount(Some(c"/dev/null"), socket.as_c_str(), nothing, MsFlags::MS_BIND, nothing)?;
        }
        Ok(mount(Some(self.source.as_c_str()), self.target.as_c_str(), nothing, MsFlags::MS_BIND, nothing)?)
    }
}
