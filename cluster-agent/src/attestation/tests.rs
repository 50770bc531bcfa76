use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use k8s_openapi::api::core::v1::Pod;
use meshfed_ca::keys::SigningKey;
use meshfed_runtime::tasks;
use tonic::Code;

use super::*;

const TOKEN: &str = "aGVhZA.Ym9keQ.c2ln";

fn status() -> TokenReviewStatus {
    let extra = [("pod-name", "a-1"), ("pod-uid", "u-1")];
    let extra = extra.map(|(k, v)| (format!("authentication.kubernetes.io/{k}"), vec![v.to_owned()]));
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec!["meshfed".to_owned()]),
        user: Some(UserInfo {
            username: Some("system:serviceaccount:shop:a".to_owned()),
            extra: Some(extra.into_iter().collect::<BTreeMap<_, _>>()),
            ..UserInfo::default()
        }),
        ..TokenReviewStatus::default()
    }
}

fn pod(uid: &str, account: &str, phase: &str) -> Pod {
    let pod = serde_json::json!({
        "metadata": { "name": "a-1", "namespace": "shop", "uid": uid },
        "spec": { "serviceAccountName": account, "containers": [] },
        "status": { "phase": phase },
    });
    serde_json::from_value(pod).unwrap()
}

/// An API server's answers that no healthy one gives make nobody anybody.
///
/// Mutations seen to fail: an answer without audiences counts as ours; several values of one extra count; `check_pod`
/// does not compare the account; a pod that has ended counts.
#[test]
fn only_a_whole_and_consistent_answer_is_a_bearer() {
    let bearer = review::bearer(&status()).unwrap();
    assert_eq!(bearer.pod_name(), "shop/a-1");
    let changed = |change: fn(&mut TokenReviewStatus)| {
        let mut status = status();
        change(&mut status);
        review::bearer(&status)
    };
    assert!(matches!(changed(|s| s.authenticated = None), Err(Refused::Token(_))));
    assert_eq!(changed(|s| s.audiences = None), Err(Refused::Audience));
    let user = |s: &mut TokenReviewStatus, name: &str| s.user.as_mut().unwrap().username = Some(name.to_owned());
    assert!(matches!(user_of(status(), |s| user(s, "admin")), Err(Refused::User(_))));
    assert!(matches!(user_of(status(), |s| user(s, "system:serviceaccount:Shop:a")), Err(Refused::User(_))));
    let twice = |s: &mut TokenReviewStatus| {
        let extra = s.user.as_mut().unwrap().extra.as_mut().unwrap();
        extra.get_mut("authentication.kubernetes.io/pod-uid").unwrap().push("u-2".to_owned());
    };
    assert!(matches!(user_of(status(), twice), Err(Refused::Unbound(_))));
    let check = |pod: Option<Pod>| review::check_pod(&bearer, pod.as_ref()).map(|_pod| ());
    assert!(check(Some(pod("u-1", "a", "Pending"))).is_ok());
    assert!(matches!(check(None), Err(Refused::Gone(_))));
    assert!(matches!(check(Some(pod("u-2", "a", "Running"))), Err(Refused::Replaced { .. })));
    assert!(matches!(check(Some(pod("u-1", "b", "Running"))), Err(Refused::Account { .. })));
    assert!(matches!(check(Some(pod("u-1", "a", "Failed"))), Err(Refused::Ended(_))));
    assert!(review::is_token(TOKEN));
    for wrong in ["", "a.b", "a.b.c.d", "a..c", "a.b.c\n", "a.b.=", &"a".repeat(TOKEN_MAX)] {
        assert!(!review::is_token(wrong), "{wrong}");
    }
}

fn user_of(mut status: TokenReviewStatus, change: impl Fn(&mut TokenReviewStatus)) -> Result<Bearer, Refused> {
    change(&mut status);
    review::bearer(&status)
}

/// An API server that counts, and can be away.
#[derive(Clone, Default)]
struct Counting {
    reviews: Arc<AtomicUsize>,
    away: bool,
}

impl Reviewer for Counting {
    async fn review(&self, _token: &str) -> Result<TokenReviewStatus, Unavailable> {
        self.reviews.fetch_add(1, Ordering::SeqCst);
        if self.away { Err(Unavailable::Late) } else { Ok(status()) }
    }
    async fn pod(&self, _bearer: &Bearer) -> Result<Option<Pod>, Unavailable> {
        Ok(Some(pod("u-1", "a", "Running")))
    }
}

