//! The judge held against `fixtures/evidence`: one file per situation, see the README there.

mod laws;
mod places;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Case, Facts, Ruling, judge};
use crate::catalog::Catalog;
use crate::model::evidence::{AccessRule, Evidence, OutageEvidence, PhaseWire};
use crate::model::firewall::FirewallText;
use crate::model::probe::{Expectation, Phase, Probe};

/// Name of the asking in all fixtures.
const TRIAL: &str = "asked";

/// A fixture, read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Situation {
    expect: Expectation,
    /// Id of the probe; else the first one that expects it.
    probe: Option<String>,
    #[serde(default = "up")]
    phase: Phase,
    evidence: Option<Evidence>,
    wire: Option<PhaseWire>,
    outage: Option<OutageEvidence>,
    #[serde(default)]
    facts: FactsText,
    /// `pass`, `fail leak`, `fail broken`, `warn`, `inconclusive` or `skip`.
    verdict: String,
    /// Parts of summary, reason and evidence.
    #[serde(default)]
    says: Vec<String>,
    /// What they must not hold.
    #[serde(default)]
    says_not: Vec<String>,
}

fn up() -> Phase {
    Phase::Up
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FactsText {
    home: Vec<IpAddr>,
    home_resolvers: Vec<IpAddr>,
    provider: Option<String>,
    exit: Vec<IpNet>,
    resolvers: Vec<IpAddr>,
    forced_policy: Option<String>,
    uplink_nets: Vec<IpNet>,
    uplinks: Vec<String>,
    tunnel: Option<String>,
    tunnel_nets: Vec<IpNet>,
    endpoint_known: bool,
    #[serde(default)]
    endpoint: Option<SocketAddr>,
    #[serde(default)]
    other_servers: Vec<SocketAddr>,
    #[serde(default)]
    local: Vec<IpNet>,
    #[serde(default)]
    access: Vec<AccessRule>,
    firewall: Option<FirewallText>,
}

/// What a fixture says besides the situation itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Recipe {
    /// The fixture, of the same folder or `../NAME`, from which this one differs.
    from: Option<String>,
    /// Places (RFC 6901) and what is there instead.
    set: BTreeMap<String, Value>,
    /// Places of lists and what is put at their end.
    add: BTreeMap<String, Vec<Value>>,
    /// Places that are missing.
    remove: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/evidence")
}

/// The fixture at `path` as it stands, on top of what it comes from.
fn read(path: &Path) -> Map<String, Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut own: Map<String, Value> =
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let recipe: Map<String, Value> =
        ["from", "set", "add", "remove"].iter().filter_map(|key| own.remove_entry(*key)).collect();
    let recipe: Recipe =
        serde_json::from_value(Value::Object(recipe)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut whole = match &recipe.from {
        Some(from) => {
            let mut base = read(&path.with_file_name("").join(format!("{from}.toml")));
            for key in ["verdict", "says", "says_not"] {
                base.remove(key);
            }
            base
        }
        None => Map::new(),
    };
    whole.extend(own);
    let mut whole = Value::Object(whole);
    let at = |place: &str| format!("{}: {place}", path.display());
    for (place, value) in recipe.set {
        let (parent, key) = place.rsplit_once('/').unwrap_or_else(|| panic!("{}", at(&place)));
        match whole.pointer_mut(parent).unwrap_or_else(|| panic!("{} has no parent", at(&place))) {
            Value::Object(map) => drop(map.insert(key.to_owned(), value)),
            Value::Array(list) => list[key.parse::<usize>().unwrap_or_else(|_| panic!("{}", at(&place)))] = value,
            _ => panic!("{} is nothing that holds anything", at(&place)),
        }
    }
    for (place, values) in recipe.add {
        match whole.pointer_mut(&place) {
            Some(Value::Array(list)) => list.extend(values),
            _ => panic!("{} is no list", at(&place)),
        }
    }
    for place in recipe.remove {
        let (parent, key) = place.rsplit_once('/').unwrap_or_else(|| panic!("{}", at(&place)));
        let gone = match whole.pointer_mut(parent) {
            Some(Value::Object(map)) => map.remove(key),
            Some(Value::Array(list)) => key.parse().ok().filter(|n| *n < list.len()).map(|n: usize| list.remove(n)),
            _ => None,
        };
        assert!(gone.is_some(), "{} is not there", at(&place));
    }
    match whole {
        Value::Object(map) => map,
        _ => unreachable!("it was an object"),
    }
}

/// All fixtures: `expectation/situation` and what is in them.
fn situations() -> Vec<(String, Situation)> {
    let mut found = Vec::new();
    for folder in fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = format!("{}/{}", folder.file_name().unwrap().display(), path.file_stem().unwrap().display());
            let situation = serde_json::from_value(Value::Object(read(&path)));
            found.push((name.clone(), situation.unwrap_or_else(|error| panic!("{name}: {error}"))));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

fn probe(expect: Expectation, id: Option<&str>) -> &'static Probe {
    static CATALOG: LazyLock<Catalog> = LazyLock::new(|| Catalog::builtin().unwrap());
    let found = CATALOG.probes().iter().find(|probe| probe.expect == expect && id.is_none_or(|id| probe.id == id));
    found.unwrap_or_else(|| panic!("no probe expects {expect:?}"))
}

impl FactsText {
    fn facts(&self) -> Facts {
        Facts {
            home: self.home.clone(),
            home_resolvers: self.home_resolvers.clone(),
            provider: self.provider.as_deref().map(|word| word.parse().unwrap()),
            exit: self.exit.clone(),
            resolvers: self.resolvers.clone(),
            forced_policy: self.forced_policy.as_deref().map(|word| word.parse().unwrap()),
            uplink_nets: self.uplink_nets.clone(),
            uplinks: self.uplinks.clone(),
            tunnel: self.tunnel.clone(),
            tunnel_nets: self.tunnel_nets.clone(),
            endpoint_known: self.endpoint_known,
            endpoint: self.endpoint,
            other_servers: self.other_servers.clone(),
            local: self.local.clone(),
            access: self.access.clone(),
            firewall: self.firewall.clone(),
        }
    }
}

impl Situation {
    fn judge(&self) -> Ruling {
        judge(&Case {
            probe: probe(self.expect, self.probe.as_deref()),
            trial: TRIAL,
            phase: self.phase,
            evidence: self.evidence.as_ref(),
            wire: self.wire.as_ref(),
            outage: self.outage.as_ref(),
            facts: &self.facts.facts(),
        })
    }
}

/// What there is no room for is counted, and not left out without a word.
#[test]
fn a_verdict_shows_so_many_lines_and_counts_the_others() {
    let name = "dependents-joined/pass";
    let (_, mut situation) = situations().into_iter().find(|(found, _)| found == name).unwrap();
    let answer = situation.evidence.as_ref().unwrap().answers[0].clone();
    for (answers, lines, more) in [(40, 40, None), (41, 41, Some("and 1 more")), (90, 41, Some("and 50 more"))] {
        situation.evidence.as_mut().unwrap().answers = vec![answer.clone(); answers];
        let shown = situation.judge().evidence;
        assert_eq!(shown.len(), lines);
        assert_eq!(shown.last().map(|line| line.what.as_str()).filter(|what| what.starts_with("and ")), more);
    }
}
