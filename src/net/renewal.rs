//! What has become of files that were read again while the program runs.

#![forbid(unsafe_code)]

/// Files that can be used, beside what was in use before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The same, as they were when last looked at.
    Same,
    /// The same as before, after they had held what cannot be used.
    PutBack,
    /// Others; they are in use from now on.
    Others,
}

/// Files of one kind that looked different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reread {
    /// `TLS files`.
    pub what: &'static str,
    pub news: News,
}

/// What is to be told of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// They are used from the next dial or handshake on.
    Used,
    /// What was in use all the time is what they hold again.
    PutBack,
    /// Why they cannot be used, and the old ones stay.
    Unusable(String),
}

impl Reread {
    /// `None`: there is nothing to tell.
    pub fn of(what: &'static str, renewed: Result<Renewed, String>) -> Option<Self> {
        let news = match renewed {
            Ok(Renewed::Same) => return None,
            Ok(Renewed::PutBack) => News::PutBack,
            Ok(Renewed::Others) => News::Used,
            Err(fault) => News::Unusable(fault),
        };
        Some(Self { what, news })
    }

    /// Whether connections made from now on differ from those before.
    pub fn is_used(&self) -> bool {
        self.news == News::Used
    }
}
