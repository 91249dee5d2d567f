//! The runner's part in putting back: the journal of the target, and working off what a dead run, or a dead agent, has left.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::session::{self, Session};
use super::{RunError, read_key};
use crate::agent::protocol::{Reply, Request};
use crate::outage::{Entry, Journal, JournalError, KeyFile, Recipe};
use crate::target::{Enter, FindOptions, Target, TargetError, TargetSpec};

/// How the key of a container's journal begins.
const OF_CONTAINERS: &str = "container-";
/// How long it is tried to have a container run as it did.
const CONTAINER_PATIENCE: Duration = Duration::from_secs(40);

/// The journal of the run's target, for the threads of a phase.
pub(super) struct Notebook {
    journal: Mutex<Option<Journal>>,
    /// That of the container, which outlives its namespace.
    container: Mutex<Option<Journal>>,
    folder: Option<PathBuf>,
    target: String,
    key: Option<KeyFile>,
}

impl Notebook {
    /// Opens and locks the journal of `target`. A run that changes nothing may do without one.
    ///
    /// # Errors
    /// When another run is at work on the target, or there is no place for a journal that is needed.
    pub(super) fn open(
        state_dir: Option<&Path>,
        target: &Target,
        key: Option<KeyFile>,
        needed: bool,
    ) -> Result<Self, RunError> {
        let open = |key: String| match Journal::folder(state_dir).and_then(|folder| Journal::open(&folder, &key)) {
            Ok(journal) => Ok(Some(journal)),
            Err(error) if needed || matches!(error, JournalError::Busy { .. }) => Err(error),
            Err(_) => Ok(None),
        };
        let journal = open(target.key())?;
        let container = match target.container() {
            Some(container) => open(format!("{OF_CONTAINERS}{}", container.id))?,
            None => None,
        };
        let key = key.and_then(|key| Some(KeyFile { path: std::path::absolute(key.path).ok()?, ..key }));
        let container = Mutex::new(container);
        let folder = Journal::folder(state_dir).ok();
        Ok(Self { journal: Mutex::new(journal), container, folder, target: target.label.clone(), key })
    }

    /// From now on `target` is in another namespace, whose changes are written down under its own name.
    ///
    /// # Errors
    /// When another run is at work there, or there is no place for a journal.
    pub(super) fn follow(&self, target: &Target) -> Result<(), RunError> {
        let folder = self.folder.as_deref().ok_or(JournalError::NoFolder)?;
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        // Where the namespace is not to be seen its name is the container's, and stays.
        *journal = None;
        *journal = Some(Journal::open(folder, &target.key())?);
        Ok(())
    }

    /// What is left to be put back.
    pub(super) fn left(&self) -> Option<Entry> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.entry()
    }

    /// Writes down what is about to be changed.
    ///
    /// # Errors
    /// Why nothing may be changed.
    pub(super) fn write(&self, method: &str, recipe: Recipe) -> Result<(), String> {
        self.note(&self.journal, method, recipe)
    }

    /// As [`Notebook::write`], for what is done to the container itself.
    ///
    /// # Errors
    /// Why nothing may be done.
    pub(super) fn write_container(&self, method: &str, recipe: Recipe) -> Result<(), String> {
        self.note(&self.container, method, recipe)
    }

    fn note(&self, journal: &Mutex<Option<Journal>>, method: &str, recipe: Recipe) -> Result<(), String> {
        let target = self.target.clone();
        let entry = Entry { target, method: method.to_owned(), recipe, key: self.key.clone() };
        match journal.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(journal) => journal.write(&entry).map_err(|error| format!("failed to {error}; {}", error.help())),
            None => Err("there is no journal in which to note what has to be put back".to_owned()),
        }
    }

    /// What is left of the container to be put back.
    pub(super) fn left_container(&self) -> Option<Entry> {
        self.container.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.entry()
    }

    /// Crosses out what is put back.
    pub(super) fn cross_out(&self) {
        Self::cross(&self.journal);
    }

    /// Crosses out what is put back of the container.
    pub(super) fn cross_out_container(&self) {
        Self::cross(&self.container);
    }

    fn cross(journal: &Mutex<Option<Journal>>) {
        if let Some(journal) = journal.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // If it cannot be, the next run looks again and finds that nothing is to be done.
            let _ = journal.cross_out();
        }
    }
}

/// Has Docker put back what is left of a container. `false`: there is no such container any more, and nothing left of it.
///
/// # Errors
/// What is still not as it was.
pub(super) fn work_off_container(runtime: &Runtime, entry: &Entry) -> Result<bool, RunError> {
    runtime.block_on(async {
        let is_gone = async || match entry.recipe.container() {
            Some(container) => container.is_gone().await,
            None => false,
        };
        if is_gone().await {
            return Ok(false);
        }
        match entry.recipe.work_off(None, CONTAINER_PATIENCE).await {
            Ok(()) => Ok(true),
            Err(_) if is_gone().await => Ok(false),
            Err(why) => Err(RunError::NotPutBack { method: entry.method.clone(), why, help: None }),
        }
    })
}

