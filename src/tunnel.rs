//! Tunnel mode: a gateway at the far end. One link carries every connection, and they survive the loss of it.

#![forbid(unsafe_code)]

mod attempt;
pub mod claims;
pub mod client;
mod drains;
pub mod driver;
pub mod forward;
pub mod hub;
pub mod keeper;
pub mod link;
pub mod pulse;
pub mod slot;
pub mod token;

#[cfg(test)]
mod tests;
