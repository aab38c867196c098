//! Where a key may stand.

use super::{Key, keys};

/// Where a key is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Top,
    Upstream,
    Defaults,
    /// One of an upstream's `[[forwards]]`.
    Forward,
    /// One of `[gateway.services]`.
    Service,
}

impl Scope {
    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        keys().iter().filter(move |key| match self {
            Self::Defaults => key.has_defaults(),
            scope => key.scope() == scope,
        })
    }

    /// The key with this name below the scope's table.
    pub fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name() == name)
    }

    pub fn is_table(self, name: &str) -> bool {
        self.keys().any(|key| key.name().strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Names that may stand directly in this table, tables included. `table` is empty or ends in a dot.
    pub fn names_in(self, table: &str) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .keys()
            .filter_map(|key| key.name().strip_prefix(table))
            .filter_map(|rest| rest.split('.').next())
            .collect();
        match (self, table) {
            (Self::Top, "") => names.extend(["defaults", "upstreams"]),
            (Self::Top, "gateway.") => names.push("services"),
            (Self::Upstream, "") => names.push("forwards"),
            _ => {}
        }
        names.dedup();
        names
    }
}
