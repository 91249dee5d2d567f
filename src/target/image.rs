//! The image of the agent, made from the running program alone: the program, and the shared objects that it has mapped when it is
//! linked dynamically. It is loaded and not built: no registry, no builder and no file on the disk is needed, and an engine that is left
//! alone in the middle has either all of it or nothing.

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::fs;
use std::hash::Hasher as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::{ImportImageOptionsBuilder, ListImagesOptions, RemoveImageOptions};
use futures_util::TryStreamExt;
use ring::digest::{SHA256, digest};
use serde_json::json;

use super::docker::{Engine, asked};
use super::error::TargetError;
use super::sweep::{IMAGE, LABEL};

/// Repository of the images; the tag is a hash of what is inside.
const REPOSITORY: &str = "leakcheck-agent";

/// Where the program is here.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Where the program is inside.
const PROGRAM: &str = "/leakcheck";

/// Time between two questions for health, patience for each, time in which they may fail, and how many may fail in a row after it.
const HEALTH_EVERY: Duration = Duration::from_secs(1);
const HEALTH_PATIENCE: Duration = Duration::from_secs(3);
const HEALTH_START: Duration = Duration::from_secs(20);
const HEALTH_TRIES: u32 = 5;

/// What an image says of itself beside its program.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// Labels.
    pub labels: HashMap<String, String>,
    /// Arguments of the program when a container gives none.
    pub command: Vec<String>,
    /// Arguments of the program by which Docker asks for health once a second.
    pub health: Option<Vec<String>>,
}

/// Finds the image of this very program, or makes it; its name and tag.
pub async fn ensure(engine: &Engine) -> Result<String, TargetError> {
    let files = read_own_files().await?;
    let tag = format!("{REPOSITORY}:{}", hash(&files));
    match engine.docker.inspect_image(&tag).await {
        Ok(_) => return Ok(tag),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
        Err(source) => return Err(asked("look for the agent's image")(source)),
    }
    let labels = HashMap::from([(LABEL.to_owned(), IMAGE.to_owned())]);
    load(engine, &tag, &files, &Manner { labels, ..Manner::default() }).await?;
    remove_stale(engine, &tag).await;
    Ok(tag)
}

/// Makes an image of this very program under a name of one's own. The image that had the name before is removed, unless a container
/// still uses it.
pub async fn make_as(engine: &Engine, tag: &str, manner: &Manner) -> Result<(), TargetError> {
    let tag = &complete(tag);
    let before = id_of(engine, tag).await;
    load(engine, tag, &read_own_files().await?, manner).await?;
    if let Some(before) = before
        && id_of(engine, tag).await.is_some_and(|now| now != before)
    {
        drop(engine.docker.remove_image(&before, None::<RemoveImageOptions>, None).await);
    }
    Ok(())
}

/// A name with the tag that Docker takes where none is given, which it does not take for an image that is loaded.
fn complete(name: &str) -> String {
    let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if has_tag { name.to_owned() } else { format!("{name}:latest") }
}

async fn id_of(engine: &Engine, tag: &str) -> Option<String> {
    engine.docker.inspect_image(tag).await.ok()?.id
}

async fn read_own_files() -> Result<Vec<Content>, TargetError> {
    tokio::task::spawn_blocking(own_files).await.map_err(|panic| TargetError::Image { message: panic.to_string() })?
}

/// A file of the image: its absolute path there, and its content.
struct Content {
    path: String,
    bytes: Vec<u8>,
}

/// The program first, then its interpreter and libraries at the paths at which they were found here.
fn own_files() -> Result<Vec<Content>, TargetError> {
    let read = |from: &str, path: &str| match fs::read(from) {
        Ok(bytes) => Ok(Content { path: path.to_owned(), bytes }),
        Err(source) => Err(TargetError::OwnProgram { path: from.to_owned(), source }),
    };
    let mut files = vec![read(OWN_PROGRAM, PROGRAM)?];
    for path in shared_objects() {
        files.push(read(&path, &path)?);
    }
    Ok(files)
}

/// Absolute paths of the shared objects of this process, by the names under which the loader found them: the interpreter is named as
/// the program names it, and a library by its soname, which `/proc/self/maps` would not tell when they are links. Empty when static.
fn shared_objects() -> Vec<String> {
    unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _size: usize, paths: *mut c_void) -> c_int {
        // SAFETY: the loader gives a valid entry, and `paths` is the vector that the caller below lends for the time of the call.
        let (name, paths) = unsafe { ((*info).dlpi_name, &mut *paths.cast::<Vec<String>>()) };
        if !name.is_null() {
            // SAFETY: a name that is not null is a C string that lives as long as the object is loaded.
            paths.push(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
        }
        0
    }
    let mut paths: Vec<String> = Vec::new();
    // SAFETY: `note` keeps to the signature, does not unwind, and uses the vector only during the call.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut paths).cast()) };
    // The program itself has no name, or this one where musl is linked into it, and the kernel's vDSO one without a slash.
    paths.retain(|path| path.starts_with('/') && path != OWN_PROGRAM);
    paths.sort();
    paths.dedup();
    paths
}

