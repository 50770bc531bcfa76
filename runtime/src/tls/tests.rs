//! Forged certificates, one by one, and the few that are taken.

use std::sync::Arc;
use std::time::Duration;

use meshfed_model::identity::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use super::*;
use crate::clock;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// A CA that can make anything.
pub(crate) struct Forge {
    pub(crate) domain: TrustDomain,
    pub(crate) anchor: CertificateDer<'static>,
    key: KeyPair,
    params: CertificateParams,
}

pub(crate) struct Leaf {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

impl Forge {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }
    pub(crate) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![uri(&format!("spiffe://{name}"))];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = ((clock::wall() - DAY).into(), (clock::wall() + DAY * 30).into());
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let anchor = params.self_signed(&key).unwrap().der().clone();
        Self { domain: domain(name), anchor, key, params }
    }
    pub(crate) fn spki_sha256(&self) -> [u8; 32] {
        let spki = rcgen::PublicKeyData::subject_public_key_info(&self.key);
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki).as_ref().try_into().unwrap()
    }
    pub(crate) fn issue(&self, san: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(san)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = ((clock::wall() - DAY).into(), (clock::wall() + DAY).into());
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap().der().clone();
        Leaf { der, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())) }
    }
    pub(crate) fn identity(&self, san: &str) -> Arc<IdentityStore> {
        let leaf = self.issue(san, |_| {});
        Arc::new(IdentityStore::new(Identity::new(vec![leaf.der], leaf.key).unwrap()))
    }
}

pub(crate) fn trust(forges: &[&Forge]) -> Arc<TrustStore> {
    Arc::new(TrustStore::with(forges.iter().map(|f| (f.domain.clone(), vec![f.anchor.clone()])).collect()).unwrap())
}

fn at(offset: i64) -> UnixTime {
    let now = i64::try_from(clock::unix_seconds(clock::wall())).unwrap();
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now + offset).unwrap()))
}

const B: &str = "spiffe://east.mesh.example/ns/shop/sa/b";

fn check(trust: &TrustStore, leaf: &Leaf, role: Role) -> Result<SpiffeId, SvidError> {
    verify_svid(&trust.snapshot(), &leaf.der, &[], role, at(0))
}

