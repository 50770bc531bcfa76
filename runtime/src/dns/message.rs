//! Pure. Questions and answers on the wire.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};

use super::zone::{Found, Kind, Record, TTL};

/// What is sent over UDP to who says nothing of sizes (RFC 1035, 4.2.1).
const UDP_PLAIN: u16 = 512;
/// What is sent over UDP at most, and what is taken: no larger packet passes every path whole.
const UDP_MOST: u16 = 1232;
/// The only version of EDNS (RFC 6891).
const EDNS_VERSION: u8 = 0;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// An answer that is too long is cut, and comes again over TCP.
    Udp,
    /// Up to 65,535 bytes.
    Tcp,
}

/// A question that was read.
#[derive(Debug, Clone)]
pub struct Asked {
    message: Message,
    /// The name, in lower case, without the trailing dot.
    pub name: String,
    /// The kind of records.
    pub kind: Kind,
}

/// Reads a question.
///
/// # Errors
/// The answer to what is none, or (`None`) nothing: what is no query at all is not answered, or two servers could keep each
/// other busy.
pub fn ask(bytes: &[u8]) -> Result<Asked, Option<Vec<u8>>> {
    // Identification, flags, four counts; the first flag is that of a response.
    let &[high, low, flags, _, ..] = bytes else { return Err(None) };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return Err(None);
    }
    let id = u16::from_be_bytes([high, low]);
    let Ok(message) = Message::from_vec(bytes) else {
        return Err(encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)));
    };
    let refuse = |code| Err(encode(&start(&message, code)));
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    if message.edns.as_ref().is_some_and(|e| e.version() != EDNS_VERSION) {
        return refuse(ResponseCode::BADVERS);
    }
    let [query] = message.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    if query.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused);
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list of types grows")]
    let kind = match query.query_type() {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::TXT => Kind::Txt,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    };
    let name = query.name().to_lowercase().to_ascii();
    let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
    Ok(Asked { message, name, kind })
}

/// The answer to a question about the zone `apex`; `None` for the zone: it is not served here.
#[must_use]
pub fn reply(asked: &Asked, over: Over, found: Option<(&str, &Found)>) -> Option<Vec<u8>> {
    let Some((apex, found)) = found else { return encode(&start(&asked.message, ResponseCode::Refused)) };
    let code = match found {
        Found::Records(_) | Found::NoData => ResponseCode::NoError,
        Found::NoName => ResponseCode::NXDomain,
        Found::Unknown => ResponseCode::ServFail,
    };
    let mut message = start(&asked.message, code);
    message.metadata.authoritative = *found != Found::Unknown;
    match found {
        Found::Records(records) => {
            let owner = asked.message.queries.first()?.name().clone();
            let data = records.iter().filter_map(data);
            message.add_answers(data.map(|data| WireRecord::from_rdata(owner.clone(), TTL, data)));
        }
        // How long it may be remembered that there is none (RFC 2308).
        Found::NoData | Found::NoName => drop(message.add_authority(start_of_authority(apex)?)),
        Found::Unknown => {}
    }
    let bytes = encode(&message)?;
    let limit = match over {
        Over::Tcp => usize::from(u16::MAX),
        Over::Udp => {
            let said = asked.message.edns.as_ref().map_or(UDP_PLAIN, Edns::max_payload);
            usize::from(said.clamp(UDP_PLAIN, UDP_MOST))
        }
    };
    if bytes.len() <= limit {
        return Some(bytes);
    }
    message.answers.clear();
    message.metadata.truncation = true;
    encode(&message)
}

/// A response without records.
fn start(asked: &Message, code: ResponseCode) -> Message {
    let mut message = Message::new(asked.metadata.id, MessageType::Response, asked.metadata.op_code);
    message.metadata.recursion_desired = asked.metadata.recursion_desired;
    message.metadata.response_code = code;
    message.add_queries(asked.queries.iter().take(1).cloned());
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MOST).set_version(EDNS_VERSION).set_rcode_high(code.high());
        message.set_edns(edns);
    }
    message
}

fn data(record: &Record) -> Option<RData> {
    Some(match record {
        Record::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
        Record::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
        Record::Service(port, target) => {
            RData::SRV(SRV::new(0, 100, *port, Name::from_ascii(format!("{target}.")).ok()?))
        }
        Record::Text(text) => RData::TXT(TXT::new(vec![text.clone()])),
    })
}

