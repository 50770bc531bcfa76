//! SVIDs and the requests for them.

use std::process::Command;
use std::time::Duration;

use meshfed_model::metadata::WorkloadMetadata;
use meshfed_runtime::tls::{self, SvidError};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Ca, HOUR, YEAR, ca, domain, id, now, trust, verify};
use crate::csr::{self, CsrError};
use crate::keys::SigningKey;
use crate::template::{BACKDATE, IssueError, seconds};
use crate::{anchor, lineage, pem, root, svid};

/// Mutation seen to fail: the trust domain of the issuer not compared in `svid::issue`.
#[test]
fn an_svid_verifies_under_its_own_anchor_alone() {
    let (east, west) = (ca("east.mesh.example"), ca("west.mesh.example"));
    let b = id("spiffe://east.mesh.example/ns/shop/sa/b");
    let subject = SigningKey::generate().unwrap();
    let leaf = svid::issue(&east.key, &east.anchor, &b, subject.public_key_der(), HOUR, now()).unwrap();
    assert_eq!(verify(&trust(&[&east, &west]), &leaf, now()).unwrap(), b);
    assert!(matches!(verify(&trust(&[&west]), &leaf, now()), Err(SvidError::UnknownTrustDomain { .. })));
    assert!(matches!(verify(&trust(&[&east]), &leaf, now() + HOUR * 2), Err(SvidError::Expired { .. })));
    assert!(matches!(verify(&trust(&[&east]), &leaf, now() - HOUR), Err(SvidError::NoValidAnchor { .. })));
    assert!(matches!(verify(&trust(&[&east]), &leaf, now() + YEAR * 2), Err(SvidError::NoValidAnchor { .. })));
    // East's key under the name of west's domain: an anchor that east made itself, held by nobody.
    let forged = anchor::self_signed(&east.key, &west.domain, now(), YEAR).unwrap();
    let stolen = id("spiffe://west.mesh.example/ns/shop/sa/a");
    let leaf = svid::issue(&east.key, &forged, &stolen, subject.public_key_der(), HOUR, now()).unwrap();
    assert!(matches!(verify(&trust(&[&east, &west]), &leaf, now()), Err(SvidError::BadChain { .. })));
    let issue = |key, cert: &[u8], who, ttl, at| svid::issue(key, cert, who, subject.public_key_der(), ttl, at);
    assert!(issue(&east.key, &east.anchor, &stolen, HOUR, now()).is_err());
    assert!(issue(&west.key, &east.anchor, &b, HOUR, now()).is_err());
    assert!(matches!(issue(&east.key, &east.anchor, &b, HOUR * 25, now()), Err(IssueError::Ttl { .. })));
    assert!(matches!(issue(&east.key, &east.anchor, &b, Duration::ZERO, now()), Err(IssueError::Ttl { .. })));
    assert_eq!(issue(&east.key, &east.anchor, &b, HOUR, now() + YEAR), Err(IssueError::IssuerExpired));
    assert!(issue(&east.key, &leaf, &b, HOUR, now()).is_err(), "an SVID issues nothing");
}

/// Mutation seen to fail: `.min(validity.not_after)` left out (the output check then refuses the issue).
#[test]
fn an_svid_ends_with_its_issuer() {
    let east = ca("east.mesh.example");
    let key = SigningKey::generate().unwrap();
    let a = id("spiffe://east.mesh.example/ns/shop/sa/a");
    let near_end = now() + YEAR - Duration::from_secs(60);
    let leaf = svid::issue(&east.key, &east.anchor, &a, key.public_key_der(), HOUR, near_end).unwrap();
    let (_, end) = anchor::validity(&leaf).unwrap();
    assert_eq!(end, now() + YEAR);
}

fn assert_template(leaf: &[u8], ca: &Ca, ttl: Duration, uri: &str) -> Vec<u8> {
    let (rest, c) = X509Certificate::from_der(leaf).unwrap();
    assert!(rest.is_empty());
    assert!(!c.is_ca());
    let bc = c.basic_constraints().unwrap().unwrap();
    assert!(bc.critical && !bc.value.ca);
    let ku = c.key_usage().unwrap().unwrap();
    assert!(ku.critical && ku.value.flags == 1);
    let eku = c.extended_key_usage().unwrap().unwrap().value;
    assert!(eku.server_auth && eku.client_auth && !eku.any && eku.other.is_empty());
    let san = c.subject_alternative_name().unwrap().unwrap();
    assert_eq!(format!("{:?}", san.value.general_names), format!("[URI({uri:?})]"));
    assert_eq!(c.subject().to_string(), "");
    assert_eq!(c.validity().not_before.timestamp(), seconds(now() - BACKDATE));
    assert_eq!(c.validity().not_after.timestamp(), seconds(now() + ttl));
    assert!(c.raw_serial().len() >= 16 && c.raw_serial().len() <= 20);
    let oids: Vec<String> = c.extensions().iter().map(|e| e.oid.to_id_string()).collect();
    assert!(oids.contains(&"2.5.29.14".to_owned()) && oids.contains(&"2.5.29.35".to_owned()), "SKI and AKI: {oids:?}");
    assert_eq!(c.extensions().len(), 6);
    assert_eq!(verify(&trust(&[ca]), leaf, now()).unwrap().to_string(), uri);
    c.raw_serial().to_vec()
}

