//! Where the Docker engine is: by `DOCKER_HOST`, a Docker context or the sockets that engines use, in the order of Docker's own command line
//! (`resolveContextName` and `ResolveDefaultContext` of docker/cli). Only words and files: nothing here connects.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::Deserialize;

use super::error::TargetError;
use crate::config::without_secrets;

/// The context that means: no context.
const DEFAULT: &str = "default";

/// Address of an engine, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `unix:///path`, `tcp://host:port` or `ssh://user@host:port`.
    pub host: String,
    /// Set where a `tcp://` address speaks TLS.
    pub tls: Option<Tls>,
    /// Who says so.
    pub origin: Origin,
}

/// What is needed to speak TLS with an engine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Tls {
    /// Folder with `ca.pem`, `cert.pem` and `key.pem`.
    pub dir: PathBuf,
    /// Whether the engine's certificate has to be good.
    pub verify: bool,
}

/// Where an address was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The caller, or a journal.
    Given,
    /// `DOCKER_HOST`.
    Variable,
    /// Nothing was said: the first socket that is there.
    Default,
    /// A context, and what chose it.
    Context { name: String, by: String },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = without_secrets(&self.host);
        let host = host.escape_debug();
        match &self.origin {
            Origin::Given => write!(f, "{host}"),
            Origin::Variable => write!(f, "{host} (as DOCKER_HOST says)"),
            Origin::Default => write!(f, "{host} (the default)"),
            Origin::Context { name, by } => write!(f, "{host} (by the context `{}` of {by})", name.escape_debug()),
        }
    }
}

/// The environment, as far as it says where the engine is.
pub struct Environment<F> {
    variable: F,
}

impl Environment<fn(&str) -> Option<String>> {
    /// That of this process.
    pub fn own() -> Self {
        Self { variable: |name| std::env::var(name).ok() }
    }
}

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    /// The engine that `docker` would speak to from here.
    ///
    /// # Errors
    /// When a context is named and is not there, or a file of Docker's settings cannot be understood.
    pub fn address(&self) -> Result<Address, TargetError> {
        // An address in the environment is for now; a context that was chosen by `docker context use` stands for longer.
        if let Some(host) = self.get("DOCKER_HOST") {
            return Ok(Address { host, tls: self.tls(), origin: Origin::Variable });
        }
        match self.context()? {
            Some((name, by)) => self.of_context(name, by),
            None if self.tls().is_some() => {
                Ok(Address { host: "tcp://localhost:2376".to_owned(), tls: self.tls(), origin: Origin::Default })
            }
            None => Ok(self.default_socket()),
        }
    }

    /// The address that somebody named; TLS is as the environment says.
    pub fn given(&self, host: &str) -> Address {
        Address { host: host.to_owned(), tls: self.tls(), origin: Origin::Given }
    }

    /// A variable that is set and not empty: to Docker an empty one is none.
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// Docker's folder of settings.
    fn settings(&self) -> Option<PathBuf> {
        let of_home = || self.get("HOME").map(|home| Path::new(&home).join(".docker"));
        self.get("DOCKER_CONFIG").map(PathBuf::from).or_else(of_home).map(absolute)
    }

    /// TLS as the variables want it. To Docker every value that is not empty means yes.
    fn tls(&self) -> Option<Tls> {
        let verify = self.get("DOCKER_TLS_VERIFY").is_some();
        if !verify && self.get("DOCKER_TLS").is_none() {
            return None;
        }
        let dir = self.get("DOCKER_CERT_PATH").map(PathBuf::from).map(absolute).or_else(|| self.settings());
        Some(Tls { dir: dir.unwrap_or_default(), verify })
    }

    /// Name of the context that is in force, and who says so.
    fn context(&self) -> Result<Option<(String, String)>, TargetError> {
        #[derive(Deserialize)]
        struct Settings {
            #[serde(rename = "currentContext")]
            current: Option<String>,
        }
        if let Some(name) = self.get("DOCKER_CONTEXT") {
            return Ok((name != DEFAULT).then(|| (name, "DOCKER_CONTEXT".to_owned())));
        }
        let Some(file) = self.settings().map(|dir| dir.join("config.json")) else { return Ok(None) };
        let Some(settings) = read::<Settings>(&file)? else { return Ok(None) };
        let name = settings.current.filter(|name| !name.is_empty() && name != DEFAULT);
        Ok(name.map(|name| (name, file.display().to_string())))
    }

    fn of_context(&self, name: String, by: String) -> Result<Address, TargetError> {
        #[derive(Deserialize)]
        struct Meta {
            #[serde(rename = "Endpoints", default)]
            endpoints: Endpoints,
        }
        #[derive(Deserialize, Default)]
        struct Endpoints {
            docker: Option<Endpoint>,
        }
        #[derive(Deserialize)]
        struct Endpoint {
            #[serde(rename = "Host", default)]
            host: String,
            #[serde(rename = "SkipTLSVerify", default)]
            skip_verify: bool,
        }
        let contexts = self.settings().unwrap_or_default().join("contexts");
        let folder = folder_of(&name);
        let meta = read::<Meta>(&contexts.join("meta").join(&folder).join("meta.json"))?;
        let Some(endpoint) = meta.and_then(|meta| meta.endpoints.docker) else {
            return Err(TargetError::NoContext { name, by, known: known(&contexts.join("meta")) });
        };
        let origin = Origin::Context { name, by };
        if endpoint.host.is_empty() {
            return Ok(Address { origin, ..self.default_socket() });
        }
        let dir = contexts.join("tls").join(folder).join("docker");
        let with_tls = dir.is_dir() || endpoint.skip_verify;
        let tls = with_tls.then_some(Tls { dir, verify: !endpoint.skip_verify });
        Ok(Address { host: endpoint.host, tls, origin })
    }

    /// Docker's own socket, else that of a rootless Docker or of Podman, where one of them is there.
    fn default_socket(&self) -> Address {
        let docker = PathBuf::from("/var/run/docker.sock");
        let runtime = self.get("XDG_RUNTIME_DIR").map(PathBuf::from);
        let of_user = runtime.iter().flat_map(|dir| [dir.join("docker.sock"), dir.join("podman/podman.sock")]);
        let others = of_user.chain([PathBuf::from("/run/podman/podman.sock")]);
        let found = std::iter::once(docker.clone()).chain(others).find(|path| path.exists()).unwrap_or(docker);
        Address { host: format!("unix://{}", found.display()), tls: None, origin: Origin::Default }
    }
}

