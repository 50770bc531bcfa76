//! Pure. Configuration errors: all of them at once, in the form of `contracts.md` 1.2.

use std::fmt;

/// Exit code of a wrong flag.
pub const EXIT_FLAGS: u8 = 64;
/// Exit code of a wrong file, directory or address in use.
pub const EXIT_FILES: u8 = 65;

/// Where a problem lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A command-line flag, with its dashes.
    Flag(String),
    /// A file, with line and column where known (from 1; 0 is unknown).
    File {
        /// The path as the user gave it.
        path: String,
        /// The line, from 1.
        line: u32,
        /// The column, from 1.
        column: u32,
    },
}

/// One configuration error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable code, for example `MF0001`.
    pub code: &'static str,
    /// The flag or file.
    pub place: Place,
    /// What is wrong and how to fix it.
    pub text: String,
    /// Whether it makes the process exit 65 although a flag is named (an address in use is 65, `contracts.md` 1.2).
    exits_as_file: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Flag(flag) => write!(f, "{flag}:0:0: ")?,
            Place::File { path, line, column } => write!(f, "{path}:{line}:{column}: ")?,
        }
        write!(f, "error[{}]: ", self.code)?;
        // One problem is one line, whatever a message contains.
        for c in self.text.chars() {
            if c.is_control() { f.write_str(" ")? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

/// All configuration errors of one start. Empty: nothing wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// No problem yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Notes a wrong flag (exit 64).
    pub fn flag(&mut self, code: &'static str, flag: impl Into<String>, text: impl Into<String>) {
        self.0.push(Problem { code, place: Place::Flag(flag.into()), text: text.into(), exits_as_file: false });
    }
    /// Notes what the machine refuses although the flag is well formed, such as an address in use (exit 65).
    pub fn environment(&mut self, code: &'static str, flag: impl Into<String>, text: impl Into<String>) {
        self.0.push(Problem { code, place: Place::Flag(flag.into()), text: text.into(), exits_as_file: true });
    }
    /// Notes a wrong file or directory (exit 65), without a place in it.
    pub fn file(&mut self, code: &'static str, path: impl Into<String>, text: impl Into<String>) {
        self.file_at(code, path, 0, 0, text);
    }
    /// Notes a wrong place in a file (exit 65).
    pub fn file_at(
        &mut self,
        code: &'static str,
        path: impl Into<String>,
        line: u32,
        column: u32,
        text: impl Into<String>,
    ) {
        let place = Place::File { path: path.into(), line, column };
        self.0.push(Problem { code, place, text: text.into(), exits_as_file: true });
    }
    /// Takes over the problems of a child configuration.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
    /// Keeps the value, or notes the child's problems.
    pub fn take<T>(&mut self, result: Result<T, Self>) -> Option<T> {
        result.map_err(|p| self.extend(p)).ok()
    }
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The problems in the order they were found.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }
    /// 64 when a flag is wrong, 65 when only files or the machine are, 0 when nothing is.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.0.is_empty() {
            0
        } else if self.0.iter().any(|p| !p.exits_as_file) {
            EXIT_FLAGS
        } else {
            EXIT_FILES
        }
    }
    /// The value, unless something is wrong.
    ///
    /// # Errors
    /// `self` when there is a problem.
    pub fn finish<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{p}")?;
        }
        Ok(())
    }
}
impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `exit_code` returning 65 as soon as one problem is a file's.
    #[test]
    fn all_problems_are_listed_and_flags_win() {
        let mut p = Problems::new();
        assert_eq!(p.exit_code(), 0);
        p.environment("MF0102", "--grpc-listen", "127.0.0.1:1 is in use");
        assert_eq!(p.exit_code(), 65);
        p.file_at("MF0201", "a.yaml", 3, 7, "unknown field\n'x'");
        assert_eq!(p.exit_code(), 65);
        p.flag("MF0101", "--fleet", "is needed");
        assert_eq!(p.exit_code(), 64);
        assert_eq!(
            p.to_string(),
            "--grpc-listen:0:0: error[MF0102]: 127.0.0.1:1 is in use\na.yaml:3:7: error[MF0201]: unknown field 'x'\n--fleet:0:0: error[MF0101]: is needed"
        );
    }
}