fn hostile_request(algorithm: u8, uris: &[String], path_length: Option<u8>, name: &str) -> Vec<u8> {
    let algorithm = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        [usize::from(algorithm % 3)];
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::new(vec!["federator".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
    for uri in uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
    }
    params.serialize_request(&key).unwrap().der().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a request asks for, the certificate is the template's: never a CA, never longer than its TTL (INV-3).
    /// Mutation seen to fail: `params.is_ca = IsCa::NoCa` in `template::params` (the output check refuses).
    #[test]
    fn a_request_never_shapes_the_certificate(
        algorithm in 0u8..3,
        uris in proptest::collection::vec("spiffe://[a-z.]{1,20}/[a-z/]{0,20}", 0..4),
        path_length in proptest::option::of(0u8..9),
        name in "[ -~]{0,40}",
        ttl in 1u64..=24 * 3600,
        flip in proptest::option::of((0usize..4096, 1u8..=255)),
    ) {
        let east = ca("east.mesh.example");
        let mut request = hostile_request(algorithm, &uris, path_length, &name);
        if let Some((at, with)) = flip {
            let at = at % request.len();
            request[at] ^= with;
        }
        let Ok(key) = csr::verify(&request) else {
            prop_assert!(flip.is_some(), "an honest request is taken");
            return Ok(());
        };
        prop_assert!(flip.is_none(), "a changed request is refused");
        let uri = "spiffe://east.mesh.example/ns/shop/sa/a";
        let ttl = Duration::from_secs(ttl);
        let issue = || svid::issue(&east.key, &east.anchor, &id(uri), key.spki_der(), ttl, now()).unwrap();
        let first = assert_template(&issue(), &east, ttl, uri);
        let second = assert_template(&issue(), &east, ttl, uri);
        prop_assert_ne!(first, second, "serial numbers are random");
    }
}

/// No bit of a request can be changed, in what its signature covers or outside of it.
/// Mutation seen to fail: `tail` is not compared.
#[test]
fn a_request_has_one_form() {
    let request = csr::create(&SigningKey::generate().unwrap()).unwrap();
    let taken = |at: usize, with: u8| {
        let mut changed = request.clone();
        changed[at] ^= with;
        csr::verify(&changed).is_ok()
    };
    // Every bit, and the class bits of what may be a tag together.
    let changes = (0..request.len()).flat_map(|at| [1, 2, 4, 8, 16, 32, 64, 128, 96, 192].map(|with| (at, with)));
    let taken: Vec<(usize, u8)> = changes.filter(|(at, with)| taken(*at, *with)).collect();
    assert_eq!(taken, [], "of {} bytes", request.len());
}

/// Mutation seen to fail: the proof of possession is not checked; `LimitExceeded::check` left out.
#[test]
fn requests_bring_a_key_and_its_proof() {
    let key = SigningKey::generate().unwrap();
    let request = csr::create(&key).unwrap();
    let taken = csr::verify(&request).unwrap();
    assert_eq!(taken.spki_der(), key.public_key_der());
    assert_eq!(taken.sha256(), key.spki_sha256());
    assert_eq!(csr::verify(&request[1..]), Err(CsrError::Malformed));
    assert_eq!(csr::verify(&[&request[..], &[0]].concat()), Err(CsrError::Malformed));
    assert!(matches!(csr::verify(&vec![0x30; 17_000]), Err(CsrError::TooLarge(_))));
    // Another's key with my signature.
    let other = csr::create(&SigningKey::generate().unwrap()).unwrap();
    let at = request.windows(65).position(|w| key.public_key_der().ends_with(w)).unwrap();
    let mut stolen = other;
    stolen[at..at + 65].copy_from_slice(&request[at..at + 65]);
    assert_eq!(csr::verify(&stolen), Err(CsrError::Possession));
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let p521 = CertificateParams::default().serialize_request(&p521).unwrap().der().to_vec();
    assert_eq!(csr::verify(&p521), Err(CsrError::Algorithm));
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = CertificateParams::default().serialize_request(&rsa).unwrap().der().to_vec();
    assert_eq!(csr::verify(&rsa), Err(CsrError::Algorithm));
}

/// A foreign verifier agrees: OpenSSL takes the SVID under its anchor, and under no other.
/// Mutation seen to fail: `use_authority_key_identifier_extension` with a key identifier of another certificate.
#[test]
fn openssl_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west) = (ca("east.mesh.example"), ca("west.mesh.example"));
    let root_key = SigningKey::generate().unwrap();
    let root_der = root::create(&root_key, &domain("mesh.example"), now(), YEAR).unwrap();
    let proof = lineage::issue(&root_key, &root_der, &east.anchor, now()).unwrap();
    let key = SigningKey::generate().unwrap();
    let b = id("spiffe://east.mesh.example/ns/shop/sa/b");
    let leaf = svid::issue(&east.key, &east.anchor, &b, key.public_key_der(), HOUR, now()).unwrap();
    let write = |name: &str, der: &[u8]| {
        std::fs::write(dir.path().join(name), pem::encode_certificates([der])).unwrap();
    };
    write("leaf", &leaf);
    write("east", &east.anchor);
    write("west", &west.anchor);
    write("root", &root_der);
    write("lineage", &proof);
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).current_dir(dir.path()).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let at = seconds(now()).to_string();
    let check = |purpose: &str, ca: &str, cert: &str| {
        openssl(&["verify", "-x509_strict", "-attime", &at, "-purpose", purpose, "-CAfile", ca, cert]).0
    };
    for purpose in ["sslserver", "sslclient"] {
        assert!(check(purpose, "east", "leaf"));
        assert!(!check(purpose, "west", "leaf"));
        assert!(!check(purpose, "root", "leaf"));
    }
    assert!(openssl(&["verify", "-x509_strict", "-attime", &at, "-CAfile", "root", "lineage"]).0);
    assert!(!openssl(&["verify", "-attime", &at, "-CAfile", "root", "-untrusted", "lineage", "leaf"]).0);
    let (_, text) = openssl(&["x509", "-in", "lineage", "-noout", "-text"]);
    assert!(text.contains("CA:FALSE") && !text.contains("Certificate Sign"), "{text}");
    assert!(text.contains("URI:spiffe://east.mesh.example\n"), "{text}");
    let (_, text) = openssl(&["x509", "-in", "east", "-noout", "-text"]);
    assert!(text.contains("CA:TRUE, pathlen:0") && text.contains("Certificate Sign"), "{text}");
}

