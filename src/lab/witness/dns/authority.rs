//! The authority for every name of the lab: knows the zone, tells askers who they are, and writes each question down.
//! It is asked by resolvers, so whoever it sees is what a resolver looks like from outside.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::server::{Answer, Asked};
use super::zone::{Found, Zone};
use crate::lab::witness::journal::{Journal, What};

/// Time to live of the zone's records, in seconds.
const TTL: u32 = 60;
/// Time to live of answers that depend on the asker, in seconds.
const FRESH: u32 = 0;

/// The authority. Serve it by [`super::serve`].
pub struct Authority {
    service: Arc<str>,
    journal: Journal,
    zone: Zone,
}

impl Authority {
    /// An authority with this zone that writes questions into `journal` under the name `service`.
    pub fn new(service: &str, journal: Journal, zone: Zone) -> Self {
        Self { service: service.into(), journal, zone }
    }

    fn respond(&self, asked: &Asked, mut response: Message) -> Message {
        self.journal.record(&self.service, asked.protocol, asked.peer, question(asked));
        response.metadata.authoritative = true;
        if !matches!(asked.question.query_class(), DNSClass::IN | DNSClass::ANY) {
            response.metadata.authoritative = false;
            response.metadata.response_code = ResponseCode::Refused;
            return response;
        }
        let (name, wanted) = (asked.question.name(), asked.question.query_type());
        let (found, ttl) = match about_asker(name, asked.peer.ip()) {
            Some(data) if data.record_type() == wanted || wanted == RecordType::ANY => {
                (Found::Records(vec![data]), FRESH)
            }
            Some(_) => (Found::NoData, FRESH),
            None => (self.zone.find(name, wanted), TTL),
        };
        match found {
            Found::Records(records) => {
                response.add_answers(records.into_iter().map(|data| Record::from_rdata(name.clone(), ttl, data)));
            }
            Found::NoData => {
                response.add_authority(start_of_authority());
            }
            Found::NoName => {
                response.metadata.response_code = ResponseCode::NXDomain;
                response.add_authority(start_of_authority());
            }
        }
        response
    }
}

impl Answer for Authority {
    fn answer(&self, asked: Asked, response: Message) -> BoxFuture<'_, Option<Message>> {
        let response = self.respond(&asked, response);
        Box::pin(std::future::ready(Some(response)))
    }
}

/// The question as the journal wants it.
pub(super) fn question(asked: &Asked) -> What {
    What::Dns { name: asked.question.name().to_lowercase().to_ascii(), qtype: asked.question.query_type().to_string() }
}

/// The record of a name that tells its asker who it is; `None` for all other names.
fn about_asker(name: &Name, asker: IpAddr) -> Option<RData> {
    let text = |strings: Vec<String>| RData::TXT(TXT::new(strings));
    match name.to_lowercase().to_ascii().as_str() {
        "whoami.akamai.net." | "myip.opendns.com." => Some(RData::from(asker)),
        "whoami.ds.akahelp.net." => Some(text(vec!["ns".into(), asker.to_string()])),
        "o-o.myaddr.l.google.com." => Some(text(vec![asker.to_string()])),
        _ => None,
    }
}

/// The lab has one zone, the root.
fn start_of_authority() -> Record {
    let soa = SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86_400, TTL);
    Record::from_rdata(Name::root(), TTL, RData::SOA(soa))
}
