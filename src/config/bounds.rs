//! How many of each a file may have: what the checks hold it to, and what the schema says.

/// Every upstream has its series and its tasks; this many are known to work.
pub const UPSTREAMS_MAX: usize = 1024;
/// Of one upstream.
pub const ENDPOINTS_MAX: usize = 16;
/// Of one upstream, one forward, or the gateway.
pub const LISTENERS_MAX: usize = 16;
/// Of one upstream: plenty of doors for one link, and a bound on what a file can ask to be bound.
pub const FORWARDS_MAX: usize = 256;
/// Of the gateway.
pub const SERVICES_MAX: usize = 1024;