/// What metrics call a workload stands beside its identity, is not critical, and lets nobody in: the certificate is taken
/// with it and without it. Of another form it is nothing, and hurts nobody.
///
/// Mutations seen to fail: `issue_described` leaves the extension out (the output check refuses); `described` takes the
/// first of two; `read` does not compare the attribute's type.
#[test]
fn what_a_workload_is_called_is_no_part_of_its_identity() {
    let east = ca("east.mesh.example");
    let uri = "spiffe://east.mesh.example/ns/shop/sa/a";
    let key = KeyPair::generate().unwrap();
    let spki = key.subject_public_key_info();
    let ttl = Duration::from_secs(60);
    let metadata = "front;a;v1;a;v1".parse::<WorkloadMetadata>().unwrap();
    let leaf = svid::issue_described(&east.key, &east.anchor, &id(uri), Some(&metadata), &spki, ttl, now()).unwrap();
    assert_eq!(tls::described(&CertificateDer::from(leaf.as_slice())), Some(metadata.clone()));
    assert_eq!(verify(&trust(&[&east]), &leaf, now()).unwrap().to_string(), uri);
    let (_rest, parsed) = X509Certificate::from_der(&leaf).unwrap();
    let extension = parsed.extensions().iter().find(|e| e.oid.to_id_string() == "2.5.29.9").unwrap();
    assert!(!extension.critical);
    let plain = svid::issue(&east.key, &east.anchor, &id(uri), &spki, ttl, now()).unwrap();
    assert_eq!(tls::described(&CertificateDer::from(plain)), None);

    let good = tls::description(&metadata);
    let with = |contents: &[&[u8]]| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let extension = |c: &&[u8]| CustomExtension::from_oid_content(tls::DESCRIPTION_EXTENSION, c.to_vec());
        params.custom_extensions = contents.iter().map(extension).collect();
        tls::described(params.self_signed(&key).unwrap().der())
    };
    assert_eq!(with(&[&good]), Some(metadata));
    assert_eq!(with(&[&good, &good]), None, "twice");
    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|w| w == from).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    // 2.5.4.3, the common name, in the place of 2.5.4.13.
    assert_eq!(with(&[&replaced(&[0x55, 4, 13], &[0x55, 4, 3])]), None, "another attribute");
    assert_eq!(with(&[&replaced(b"front;", b"fron\";")]), None, "no label");
    assert_eq!(with(&[&[&good[..], &[0]].concat()]), None, "a byte behind it");
    for length in 0..good.len() {
        assert_eq!(with(&[&good[..length]]), None, "{length} bytes of it");
    }
}
