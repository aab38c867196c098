//! everlink between real clients and real servers: Redis, PostgreSQL, memcached, nginx, Exim, OpenSSH and Prometheus. Each test starts its own
//! server in a directory of its own. Tunnels run between network namespaces, which wants root. A program that is missing
//! fails the test and names its package.

mod common;
#[path = "faults/mod.rs"]
#[allow(dead_code)]
mod faults;
#[path = "common/tls.rs"]
#[allow(dead_code, unused_imports)]
mod tls;
#[path = "tunnel/traffic.rs"]
#[allow(dead_code)]
mod traffic;

mod real {
    mod chat;
    mod long_way;
    mod memcached;
    mod names;
    mod nginx;
    mod outages;
    mod postgres;
    mod prometheus;
    mod redis;
    mod smtp;
    mod ssh;
    mod tunnel;
    mod ways;
}
