use serde_json::json;

use super::*;

fn inspected(state: &str, mode: &str) -> Inspected {
    let inner = json!({"Id": "0123456789abcdef", "Name": "/vpn", "State": {"Status": state, "Pid": 0}, "HostConfig": {"NetworkMode": mode}});
    Inspected::new(serde_json::from_value(inner).expect("an inspection"))
}

#[test]
fn only_one_that_runs_can_be_entered() {
    assert!(inspected("running", "bridge").check_enterable().is_ok());
    for (state, help) in [
        ("exited", "docker start vpn"),
        ("created", "docker start vpn"),
        ("paused", "docker unpause vpn"),
        ("restarting", "docker logs vpn"),
    ] {
        let error = inspected(state, "bridge").check_enterable().expect_err(state);
        assert_eq!(error.to_string(), format!("enter container `vpn`: it is {state}"));
        assert!(error.help().is_some_and(|text| text.contains(help)), "{state}");
    }
}

#[test]
fn the_hosts_network_is_refused() {
    let error = inspected("running", "host").check_enterable().expect_err("it would audit the host");
    assert!(matches!(error, TargetError::HostNetwork { .. }));
}

#[test]
fn a_container_is_named_by_name_or_id() {
    let id = "0123456789abcdef0123456789abcdef";
    assert!(is_named("vpn", id, "vpn") && is_named(id, id, "vpn") && is_named("0123456789ab", id, "vpn"));
    assert!(!is_named("0123", id, "vpn") && !is_named("vpn2", id, "vpn") && !is_named("", id, "vpn"));
}
#[test]
fn one_that_joined_a_container_which_is_gone_is_known() {
    let one = |id: &str, mode: &str| -> ContainerSummary {
        let summary = json!({"Id": id, "Names": [format!("/{id}-name")], "HostConfig": {"NetworkMode": mode}});
        serde_json::from_value(summary).expect("a summary")
    };
    let all = [one("0123456789abcdef", "bridge"), one("a", "container:0123456789abcdef")];
    assert!(!has_joined_gone(&all[1], &all) && !has_joined_gone(&all[0], &all));
    assert!(!has_joined_gone(&one("b", "container:0123456789abcdef-name"), &all), "by its name");
    assert!(has_joined_gone(&one("c", "container:fedcba9876543210"), &all));
}

#[test]
fn one_that_joined_by_way_of_another_is_in_time_only_if_all_were() {
    let one = |name: &str, mode: &str, at: &str| {
        let inner = json!({"Id": format!("{name}-0123456789ab"), "Name": format!("/{name}"), "State": {"StartedAt": at},
            "HostConfig": {"NetworkMode": mode}});
        Inspected::new(serde_json::from_value(inner).expect("an inspection"))
    };
    let at = |second: u32| format!("2026-11-30T00:00:{second:02}Z");
    for (vpn, torrent, updater, expected) in [(1, 2, 3, true), (1, 3, 2, false), (3, 1, 2, false), (2, 1, 3, false)] {
        let all = [one("torrent", "container:vpn", &at(torrent)), one("updater", "container:torrent", &at(updater))];
        let way = way_to(&all[1], &all, "vpn-0123456789ab", "vpn").expect("a way");
        assert_eq!(way.len(), 1);
        assert_eq!(joined_in_time(&all[1], &way, at(vpn).parse().ok()), Some(expected), "{vpn} {torrent} {updater}");
    }
    let all = [one("a", "container:b", &at(1)), one("b", "container:a", &at(1)), one("c", "container:gone", &at(1))];
    assert!(all.iter().all(|one| way_to(one, &all, "vpn-0123456789ab", "vpn").is_none()));
}
