//! Direct mode: any TCP server at the far end. Connections are dialled ahead of time, proven by heartbeats on that very
//! connection, and handed to arriving clients whole and untouched.

pub mod age;
pub mod beat;
pub mod endpoints;
