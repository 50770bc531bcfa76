//! What is shown, and what is not sent twice.

use super::*;

/// Mutation seen to fail: `acked_serial` as the maximum.
#[tokio::test]
async fn status_clusters_and_trust() {
    let room = plain();
    let status = get(&room, "status").await;
    assert_eq!(status.body["ready"], true);
    assert_eq!(status.body["clusters"].as_array().unwrap().len(), 2);
    let all = get(&room, "clusters").await.body;
    assert_eq!((&all["revision"], &all["continue"]), (&json!("812"), &Value::Null));
    let states: Vec<_> =
        all["items"].as_array().unwrap().iter().map(|c| (c["name"].clone(), c["state"].clone())).collect();
    assert_eq!(
        states,
        [(json!("east"), json!("active")), (json!("old"), json!("evicted")), (json!("west"), json!("active"))]
    );
    let east = get(&room, "clusters/east").await;
    assert_eq!(east.header("etag"), Some("\"812\""));
    let keys: Vec<_> = east.body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "name",
            "trustDomain",
            "state",
            "connection",
            "freshness",
            "regions",
            "zones",
            "networks",
            "gateways",
            "services",
            "endpoints",
            "agents",
            "source",
            "bundle",
            "overrides",
            "joinedAt",
            "lastSeenAt",
            "revision"
        ]
    );
    assert_eq!(east.body["bundle"], json!({"serial":4,"ackedSerial":3}));
    let trust = get(&room, "trust").await.body;
    assert_eq!(trust["bundles"][0]["owner"], "east");
    assert_eq!(trust["bundles"][0]["acks"], json!([{"cluster":"west","serial":3,"proxies":{"acked":0,"total":0}}]));
    assert_eq!(trust["bundles"][0]["anchors"][0]["spkiSha256"].as_str().unwrap().len(), 64);
    assert_eq!(trust["root"]["online"], true);

    let three = [("east", 9), ("west", 3), ("north", 5)];
    let three = three.map(|(n, serial)| (cluster_name(n), facts(&[("east.mesh.example", serial)], vec![])));
    let three = self::room(Fake { facts: three.into(), ..Fake::default() }, sha256(ADMIN.as_bytes()));
    assert_eq!(get(&three, "clusters/east").await.body["bundle"], json!({"serial":4,"ackedSerial":3}));

    // Who never connected has acknowledged nothing: 0, in the list of acks, too.
    let silent = Fake { facts: [(cluster_name("east"), facts(&[], vec![]))].into(), ..Fake::default() };
    let silent = self::room(silent, sha256(ADMIN.as_bytes()));
    assert_eq!(get(&silent, "clusters/east").await.body["bundle"], json!({"serial":4,"ackedSerial":0}));
    assert_eq!(get(&silent, "trust").await.body["bundles"][0]["acks"][0]["serial"], 0);
    // And who is alone waits for nobody.
    let members = Members { revision: 2, members: BTreeMap::from([member("east", MemberState::Active)]) };
    silent._senders.0.send_replace(Arc::new(members));
    assert_eq!(get(&silent, "clusters/east").await.body["bundle"], json!({"serial":4,"ackedSerial":4}));
    assert_eq!(get(&silent, "trust").await.body["bundles"][0]["acks"], json!([]));

    let waiting = self::room(
        Fake { facts: [(cluster_name("east"), facts(&[], vec![]))].into(), ..Fake::default() },
        sha256(ADMIN.as_bytes()),
    );
    let status = get(&waiting, "status").await.body;
    assert_eq!((&status["ready"], &status["waitingFor"][0]["kind"]), (&json!(false), &json!("session")));
    // It may be a new binding of a cluster whose earlier agent has just been here.
    let why = status["waitingFor"][0]["reason"].as_str().unwrap();
    assert!(why.starts_with("no agent has connected since it joined (1970-01-01T00:00:00Z), or since this"), "{why}");
    assert_eq!(get(&waiting, "clusters/west").await.body["state"], "joining");
}

/// Mutation seen to fail: `find` without the revision.
#[tokio::test]
async fn pages_show_one_revision_or_are_gone() {
    let room = plain();
    let first = get(&room, "services?limit=2").await;
    assert_eq!(first.body["items"].as_array().unwrap().len(), 2);
    assert!(first.body["items"][0].get("exports").is_none());
    let next = first.body["continue"].as_str().unwrap().to_owned();
    room.revisions.bump();
    room.fake.services.lock().unwrap().clear();
    let second = get(&room, &format!("services?limit=2&continue={next}")).await.body;
    assert_eq!((&second["revision"], &second["items"][0]["name"]), (&json!("812"), &json!("c")));
    assert_eq!(second["continue"], Value::Null);
    assert_eq!(get(&room, "services").await.body, json!({"revision":"813","items":[],"continue":null}));
    assert_eq!(get(&room, &format!("clusters?continue={next}")).await.status, 400);
    for n in 0..16 {
        room.revisions.bump();
        *room.fake.services.lock().unwrap() = vec![service("a"), service("b")];
        assert_eq!(get(&room, "services?limit=1").await.status, 200, "{n}");
    }
    assert_eq!(get(&room, &format!("services?continue={next}")).await.code(), (410, "MF1411"));
}

