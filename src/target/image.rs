//! The image of the agent, made from the running program alone: `FROM scratch`, the program, and the shared objects that it has
//! mapped when it is linked dynamically. No registry and no file on the disk is needed.

use std::ffi::{CStr, c_int, c_void};
use std::fs;
use std::hash::Hasher as _;
use std::path::Path;

use bollard::errors::Error;
use bollard::query_parameters::{BuildImageOptionsBuilder, ListImagesOptions, RemoveImageOptions};
use futures_util::TryStreamExt;

use super::docker::{Engine, asked};
use super::error::TargetError;
use super::sweep::{IMAGE, LABEL};

/// Repository of the images; the tag is a hash of what is inside.
const REPOSITORY: &str = "leakcheck-agent";

/// Where the program is inside.
const PROGRAM: &str = "/leakcheck";

/// Finds the image of this very program, or builds it; its name and tag.
pub async fn ensure(engine: &Engine) -> Result<String, TargetError> {
    let files = read_own_files().await?;
    let tag = format!("{REPOSITORY}:{}", hash(&files));
    match engine.docker.inspect_image(&tag).await {
        Ok(_) => return Ok(tag),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
        Err(source) => return Err(asked("look for the agent's image")(source)),
    }
    build(engine, &tag, &files, &format!("LABEL {LABEL}={IMAGE}\n")).await?;
    remove_stale(engine, &tag).await;
    Ok(tag)
}

/// Builds an image of this very program under a name of one's own, with more lines for its recipe (`CMD`, `HEALTHCHECK` …). The image
/// that had the name before is removed, unless a container still uses it.
pub async fn build_as(engine: &Engine, tag: &str, instructions: &str) -> Result<(), TargetError> {
    let before = id_of(engine, tag).await;
    build(engine, tag, &read_own_files().await?, instructions).await?;
    if let Some(before) = before
        && id_of(engine, tag).await.is_some_and(|now| now != before)
    {
        drop(engine.docker.remove_image(&before, None::<RemoveImageOptions>, None).await);
    }
    Ok(())
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
    let mut files = vec![read("/proc/self/exe", PROGRAM)?];
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
    // The program itself has no name, and the kernel's vDSO one without a slash.
    paths.retain(|path| path.starts_with('/'));
    paths.sort();
    paths.dedup();
    paths
}

/// The recipe of the image. Inside there is no cache of the loader, so it is told where the libraries are.
fn recipe(files: &[Content], instructions: &str) -> String {
    let mut dirs: Vec<&str> = files[1..].iter().filter_map(|file| Path::new(&file.path).parent()?.to_str()).collect();
    dirs.dedup();
    let search = if dirs.is_empty() { String::new() } else { format!("ENV LD_LIBRARY_PATH={}\n", dirs.join(":")) };
    format!("FROM scratch\nCOPY root/ /\n{search}ENTRYPOINT [\"{PROGRAM}\"]\n{instructions}")
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

/// The context of the build: a recipe, and the files below `root`.
fn context(files: &[Content], instructions: &str) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::with_capacity(files.iter().map(|file| file.bytes.len() + 2048).sum()));
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, path, bytes)
    };
    add("Dockerfile", recipe(files, instructions).as_bytes())?;
    for file in files {
        add(&format!("root{}", file.path), &file.bytes)?;
    }
    builder.into_inner()
}

async fn build(engine: &Engine, tag: &str, files: &[Content], instructions: &str) -> Result<(), TargetError> {
    let failed = |message: String| TargetError::Image { message };
    let context = context(files, instructions).map_err(|error| failed(error.to_string()))?;
    let options = BuildImageOptionsBuilder::default().t(tag).rm(true).forcerm(true).build();
    let body = bollard::body_full(context.into());
    let mut steps = std::pin::pin!(engine.docker.build_image(options, None, Some(body)));
    while let Some(step) = steps.try_next().await.map_err(asked("build the agent's image"))? {
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
    let ours = format!("{REPOSITORY}:");
    for image in engine.docker.list_images(Some(options)).await.unwrap_or_default() {
        if image.repo_tags.iter().any(|tag| tag.starts_with(&ours)) && !image.repo_tags.iter().any(|tag| tag == keep) {
            // No force: an image that a container still uses stays.
            drop(engine.docker.remove_image(&image.id, None::<RemoveImageOptions>, None).await);
        }
    }
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

    #[test]
    fn the_context_holds_every_file_at_its_place() {
        let files = [("/leakcheck", "program"), ("/lib64/ld.so", "loader"), ("/usr/lib/libc.so.6", "libc")];
        let files = files.map(|(path, text)| Content { path: path.to_owned(), bytes: text.into() });
        let bytes = context(&files, "CMD [\"agent\"]\n").expect("in memory");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = archive
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("entry").path().expect("path").display().to_string())
            .collect();
        assert_eq!(names, ["Dockerfile", "root/leakcheck", "root/lib64/ld.so", "root/usr/lib/libc.so.6"]);
        assert_eq!(
            recipe(&files, "CMD [\"agent\"]\n"),
            "FROM scratch\nCOPY root/ /\nENV LD_LIBRARY_PATH=/lib64:/usr/lib\nENTRYPOINT [\"/leakcheck\"]\nCMD [\"agent\"]\n"
        );
        assert!(!recipe(&files[..1], "").contains("LD_LIBRARY_PATH"), "a static program needs none");
    }
}
