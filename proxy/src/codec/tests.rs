//! Tables of what is refused, and properties that hold for any input.

use proptest::prelude::*;

use super::*;

fn parse(head: &str) -> Result<(Request, Vec<u8>), Reject> {
    let buf = head.as_bytes().to_vec();
    let length = find_head_end(&buf, &mut 0)?.expect("a complete head");
    let mut scratch = Scratch::default();
    let request = parse_request(&buf, length, &mut scratch)?;
    let mut out = Vec::new();
    request_head(&mut out, &buf, &request, &scratch, HeadEdit { strip_identity: true, ..HeadEdit::default() });
    Ok((request, out))
}

fn forwarded(head: &str) -> String {
    String::from_utf8(parse(head).unwrap().1).unwrap()
}

/// Mutation seen to fail: `out.length.replace(…).is_some()` ignored; `version == Version::Http10` left out of the
/// Transfer-Encoding check; `is_value` without its lower bound; a missing Host accepted.
#[test]
fn smuggling_vectors_are_refused() {
    let with = |line: &str| format!("POST / HTTP/1.1\r\nHost: b\r\n{line}\r\n\r\n");
    for (line, reject) in [
        ("Content-Length: 5\r\nContent-Length: 5", Reject::ContentLengthRepeated),
        ("Content-Length: 5\r\nContent-Length: 6", Reject::ContentLengthRepeated),
        ("Content-Length: 5, 5", Reject::ContentLength),
        ("Content-Length: +5", Reject::ContentLength),
        ("Content-Length: -5", Reject::ContentLength),
        ("Content-Length: 0x5", Reject::ContentLength),
        ("Content-Length: 5 5", Reject::ContentLength),
        ("Content-Length:", Reject::ContentLength),
        ("Content-Length: 99999999999999999999", Reject::ContentLength),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Reject::LengthAndChunked),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", Reject::LengthAndChunked),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Reject::TransferEncoding),
        ("Transfer-Encoding: chunked, chunked", Reject::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked", Reject::TransferEncoding),
        ("Transfer-Encoding: chunked, identity", Reject::TransferEncoding),
        ("Transfer-Encoding: identity", Reject::TransferEncoding),
        ("Transfer-Encoding: xchunked", Reject::TransferEncoding),
        ("Transfer-Encoding: \u{b}chunked", Reject::ControlByte),
        ("Transfer-Encoding: chunked;x=y", Reject::TransferEncoding),
        ("Transfer-Encoding:", Reject::TransferEncoding),
        ("Transfer-Encoding : chunked", Reject::FieldName),
        ("Content-Length : 5", Reject::FieldName),
        ("Content-Length\t: 5", Reject::FieldName),
        (" Content-Length: 5", Reject::Folded),
        ("X: a\r\n Content-Length: 5", Reject::Folded),
        ("X: a\r\n\tb", Reject::Folded),
        (": x", Reject::FieldName),
        ("X", Reject::FieldName),
        ("X: a\0b", Reject::ControlByte),
        ("X: a\rContent-Length: 5", Reject::ControlByte),
        ("X\0: a", Reject::FieldName),
        ("X: a\nContent-Length: 5", Reject::BareLineFeed),
        ("Host: c", Reject::HostRepeated),
        ("Connection: a b", Reject::Connection),
        ("Expect: 200-ok", Reject::Expect),
        ("Content_Length: 5", Reject::FramingTwin),
        ("content_length: 0\r\nContent-Length: 5", Reject::FramingTwin),
        ("Content.Length: 5", Reject::FramingTwin),
        ("Transfer-Encoding: chunked\r\nTRANSFER_ENCODING: chunked", Reject::FramingTwin),
        ("Connection: transfer_encoding\r\nTransfer_Encoding: x", Reject::FramingTwin),
    ] {
        assert_eq!(parse(&with(line)).map(|_| ()), Err(reject), "{line:?}");
    }
    for (head, reject) in [
        ("GET / HTTP/1.1\r\n\r\n", Reject::HostMissing),
        ("GET / HTTP/1.1\nHost: b\n\n", Reject::BareLineFeed),
        ("GET / HTTP/1.0\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n", Reject::TransferEncoding),
        ("GET  / HTTP/1.1\r\nHost: b\r\n\r\n", Reject::RequestLine),
        ("GET /  HTTP/1.1\r\nHost: b\r\n\r\n", Reject::RequestLine),
        ("GET /\tHTTP/1.1\r\nHost: b\r\n\r\n", Reject::RequestLine),
        (" GET / HTTP/1.1\r\nHost: b\r\n\r\n", Reject::RequestLine),
        ("GET / HTTP/1.1 \r\nHost: b\r\n\r\n", Reject::RequestLine),
        ("GET / HTTP/1.1x\r\nHost: b\r\n\r\n", Reject::RequestLine),
        ("GET / http/1.1\r\nHost: b\r\n\r\n", Reject::RequestLine),
        ("GET / HTTP/2.0\r\nHost: b\r\n\r\n", Reject::Version),
        ("GET / HTTP/1.2\r\nHost: b\r\n\r\n", Reject::Version),
        ("GET /\r\nHost: b\r\n\r\n", Reject::RequestLine),
        ("\r\n\r\n", Reject::RequestLine),
        ("G(T / HTTP/1.1\r\nHost: b\r\n\r\n", Reject::RequestLine),
        ("GET /a\u{e9} HTTP/1.1\r\nHost: b\r\n\r\n", Reject::RequestLine),
        ("GET b HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Target),
        ("GET * HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Target),
        ("GET https://b/ HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Scheme),
        ("GET http:/// HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Host),
        ("GET http://u@b/ HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Host),
        ("GET http://b:x/ HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Host),
        ("GET http://b:70000/ HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Host),
        ("GET / HTTP/1.1\r\nHost: b,c\r\n\r\n", Reject::Host),
        ("GET / HTTP/1.1\r\nHost: u@b\r\n\r\n", Reject::Host),
        ("GET / HTTP/1.1\r\nHost: b/c\r\n\r\n", Reject::Host),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Reject::Host),
        ("GET / HTTP/1.1\r\nHost: [zz]\r\n\r\n", Reject::Host),
        ("GET http://b/ HTTP/1.1\r\n\r\n", Reject::HostMissing),
        ("CONNECT b:80 HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Connect),
        ("GET /#f HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Path),
        ("GET /?q#f HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Path),
        ("GET /a%2fb HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Path),
        ("GET /a%5Cb HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Path),
        ("GET /a\\b HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Path),
        ("GET /a%00b HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Path),
        ("GET /a%zz HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Path),
        ("GET /a%2 HTTP/1.1\r\nHost: b\r\n\r\n", Reject::Path),
    ] {
        assert_eq!(parse(head).map(|_| ()), Err(reject), "{head:?}");
    }
}

/// Mutation seen to fail: `FIELDS_MAX` compared with `>`; `TARGET_MAX` not compared.
#[test]
fn limits_are_exact() {
    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: b\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    assert!(parse(&fields(FIELDS_MAX)).is_ok());
    assert_eq!(parse(&fields(FIELDS_MAX + 1)).map(|_| ()), Err(Reject::TooManyFields));
    let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: b\r\n\r\n", "a".repeat(n - 1));
    assert!(parse(&target(TARGET_MAX)).is_ok());
    assert_eq!(parse(&target(TARGET_MAX + 1)).map(|_| ()), Err(Reject::TargetTooLong));
    let field = |n: usize| format!("GET / HTTP/1.1\r\nHost: b\r\nX:{}\r\n\r\n", "a".repeat(n - 2));
    assert!(parse(&field(FIELD_MAX)).is_ok());
    assert_eq!(parse(&field(FIELD_MAX + 1)).map(|_| ()), Err(Reject::FieldTooLong));
    let mut long = format!("GET / HTTP/1.1\r\nHost: b\r\n{}", format!("X: {}\r\n", "a".repeat(1000)).repeat(40));
    assert_eq!(find_head_end(long.as_bytes(), &mut 0), Err(Reject::HeadTooLong));
    long.push_str("\r\n");
    assert_eq!(find_head_end(long.as_bytes(), &mut 0), Err(Reject::HeadTooLong));
}

/// Mutation seen to fail: `Kind::HopByHop` kept; `is_nominated` always false.
#[test]
fn heads_are_written_anew() {
    assert_eq!(
        forwarded(
            "POST http://b.shop:8080 HTTP/1.1\r\nHost: evil\r\nConnection: keep-alive, x-hop, Upgrade\r\nX-Hop: 1\r\n\
             A: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nTrailer: x\r\n\
             Upgrade: h2c\r\nX-Forwarded-Client-Cert: By=me\r\nX-MeshFed-Reason: x\r\nx-envoy-peer: x\r\n\
             x-forwarded-for: 1.2.3.4\r\nB:  2 \r\ncontent-length: 0007\r\n\r\n"
        ),
        "POST / HTTP/1.1\r\nhost: b.shop:8080\r\nA: 1\r\nx-forwarded-for: 1.2.3.4\r\nB:  2 \r\ncontent-length: 7\r\n\r\n"
    );
    assert_eq!(
        forwarded(
            "PUT /x?y HTTP/1.1\r\nhOST: B.Shop.\r\nTransfer-encoding: Chunked\r\nConnection: transfer-encoding, host\r\n\r\n"
        ),
        "PUT /x?y HTTP/1.1\r\nhost: B.Shop.\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        forwarded("GET http://b?q=/../x HTTP/1.1\r\nHost: b\r\n\r\n"),
        "GET /?q=/../x HTTP/1.1\r\nhost: b\r\n\r\n"
    );
    assert_eq!(forwarded("OPTIONS * HTTP/1.0\r\nExpect: 100-continue\r\n\r\n"), "OPTIONS * HTTP/1.1\r\nhost: \r\n\r\n");
    let (request, _) = parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap();
    assert!(request.persistent && request.version == Version::Http10);
    assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().0.persistent);
    assert!(!parse("GET / HTTP/1.1\r\nHost: b\r\nConnection: x,, close\r\n\r\n").unwrap().0.persistent);
}

/// Applications behind CGI, WSGI or PHP see `-` and whatever is neither letter nor digit as one (L7-11).
///
/// Mutations seen to fail: `same` without its second half; `_` alone instead of what is not alphanumeric.
#[test]
fn twins_of_identity_headers_are_stripped() {
    let head = "GET / HTTP/1.1\r\nHost: b\r\nX_Forwarded_Client_Cert: a\r\nx-forwarded_client-cert: a\r\nX_MeshFed-Reason: a\r\n\
                x_envoy_peer: a\r\nx_forwarded_for: 1.2.3.4\r\nx_other: a\r\nKeep_Alive: a\r\nproxy_connection: a\r\n\
                content_type: a\r\nX.Forwarded+Client~Cert: a\r\nX.Envoy!peer: a\r\nx*meshfed'reason: a\r\n\r\n";
    assert_eq!(
        forwarded(head),
        "GET / HTTP/1.1\r\nhost: b\r\nx_forwarded_for: 1.2.3.4\r\nx_other: a\r\ncontent_type: a\r\n\r\n"
    );
    // An answer with one is the application's own business; nobody gets to read it as framing.
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent_Length: 9\r\nA: 1\r\n\r\n";
    let (_, head) = respond(answer, Method::Idempotent, Version::Http11).unwrap();
    assert_eq!(head, "HTTP/1.1 200 OK\r\nA: 1\r\ncontent-length: 2\r\n\r\n");
}

/// Mutation seen to fail: `segments.pop()` left out.
#[test]
fn paths_are_canonical() {
    for (path, canonical) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a//b", "/a/b"),
        ("//", "/"),
        ("/a/./b/../c", "/a/c"),
        ("/a/..", "/"),
        ("/../../etc", "/etc"),
        ("/a/.", "/a/"),
        ("/a/.hidden", "/a/.hidden"),
        ("/%61%2e%2E/x", "/a../x"),
        ("/a/%2e%2e/b", "/b"),
        ("/a%3ab%20c", "/a%3Ab%20c"),
        ("/a?b=%2f//..", "/a?b=%2f//.."),
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n");
        assert_eq!(forwarded(&head), format!("GET {canonical} HTTP/1.1\r\nhost: b\r\n\r\n"), "{path}");
    }
}

fn respond(head: &str, method: Method, client: Version) -> Result<(Response, String), Reject> {
    let buf = head.as_bytes();
    let length = find_head_end(buf, &mut 0)?.expect("a complete head");
    let mut scratch = Scratch::default();
    let response = parse_response(buf, length, method, &mut scratch)?;
    let mut out = Vec::new();
    response_head(&mut out, buf, &response, &scratch, client, true, HeadEdit::default());
    Ok((response, String::from_utf8_lossy(&out).into_owned()))
}

/// Mutation seen to fail: 204 with a length read as `Length`; `status == 101` accepted.
#[test]
fn responses_are_framed_by_status_and_method() {
    let get = Method::Idempotent;
    for (head, method, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", get, ResponseBody::Length(5)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Head, ResponseBody::None(Some(5))),
        ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", get, ResponseBody::Chunked),
        ("HTTP/1.1 200 OK\r\n\r\n", get, ResponseBody::Close),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", get, ResponseBody::Length(5)),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", get, ResponseBody::None(None)),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", get, ResponseBody::None(Some(5))),
        ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", get, ResponseBody::None(None)),
    ] {
        assert_eq!(respond(head, method, Version::Http11).unwrap().0.body, body, "{head}");
    }
    for (head, reject) in [
        ("HTTP/1.1 101 Switching\r\n\r\n", Reject::Status),
        ("HTTP/1.1 099 X\r\n\r\n", Reject::Status),
        ("HTTP/1.1 20 OK\r\n\r\n", Reject::StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", Reject::StatusLine),
        ("HTTP/2 200 OK\r\n\r\n", Reject::StatusLine),
        ("200 OK\r\n\r\n", Reject::StatusLine),
        ("HTTP/1.1 200 a\rb\r\n\r\n", Reject::StatusLine),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Reject::LengthAndChunked),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", Reject::ContentLengthRepeated),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Reject::TransferEncoding),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Reject::Folded),
    ] {
        assert_eq!(respond(head, get, Version::Http11).map(|_| ()), Err(reject), "{head:?}");
    }
    let (_, out) =
        respond("HTTP/1.0 200 Fine\r\nServer: x\r\nConnection: close\r\n\r\n", get, Version::Http11).unwrap();
    assert_eq!(out, "HTTP/1.1 200 Fine\r\nServer: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let (_, out) = respond("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", get, Version::Http10).unwrap();
    assert_eq!(out, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\n");
}

fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, usize), Reject> {
    let mut decoder = ChunkedDecoder::default();
    let (mut out, mut used) = (Vec::new(), 0);
    for piece in input.chunks(step.max(1)) {
        let mut at = 0;
        while at < piece.len() && !decoder.is_done() {
            let found = decoder.decode(&piece[at..])?;
            out.extend_from_slice(&piece[at + found.framing..at + found.framing + found.data]);
            at += found.framing + found.data;
        }
        used += at;
        if decoder.is_done() {
            break;
        }
    }
    Ok((out, used))
}

/// Mutation seen to fail: the guard `State::SizeMore` before CR left out; the extension not counted.
#[test]
fn chunks_are_read_strictly() {
    let good = b"5;a=b\r\nhello\r\n006\r\n world\r\n0\r\nX: y\r\n\r\nGET";
    for step in 1..good.len() {
        assert_eq!(decode(good, step).unwrap(), (b"hello world".to_vec(), good.len() - 3), "{step}");
    }
    let long = |n: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(n));
    assert!(decode(long(CHUNK_EXTENSION_MAX).as_bytes(), 7).is_ok());
    assert_eq!(decode(long(CHUNK_EXTENSION_MAX + 1).as_bytes(), 7), Err(Reject::ChunkExtension));
    let trailers = |n: usize| format!("0\r\nX:{}\r\n\r\n", "t".repeat(n));
    assert_eq!(decode(trailers(TRAILERS_MAX).as_bytes(), 7), Err(Reject::Trailers));
    for (bad, reject) in [
        ("5\nhello\r\n", Reject::ChunkSize),
        ("\r\nhello", Reject::ChunkSize),
        ("g\r\n", Reject::ChunkSize),
        ("0x5\r\n", Reject::ChunkSize),
        ("-1\r\n", Reject::ChunkSize),
        (" 5\r\n", Reject::ChunkSize),
        ("5 \r\n", Reject::ChunkSize),
        ("5 ;a\r\n", Reject::ChunkSize),
        ("00000000000000005\r\n", Reject::ChunkSize),
        ("5;a\nb\r\n", Reject::ChunkEnd),
        ("5;a\rb\r\n", Reject::ChunkEnd),
        ("5\rhello\r\n", Reject::ChunkEnd),
        ("5\r\nhelloX\r\n", Reject::ChunkEnd),
        ("5\r\nhello\n", Reject::ChunkEnd),
        ("5\r\nhello\rX", Reject::ChunkEnd),
        ("0\r\n\rX", Reject::ChunkEnd),
        ("0\r\n\n", Reject::Trailers),
        ("0\r\nX\r\n\r\n", Reject::Trailers),
        ("0\r\n folded\r\n\r\n", Reject::Trailers),
        ("0\r\nX: a\nb\r\n\r\n", Reject::Trailers),
    ] {
        assert_eq!(decode(bad.as_bytes(), 1), Err(reject), "{bad:?}");
    }
}

/// What our own encoder wrote for `data` cut into pieces.
fn encode(data: &[u8], piece: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in data.chunks(piece) {
        chunk_head(&mut out, part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(CHUNK_END);
    out
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut scratch = Scratch::default();
        let _any = parse_request(&bytes, bytes.len(), &mut scratch);
        let _any = parse_response(&bytes, bytes.len(), Method::Other, &mut scratch);
        let _any = find_head_end(&bytes, &mut 0);
        let _any = ChunkedDecoder::default().decode(&bytes);
    }

    /// What is written for one reader is read by another as exactly one request of the same body framing.
    #[test]
    fn what_is_forwarded_parses_again(
        names in proptest::collection::vec("[A-Za-z-]{1,12}", 0..8),
        values in proptest::collection::vec("[ -~\t]{0,20}", 8),
        path in "/[!-\"$-\\[\\]-~]{0,30}",
    ) {
        let mut head = format!("POST {path} HTTP/1.1\r\nHost: b\r\n");
        for (name, value) in names.iter().zip(&values) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        if let Ok((first, out)) = parse(&head) {
            let text = String::from_utf8(out).unwrap();
            let (second, again) = parse(&text).unwrap();
            prop_assert_eq!(first.body, second.body);
            prop_assert_eq!(again, text.into_bytes());
        }
    }

    #[test]
    fn chunks_survive_any_cut(data in proptest::collection::vec(any::<u8>(), 0..500), piece in 1usize..200, step in 1usize..64) {
        let wire = encode(&data, piece);
        let length = wire.len();
        prop_assert_eq!(decode(&wire, step), Ok((data, length)));
    }

    /// A head that arrives in pieces ends where it ends when it arrives at once.
    #[test]
    fn the_end_of_a_head_does_not_depend_on_segments(step in 1usize..40) {
        let wire = b"GET / HTTP/1.1\r\nHost: b\r\nA: 1\r\n\r\nrest";
        let (mut scanned, mut found) = (0, None);
        for end in (step..wire.len() + step).step_by(step) {
            let seen = &wire[..end.min(wire.len())];
            found = find_head_end(seen, &mut scanned).unwrap();
            if found.is_some() { break; }
        }
        prop_assert_eq!(found, Some(wire.len() - 4));
    }
}
