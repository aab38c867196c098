//! What outlives a connection, as plain bytes and numbers: no socket, no clock, no task.

pub mod hello;
