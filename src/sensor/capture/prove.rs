//! The controls that show that the sensor hears: one of each kind on every uplink, or on a link of our own where there is none.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pnet::datalink::NetworkInterface;

use super::{CONTROL, STAND_IN, STAND_IN_PEER, Sensor};
use crate::model::evidence::{CONTROL_KINDS, Control, PhaseWire};
use crate::net::route::Rtnetlink;
use crate::sensor::control::ControlSender;
use crate::sensor::ledger::Entry;

/// How long to wait for controls before they count as unseen.
const CONTROL_PATIENCE: Duration = Duration::from_millis(1500);
/// How long it may take to come up.
const STAND_IN_PATIENCE: Duration = Duration::from_secs(2);

impl Sensor {
    /// One control of each kind on each uplink that is up; waits until all are seen or patience is over.
    pub(super) fn control(&self) -> Vec<Control> {
        self.control_on(|link| self.shared.may_be_uplink(link))
    }

    fn control_on(&self, is_wanted: impl Fn(&NetworkInterface) -> bool) -> Vec<Control> {
        let owner: Arc<str> = CONTROL.into();
        let mut sent: Vec<(Control, Option<Entry>)> = Vec::new();
        // A link that is down or has no carrier lets nothing out, and could not carry a control either. Links that came later are uplinks too.
        for interface in crate::net::interfaces() {
            let carries = interface.is_up() && interface.is_lower_up();
            if carries && !interface.is_loopback() && is_wanted(&interface) {
                self.control_link(&interface, &owner, &mut sent);
            }
        }
        let deadline = Instant::now() + CONTROL_PATIENCE;
        loop {
            let state = self.shared.lock();
            let mut waiting = false;
            for (control, entry) in &mut sent {
                control.seen_ms = entry.and_then(|entry| state.controls.get(&entry.id).copied());
                waiting |= control.error.is_none() && control.seen_ms.is_none();
            }
            drop(state);
            if !waiting || Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        sent.into_iter().map(|(control, _)| control).collect()
    }

    /// Shows of a namespace without uplinks, which has lost them or never had one, that the sensor hears all the same.
    pub(super) fn stand_in_for(&self, phase: &mut PhaseWire) {
        match self.stand_in() {
            Ok(controls) => {
                phase.controls.extend(controls);
                phase.stand_in = Some(STAND_IN.to_owned());
            }
            Err(error) => phase.problems.push(format!(
                "there is no uplink, and no other link could be made to see whether the sensor works: {error}"
            )),
        }
    }

    /// Controls on a link of our own that goes nowhere.
    fn stand_in(&self) -> io::Result<Vec<Control>> {
        let own = std::fs::File::open("/proc/thread-self/ns/net")?;
        let mut kernel = Rtnetlink::open().map_err(io::Error::other)?;
        kernel.add_veth(STAND_IN, STAND_IN_PEER, &own).map_err(io::Error::other)?;
        let up = [STAND_IN_PEER, STAND_IN].iter().try_for_each(|name| kernel.set_link(name, true));
        // The peer's carrier is told to this end by a worker of the kernel.
        let deadline = Instant::now() + STAND_IN_PATIENCE;
        let carries = |link: &NetworkInterface| link.name == STAND_IN && link.is_lower_up();
        while up.is_ok() && !crate::net::interfaces().iter().any(carries) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        let controls = up.map(|()| self.control_on(|link| link.name == STAND_IN));
        kernel.delete_link(STAND_IN).map_err(io::Error::other)?;
        controls.map_err(io::Error::other)
    }

    fn control_link(&self, interface: &NetworkInterface, owner: &Arc<str>, sent: &mut Vec<(Control, Option<Entry>)>) {
        let mut sender = ControlSender::open(interface);
        for (proto, v6) in CONTROL_KINDS {
            let entry = self.shared.ledger.enter(owner);
            let sent_ms = self.shared.clock.now_ms();
            let outcome = match &mut sender {
                Ok(sender) => {
                    sender.send(proto, v6, &entry.marker(), entry.sequence()).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            let control =
                Control { link: interface.name.clone(), proto, v6, sent_ms, seen_ms: None, error: outcome.err() };
            sent.push((control, Some(entry)));
        }
    }
}
