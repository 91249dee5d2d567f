//! The probes: built in, or from a folder of the user's; checked, ordered, and selected by name. Asks none of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::model::probe::{Phase, Probe};
use crate::near::nearest;

/// Reads a text as a probe, for [`crate::untrusted`].
#[cfg(feature = "lab")]
pub(crate) fn understand(text: &str) {
    let mut catalog = Catalog { probes: Vec::new() };
    let _ = catalog.add("probe", "probe.toml", text).map(|()| catalog.check_techniques(&["uplink"]).is_ok());
}

#[cfg(test)]
mod tests;

/// The files of `probes/`: id and text.
const PROBES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/probes.rs"));

/// The order of groups in reports; groups that a user adds come after them.
const GROUPS: [&str; 9] = ["exit", "dns", "ipv6", "uplink", "torrent", "outage", "local", "wire", "stack"];

/// Probes in the order of reports, each id once.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    probes: Vec<Probe>,
}

/// A probe that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A folder or file of probes cannot be read.
    #[error("read the probes in {}", path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A folder holds no `*.toml`.
    #[error("find a probe: {} holds no file that ends in .toml", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// The file is no probe.
    #[error("use the probe {file}:{line}: {message}")]
    Parse {
        /// The file, or the id of a probe that is built in.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The file is a probe that makes no sense.
    #[error("use the probe {file}: {message}")]
    Invalid {
        /// The file, or the id of a probe that is built in.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// No probe has this id.
    #[error("find the probe `{id}`")]
    Unknown {
        /// What was asked for.
        id: String,
        /// The id that was probably meant.
        near: Option<String>,
    },
    /// A filter selects nothing.
    #[error("find a trial by the filter `{filter}`{}", if *quick { ": what it names is asked in an outage only, and this run makes none" } else { "" })]
    NoMatch {
        /// The filter.
        filter: String,
        /// The name that was probably meant.
        near: Option<String>,
        /// It would have selected something if there were an outage.
        quick: bool,
    },
    /// Every trial is skipped.
    #[error("find a trial: every one that the filters name is skipped")]
    AllSkipped,
}

impl CatalogError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            CatalogError::NoMatch { quick: true, .. } => Some("leave --quick out".to_owned()),
            CatalogError::NoMatch { near: Some(near), .. } | CatalogError::Unknown { near: Some(near), .. } => {
                Some(format!("did you mean `{near}`?"))
            }
            CatalogError::NoMatch { .. } | CatalogError::Unknown { .. } => {
                Some("`leakcheck list` shows what there is".to_owned())
            }
            CatalogError::AllSkipped => Some("drop one of the --skip".to_owned()),
            CatalogError::Read { .. } | CatalogError::Empty { .. } => {
                Some("--probes takes a folder of probe files, shaped like those in probes/ of the project".to_owned())
            }
            CatalogError::Parse { .. } | CatalogError::Invalid { .. } => {
                Some("the files in probes/ of the project show what fits".to_owned())
            }
        }
    }
}

impl Catalog {
    /// The probes that are built in.
    ///
    /// # Errors
    /// When one of them is no probe; a test keeps that from being released.
    pub fn builtin() -> Result<Self, CatalogError> {
        let mut catalog = Catalog { probes: Vec::new() };
        for (id, text) in PROBES {
            catalog.add(id, &format!("{id}.toml"), text)?;
        }
        catalog.sort();
        Ok(catalog)
    }

