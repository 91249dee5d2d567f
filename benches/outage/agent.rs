//! The agent in the lab's stack, asked for outages alone.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use leakcheck::agent::protocol::{Envelope, OutageOrder, PROTOCOL, Reply, Request, Setup, read_frame, write_frame};
use leakcheck::clock::Clock;
use leakcheck::lab::{Lab, plan};
use leakcheck::model::evidence::{OutageEvidence, PhaseWire};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::runtime::Runtime;

const TRIAL: &str = "kill-switch/outage/bench";
/// Questions by which the two clocks are compared.
const COMPARED: usize = 20;

/// A running agent.
pub struct Agent {
    runtime: Runtime,
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    clock: Clock,
    /// What the agent's clock reads when the bench's reads nought.
    ahead_ms: f64,
    next: u64,
}

/// An outage that was made.
pub struct Made {
    pub evidence: OutageEvidence,
    pub wire: PhaseWire,
    pub took: Duration,
    ahead_ms: f64,
}

impl Made {
    /// A time of the bench's clock in milliseconds of the outage.
    pub fn at_ms(&self, bench_ms: f64) -> f64 {
        bench_ms + self.ahead_ms - self.evidence.from_ms
    }
}

impl Agent {
    pub fn start(lab: &Lab) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let clock = Clock::starting_at(0.0);
        let mut command = Command::new(env!("CARGO_BIN_EXE_leakcheck"));
        command.arg("agent").arg("--netns").arg(lab.stack_netns());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = runtime.block_on(async { command.spawn() })?;
        let input = child.stdin.take().context("the agent has no input")?;
        let output = child.stdout.take().context("the agent has no output")?;
        let mut agent = Self { runtime, child, input, output, clock, ahead_ms: 0.0, next: 1 };
        match agent.ask(Request::Start(Box::new(setup(lab, &clock)?)), |_| Ok(()))? {
            Reply::Started(_) => {}
            other => bail!("the agent could not be started: {other:?}"),
        }
        agent.compare()?;
        Ok(agent)
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The two clocks are the same but for when they began, which is known best from the quickest answer.
    fn compare(&mut self) -> Result<()> {
        let mut best = f64::INFINITY;
        for _ in 0..COMPARED {
            let before = self.clock.now_ms();
            let params = serde_json::json!({ "at_least_ms": 0 });
            let request = Request::Run { trial: TRIAL.to_owned(), technique: "listen".to_owned(), params };
            let Reply::Evidence(evidence) = self.ask(request, |_| Ok(()))? else { bail!("the agent tells no time") };
            let after = self.clock.now_ms();
            if after - before < best {
                best = after - before;
                self.ahead_ms = evidence.to_ms - (before + after) / 2.0;
            }
        }
        println!("clocks compared to within {:.2} ms", best / 2.0);
        Ok(())
    }

    /// Makes one; `told` hears when the tunnel is down (`true`) and about to be put back.
    pub fn outage(&mut self, method: &str, window: Duration, mut told: impl FnMut(bool) -> Result<()>) -> Result<Made> {
        let Reply::Done = self.ask(Request::OpenPhase, |_| Ok(()))? else { bail!("the phase could not be opened") };
        let began = Instant::now();
        match self.ask(Request::Arm(method.to_owned()), |_| Ok(()))? {
            Reply::Armed(_) => {}
            other => bail!("the outage could not be armed: {other:?}"),
        }
        let order = OutageOrder {
            method: method.to_owned(),
            window_ms: window.as_millis() as u64,
            recovery_ms: 20_000,
            trial: TRIAL.to_owned(),
            flows_v6: None,
            home: vec![plan::ip(plan::HOME), plan::ip(plan::STACK_GUA)],
        };
        let evidence = match self.ask(Request::Outage(order), |note| told(note.ends_with("is down")))? {
            Reply::Outage(evidence) => *evidence,
            other => bail!("there was no outage: {other:?}"),
        };
        let took = began.elapsed();
        let Reply::Wire(wire) = self.ask(Request::ClosePhase, |_| Ok(()))? else { bail!("the phase was not closed") };
        if evidence.down_proof.is_none() || evidence.recovered_ms.is_none() {
            bail!("the outage was none: {:?} {:?}", evidence.problems, evidence.gave_up);
        }
        Ok(Made { evidence, wire, took, ahead_ms: self.ahead_ms })
    }

    pub fn stop(mut self) -> Result<()> {
        let Reply::Done = self.ask(Request::Stop, |_| Ok(()))? else { bail!("the agent would not stop") };
        self.runtime.block_on(self.child.wait())?;
        Ok(())
    }

    fn ask(&mut self, body: Request, mut note: impl FnMut(&str) -> Result<()>) -> Result<Reply> {
        let id = self.next;
        self.next += 1;
        let (input, output) = (&mut self.input, &mut self.output);
        self.runtime.block_on(async {
            write_frame(input, &Envelope { id, body }).await?;
            loop {
                match read_frame::<Envelope<Reply>>(output).await?.context("the agent has ended")? {
                    Envelope { body: Reply::Note(text), .. } => note(&text)?,
                    Envelope { id: of, body } if of == id => return Ok(body),
                    Envelope { .. } => {}
                }
            }
        })
    }
}

fn setup(lab: &Lab, clock: &Clock) -> Result<Setup> {
    let nets = [plan::BRIDGE_NET, plan::LAN_NET, plan::BRIDGE_ULA, plan::BRIDGE_GUA];
    Ok(Setup {
        protocol: PROTOCOL,
        elapsed_ms: clock.now_ms(),
        nonce: rand::random(),
        tunnel: Some(plan::TUNNEL.to_owned()),
        endpoint: Some(plan::socket(plan::ENDPOINT)),
        local: nets.iter().map(|net| net.parse()).collect::<Result<_, _>>()?,
        resolv_conf: std::fs::read_to_string(lab.stack_resolv_conf())?,
        resolv_files: vec![lab.stack_resolv_conf().to_owned()],
        resolvers: vec![plan::ip(plan::TUNNEL_RESOLVER)],
        echo_http: vec!["https://am.i.mullvad.net/json".to_owned()],
        echo_stun: vec![("stun.l.google.com".to_owned(), 19302)],
        extra_ca: Some(std::fs::read_to_string(lab.ca())?),
        mullvad: true,
        forced: vec!["8.8.8.8".parse()?],
        canary: "example.com".to_owned(),
        must_reach: vec!["tcp://172.18.0.20:8989".to_owned()],
        control_server: lab.control_server().to_owned(),
        container: None,
        dependents: Vec::new(),
        control_key: None,
        host_programs: true,
        down: command("stopped"),
        up: command("running"),
        ..Setup::default()
    })
}

/// What tells the lab's VPN to be in that state.
fn command(state: &str) -> Vec<String> {
    ["/proc/self/exe", "lab", "vpn", state].map(str::to_owned).into()
}
