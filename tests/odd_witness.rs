//! The whole program against witnesses that are down, lie or talk nonsense: one that answers properly is enough, none makes
//! inconclusive, one that sees what must not be seen makes red. Nothing hangs, nothing panics.
//!
//! Where no lab can be made the trials are shown as ignored; with `LEAKCHECK_LAB=required` they fail.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use leakcheck::model::report::{ProbeResult, Report, VerdictWord};
use libtest_mimic::{Arguments, Failed, Trial};

/// What all of it may take, at the worst.
const PATIENCE: Duration = Duration::from_secs(15);
/// In what ways a web server can fail to be a witness, and what the report says of it.
const USELESS: [(&str, &str); 9] = [
    ("html", "its answer holds no address"),
    ("wrong-json", "its answer holds no address"),
    ("unavailable", "HTTP status 503"),
    ("huge", "the answer is longer than"),
    ("endless", "the answer is longer than"),
    ("silent", "no answer in time"),
    ("hangs-up", "no connection"),
    ("refuses", "Connection refused"),
    ("claims:127.0.0.1", "saw 127.0.0.1"),
];
const MULLVAD: &str = "am.i.mullvad.net";
const IPIFY: &str = "api.ipify.org";

type Body = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    let ignored = cannot_run();
    let mut trials = Vec::new();
    for (way, says) in USELESS {
        trials.push(Trial::test(format!("ipify::{way}"), move || one_useless(IPIFY, way, says)));
        trials.push(Trial::test(format!("mullvad::{way}"), move || one_useless(MULLVAD, way, says)));
        trials.push(Trial::test(format!("both::{way}"), move || all_useless(way, says)));
    }
    let rest: [(&str, Body); 6] = [
        ("sees_home", sees_home),
        ("sees_home_over_ipv6", sees_home_over_ipv6),
        ("not_of_the_provider", not_of_the_provider),
        ("elsewhere", elsewhere),
        ("dns_echo_silent", dns_echo_silent),
        ("one_dns_echo_silent", one_dns_echo_silent),
    ];
    trials.extend(rest.map(|(name, body)| Trial::test(name, body)));
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(ignored)).collect();
    let mut arguments = Arguments::from_args();
    // Trials mostly wait for somebody who does not answer.
    arguments.test_threads.get_or_insert(4);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Whether there is no lab here, found out by trying, and nobody demands one.
fn cannot_run() -> bool {
    if std::env::var("LEAKCHECK_LAB").is_ok_and(|value| value == "required") {
        return false;
    }
    let tried = demo(&[], &["local-reachable"]);
    let refused = matches!(&tried, Err(why) if why.starts_with("exit status 2"));
    if let (Err(why), true) = (tried, refused) {
        eprintln!("ignored: {why}");
    }
    refused
}

/// The report and the exit status of the audit of a sealed lab with these witnesses.
fn demo(odd: &[String], filters: &[&str]) -> Result<(Report, i32), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leakcheck"));
    command.args(["demo", "--quick", "--format", "json", "--report-dir", "none"]).args(filters);
    for odd in odd {
        command.args(["--odd-witness", odd]);
    }
    let began = Instant::now();
    let output = command.output().map_err(|error| format!("leakcheck could not be started: {error}"))?;
    let took = began.elapsed();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let status = output.status.code().unwrap_or(-1);
    let report = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("exit status {status} and no report: {error}\n{stderr}"))?;
    if took > PATIENCE {
        return Err(format!("it took {took:?}"));
    }
    if stderr.contains("panicked") {
        return Err(stderr.into_owned());
    }
    Ok((report, status))
}

