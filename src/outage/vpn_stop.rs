//! Method `vpn-stop`: Gluetun's control server is told to stop the VPN, and later to start it. The firewall stays, which is what is tested.

use super::control_server::ControlServer;
use super::undo::Undo;
use crate::technique::Context;

/// See the head of this file.
pub(super) struct VpnStop(ControlServer);

impl VpnStop {
    /// Whether a control server answers and says that the VPN is running.
    pub(super) async fn check(cx: &Context) -> Result<(), String> {
        Self::arm(cx).await.map(drop)
    }

    pub(super) async fn arm(cx: &Context) -> Result<(Self, Undo), String> {
        let base = &cx.setup.control_server;
        let server = ControlServer::new(base, cx.setup.api_key.clone())?;
        match server.status().await?.as_str() {
            "running" => Ok((VpnStop(server), Undo::Vpn { server: base.clone() })),
            other => Err(format!("the control server says that the VPN is {}, not running", other.escape_debug())),
        }
    }

    pub(super) async fn down(&mut self) -> Result<String, String> {
        let outcome = self.0.put("stopped").await?;
        match self.0.status().await?.as_str() {
            "stopped" => Ok(format!("the control server says: {}", outcome.escape_debug())),
            other => {
                Err(format!("the control server was told to stop the VPN and says that it is {}", other.escape_debug()))
            }
        }
    }
}
