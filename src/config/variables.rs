//! `${VAR}` and `${VAR:-default}` inside strings.

/// Text in parts: what was written, and what came from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expanded {
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Written(String),
    /// `value` may be a secret and is never shown.
    Variable {
        name: String,
        value: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum VariableError {
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
    #[error("`${{` is not closed by `}}`")]
    Unclosed,
    #[error("`${{{0}}}` is no name of a variable")]
    Name(String),
}

/// One text names no more missing variables than this.
const ERRORS_MAX: usize = 16;

/// Replaces the variables of `text`; `$${` stands for `${` itself. As in a shell, `:-` also serves for an empty
/// variable. Errors: every variable that
/// cannot be had, once.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, Vec<VariableError>> {
    let mut parts = Vec::new();
    let mut errors = Vec::new();
    let mut written = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, tail) = rest.split_at(at);
        written += before;
        if let Some(after) = tail.strip_prefix("$${") {
            written += "${";
            rest = after;
            continue;
        }
        let Some(inside) = tail.strip_prefix("${") else {
            written.push('$');
            rest = &tail[1..];
            continue;
        };
        let Some((inside, after)) = inside.split_once('}') else {
            errors.push(VariableError::Unclosed);
            return Err(errors);
        };
        rest = after;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            errors.push(VariableError::Name(name.chars().take(64).collect()));
            continue;
        }
        match (env(name), default) {
            (Some(value), Some(default)) if value.is_empty() => written += default,
            (Some(value), _) => {
                if !written.is_empty() {
                    parts.push(Part::Written(std::mem::take(&mut written)));
                }
                parts.push(Part::Variable { name: name.to_owned(), value });
            }
            (None, Some(default)) => written += default,
            (None, None) => {
                let unset = VariableError::Unset(name.to_owned());
                if errors.len() < ERRORS_MAX && !errors.contains(&unset) {
                    errors.push(unset);
                }
            }
        }
    }
    written += rest;
    if !written.is_empty() || parts.is_empty() {
        parts.push(Part::Written(written));
    }
    if errors.is_empty() { Ok(Expanded { parts }) } else { Err(errors) }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Makes text survive [`expand`] unchanged.
pub(super) fn protect(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    fn expanded(text: &str) -> Result<String, Vec<VariableError>> {
        expand(text, &env).map(|expanded| {
            let value = |part| match part {
                Part::Written(text) | Part::Variable { value: text, .. } => text,
            };
            expanded.parts.into_iter().map(value).collect()
        })
    }

    #[test]
    fn variables_and_defaults_are_filled_in() {
        assert_eq!(expanded("${HOST}:80").as_deref(), Ok("db:80"));
        assert_eq!(expanded("a${NONE:-b}c${EMPTY:-d}e${EMPTY}").as_deref(), Ok("abcde"));
        assert_eq!(expanded("").as_deref(), Ok(""));
    }

    #[test]
    fn what_a_variable_holds_is_not_read_again() {
        assert_eq!(expanded("${TRICK}").as_deref(), Ok("${HOST}"));
    }

    #[test]
    fn two_dollars_keep_a_variable_from_being_one() {
        assert_eq!(expanded("$${HOST} $5 $$ $").as_deref(), Ok("${HOST} $5 $$ $"));
    }

    #[test]
    fn every_variable_that_is_missing_is_told() {
        let unset = |name: &str| VariableError::Unset(name.to_owned());
        assert_eq!(expanded("${A}${HOST}${B}"), Err(vec![unset("A"), unset("B")]));
        assert_eq!(expanded("${HOST"), Err(vec![VariableError::Unclosed]));
        assert_eq!(expanded("${1a}"), Err(vec![VariableError::Name("1a".to_owned())]));
    }

    proptest! {
        #[test]
        fn protected_text_is_itself(text in "[a${}:-]{0,20}") {
            let protected = protect(&text);
            prop_assert_eq!(expanded(&protected), Ok(text));
        }
    }
}
