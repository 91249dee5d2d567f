//! A network namespace with a thread that lives in it and runs everything that happens there.

use crate::net::netns::{Netns, NetnsError, spawn_in};
use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread;
use tokio::sync::oneshot;

/// Why something could not be done in a namespace.
#[derive(Debug, thiserror::Error)]
pub enum RealmError {
    /// The namespace could not be made or entered.
    #[error("{0}")]
    Netns(&'static str, #[source] NetnsError),
    /// Its thread has no runtime.
    #[error("start a runtime in a namespace")]
    Runtime(#[source] io::Error),
    /// Its thread ended, or the work panicked.
    #[error("get an answer from the namespace {0}")]
    Gone(String),
}

/// A namespace and its thread. Dropping it ends the thread, and with it every socket and task that it held.
pub struct Realm {
    name: String,
    netns: Netns,
    runtime: tokio::runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Result<Result<(), RealmError>, NetnsError>>>,
}

impl Realm {
    /// A new, empty namespace.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(name: &str) -> Result<Self, RealmError> {
        Self::of(name, Netns::create().map_err(|e| RealmError::Netns("make a namespace", e))?)
    }

    /// A thread in a namespace that exists.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn of(name: &str, netns: Netns) -> Result<Self, RealmError> {
        let (stop, stopped) = oneshot::channel();
        let (ready, runtime) = mpsc::sync_channel(1);
        let thread = spawn_in(&netns, &format!("lab-{name}"), move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RealmError::Runtime)?;
            // If nobody waits for the handle, the sender of `stopped` is gone too and the thread ends at once.
            let _ = ready.send(runtime.handle().clone());
            let _ = runtime.block_on(stopped);
            Ok(())
        })
        .map_err(|e| RealmError::Netns("start a thread in a namespace", e))?;
        let Ok(runtime) = runtime.recv() else {
            let outcome = thread.join().map_err(|_| RealmError::Gone(name.to_owned()))?;
            outcome.map_err(|e| RealmError::Netns("enter a namespace", e))??;
            return Err(RealmError::Gone(name.to_owned()));
        };
        Ok(Self { name: name.to_owned(), netns, runtime, stop: Some(stop), thread: Some(thread) })
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its runtime, on which tasks run in the namespace from wherever they are spawned. Not for `spawn_blocking`, whose
    /// threads would be in the namespace of whoever calls it.
    #[must_use]
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    /// Runs `work` in the namespace and blocks until it is done. Not to be called from one of the lab's own threads.
    ///
    /// # Errors
    /// When the thread is gone or the work panicked.
    pub fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<T, RealmError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send,
    {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            let value = work().await;
            // Nobody waits any more only if the caller's thread died.
            let _ = sender.send(value);
        });
        receiver.recv().map_err(|_| RealmError::Gone(self.name.clone()))
    }

    /// As [`Realm::run`] for work that does not wait for anything.
    ///
    /// # Errors
    /// When the thread is gone or the work panicked.
    pub fn call<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, RealmError> {
        self.run(move || async move { work() })
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // How the thread ended matters to nobody any more.
            let _ = thread.join();
        }
    }
}