/// A hash that is stable for one build of the program, which is all that is compared.
fn hash(files: &[Content]) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    for file in files {
        hasher.write(file.path.as_bytes());
        hasher.write_usize(file.bytes.len());
        hasher.write(&file.bytes);
    }
    format!("{:016x}", hasher.finish())
}

/// The files as the one layer of the image.
fn layer(files: &[Content]) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::with_capacity(files.iter().map(|file| file.bytes.len() + 2048).sum()));
    for file in files {
        add(&mut builder, file.path.trim_start_matches('/'), 0o755, &file.bytes)?;
    }
    builder.into_inner()
}

/// The image as `docker save` writes one (Docker Image Specification 1.2): its layer, what it says of itself, and the list of both.
fn archive(tag: &str, files: &[Content], manner: &Manner) -> io::Result<Vec<u8>> {
    let layer = layer(files)?;
    let config = config(files, manner, &format!("sha256:{}", hex(&layer))).to_string();
    let name = format!("{}.json", hex(config.as_bytes()));
    let manifest = json!([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).to_string();
    let mut builder = tar::Builder::new(Vec::with_capacity(layer.len() + 8192));
    add(&mut builder, "manifest.json", 0o644, manifest.as_bytes())?;
    add(&mut builder, &name, 0o644, config.as_bytes())?;
    add(&mut builder, "layer.tar", 0o644, &layer)?;
    builder.into_inner()
}

/// What the image says of itself. Inside there is no cache of the loader, so it is told where the libraries are.
fn config(files: &[Content], manner: &Manner, layer: &str) -> serde_json::Value {
    let mut dirs: Vec<&str> = files[1..].iter().filter_map(|file| Path::new(&file.path).parent()?.to_str()).collect();
    dirs.dedup();
    let search = (!dirs.is_empty()).then(|| format!("LD_LIBRARY_PATH={}", dirs.join(":")));
    let health = manner.health.as_ref().map(|arguments| {
        let test: Vec<&str> = ["CMD", PROGRAM].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        // Docker counts in nanoseconds.
        let [every, patience, start] =
            [HEALTH_EVERY, HEALTH_PATIENCE, HEALTH_START].map(|time| time.as_secs() * 1_000_000_000);
        json!({"Test": test, "Interval": every, "Timeout": patience, "StartPeriod": start, "Retries": HEALTH_TRIES})
    });
    json!({
        "architecture": architecture(),
        "os": "linux",
        // Nothing of now: the same program makes the same image.
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": [PROGRAM],
            "Cmd": manner.command,
            "Env": search.as_slice(),
            "Labels": manner.labels,
            "Healthcheck": health,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": concat!("leakcheck ", env!("CARGO_PKG_VERSION"))}],
    })
}

fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    builder.append_data(&mut header, path, bytes)
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The architecture of this program, in Go's words, which are Docker's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn load(engine: &Engine, tag: &str, files: &[Content], manner: &Manner) -> Result<(), TargetError> {
    let failed = |message: String| TargetError::Image { message };
    let theirs = engine.docker.version().await.map_err(asked("ask the engine what it is"))?.arch.unwrap_or_default();
    if !theirs.is_empty() && theirs != architecture() {
        return Err(TargetError::Architecture { engine: theirs, own: architecture().to_owned() });
    }
    let archive = archive(tag, files, manner).map_err(|error| failed(error.to_string()))?;
    let options = ImportImageOptionsBuilder::default().quiet(true).build();
    let mut steps = std::pin::pin!(engine.docker.import_image(options, bollard::body_full(archive.into()), None));
    while let Some(step) = steps.try_next().await.map_err(asked("load the agent's image"))? {
        if let Some(message) = step.error_detail.and_then(|detail| detail.message) {
            return Err(failed(message));
        }
    }
    Ok(())
}

/// Removes images of earlier builds. One that cannot be removed is in use, or gone already: either is fine. One that has no name may be
/// about to get it, in another run's build.
async fn remove_stale(engine: &Engine, keep: &str) {
    let filters = [("label".to_owned(), vec![format!("{LABEL}={IMAGE}")])].into();
    let options = ListImagesOptions { filters: Some(filters), ..Default::default() };
    for image in engine.docker.list_images(Some(options)).await.unwrap_or_default() {
        if is_stale(&image.repo_tags, keep) {
            // No force: an image that a container still uses stays.
            drop(engine.docker.remove_image(&image.id, None::<RemoveImageOptions>, None).await);
        }
    }
}

/// Whether an image has a name of an image of agents, and not the one to keep.
fn is_stale(tags: &[String], keep: &str) -> bool {
    let ours: Vec<&str> = tags.iter().filter_map(|tag| own_name(tag)).collect();
    !ours.is_empty() && !ours.contains(&keep)
}

/// The name of an image of agents, without what Podman and others put before one that names no registry.
fn own_name(tag: &str) -> Option<&str> {
    let name = tag.strip_prefix("localhost/").or_else(|| tag.strip_prefix("docker.io/library/")).unwrap_or(tag);
    name.strip_prefix(REPOSITORY)?.starts_with(':').then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_brings_its_interpreter_and_libc() {
        let objects = shared_objects();
        let maps = fs::read_to_string("/proc/self/maps").expect("own maps");
        let is_dynamic = maps.lines().any(|line| line.contains("/ld-linux") || line.contains("/ld-musl"));
        assert_eq!(objects.iter().any(|path| path.contains("/ld-")), is_dynamic, "{objects:?}");
        assert!(objects.iter().all(|path| Path::new(path).exists()), "{objects:?}");
        let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).filter(|path| path.contains(".so"));
        for path in mapped {
            let stem = Path::new(path).file_name().and_then(|name| name.to_str()).expect("a name");
            let stem = stem.split(".so").next().expect("a stem");
            assert!(objects.iter().any(|object| object.contains(stem)), "{path} is mapped, and not among {objects:?}");
        }
    }

    #[test]
    fn the_tag_follows_the_content() {
        let file = |path: &str, bytes: &[u8]| Content { path: path.to_owned(), bytes: bytes.to_vec() };
        let one = hash(&[file("/leakcheck", b"one")]);
        assert_eq!(one, hash(&[file("/leakcheck", b"one")]));
        assert_ne!(one, hash(&[file("/leakcheck", b"two")]));
        assert_ne!(one, hash(&[file("/leakcheck", b"one"), file("/lib/x.so", b"")]));
    }

    /// The archive's files, by name.
    fn entries(archive: &[u8]) -> HashMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().expect("entries").map(|entry| {
            let mut entry = entry.expect("entry");
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes).expect("in memory");
            (entry.path().expect("path").display().to_string(), bytes)
        });
        entries.collect()
    }

    #[test]
    fn an_image_of_agents_is_known_by_its_name() {
        for tag in ["leakcheck-agent:1", "localhost/leakcheck-agent:1", "docker.io/library/leakcheck-agent:1"] {
            assert_eq!(own_name(tag), Some("leakcheck-agent:1"));
        }
        for tag in ["leakcheck-agents:1", "ghcr.io/somebody/leakcheck-agent:1", "<none>:<none>"] {
            assert_eq!(own_name(tag), None, "{tag}");
        }
    }

    #[test]
    fn a_name_without_a_tag_gets_one() {
        assert_eq!(complete("leakcheck-lab"), "leakcheck-lab:latest");
        assert_eq!(complete("localhost:5000/lab"), "localhost:5000/lab:latest");
        assert_eq!(complete("lab:2"), "lab:2");
    }

    #[test]
    fn the_archive_holds_every_file_at_its_place() {
        let files = [("/leakcheck", "program"), ("/lib64/ld.so", "loader"), ("/usr/lib/libc.so.6", "libc")];
        let files = files.map(|(path, text)| Content { path: path.to_owned(), bytes: text.into() });
        let manner = Manner { command: vec!["agent".to_owned()], ..Manner::default() };
        let outer = archive("leakcheck-agent:1", &files, &manner).expect("in memory");
        let outer = entries(&outer);
        let manifest: serde_json::Value = serde_json::from_slice(&outer["manifest.json"]).expect("JSON");
        assert_eq!(manifest[0]["RepoTags"], json!(["leakcheck-agent:1"]));
        let config = manifest[0]["Config"].as_str().expect("a name");
        assert_eq!(config, format!("{}.json", hex(&outer[config])));
        let config: serde_json::Value = serde_json::from_slice(&outer[config]).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", hex(&outer["layer.tar"]))]));
        assert_eq!(config["config"]["Env"], json!(["LD_LIBRARY_PATH=/lib64:/usr/lib"]));
        assert_eq!(
            (&config["config"]["Entrypoint"], &config["config"]["Cmd"]),
            (&json!(["/leakcheck"]), &json!(["agent"]))
        );
        let mut names: Vec<String> = entries(&outer["layer.tar"]).into_keys().collect();
        names.sort();
        assert_eq!(names, ["leakcheck", "lib64/ld.so", "usr/lib/libc.so.6"]);
        let alone = super::config(&files[..1], &manner, "");
        assert_eq!(alone["config"]["Env"], json!([]), "a static program needs none");
    }
}