/// The one probe that was asked, when it came to this verdict and the run to the exit status that belongs to it.
fn asked(odd: &[String], id: &str, verdict: VerdictWord) -> Result<ProbeResult, Failed> {
    let (report, status) = demo(odd, &["--exact", id])?;
    let due = match verdict {
        VerdictWord::Pass | VerdictWord::Warn | VerdictWord::Skip => 0,
        VerdictWord::Fail => 1,
        VerdictWord::Inconclusive => 3,
    };
    let [probe] = report.probes.as_slice() else {
        return Err(format!("{} probes were asked", report.probes.len()).into());
    };
    if probe.verdict != verdict || status != due || report.exit_status != due as u8 {
        return Err(format!("exit status {status}, {:#?}", probe).into());
    }
    Ok(probe.clone())
}

fn says(probe: &ProbeResult, part: &str) -> Result<(), Failed> {
    let in_evidence = probe.evidence.iter().any(|line| line.what.contains(part));
    if in_evidence || probe.summary.contains(part) || probe.reason.as_ref().is_some_and(|reason| reason.contains(part))
    {
        return Ok(());
    }
    Err(format!("it does not say {part:?}: {probe:#?}").into())
}

fn odd(host: &str, way: &str) -> String {
    format!("{host}={way}")
}

/// The other witness decides, and what the useless one did is noted.
fn one_useless(host: &str, way: &str, note: &str) -> Result<(), Failed> {
    let probe = asked(&[odd(host, way)], "exit-address", VerdictWord::Pass)?;
    says(&probe, "exit 198.51.100.3")?;
    says(&probe, note)
}

fn all_useless(way: &str, note: &str) -> Result<(), Failed> {
    let both = [odd(MULLVAD, way), odd(IPIFY, way)];
    let probe = asked(&both, "exit-address", VerdictWord::Inconclusive)?;
    says(&probe, note)?;
    says(&probe, "no witness answered")
}

fn sees_home() -> Result<(), Failed> {
    for host in [MULLVAD, IPIFY] {
        let probe = asked(&[odd(host, "claims:203.0.113.10")], "exit-address", VerdictWord::Fail)?;
        says(&probe, "the exit is home")?;
        says(&probe, host)?;
    }
    // The truth of one does not help against the other's silence, nor against what the other sees.
    let both = [odd(MULLVAD, "silent"), odd(IPIFY, "claims:203.0.113.10")];
    says(&asked(&both, "exit-address", VerdictWord::Fail)?, "the exit is home")
}

fn sees_home_over_ipv6() -> Result<(), Failed> {
    for ip in ["2001:db8:18::10", "::ffff:203.0.113.10"] {
        let probe = asked(&[odd(IPIFY, &format!("claims:{ip}"))], "exit-address", VerdictWord::Fail)?;
        says(&probe, "the exit is home")?;
    }
    Ok(())
}

fn not_of_the_provider() -> Result<(), Failed> {
    let probe = asked(&[odd(MULLVAD, "denies")], "exit-address", VerdictWord::Fail)?;
    says(&probe, "is not Mullvad's")
}

fn elsewhere() -> Result<(), Failed> {
    let probe = asked(&[odd(IPIFY, "claims:192.0.2.77")], "exit-address", VerdictWord::Fail)?;
    says(&probe, "the exit 192.0.2.77 is ")
}

fn dns_echo_silent() -> Result<(), Failed> {
    for way in ["silent", "html", "wrong-json", "endless"] {
        let both = [odd("whoami.akamai.net", "silent"), odd(MULLVAD, way)];
        let probe = asked(&both, "dns-resolver", VerdictWord::Inconclusive)?;
        says(&probe, "no echo service said who asks in the end")?;
    }
    Ok(())
}

fn one_dns_echo_silent() -> Result<(), Failed> {
    let probe = asked(&[odd("whoami.akamai.net", "silent")], "dns-resolver", VerdictWord::Pass)?;
    says(&probe, "whoami.akamai.net by 127.0.0.1 said nothing")?;
    let probe = asked(&[odd(MULLVAD, "refuses")], "dns-resolver", VerdictWord::Pass)?;
    says(&probe, "dnsleak.am.i.mullvad.net said nothing")
}
