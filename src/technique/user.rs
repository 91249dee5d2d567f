//! Sockets that belong to somebody else: firewalls and rules tell users apart by who made the socket (`meta skuid`, `-m owner`, uidrange).
//!
//! The kernel takes the owner of a socket from the file system user of the thread that makes it, so no process has to be started and the
//! thread keeps its other powers (setfsuid(2); `sock_alloc` and `alloc_file` in the kernel).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A user and its first group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} group {}", self.uid, self.gid)
    }
}

/// No user has this id; asked for it, the kernel changes nothing and tells the present one.
const ASK: u32 = u32::MAX;

/// Runs `make` with the calling thread's file system user being `user`, and is itself again after.
///
/// # Errors
/// When the thread may not become that user: without CAP_SETUID and CAP_SETGID, or where the user namespace has no such user.
pub fn as_user<T>(user: &User, make: impl FnOnce() -> T) -> Result<T, String> {
    let before = now();
    let guard = Back(before.clone());
    become_user(user);
    if now() != *user {
        return Err(format!("{user} cannot be assumed, which needs CAP_SETUID and CAP_SETGID"));
    }
    let made = make();
    drop(guard);
    Ok(made)
}

/// Whether the calling thread may become that user.
pub fn can_be(user: &User) -> bool {
    as_user(user, || ()).is_ok()
}

struct Back(User);

impl Drop for Back {
    fn drop(&mut self) {
        become_user(&self.0);
    }
}

fn become_user(user: &User) {
    // The group first: it is allowed by a capability that a change of user leaves alone, but needs no order to be undone.
    // SAFETY: plain system calls of the calling thread; what they did is asked for afterwards.
    unsafe {
        libc::setfsgid(user.gid);
        libc::setfsuid(user.uid);
    }
}

fn now() -> User {
    // SAFETY: an impossible id changes nothing.
    let (uid, gid) = unsafe { (libc::setfsuid(ASK), libc::setfsgid(ASK)) };
    User { uid: uid.cast_unsigned(), gid: gid.cast_unsigned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_socket_belongs_to_whom_it_was_made_as() {
        let other = User { uid: 1000, gid: 1001 };
        let before = now();
        let made = as_user(&other, || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None));
        assert_eq!(now(), before, "the thread is itself again");
        let root = before == User { uid: 0, gid: 0 };
        match made {
            Ok(socket) => {
                let socket = std::fs::File::from(std::os::fd::OwnedFd::from(socket.unwrap()));
                assert_eq!(socket.metadata().unwrap().uid(), other.uid);
            }
            Err(reason) => assert!(!root || reason.contains("CAP_SETUID"), "{reason}"),
        }
    }
}
