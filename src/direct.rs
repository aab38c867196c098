//! Direct mode: any TCP server at the far end.

pub mod line;