    /// Adds every `*.toml` of `dir`.
    ///
    /// # Errors
    /// When the folder cannot be read or is empty, when a file is no probe, or when its id is taken.
    pub fn with_dir(mut self, dir: &Path) -> Result<Self, CatalogError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| CatalogError::Read { path, source }
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).map_err(unreadable(dir))? {
            let path = entry.map_err(unreadable(dir))?.path();
            if path.extension().is_some_and(|ext| ext == "toml") {
                files.push(path);
            }
        }
        if files.is_empty() {
            return Err(CatalogError::Empty { path: dir.to_owned() });
        }
        files.sort();
        for path in files {
            let text = fs::read_to_string(&path).map_err(unreadable(&path))?;
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            self.add(&id, &path.display().to_string(), &text)?;
        }
        self.sort();
        Ok(self)
    }

    /// Checks that every technique that a probe names is one of `techniques`.
    ///
    /// # Errors
    /// Names the first probe that asks for another one.
    pub fn check_techniques(&self, techniques: &[&str]) -> Result<(), CatalogError> {
        for probe in &self.probes {
            if !techniques.contains(&probe.technique.as_str()) {
                let message = format!(
                    "unknown technique `{}`, there are {}",
                    probe.technique,
                    quoted(techniques.iter().copied())
                );
                return Err(CatalogError::Invalid { file: format!("{}.toml", probe.id), message });
            }
        }
        Ok(())
    }

    /// The probes, in the order of reports.
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// The probe of this id.
    ///
    /// # Errors
    /// [`CatalogError::Unknown`] with the nearest id.
    pub fn get(&self, id: &str) -> Result<&Probe, CatalogError> {
        self.probes.iter().find(|probe| probe.id == id).ok_or_else(|| CatalogError::Unknown {
            id: id.to_owned(),
            near: nearest(id, self.probes.iter().map(|probe| probe.id.as_str())).map(str::to_owned),
        })
    }

    /// Every asking of every probe, in the order of a run: all of phase `up`, then per outage method its `outage` and
    /// its `recovered`.
    pub fn trials<'a>(&'a self, methods: &[&str]) -> Vec<Trial<'a>> {
        let of = |phase: Phase, method: Option<&str>| {
            let asked = self.probes.iter().filter(move |probe| probe.phases.contains(&phase));
            let method = method.map(str::to_owned);
            asked.map(move |probe| Trial { probe, phase, method: method.clone() }).collect::<Vec<_>>()
        };
        let mut trials = of(Phase::Up, None);
        for method in methods {
            trials.extend(of(Phase::Outage, Some(method)));
            trials.extend(of(Phase::Recovered, Some(method)));
        }
        trials
    }

    /// The trials of [`Catalog::trials`] that `selection` lets through.
    ///
    /// # Errors
    /// When a filter, or the whole selection, selects nothing: a run that asks nothing would look like one that found nothing.
    pub fn select<'a>(&'a self, methods: &[&str], selection: &Selection) -> Result<Vec<Trial<'a>>, CatalogError> {
        let trials = self.trials(methods);
        for filter in &selection.filters {
            if trials.iter().any(|trial| selection.hits(filter, &trial.name())) {
                continue;
            }
            // Any method will do: with none given the names of outages are not to be had otherwise.
            let with_outage = self.trials(&["vpn-stop", "link-down"]);
            let quick = methods.is_empty() && with_outage.iter().any(|trial| selection.hits(filter, &trial.name()));
            let names: Vec<String> = trials.iter().map(Trial::name).collect();
            let ids = self.probes.iter().map(|probe| probe.id.as_str());
            let near = nearest(filter, ids.chain(names.iter().map(String::as_str))).map(str::to_owned);
            return Err(CatalogError::NoMatch { filter: filter.clone(), near, quick });
        }
        let chosen: Vec<_> = trials.into_iter().filter(|trial| selection.takes(&trial.name())).collect();
        if chosen.is_empty() { Err(CatalogError::AllSkipped) } else { Ok(chosen) }
    }

    /// Parses and checks one file.
    fn add(&mut self, id: &str, file: &str, text: &str) -> Result<(), CatalogError> {
        let mut probe: Probe = toml::from_str(text).map_err(|e| CatalogError::Parse {
            file: file.to_owned(),
            line: e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            message: e.message().to_owned(),
        })?;
        probe.id = id.to_owned();
        check(&probe, &self.probes).map_err(|message| CatalogError::Invalid { file: file.to_owned(), message })?;
        self.probes.push(probe);
        Ok(())
    }

    fn sort(&mut self) {
        let rank = |group: &str| GROUPS.iter().position(|known| *known == group).unwrap_or(GROUPS.len());
        self.probes.sort_by(|a, b| (rank(&a.group), &a.group, &a.id).cmp(&(rank(&b.group), &b.group, &b.id)));
    }
}

/// What no type can say about a probe.
fn check(probe: &Probe, others: &[Probe]) -> Result<(), String> {
    let kebab = |text: &str| {
        text.split('-')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
    };
    if !kebab(&probe.id) {
        return Err(format!("the file's name `{}` is its id: lower-case letters, digits and single hyphens", probe.id));
    }
    if others.iter().any(|other| other.id == probe.id) {
        return Err("another probe has this id".to_owned());
    }
    if !kebab(&probe.group) {
        return Err(format!("`group` is `{}`: lower-case letters, digits and single hyphens", probe.group));
    }
    if probe.phases.is_empty() {
        return Err("`phases` is empty, so that it would never be asked".to_owned());
    }
    if probe.phases.iter().collect::<BTreeSet<_>>().len() < probe.phases.len() {
        return Err("`phases` names one phase twice".to_owned());
    }
    let texts = [
        ("title", &probe.title),
        ("claim", &probe.claim),
        ("technique", &probe.technique),
        ("why", &probe.why),
        ("limits", &probe.limits),
        ("fix", &probe.fix),
    ];
    match texts.iter().find(|(_, text)| text.trim().is_empty()) {
        Some((key, _)) => Err(format!("`{key}` is empty")),
        None if probe.title.contains('\n') => Err("`title` is longer than one line".to_owned()),
        None => Ok(()),
    }
}

/// `a`, `b` and so on.
fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// One asking of a probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial<'a> {
    /// The probe.
    pub probe: &'a Probe,
    /// When it is asked.
    pub phase: Phase,
    /// The outage method, in the phases `outage` and `recovered`.
    pub method: Option<String>,
}

impl Trial<'_> {
    /// See [`Probe::name`].
    pub fn name(&self) -> String {
        self.probe.name(self.phase, self.method.as_deref())
    }
}

/// Which trials are wanted, in the manner of `cargo test`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// A trial is wanted if any of these is part of its name; none: all are.
    pub filters: Vec<String>,
    /// Filters and skips are whole names and not parts.
    pub exact: bool,
    /// A trial is not wanted if any of these is part of its name.
    pub skip: Vec<String>,
}

impl Selection {
    fn hits(&self, filter: &str, name: &str) -> bool {
        if self.exact { name == filter } else { name.contains(filter) }
    }

    /// Whether a trial of this name is wanted.
    pub fn takes(&self, name: &str) -> bool {
        (self.filters.is_empty() || self.filters.iter().any(|filter| self.hits(filter, name)))
            && !self.skip.iter().any(|skip| self.hits(skip, name))
    }
}
