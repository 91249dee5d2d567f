//! `no-secret-in-clear`: which variables of the stack's containers hold a secret that anybody may read who may ask the engine. Their values are
//! not known here.

use super::{Checked, members, settle};
use crate::judge::{Case, Ruling, count};
use crate::model::evidence::{ContainerAccount, StackAccount};

/// Variables of Gluetun's that have a twin which names a file.
const WITH_FILE: [&str; 7] = [
    "WIREGUARD_PRIVATE_KEY",
    "WIREGUARD_PRESHARED_KEY",
    "OPENVPN_USER",
    "OPENVPN_PASSWORD",
    "OPENVPN_KEY_PASSPHRASE",
    "HTTPPROXY_PASSWORD",
    "SHADOWSOCKS_PASSWORD",
];
const ROLE: &str = "HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE";

pub fn judge(case: &Case<'_>) -> Ruling {
    let why = "a variable is shown by `docker inspect`, kept in the compose file and its copies, and handed to every program of the container";
    settle(case, why, |account, _| look(account))
}

fn look(account: &StackAccount) -> Checked {
    let mut checked = Checked::default();
    for one in members(account) {
        let is_gluetun = account.gluetun.is_some() && one.name == account.vpn.name;
        for variable in &one.secret_variables {
            checked.find(one, format!("has a secret in the variable {variable}"), mend(one, variable, is_gluetun));
        }
    }
    let looked = count(1 + account.dependents.len() as u64, "container");
    checked.pass = format!("no variable of {looked} holds what looks like a secret");
    checked
}

fn mend(one: &ContainerAccount, variable: &str, is_gluetun: bool) -> String {
    let file = format!("/run/secrets/{}", variable.to_lowercase());
    if is_gluetun && variable == ROLE {
        "write the role into /gluetun/auth/config.toml, and mount that".to_owned()
    } else if is_gluetun && WITH_FILE.contains(&variable) {
        format!("`{variable}_SECRETFILE: {file}` in its place, and the secret under `secrets:`")
    } else if one.image.contains("linuxserver/") {
        format!("`FILE__{variable}: {file}` in its place, and the secret under `secrets:`")
    } else {
        format!("`{variable}_FILE: {file}` in its place, where its image reads that, and the secret under `secrets:`")
    }
}