/// What a journal keeps is read by processes that may stand elsewhere.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The folder of a context: the SHA-256 of its name.
fn folder_of(name: &str) -> String {
    digest(&SHA256, name.as_bytes()).as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Names of the contexts that are there.
fn known(meta: &Path) -> Vec<String> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "Name")]
        name: String,
    }
    let folders = fs::read_dir(meta).into_iter().flatten().flatten();
    let named = folders.filter_map(|folder| read::<Named>(&folder.path().join("meta.json")).ok()??.name.into());
    let mut names: Vec<String> = named.collect();
    names.sort();
    names
}

/// A JSON file of Docker's; `None` when there is none, or it is another user's and not for us: Docker goes on without it as well.
fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, TargetError> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => return Ok(None),
        Err(source) => return Err(TargetError::DockerSettings { path: path.display().to_string(), source }),
    };
    // Not the parser's own words beyond the place: the file may hold passwords of registries.
    let refused = |error: serde_json::Error| {
        let what = format!("it is not as Docker writes it, at line {} column {}", error.line(), error.column());
        TargetError::DockerSettings { path: path.display().to_string(), source: io::Error::other(what) }
    };
    serde_json::from_str(&text).map(Some).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home with the contexts `nas` (by ssh) and `lab` (with TLS), and what its environment says.
    fn address(home: &Path, config: &str, variables: &[(&str, &str)]) -> Result<Address, TargetError> {
        let docker = home.join(".docker");
        for (name, endpoint) in [
            ("nas", r#"{"Host": "ssh://me@nas", "SkipTLSVerify": false}"#),
            ("lab", r#"{"Host": "tcp://lab:2376"}"#),
            ("lax", r#"{"Host": "tcp://lax:2376", "SkipTLSVerify": true}"#),
        ] {
            let folder = docker.join("contexts/meta").join(folder_of(name));
            fs::create_dir_all(&folder).unwrap();
            let text = format!(r#"{{"Name": "{name}", "Metadata": {{}}, "Endpoints": {{"docker": {endpoint}}}}}"#);
            fs::write(folder.join("meta.json"), text).unwrap();
        }
        fs::create_dir_all(docker.join("contexts/tls").join(folder_of("lab")).join("docker")).unwrap();
        fs::write(docker.join("config.json"), config).unwrap();
        let home = home.display().to_string();
        let variable = |name: &str| {
            let set = variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            set.or_else(|| (name == "HOME").then(|| home.clone()))
        };
        Environment { variable }.address()
    }

    const USES_NAS: &str = r#"{"auths": {}, "currentContext": "nas"}"#;

    #[test]
    fn the_order_is_that_of_docker() {
        let home = tempfile::tempdir().unwrap();
        let host = |config: &str, variables: &[(&str, &str)]| {
            let address = address(home.path(), config, variables).unwrap();
            (address.host.clone(), address.to_string().replace(&home.path().display().to_string(), "~"))
        };
        let all = [("DOCKER_HOST", "tcp://other:2375"), ("DOCKER_CONTEXT", "lab")];
        assert_eq!(host(USES_NAS, &all).1, "tcp://other:2375 (as DOCKER_HOST says)");
        assert_eq!(host(USES_NAS, &all[1..]).1, "tcp://lab:2376 (by the context `lab` of DOCKER_CONTEXT)");
        assert_eq!(host(USES_NAS, &[]).1, "ssh://me@nas (by the context `nas` of ~/.docker/config.json)");
        // An empty variable is none, and `default` is the way back to no context.
        assert_eq!(host(USES_NAS, &[("DOCKER_HOST", ""), ("DOCKER_CONTEXT", "")]).0, "ssh://me@nas");
        assert!(host(USES_NAS, &[("DOCKER_CONTEXT", "default")]).0.starts_with("unix://"));
        assert!(host("{}", &[]).0.starts_with("unix://"));
        assert_eq!(host("{}", &[("DOCKER_TLS_VERIFY", "1")]).0, "tcp://localhost:2376");
        assert_eq!(host("{}", &[("DOCKER_CONFIG", "/nonexistent")]).1, host("{}", &[]).1);
    }

    #[test]
    fn an_address_is_told_without_what_logs_in() {
        for (host, shown) in [
            ("tcp://me:hunter2@nas:2375", "tcp://…@nas:2375"),
            ("tcp://hunter2@nas", "tcp://…@nas"),
            ("tcp://me:hun/?#ter2@nas", "tcp://…@nas"),
            ("me:hunter2@nas", "…@nas"),
            ("tcp://nas:2375/?token=hunter2", "tcp://nas:2375/?…"),
            ("ssh://me:hunter2@nas", "ssh://…@nas"),
            ("ssh://me@nas:22/run/x.sock", "ssh://me@nas:22/run/x.sock"),
            ("unix:///var/run/docker.sock", "unix:///var/run/docker.sock"),
        ] {
            assert_eq!(Environment::own().given(host).to_string(), shown);
        }
    }

    #[test]
    fn tls_comes_from_the_variables_or_with_the_context() {
        let home = tempfile::tempdir().unwrap();
        let tls = |variables: &[(&str, &str)]| address(home.path(), "{}", variables).unwrap().tls;
        let docker = home.path().join(".docker");
        let host = ("DOCKER_HOST", "tcp://other:2376");
        assert_eq!(tls(&[host]), None);
        assert_eq!(
            tls(&[host, ("DOCKER_TLS_VERIFY", "0"), ("DOCKER_CERT_PATH", "/certs")]),
            Some(Tls { dir: "/certs".into(), verify: true }),
            "Docker takes every value for yes"
        );
        assert_eq!(tls(&[host, ("DOCKER_TLS", "1")]), Some(Tls { dir: docker.clone(), verify: false }));
        // What a context has of its own is not mixed with the variables.
        let of = |name: &str| docker.join("contexts/tls").join(folder_of(name)).join("docker");
        let context = |name| tls(&[("DOCKER_CONTEXT", name), ("DOCKER_CERT_PATH", "/certs")]);
        assert_eq!(context("lab"), Some(Tls { dir: of("lab"), verify: true }));
        assert_eq!(context("lax"), Some(Tls { dir: of("lax"), verify: false }));
        assert_eq!(context("nas"), None);
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let home = tempfile::tempdir().unwrap();
        let error = address(home.path(), "{}", &[("DOCKER_CONTEXT", "nass")]).unwrap_err();
        let TargetError::NoContext { name, by, known } = &error else { panic!("{error:?}") };
        assert_eq!((name.as_str(), by.as_str(), known.join(" ").as_str()), ("nass", "DOCKER_CONTEXT", "lab lax nas"));
        assert!(error.help().is_some_and(|help| help.contains("DOCKER_CONTEXT=nas")), "{:?}", error.help());
    }

    #[test]
    fn settings_that_are_broken_are_refused_and_not_shown() {
        let home = tempfile::tempdir().unwrap();
        let error = address(home.path(), r#"{"auths": {"hunter2"}}"#, &[]).unwrap_err();
        assert!(matches!(error, TargetError::DockerSettings { .. }), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn a_folder_is_named_as_docker_names_it() {
        // printf default | sha256sum
        assert_eq!(folder_of("default"), "37a8eec1ce19687d132fe29051dca629d164e2c4958ba141d5f4133a33f0688f");
    }
}