/// Mutation seen to fail: anchors of all trust domains in one list (`cross-signed` is then taken); the validity check
/// of anchors left out; `KeyUsage::server_auth()` in place of `required`; the count of URI SANs left out.
#[test]
fn forged_certificates_are_refused() {
    let (east, west) = (Forge::new("east.mesh.example"), Forge::new("west.mesh.example"));
    let fleet = Forge::new("mesh.example");
    let store = trust(&[&east, &west, &fleet]);
    for role in [Role::Server, Role::Client] {
        assert_eq!(check(&store, &east.issue(B, |_| {}), role).unwrap().to_string(), B);
    }
    type Change = fn(&mut CertificateParams);
    let plain: Change = |_| {};
    let table: Vec<(&str, Leaf, &str)> = vec![
        ("cross-signed for west", east.issue("spiffe://west.mesh.example/ns/shop/sa/a", plain), "bad_chain"),
        ("cross-signed for the fleet", east.issue("spiffe://mesh.example/federator/1", plain), "bad_chain"),
        ("below its own domain", east.issue("spiffe://a.east.mesh.example/ns/x/sa/y", plain), "unknown_trust_domain"),
        (
            "two URI SANs",
            east.issue(B, |p| p.subject_alt_names.push(uri("spiffe://west.mesh.example/ns/a/sa/b"))),
            "many_uri_sans",
        ),
        ("the same URI SAN twice", east.issue(B, |p| p.subject_alt_names.push(uri(B))), "many_uri_sans"),
        (
            "no SAN, the id as common name",
            east.issue(B, |p| {
                p.subject_alt_names.clear();
                p.distinguished_name.push(DnType::CommonName, B);
            }),
            "no_uri_san",
        ),
        (
            "a DNS SAN only",
            east.issue(B, |p| p.subject_alt_names = vec![SanType::DnsName("b.shop".try_into().unwrap())]),
            "no_uri_san",
        ),
        (
            "an IP SAN only",
            east.issue(B, |p| p.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())]),
            "no_uri_san",
        ),
        ("a CA leaf", east.issue(B, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "ca_leaf"),
        ("keyCertSign", east.issue(B, |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), "ca_leaf"),
        ("cRLSign", east.issue(B, |p| p.key_usages.push(KeyUsagePurpose::CrlSign)), "ca_leaf"),
        ("no key usage", east.issue(B, |p| p.key_usages.clear()), "key_usage"),
        ("keyEncipherment only", east.issue(B, |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]), "key_usage"),
        ("expired", east.issue(B, |p| p.not_after = (clock::wall() - Duration::from_secs(60)).into()), "expired"),
        (
            "not yet valid",
            east.issue(B, |p| p.not_before = (clock::wall() + Duration::from_secs(60)).into()),
            "not_yet_valid",
        ),
        (
            "server only",
            east.issue(B, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "extended_key_usage",
        ),
        ("no extended key usage", east.issue(B, |p| p.extended_key_usages.clear()), "extended_key_usage"),
        ("upper-case trust domain", east.issue("spiffe://East.mesh.example/ns/shop/sa/b", plain), "not_spiffe_id"),
        ("upper-case scheme", east.issue("SPIFFE://east.mesh.example/ns/shop/sa/b", plain), "not_spiffe_id"),
        ("upper-case path", east.issue("spiffe://east.mesh.example/ns/Shop/sa/b", plain), "not_spiffe_id"),
        ("dot segments", east.issue("spiffe://east.mesh.example/ns/shop/sa/../b", plain), "not_spiffe_id"),
        ("escape", east.issue("spiffe://east.mesh.example/ns/shop/sa/b%2fc", plain), "not_spiffe_id"),
        ("trailing slash", east.issue("spiffe://east.mesh.example/ns/shop/sa/b/", plain), "not_spiffe_id"),
        ("NUL", east.issue("spiffe://east.mesh.example/ns/shop/sa/b\0.evil", plain), "not_spiffe_id"),
        ("no path", east.issue("spiffe://east.mesh.example", plain), "not_spiffe_id"),
        ("a port", east.issue("spiffe://east.mesh.example:80/ns/shop/sa/b", plain), "not_spiffe_id"),
        ("trailing dot", east.issue("spiffe://east.mesh.example./ns/shop/sa/b", plain), "not_spiffe_id"),
        ("another scheme", east.issue("https://east.mesh.example/ns/shop/sa/b", plain), "not_spiffe_id"),
        (
            "a critical extension nobody knows",
            east.issue(B, |p| {
                let mut e = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
                e.set_criticality(true);
                p.custom_extensions.push(e);
            }),
            "malformed",
        ),
        (
            "an unknown domain",
            Forge::new("south.mesh.example").issue("spiffe://south.mesh.example/ns/a/sa/b", plain),
            "unknown_trust_domain",
        ),
        ("an impostor of east", Forge::new("east.mesh.example").issue(B, plain), "bad_chain"),
    ];
    for (what, leaf, expected) in table {
        let refused = check(&store, &leaf, Role::Client).expect_err(what);
        assert_eq!(refused.as_str(), expected, "{what}: {refused}");
    }
    // A DNS name beside the one URI SAN neither helps nor harms.
    let both = east.issue(B, |p| p.subject_alt_names.push(SanType::DnsName("west.mesh.example".try_into().unwrap())));
    assert!(check(&store, &both, Role::Client).is_ok());
    assert!(check(&store, &east.issue(B, |p| p.extended_key_usages.truncate(1)), Role::Server).is_ok());
    for garbage in [vec![], vec![0x30], vec![0; 500], [&east.issue(B, plain).der[..], &[0]].concat()] {
        let result = verify_svid(&store.snapshot(), &garbage.into(), &[], Role::Client, at(0));
        assert!(matches!(result, Err(SvidError::Malformed(_))));
    }
}

