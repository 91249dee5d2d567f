//! Method `vpn-stop`: Gluetun's control server is told to stop the VPN, and later to start it. The firewall stays, which is what is tested.

use std::time::Duration;

use tokio::time::sleep;

use super::control_server::ControlServer;
use super::undo::Undo;
use crate::technique::Context;

/// How often it is asked whether the VPN has been started by somebody else; v3.40 does so by itself after 10 s.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// See the head of this file.
pub(super) struct VpnStop(ControlServer);

impl VpnStop {
    /// Whether a control server answers and says that the VPN is running.
    pub(super) async fn check(cx: &Context) -> Result<(), String> {
        Self::arm(cx).await.map(drop)
    }

    pub(super) async fn arm(cx: &Context) -> Result<(Self, Undo), String> {
        let base = &cx.setup.control_server;
        let (server, status) = ControlServer::find(base, cx.setup.control_key.clone()).await?;
        match status.as_str() {
            "running" => {
                let undo = Undo::Vpn { server: base.clone(), route: server.route() };
                Ok((VpnStop(server), undo))
            }
            other => Err(format!("the control server says that the VPN is {}, not running", other.escape_debug())),
        }
    }

    pub(super) async fn down(&mut self) -> Result<String, String> {
        let told = self.0.put("stopped").await;
        // It may have done what it was told, and failed to say so.
        let status = self.0.status().await;
        match (told, status.as_deref()) {
            (Ok(outcome), Ok("stopped")) => Ok(format!("the control server says: {}", outcome.escape_debug())),
            (Err(why), Ok("stopped")) => Ok(format!("the control server says that the VPN is stopped, though: {why}")),
            (Err(why), _) => Err(why),
            (Ok(_), Ok(other)) => {
                Err(format!("the control server was told to stop the VPN and says that it is {}", other.escape_debug()))
            }
            (Ok(_), Err(why)) => Err(format!("the control server was told to stop the VPN, and then: {why}")),
        }
    }

    /// Waits until the control server says that the VPN is running, without end if it never does.
    pub(super) async fn came_back(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            if self.0.status().await.is_ok_and(|status| status == "running") {
                return;
            }
        }
    }
}