/// Works off what dead runs have left of containers, before a target is looked for: a container that does not run is none. What other runs
/// are at is left alone.
///
/// # Errors
/// What is still not as it was.
pub(super) fn work_off_containers(
    runtime: &Runtime,
    state_dir: Option<&Path>,
    target: Option<&TargetSpec>,
) -> Result<Vec<Entry>, RunError> {
    // Without a folder there is nothing in it.
    let Ok(folder) = Journal::folder(state_dir) else { return Ok(Vec::new()) };
    let mut done = Vec::new();
    for key in Journal::keys(&folder).iter().filter(|key| key.starts_with(OF_CONTAINERS)) {
        let Ok(mut journal) = Journal::open(&folder, key) else { continue };
        let Some(entry) = journal.entry().filter(|entry| concerns(entry, target)) else { continue };
        let was_there = work_off_container(runtime, &entry)?;
        journal.cross_out()?;
        if was_there {
            done.push(entry);
        }
    }
    Ok(done)
}

/// Whether somebody who names `target` may mean the container of `entry`.
fn concerns(entry: &Entry, target: Option<&TargetSpec>) -> bool {
    match (target, entry.recipe.container()) {
        (None, Some(_)) => true,
        // A compose service is part of its container's name.
        (Some(TargetSpec::Docker(name)), Some(container)) => {
            container.name.contains(name.as_str()) || container.id.starts_with(name.as_str())
        }
        _ => false,
    }
}

/// Has the agent of `session`, which need not have been started, put back what is left.
///
/// # Errors
/// What is still not as it was.
pub(super) fn work_off(session: &Session, entry: &Entry) -> Result<(), RunError> {
    let key = entry.key.as_ref().map(read_key).transpose()?;
    let failed = |why, help| RunError::NotPutBack { method: entry.method.clone(), why, help };
    match session.insist(Request::PutBack { recipe: Box::new(entry.recipe.clone()), key }) {
        Ok(Reply::Done) => Ok(()),
        Ok(Reply::Failed { what, help }) => Err(failed(what, help)),
        Ok(_) => Err(failed("the agent gave an answer that does not fit".to_owned(), None)),
        Err(why) => Err(failed(why, None)),
    }
}

/// As [`work_off`], by an agent of its own.
///
/// # Errors
/// As [`work_off`], and when no agent gets in.
pub(super) fn work_off_anew(runtime: &Runtime, target: &Target, enter: Enter, entry: &Entry) -> Result<(), RunError> {
    let process = runtime.block_on(target.launch(enter, true))?;
    let session = Arc::new(Session::open(runtime.handle(), process, None));
    session::watch_signals(runtime.handle(), &session);
    let result = work_off(&session, entry);
    // How the agent ended is of no interest once the stack is as it was.
    let _ = session.end();
    result
}

/// What became of one journal.
pub enum Restored {
    /// The stack is as it was before the outage by this method.
    PutBack(Entry),
    /// The stack is gone, and what was changed with it.
    Gone(Entry),
    /// The journal was empty.
    Nothing,
}

/// Works off the journals that dead runs left: that of `target`, or all.
///
/// # Errors
/// For each journal, and for `target` itself, what went wrong.
pub fn restore(
    state_dir: Option<&Path>,
    target: Option<&TargetSpec>,
    enter: Enter,
) -> Result<Vec<Result<Restored, RunError>>, RunError> {
    let runtime = super::runtime()?;
    let folder = Journal::folder(state_dir)?;
    if let Some(spec) = target {
        // Only when it runs again can it be found.
        let mended = work_off_containers(&runtime, state_dir, Some(spec))?;
        if !mended.is_empty() {
            return Ok(mended.into_iter().map(|entry| Ok(Restored::PutBack(entry))).collect());
        }
    }
    let keys = match target {
        Some(spec) => vec![runtime.block_on(Target::find(Some(spec), &FindOptions::default()))?.key()],
        None => Journal::keys(&folder),
    };
    Ok(keys.iter().map(|key| restore_one(&runtime, &folder, key, enter)).collect())
}

fn restore_one(runtime: &Runtime, folder: &Path, key: &str, enter: Enter) -> Result<Restored, RunError> {
    let mut journal = Journal::open(folder, key)?;
    let Some(entry) = journal.entry() else { return Ok(Restored::Nothing) };
    if entry.recipe.container().is_some() {
        let was_there = work_off_container(runtime, &entry)?;
        journal.cross_out()?;
        return Ok(if was_there { Restored::PutBack(entry) } else { Restored::Gone(entry) });
    }
    let spec: TargetSpec = entry.target.parse()?;
    let restored = match runtime.block_on(Target::find(Some(&spec), &FindOptions::default())) {
        Ok(target) => {
            work_off_anew(runtime, &target, enter, &entry)?;
            Restored::PutBack(entry)
        }
        Err(TargetError::NoContainer { .. } | TargetError::NoNetns { .. } | TargetError::NoProcess { .. }) => {
            Restored::Gone(entry)
        }
        Err(error) => return Err(error.into()),
    };
    journal.cross_out()?;
    Ok(restored)
}
