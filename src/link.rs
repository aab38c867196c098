//! What a link stands on: finding an endpoint's addresses and opening a connection to one of them.

mod attempts;
pub mod dial;
pub mod race;
pub mod resolve;
