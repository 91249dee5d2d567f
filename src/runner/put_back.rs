//! The runner's part in putting back: the journal of the target, and working off what a dead run, or a dead agent, has left.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Runtime;

use super::session::{self, Session};
use super::{RunError, read_key};
use crate::agent::protocol::{Reply, Request};
use crate::outage::{Entry, Journal, JournalError, Recipe};
use crate::target::{Enter, FindOptions, Target, TargetError, TargetSpec};

/// The journal of the run's target, for the threads of a phase.
pub(super) struct Notebook {
    journal: Mutex<Option<Journal>>,
    target: String,
    api_key_file: Option<PathBuf>,
}

impl Notebook {
    /// Opens and locks the journal of `target`. A run that changes nothing may do without one.
    ///
    /// # Errors
    /// When another run is at work on the target, or there is no place for a journal that is needed.
    pub(super) fn open(
        state_dir: Option<&Path>,
        target: &Target,
        api_key_file: Option<&Path>,
        needed: bool,
    ) -> Result<Self, RunError> {
        let journal = match Journal::folder(state_dir).and_then(|folder| Journal::open(&folder, &target.key())) {
            Ok(journal) => Some(journal),
            Err(error) if needed || matches!(error, JournalError::Busy { .. }) => return Err(error.into()),
            Err(_) => None,
        };
        let api_key_file = api_key_file.and_then(|path| std::path::absolute(path).ok());
        Ok(Self { journal: Mutex::new(journal), target: target.label.clone(), api_key_file })
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
        let target = self.target.clone();
        let entry = Entry { target, method: method.to_owned(), recipe, api_key_file: self.api_key_file.clone() };
        match self.journal.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(journal) => journal.write(&entry).map_err(|error| format!("failed to {error}; {}", error.help())),
            None => Err("there is no journal in which to note what has to be put back".to_owned()),
        }
    }

    /// Crosses out what is put back.
    pub(super) fn cross_out(&self) {
        if let Some(journal) = self.journal.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // If it cannot be, the next run looks again and finds that nothing is to be done.
            let _ = journal.cross_out();
        }
    }
}

/// Has the agent of `session`, which need not have been started, put back what is left.
///
/// # Errors
/// What is still not as it was.
pub(super) fn work_off(session: &Session, entry: &Entry) -> Result<(), RunError> {
    let api_key = entry.api_key_file.as_deref().map(read_key).transpose()?;
    let failed = |why, help| RunError::NotPutBack { method: entry.method.clone(), why, help };
    match session.insist(Request::PutBack { recipe: Box::new(entry.recipe.clone()), api_key }) {
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
    let session = Arc::new(Session::open(runtime, process, None));
    session::watch_signals(runtime, &session);
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
    let keys = match target {
        Some(spec) => vec![runtime.block_on(Target::find(Some(spec), &FindOptions::default()))?.key()],
        None => Journal::keys(&folder),
    };
    Ok(keys.iter().map(|key| restore_one(&runtime, &folder, key, enter)).collect())
}

fn restore_one(runtime: &Runtime, folder: &Path, key: &str, enter: Enter) -> Result<Restored, RunError> {
    let mut journal = Journal::open(folder, key)?;
    let Some(entry) = journal.entry() else { return Ok(Restored::Nothing) };
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
