//! Which ports the VPN forwards to the stack: by Gluetun's control server (`/v1/portforward` from v3.41 on, `/v1/openvpn/portforwarded`
//! before), and by the settings of its container. Which port is open in truth only a peer on the internet could say.

use reqwest::{Method, Url};
use serde::Deserialize;

use super::talk::Talk;
use super::{Context, object, resolve};
use crate::agent::protocol::ControlKey;
use crate::model::evidence::Said;

/// Under what name the answer stands in evidence.
pub(super) const WITNESS: &str = "Gluetun";
const ROUTES: [&str; 2] = ["/v1/portforward", "/v1/openvpn/portforwarded"];
/// A provider forwards one port, some a handful.
const MAX_PORTS: usize = 16;

/// What is known.
pub(super) async fn ask(cx: &Context) -> Said {
    let let_in: Vec<u16> = cx.setup.vpn_input_ports.iter().copied().filter(|port| *port != 0).collect();
    let wanted = cx.setup.forwarding == Some(true);
    match (served(cx).await, cx.setup.forwarding) {
        (Ok(ports), _) => {
            Said::Forwards { ports: Some(ports), let_in, wanted, how: "by its control server".to_owned() }
        }
        (Err(_), Some(false)) => {
            let how = "by the settings of its container".to_owned();
            Said::Forwards { ports: Some(Vec::new()), let_in, wanted, how }
        }
        (Err(why), Some(true)) => Said::Nothing {
            error: format!("it has a port forwarded (VPN_PORT_FORWARDING) and does not say which: {why}"),
        },
        (Err(why), None) => Said::Forwards { ports: None, let_in, wanted, how: why },
    }
}

async fn served(cx: &Context) -> Result<Vec<u16>, String> {
    let url = Url::parse(&cx.setup.control_server).map_err(|error| error.to_string())?;
    let address = resolve(cx, &url).await?;
    let mut talk = Talk::new(&url, address, cx.setup.extra_ca.as_deref())?;
    let mut refused = String::new();
    for route in ROUTES {
        let request = talk.request(Method::GET, route);
        let request = match &cx.setup.control_key {
            Some(ControlKey::ApiKey(key)) => request.header("X-API-Key", key),
            Some(ControlKey::Login { user, password }) => request.basic_auth(user, Some(password)),
            None => request,
        };
        let reply = talk.send(request, "").await?;
        match reply.status {
            200 => return ports(&reply.body).map_err(|why| format!("{}: {why}", talk.at())),
            // v3.40 says so of routes that it does not know, too.
            401 | 403 => {
                refused = format!(
                    "nobody may ask {} for {route}: set outage.api_key_file, or outage.control_user and outage.control_password_file, and \
                     name the route in Gluetun's role",
                    talk.at()
                );
            }
            status if refused.is_empty() => {
                refused = format!("{} answers {route} with HTTP status {status}", talk.at())
            }
            _ => {}
        }
    }
    Err(refused)
}

#[derive(Deserialize)]
struct Forwarded {
    port: u16,
    #[serde(default)]
    ports: Vec<u16>,
}

/// The ports that an answer names; 0 is none.
fn ports(octets: &[u8]) -> Result<Vec<u16>, &'static str> {
    let told: Forwarded = object(octets).ok_or("its answer is not that of Gluetun's control server")?;
    let mut all: Vec<u16> = std::iter::once(told.port).chain(told.ports).filter(|port| *port != 0).collect();
    all.sort_unstable();
    all.dedup();
    all.truncate(MAX_PORTS);
    Ok(all)
}

/// What octets say as its answer, or why nothing.
#[cfg(feature = "lab")]
pub(super) fn understand(octets: &[u8]) -> String {
    ports(octets).map_or_else(str::to_owned, |ports| format!("{ports:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_all_versions() {
        assert_eq!(ports(b"{\"port\":0,\"ports\":[]}\n"), Ok(vec![]));
        assert_eq!(ports(b"{\"port\":40123,\"ports\":[40123,40124]}\n"), Ok(vec![40_123, 40_124]));
        assert_eq!(ports(b"{\"port\":40123}\n"), Ok(vec![40_123]));
        for odd in [&b"{}"[..], b"", b"<html>", b"{\"port\":70000}", b"{\"port\":\"1\"}", b"[1]"] {
            assert!(ports(odd).is_err());
        }
    }
}
