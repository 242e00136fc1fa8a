//! Globs: `*` for any run of characters, `?` for exactly one, everything else for itself.

use std::fmt;

/// A compiled glob that is matched against a whole string, case-sensitively.
///
/// Matching costs at most pattern length times text length, whatever the pattern: no input makes
/// it exponential.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob {
    source: String,
    tokens: Vec<Token>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Token {
    Run,
    One,
    Literal(char),
}

impl Glob {
    /// Compiles a pattern. Every string is a valid one.
    pub fn new(pattern: impl Into<String>) -> Self {
        let source = pattern.into();
        let mut tokens = Vec::with_capacity(source.len());
        for c in source.chars() {
            let token = match c {
                '*' => Token::Run,
                '?' => Token::One,
                literal => Token::Literal(literal),
            };
            // `**` means no more than `*`, and costs more.
            if token != Token::Run || tokens.last() != Some(&Token::Run) {
                tokens.push(token);
            }
        }
        Self { source, tokens }
    }

    /// Whether the pattern describes the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        let mut rest = text.chars();
        let mut at = 0;
        // Where to go on when a character does not fit: behind the last `*`, one character later.
        let mut fallback: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            if self.tokens.get(at) == Some(&Token::Run) {
                at += 1;
                fallback = Some((at, rest.clone()));
                continue;
            }
            let Some(c) = rest.next() else {
                return at == self.tokens.len();
            };
            if self.tokens.get(at).is_some_and(|token| token.takes(c)) {
                at += 1;
                continue;
            }
            let Some((behind_run, from)) = &mut fallback else { return false };
            if from.next().is_none() {
                return false;
            }
            at = *behind_run;
            rest = from.clone();
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl Token {
    fn takes(self, c: char) -> bool {
        match self {
            Self::Run => false,
            Self::One => true,
            Self::Literal(literal) => literal == c,
        }
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.source)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a glob means, written as plainly as it can be.
    fn meaning(pattern: &[char], text: &[char]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some('*'), _) => {
                meaning(&pattern[1..], text) || (!text.is_empty() && meaning(pattern, &text[1..]))
            }
            (Some('?'), Some(_)) => meaning(&pattern[1..], &text[1..]),
            (Some(p), Some(t)) if p == t => meaning(&pattern[1..], &text[1..]),
            _ => false,
        }
    }

    #[test]
    fn a_glob_describes_the_whole_text() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "ba", false),
            ("a", "A", false),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("*a*b*", "xxaybzz", true),
            ("??", "é!", true),
            ("?", "", false),
            ("m.call.*", "m.call.member", true),
            ("m.call.*", "m_call_member", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_the_product_of_the_lengths() {
        let glob = Glob::new("*a".repeat(2_000));
        let text = "a".repeat(1_999) + "b";
        assert!(!glob.matches(&text));
    }

    proptest! {
        #[test]
        fn the_fast_way_agrees_with_the_plain_meaning(
            pattern in "[ab*?]{0,8}",
            text in "[ab]{0,10}",
        ) {
            let p: Vec<char> = pattern.chars().collect();
            let t: Vec<char> = text.chars().collect();
            prop_assert_eq!(Glob::new(pattern).matches(&text), meaning(&p, &t));
        }
    }
}
