//! Witnesses of the lab's internet that do not do what they should: down, lying, or talking nonsense. What the checker makes of them is
//! tested by `tests/odd_witness.rs`.

use std::str::FromStr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hickory_proto::op::Message;

use super::plan;
use super::witness::Behaviour;
use super::witness::dns::{Answer, Asked};

/// Behaviours that need no more than their name.
const WORDS: [(&str, Behaviour); 8] = [
    ("html", Behaviour::Html),
    ("wrong-json", Behaviour::WrongJson),
    ("unavailable", Behaviour::Unavailable),
    ("huge", Behaviour::Huge),
    ("endless", Behaviour::Endless),
    ("silent", Behaviour::Silent),
    ("hangs-up", Behaviour::HangsUp),
    ("refuses", Behaviour::Refuses),
];
/// Echo names of DNS that can be silenced.
const DNS_ECHOES: [&str; 1] = ["whoami.akamai.net"];

/// One of them, written `HOST=BEHAVIOUR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddWitness {
    host: String,
    odd: Odd,
}

/// What a web server or an echo name does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Odd {
    /// A web server.
    Web(Behaviour),
    /// Mullvad's own check, saying of every address that it is none of its own.
    Denies,
    /// An echo name of DNS that gets no answer.
    NoAnswer,
}

impl FromStr for OddWitness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, word) = text.split_once('=').ok_or("it is not of the form HOST=BEHAVIOUR")?;
        let web = plan::WEB.iter().any(|(name, ..)| *name == host);
        let behaviour = WORDS.iter().find(|(known, _)| *known == word).map(|(_, behaviour)| *behaviour);
        let odd = match (word.split_once(':'), behaviour) {
            _ if !web && !DNS_ECHOES.contains(&host) => return Err(format!("the lab has no witness {host}")),
            (_, Some(Behaviour::Silent)) if !web => Odd::NoAnswer,
            _ if !web => return Err(format!("{host} can only be silent")),
            (_, Some(behaviour)) => Odd::Web(behaviour),
            (Some(("claims", ip)), None) => {
                Odd::Web(Behaviour::Claims(ip.parse().map_err(|_| format!("{ip} is no address"))?))
            }
            (None, None) if word == "denies" => Odd::Denies,
            _ => {
                let known: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
                return Err(format!("there are {}, denies and claims:IP", known.join(", ")));
            }
        };
        Ok(OddWitness { host: host.to_owned(), odd })
    }
}

impl OddWitness {
    /// The echo name of DNS `host`, without an answer; `None` when it is no such name.
    pub(super) fn silent_name(host: &str) -> Option<Self> {
        DNS_ECHOES.contains(&host).then(|| Self { host: host.to_owned(), odd: Odd::NoAnswer })
    }
}

/// How the web server of `host` behaves.
pub(super) fn behaviour(odd: &[OddWitness], host: &str) -> Behaviour {
    let stated = odd.iter().filter(|odd| odd.host == host).find_map(|odd| match odd.odd {
        Odd::Web(behaviour) => Some(behaviour),
        Odd::Denies | Odd::NoAnswer => None,
    });
    stated.unwrap_or_default()
}

/// Whether the check service of `host` knows no exit of its own.
pub(super) fn denies(odd: &[OddWitness], host: &str) -> bool {
    odd.iter().any(|odd| odd.host == host && odd.odd == Odd::Denies)
}

/// The same name server, which answers nothing about the echo names that are silent.
pub(super) fn silenced(odd: &[OddWitness], inner: Arc<dyn Answer>) -> Arc<dyn Answer> {
    let names: Vec<String> =
        odd.iter().filter(|odd| odd.odd == Odd::NoAnswer).map(|odd| format!("{}.", odd.host)).collect();
    if names.is_empty() { inner } else { Arc::new(Silenced { names, inner }) }
}

struct Silenced {
    /// Lower case, with the last dot.
    names: Vec<String>,
    inner: Arc<dyn Answer>,
}

impl Answer for Silenced {
    fn answer(&self, asked: Asked, response: Message) -> BoxFuture<'_, Option<Message>> {
        let name = asked.question.name().to_lowercase().to_ascii();
        if self.names.contains(&name) {
            return Box::pin(std::future::ready(None));
        }
        self.inner.answer(asked, response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        let odd = |text: &str| text.parse::<OddWitness>().map(|odd| odd.odd);
        assert_eq!(odd("api.ipify.org=html"), Ok(Odd::Web(Behaviour::Html)));
        let home = plan::ip(plan::HOME);
        assert_eq!(odd("api.ipify.org=claims:203.0.113.10"), Ok(Odd::Web(Behaviour::Claims(home))));
        assert_eq!(odd("am.i.mullvad.net=denies"), Ok(Odd::Denies));
        assert_eq!(odd("whoami.akamai.net=silent"), Ok(Odd::NoAnswer));
        for text in [
            "api.ipify.org",
            "api.ipify.org=",
            "api.ipify.org=claims:home",
            "nobody.test=html",
            "whoami.akamai.net=html",
        ] {
            assert!(odd(text).is_err(), "{text}");
        }
    }
}
