//! What is wrong with a configuration: every problem with its place, and the lines around it with secrets masked.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::files::Files;
use super::mask::mask;

/// A byte range in the file.
pub type Span = Range<usize>;

/// One problem, or one warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong; never quotes a value.
    pub message: String,
    #[serde(skip)]
    span: Span,
}

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Debug)]
pub struct Problems {
    /// The file, as it was named.
    pub file: String,
    /// Never empty.
    pub list: Vec<Problem>,
    /// Whether the file could not even be read.
    pub unreadable: bool,
    /// What was read before it was refused, and what could not be.
    pub files: Files,
    masked: String,
}

/// What is not wrong, but should be known; same form as [`Problems`], possibly empty.
#[derive(Debug)]
pub struct Warnings(Problems);

impl Warnings {
    /// Each as `file:line:column: message`, for a log.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let Problems { file, list, .. } = &self.0;
        list.iter()
            .map(move |Problem { line, column, message, .. }| format!("{file}:{line}:{column}: {message}"))
    }
}

impl Problems {
    pub(super) fn new(file: &str, text: &str, found: Vec<(Span, String)>) -> Self {
        let masked = mask(text);
        let mut list: Vec<_> =
            found.into_iter().map(|(span, message)| place(&masked, span, message)).collect();
        list.sort_by_key(|problem| problem.span.start);
        list.dedup();
        Self { file: file.to_owned(), list, unreadable: false, files: Files::new(), masked }
    }

    pub(super) fn cannot_read(file: &str, cause: &std::io::Error) -> Self {
        let hint = match cause.kind() {
            std::io::ErrorKind::NotFound => "; `-c FILE` or PORTCULLIS_CONFIG names another one",
            _ => "",
        };
        let message = format!("cannot be read: {cause}{hint}");
        let list = vec![Problem { line: 1, column: 1, message, span: 0..0 }];
        Self { file: file.to_owned(), list, unreadable: true, files: Files::new(), masked: String::new() }
    }

    /// With the files that were read for it.
    pub(super) fn after_reading(self, files: Files) -> Self {
        Self { files, ..self }
    }

    fn write(&self, level: &Level<'static>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let renderer = Renderer::plain();
        for Problem { line, column, message, span } in &self.list {
            writeln!(f, "{}:{line}:{column}: {message}", self.file)?;
            if !self.masked.is_empty() {
                let mark = AnnotationKind::Primary.span(span.clone());
                let excerpt = Snippet::source(self.masked.as_str()).annotation(mark);
                writeln!(f, "{}", renderer.render(&[Group::with_level(level.clone()).element(excerpt)]))?;
            }
        }
        Ok(())
    }
}

impl Warnings {
    pub(super) fn new(file: &str, text: &str, found: Vec<(Span, String)>) -> Self {
        Self(Problems::new(file, text, found))
    }

    /// Each with its place.
    pub fn list(&self) -> &[Problem] {
        &self.0.list
    }
}

/// `file:line:column: message`, then the excerpt; one after the other.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(&Level::ERROR, f)
    }
}

/// As [`Problems`].
impl fmt::Display for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(&Level::WARNING, f)
    }
}

impl std::error::Error for Problems {}

/// Finds line and column. A table's place is its heading alone, so that an excerpt shows one line.
fn place(text: &str, span: Span, message: String) -> Problem {
    let start = (0..=span.start.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let end = (span.end.clamp(start, text.len())..=text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(start);
    let before = text.get(..start).unwrap_or_default();
    let marked = text.get(start..end).unwrap_or_default();
    let end = start + marked.find('\n').unwrap_or(marked.len());
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Problem { line, column, message, span: start..end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_counts_characters() {
        let text = "a = 1\nä = [\n  ü, x]";
        let at = text.find('x').expect("x");
        let problem = place(text, at..at + 1, "no".into());
        assert_eq!((problem.line, problem.column), (3, 6));
    }

    #[test]
    fn a_place_outside_the_text_is_no_panic() {
        let backwards = Span { start: 7, end: 3 };
        let problems = Problems::new("f", "ä", vec![(1..9, "no".into()), (backwards, "neither".into())]);
        assert!(problems.to_string().starts_with("f:1:1: no\n"));
    }
}
