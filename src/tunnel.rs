//! Tunnel mode: a gateway at the far end. One link carries every connection, and they survive the loss of it.

pub mod driver;