fn start_of_authority(apex: &str) -> Option<WireRecord> {
    let name = |prefix: &str| Name::from_ascii(format!("{prefix}{apex}.")).ok();
    let seconds = i32::try_from(TTL).unwrap_or(i32::MAX);
    // Nobody transfers the zone, so its serial means nothing.
    let soa = SOA::new(name("ns.")?, name("hostmaster.")?, 1, seconds, seconds, seconds, TTL);
    Some(WireRecord::from_rdata(name("")?, TTL, RData::SOA(soa)))
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    match message.to_vec() {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::warn!(%error, "a DNS answer cannot be written");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    fn query(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn answer(message: &Message, over: Over, found: &Found) -> Message {
        let asked = ask(&message.to_vec().unwrap()).unwrap();
        Message::from_vec(&reply(&asked, over, Some(("clusterset.local", found))).unwrap()).unwrap()
    }

    /// Mutations seen to fail: the name is not made lower case; no SOA; `authoritative` left out.
    #[test]
    fn answers_say_what_there_is() {
        let address = Found::Records(vec![Record::Address("240.240.0.1".parse().unwrap())]);
        let asked = ask(&query("B.Shop.svc.clusterset.local.", RecordType::A).to_vec().unwrap()).unwrap();
        assert_eq!((asked.name.as_str(), asked.kind), ("b.shop.svc.clusterset.local", Kind::A));
        let got = answer(&query("b.shop.svc.clusterset.local.", RecordType::A), Over::Udp, &address);
        assert_eq!((got.metadata.id, got.metadata.response_code), (77, ResponseCode::NoError));
        assert!(got.metadata.authoritative && got.metadata.recursion_desired && !got.metadata.truncation);
        assert_eq!((got.answers.len(), got.answers[0].ttl, got.edns.is_none()), (1, TTL, true));
        for (found, code, authorities) in [
            (Found::NoData, ResponseCode::NoError, 1),
            (Found::NoName, ResponseCode::NXDomain, 1),
            (Found::Unknown, ResponseCode::ServFail, 0),
        ] {
            let got = answer(&query("c.shop.svc.clusterset.local.", RecordType::A), Over::Udp, &found);
            assert_eq!((got.metadata.response_code, got.authorities.len(), got.answers.len()), (code, authorities, 0));
        }
    }

    /// Mutations seen to fail: the limit of EDNS not looked at; `UDP_MOST` not looked at; answers not cleared.
    #[test]
    fn long_answers_are_cut_over_udp_alone() {
        let many = |count| Found::Records((0..count).map(|i| Record::Text(format!("{i:050}"))).collect());
        let plain = query("b.shop.svc.clusterset.local.", RecordType::TXT);
        let mut wide = plain.clone();
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        wide.set_edns(edns);
        for (message, count, over, cut) in [
            (&plain, 5, Over::Udp, false),
            (&plain, 8, Over::Udp, true),
            (&wide, 8, Over::Udp, false),
            (&wide, 40, Over::Udp, true),
            (&plain, 40, Over::Tcp, false),
        ] {
            let got = answer(message, over, &many(count));
            let expected = if cut { 0 } else { count };
            assert_eq!((got.metadata.truncation, got.answers.len()), (cut, expected), "{count} {over:?}");
            assert_eq!(got.edns.is_some(), message.edns.is_some());
        }
    }

    fn code(bytes: &[u8]) -> Option<ResponseCode> {
        match ask(bytes) {
            Err(Some(bytes)) => {
                let message = Message::from_vec(&bytes).unwrap();
                assert_eq!(message.metadata.message_type, MessageType::Response);
                Some(message.metadata.response_code)
            }
            Ok(_) | Err(None) => None,
        }
    }

    /// Mutation seen to fail: responses are answered.
    #[test]
    fn what_is_no_question_is_refused_or_passed_over() {
        let good = query("b.shop.svc.clusterset.local.", RecordType::A);
        let mut response = good.clone();
        response.metadata.message_type = MessageType::Response;
        let mut two = good.clone();
        two.add_query(two.queries[0].clone());
        let mut status = good.clone();
        status.metadata.op_code = OpCode::Status;
        let mut chaos = good.clone();
        chaos.queries[0].set_query_class(DNSClass::CH);
        let mut later = good.clone();
        let mut edns = Edns::new();
        edns.set_version(1);
        later.set_edns(edns);
        let bytes = |m: &Message| m.to_vec().unwrap();
        assert_eq!(code(&bytes(&response)), None);
        assert_eq!(code(b"\0\0\0\0"), None);
        assert_eq!(code(&bytes(&two)), Some(ResponseCode::FormErr));
        assert_eq!(code(&bytes(&good)[..20]), Some(ResponseCode::FormErr));
        assert_eq!(code(&bytes(&status)), Some(ResponseCode::NotImp));
        assert_eq!(code(&bytes(&chaos)), Some(ResponseCode::Refused));
        // The number of BADVERS has a second name, of another extension.
        assert_eq!(code(&bytes(&later)).map(u16::from), Some(u16::from(ResponseCode::BADVERS)));
        let asked = ask(&bytes(&good)).unwrap();
        let elsewhere = Message::from_vec(&reply(&asked, Over::Udp, None).unwrap()).unwrap();
        assert_eq!(elsewhere.metadata.response_code, ResponseCode::Refused);
    }
}
