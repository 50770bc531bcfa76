use std::time::Duration;

use meshfed_ca::keys::SigningKey;
use meshfed_ca::{anchor, pem};
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::clock;
use meshfed_runtime::tls::peer_spiffe_id;

use super::*;

fn authority(domain: &str) -> Authority {
    let domain = TrustDomain::new(domain).unwrap();
    let key = SigningKey::generate().unwrap();
    let anchor = anchor::self_signed(&key, &domain, clock::wall(), Duration::from_secs(86_400)).unwrap();
    Authority::new(&key.to_pkcs8_pem(), anchor, domain).unwrap()
}

/// An authority whose certificates nobody could verify is none.
///
/// Mutation seen to fail: key and anchor are not compared; `anchor::verify` is not asked.
#[test]
fn the_anchor_is_that_of_the_key_and_the_cluster() {
    let domain = TrustDomain::new("west.mesh.example").unwrap();
    let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let of = |key: &SigningKey, domain: &TrustDomain| {
        // Long over: a wrong clock at the start keeps no agent away.
        let then = clock::wall() - Duration::from_secs(90 * 86_400);
        anchor::self_signed(key, domain, then, Duration::from_secs(86_400)).unwrap()
    };
    let new = |anchor: Vec<u8>| Authority::new(&key.to_pkcs8_pem(), anchor, domain.clone()).map(drop);
    assert!(new(of(&key, &domain)).is_ok());
    assert!(matches!(new(of(&other, &domain)), Err(AuthorityError::OtherKey)));
    let foreign = of(&key, &TrustDomain::new("east.mesh.example").unwrap());
    assert!(matches!(new(foreign), Err(AuthorityError::Anchor(_))));
    assert!(matches!(new(vec![1, 2, 3]), Err(AuthorityError::Anchor(_))));
}

/// Mutations seen to fail: the trust domain is not compared (and `svid::issue` is told another anchor);
/// `is_workload` is not asked.
#[test]
fn only_the_own_trust_domain_is_issued() {
    let west = authority("west.mesh.example");
    let id = "spiffe://west.mesh.example/ns/shop/sa/a".parse().unwrap();
    let issued = west.issue(&id, None, clock::wall()).unwrap();
    let leaf = pem::certificates(&issued.chain_pem()).unwrap();
    assert_eq!(leaf.len(), 1, "a handshake carries the SVID alone");
    assert_eq!(peer_spiffe_id(&leaf[0]).unwrap(), id);
    assert_eq!(leaf[0].as_ref(), issued.certificate());
    let key = SigningKey::from_pkcs8_der(&issued.key_der()).unwrap();
    assert_eq!(*key.to_pkcs8_pem(), *issued.key_pem());
    for foreign in [
        "spiffe://east.mesh.example/ns/shop/sa/a",
        "spiffe://mesh.example/federator/1",
        "spiffe://mesh.example/cluster/west/agent/0",
        "spiffe://west.mesh.example/cluster/west/agent/0",
        "spiffe://west.mesh.example/federator/1",
    ] {
        let refused = west.issue(&foreign.parse().unwrap(), None, clock::wall());
        assert!(matches!(refused, Err(AuthorityError::Foreign { .. })), "{foreign}");
    }
}
