//! Tokens and plans.

use super::*;

/// Mutation seen to fail: `If-Match` compared only in dry runs; the token's own revision not taken for `If-Match`.
#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let room = plain();
    let dry = send(&room, Method::POST, "tokens?dryRun=true", &[JSON], TOKEN).await;
    assert_eq!((dry.status, dry.header("x-meshfed-dry-run")), (200, Some("true")));
    assert_eq!((&dry.body["token"], &dry.body["cluster"]), (&Value::Null, &json!("east")));
    assert!(room.fake.tokens.lock().unwrap().is_empty());
    let bad = send(&room, Method::POST, "tokens?dryRun=true", &[JSON], &TOKEN.replace("\"east\"", "\"East\"")).await;
    assert_eq!((bad.code(), &bad.body["errors"][0]["field"]), ((400, "MF1430"), &json!("cluster")));
    assert_eq!(send(&room, Method::POST, "tokens?dryRun=yes", &[JSON], TOKEN).await.status, 400);
    let made = send(&room, Method::POST, "tokens", &[JSON], TOKEN).await;
    assert_eq!((made.status, made.header("location")), (201, Some("/api/v1/tokens/abcdefghij")));
    let one = get(&room, "tokens/abcdefghij").await;
    let expected = json!({"id":"abcdefghij","cluster":"east","expiresAt":"e","state":"unused","revision":"5"});
    assert_eq!(
        (one.status, one.header("etag"), &one.body),
        (200, Some("\"5\""), &expected),
        "location leads somewhere"
    );
    assert_eq!(get(&room, "tokens/klmnopqrst").await.code(), (404, "MF1454"));
    let all = get(&room, "tokens").await.body;
    assert_eq!(all["items"], json!([{"id":"abcdefghij","cluster":"east","expiresAt":"e","state":"unused"}]));
    let revoke = |headers: &'static [(&str, &str)], path: &'static str| send(&room, Method::DELETE, path, headers, "");
    assert_eq!(revoke(&[], "tokens/abcdefghij").await.code(), (428, "MF1428"));
    assert_eq!(revoke(&[("if-match", "\"6\"")], "tokens/abcdefghij").await.code(), (412, "MF1412"));
    assert_eq!(revoke(&[("if-match", "*")], "tokens/klmnopqrst").await.code(), (404, "MF1454"));
    assert_eq!(revoke(&[("if-match", "*")], "tokens/not-an-id").await.code(), (404, "MF1454"));
    assert_eq!(revoke(&[("if-match", "*")], "tokens/abcdefghij?dryRun=true").await.status, 204);
    assert_eq!(revoke(&[("if-match", "\"5\"")], "tokens/abcdefghij?dryRun=true").await.status, 204);
    assert_eq!(room.fake.tokens.lock().unwrap().len(), 1);
    assert_eq!(revoke(&[("if-match", "\"7\"")], "tokens/abcdefghij").await.status, 204);
    assert!(room.fake.tokens.lock().unwrap().is_empty());

    let long = format!("{{\"cluster\":\"{}\"}}", "a".repeat(1 << 20));
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for (body, media, code) in [
        (TOKEN, "text/plain", (415, "MF1415")),
        ("", "application/json", (400, "MF1430")),
        ("{\"cluster\":\"east\",\"cluster\":\"east\"}", "application/json", (400, "MF1430")),
        ("{\"colour\":1}", "application/json; charset=utf-8", (400, "MF1430")),
        (long.as_str(), "application/json", (413, "MF1413")),
        (deep.as_str(), "application/json", (400, "MF1430")),
    ] {
        let got = send(&room, Method::POST, "tokens", &[("content-type", media)], body).await;
        assert_eq!(got.code(), code, "{media} {}", body.chars().take(40).collect::<String>());
        if body == deep {
            assert!(got.body["detail"].as_str().unwrap().contains("65 levels"));
        }
    }
}

/// Mutation seen to fail: a join token taken for the administrator's.
#[tokio::test]
async fn a_plan_needs_a_join_token() {
    let room = plain();
    let body = r#"{"protocol":1,"version":"0.1.0","clock":"2026-01-01T00:00:00Z","offers":[]}"#;
    let plan = |bearer: &'static str| {
        let room = &room;
        async move { send(room, Method::POST, "joins/plan", &[("authorization", bearer), JSON], body).await }
    };
    assert_eq!(plan("Bearer join-token").await.status, 200);
    assert_eq!(plan("Bearer the-administrator").await.code(), (401, "MF1401"));
    assert_eq!(plan("").await.code(), (401, "MF1401"));
    assert_eq!(send(&room, Method::GET, "status", &[("authorization", "Bearer join-token")], "").await.status, 401);
}

/// All that is wrong with a body is told at once, of form and of content, each with its field.
///
/// Mutations seen to fail: `misformed` without `would_be_token`; `follows` answering false (a field is told twice);
/// `object` returning at its first unknown field.
#[tokio::test]
async fn all_faults_of_a_token_request_are_told_at_once() {
    let room = plain();
    let body = r#"{"cluster":5,"networks":[{"cidrs":["10.0.0.0/40",7]},7,{"name":"Net","name":"b","size":1}],
        "regions":"eu","zones":[1,"eu 1"],"colour":1,"ttl":"25h","replace":"yes","labels":{"a":1,"b":"c"}}"#;
    let refused = send(&room, Method::POST, "tokens", &[JSON], body).await;
    assert_eq!(refused.code(), (400, "MF1430"));
    let errors = refused.body["errors"].as_array().unwrap();
    let told: Vec<(&str, &str)> =
        errors.iter().map(|e| (e["field"].as_str().unwrap(), e["reason"].as_str().unwrap())).collect();
    let form = [
        ("colour", "Unknown"),
        ("cluster", "Invalid"),
        ("networks[0].name", "Required"),
        ("networks[0].cidrs[1]", "Invalid"),
        ("networks[1]", "Invalid"),
        ("networks[2].name", "TooMany"),
        ("networks[2].size", "Unknown"),
        ("regions", "Invalid"),
        ("zones[0]", "Invalid"),
        ("replace", "Invalid"),
        ("labels.a", "Invalid"),
    ];
    let content = [("networks[0].cidrs[0]", "Invalid"), ("zones[1]", "Invalid"), ("ttl", "Invalid")];
    assert_eq!(told, [&form[..], &content[..]].concat());
    assert_eq!(errors[1]["message"], "is a number; a string is wanted");
    assert!(errors[0]["remedy"].as_str().unwrap().starts_with("fields here: cluster, networks,"));
    let empty = send(&room, Method::POST, "tokens", &[JSON], "{}").await;
    let fields: Vec<_> = empty.body["errors"].as_array().unwrap().iter().map(|e| e["field"].clone()).collect();
    assert_eq!(fields, ["cluster", "networks", "regions"]);
    let list = send(&room, Method::POST, "tokens", &[JSON], "[]").await;
    assert_eq!((list.code(), &list.body["errors"][0]["field"]), ((400, "MF1430"), &json!("")));
    let many = format!(r#"{{"regions":[{}1]}}"#, "1,".repeat(5000));
    let many = send(&room, Method::POST, "tokens", &[JSON], &many).await;
    assert_eq!(many.body["errors"].as_array().unwrap().len(), 100);
    assert!(room.fake.tokens.lock().unwrap().is_empty());
}
