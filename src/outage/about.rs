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
                limits: "An orderly stop. A tunnel that dies by itself may take other ways through the VPN program. Flows that were open \
                         before are silent in the instants in which the link goes and comes, where the kernel takes away routes \
                         and addresses one after the other.",
            },
            OutageMethod::LinkDown => About {
                title: "The tunnel's link loses its addresses and is set down",
                needs: "CAP_NET_ADMIN in the stack's namespace: root, or the agent's container.",
                does: "The link's IPv4 addresses are taken off first, as they go with a link that a VPN program takes away: what the \
                       stack's programs have open in the tunnel would else leave by whatever route is left. The kernel takes the \
                       link's routes and IPv6 addresses away with it. The VPN program runs on and is not told; rules and firewall \
                       stay. What the firewall would do with packets from the tunnel's address is asked with packets that get no \
                       further than the first router.",
                undone: "The link is set up, and every address and route that is missing is put back byte for byte as the kernel \
                         had told it: by the agent, else by its keeper, else from the journal by the next run or leakcheck \
                         restore.",
                limits: "A VPN program that makes its link anew meanwhile ends the outage early. Over IPv6 the kernel does not check \
                         that a connection's own address is still there: programs that talk over IPv6 in the tunnel leak by such \
                         an outage where they would leak by every other, see flows-ipv6.",
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
            OutageMethod::ProcessKill => About {
                title: "The VPN's process is killed",
                needs: "A VPN that is a process (OpenVPN, wireguard-go, boringtun) and not the first one of its container, somebody who \
                        starts it again when it dies or else outage.up, and the machine's process numbers: root on the VPN's machine, \
                        by setns. WireGuard in the kernel is no process, and Gluetun's own userspace WireGuard is Gluetun's.",
                does: "Every process that holds the tunnel's device gets SIGKILL. Nobody cleans up after it: the link and its routes go \
                       with it, policy rules that lead there stay and lead nowhere, and the firewall alone is left. When it is back \
                       before the window is over, the window ends there.",
                undone: "By whoever looks after the process: its parent, or systemd. Where there is nobody, the command outage.up is run: \
                         by the agent, else by its keeper, else from the journal by the next run or leakcheck restore.",
                limits: "Whether a parent starts its child again is not told anywhere: reapers of containers and shells count as those \
                         that do not, others as those that do. One that waits for longer than outage.recovery_timeout is told of.",
            },
            OutageMethod::ProcessStop => About {
                title: "The VPN's process is stopped, and holds the tunnel",
                needs: "A VPN that is a process, and the machine's process numbers: root on the VPN's machine, by setns.",
                does: "Every process that holds the tunnel's device gets SIGSTOP, as when it hangs. The tunnel stays up and swallows what it \
                       is given. Dark means that nothing comes out of the tunnel any more although names are asked for all the time.",
                undone: "SIGCONT, to these very processes and to nobody who took their numbers: by the agent, else by its keeper, else \
                         from the journal by the next run or leakcheck restore.",
                limits: "What the VPN program itself would do meanwhile is not seen: it stands still. With Gluetun's userspace WireGuard \
                         all of Gluetun does.",
            },
            OutageMethod::Command => About {
                title: "A command of yours takes the tunnel down, and another brings it back",
                needs: "outage.down and outage.up, both of them lists of a program and its arguments, and root on the VPN's machine, by \
                        setns.",
                does: "The first is run in the stack's network namespace, with the files of the machine, and may take 25 s; a shell is not \
                       involved. The second has to leave the tunnel's link there and up, and to do no harm when it is already. Of what they \
                       say the last line of a failure is shown.",
                undone: "The second command is run: by the agent, else by its keeper, else from the journal by the next run or leakcheck \
                         restore, which know it word for word: put no secret into it.",
                limits: "What else the commands change, nobody but they know.",
            },
            OutageMethod::Pause => About {
                title: "The VPN container is paused",
                needs: "A target that Docker knows as a container of its own, and an engine that takes orders from us.",
                does: "docker pause; after the window, docker unpause. No program of the container runs meanwhile: a tunnel that \
                       a program makes swallows what it is given, and nobody is there to mend anything. Links, routes and \
                       firewall stay.",
                undone: "The runner has Docker unpause it, else its keeper does, which outlives the runner, else the journal by \
                         the next run or leakcheck restore.",
                limits: "A WireGuard in the kernel needs no program and goes on: then there is no outage, and nothing is proven.",
            },
            OutageMethod::Restart => About {
                title: "The VPN container is restarted",
                needs: "A target that Docker knows as a container of its own, and an engine that takes orders from us.",
                does: "docker restart. The programs are told to end and may tidy up, which is when routes and rules go before \
                       the links do; then Docker takes the links out of the namespace and makes a new one. What leaves by the \
                       old one is sampled to the end; from before the new one is there its bridge is listened on, and a program \
                       that joins it at once and sends is simulated. Everything after is asked in the new namespace.",
                undone: "Docker itself starts it again. If it does not, the runner does, else its keeper, which outlives the \
                         runner, else the journal by the next run or leakcheck restore. Containers that share its network are \
                         left in the old one, offline, until they are restarted: with --restart-dependents that is done.",
                limits: "The window is not waited for: the outage is as long as the restart.",
            },
            OutageMethod::Kill => About {
                title: "The VPN container is killed, and started again",
                needs: "A target that Docker knows as a container of its own that is not removed when it ends (--rm), and an engine \
                        that takes orders from us.",
                does: "docker kill; after the window, docker start where no restart policy has done it. No program can tidy up. \
                       What leaves by the old namespace is sampled to the end; from before the new one is there its bridge is \
                       listened on, and a program that joins it at once and sends is simulated. Everything after is asked in the \
                       new namespace.",
                undone: "The runner has Docker start it, else its keeper does, which outlives the runner, else the journal by the \
                         next run or leakcheck restore. Containers that share its network are left in the old one, offline, \
                         until they are restarted: with --restart-dependents that is done.",
                limits: "Docker takes the links of a dead container away within some tenths of a second, and with them every way \
                         out: the window shows little more than the moment of death and the start after it.",
            },
        }
    }
}