/// Lists are narrowed by namespace and labels, and a later page is one of what was asked for first.
///
/// Mutations seen to fail: the selector not asked for services, and for clusters; `list` without the selector.
#[tokio::test]
async fn lists_are_narrowed_by_namespace_and_labels() {
    let room = plain();
    let names = |body: &Value| {
        let items = body["items"].as_array().unwrap().iter();
        items.map(|i| i["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    for (path, found) in [
        ("services?namespace=shop", "a b c"),
        ("services?namespace=other", ""),
        ("services?namespace=shop&labelSelector=name%20in%20(a,c)", "a c"),
        ("services?labelSelector=name!%3Db", "a c"),
        ("clusters?labelSelector=env%3Dprod", "east"),
        ("clusters?labelSelector=!env", "old west"),
    ] {
        let answer = get(&room, path).await;
        assert_eq!((answer.status, &*names(&answer.body)), (200, found), "{path}");
    }
    let first = get(&room, "services?limit=1&labelSelector=name!%3Db").await.body;
    let next = first["continue"].as_str().unwrap();
    let second = get(&room, &format!("services?limit=1&labelSelector=name!%3Db&continue={next}")).await.body;
    assert_eq!((&*names(&second), &second["continue"]), ("c", &Value::Null));
    assert_eq!(get(&room, &format!("services?limit=1&continue={next}")).await.status, 400);
    for bad in ["services?namespace=Shop", "services?labelSelector=a+in+b", "clusters?namespace=shop"] {
        assert_eq!(get(&room, bad).await.status, 400, "{bad}");
    }
}

/// Mutation seen to fail: `names` comparing without the quotes.
#[tokio::test]
async fn what_the_caller_holds_is_not_sent_again() {
    let room = plain();
    for path in ["services", "services/shop/b", "clusters", "status", "trust"] {
        let got = send(&room, Method::GET, path, &[("if-none-match", "\"1\", W/\"812\"")], "").await;
        assert_eq!((got.status, got.body.clone(), got.header("etag")), (304, Value::Null, Some("\"812\"")), "{path}");
        assert_eq!(send(&room, Method::GET, path, &[("if-none-match", "812")], "").await.status, 200, "{path}");
    }
    room.revisions.bump();
    assert_eq!(send(&room, Method::GET, "services", &[("if-none-match", "\"812\"")], "").await.status, 200);
    let mut quiet = facts(&[], vec![]);
    quiet.freshness = shape::Freshness::Stale;
    let stale = [(cluster_name("east"), quiet)].into();
    let room = self::room(Fake { facts: stale, ..Fake::default() }, sha256(ADMIN.as_bytes()));
    assert_eq!(send(&room, Method::GET, "clusters/east", &[("if-none-match", "\"812\"")], "").await.status, 200);
}

/// Mutation seen to fail: the hub's rows not added.
#[tokio::test]
async fn endpoints_come_from_the_agent() {
    let room = plain();
    let got = get(&room, "services/shop/b/endpoints?from=east&port=8080&locality=us%2Fus-1").await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert_eq!(got.body["revision"], "812");
    assert_eq!(got.body["from"]["locality"], "us/us-1");
    let reasons: Vec<_> = got.body["dropped"].as_array().unwrap().iter().map(|d| d["reason"].clone()).collect();
    assert_eq!(reasons, ["NotExported", "NoReachableGateway"]);
    for (query, code) in [
        ("from=west&port=8080", (504, "MF1504")),
        ("from=old&port=8080", (404, "MF1404")),
        ("from=nowhere&port=8080", (404, "MF1404")),
        ("port=8080", (400, "MF1420")),
        ("from=east", (400, "MF1420")),
        ("from=east&port=0", (400, "MF1420")),
        ("from=east&port=65536", (400, "MF1420")),
        ("from=East&port=1", (400, "MF1420")),
        ("from=east&port=1&client=", (400, "MF1420")),
        ("from=east&port=1&to=x", (400, "MF1410")),
    ] {
        assert_eq!(get(&room, &format!("services/shop/b/endpoints?{query}")).await.code(), code, "{query}");
    }
    assert!(
        get(&room, "services/shop/b/endpoints?from=west&port=1").await.body["type"]
            .as_str()
            .unwrap()
            .ends_with("/AgentUnavailable")
    );
}
