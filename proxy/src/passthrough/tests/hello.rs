use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::passthrough::hello::*;

/// Takes every server: only the gateway is under test.
#[derive(Debug)]
pub(super) struct Anybody;
impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn client(post_quantum: bool) -> ClientConfig {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = if post_quantum {
        vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768]
    } else {
        vec![rustls::crypto::aws_lc_rs::kx_group::X25519]
    };
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth()
}

pub(super) const NAME: &str = "outbound_.8080_._.b.shop.svc.clusterset.local";

fn real(name: &str, post_quantum: bool) -> Vec<u8> {
    let mut connection =
        ClientConnection::new(Arc::new(client(post_quantum)), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
    HelloReader::new().read(bytes)
}

fn named() -> Result<Option<Hello>, HelloError> {
    Ok(Some(Hello::Named(NAME.to_owned())))
}

/// Cuts one record into several.
fn in_records(hello: &[u8], size: usize, empty_between: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in hello[5..].chunks(size) {
        out.extend([22, 3, 1]);
        out.extend(u16::try_from(chunk.len()).unwrap().to_be_bytes());
        out.extend(chunk);
        if empty_between {
            out.extend([22, 3, 3, 0, 0]);
        }
    }
    out.truncate(out.len() - if empty_between { 5 } else { 0 });
    out
}

/// Mutation seen to fail: `self.seen += taken` left out.
#[test]
fn every_split_of_a_real_hello_reads_the_same() {
    for (post_quantum, cuts) in [(false, usize::MAX), (true, 40)] {
        let hello = real(NAME, post_quantum);
        assert!(!post_quantum || hello.len() > 1_400, "{}", hello.len());
        for whole in
            [hello.clone(), in_records(&hello, hello.len() / 10, false), in_records(&hello, hello.len() / 10, true)]
        {
            assert_eq!(read(&whole), named());
            for at in (0..whole.len()).step_by((whole.len() / cuts.min(whole.len())).max(1)) {
                let mut reader = HelloReader::new();
                assert_eq!(reader.read(&whole[..at]), Ok(None), "split at {at}");
                assert_eq!(reader.read(&whole), named(), "split at {at}");
            }
            let mut reader = HelloReader::new();
            for end in 0..whole.len() {
                assert_eq!(reader.read(&whole[..end]), Ok(None), "byte {end}");
            }
            assert_eq!(reader.read(&whole), named());
        }
    }
}

/// Mutation seen to fail: `self.records > RECORDS_MAX` replaced by `false`.
#[test]
fn records_are_limited() {
    let hello = real(NAME, false);
    let body = hello.len() - 5;
    assert_eq!(read(&in_records(&hello, body.div_ceil(RECORDS_MAX as usize), false)), named());
    let many = in_records(&hello, body / 40, false);
    assert_eq!(read(&many), Err(HelloError::Limit { limit: "records", max: 32 }));
    let empties: Vec<u8> = [22, 3, 1, 0, 0].repeat(40);
    assert_eq!(read(&empties), Err(HelloError::Limit { limit: "records", max: 32 }));
}

/// A hello built by hand: `extensions` as they stand on the wire.
fn hello_with(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    message(1, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend(body);
    let mut out = Vec::new();
    for chunk in message.chunks(1 << 14) {
        out.extend([22, 3, 1]);
        out.extend(u16::try_from(chunk.len()).unwrap().to_be_bytes());
        out.extend(chunk);
    }
    out
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    out.extend(body);
    out
}

fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
    out.extend(name);
    out
}

fn sni(entries: &[Vec<u8>]) -> Vec<u8> {
    let list = entries.concat();
    let mut body = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    body.extend(list);
    extension(0, &body)
}

fn one(name: &[u8]) -> Result<Option<Hello>, HelloError> {
    read(&hello_with(&sni(&[entry(0, name)])))
}

/// Mutation seen to fail: `label.is_empty() ||` of `host_name` left out.
#[test]
fn ambiguous_names_are_refused() {
    assert_eq!(one(NAME.as_bytes()), named());
    assert_eq!(one(NAME.to_ascii_uppercase().as_bytes()), named(), "case is folded");
    let long =
        [[b'a'; 63], [b'b'; 63], [b'c'; 63], [b'd'; 63]].map(|l| String::from_utf8(l.to_vec()).unwrap()).join(".");
    assert!(matches!(one(&long.as_bytes()[..253]), Ok(Some(Hello::Named(_)))));
    let label = "a".repeat(64);
    let bad: [&[u8]; 17] = [
        b"",
        &long.as_bytes()[..254],
        b"a\0b.local",
        b"a b",
        b"b.shop.",
        b".b.shop",
        b"b..shop",
        b".",
        "b\u{e9}.shop".as_bytes(),
        b"127.0.0.1",
        b"127.1",
        b"2130706433",
        b"0x7f000001",
        b"::1",
        b"[::1]",
        b"*.shop",
        label.as_bytes(),
    ];
    for name in bad {
        assert!(
            matches!(one(name), Err(HelloError::Name { .. })),
            "{:?}: {:?}",
            String::from_utf8_lossy(name),
            one(name)
        );
    }
}

/// Mutation seen to fail: the check for an extension that occurs twice left out.
#[test]
fn ambiguous_extensions_are_refused() {
    let good = sni(&[entry(0, NAME.as_bytes())]);
    let cases: [(&str, Vec<u8>); 8] = [
        ("two names", sni(&[entry(0, b"a.b"), entry(0, b"c.d")])),
        ("another type", sni(&[entry(1, b"a.b")])),
        ("a second of another type", sni(&[entry(0, b"a.b"), entry(1, b"a.b")])),
        ("no name", sni(&[])),
        ("empty extension", extension(0, &[])),
        ("list too long", extension(0, &[0, 9, 0, 0, 1, b'a'])),
        ("bytes after the list", extension(0, &[0, 4, 0, 0, 1, b'a', 9])),
        ("twice", [good.clone(), extension(43, &[2, 3, 4]), good.clone()].concat()),
    ];
    for (what, extensions) in cases {
        assert!(read(&hello_with(&extensions)).is_err(), "{what}");
    }
    // GREASE, ECH and unknown extensions are passed over, wherever they stand.
    let others = [extension(0x0a0a, &[]), extension(0xfe0d, &[0; 200]), good, extension(0x7777, &[1])].concat();
    assert_eq!(read(&hello_with(&others)), named());
    assert_eq!(read(&hello_with(&extension(43, &[2, 3, 4]))), Ok(Some(Hello::Nameless)));
    let many: Vec<u8> = (100..400u16).flat_map(|k| extension(k, &[])).collect();
    assert_eq!(read(&hello_with(&many)), Err(HelloError::Limit { limit: "extensions", max: EXTENSIONS_MAX }));
}

/// Mutation seen to fail: `total > HELLO_MAX` replaced by `total > usize::MAX - 1`.
#[test]
fn size_is_limited_and_known_before_the_bytes_come() {
    let padding = |n| [sni(&[entry(0, NAME.as_bytes())]), extension(21, &vec![0; n])].concat();
    let fits = HELLO_MAX - 4 - 43 - padding(0).len();
    assert_eq!(read(&hello_with(&padding(fits))), named());
    assert_eq!(read(&hello_with(&padding(fits + 1))[..9]), Err(HelloError::Limit { limit: "bytes", max: HELLO_MAX }));
}

/// Mutation seen to fail: `bytes.get(1).is_some_and(…)` of `record_head` replaced by `false`.
#[test]
fn what_is_no_client_hello_is_classified() {
    let cases: [(&[u8], HelloError); 9] = [
        (b"GET / HTTP/1.1\r\n", HelloError::NotTls),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", HelloError::NotTls),
        (b"\r\n\r\n\0\r\nQUIT\n", HelloError::NotTls),
        (b"\x00", HelloError::NotTls),
        (b"\x16\x02", HelloError::NotTls),
        (b"\x80\x2e\x01\x03\x01", HelloError::Ssl2),
        (b"\x15\x03\x03\x00\x02\x02\x28", HelloError::Record),
        (b"\x16\x03\x01\xff\xff", HelloError::Record),
        (b"\x16\x03\x01\x00\x05\x02", HelloError::Malformed { at: "the message type" }),
    ];
    for (bytes, error) in cases {
        assert_eq!(read(bytes), Err(error), "{bytes:?}");
    }
    let mut trailing = hello_with(&sni(&[entry(0, NAME.as_bytes())]));
    let length = u16::from_be_bytes([trailing[3], trailing[4]]) + 1;
    trailing[3..5].copy_from_slice(&length.to_be_bytes());
    trailing.push(0);
    assert!(read(&trailing).is_err(), "a second message in the record of the hello");
    let truncated = message(1, &[3, 3, 1, 2, 3]);
    assert_eq!(read(&truncated), Err(HelloError::Malformed { at: "the random" }));
}

proptest! {
    /// Whatever arrives: no panic, and the answer does not depend on how it was cut.
    ///
    /// Mutation seen to fail: `self.record_left -= taken` replaced by `self.record_left = 0`.
    #[test]
    fn cuts_never_matter(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), real_head in any::<bool>(), flip in any::<u16>(), to in any::<u8>(), cuts in proptest::collection::vec(1usize..90, 0..40)) {
        if real_head {
            let mut hello = in_records(&hello_with(&sni(&[entry(0, NAME.as_bytes())])), 25, false);
            let at = usize::from(flip) % hello.len();
            hello[at] = to;
            hello.extend(bytes);
            bytes = hello;
        }
        let whole = read(&bytes);
        let mut reader = HelloReader::new();
        let mut end = 0;
        let mut cut = Ok(None);
        for step in cuts.into_iter().chain([usize::MAX / 2]) {
            end = (end + step).min(bytes.len());
            cut = reader.read(&bytes[..end]);
            if cut != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(cut, whole);
    }
}
