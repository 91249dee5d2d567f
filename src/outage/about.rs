//! What each way to take the tunnel down needs, does, leaves behind and cannot see, for `leakcheck explain`.

use crate::config::OutageMethod;

/// See the head of this file. Sentences for people.
pub struct About {
    /// In a few words.
    pub title: &'static str,
    /// What has to be there.
    pub needs: &'static str,
    /// What is done.
    pub does: &'static str,
    /// How it is put back, whoever dies.
    pub undone: &'static str,
    /// What it does not show.
    pub limits: &'static str,
}

impl About {
    /// Of a method.
    pub fn of(method: OutageMethod) -> Self {
        match method {
            OutageMethod::VpnStop => About {
                title: "Gluetun is told to stop the VPN",
                needs: "Gluetun's control server (outage.control_server), and a key for it where one is asked for \
                        (outage.api_key_file).",
                does: "PUT /v1/vpn/status stopped, from inside the namespace; after the window, running. The tunnel's link and \
                       its routing rule go, the firewall stays: it alone stands between the traffic and the uplink.",
                undone: "The agent says running, also when the runner is killed. When the agent is killed, its keeper says so. \
                         When both are, as happens with the agent's container, the journal knows, and the next run or \
                         leakcheck restore works it off; of the key it knows the file alone.",
                limits: "An orderly stop. A tunnel that dies by itself may take other ways through the VPN program.",
            },
            OutageMethod::LinkDown => About {
                title: "The tunnel's link is set down",
                needs: "CAP_NET_ADMIN in the stack's namespace: root, or the agent's container.",
                does: "The kernel takes the link's routes and IPv6 addresses away with it. The VPN program runs on and is not \
                       told; rules and firewall stay.",
                undone: "The link is set up, and every address and route that is missing is put back byte for byte as the kernel \
                         had told it: by the agent, else by its keeper, else from the journal by the next run or leakcheck \
                         restore.",
                limits: "A VPN program that makes its link anew meanwhile ends the outage early.",
            },
            OutageMethod::EndpointBlock => About {
                title: "Packets to and from the VPN server are dropped",
                needs: "CAP_NET_ADMIN in the stack's namespace, a VPN server that was found or configured (vpn.endpoint), and \
                        nftables with owned tables: Linux 5.12.",
                does: "A firewall table of its own, before all others, drops what goes to the server's address and port and what \
                       comes from there. The tunnel stays up and swallows what it is given, as when the server dies: this is \
                       when watchdogs and clients with a fallback go another way. Dark means that nothing comes out of the \
                       tunnel any more although names are asked for all the time.",
                undone: "The table belongs to a socket of the agent: the kernel removes it when the agent ends, however it ends.",
                limits: "The VPN program is told EPERM when it sends, where a dead line would tell it nothing. A window that is \
                         shorter than the VPN program's patience does not show what it does when that is over.",
            },
        }
    }
}
