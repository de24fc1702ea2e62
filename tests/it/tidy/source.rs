//! A Rust file split into code and comments, line by line.
//!
//! Enough of a lexer for the rules: strings and characters are blanked out of the code, comments are kept
//! apart, so that a rule never trips over a word in a string or a doc example.

/// One Rust file.
pub(super) struct Source {
    /// Relative to the root of the repository, with forward slashes.
    pub(super) path: String,
    pub(super) text: String,
    /// Each line without its comments, with the contents of strings and characters blanked.
    pub(super) code: Vec<String>,
    /// What each line says in comments.
    pub(super) comments: Vec<String>,
    /// The line at which the file's unit tests start, or the number of lines.
    pub(super) tests_from: usize,
    /// Whether the module that declares this file does so for tests alone (see [`mark_tests`]).
    pub(super) declared_for_tests: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    Line,
    Block(u32),
    /// The number of hashes of a raw string, or none for one with escapes.
    Text(Option<usize>),
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = split(text);
        let tests_from = code
            .windows(2)
            .position(|pair| {
                for_tests(&pair[0])
                    && pair[1].trim().starts_with("mod ")
                    && pair[1].trim().ends_with('{')
            })
            .unwrap_or(code.len());
        let (path, text) = (path.to_owned(), text.to_owned());
        Self { path, text, code, comments, tests_from, declared_for_tests: false }
    }

    /// Whether the whole file is tests: of the library's units, or a target of its own.
    pub(super) fn is_test(&self) -> bool {
        !self.path.starts_with("src/")
            || self.declared_for_tests
            || self.path.rsplit('/').any(|part| {
                let part = part.trim_end_matches(".rs");
                part == "tests" || part.ends_with("_tests") || part.starts_with("test_")
            })
    }

    /// The code outside of unit tests, with the number of each line.
    pub(super) fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = if self.is_test() { 0 } else { self.tests_from };
        self.code[..end].iter().enumerate().map(|(index, line)| (index + 1, line.as_str()))
    }

    /// Whether a comment that holds `word` stands on the line or on one of the six above it.
    pub(super) fn explained(&self, line: usize, word: &str) -> bool {
        (line.saturating_sub(7)..line).any(|index| self.comments[index].contains(word))
    }

    /// Every path that the code names, imports with braces spread out, with its line.
    pub(super) fn paths(&self) -> Vec<(usize, String)> {
        let code = self.code.join("\n");
        let mut reader = Reader { rest: code.chars().peekable(), line: 1, found: Vec::new() };
        reader.items("");
        reader.found
    }
}

fn for_tests(attribute: &str) -> bool {
    ["#[cfg(test)]", "#[cfg(all(test"].iter().any(|start| attribute.trim().starts_with(start))
}

/// Marks the files of modules that are declared for tests alone, and those below them.
pub(super) fn mark_tests(sources: &mut [Source]) {
    let mut modules = Vec::new();
    for source in sources.iter() {
        let folder = source.path.trim_end_matches(".rs").trim_end_matches("/lib");
        for pair in source.code.windows(2).filter(|pair| for_tests(&pair[0])) {
            if let Some(name) =
                pair[1].trim().strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
            {
                modules.push(format!("{folder}/{name}"));
            }
        }
    }
    for source in sources {
        source.declared_for_tests = modules.iter().any(|module| {
            let below = source.path.strip_prefix(module.as_str());
            below.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
    }
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    found: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    /// Reads paths until the brace that opened them closes, or the end.
    fn items(&mut self, prefix: &str) {
        while let Some(&next) = self.rest.peek() {
            if next.is_alphanumeric() || next == '_' {
                self.path(prefix);
            } else {
                self.next();
                match next {
                    '}' if !prefix.is_empty() => return,
                    '{' if !prefix.is_empty() => self.items(prefix),
                    _ => {}
                }
            }
        }
    }

    fn path(&mut self, prefix: &str) {
        let line = self.line;
        let mut path = prefix.to_owned();
        loop {
            while let Some(&next) = self.rest.peek() {
                if !(next.is_alphanumeric() || next == '_') {
                    break;
                }
                path.push(next);
                self.next();
            }
            let mut ahead = self.rest.clone();
            if ahead.next() != Some(':') || ahead.next() != Some(':') {
                break;
            }
            self.next();
            self.next();
            match self.rest.peek() {
                Some('{') => {
                    self.next();
                    path.push_str("::");
                    return self.items(&path);
                }
                Some('*') => {
                    path.push_str("::*");
                    break;
                }
                Some(&next) if next.is_alphanumeric() || next == '_' => path.push_str("::"),
                _ => break,
            }
        }
        self.found.push((line, path));
    }
}

fn split(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut code, mut comments) = (Vec::new(), Vec::new());
    let mut state = State::Code;
    for line in text.lines() {
        let characters: Vec<char> = line.chars().collect();
        let (mut kept, mut said) = (String::new(), String::new());
        let mut at = 0;
        if state == State::Line {
            state = State::Code;
        }
        while at < characters.len() {
            let rest = &characters[at..];
            match state {
                State::Code => at += read_code(&characters, at, &mut state, &mut kept),
                State::Line => {
                    said.push(rest[0]);
                    at += 1;
                }
                State::Block(depth) if rest.starts_with(&['*', '/']) => {
                    state = if depth == 1 { State::Code } else { State::Block(depth - 1) };
                    at += 2;
                }
                State::Block(depth) => {
                    let opens = rest.starts_with(&['/', '*']);
                    state = State::Block(depth + u32::from(opens));
                    said.push(rest[0]);
                    at += 1 + usize::from(opens);
                }
                State::Text(None) if rest[0] == '\\' => at += 2,
                State::Text(hashes) => {
                    let closing = hashes.unwrap_or(0);
                    let closes = rest[0] == '"'
                        && rest.len() > closing
                        && rest[1..=closing].iter().all(|&next| next == '#');
                    if closes {
                        state = State::Code;
                        kept.push('"');
                        at += closing;
                    }
                    at += 1;
                }
            }
        }
        code.push(kept);
        comments.push(said);
    }
    (code, comments)
}

/// Reads one step of code and returns how many characters it took.
fn read_code(line: &[char], at: usize, state: &mut State, kept: &mut String) -> usize {
    let rest = &line[at..];
    let in_word = at > 0 && (line[at - 1].is_alphanumeric() || line[at - 1] == '_');
    if rest.starts_with(&['/', '/']) {
        *state = State::Line;
        return 2;
    }
    if rest.starts_with(&['/', '*']) {
        *state = State::Block(1);
        return 2;
    }
    if rest[0] == '"' {
        *state = State::Text(None);
        kept.push('"');
        return 1;
    }
    let prefix = rest.iter().take_while(|next| matches!(next, 'b' | 'c' | 'r')).count();
    if !in_word && prefix > 0 && rest[prefix - 1] == 'r' {
        let hashes = rest[prefix..].iter().take_while(|&&next| next == '#').count();
        if rest.get(prefix + hashes) == Some(&'"') {
            *state = State::Text(Some(hashes));
            kept.push('"');
            return prefix + hashes + 1;
        }
    }
    if rest[0] == '\'' {
        // A character ends with a quote; a lifetime does not.
        let length = match rest {
            [_, '\\', ..] => rest.iter().skip(3).position(|&next| next == '\'').map(|end| end + 4),
            [_, _, '\'', ..] => Some(3),
            _ => None,
        };
        if let Some(length) = length {
            kept.push_str("' '");
            return length;
        }
    }
    kept.push(rest[0]);
    1
}