/// UTF-8 that is no IA5 string, and a SAN that two parsers could read differently (CA4): rcgen refuses to write them,
/// so the bytes are changed in place; identity is read before the signature is.
/// Mutation seen to fail: `GeneralName::Invalid` ignored.
#[test]
fn a_san_of_odd_bytes_is_refused() {
    let east = Forge::new("east.mesh.example");
    let good = east.issue(B, |_| {}).der.to_vec();
    let begin = good.windows(B.len()).position(|w| w == B.as_bytes()).unwrap();
    for (offset, with) in
        [(40, &[0xef, 0xbc, 0x8f][..]), (10, &[0xff]), (30, &[0xc0, 0xaf]), (10, &[0x00]), (12, b"\n")]
    {
        let mut bad = good.clone();
        let offset = offset.min(B.len() - with.len());
        bad[begin + offset..begin + offset + with.len()].copy_from_slice(with);
        let result = peer_spiffe_id(&bad.into());
        assert!(
            matches!(result, Err(SvidError::Malformed(_) | SvidError::NotSpiffeId(_) | SvidError::NoUriSan)),
            "{result:?}"
        );
    }
    // The tag of the name changed from URI to DNS: no URI SAN is left.
    let mut dns = good;
    assert_eq!(dns[begin - 2], 0x86);
    dns[begin - 2] = 0x82;
    assert_eq!(peer_spiffe_id(&dns.into()), Err(SvidError::NoUriSan));
}

