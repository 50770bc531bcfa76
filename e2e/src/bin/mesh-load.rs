//! Edge. The steady load of [`meshfed_e2e::load`] as a process of its own, for a pod: `mesh-load new|kept URL ...`.
//! Every fifth of a second it prints what its clients saw so far, as one line of JSON by client.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "a test tool")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshfed_e2e::load::{Client, Load, Patience};
use serde_json::{Map, Value, json};

const EVERY: Duration = Duration::from_millis(200);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut load = Load::default();
    for pair in args.chunks(2) {
        let [kind, url] = pair else { panic!("usage: mesh-load [new|kept URL]...") };
        let client = match kind.as_str() {
            "new" => Client::DirectNew(url.clone()),
            "kept" => Client::DirectKept(url.clone()),
            other => panic!("new or kept, not {other}"),
        };
        load.add(kind, client, Patience::None);
    }
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis();
        // Errors can be found in logs by their time.
        load.step(&format!("at {now}"));
        let ledger: Map<String, Value> = load
            .reports()
            .into_iter()
            .map(|r| (r.name, json!({"done": r.done, "failed": r.failed, "answers": r.answers, "errors": r.errors})))
            .collect();
        println!("{}", Value::Object(ledger));
        std::thread::sleep(EVERY);
    }
}
