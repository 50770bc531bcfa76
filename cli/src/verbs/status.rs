//! Edge. `meshfed status [--wait]`.

use std::time::Duration;

use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::exit::{FAILED, Failure, Outcome};
use crate::output::{Column, Format, OutputArgs, column, print, show, text};

/// How often `--wait` asks again.
const POLL: Duration = Duration::from_millis(200);

/// The longest part of a duration, in milliseconds: a hundred years.
const LONGEST: u64 = 3_153_600_000_000;

/// Arguments of `meshfed status`.
#[derive(clap::Args)]
pub struct StatusArgs {
    /// Wait until the fleet is ready: exit 0 when it is, 1 when the time is over
    #[arg(long)]
    wait: bool,
    /// How long --wait may take, say 30s or 2m
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Parses `30s`, `5m`, `500ms`, `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let form = || format!("'{text}' is no duration; write say 30s, 5m or 1h30m");
    let mut rest = text;
    let mut sum = Duration::ZERO;
    if text.is_empty() {
        return Err(form());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(form)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let number: u64 = number.parse().map_err(|_no_number| form())?;
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(form()),
        };
        let part = number.checked_mul(milliseconds).filter(|ms| *ms <= LONGEST).map(Duration::from_millis);
        sum += part.ok_or_else(|| format!("'{text}' is too long a duration"))?;
        rest = tail;
    }
    Ok(sum)
}

const COLUMNS: &[Column] = &[
    column("CLUSTER", |c| text(c, &["name"])),
    column("CONNECTION", |c| text(c, &["connection"])),
    column("FRESHNESS", |c| text(c, &["freshness"])),
    column("PROXIES", |c| format!("{}/{}", text(c, &["proxies", "connected"]), text(c, &["proxies", "expected"]))),
    column("ACKED", |c| format!("{}/{}", text(c, &["proxies", "acked"]), text(c, &["proxies", "connected"]))),
];

/// Shows whether the fleet is ready; exit 0 when it is, 1 when it is not.
pub async fn run(args: StatusArgs) -> Outcome {
    let client = Client::open(&args.server).await?;
    let deadline = tokio::time::Instant::now() + args.timeout;
    let answer = loop {
        let asked = client.get("status").await.and_then(crate::answer::Answer::ok);
        let last = tokio::time::Instant::now() >= deadline || !args.wait;
        match asked {
            Ok(answer) if last || ready(&answer.json()?) => break answer,
            Err(failure) if last => return Err(failure),
            Ok(_) | Err(_) => {}
        }
        tokio::time::sleep(POLL.min(deadline - tokio::time::Instant::now())).await;
    };
    let body = answer.json()?;
    show(args.output.output, &answer, clusters, COLUMNS)?;
    if matches!(args.output.output, Format::Table | Format::Wide) {
        print(&waiting(&body));
    }
    if ready(&body) {
        return Ok(0);
    }
    if args.wait {
        return Err(Failure::failed(format!("the fleet was not ready within {:?}", args.timeout)));
    }
    Ok(FAILED)
}

fn ready(body: &Value) -> bool {
    body.get("ready").and_then(Value::as_bool) == Some(true)
}

fn clusters(body: &Value) -> Vec<Value> {
    body.get("clusters").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// What the fleet waits for, a line each.
fn waiting(body: &Value) -> String {
    if ready(body) {
        return "\nready\n".to_owned();
    }
    let rows = body.get("waitingFor").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut out = "\nnot ready".to_owned();
    if clusters(body).is_empty() {
        out.push_str(": no cluster has joined; make a token with 'meshfed token create'");
    }
    out.push('\n');
    for row in rows {
        out.push_str(&format!(
            "  {} {} {}: {}\n",
            text(&row, &["cluster"]),
            text(&row, &["kind"]),
            text(&row, &["name"]),
            text(&row, &["reason"])
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `"m"` multiplied by 6.
    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        for bad in ["", "30", "s", "1d", "1m30", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
