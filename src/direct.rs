//! Direct mode: any TCP server at the far end. Connections are dialled ahead of time, proven by heartbeats on that very
//! connection, and handed to arriving clients whole and untouched.

#![forbid(unsafe_code)]

pub mod age;
pub mod beat;
pub mod carry;
pub mod carry_lines;
pub mod client;
pub mod endpoints;
pub mod in_use;
pub mod keeper;
pub mod line;
pub mod link;
pub mod pool;
