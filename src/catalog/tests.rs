//! The built-in probes are sound, and selection does what test runners do.

use super::*;

fn names(trials: &[Trial<'_>]) -> Vec<String> {
    trials.iter().map(Trial::name).collect()
}

fn select(filters: &[&str], exact: bool, skip: &[&str], methods: &[&str]) -> Result<Vec<String>, CatalogError> {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let selection = Selection { filters: owned(filters), exact, skip: owned(skip) };
    Catalog::builtin()?.select(methods, &selection).map(|trials| names(&trials))
}

#[test]
fn built_in_probes_are_valid_and_in_the_order_of_groups() {
    let catalog = Catalog::builtin().unwrap();
    let ids: Vec<_> = catalog.probes().iter().map(|probe| probe.id.as_str()).collect();
    assert_eq!(ids.len(), PROBES.len());
    assert_eq!(ids.first(), Some(&"exit-address"));
    assert_eq!(ids.last(), Some(&"stack-subnets"));
    let lines = |text: &str| text.lines().map(str::len).max().unwrap_or(0);
    for probe in catalog.probes() {
        assert!(GROUPS.contains(&probe.group.as_str()), "{} is of a group without a place", probe.id);
        assert!(lines(&probe.why).max(lines(&probe.limits)).max(lines(&probe.fix)) <= 125, "{}", probe.id);
    }
    let used: Vec<_> = catalog.probes().iter().map(|probe| probe.technique.as_str()).collect();
    catalog.check_techniques(&used).unwrap();
    let error = catalog.check_techniques(&used[1..]).unwrap_err().to_string();
    assert!(error.contains("unknown technique `exit-http`"), "{error}");
}

#[test]
fn trials_follow_the_run() {
    let catalog = Catalog::builtin().unwrap();
    let quick = names(&catalog.trials(&[]));
    assert!(quick.iter().all(|name| !name.contains('/')) && !quick.contains(&"kill-switch".to_owned()));
    let names = names(&catalog.trials(&["vpn-stop", "link-down"]));
    let at = |name: &str| names.iter().position(|other| other == name).unwrap();
    assert!(at("wire-quiet") < at("kill-switch/outage/vpn-stop"));
    assert!(at("kill-switch/outage/vpn-stop") < at("exit-address/recovered/vpn-stop"));
    assert!(at("exit-address/recovered/vpn-stop") < at("kill-switch/outage/link-down"));
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

#[test]
fn filters_are_parts_of_names_and_any_of_them_will_do() {
    assert_eq!(
        select(&["dns", "ipv6"], false, &[], &[]).unwrap(),
        ["dns-dependents", "dns-forced", "dns-local-names", "dns-local-resolver", "dns-resolver", "ipv6", "stack-ipv6"]
    );
    assert_eq!(select(&["dns"], false, &["dependents", "forced", "local"], &[]).unwrap(), ["dns-resolver"]);
    assert_eq!(select(&["exit-address"], true, &[], &["vpn-stop"]).unwrap(), ["exit-address"]);
    let recovered = select(&["recovered/vpn"], false, &["wire"], &["vpn-stop"]).unwrap();
    assert!(recovered.contains(&"exit-address/recovered/vpn-stop".to_owned()));
    assert!(
        recovered.iter().all(|name| name.ends_with("/recovered/vpn-stop") && !name.contains("wire")),
        "{recovered:?}"
    );
}

#[test]
fn a_filter_for_nothing_is_an_error_with_a_hint() {
    let refused = |filters: &[&str], exact, skip: &[&str], methods: &[&str]| {
        let error = select(filters, exact, skip, methods).unwrap_err();
        (error.to_string(), error.help().unwrap_or_default())
    };
    let (message, help) = refused(&["dns-forecd"], false, &[], &[]);
    assert_eq!(message, "find a trial by the filter `dns-forecd`");
    assert_eq!(help, "did you mean `dns-forced`?");
    assert!(refused(&["dns", "colour"], false, &[], &[]).1.contains("leakcheck list"));
    assert!(refused(&["dns"], true, &[], &[]).0.contains("`dns`"));
    let (message, help) = refused(&["kill-switch"], false, &[], &[]);
    assert!(message.ends_with("this run makes none") && help.contains("--quick"), "{message}");
    assert!(refused(&["ipv6"], false, &["ipv"], &[]).0.contains("every one"));
}

const GOOD: &str = "title='t'\ngroup='exit'\nclaim='c'\ntechnique='exit-http'\nphases=['up']\nexpect='exit-is-vpn'\n\
                    severity='high'\nwhy='w'\nlimits='l'\nfix='f'\n";

fn with(name: &str, text: &str) -> Result<Catalog, CatalogError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), text).unwrap();
    Catalog::builtin().unwrap().with_dir(dir.path())
}

#[test]
fn a_folder_adds_probes() {
    let catalog = with("my-own.toml", GOOD).unwrap();
    assert_eq!(catalog.get("my-own").unwrap().title, "t");
    assert_eq!(catalog.probes().len(), PROBES.len() + 1);
    assert!(catalog.get("my-onw").unwrap_err().help().unwrap().contains("`my-own`"));
}

#[test]
fn bad_probes_are_refused() {
    let cases = [
        ("My_own.toml", GOOD.to_owned(), "lower-case letters"),
        ("ipv6.toml", GOOD.to_owned(), "another probe has this id"),
        ("a.toml", GOOD.replace("['up']", "[]"), "`phases` is empty"),
        ("a.toml", GOOD.replace("['up']", "['up','up']"), "twice"),
        ("a.toml", GOOD.replace("why='w'", "why=' '"), "`why` is empty"),
        ("a.toml", GOOD.replace("'exit-is-vpn'", "'exit-is-fine'"), "a.toml:6: unknown variant"),
        ("a.toml", GOOD.replace("group='exit'", "group='E x'"), "`group`"),
        ("a.toml", format!("{GOOD}colour='red'\n"), "unknown field `colour`"),
        ("a.txt", GOOD.to_owned(), "holds no file"),
    ];
    for (name, text, part) in cases {
        let message = with(name, &text).unwrap_err().to_string();
        assert!(message.contains(part), "{message:?} should say {part:?}");
    }
    assert!(matches!(Catalog::builtin().unwrap().with_dir(Path::new("/nonexistent")), Err(CatalogError::Read { .. })));
}

/// A leak that no probe notices, or a probe that no leak turns red, is a hole in the proof.
#[cfg(feature = "lab")]
#[test]
fn leaks_and_probes_know_each_other() {
    let catalog = Catalog::builtin().unwrap();
    let leaks = crate::lab::Leak::all().unwrap();
    for leak in &leaks {
        assert!(!leak.red.is_empty() || !leak.amber.is_empty(), "{} is noticed by nothing", leak.id);
        for id in leak.red.iter().chain(&leak.amber) {
            assert!(catalog.get(id).is_ok(), "{} names the probe {id}, which is not there", leak.id);
        }
    }
    for probe in catalog.probes() {
        let seen = |leak: &crate::lab::Leak| leak.red.contains(&probe.id) || leak.amber.contains(&probe.id);
        assert!(leaks.iter().any(seen), "no leak turns {} red", probe.id);
    }
}

/// For editors. `SNAPSHOTS=overwrite cargo test --lib schema` writes it anew.
#[test]
fn the_schema_of_probe_files_is_that_of_the_type() {
    let schema = schemars::schema_for!(crate::model::probe::Probe);
    let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    snapbox::assert_data_eq!(schema, snapbox::file!["../../reports/probe.schema.json"].raw());
}
