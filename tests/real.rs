//! everlink between real clients and real servers: Redis, PostgreSQL, memcached and Prometheus. Each test starts its own
//! server in a directory of its own. A program that is missing fails the test and names its package.

mod common;

mod real {
    mod memcached;
    mod postgres;
    mod prometheus;
    mod redis;
}
