//! Wing 2: a gateway at the far end. One link carries every local connection as a stream of a session, and the session
//! outlives the link's TCP connection.

pub mod claims;
pub mod pulse;
