//! What a control server of the lab does otherwise: another version, a lock on it, or answers that are none. What the checker makes of them
//! is tested by `tests/odd_control.rs`.

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use super::{Auth, Version};
use crate::config::parse_duration;

/// One of them, written `WHAT=HOW`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Habit {
    /// `version=v3.40`.
    Version(Version),
    /// `key=SECRET` or `login=USER:PASSWORD`: every route is closed to others.
    Lock(Auth),
    /// `route=openvpn`: the VPN is asked about and changed by the older route alone.
    OlderRoute,
    /// `self-restart=TIME`: a VPN that was stopped is started again by itself.
    SelfRestart(Duration),
    /// `check=`, `stop=` or `start=`, and a [`Fault`], or so many of them as in `500x3`.
    Fault(When, Fault, Option<u32>),
}

/// What the control server was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// For the VPN's status.
    Check,
    /// To stop the VPN.
    Stop,
    /// To start it.
    Start,
}

/// What comes of it. Nothing is done but for the last two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An HTTP status.
    Refused(u16),
    /// No answer.
    Silent,
    /// An answer that means nothing.
    Garbage,
    /// No answer, though it was done.
    SilentButDone,
    /// HTTP status 500, though it was done.
    RefusedButDone,
}

impl Fault {
    /// Whether what was asked is done all the same.
    pub(super) fn is_done(self) -> bool {
        matches!(self, Self::SilentButDone | Self::RefusedButDone)
    }
}

impl FromStr for Habit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (what, how) = text.split_once('=').ok_or("it is not of the form WHAT=HOW")?;
        let when = match what {
            "version" => {
                let known = [Version::V3_40, Version::V3_41, Version::Latest];
                let found = known.into_iter().find(|version| version.as_str().starts_with(how) && !how.is_empty());
                return found.map(Habit::Version).ok_or_else(|| format!("the lab does not know Gluetun {how}"));
            }
            "key" => return Ok(Habit::Lock(Auth::ApiKey(how.to_owned()))),
            "login" => {
                let (username, password) = how.split_once(':').ok_or("a login is written USER:PASSWORD")?;
                let (username, password) = (username.to_owned(), password.to_owned());
                return Ok(Habit::Lock(Auth::Basic { username, password }));
            }
            "route" if how == "openvpn" => return Ok(Habit::OlderRoute),
            "self-restart" => return parse_duration(how).map(Habit::SelfRestart),
            "check" => When::Check,
            "stop" => When::Stop,
            "start" => When::Start,
            other => return Err(format!("the lab's control server has no {other}")),
        };
        let (word, times) = match how.rsplit_once('x') {
            Some((word, times)) => (word, Some(times.parse().map_err(|_| format!("{times} is no number"))?)),
            None => (how, None),
        };
        let fault = match word {
            "silent" => Fault::Silent,
            "garbage" => Fault::Garbage,
            "silent-but-done" => Fault::SilentButDone,
            "500-but-done" => Fault::RefusedButDone,
            status => Fault::Refused(status.parse().map_err(|_| {
                "there are an HTTP status, silent, garbage, silent-but-done and 500-but-done".to_owned()
            })?),
        };
        Ok(Habit::Fault(when, fault, times))
    }
}

/// The faults that are still to come.
#[derive(Default)]
pub(super) struct Faults(Mutex<Vec<(When, Fault, Option<u32>)>>);

impl Faults {
    pub(super) fn add(&mut self, when: When, fault: Fault, times: Option<u32>) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).push((when, fault, times));
    }

    /// What comes of this question.
    pub(super) fn next(&self, when: When) -> Option<Fault> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, fault, left) = faults.iter_mut().find(|(at, _, left)| *at == when && *left != Some(0))?;
        if let Some(left) = left {
            *left -= 1;
        }
        Some(*fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        let habit = |text: &str| text.parse::<Habit>();
        assert_eq!(habit("version=v3.40"), Ok(Habit::Version(Version::V3_40)));
        assert_eq!(habit("start=500x3"), Ok(Habit::Fault(When::Start, Fault::Refused(500), Some(3))));
        assert_eq!(habit("stop=silent"), Ok(Habit::Fault(When::Stop, Fault::Silent, None)));
        assert_eq!(habit("self-restart=800ms"), Ok(Habit::SelfRestart(Duration::from_millis(800))));
        for text in
            ["stop", "stop=", "stop=quiet", "start=500xy", "version=", "version=v1", "login=me", "route=vpn", "x=1"]
        {
            assert!(habit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn faults_are_used_up_one_after_the_other() {
        let mut faults = Faults::default();
        faults.add(When::Start, Fault::Refused(500), Some(2));
        faults.add(When::Start, Fault::Garbage, Some(1));
        assert_eq!(faults.next(When::Stop), None);
        let got: Vec<_> = (0..4).map(|_| faults.next(When::Start)).collect();
        assert_eq!(got, [Some(Fault::Refused(500)), Some(Fault::Refused(500)), Some(Fault::Garbage), None]);
    }
}
