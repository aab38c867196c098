//! everlink keeps upstream TCP links alive. See the README for what it does and how to run it.
//!
//! # Where to look
//!
//! A client arrives at a [`listener`] and is brought to its [`upstream`], which is one of two modes: [`direct`], where a
//! connection that was dialled ahead of time and proven is handed to it whole, or [`tunnel`], where it becomes a stream of a
//! [`session`] that outlives the connections it runs over. The far end of a tunnel is the [`gateway`], the same program.
//! What both modes do alike to keep a link alive (dial, beat, wait, dial again) is in [`link`].
//!
//! What decides is pure: it takes `now` and what happened, and tells what to do. [`link::state`] and [`link::heartbeat`] are
//! the life of a link, [`direct::line`] finds beats between a client's lines, [`tunnel::claims`] tells when to dial and
//! which connection holds a session, [`session::core`] is the protocol. Tasks around them move the bytes:
//! [`direct::link`] and [`direct::carry`], [`tunnel::driver`] (of both ends), [`gateway`]'s sessions.
//!
//! The modules below stand from the program down to what everything is built on. In each folder the file of the folder's
//! name says what is in it. Only tests have `whole`, all of tunnel mode in one simulation, and `seeds` and `port`.

// The program: its commands, and a run from start to end.
pub mod app;
pub mod check;
pub mod cli;
pub mod running;
#[cfg(test)]
mod whole;

// What is carried, and by whom.
pub mod direct;
pub mod gateway;
pub mod listener;
pub mod tunnel;
pub mod upstream;

// What others are shown and told, and what they may ask for.
pub mod admin;
pub mod demo;
pub mod http;
pub mod systemd;

// What everything above is built on.
pub mod clock;
pub mod config;
pub mod lifecycle;
pub mod link;
pub mod log;
pub mod metrics;
pub mod net;
#[cfg(test)]
mod port;
#[cfg(test)]
mod seeds;
pub mod session;
pub mod status;
pub mod surroundings;
pub mod workers;
