//! The agent as a container that joins the stack's network: what it may do, its streams, and its end. The image is made elsewhere.

use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::docker::{Engine, asked};
use super::error::TargetError;
use super::image;
use super::process::{AgentHandle, AgentProcess, Behind, Tail};
use super::sweep;

/// Room in each stream between the engine and the runner, in bytes.
const ROOM: usize = 256 * 1024;

/// Patience for the engine to remove a container that was killed.
const REMOVAL: Duration = Duration::from_secs(10);

/// Patience for the word on how a container ended that is removed already.
const AFTER_REMOVAL: Duration = Duration::from_secs(1);

/// What [`AgentProcess::how`] is.
pub(super) const HOW: &str = "container";

/// A container of ours that was started; the engine removes it when its process ends.
pub(super) struct Joined {
    engine: Engine,
    id: String,
    end: JoinHandle<Option<String>>,
}

/// Starts the agent in a container that shares the network of the container `owner`.
pub async fn launch(engine: &Engine, owner: &str, admin: bool) -> Result<AgentProcess, TargetError> {
    // It sends as the users of the stack's programs too, whom firewalls can tell apart.
    let mut capabilities = ["NET_RAW", "SETUID", "SETGID"].map(str::to_owned).to_vec();
    if admin {
        capabilities.push("NET_ADMIN".to_owned());
    }
    launch_with(engine, &format!("container:{owner}"), &capabilities).await
}

/// Starts the agent in a container in the network namespace of the engine's host, with the right to listen and no other.
pub async fn launch_on_host(engine: &Engine) -> Result<AgentProcess, TargetError> {
    launch_with(engine, "host", &["NET_RAW".to_owned()]).await
}

/// Starts the agent in a container on this network (a network mode of Docker's), with the right to send echo requests and no other.
pub async fn launch_to_ask(engine: &Engine, network: &str) -> Result<AgentProcess, TargetError> {
    launch_with(engine, network, &["NET_RAW".to_owned()]).await
}

/// Starts the agent in a container on the network of this name, with no right at all: it is to ask what anybody there may ask.
pub async fn launch_beside(engine: &Engine, network: &str) -> Result<AgentProcess, TargetError> {
    launch_with(engine, network, &[]).await
}

async fn launch_with(engine: &Engine, network: &str, capabilities: &[String]) -> Result<AgentProcess, TargetError> {
    let mut unstarted = Unstarted::new(engine);
    let id = match create(engine, &unstarted.name, network, capabilities).await {
        // Another leakcheck may have removed the image as one of an earlier build, just after it was found.
        Err(TargetError::Docker { source: Error::DockerResponseServerError { status_code: 404, .. }, .. }) => {
            create(engine, &unstarted.name, network, capabilities).await?
        }
        other => other?,
    };
    let started = start(engine, &id).await;
    match &started {
        Ok(_) => unstarted.engine = None,
        Err(_) => unstarted.remove().await,
    }
    started
}

/// A container that may have been made and does not run, so that the engine does not remove it by itself: it is removed when this is
/// dropped, as it is when nobody waits for the start any more.
struct Unstarted {
    /// `None` when there is nothing to remove.
    engine: Option<Engine>,
    name: String,
}

impl Unstarted {
    fn new(engine: &Engine) -> Self {
        let name = format!("leakcheck-agent-{}-{:08x}", std::process::id(), rand::random::<u32>());
        Self { engine: Some(engine.clone()), name }
    }

    async fn remove(&mut self) {
        if let Some(engine) = self.engine.take() {
            remove(&engine, &self.name).await;
        }
    }
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        if let (Some(engine), Ok(runtime)) = (self.engine.take(), tokio::runtime::Handle::try_current()) {
            let name = std::mem::take(&mut self.name);
            runtime.spawn(async move { remove(&engine, &name).await });
        }
    }
}

/// Makes the container; its id.
async fn create(engine: &Engine, name: &str, network: &str, capabilities: &[String]) -> Result<String, TargetError> {
    let image = image::ensure(engine).await?;
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let body = recipe(image, network, capabilities);
    let made = engine.docker.create_container(Some(options), body).await;
    Ok(made.map_err(asked("create the agent's container"))?.id)
}