/// Mutation seen to fail: `CHAIN_CERTS_MAX` as 5; `CHAIN_BYTES_MAX` not checked.
#[test]
fn chains_are_limited_and_lead_to_the_anchor() {
    let east = Forge::new("east.mesh.example");
    let store = trust(&[&east]);
    let leaf = east.issue(B, |_| {});
    let verify = |rest: &[CertificateDer<'_>]| {
        verify_svid(&store.snapshot(), &leaf.der, rest, Role::Server, at(0)).map_err(|e| e.as_str())
    };
    let anchor = east.anchor.clone();
    assert!(verify(std::slice::from_ref(&anchor)).is_ok());
    assert!(verify(&vec![anchor.clone(); 3]).is_ok());
    assert_eq!(verify(&vec![anchor; 4]), Err("chain_limit"));
    assert_eq!(verify(&[vec![0; 33 * 1024].into()]), Err("chain_limit"));
    // An operator's intermediate.
    let middle = Forge::new("middle");
    let mut params = middle.params.clone();
    params.subject_alt_names.clear();
    let der = params.signed_by(&middle.key, &Issuer::from_params(&east.params, &east.key)).unwrap().der().clone();
    let below = middle.issue(B, |_| {});
    let verify = |rest: &[CertificateDer<'_>]| verify_svid(&store.snapshot(), &below.der, rest, Role::Server, at(0));
    assert!(verify(&[der]).is_ok());
    assert_eq!(verify(&[]).unwrap_err().as_str(), "bad_chain");
    assert_eq!(verify(&[middle.anchor]).unwrap_err().as_str(), "bad_chain");
}

/// Mutation seen to fail: `is_valid_at` always true.
#[test]
fn an_anchor_counts_only_while_it_is_valid() {
    let old = Forge::with("east.mesh.example", |p| p.not_after = (clock::wall() - Duration::from_secs(9)).into());
    let leaf = old.issue(B, |_| {});
    assert_eq!(check(&trust(&[&old]), &leaf, Role::Client).unwrap_err().as_str(), "no_valid_anchor");
}

/// Mutation seen to fail: `replace` storing before it has checked.
#[test]
fn the_store_keeps_the_last_good_and_counts_generations() {
    let (east, west) = (Forge::new("east.mesh.example"), Forge::new("west.mesh.example"));
    let store = trust(&[&east]);
    assert_eq!(store.generation(), 1);
    let snapshot = store.snapshot();
    let leaf = east.issue(B, |_| {});
    let bad = [(east.domain.clone(), vec![leaf.der.clone()])];
    assert!(store.replace(bad.into()).unwrap_err().to_string().contains("anchor 0 of trust domain east.mesh.example"));
    assert!(store.replace([(east.domain.clone(), vec![vec![1, 2].into()])].into()).is_err());
    assert_eq!(store.generation(), 1);
    assert_eq!(store.replace([(east.domain.clone(), vec![east.anchor.clone()])].into()).unwrap(), 1);
    assert_eq!(store.replace([(west.domain.clone(), vec![west.anchor.clone()])].into()).unwrap(), 2);
    assert!(store.get(&east.domain).is_none() && store.get(&west.domain).is_some());
    assert_eq!(check(&store, &leaf, Role::Client).unwrap_err().as_str(), "unknown_trust_domain");
    assert!(verify_svid(&snapshot, &leaf.der, &[], Role::Client, at(0)).is_ok(), "a handshake keeps its generation");
}

/// Mutation seen to fail: `keys_match` left out of `Identity::new`.
#[test]
fn an_identity_has_its_own_key() {
    let east = Forge::new("east.mesh.example");
    let (one, two) = (east.issue(B, |_| {}), east.issue(B, |_| {}));
    assert!(matches!(Identity::new(vec![one.der.clone()], two.key), Err(IdentityError::Key(_))));
    assert!(matches!(Identity::new(vec![], one.key.clone_key()), Err(IdentityError::Empty)));
    assert!(matches!(Identity::new(vec![east.anchor.clone()], one.key.clone_key()), Err(IdentityError::Svid(_))));
    let identity = Identity::new(vec![one.der, east.anchor.clone()], one.key).unwrap();
    assert_eq!((identity.id.to_string().as_str(), identity.chain().len()), (B, 2));
    assert!(identity.renew_at() < identity.not_after && identity.renew_at() > identity.not_before);
    assert!(!format!("{identity:?}").contains("key"));
}

/// Mutation seen to fail: `is_self_signed` left out of the pin (`resigned`); the federator check (`an agent`).
#[test]
fn a_pin_proves_the_fleet_and_nothing_else_does() {
    use crate::pin::PinnedFleetVerifier;
    let fleet = Forge::new("mesh.example");
    let pinned = PinnedFleetVerifier::new(fleet.spki_sha256());
    let federator = fleet.issue("spiffe://mesh.example/federator/1", |_| {});
    let verify =
        |leaf: &Leaf, rest: &[CertificateDer<'_>]| pinned.verify(&leaf.der, rest, at(0)).map_err(|e| e.as_str());
    let proven = verify(&federator, std::slice::from_ref(&fleet.anchor)).unwrap();
    assert_eq!(proven.trust_domain, fleet.domain);
    assert_eq!(proven.federator.to_string(), "spiffe://mesh.example/federator/1");
    assert_eq!(verify(&federator, &[]), Err("wrong_pin"));
    assert_eq!(verify(&federator, &vec![fleet.anchor.clone(); 2]), Err("wrong_pin"));
    let agent = fleet.issue("spiffe://mesh.example/cluster/east/agent/0", |_| {});
    assert_eq!(verify(&agent, std::slice::from_ref(&fleet.anchor)), Err("not_accepted"));
    let elsewhere = fleet.issue("spiffe://other.example/federator/1", |_| {});
    assert_eq!(verify(&elsewhere, std::slice::from_ref(&fleet.anchor)), Err("unknown_trust_domain"));
    // A stranger's anchor, and a federator by it.
    let other = Forge::new("mesh.example");
    let impostor = other.issue("spiffe://mesh.example/federator/1", |_| {});
    assert_eq!(verify(&impostor, std::slice::from_ref(&other.anchor)), Err("wrong_pin"));
    assert_eq!(verify(&impostor, std::slice::from_ref(&fleet.anchor)), Err("bad_chain"));
    // The pinned key in a certificate that a stranger signed, with another trust domain.
    let resigned = fleet.params.signed_by(&fleet.key, &Issuer::from_params(&other.params, &other.key)).unwrap();
    assert_eq!(verify(&federator, std::slice::from_ref(resigned.der())), Err("wrong_pin"));
    // Genuine, and over.
    let old = fleet.issue("spiffe://mesh.example/federator/1", |p| {
        p.not_after = (clock::wall() - Duration::from_secs(5)).into();
    });
    assert_eq!(verify(&old, std::slice::from_ref(&fleet.anchor)), Err("expired"));
}