/// An attester with a core that certifies everything, and tells whether only an object's word was asked for, and what is
/// said of the pod.
fn attester(api: Counting) -> Attester<Counting> {
    let (core, mut commands) = mpsc::channel(8);
    tasks::spawn("core", async move {
        while let Some(command) = commands.recv().await {
            if let Command::Certify { named, metadata, answer, .. } = command {
                let metadata = metadata.map(|m| m.to_string()).unwrap_or_default();
                let _gone = answer.send(Ok(format!("{named} {metadata}").into_bytes()));
            }
        }
    });
    Attester::new(api, core, TrustDomain::new("east.mesh.example").unwrap(), AttestationMetrics::default())
}

async fn ask(attester: &Attester<Counting>, from: u8, id: Option<&str>, token: &str) -> Result<String, Code> {
    let key = SigningKey::generate().unwrap();
    let asked = AttestRequest { token: token.to_owned(), request: csr::create(&key).unwrap() };
    let mut request = Request::new(asked);
    let address = Some((IpAddr::V4(Ipv4Addr::new(10, 0, 0, from)), 1).into());
    let metadata = id.map(|_| "front;a;v1;a;v1".parse().unwrap());
    let id = id.map(|id| id.parse().unwrap());
    request.extensions_mut().insert(PeerInfo { id, metadata, address, ..PeerInfo::default() });
    let text = |answer: Response<AttestAnswer>| String::from_utf8(answer.into_inner().certificate).unwrap();
    attester.attest(request).await.map(text).map_err(|s| s.code())
}

/// A token that is shown again and again costs one review; one pod cannot have certificates made without end, from
/// wherever it asks, and neither can one address ask without end.
///
/// Mutations seen to fail: `recent` finds nothing; `may_be_issued` is always true; `may_ask` is not asked.
#[tokio::test]
async fn floods_end_at_the_agent() {
    let api = Counting::default();
    let attester = attester(api.clone());
    let mut issued = 0;
    for from in 0..30 {
        match ask(&attester, from, None, TOKEN).await {
            Ok(_) => issued += 1,
            Err(code) => assert_eq!(code, Code::ResourceExhausted),
        }
    }
    assert_eq!(api.reviews.load(Ordering::SeqCst), 1);
    assert!((10..=12).contains(&issued), "{issued}");
    let mut asked = 0;
    for n in 0..200 {
        if ask(&attester, 99, None, &format!("no.{n}.token!")).await == Err(Code::PermissionDenied) {
            asked += 1;
        }
    }
    assert!((50..100).contains(&asked), "{asked}");
}

/// Strangers from many addresses use up what strangers may ask, and keep no running pod from its renewal.
///
/// Mutation seen to fail: `known` answered `false` in `may_ask`.
#[test]
fn strangers_keep_nobody_from_a_renewal() {
    let (mut floods, now) = (Floods::default(), clock::instant());
    let address = |n: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n % 200));
    let allowed = (0..2000).filter(|n| floods.may_ask(false, address(*n), now)).count();
    assert_eq!(allowed, 400, "the limit of all");
    assert!(floods.may_ask(true, address(0), now));
}

/// While the API server is away a valid certificate is renewed by what objects say; nobody new is anybody. A refusal is
/// no absence.
///
/// Mutations seen to fail: the renewal does not ask for an object (`named` false); who shows nothing is issued; `is_token`
/// is not asked; `kept` without `peer.metadata`.
#[tokio::test]
async fn an_api_server_that_is_away_lets_nobody_new_in() {
    let away = attester(Counting { away: true, ..Counting::default() });
    let id = Some("spiffe://east.mesh.example/ns/shop/sa/a");
    assert_eq!(ask(&away, 1, id, TOKEN).await.unwrap(), "true front;a;v1;a;v1", "what its certificate said");
    assert_eq!(ask(&away, 1, None, TOKEN).await, Err(Code::Unavailable));
    assert_eq!(ask(&away, 1, id, "junk").await, Err(Code::PermissionDenied));
    let there = attester(Counting::default());
    assert_eq!(ask(&there, 1, id, TOKEN).await.unwrap(), "false a-1;a-1;latest;;", "what the pod is");
}

/// Mutations seen to fail: `recent` finds nothing; what is remembered counts for ever; it grows without end.
#[test]
fn what_is_remembered_is_short_and_bounded() {
    let (mut floods, now) = (Floods::default(), clock::instant());
    let refused = || Err(Refused::Audience);
    floods.remember([1; 32], refused(), now);
    let after = |seconds: u64| -> Instant { now + Duration::from_secs(seconds) };
    assert_eq!(floods.recent(&[1; 32], after(4)), Some(refused()));
    assert_eq!(floods.recent(&[1; 32], after(5)), None);
    for n in 0..10_000u64 {
        let mut hash = [0u8; 32];
        hash[..8].copy_from_slice(&n.to_le_bytes());
        floods.remember(hash, refused(), now);
    }
    assert!(floods.remembered() <= 4096);
}