/// Everything that is not needed is taken away: the agent is to look at a network, and at nothing else of the host.
fn recipe(image: String, network: &str, capabilities: &[String]) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(image),
        cmd: Some(vec!["agent".to_owned()]),
        labels: Some(sweep::labels()),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        // The engine closes the agent's input when our connection ends, however we end.
        stdin_once: Some(true),
        tty: Some(false),
        host_config: Some(HostConfig {
            network_mode: Some(network.to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(capabilities.to_vec()),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            readonly_rootfs: Some(true),
            auto_remove: Some(true),
            // What the agent says is evidence, and is not to stay in the engine's logs.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn start(engine: &Engine, id: &str) -> Result<AgentProcess, TargetError> {
    let options = AttachContainerOptionsBuilder::default().stream(true).stdin(true).stdout(true).stderr(true).build();
    let attached =
        engine.docker.attach_container(id, Some(options)).await.map_err(asked("attach to the agent's container"))?;
    let end = tokio::spawn(removal(engine.clone(), id.to_owned()));
    if let Err(source) = engine.docker.start_container(id, None).await {
        end.abort();
        return Err(asked("start the agent's container")(source));
    }
    let tail = Tail::default();
    let (stdin, to_agent) = tokio::io::duplex(ROOM);
    let (stdout, from_agent) = tokio::io::duplex(ROOM);
    tokio::spawn(pump_in(to_agent, attached.input));
    let pump = tokio::spawn(pump_out(attached.output, from_agent, tail.clone()));
    let joined = Joined { engine: engine.clone(), id: id.to_owned(), end };
    let handle = AgentHandle::new(Behind::Container(joined), tail, pump);
    Ok(AgentProcess { stdin: Box::pin(stdin), stdout: Box::pin(stdout), how: HOW, handle })
}

/// Waits until the container is removed; how it ended, when not well. When it was gone before the engine took the question, nobody
/// knows how it ended: then the streams tell. Two questions, for Podman answers the second one alike however it ended.
async fn removal(engine: Engine, id: String) -> Option<String> {
    let mut exit = std::pin::pin!(ill_end(&engine, &id, "next-exit"));
    let mut removed = std::pin::pin!(ill_end(&engine, &id, "removed"));
    tokio::select! {
        status = &mut exit => removed.await.or(status),
        status = &mut removed => status.or(timeout(AFTER_REMOVAL, exit).await.unwrap_or_default()),
    }
}

/// Waits until the container is as `condition` says, in Docker's words; how it ended, when not well.
async fn ill_end(engine: &Engine, id: &str, condition: &str) -> Option<String> {
    let options = WaitContainerOptionsBuilder::default().condition(condition).build();
    match engine.docker.wait_container(id, Some(options)).next().await {
        Some(Err(Error::DockerContainerWaitError { code, .. })) => Some(format!("status {code}")),
        _ => None,
    }
}

/// Passes the runner's words on, and its hanging up too: the connection has two directions, and dropping one would not end it.
async fn pump_in(mut from: DuplexStream, mut to: Pin<Box<dyn AsyncWrite + Send>>) {
    // Errors on either side mean that this direction is over.
    drop(tokio::io::copy(&mut from, &mut to).await);
    drop(to.shutdown().await);
}

/// Parts what the engine sends into standard output and standard error, to the end, whether or not somebody still listens.
async fn pump_out(mut parts: impl Stream<Item = Result<LogOutput, Error>> + Unpin, to: DuplexStream, stderr: Tail) {
    let mut to = Some(to);
    while let Some(Ok(part)) = parts.next().await {
        match part {
            LogOutput::StdErr { message } => stderr.push(&message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                if let Some(mut stream) = to.take()
                    && stream.write_all(&message).await.is_ok()
                {
                    to = Some(stream);
                }
            }
            LogOutput::StdIn { .. } => {}
        }
    }
}

impl Joined {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the container to be removed; how it ended, when not well.
    pub(super) async fn end(mut self, patience: Duration) -> Result<Option<String>, TargetError> {
        match timeout(patience, &mut self.end).await {
            Ok(ended) => Ok(ended.unwrap_or_default()),
            Err(_) => {
                remove(&self.engine, &self.id).await;
                drop(timeout(REMOVAL, &mut self.end).await);
                Err(TargetError::AgentStuck { patience })
            }
        }
    }
}

/// Kills and removes a container. That it is gone already is as good.
async fn remove(engine: &Engine, id: &str) {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    drop(engine.docker.remove_container(id, Some(options)).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_may_do_no_more_than_it_needs() {
        let needed = ["NET_RAW", "NET_ADMIN"].map(str::to_owned);
        let host = recipe("leakcheck-agent:1".to_owned(), "container:abc", &needed).host_config.expect("a host config");
        assert_eq!(host.cap_drop.as_deref(), Some(&["ALL".to_owned()][..]));
        assert_eq!(host.cap_add.as_deref(), Some(&needed[..]));
        assert_eq!(host.network_mode.as_deref(), Some("container:abc"));
        assert_eq!((host.readonly_rootfs, host.privileged, host.binds), (Some(true), None, None));
    }
}
