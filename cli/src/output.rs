//! Pure but for printing. What read verbs print: a plain table, or the API's body.

use serde_json::Value;

use crate::answer::Answer;
use crate::exit::Failure;

/// How a read verb prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Plain columns.
    Table,
    /// The table with more columns, where there are more.
    Wide,
    /// JSON; of a verb that asks the hub, the body of its answer unchanged.
    Json,
    /// The same as YAML.
    Yaml,
}

/// `-o`.
#[derive(clap::Args, Debug, Clone)]
pub struct OutputArgs {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub output: Format,
}

/// One column: its header, how its cell is read, and whether `wide` alone shows it.
pub struct Column {
    /// The upper-case header.
    pub header: &'static str,
    /// The cell of a row.
    pub cell: fn(&Value) -> String,
    /// Shown by `-o wide` only.
    pub wide: bool,
}

/// A column that `table` shows too.
pub const fn column(header: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { header, cell, wide: false }
}

/// A column that only `wide` shows.
pub const fn wide(header: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { header, cell, wide: true }
}

/// Prints to stdout; a closed pipe is not an error.
pub fn print(text: &str) {
    write(text.as_bytes());
}

fn write(bytes: &[u8]) {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    let _closed_pipe = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Prints a remark for people to stderr, so that stdout stays a table.
#[expect(clippy::print_stderr, reason = "the one place for remarks beside a table")]
pub fn remark(text: &str) {
    eprintln!("{}", printable(text));
}

/// Prints an answer: its body for JSON and YAML, else `rows` of it in columns.
pub fn show(
    format: Format,
    answer: &Answer,
    rows: fn(&Value) -> Vec<Value>,
    columns: &[Column],
) -> Result<(), Failure> {
    match format {
        // Byte for byte: who compares it with the API finds no difference.
        Format::Json => {
            use std::io::IsTerminal as _;
            write(&answer.body);
            write(ending(std::io::stdout().is_terminal(), &answer.body));
        }
        Format::Yaml => {
            let yaml = serde_saphyr::to_string(&answer.json()?).map_err(|error| Failure::failed(error.to_string()))?;
            print(&yaml);
        }
        Format::Table | Format::Wide => {
            let rows = rows(&answer.json()?);
            print(&table(&shown(columns, format), &rows));
            if rows.is_empty() {
                remark("nothing found");
            }
        }
    }
    Ok(())
}

/// The columns that a form of a table has.
pub fn shown(columns: &[Column], format: Format) -> Vec<&Column> {
    columns.iter().filter(|c| format == Format::Wide || !c.wide).collect()
}

/// What is written after a body: on a terminal the next prompt begins a line, and whoever reads a pipe gets the body alone.
const fn ending(is_terminal: bool, body: &[u8]) -> &'static [u8] {
    if is_terminal && !matches!(body.last(), Some(b'\n')) { b"\n" } else { b"" }
}

/// Plain columns: upper-case header, two spaces, no borders, `<none>` for nothing.
pub fn table(columns: &[&Column], rows: &[Value]) -> String {
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|c| c.header.to_owned()).collect()];
    lines.extend(rows.iter().map(|row| {
        columns
            .iter()
            .map(|c| {
                let cell = printable(&(c.cell)(row));
                if cell.is_empty() { "<none>".to_owned() } else { cell }
            })
            .collect()
    }));
    let widths: Vec<usize> = (0..columns.len())
        .map(|i| lines.iter().filter_map(|l| l.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    lines.iter().fold(String::new(), |mut out, line| {
        let text: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(text.join("  ").trim_end());
        out.push('\n');
        out
    })
}

/// Control characters never reach the terminal.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// The items of a list body.
pub fn items(body: &Value) -> Vec<Value> {
    body.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// The text at a path of keys; empty when absent or null.
pub fn text(row: &Value, path: &[&str]) -> String {
    match path.iter().try_fold(row, |v, key| v.get(key)) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => s.clone(),
        Some(Value::Array(a)) => a.iter().map(|v| text(v, &[])).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}

/// The names in a list of objects.
pub fn names(row: &Value, list: &str, key: &str) -> String {
    row.get(list).and_then(Value::as_array).into_iter().flatten().map(|v| text(v, &[key])).collect::<Vec<_>>().join(",")
}

/// An RFC 3339 time to the second, for people; what is no time stays as it is.
pub fn seconds(time: &str) -> String {
    let whole = |t: jiff::Timestamp| jiff::Timestamp::from_second(t.as_second());
    time.parse().and_then(whole).map_or_else(|_no_time| time.to_owned(), |t| t.to_string())
}

/// How long ago an RFC 3339 time was: `45s`, `5m`, `3h`, `2d`.
pub fn age(since: &str) -> String {
    let Ok(since) = since.parse::<jiff::Timestamp>() else { return String::new() };
    let seconds = (meshfed_runtime::clock::timestamp().as_second() - since.as_second()).max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `from_second` replaced by the time itself.
    #[test]
    fn people_read_times_to_the_second() {
        assert_eq!(seconds("2026-11-24T18:02:31.2957547Z"), "2026-11-24T18:02:31Z");
        assert_eq!(seconds("soon"), "soon");
    }

    /// Mutation seen to fail: `is_terminal` not asked.
    #[test]
    fn a_body_ends_its_line_on_a_terminal_alone() {
        assert_eq!([ending(true, b"{}"), ending(true, b"{}\n"), ending(false, b"{}")], [&b"\n"[..], b"", b""]);
    }

    /// Mutation seen to fail: `trim_end` left out of `table`.
    #[test]
    fn tables_are_plain() {
        let columns = [column("NAME", |r| text(r, &["name"])), column("ZONES", |r| text(r, &["zones"]))];
        let refs: Vec<&Column> = columns.iter().collect();
        let rows = [
            serde_json::json!({"name": "east", "zones": ["a", "b"]}),
            serde_json::json!({"name": "x\u{1b}[1m", "zones": []}),
        ];
        assert_eq!(table(&refs, &rows), "NAME        ZONES\neast        a,b\nx\\u{1b}[1m  <none>\n");
    }
}
